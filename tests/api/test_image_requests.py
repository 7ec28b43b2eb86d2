"""Pictures over HTTP: every API, every place that says what a model can do, what is refused, and a worker that dies."""

import base64
import io
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer, Router, StartRouter, eventually, text_of
from PIL import Image
from tiny_models import make_llama
from tiny_projectors import GEMMA3_TOKENS, IMAGE_SIZE, data_url, image_part, make_gemma3, make_qwen2vl, picture, png

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
FILE, OTHER = png(picture(1)), png(picture(2))
URL = data_url(FILE)
SOURCE = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(FILE).decode()}
WORDS = "the cat is"
SEEING = ("sees", "parts")  # the positions of the second have several parts (M-RoPE)
# One picture and three words, in each API.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": [image_part(FILE), {"type": "text", "text": WORDS}]}]},
    "/v1/messages": {"messages": [{"role": "user", "content": [{"type": "image", "source": SOURCE}, {"type": "text", "text": WORDS}]}]},
    "/v1/responses": {
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": URL}, {"type": "input_text", "text": WORDS}]}]
    },
    "/api/chat": {"messages": [{"role": "user", "content": WORDS, "images": [SOURCE["data"]]}]},
    "/api/generate": {"prompt": WORDS, "images": [SOURCE["data"]]},
}
LENGTH: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"max_tokens": 12, "temperature": 0},
    "/v1/messages": {"max_tokens": 12, "temperature": 0},
    "/v1/responses": {"max_output_tokens": 12, "temperature": 0},
    "/api/chat": {"options": {"num_predict": 12, "temperature": 0}, "stream": False},
    "/api/generate": {"options": {"num_predict": 12, "temperature": 0}, "stream": False},
}


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("seeing")
    for name in ("sees", "parts"):
        (folder / "models" / name).mkdir(parents=True)
    make_llama(folder / "models" / "sees" / "sees.gguf", seed=1, chat_template=TEMPLATE)
    make_gemma3(folder / "models" / "sees" / "mmproj-sees.gguf")
    make_llama(folder / "models" / "parts" / "parts.gguf", seed=1, chat_template=TEMPLATE, architecture="qwen2vl")
    make_qwen2vl(folder / "models" / "parts" / "mmproj-parts.gguf")
    make_llama(folder / "models" / "blind.gguf", seed=1, chat_template=TEMPLATE)
    (folder / "media").mkdir()
    (folder / "media" / "one.png").write_bytes(FILE)
    (folder / "media" / "out.png").symlink_to(folder / "models" / "blind.gguf")
    return module_router("--media-path", str(folder / "media"), models_dir=folder / "models")


def ask(server: Router, path: str, model: str = "sees", **more: Any) -> Answer:
    return server.post(path, {"model": model, **BODIES[path], **LENGTH[path], **more})


def said(path: str, answer: Answer) -> str:
    assert answer.status == 200, answer.body
    found = answer.json
    match path:
        case "/v1/chat/completions":
            return str(found["choices"][0]["message"]["content"])
        case "/v1/messages":
            return str(found["content"][0]["text"])
        case "/v1/responses":
            return str(found["output"][0]["content"][0]["text"])
        case "/api/chat":
            return str(found["message"]["content"])
    return str(found["response"])


def chat(server: Router, *parts: dict[str, Any], model: str = "sees", **more: Any) -> Answer:
    return server.post(
        "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": list(parts)}], "max_tokens": 4, **more}
    )


def test_every_api_shows_the_same_picture(server: Router) -> None:
    texts = {path: said(path, ask(server, path)) for path in BODIES}
    assert len(set(texts.values())) == 1, texts
    assert texts["/v1/chat/completions"]
    blind = server.post(
        "/v1/chat/completions", {"model": "sees", "messages": [{"role": "user", "content": WORDS}], "max_tokens": 12, "temperature": 0}
    )
    assert said("/v1/chat/completions", blind) not in texts.values()
    usage = chat(server, image_part(FILE)).json["usage"]
    assert usage["prompt_tokens"] > GEMMA3_TOKENS
    for files, tokens in (([FILE], [GEMMA3_TOKENS]), ([FILE, OTHER, FILE], [GEMMA3_TOKENS] * 3)):
        details = chat(server, *map(image_part, files)).json["usage"]["prompt_tokens_details"]
        assert details["media_tokens"] == tokens
    assert "media_tokens" not in chat(server, {"type": "text", "text": "a"}).json["usage"]["prompt_tokens_details"]


@pytest.mark.parametrize("model", SEEING)
def test_what_it_can_do_is_said_everywhere(server: Router, model: str) -> None:
    assert chat(server, image_part(FILE), model=model).status == 200
    server.unload(model)
    for is_loaded in (False, True):
        if is_loaded:
            server.load(model)
        assert server.get(f"/props?model={model}").json["modalities"] == {"vision": True, "video": False, "audio": False}
        assert server.get("/props?model=blind").json["modalities"]["vision"] is False
        entry = server.get(f"/v1/models/{model}").json
        assert entry["architecture"]["input_modalities"] == ["text", "image"]
        assert entry["architecture"].get("image_size") == (None if model == "parts" else IMAGE_SIZE)  # "parts" takes any size
        assert "vision" in entry["capabilities"]
        assert "vision" in server.post("/api/show", {"model": model}).json["capabilities"]
        assert "vision" not in server.post("/api/show", {"model": "blind"}).json["capabilities"]


