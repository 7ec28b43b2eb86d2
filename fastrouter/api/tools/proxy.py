"""/cors-proxy: passes a page's request on to an MCP server that does not answer pages of other sites. Never imports: api.tools.process.

Invariant: only a server whose URL is in the configuration is reached: the same scheme, host and port. A redirect is passed back and never
followed. No header of the request is passed on unless the page has marked it. A browser never runs what comes back as a page.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from urllib.parse import parse_qs, urlsplit

import httptools
import orjson

from fastrouter._core import Request, SseWriter
from fastrouter.config.tools import McpServer, origin_of
from fastrouter.errors import FastrouterError, InvalidRequest
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response

HEADER_PREFIX = "x-llama-server-proxy-header-"
CONNECT_S, SILENCE_S = 10.0, 300.0
MAX_HEAD_BYTES = 64 << 10
MAX_ANSWER_BYTES = 16 << 20
_PIECE_BYTES = 64 << 10
_OWN = frozenset(("host", "content-length", "transfer-encoding", "connection", "upgrade", "expect", "te", "trailer", "keep-alive"))
# What an answer may say; not cookies, and nothing about this origin.
_PASSED_BACK = frozenset(("content-type", "mcp-session-id", "mcp-protocol-version", "cache-control", "www-authenticate", "retry-after"))
_SAFETY = b"Content-Security-Policy: sandbox; default-src 'none'\r\nX-Content-Type-Options: nosniff\r\nX-Accel-Buffering: no\r\n"
_EXPOSED = b"Access-Control-Expose-Headers: Mcp-Session-Id, Mcp-Protocol-Version, WWW-Authenticate\r\n"


class BadGateway(FastrouterError):
    status = 502
    type = "server_error"


class Proxy:
    def __init__(self, servers: Sequence[McpServer]) -> None:
        self._origins = {server.origin for server in servers} - {None}

    async def pass_on(self, request: Request, exchange: Exchange) -> Response | None:
        target = self._target_of(request)
        if request.method == "DELETE":  # the end of a session: only a courtesy, which some servers refuse
            return Response(200, _EXPOSED)
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await _connect(target)
        except (OSError, TimeoutError) as error:
            raise BadGateway(f"the MCP server cannot be reached: {error or 'it took too long'}") from None
        try:
            body = _body_of(request)
            writer.write(_head_of(request, target, len(body)) + body)
            return await _pass_back(exchange, reader)
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            raise BadGateway(f"the MCP server's answer cannot be read: {error or 'it took too long'}") from None
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _target_of(self, request: Request) -> str:
        given = parse_qs(request.query).get("url", [])
        if len(given) != 1:
            raise InvalidRequest("the query must have one url=, the address of an MCP server")
        origin = origin_of(given[0])
        if origin is None:
            raise InvalidRequest("url: must be an http or https address without a user name")
        if origin not in self._origins:
            raise InvalidRequest("url: no MCP server of --mcp-servers-config has this scheme, host and port, so nothing was sent")
        return given[0]


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    origin = origin_of(url)
    assert origin is not None
    scheme, host, port = origin
    context = ssl.create_default_context() if scheme == "https" else None
    return await asyncio.open_connection(host, port, ssl=context, limit=MAX_HEAD_BYTES)


def _body_of(request: Request) -> bytes:
    """It may have been parsed already, to find the model that it names."""
    return request.take_body() or (orjson.dumps(request.json) if request.json is not None else b"")


def _head_of(request: Request, url: str, num_bytes: int) -> bytes:
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    marked = [(name[len(HEADER_PREFIX) :], value) for name, value in request.headers() if name.startswith(HEADER_PREFIX)]
    headers = {name: value for name, value in marked if name and name not in _OWN}
    if num_bytes:
        headers.setdefault("content-type", request.header("content-type") or "application/json")
    lines = [f"{request.method} {path} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close", f"Content-Length: {num_bytes}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


class _Answer:
    """What has come of an answer. The parser calls the methods `on_...`."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._is_head_complete = False
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.is_complete = False

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    @property
    def status(self) -> int:
        """0: it has not come yet. An answer before the answer, such as 100, does not count."""
        return self._parser.get_status_code() if self._is_head_complete else 0

    @property
    def is_stream(self) -> bool:
        kind = dict(self.headers).get(b"content-type", b"")
        return self.status == 200 and kind.lower().startswith(b"text/event-stream")

    def on_message_begin(self) -> None:
        self.headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._is_head_complete = self._parser.get_status_code() >= 200

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.is_complete = self._is_head_complete

    def take_body(self) -> bytes:
        body = b"".join(self.pieces)
        self.pieces.clear()
        return body

    def head(self) -> bytes:
        """Header lines for the page."""
        passed = [(name, value) for name, value in self.headers if name.decode("latin-1") in _PASSED_BACK and _is_plain(value)]
        return b"".join(b"%b: %b\r\n" % pair for pair in passed) + _SAFETY + _EXPOSED


def _is_plain(value: bytes) -> bool:
    return b"\r" not in value and b"\n" not in value and b"\0" not in value


async def _pieces(reader: asyncio.StreamReader, answer: _Answer) -> AsyncIterator[bytes]:
    """The body as it comes, beginning with an empty piece when the head has come. Raises OSError, TimeoutError or HttpParserError."""
    num_bytes, has_begun = 0, False
    while not answer.is_complete:
        async with asyncio.timeout(SILENCE_S):
            data = await reader.read(_PIECE_BYTES)
        if not data and not answer.status:
            raise ConnectionError("it ended too early")
        num_bytes += len(data)
        if num_bytes > MAX_ANSWER_BYTES:
            raise ConnectionError(f"it is larger than {MAX_ANSWER_BYTES >> 20} MiB")
        if data:
            answer.feed(data)
        if answer.status and not has_begun:
            has_begun = True
            yield b""
        if piece := answer.take_body():
            yield piece
        if not data:
            return


async def _pass_back(exchange: Exchange, reader: asyncio.StreamReader) -> Response | None:
    answer = _Answer()
    stream: _Stream | None = None
    body = b""
    async for piece in _pieces(reader, answer):
        if answer.is_stream:
            stream = stream or _Stream(exchange, answer.head())
            stream.pass_on(piece)
        else:
            body += piece
    if stream is None:
        return Response(answer.status, answer.head(), body)
    stream.end()
    return None


class _Stream(SseWriter):
    """An event stream on its way back."""

    def __init__(self, exchange: Exchange, head: bytes) -> None:
        super().__init__(exchange.transport, exchange.stream_head(head), chunked=exchange.is_chunked)
        self._exchange = exchange
        self._task = asyncio.current_task()
        exchange.responder = self
        exchange.is_background = True

    def pass_on(self, piece: bytes) -> None:
        self.write_event(piece)
        self.flush()

    def end(self) -> None:
        self.finish()
        self._exchange.end_stream()

    def disconnect(self) -> None:
        """The exchange cancels the task that reads."""

    def fail(self, error: Exception) -> None:
        """The server is stopping."""
        if self._task is not None:
            self._task.cancel()
        self.cut()
        self._exchange.end(is_whole=False)

    def on_overflow(self) -> None:
        self._exchange.abort()
