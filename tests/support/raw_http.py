"""An HTTP server with a scripted handler, and requests as bytes."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from fastrouter._core import TEXT, Request, SseWriter
from fastrouter.errors import InvalidRequest
from fastrouter.http.api_keys import KeyRing
from fastrouter.http.connection import Connection
from fastrouter.http.exchange import Exchange
from fastrouter.http.guard import Guard
from fastrouter.http.response import SSE_HEADERS, Response, encode_json
from fastrouter.http.routes import MAX_BODY, Routes
from fastrouter.http.server import Server
from fastrouter.http.sockets import bind
from fastrouter.http.tls import Certificate
from fastrouter.options.cors import Cors

Answer = tuple[int, dict[str, str], bytes]


class Streaming(SseWriter):
    """Streams what it is told to; records how it ended."""

    def __init__(self, exchange: Exchange, max_buffered: int = 1 << 18) -> None:
        super().__init__(exchange.transport, exchange.stream_head(SSE_HEADERS), chunked=exchange.is_chunked, max_buffered=max_buffered)
        self.set_template(TEXT, 0, b"", b"")
        self.exchange = exchange
        self.events: list[str] = []

    def pause(self) -> None:
        self.events.append("pause")
        super().pause()

    def resume(self) -> None:
        self.events.append("resume")
        super().resume()

    def disconnect(self) -> None:
        self.events.append("disconnect")

    def fail(self, error: Exception) -> None:
        self.events.append(f"fail {error}")
        self.write_event(b"data: error\n\n")
        self.cut()
        self.exchange.end(is_whole=False)

    def on_overflow(self) -> None:
        self.events.append("overflow")
        self.exchange.abort()


class Site:
    """A running server and what its handlers have seen."""

    def __init__(self, server: Server, port: int, trust: ssl.SSLContext | None = None) -> None:
        self.server = server
        self.port = port
        self.trust = trust  # of HTTPS
        self.streams: list[Streaming] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trust)

    async def ask(self, data: bytes) -> Answer:
        """One request on a separate connection."""
        reader, writer = await self.connect()
        writer.write(data)
        answer = await read_answer(reader)
        writer.close()
        return answer


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    line, *fields = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    body = b""
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    elif headers.get("connection") == "close":
        body = await reader.read()
    return int(line.split()[1]), headers, body


def request(path: str = "/json", method: str = "GET", body: bytes = b"", version: str = "1.1", **fields: str) -> bytes:
    fields = {"Host": "localhost", **fields}
    if body:
        fields["Content-Length"] = str(len(body))
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/{version}\r\n{lines}\r\n".encode() + body


def make_routes(guard: Guard, site: Callable[[], Site]) -> Routes:
    routes = Routes(guard)

    async def slow(request: Request, exchange: Exchange) -> Response:
        await asyncio.sleep(0.02)
        return encode_json({"slow": True})

    async def never(request: Request, exchange: Exchange) -> Response:
        await asyncio.sleep(1000)
        raise AssertionError

    def refuse(request: Request, exchange: Exchange) -> Response:
        raise InvalidRequest("field 'x' is wrong", field="x")

    def broken(request: Request, exchange: Exchange) -> Response:
        raise ZeroDivisionError

    def stream(request: Request, exchange: Exchange) -> None:
        writer = Streaming(exchange, max_buffered=1 << 16)
        exchange.responder = writer
        site().streams.append(writer)
        writer.write_event(b"data: 1\n\n")
        writer.flush()

    routes.add("GET", "/health", lambda request, exchange: encode_json({"status": "ok"}), public=True)
    routes.add("GET", "/json", lambda request, exchange: encode_json({"path": request.path}))
    routes.add("POST", "/echo", lambda request, exchange: encode_json({"got": request.body.decode()}), max_body=MAX_BODY)
    routes.add("POST", "/small", lambda request, exchange: encode_json({"got": request.body.decode()}))
    routes.add("POST", "/never", never, max_body=MAX_BODY)
    routes.add("POST", "/unread", lambda request, exchange: encode_json({"got": request.body.decode()}), max_body=0)
    routes.add("GET", "/slow", slow)
    routes.add("GET", "/never", never)
    routes.add("GET", "/refuse", refuse)
    routes.add("GET", "/broken", broken)
    routes.add("GET", "/stream", stream)
    routes.add("GET", "/cut", lambda request, exchange: exchange.abort())
    routes.add("GET", "/big", lambda request, exchange: encode_json("x" * (1 << 20)))
    routes.add("GET", "/below/*", lambda request, exchange: encode_json({"rest": routes.suffix(request, "/below/")}))
    return routes


@asynccontextmanager
async def serving(
    *,
    keys: tuple[str, ...] = (),
    cors: Cors | None = None,
    hosts: tuple[str, ...] = ("127.0.0.1",),
    certificate: Certificate | None = None,
    trust: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[Site]:
    guard = Guard(KeyRing(keys), hosts, cors)
    site: Site
    routes = make_routes(guard, lambda: site)
    server = Server(routes.dispatch, guard, admit=routes.admit, **options)
    sockets = bind(["127.0.0.1"], 0)
    site = Site(server, sockets[0].getsockname()[1], trust)
    await server.start(sockets, certificate)
    try:
        yield site
    finally:
        await server.drain(0)
        server.close()
        await until(lambda: not server.connections)


def run(test: Coroutine[Any, Any, None]) -> None:
    """On uvloop; what it would only log is a failure here."""
    unhandled: list[dict[str, Any]] = []

    async def limited() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
        await asyncio.wait_for(test, 30)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(limited())
    assert unhandled == []


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def sweep(site: Site, times: int) -> None:
    """What the server's timer does once a second."""
    for _ in range(times):
        for connection in list(site.server.connections):
            connection.sweep()


async def only_connection(site: Site) -> Connection:
    await until(lambda: len(site.server.connections) == 1)
    (connection,) = site.server.connections
    return connection