@pytest.mark.parametrize("path", BODIES)
def test_a_model_without_a_projector_says_so(server: Router, path: str) -> None:
    answer = ask(server, path, "blind")
    assert answer.status == 400
    assert b"image input is not supported - hint: if this is unexpected, you may need to provide the mmproj" in answer.body


def test_a_picture_in_the_result_of_a_tool(server: Router) -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": SOURCE}]}
    use = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {}}]}
    messages = [{"role": "user", "content": "x"}, use, {"role": "user", "content": [result]}]
    counts = {}
    for model in ("sees", "blind"):
        answer = server.post("/v1/messages", {"model": model, "messages": messages, "max_tokens": 4})
        assert answer.status == 200, answer.body
        counts[model] = answer.json["usage"]["input_tokens"] + answer.json["usage"]["cache_read_input_tokens"]
    assert counts["sees"] != counts["blind"]
    called = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": URL}]}
    for model in ("sees", "blind"):
        body = {"model": model, "input": [{"role": "user", "content": "x"}, called, output], "max_output_tokens": 4}
        assert server.post("/v1/responses", body).status == 200


def url(text: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": text}}


def test_files_below_the_folder_only(server: Router) -> None:
    assert chat(server, url("file://one.png")).status == chat(server, url("file:///one.png")).status == 200
    for path in ("out.png", "../models/blind.gguf", "none.png", "", "one.png\0", "a" * 5000):
        answer = chat(server, url(f"file://{path}"))
        assert answer.status == 400, path
        assert "field 'messages[0].content[0].image_url'" in answer.error["message"]


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (url("http://127.0.0.1/a.png"), "this server fetches none: start it with --media-hosts 127.0.0.1"),
        (url("HTTPS://example.org/a.png"), "this server fetches none: start it with --media-hosts example.org"),
        (url("data:image/png;base64,"), "without content"),
        (url("data:image/png;base64,%%%"), "base64"),
        (url("data:image/png,abc"), "must begin with"),
        (url("data:audio/wav;base64,AAAA"), "must begin with"),
        (url(data_url(b"RIFF1234WEBP")), "cut short"),
        (url(data_url(FILE[:60])), "broken or cut short"),
        ({"type": "image_url"}, "must be an object"),
        ({"type": "image_url", "image_url": {"url": 1}}, "must be a string"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named(server: Router, part: dict[str, Any], problem: str) -> None:
    answer = chat(server, {"type": "text", "text": "a"}, part)
    assert answer.status == 400
    assert "messages[0].content[1].image_url" in answer.error["message"]
    assert problem in answer.error["message"]


def test_webp_is_decoded_in_a_confined_worker(server: Router) -> None:
    file = io.BytesIO()
    Image.fromarray(picture(1)).save(file, "WEBP", lossless=True)
    expected, found = (chat(server, part, temperature=0) for part in (image_part(FILE), url(data_url(file.getvalue(), "webp"))))
    assert (found.status, found.json["choices"][0]["message"]) == (200, expected.json["choices"][0]["message"])


def test_too_many_pictures(server: Router) -> None:
    assert "64" in chat(server, *[image_part(FILE)] * 65).error["message"]


def test_names_of_fields_are_the_clients(server: Router) -> None:
    for path, body, field in (
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {**SOURCE, "data": "AAAA"}}]}]},
            "messages[0].content[0].source",
        ),
        (
            "/v1/responses",
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": data_url(b"AAA")}]}]},
            "input[0].content[0].image_url",
        ),
        ("/api/chat", {"messages": [{"role": "user", "content": "", "images": ["AAAA"]}]}, "messages[0].images[0]"),
    ):
        answer = server.post(path, {"model": "sees", **LENGTH[path], **body})
        assert answer.status == 400
        assert f"'{field}'" in answer.body.decode(), answer.body


def test_no_mmproj(router: StartRouter, server: Router) -> None:
    other = router("--no-mmproj", models_dir=server.models)
    assert chat(other, image_part(FILE)).status == 400
    assert other.get("/props?model=sees").json["modalities"]["vision"] is False


def test_a_projector_of_another_model(router: StartRouter, tmp_path: Path) -> None:
    """The load fails, with the way out."""
    (tmp_path / "models" / "odd").mkdir(parents=True)
    make_llama(tmp_path / "models" / "odd" / "odd.gguf", chat_template=TEMPLATE)
    make_gemma3(tmp_path / "models" / "odd" / "mmproj-odd.gguf", width=32)
    message = chat(router(models_dir=tmp_path / "models"), image_part(FILE), model="odd").error["message"]
    assert "mismatch" in message
    assert "--no-mmproj" in message


@pytest.mark.parametrize("model", SEEING)
def test_a_stream_with_a_picture_survives_its_worker(server: Router, model: str) -> None:
    body = {"model": model, "messages": BODIES["/v1/chat/completions"]["messages"], "max_tokens": 1900, "temperature": 0, "stream": True}
    with server.stream("/v1/chat/completions", body) as stream:
        expected = "".join(map(text_of, stream))
    with server.stream("/v1/chat/completions", body) as stream:
        events = iter(stream)
        begun = [next(events) for _ in range(5)]
        os.kill(server.worker_of(f"{model}/{model}"), signal.SIGKILL)
        found = "".join(map(text_of, [*begun, *events]))
    assert found == expected
    eventually(lambda: "SIGKILL" in server.log, "the death of its worker")
