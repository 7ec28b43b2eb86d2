"""Fields that only OpenAI's text completions have: `echo`, `suffix`, `best_of`, `logprobs` in all combinations."""

from typing import Any

import pytest
from conftest import Router, StartRouter
from tiny_models import make_llama

from fastrouter.api.flavours.openai import best_choices
from fastrouter.api.requests.text_completions import read_text
from fastrouter.api.serving.flavour import Choice
from fastrouter.errors import InvalidRequest
from fastrouter.ipc.records import Finish

FIM = ("pre", "suf", "mid")


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("models")
    make_llama(folder / "tiny.gguf")
    make_llama(folder / "fim.gguf", fim=FIM)
    return module_router(models_dir=folder)


def complete(server: Router, **fields: Any) -> Any:
    answer = server.post("/v1/completions", {"model": "tiny", "prompt": "the cat", "max_tokens": 6, "temperature": 0, **fields})
    assert answer.status == 200, answer.body
    return answer.json["choices"]


def streamed(server: Router, **fields: Any) -> dict[int, str]:
    texts: dict[int, str] = {}
    body = {"model": "tiny", "prompt": "the cat", "max_tokens": 6, "temperature": 0, "stream": True, **fields}
    with server.stream("/v1/completions", body) as chunks:
        for choice in (choice for chunk in chunks for choice in chunk["choices"]):
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


