"""The HTTP layer alone: real sockets, small handlers, no model."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from fastrouter._core import TEXT, Request, SseWriter
from fastrouter.errors import ConfigError, FastrouterError, InvalidRequest, Unavailable
from fastrouter.http.guard import Cors, Guard, host_of, is_loopback
from fastrouter.http.protocol import Exchange
from fastrouter.http.response import SSE_HEAD, encode_json
from fastrouter.http.routes import Routes
from fastrouter.http.server import Server, bind

Answer = tuple[int, dict[str, str], bytes]


class Streaming(SseWriter):
    """Streams what it is told to; remembers how it ended."""

    def __init__(self, exchange: Exchange, max_buffered: int = 1 << 18) -> None:
        super().__init__(exchange.transport, exchange.stream_head(SSE_HEAD), chunked=exchange.is_chunked, max_buffered=max_buffered)
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

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.port = port
        self.streams: list[Streaming] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, data: bytes) -> Answer:
        """One request on a connection of its own."""
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
    return int(line.split()[1]), headers, body


def request(path: str = "/json", method: str = "GET", body: bytes = b"", version: str = "1.1", **fields: str) -> bytes:
    fields = {"Host": "localhost", **fields}
    if body:
        fields["Content-Length"] = str(len(body))
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/{version}\r\n{lines}\r\n".encode() + body


def make_routes(guard: Guard, site: Callable[[], Site]) -> Routes:
    routes = Routes(guard)

    async def slow(request: Request, exchange: Exchange) -> bytes:
        await asyncio.sleep(0.02)
        return encode_json({"slow": True})

    async def never(request: Request, exchange: Exchange) -> bytes:
        await asyncio.sleep(1000)
        raise AssertionError

    def refuse(request: Request, exchange: Exchange) -> bytes:
        raise InvalidRequest("field 'x' is wrong", field="x")

    def broken(request: Request, exchange: Exchange) -> bytes:
        raise ZeroDivisionError

    def stream(request: Request, exchange: Exchange) -> None:
        writer = Streaming(exchange, max_buffered=1 << 16)
        exchange.responder = writer
        site().streams.append(writer)
        writer.write_event(b"data: 1\n\n")
        writer.flush()

    routes.add("GET", "/health", lambda request, exchange: encode_json({"status": "ok"}), public=True)
    routes.add("GET", "/json", lambda request, exchange: encode_json({"path": request.path}))
    routes.add("POST", "/echo", lambda request, exchange: encode_json({"got": request.body.decode()}))
    routes.add("GET", "/slow", slow)
    routes.add("GET", "/never", never)
    routes.add("GET", "/refuse", refuse)
    routes.add("GET", "/broken", broken)
    routes.add("GET", "/stream", stream)
    routes.add("GET", "/below/*", lambda request, exchange: encode_json({"rest": routes.suffix(request, "/below/")}))
    return routes


@asynccontextmanager
async def serving(*, keys: tuple[str, ...] = (), cors: Cors | None = None, **options: Any) -> AsyncIterator[Site]:
    guard = Guard(keys, ["127.0.0.1"], cors)
    site: Site
    routes = make_routes(guard, lambda: site)
    server = Server(routes.dispatch, guard, **options)
    sockets = bind(["127.0.0.1"], 0)
    site = Site(server, sockets[0].getsockname()[1])
    await server.start(sockets)
    try:
        yield site
    finally:
        await server.drain(0)
        server.close()
        await asyncio.sleep(0.01)
        assert not server.connections


def run(test: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test, 30)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(limited())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_keep_alive_and_pipelining_keep_the_order() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request("/slow") + request("/json") + request("/echo", "POST", b"hi") + request("/slow"))
            bodies = [json.loads((await read_answer(reader))[2]) for _ in range(4)]
            assert bodies == [{"slow": True}, {"path": "/json"}, {"got": "hi"}, {"slow": True}]
            writer.write(request(Connection="close"))
            assert (await read_answer(reader))[1]["connection"] == "close"
            assert await reader.read() == b""
            writer.close()

    run(scenario())


def test_http_1_0_head_options_and_unknown_paths() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request(version="1.0"))
            assert (await read_answer(reader))[0] == 200
            assert await reader.read() == b""
            writer.close()
            reader, writer = await site.connect()
            writer.write(request("/health", "HEAD") + request("/health"))
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert "Content-Length: 15" in head
            assert (await read_answer(reader))[2] == b'{"status":"ok"}'
            writer.close()
            assert (await site.ask(request("/nothing", "OPTIONS")))[0] == 200
            status, _, body = await site.ask(request("/nothing"))
            assert (status, json.loads(body)["error"]["message"]) == (404, "File Not Found")
            assert (await site.ask(request("/json", "POST", b"{}")))[0] == 405
            assert json.loads((await site.ask(request("/below/a/b")))[2]) == {"rest": "a/b"}

    run(scenario())


def test_errors_are_json_and_a_bug_of_ours_ends_one_request() -> None:
    async def scenario() -> None:
        async with serving() as site:
            status, _, body = await site.ask(request("/refuse"))
            wanted = {"code": 400, "message": "field 'x' is wrong", "type": "invalid_request_error", "field": "x"}
            assert (status, json.loads(body)["error"]) == (400, wanted)
            status, _, body = await site.ask(request("/broken"))
            assert (status, json.loads(body)["error"]["type"]) == (500, "server_error")
            assert (await site.ask(request()))[0] == 200

    run(scenario())


def test_malformed_requests_are_answered_and_closed() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request("/slow") + b"GET / HTTP/3.0\r\n\r\n")
            assert (await read_answer(reader))[0] == 200
            status, headers, _ = await read_answer(reader)
            assert (status, headers["connection"]) == (505, "close")
            assert await reader.read() == b""
            writer.close()

    run(scenario())


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1:8080"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.evil.example"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Content_Type": "text/plain"}, 403),
        ({"Content_Type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_who_may_change_something(fields: dict[str, str], status: int) -> None:
    async def scenario() -> None:
        async with serving() as site:
            assert (await site.ask(request("/echo", "POST", b"{}", **fields)))[0] == status

    run(scenario())


def test_cors_headers() -> None:
    async def scenario() -> None:
        async with serving() as site:
            _, headers, _ = await site.ask(request(Origin="http://localhost:3000"))
            assert headers["access-control-allow-origin"] == "http://localhost:3000"
            _, headers, _ = await site.ask(request(Origin="http://evil.example"))
            assert "access-control-allow-origin" not in headers
        async with serving(cors=Cors(origins="*", credentials=False)) as site:
            status, headers, _ = await site.ask(request("/echo", "POST", b"{}", Origin="http://any.example"))
            assert (status, headers["access-control-allow-origin"]) == (200, "*")

    run(scenario())


def test_keys() -> None:
    async def scenario() -> None:
        async with serving(keys=("one", "two")) as site:
            for fields in ({"Authorization": "Bearer one"}, {"Authorization": "bearer two"}, {"X_Api_Key": "two"}):
                assert (await site.ask(request(**fields)))[0] == 200
            for fields in ({}, {"Authorization": "Bearer three"}, {"X_Api_Key": ""}, {"Authorization": "Basic one"}):
                status, _, body = await site.ask(request(**fields))
                assert (status, json.loads(body)["error"]["message"]) == (401, "Invalid API Key")
            assert (await site.ask(request("/health")))[0] == 200
            assert (await site.ask(request("/json", "OPTIONS")))[0] == 200
            assert (await site.ask(request("/no-such")))[0] == 401  # an unknown path says nothing to a stranger

    run(scenario())


def test_a_stream_goes_out_and_the_connection_lives_on() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request("/stream") + request())
            await until(lambda: site.streams)
            stream = site.streams[0]
            stream.write_event(b"data: 2\n\n")
            stream.finish()
            stream.exchange.end_stream()
            status, headers, body = await read_answer(reader)
            assert (status, headers["content-type"], body) == (200, "text/event-stream", b"data: 1\n\ndata: 2\n\n")
            assert (await read_answer(reader))[0] == 200
            writer.close()

    run(scenario())


def test_a_client_that_leaves_is_noticed() -> None:
    async def scenario() -> None:
        async with serving() as site:
            _, writer = await site.connect()
            writer.write(request("/stream"))
            await until(lambda: site.streams)
            writer.transport.abort()
            await until(lambda: site.streams[0].events == ["disconnect"])
            site.streams[0].exchange.send(b"nobody is there")
            _, writer = await site.connect()
            writer.write(request("/never"))
            await until(lambda: any(c.exchange is not None for c in site.server.connections))
            writer.transport.abort()
            await until(lambda: not site.server.connections)

    run(scenario())


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request("/stream"))
            await until(lambda: site.streams)
            writer.transport.pause_reading()
            stream = site.streams[0]
            while "overflow" not in stream.events:
                stream.write_event(b"x" * 50_000)
                stream.flush()
                await asyncio.sleep(0)
            assert stream.events[0] == "pause"
            await until(lambda: "disconnect" in stream.events)
            writer.transport.abort()
            del reader

    run(scenario())


def test_too_many_connections_are_told_so() -> None:
    async def scenario() -> None:
        async with serving(max_connections=2) as site:
            held = [await site.connect() for _ in range(2)]
            await until(lambda: len(site.server.connections) == 2)
            reader, writer = await site.connect()
            status, _, body = await read_answer(reader)
            assert (status, json.loads(body)["error"]["type"]) == (503, "unavailable_error")
            for _, other in [*held, (reader, writer)]:
                other.close()

    run(scenario())


def test_a_drain_waits_and_then_tells_the_rest() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request("/stream"))
            slow_reader, slow_writer = await site.connect()
            slow_writer.write(request("/slow"))
            await until(lambda: site.streams and sum(c.exchange is not None for c in site.server.connections) == 2)
            await site.server.drain(0.2)
            assert (await read_answer(slow_reader))[0] == 200
            assert site.streams[0].events == [f"fail {Unavailable('the server is stopping')}"]
            assert (await reader.read()).endswith(b"data: error\n\n\r\n")
            with pytest.raises(OSError, match=r"refused|multiple"):
                await site.connect()
            writer.close()
            slow_writer.close()

    run(scenario())


def test_silent_clients_are_closed() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            partial_reader, partial_writer = await site.connect()
            partial_writer.write(b"GET / HT")
            await until(lambda: len(site.server.connections) == 2)
            await asyncio.sleep(0.05)
            for _ in range(13):  # the server's own timer does this once a second
                for connection in list(site.server.connections):
                    connection.sweep()
            assert await reader.read() == b""
            assert (await read_answer(partial_reader))[0] == 408
            writer.close()
            partial_writer.close()

    run(scenario())


def test_bind_says_what_is_wrong() -> None:
    (taken,) = bind(["127.0.0.1"], 0)
    with pytest.raises(ConfigError, match="in use"):
        bind(["127.0.0.1"], taken.getsockname()[1])
    taken.close()
    with pytest.raises(ConfigError, match="cannot listen on no-such-host"):
        bind(["no-such-host.invalid"], 0)


def test_host_names() -> None:
    assert [host_of(text) for text in ("LocalHost:80", "[::1]:80", "a")] == ["localhost", "[::1]", "a"]
    assert [is_loopback(text) for text in ("localhost", "127.0.0.1", "127.1.2.3", "[::1]")] == [True] * 4
    assert [is_loopback(text) for text in ("127.evil.example", "0.0.0.0", "example.com", "127.0.0.1.evil")] == [False] * 4


def test_error_tree_has_statuses() -> None:
    assert FastrouterError("x").to_json() == {"error": {"code": 500, "message": "x", "type": "server_error"}}
