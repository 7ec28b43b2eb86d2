"""Audio over HTTP: messages, the places that say what a model can do, transcriptions with OpenAI's client, a worker that dies."""

import base64
import os
import signal
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from conftest import Answer, Router, StartRouter, eventually, text_of
from rival_audio import BOUNDARY, form
from tiny_audio import FLAC, MP3, audio_part, make_both, make_ultravox, sound, wav
from tiny_models import make_llama
from tiny_projectors import image_part, picture, png

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
FILE = wav(sound(1))
PATH = "/v1/audio/transcriptions"
WORDS = "the cat is"


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("hearing")
    for name in ("hears", "both"):
        (folder / "models" / name).mkdir(parents=True)
        make_llama(folder / "models" / name / f"{name}.gguf", seed=1, chat_template=TEMPLATE)
    make_ultravox(folder / "models" / "hears" / "mmproj-hears.gguf")
    make_both(folder / "models" / "both" / "mmproj-both.gguf")
    make_llama(folder / "models" / "deaf.gguf", seed=1, chat_template=TEMPLATE)
    (folder / "media").mkdir()
    (folder / "media" / "one.wav").write_bytes(FILE)
    return module_router("--media-path", str(folder / "media"), models_dir=folder / "models")


@pytest.fixture(scope="module")
def client(server: Router) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0, timeout=60) as client:
        yield client


def chat(server: Router, *parts: dict[str, Any] | str, model: str = "hears", **more: Any) -> Answer:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 12, "temperature": 0, **more}
    return server.post("/v1/chat/completions", body)


def text_in(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return str(answer.json["choices"][0]["message"]["content"])


def data(value: Any, key: str = "data") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {key: value}}


def test_every_way_to_send_the_same_audio(server: Router) -> None:
    encoded = base64.b64encode(FILE).decode()
    ways = (
        audio_part(FILE),
        data(f"data:audio/wav;base64,{encoded}"),
        data(encoded, "url"),
        data("file://one.wav"),
        data("file:///one.wav", "url"),
    )
    texts = {text_in(chat(server, WORDS, way)) for way in ways}
    item = {"role": "user", "content": [{"type": "input_text", "text": WORDS}, audio_part(FILE)]}
    body = {"model": "hears", "input": [item], "max_output_tokens": 12, "temperature": 0}
    texts.add(server.post("/v1/responses", body).json["output"][0]["content"][0]["text"])
    assert len(texts) == 1
    assert text_in(chat(server, WORDS)) not in texts
    for file in (MP3, FLAC):
        assert text_in(chat(server, WORDS, audio_part(file))) not in texts


def test_what_it_can_do_is_said_everywhere(server: Router) -> None:
    can = {"hears": ["text", "audio"], "both": ["text", "image", "audio"], "deaf": ["text"]}
    for model, modalities in can.items():
        assert text_in(chat(server, WORDS, model=model))
        for is_loaded in (True, False):
            if not is_loaded:
                server.unload(model)
            entry = server.get(f"/v1/models/{model}").json
            assert [name for name in entry["architecture"]["input_modalities"] if name != "video"] == modalities
            assert ("audio" in entry["capabilities"]) is ("audio" in modalities)
            assert server.get(f"/props?model={model}").json["modalities"]["audio"] is ("audio" in modalities)
            assert ("audio" in server.post("/api/show", {"model": model}).json["capabilities"]) is ("audio" in modalities)


def test_models_that_cannot_hear_or_see(server: Router) -> None:
    for model, part, kind in (
        ("deaf", audio_part(FILE), "audio"),
        ("deaf", {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}, "video"),
        ("hears", image_part(png(picture(1))), "image"),
        ("hears", {"type": "input_video", "input_video": {"data": "AAAA"}}, "video"),
    ):
        answer = chat(server, WORDS, part, model=model)
        assert (answer.status, answer.error["type"]) == (400, "not_supported_error"), (model, kind)
        assert answer.error["message"].startswith(f"{kind} input is not supported - hint: "), answer.body
    assert text_in(chat(server, "the", audio_part(FILE), image_part(png(picture(1))), model="both"))


