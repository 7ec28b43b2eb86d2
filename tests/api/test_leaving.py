"""Clients that leave at each stage of a request, in each API: afterwards no lease, no stream, no connection and no descriptor is left."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from flavour_site import KEY, FewModels, listening
from house import House, run_house
from raw_http import Site, request
from waiting import until

from fastrouter.api.flavours import anthropic, native, ollama, openai
from fastrouter.api.flavours.response_routes import ResponseRoutes
from fastrouter.api.response_store import ResponseStore
from fastrouter.api.serving.flavour import Flavour
from fastrouter.api.serving.start import Generator
from fastrouter.http.api_keys import KeyRing
from fastrouter.http.guard import Guard
from fastrouter.http.routes import MAX_BODY, Routes

FLAVOURS: dict[str, type[Flavour]] = {
    "/v1/chat/completions": openai.Chat,
    "/v1/completions": openai.Text,
    "/completion": native.Completion,
    "/v1/messages": anthropic.Messages,
    "/api/chat": ollama.Chat,
    "/api/generate": ollama.Generate,
}
PATHS = (*FLAVOURS, "/v1/responses")
LONG = {"tokens": 4000, "text": "word " * 50}
Leave = Callable[[Site, str], Awaitable[None]]


@asynccontextmanager
async def serving(here: House) -> AsyncIterator[Site]:
    guard, store = Guard(KeyRing((KEY,)), ("127.0.0.1",), None), ResponseStore(None, 1 << 20)
    routes, models = Routes(guard), cast(Any, FewModels(here))
    generator = Generator(models, here.supervisor, ping_interval_s=0.1)
    for path, flavour in FLAVOURS.items():
        routes.add("POST", path, generator.handler(flavour), max_body=MAX_BODY, errors=flavour.errors)
    routes.add("POST", "/v1/responses", ResponseRoutes(models, here.supervisor, generator, store).create, max_body=MAX_BODY)
    async with listening(routes, guard) as site:
        yield site
    store.close()


def asking(path: str, *, stream: bool = True, **script: Any) -> bytes:
    text = json.dumps(script)
    content = {"input": text} if path == "/v1/responses" else {"prompt": text}
    if "chat" in path or "messages" in path:
        content = {"messages": [{"role": "user", "content": text}]}  # type: ignore[dict-item]
    body = json.dumps({"model": "a", "max_tokens": 4000, "stream": stream, **content}).encode()
    return request(path, "POST", body, Authorization=f"Bearer {KEY}")


def reset(writer: asyncio.StreamWriter) -> None:
    """Leave without a goodbye."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def sent(site: Site, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await site.connect()
    writer.write(data)
    await writer.drain()
    return reader, writer


# ---------------------------------------------------------------- stages


async def while_it_loads(site: Site, path: str) -> None:
    """This is the first stage: the model is not loaded yet."""
    _, writer = await sent(site, asking(path, tokens=3))
    await asyncio.sleep(0.05)
    reset(writer)


async def inside_its_head(site: Site, path: str) -> None:
    _, writer = await sent(site, asking(path)[:40])
    reset(writer)


async def inside_its_body(site: Site, path: str) -> None:
    _, writer = await sent(site, asking(path, tokens=3)[:-5])
    reset(writer)


async def directly_after_its_body(site: Site, path: str) -> None:
    _, writer = await sent(site, asking(path, **LONG))
    writer.close()


async def before_the_first_token(site: Site, path: str) -> None:
    _, writer = await sent(site, asking(path, wait_s=60, tokens=3))
    await asyncio.sleep(0.05)
    reset(writer)


async def after_a_ping(site: Site, path: str) -> None:
    reader, writer = await sent(site, asking(path, wait_s=60, tokens=3))
    await asyncio.sleep(0.15)
    writer.close()
    await reader.read()


async def after_the_first_token(site: Site, path: str) -> None:
    reader, writer = await sent(site, asking(path, tokens=1, hang=True, die_after=1))
    await reader.readuntil(b"t0 ")
    reset(writer)


async def without_reading(site: Site, path: str) -> None:
    """Its buffers are full when it leaves."""
    _, writer = await sent(site, asking(path, **LONG))
    await asyncio.sleep(0.2)
    reset(writer)


async def half_closed(site: Site, path: str) -> None:
    """It sends no more; that counts as leaving."""
    reader, writer = await sent(site, asking(path, tokens=3, wait_s=60))
    writer.write_eof()
    await reader.read()
    writer.close()


async def from_a_whole_answer(site: Site, path: str) -> None:
    _, writer = await sent(site, asking(path, stream=False, tokens=3, wait_s=60))
    await asyncio.sleep(0.05)
    reset(writer)


async def with_its_next_request_sent(site: Site, path: str) -> None:
    reader, writer = await sent(site, asking(path, tokens=3, delay_s=0.01) * 3)
    await reader.readuntil(b"t0 ")
    reset(writer)


STAGES: tuple[Leave, ...] = (
    *(while_it_loads, inside_its_head, inside_its_body, directly_after_its_body, before_the_first_token, after_a_ping),
    *(after_the_first_token, without_reading, half_closed, from_a_whole_answer, with_its_next_request_sent),
)


@pytest.mark.parametrize(("path", "is_long"), [*((path, False) for path in PATHS), ("/v1/messages", True), ("/v1/responses", True)])
def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, is_long: bool) -> None:
    """`is_long`: the bodies are read in a thread."""
    if is_long:
        monkeypatch.setattr("fastrouter.api.serving.start.LONG_BODY", 0)

    async def body(here: House) -> None:
        here.spec("a", load_s=0.3)
        async with serving(here) as site:
            for leave in STAGES:
                await leave(site, path)
                await until(lambda: not site.server.connections, f"{leave.__name__}: no connection")
                await until(lambda: not any(found.num_leases for found in here.supervisor.instances()), f"{leave.__name__}: no lease")
                with await here.acquire("a") as lease:
                    assert await lease.call("num_streams", {}) == 0, leave.__name__
            assert len({here.pid("a")}) == 1

    run_house(tmp_path, body)
