"""An invented API in one class. It serves streamed and whole answers, and every error has its shape."""

import json
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from flavour_site import KEY, Served, run_site
from raw_http import Answer, Site, request

from fastrouter._core import REASONING, TEXT
from fastrouter.api.requests.fields import Ask
from fastrouter.api.serving.flavour import Choice, Usage
from fastrouter.errors import FastrouterError, InvalidRequest, ModelNotFound
from fastrouter.http.response import NDJSON_HEADERS, SSE_HEADERS, ErrorShape
from fastrouter.http.sse import event_parts, json_event
from fastrouter.ipc.messages import Generate
from fastrouter.ipc.records import Delta, PromptProgress


def squawk(error: FastrouterError) -> dict[str, Any]:
    return {"squawk": error.message, "status": error.status}


class Parrot:
    """{"model", "say": [the text of each prompt], "live": bool} -> the text that was generated. `broken`: it has a mistake."""

    name = "parrot"
    stream_head = SSE_HEADERS
    errors = ErrorShape(squawk, lambda error: 404 if isinstance(error, ModelNotFound) else error.status)
    has_blocks = False

    @staticmethod
    def read(body: dict[str, Any]) -> Ask:
        if not body.get("say"):
            raise InvalidRequest("say something")
        if body["say"] == "broken":
            raise ZeroDivisionError
        return Ask([Generate(prompt=json.dumps(said)) for said in body["say"]], is_stream=body.get("live") is True)

    def __init__(self, model_id: str, ask: Ask) -> None:
        self._model_id = model_id

    def template(self, kind: int, choice: int) -> tuple[bytes, bytes] | None:
        return event_parts(b'{"of":%d,"word":"' % choice, b'"}', b"word")

    def first(self, choice: int) -> bytes:
        return json_event({"of": choice, "by": self._model_id}, b"begin")

    def event(self, choice: int, event: Delta) -> bytes:
        raise AssertionError

    def progress(self, choice: int, progress: PromptProgress) -> bytes:
        raise AssertionError

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes:
        return json_event({"of": choice.index, "why": choice.finish.stop_type}, b"end")

    def done(self) -> bytes:
        return b"event: bye\ndata: {}\n\n"

    def error_event(self, error: FastrouterError) -> bytes:
        return json_event(squawk(error), b"squawk")

    def whole(self, choices: list[Choice], usage: Usage) -> Any:
        return {"by": self._model_id, "said": [choice.text for choice in choices], "tokens": usage.completion_tokens}


class Heron(Parrot):
    """Its text is in blocks: each begins and ends, and each change between text and thought begins a new one. Answers in lines."""

    name = "heron"
    stream_head = NDJSON_HEADERS
    has_blocks = True

    def __init__(self, model_id: str, ask: Ask) -> None:
        super().__init__(model_id, ask)
        self._open: int | None = None
        self.num_events = 0

    def template(self, kind: int, choice: int) -> tuple[bytes, bytes] | None:
        return (b'["', b'"]\n') if kind == self._open else None

    def first(self, choice: int) -> bytes:
        return b"{}\n"

    def event(self, choice: int, event: Delta) -> bytes:
        self.num_events += 1
        end = b"end\n" if self._open is not None else b""
        self._open = REASONING if event.reasoning else TEXT if event.text else None
        return end + f"begin {event.reasoning or event.text or event.calls[0].name}\n".encode()

    def ping(self, text: bytes) -> bytes:
        return b"still here\n"

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes:
        return b"%d events\n" % self.num_events

    def done(self) -> bytes:
        return b""


class Mute(Parrot):
    """It has a mistake at the end of every whole answer."""

    def whole(self, choices: list[Choice], usage: Usage) -> Any:
        raise TypeError("unhashable type: 'list'")


@pytest.fixture
def parrot(tmp_path: Path) -> Callable[[Callable[[Site], Coroutine[Any, Any, None]]], None]:
    served: Served = {"/parrot": (Parrot, 0), "/heron": (Heron, 0.2), "/mute": (Mute, 0)}
    return lambda test: run_site(tmp_path, served, test)


Parrots = Callable[[Callable[[Site], Coroutine[Any, Any, None]]], None]


async def ask(site: Site, *say: Any, key: str = KEY, path: str = "/parrot", **fields: Any) -> Answer:
    body = json.dumps({"model": "a", "say": list(say), **fields}).encode()
    return await site.ask(request(path, "POST", body, Authorization=f"Bearer {key}"))


def test_a_stream(parrot: Parrots) -> None:
    async def test(site: Site) -> None:
        status, headers, body = await ask(site, {"tokens": 2}, {"tokens": 1, "text": '"\n'}, live=True)
        assert (status, headers["content-type"], headers["x-model"]) == (200, "text/event-stream", "a")
        assert body.decode().split("\n\n") == [
            'event: begin\ndata: {"of":0,"by":"a"}',
            'event: word\ndata: {"of":0,"word":"t0 "}',
            'event: word\ndata: {"of":0,"word":"t1 "}',
            'event: end\ndata: {"of":0,"why":"limit"}',
            'event: begin\ndata: {"of":1,"by":"a"}',
            'event: word\ndata: {"of":1,"word":"\\"\\n"}',
            'event: end\ndata: {"of":1,"why":"limit"}',
            "event: bye\ndata: {}",
            "",
        ]

    parrot(test)