def test_a_picture_in_a_tools_result_beside_audio(server: Router) -> None:
    """The model hears, and gets a note instead of the picture."""
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    url = image_part(png(picture(1)))["image_url"]["url"]
    output = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": url}]}
    body = {"model": "hears", "input": [{"role": "user", "content": [audio_part(FILE)]}, call, output], "max_output_tokens": 4}
    answer = server.post("/v1/responses", body)
    assert answer.status == 200, answer.body
    assert answer.json["usage"]["input_tokens"] > len("[An image. This model cannot see images.]")


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (data("http://127.0.0.1/a.wav"), "fetches none"),
        (data("%%%"), "base64"),
        (data(""), "without content"),
        (data("data:image/png;base64,AAAA"), 'must begin with "data:audio/'),
        (audio_part(png(picture(1))), "is not audio that can be read (it is a picture)"),
        (audio_part(b"nonsense"), "send WAV, MP3 or FLAC"),
        (audio_part(FILE[:60]), "less than 0.1 seconds"),
        (data("file://none.wav"), "does not exist"),
        (data("file://../models/deaf.gguf"), "not below"),
        ({"type": "input_audio"}, "must be an object"),
        (data(1), "must be a string"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named(server: Router, part: dict[str, Any], problem: str) -> None:
    answer = chat(server, "a", part)
    assert answer.status == 400, answer.body
    assert "field 'messages[0].content[1].input_audio" in answer.error["message"]
    assert problem in answer.error["message"]


def test_audio_is_counted_and_has_a_place_in_templates(server: Router) -> None:
    body = {"model": "hears", "messages": [{"role": "user", "content": [audio_part(FILE)]}]}
    assert "<__media__>" in server.post("/apply-template", body).json["prompt"]
    counted = server.post("/v1/chat/completions/input_tokens", body).json["input_tokens"]
    answered = server.post("/v1/chat/completions", {**body, "max_tokens": 1}).json["usage"]["prompt_tokens"]
    assert counted == answered


def test_a_stream_with_audio_survives_its_worker(server: Router) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": WORDS}, audio_part(FILE)]}]
    body = {"model": "hears", "messages": messages, "max_tokens": 1900, "temperature": 0, "stream": True}
    with server.stream("/v1/chat/completions", body) as stream:
        expected = "".join(map(text_of, stream))
    with server.stream("/v1/chat/completions", body) as stream:
        events = iter(stream)
        begun = [next(events) for _ in range(5)]
        os.kill(server.worker_of("hears/hears"), signal.SIGKILL)
        found = "".join(map(text_of, [*begun, *events]))
    assert found == expected
    eventually(lambda: "SIGKILL" in server.log, "the death of its worker")


# ---------------------------------------------------------------- transcriptions


def transcribe(client: openai.OpenAI, file: bytes = FILE, model: str = "hears", **more: Any) -> Any:
    return client.audio.transcriptions.create(model=model, file=("a.wav", file), extra_body={"max_tokens": 12}, **more)


def test_transcriptions_with_openais_client(client: openai.OpenAI, server: Router) -> None:
    found = transcribe(client)
    assert found.text
    assert found.usage.type == "tokens"
    assert found.usage.output_tokens == 12
    assert transcribe(client, response_format="text") == found.text
    verbose = transcribe(client, response_format="verbose_json", language="en")
    assert (verbose.language, verbose.duration, verbose.usage.seconds) == ("en", 1.0, 1.0)
    events = list(transcribe(client, stream=True))
    assert [event.type for event in events[-2:]] == ["transcript.text.delta", "transcript.text.done"]
    assert events[-1].text == "".join(event.delta for event in events[:-1]) == found.text
    asked = chat(server, "Transcribe audio to text", audio_part(FILE))
    assert text_in(asked) == found.text
    told = chat(server, "the red cat (language: de)", audio_part(FILE))
    assert transcribe(client, prompt="the red cat", language="de", temperature=0.0).text == text_in(told)


def test_a_long_file(client: openai.OpenAI) -> None:
    verbose = transcribe(client, wav(sound(3, 200)), response_format="verbose_json")
    assert verbose.duration == 200


def test_transcriptions_that_cannot_be_made(client: openai.OpenAI) -> None:
    for problem, more in (
        ("audio input is not supported", {"model": "deaf"}),
        ("field 'file' is audio of less than", {"file": wav(sound(1, 0.01))}),
        ("field 'file' is not audio", {"file": b"nonsense"}),
        ("field 'file' is an audio file without content", {"file": b""}),
        ("field 'response_format' cannot be used", {"response_format": "srt"}),
        ("field 'timestamp_granularities' cannot be used", {"response_format": "verbose_json", "timestamp_granularities": ["word"]}),
        ("field 'temperature' must be", {"temperature": "warm"}),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            transcribe(client, **more)
        assert problem in error.value.message
    with pytest.raises(openai.NotFoundError, match="'none' not found"):
        transcribe(client, model="none")


def test_forms_that_are_none(server: Router) -> None:
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    for body, problem in (
        (form({"model": "hears"}, None), "field 'file' is missing"),
        (form({"model": "hears", "file": "x"}, None), "field 'file' is missing"),
        (form({"model": "hears"}, FILE)[:-10], "cut short"),
        (form({"model": "hears"}, FILE, name="other"), "field 'file' is missing"),
    ):
        answer = server.post(PATH, body, kind)
        assert answer.status == 400
        assert problem in answer.error["message"]
    assert "field 'file' is missing" in server.post(PATH, {"model": "hears"}).error["message"]
    answer = server.post(PATH, form({"model": "hears", "colour": "red", "max_tokens": "1"}, FILE), kind)
    assert (answer.status, answer.headers["X-Fastrouter-Ignored"]) == (200, "colour")
