"""Pictures at places that the client chooses: in /completion, in embeddings; what a template and a count make of them. That the answers are
those of llama-server is shown in tests/rival."""

import base64
import os
import signal
from typing import Any

import pytest
from conftest import Answer, Router, StartRouter, eventually, text_of
from tiny_models import make_llama
from tiny_projectors import LLAVA_TOKENS, data_url, image_part, make_llava, picture, png

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
MARKER = "<__media__>"
ONE, OTHER = png(picture(1)), png(picture(2, 70, 50))
MANY = 2000


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("placing") / "models"
    for name in ("sees", "embeds"):
        (folder / name).mkdir(parents=True)
        make_llama(folder / name / f"{name}.gguf", seed=1, chat_template=TEMPLATE)
        make_llava(folder / name / f"mmproj-{name}.gguf")
    make_llama(folder / "blind.gguf", seed=1, chat_template=TEMPLATE)
    (folder.parent / "p.ini").write_text("[embeds/embeds]\nembeddings = on\npooling = mean\nubatch-size = 256\n")
    return module_router("--models-preset", str(folder.parent / "p.ini"), models_dir=folder)


def placed(text: str, *files: bytes) -> dict[str, Any]:
    return {"prompt_string": text, "multimodal_data": [base64.b64encode(file).decode() for file in files]}


def complete(server: Router, prompt: Any, model: str = "sees", **more: Any) -> Answer:
    return server.post("/completion", {"model": model, "prompt": prompt, "n_predict": 12, "temperature": 0, **more})


def said(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return str(answer.json["content"])


def test_a_prompt_with_pictures(server: Router) -> None:
    one = said(complete(server, placed(f"the {MARKER} is", ONE)))
    assert one != said(complete(server, placed(f"the {MARKER} is", OTHER)))
    assert one != said(complete(server, "the  is"))
    answer = complete(server, placed(f"the {MARKER} is", ONE)).json
    assert (answer["content"], answer["tokens_evaluated"] > LLAVA_TOKENS) == (one, True)
    text = server.post("/v1/completions", {"model": "sees", "prompt": placed(f"the {MARKER} is", ONE), "max_tokens": 12, "temperature": 0})
    assert text.json["choices"][0]["text"] == one


def test_several_prompts_each_have_their_own(server: Router) -> None:
    prompts = [placed(f"the {MARKER} is", ONE), "the cat", placed(f"a {MARKER}{MARKER} dog", OTHER, ONE), [1, 260, 270]]
    alone = [said(complete(server, prompt)) for prompt in prompts]
    together = complete(server, prompts)
    assert together.status == 200, together.body
    assert [each["content"] for each in together.json] == alone


def test_a_template_shows_markers_and_the_prompt_goes_back(server: Router) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "the"}, image_part(ONE), {"type": "text", "text": "is"}]}]
    prompt = server.post("/apply-template", {"model": "sees", "messages": messages}).json["prompt"]
    assert prompt.count(MARKER) == 1
    chat = server.post("/v1/chat/completions", {"model": "sees", "messages": messages, "max_tokens": 12, "temperature": 0})
    assert said(complete(server, placed(prompt, ONE))) == chat.json["choices"][0]["message"]["content"]
    assert server.get("/props?model=sees").json["media_marker"] == MARKER
    assert b"image input is not supported" in server.post("/apply-template", {"model": "blind", "messages": messages}).body


def test_counts_are_those_of_the_answer(server: Router) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(OTHER).decode()}
    openai = {"messages": [{"role": "user", "content": [image_part(ONE), {"type": "text", "text": "cat"}, image_part(OTHER)]}]}
    claude = {"messages": [{"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "the"}]}]}
    response = {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": data_url(ONE)}]}]}
    for count_path, path, body, length in (
        ("/v1/chat/completions/input_tokens", "/v1/chat/completions", openai, "max_tokens"),
        ("/v1/messages/count_tokens", "/v1/messages", claude, "max_tokens"),
        ("/v1/responses/input_tokens", "/v1/responses", response, "max_output_tokens"),
    ):
        count = server.post(count_path, {"model": "sees", **body})
        assert count.status == 200, count.body
        usage = server.post(path, {"model": "sees", **body, length: 1}).json["usage"]
        used = usage.get("prompt_tokens") or usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)
        assert count.json["input_tokens"] == used > LLAVA_TOKENS, path
        assert b"image input is not supported" in server.post(count_path, {"model": "blind", **body}).body


def test_a_note_is_counted_where_a_tool_shows_a_picture(server: Router) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(ONE).decode()}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": source}]}
    use = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {}}]}
    messages = [{"role": "user", "content": "x"}, use, {"role": "user", "content": [result]}]
    counts = [server.post("/v1/messages/count_tokens", {"model": model, "messages": messages}).json for model in ("sees", "blind")]
    assert counts[0]["input_tokens"] != counts[1]["input_tokens"]