def test_blocks_begin_and_end_and_their_text_needs_no_event(parrot: Parrots) -> None:
    say = [
        *({"thought": "a"}, {"thought": "b"}, {"text": "c"}, {"text": '"'}, {"text": "d"}, {"thought": "e"}, {"thought": "f"}),
        *({"event": {"calls": [{"index": 0, "name": "g"}]}}, {"text": "h"}),
    ]

    async def test(site: Site) -> None:
        status, headers, body = await ask(site, {"say": say}, live=True, path="/heron")
        assert (status, headers["content-type"]) == (200, "application/x-ndjson")
        assert body.replace(b"still here\n", b"").decode().split("\n") == [
            *("{}", "begin a", '["b"]', "end", "begin c", '["\\""]', '["d"]', "end", "begin e", '["f"]', "end", "begin g", "begin h"),
            *("5 events", ""),
        ]

    parrot(test)


def test_a_silent_stream_has_the_pings_of_its_api(parrot: Parrots) -> None:
    async def test(site: Site) -> None:
        _, _, body = await ask(site, {"wait_s": 0.5, "say": [{"text": "late"}]}, live=True, path="/heron")
        assert body.startswith(b"still here\n")
        assert body.removesuffix(b"1 events\n").replace(b"still here\n", b"") == b"{}\nbegin late\n"

    parrot(test)


def test_a_whole_answer(parrot: Parrots) -> None:
    async def test(site: Site) -> None:
        status, headers, body = await ask(site, {"tokens": 2}, {"tokens": 3, "text": "x"})
        assert (status, headers["x-model"]) == (200, "a")
        assert json.loads(body) == {"by": "a", "said": ["t0 t1 ", "xxx"], "tokens": 5}

    parrot(test)


def test_every_error_is_in_its_shape(parrot: Parrots) -> None:
    """Also errors of the HTTP layer and of the model's worker."""

    async def test(site: Site) -> None:
        refused = {"error": "not today"}
        expected: list[tuple[Answer, int, str]] = [
            (await ask(site), 400, "say something"),
            (await ask(site, "hello", model="b"), 404, "model 'b' not found"),
            (await ask(site, refused), 400, "not today"),
            (await ask(site, refused, live=True), 400, "not today"),
            (await ask(site, say="broken"), 500, "internal error; the router's log has the cause"),
            (await ask(site, "hello", key="wrong"), 401, "Invalid API Key"),
            (await ask(site, "x" * (1 << 17)), 413, "the body is larger than 65536 bytes, the limit of this path"),
            (await site.ask(request("/parrot", "POST", b"[]", Authorization=f"Bearer {KEY}")), 400, "the body must be a JSON object"),
        ]
        for (status, _, body), wanted, message in expected:
            own = 400 if wanted == 404 else wanted
            assert (status, json.loads(body)) == (wanted, {"squawk": message, "status": own})
        status, _, body = await ask(site, "hello", path="/elsewhere")
        assert (status, json.loads(body)["error"]["type"]) == (404, "not_found_error")

    parrot(test)


def test_an_error_on_the_way_is_the_last_event(parrot: Parrots) -> None:
    async def test(site: Site) -> None:
        reader, writer = await site.connect()
        body = json.dumps({"model": "a", "say": [{"tokens": 9, "die_after": 1, "error": "no more"}], "live": True}).encode()
        writer.write(request("/parrot", "POST", body, Authorization=f"Bearer {KEY}"))
        received = (await reader.read()).decode()
        writer.close()
        assert '{"of":0,"word":"t0 "}' in received
        assert received.endswith('event: squawk\ndata: {"squawk":"no more","status":400}\n\n\r\n')  # and no last chunk

    parrot(test)


def test_a_mistake_in_a_whole_answer_is_an_error_and_no_silence(parrot: Parrots) -> None:
    async def test(site: Site) -> None:
        answer = await ask(site, {"tokens": 2}, path="/mute")
        assert (answer[0], json.loads(answer[2])) == (500, {"squawk": "TypeError: unhashable type: 'list'", "status": 500})

    parrot(test)


def test_a_long_body_is_read_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of messages must not hold the event loop. Errors keep their shape."""
    monkeypatch.setattr("fastrouter.api.serving.start.LONG_BODY", 1000)
    threads = []

    class Owl(Parrot):
        @staticmethod
        def read(body: dict[str, Any]) -> Ask:
            threads.append(threading.current_thread().name.partition("_")[0])
            return Parrot.read(body)

    async def test(site: Site) -> None:
        for padding in ("", "x" * 1000):
            for live in (False, True):
                assert (await ask(site, {"tokens": 2}, path="/owl", live=live, padding=padding))[0] == 200
            status, _, body = await ask(site, path="/owl", padding=padding)
            assert (status, json.loads(body)) == (400, {"squawk": "say something", "status": 400})

    run_site(tmp_path, {"/owl": (Owl, 0)}, test)
    assert threads == ["MainThread"] * 3 + ["bodies"] * 3
