"""Probabilities of tokens in every shape: those of a real router with a tiny model, whole and streamed, must be consistent."""

import math
from typing import Any

import pytest
from conftest import Router, StartRouter
from tiny_models import make_llama

from fastrouter.worker.sampling.probabilities import Probabilities
from fastrouter.worker.text.detokenizer import PieceTable

CHAT = "/v1/chat/completions"
PROMPT = "the cat and the dog"


@pytest.fixture(scope="module")
def server(module_router: StartRouter, models: Any) -> Router:
    return module_router(models_dir=models)


def completion(**more: Any) -> dict[str, Any]:
    return {"model": "tiny0", "prompt": PROMPT, "n_predict": 12, "temperature": 0, **more}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "tiny0", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 12, "temperature": 0, **more}


def streamed_events(server: Router, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with server.stream(path, body) as stream:
        return [event for event in stream if isinstance(event, dict)]


def check(entries: list[dict[str, Any]], text: str, num_rivals: int, name: str = "logprob") -> None:
    rivals = "top_logprobs" if name == "logprob" else "top_probs"
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode("utf-8", "replace") == text
    for entry in entries:
        assert entry["token"] == bytes(entry["bytes"]).decode("utf-8", "ignore")
        assert len(entry[rivals]) <= num_rivals
        values = [rival[name] for rival in entry[rivals]]
        assert values == sorted(values, reverse=True)
        odds = [math.exp(value) if name == "logprob" else value for value in values]
        assert sum(odds) <= 1 + 1e-5
        assert {"id", "token", "bytes", name} == entry[rivals][0].keys() if num_rivals else not values


def test_completion(server: Router) -> None:
    plain = server.post("/completion", completion()).json
    assert "completion_probabilities" not in plain
    body = server.post("/completion", completion(n_probs=3)).json
    assert body["content"] == plain["content"]
    entries = body["completion_probabilities"]
    assert len(entries) == 12
    check(entries, body["content"], 3)
    for entry in entries:  # greedy: each token is the best one
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0] == {name: entry[name] for name in ("id", "token", "bytes", "logprob")}
    assert body["generation_settings"]["n_probs"] == 3


def test_completion_stream(server: Router) -> None:
    whole = server.post("/completion", completion(n_probs=3)).json
    events = streamed_events(server, "/completion", completion(n_probs=3, stream=True))
    entries = [entry for event in events for entry in event.get("completion_probabilities", ())]
    assert "".join(event["content"] for event in events) == whole["content"]
    check(entries, whole["content"], 3)
    assert [entry["id"] for entry in entries] == [entry["id"] for entry in whole["completion_probabilities"]]
    assert "completion_probabilities" not in events[-1]


def test_after_sampling(server: Router) -> None:
    chain = {"temperature": 1.0, "top_k": 3, "top_p": 1.0, "min_p": 0.0, "seed": 4}
    body = server.post("/completion", completion(n_probs=10, post_sampling_probs=True, **chain)).json
    check(body["completion_probabilities"], body["content"], 3, "prob")
    for entry in body["completion_probabilities"]:
        assert sum(rival["prob"] for rival in entry["top_probs"]) == pytest.approx(1, abs=1e-5)
        assert entry["prob"] in [rival["prob"] for rival in entry["top_probs"]]
    greedy = server.post("/completion", completion(n_probs=10, post_sampling_probs=True)).json
    assert {(entry["prob"], len(entry["top_probs"])) for entry in greedy["completion_probabilities"]} == {(1.0, 1)}


@pytest.mark.parametrize("count", [0, 2, None])
def test_chat(server: Router, count: int | None) -> None:
    body = server.post(CHAT, chat(logprobs=True, top_logprobs=count)).json
    [choice] = body["choices"]
    check(choice["logprobs"]["content"], choice["message"]["content"], 20 if count is None else count)
    events = streamed_events(server, CHAT, chat(logprobs=True, top_logprobs=count, stream=True))
    streamed = [entry for event in events for one in event["choices"] for entry in (one.get("logprobs") or {}).get("content", ())]
    assert [entry["id"] for entry in streamed] == [entry["id"] for entry in choice["logprobs"]["content"]]
    check(streamed, choice["message"]["content"], 20 if count is None else count)
    assert "logprobs" not in server.post(CHAT, chat()).json["choices"][0]