def test_echo(server: Router) -> None:
    [plain] = complete(server)
    [echoed] = complete(server, echo=True)
    assert echoed["text"] == "the cat" + plain["text"]
    assert streamed(server, echo=True) == {0: echoed["text"]}
    prompts = ["the cat", "a dog"]
    both = complete(server, echo=True, prompt=prompts, n=2, temperature=1)
    assert [choice["text"].startswith(prompts[index // 2]) for index, choice in enumerate(both)] == [True] * 4
    assert [text.startswith(prompts[index // 2]) for index, text in sorted(streamed(server, echo=True, prompt=prompts, n=2).items())] == [
        True
    ] * 4


TEXT = "the cat is in the red house, and a dog sings" * 2  # more tokens than are read in one step


def ids_of(server: Router, text: str) -> list[int]:
    found: list[int] = server.post("/tokenize", {"model": "tiny", "content": text, "add_special": True}).json["tokens"]
    return found


def test_echo_with_probabilities(server: Router) -> None:
    """Each is the one that the model gives the token when it is asked after the tokens before it."""
    ids = ids_of(server, TEXT)
    assert len(ids) > 40
    [plain] = complete(server, prompt=TEXT, logprobs=2)
    [echoed] = complete(server, prompt=TEXT, logprobs=2, echo=True)
    assert echoed["text"] == TEXT + plain["text"]
    found = echoed["logprobs"]
    num_hidden = len(ids) + len(plain["logprobs"]["tokens"]) - len(found["tokens"])
    assert num_hidden in (0, 1), "a BOS is not a part of the text"
    assert "".join(found["tokens"]).strip() == echoed["text"]
    shown = found["token_logprobs"][: len(ids) - num_hidden]
    for place in (1, 2, 7, 31, 32, 33, 34, len(ids) - 1):
        [step] = complete(server, prompt=ids[:place], max_tokens=1, logprobs=500)
        known = {rival["id"]: rival["logprob"] for rival in step["logprobs"]["content"][0]["top_logprobs"]}
        assert shown[place - num_hidden] == pytest.approx(known[ids[place]], abs=1e-3), place
        best = found["content"][place - num_hidden]["top_logprobs"]
        assert [rival["id"] for rival in best] == sorted(known, key=lambda token: -known[token])[:2]
    assert found["token_logprobs"][len(shown) :] == pytest.approx(plain["logprobs"]["token_logprobs"], abs=1e-3)
    assert found["text_offset"][1] == len(found["tokens"][0])


def test_only_the_prompt(server: Router) -> None:
    """As programs that score texts ask."""
    ids = ids_of(server, "the cat is")
    [scored] = complete(server, prompt=ids, max_tokens=0, logprobs=1, echo=True)
    assert (scored["finish_reason"], len(scored["logprobs"]["tokens"])) == ("length", len(ids))
    assert scored["logprobs"]["token_logprobs"][0] is None
    assert all(value < 0 for value in scored["logprobs"]["token_logprobs"][1:])
    assert scored["text"].strip() == "the cat is"
    [again] = complete(server, prompt=ids, max_tokens=0, logprobs=1, echo=True)
    assert again == scored, "what a slot already holds changes nothing"


@pytest.mark.parametrize("fields", [{}, {"logprobs": 1}])
def test_an_echo_of_several_choices_and_streams(server: Router, fields: dict[str, Any]) -> None:
    prompts = [ids_of(server, "the cat"), ids_of(server, "a dog sings")]
    both = complete(server, prompt=prompts, n=2, echo=True, temperature=1, seed=3, **fields)
    assert [choice["text"].strip().startswith(("the cat", "a dog sings")[index // 2]) for index, choice in enumerate(both)] == [True] * 4
    texts = streamed(server, prompt=prompts, n=2, echo=True, temperature=1, seed=3, **fields)
    assert texts == {index: choice["text"] for index, choice in enumerate(both)}


def test_suffix(server: Router) -> None:
    asked = {"model": "fim", "max_tokens": 6, "temperature": 0}
    infilled = server.post("/infill", {**asked, "input_prefix": "the cat is ", "input_suffix": " red", "prompt": ""}).json["content"]
    assert complete(server, model="fim", prompt="the cat is ", suffix=" red")[0]["text"] == infilled
    assert complete(server, suffix="") == complete(server)
    refused = server.post("/v1/completions", {"model": "tiny", "prompt": "a", "suffix": "b"})
    assert refused.status == 400
    assert "Infill is not supported by this model" in refused.error["message"]


def test_best_of(server: Router) -> None:
    made = complete(server, n=4, temperature=1.5, seed=5, logprobs=0)
    means = [sum(choice["logprobs"]["token_logprobs"]) / len(choice["logprobs"]["token_logprobs"]) for choice in made]
    best = complete(server, n=2, best_of=4, temperature=1.5, seed=5)
    order = sorted(range(4), key=lambda index: means[index], reverse=True)
    assert [choice["text"] for choice in best] == [made[index]["text"] for index in order[:2]]
    assert [(choice["index"], choice["logprobs"]) for choice in best] == [(0, None), (1, None)]
    assert complete(server, best_of=1) == complete(server)


def test_logprobs(server: Router) -> None:
    for count in (0, 1, 3):
        [choice] = complete(server, logprobs=count)
        found = choice["logprobs"]
        assert "".join(found["tokens"]) == choice["text"]
        assert len(found["token_logprobs"]) == len(found["top_logprobs"]) == 6
        assert {len(best) for best in found["top_logprobs"]} == {count}
        assert found["text_offset"][0] == 0
    assert complete(server, logprobs=None)[0]["logprobs"] is None
    several = complete(server, logprobs=1, n=2, prompt=["the cat", "a dog"], temperature=1)
    assert all("".join(choice["logprobs"]["tokens"]) == choice["text"] for choice in several)


def test_fields_that_change_nothing_here(server: Router) -> None:
    more = {"user": "me", "metadata": {"a": "b"}, "service_tier": "flex", "store": True, "prediction": {"type": "content", "content": "x"}}
    assert complete(server, **more) == complete(server)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"echo": "yes"}, "'echo' must be true or false"),
        ({"echo": True, "logprobs": 1, "suffix": "y"}, "'echo' cannot be used together with 'logprobs' and 'suffix'"),
        ({"echo": True, "logprobs": 1, "post_sampling_probs": True}, "'echo' cannot be used together with 'logprobs' and 'post"),
        ({"suffix": 5}, "'suffix' must be a string"),
        ({"best_of": 1, "n": 2}, "'best_of' must be at least 'n', which is 2"),
        ({"best_of": 2, "stream": True}, "'best_of' cannot be greater than 'n' in a stream"),
        ({"best_of": 1000}, "'best_of' must be between"),
        ({"logprobs": "many"}, "'logprobs'"),
    ],
)
def test_errors_name_the_field(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidRequest, match=expected):
        read_text({"prompt": "x", **fields})


def test_the_best_choices_of_each_prompt() -> None:
    def choice(index: int, *logprobs: float) -> Choice:
        return Choice(index, Finish(), {}, probabilities=[{"token": "", "logprob": logprob} for logprob in logprobs])

    made = [choice(0, -5.0), choice(1, -1.0, -2.0), choice(2, -3.0), choice(3), choice(4, -1.0), choice(5, -0.5)]
    assert [kept.index for kept in best_choices(made, 3, 2)] == [1, 2, 5, 4]