@pytest.mark.parametrize(
    ("prompt", "field", "problem"),
    [
        (placed("the cat", ONE), "prompt.multimodal_data", "they are 1 and 0"),
        (placed(f"{MARKER} the {MARKER}", ONE), "prompt.multimodal_data", "they are 1 and 2"),
        (placed(f"{MARKER} the", ONE[:60]), "prompt.multimodal_data[0]", "broken or cut short"),
        (placed(f"{MARKER} the", b""), "prompt.multimodal_data[0]", "without content"),
        (["the", placed(f"{MARKER} the", b"junk")], "prompt[1].multimodal_data[0]", "not a picture"),
        ({"prompt_string": MARKER, "multimodal_data": ["%"]}, "prompt.multimodal_data[0]", "base64"),
        ({"prompt_string": MARKER, "multimodal_data": [1]}, "prompt.multimodal_data[0]", "a string"),
        ({"prompt_string": MARKER, "multimodal_data": "x"}, "prompt.multimodal_data", "a list"),
        ({"multimodal_data": ["x"]}, "prompt", "must be a string"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(server: Router, prompt: Any, field: str, problem: str) -> None:
    answer = complete(server, prompt)
    assert answer.status == 400
    assert f"'{field}'" in answer.error["message"]
    assert problem in answer.error["message"]


def test_where_pictures_cannot_be(server: Router) -> None:
    prompt = placed(f"{MARKER} the", ONE)
    assert b"image input is not supported" in complete(server, prompt, "blind").body
    for more in ({"echo": True}, {"suffix": "x"}):
        assert server.post("/v1/completions", {"model": "sees", "prompt": prompt, **more}).status == 400
    assert server.post("/infill", {"model": "sees", "input_prefix": "a", "input_suffix": "b", "prompt": prompt}).status == 400
    assert "ends with a picture" in complete(server, placed(f"the {MARKER}", ONE)).error["message"]


def test_a_prompt_with_a_picture_survives_its_worker(server: Router) -> None:
    body = {"model": "sees", "prompt": ["a", placed(f"the {MARKER} is", ONE)], "n_predict": MANY, "temperature": 0, "stream": True}
    with server.stream("/completion", body) as stream:
        expected = [text for event in stream if event["index"] == 1 and (text := event["content"])]
    with server.stream("/completion", body) as stream:
        events = iter(stream)
        found = [next(events) for _ in range(5)]
        os.kill(server.worker_of("sees/sees"), signal.SIGKILL)
        found += events
    assert "".join(event["content"] for event in found if event["index"] == 1) == "".join(expected)
    eventually(lambda: "SIGKILL" in server.log, "the death of its worker")


# ---------------------------------------------------------------- embeddings


def embed(server: Router, inputs: Any, path: str = "/v1/embeddings", model: str = "embeds", name: str = "input") -> Answer:
    return server.post(path, {"model": model, name: inputs})


def test_embeddings_of_pictures(server: Router) -> None:
    parts = [{"type": "text", "text": "the "}, image_part(ONE), {"type": "text", "text": " is"}]
    inputs = [{"content": parts}, placed(f"the {MARKER} is", ONE), "the  is", placed(f"the {MARKER} is", OTHER)]
    answer = embed(server, inputs)
    assert answer.status == 200, answer.body
    vectors = [each["embedding"] for each in answer.json["data"]]
    assert vectors[0] == vectors[1]
    assert len({tuple(vector) for vector in vectors}) == 3
    assert answer.json["usage"]["prompt_tokens"] > 3 * LLAVA_TOKENS
    assert [embed(server, each).json["data"][0]["embedding"] for each in inputs] == vectors
    own = embed(server, inputs, "/embedding", name="content").json
    assert [each["embedding"][0] for each in own] == vectors
    assert server.get("/v1/models/embeds").json["architecture"]["input_modalities"] == ["text", "image"]


@pytest.mark.parametrize(
    ("inputs", "field", "problem"),
    [
        (placed("the cat", ONE), "input.multimodal_data", "they are 1 and 0"),
        (["a", placed(MARKER, ONE[:60])], "input[1].multimodal_data[0]", "broken or cut short"),
        ([{"content": [{"type": "image_url", "image_url": {"url": "%"}}]}], "input[0].content[0].image_url", "base64"),
        ({"content": [{"type": "file"}]}, "input.content[0].type", "must be"),
        ({"content": ["x"]}, "input.content[0]", "must be an object"),
        ({"content": []}, "input", "must be a string"),
    ],
    ids=str,
)
def test_what_is_wrong_with_an_input_is_named(server: Router, inputs: Any, field: str, problem: str) -> None:
    answer = embed(server, inputs)
    assert answer.status == 400
    assert f"'{field}'" in answer.error["message"]
    assert problem in answer.error["message"]
    assert embed(server, "the cat").status == 200


def test_text_of_a_stream(server: Router) -> None:
    prompt = placed(f"we {MARKER} see", ONE)
    with server.stream("/completion", {"model": "sees", "prompt": prompt, "n_predict": 12, "temperature": 0, "stream": True}) as stream:
        assert "".join(map(text_of, stream)) == said(complete(server, prompt))