def test_choices_have_their_own(server: Router) -> None:
    body = server.post(CHAT, chat(logprobs=True, top_logprobs=1, n=3, temperature=1.5, seed=3)).json
    assert len({choice["message"]["content"] for choice in body["choices"]}) > 1
    for choice in body["choices"]:
        check(choice["logprobs"]["content"], choice["message"]["content"], 1)


def test_text_completion(server: Router) -> None:
    body = server.post("/v1/completions", completion(logprobs=2)).json
    [choice] = body["choices"]
    found = choice["logprobs"]
    check(found["content"], choice["text"], 2)
    assert "".join(found["tokens"]) == choice["text"]
    assert len(found["token_logprobs"]) == len(found["text_offset"]) == len(found["top_logprobs"]) == 12
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        assert choice["text"][offset:].startswith(token)
    events = streamed_events(server, "/v1/completions", completion(logprobs=2, stream=True))
    parts = [event["choices"][0]["logprobs"] for event in events if event["choices"][0]["logprobs"]]
    for name in ("tokens", "text_offset"):
        assert [value for part in parts for value in part[name]] == found[name]
    streamed = [value for part in parts for value in part["token_logprobs"]]
    assert streamed == pytest.approx(found["token_logprobs"], abs=1e-2)  # its prompt came from the cache: other sums, other rounding
    assert server.post("/v1/completions", completion()).json["choices"][0]["logprobs"] is None


def test_what_a_stop_string_cuts_off_is_left_out(server: Router) -> None:
    text = server.post("/completion", completion()).json["content"]
    for begin in range(1, len(text) - 3):
        stop = text[begin : begin + 3]
        body = server.post("/completion", completion(n_probs=1, stop=[stop])).json
        content = body["content"].encode()
        entries = body.get("completion_probabilities", [])
        said = b"".join(bytes(entry["bytes"]) for entry in entries)
        assert said.startswith(content)
        assert not entries if not content else len(said) - len(entries[-1]["bytes"]) < len(content)


def test_the_end_token_has_an_entry(server: Router) -> None:
    end = 2
    body = server.post("/completion", completion(n_probs=1, logit_bias=[[end, 1000]])).json
    assert body["stop_type"] == "eos"
    assert [(entry["id"], entry["token"]) for entry in body["completion_probabilities"]] == [(end, "")]


def test_bad_values(server: Router) -> None:
    for path, body in [
        ("/completion", completion(n_probs=-1)),
        (CHAT, chat(top_logprobs=2)),
        ("/v1/completions", completion(logprobs="x")),
    ]:
        answer = server.post(path, body)
        assert answer.status == 400
        assert "probs" in answer.json["error"]["message"]


def test_defaults_of_the_file_are_shown(router: StartRouter, tmp_path: Any) -> None:
    (tmp_path / "m").mkdir()
    make_llama(tmp_path / "m" / "keys.gguf", sampling={"top_k": 7, "temp": 0.25})
    server = router("--top-k", "9", "--samplers", "top_k;temperature", models_dir=tmp_path / "m")
    params = server.get("/props?model=keys").json["default_generation_settings"]["params"]  # it is not loaded yet
    assert (params["top_k"], params["temperature"], params["samplers"]) == (9, 0.25, ["top_k", "temperature"])
    settings = server.post("/completion", {"model": "keys", "prompt": "x", "n_predict": 1}).json["generation_settings"]
    assert (settings["top_k"], settings["temperature"], settings["samplers"]) == (9, 0.25, ["top_k", "temperature"])
    params = server.get("/props?model=keys").json["default_generation_settings"]["params"]
    assert (params["top_k"], params["temperature"], params["mirostat"]) == (9, 0.25, 0)


# ---------------------------------------------------------------- records


class Letters:
    n_tokens = 256

    def token_to_piece(self, token: int, special: bool = True) -> bytes:
        return bytes([token])


def test_entries_are_split_into_records_that_fit() -> None:
    probabilities = Probabilities(PieceTable(Letters()), is_after=False)
    for token in range(97, 107):
        probabilities.add(token, (0.5, [(rival, 0.001) for rival in range(200)]))
    lists = probabilities.take(10)
    assert [len(entries) for entries in lists] == [2] * 5
    assert not probabilities.is_pending
    assert probabilities.take(0) == [[]]


def test_no_chance_at_all_is_a_number() -> None:
    probabilities = Probabilities(PieceTable(Letters()), is_after=False)
    probabilities.add(65, (0.0, []))
    [[entry]] = probabilities.take(1)
    assert entry == {"id": 65, "token": "A", "bytes": [65], "logprob": -3.4028235e38, "top_logprobs": []}
