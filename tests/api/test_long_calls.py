"""Long bodies of calls that have one answer (/tokenize, counts, templates): they are read while the event loop continues."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from flavour_site import KEY, FewModels, listening
from house import House, run_house
from raw_http import read_answer, request

from fastrouter._core import Request, RequestParser
from fastrouter.api.flavours.anthropic import Anthropic
from fastrouter.api.flavours.native import Native
from fastrouter.api.flavours.response_routes import ResponseRoutes
from fastrouter.api.requests import bodies
from fastrouter.api.response_store import ResponseStore
from fastrouter.catalog.spec import ModelSpec
from fastrouter.http.api_keys import KeyRing
from fastrouter.http.guard import Guard
from fastrouter.http.routes import Routes

CHAT = b'{"model": "a", "messages": [{"role": "user", "content": "hello"}]}'
BODIES = {
    "/tokenize": b'{"model": "a", "content": ["hello", 1]}',
    "/detokenize": b'{"model": "a", "tokens": [1, 2]}',
    "/apply-template": CHAT,
    "/v1/chat/completions/input_tokens": CHAT,
    "/v1/messages/count_tokens": CHAT,
    "/v1/responses/input_tokens": b'{"model": "a", "input": "hello"}',
}


class Models(FewModels):
    def choose(self, request: Request, body: dict[str, Any]) -> tuple[ModelSpec, bool]:
        return self.for_use(request, body)


def thread_name() -> str:
    return threading.current_thread().name.partition("_")[0]


def test_only_a_long_body_is_read_in_a_thread() -> None:
    for body, name in ((b'"x"', "MainThread"), (b'"%s"' % (b"x" * bodies.LONG_BODY), "bodies")):
        [request] = RequestParser().feed(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        bodies.parse_json(request)
        assert asyncio.run(bodies.read_parsed(request, thread_name)) == name


@pytest.mark.parametrize("path", BODIES)
def test_every_call_reads_its_long_bodies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    read_long, threads = bodies.read_long, []

    async def recorded(read: Callable[[], Any]) -> Any:
        def reading() -> Any:
            threads.append(thread_name())
            return read()

        return await read_long(reading)

    monkeypatch.setattr(bodies, "LONG_BODY", 0)
    monkeypatch.setattr(bodies, "read_long", recorded)

    async def test(here: House) -> None:
        here.spec("a")
        models, store = cast(Any, Models(here)), ResponseStore(None, 1 << 20)
        native, anthropic = Native(models, here.supervisor), Anthropic(models, here.supervisor)
        responses = ResponseRoutes(models, here.supervisor, cast(Any, None), store)
        handlers = [native.tokenize, native.detokenize, native.apply_template, native.count_chat_tokens, anthropic.count_tokens]
        guard = Guard(KeyRing((KEY,)), ("127.0.0.1",), None)
        routes = Routes(guard)
        for each, handler in zip(BODIES, [*handlers, responses.count], strict=True):
            routes.add("POST", each, handler)
        async with listening(routes, guard) as site:
            reader, writer = await site.connect()
            writer.write(request(path, "POST", BODIES[path], Authorization=f"Bearer {KEY}"))
            assert (await read_answer(reader))[0] == 200
            writer.close()
        store.close()

    run_house(tmp_path, test)
    assert threads == ["bodies"]
