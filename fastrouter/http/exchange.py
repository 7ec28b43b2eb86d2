"""One request and its answer, as handlers see it. Never imports: http.connection, http.routes.

Invariant: an exchange ends only once: by the answer's last byte, by an error, when the client leaves, or when the server stops.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from fastrouter._core import Request
from fastrouter.errors import FastrouterError
from fastrouter.http.guard import Guard
from fastrouter.http.response import OPENAI_ERRORS, ErrorShape, Response, error_response, render_head

log = logging.getLogger("fastrouter.http")

CLIENT_LEFT = 499  # as nginx counts it


class Responder(Protocol):
    """The object that answers an exchange over time: a stream, or the collector of a whole answer."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def disconnect(self) -> None:
        """The client has left: release everything, write nothing."""

    def fail(self, error: Exception) -> None:
        """End the answer with this error."""


class Sink(Protocol):
    """Takes the bytes of a body as they come. It ends by itself when nothing refers to it any more: its client has left."""

    @property
    def is_full(self) -> bool:
        """No more bytes may come now."""

    def call_when_free(self, callback: Callable[[], None]) -> None: ...
    def write(self, data: bytes) -> None: ...


class Door(Protocol):
    """What an exchange needs of the server."""

    guard: Guard
    is_stopping: bool


class Carrier(Protocol):
    """What an exchange needs of its connection."""

    transport: asyncio.Transport

    @property
    def server(self) -> Door: ...
    def exchange_ended(self, will_keep_alive: bool, *, is_whole: bool = True) -> None: ...


class Exchange:
    """One request and its answer. All methods do nothing after `is_over`: it is answered, or the client has left."""

    __slots__ = ("_connection", "_is_counted", "_task", "errors", "is_background", "is_over", "notes", "on_over", "request", "responder")

    def __init__(self, connection: Carrier, request: Request) -> None:
        self._connection = connection
        self._task: asyncio.Task[None] | None = None
        self._is_counted = False
        self.request = request
        self.responder: Responder | None = None
        self.errors: ErrorShape = OPENAI_ERRORS  # of the API that the request uses
        self.notes = b""  # header lines for any answer
        self.is_over = False
        self.is_background = False  # a stopping server does not wait for it
        self.on_over: Callable[[Exchange, int | None], None] | None = None  # gets the status; None: the answer was cut off

    def __repr__(self) -> str:
        return f"<Exchange {self.request.method} {self.request.path}{' over' if self.is_over else ''}>"

    @property
    def transport(self) -> asyncio.Transport:
        return self._connection.transport

    @property
    def is_chunked(self) -> bool:
        """HTTP/1.0 has no chunks: there the end of the connection ends the body."""
        return self.request.http_minor > 0

    def headers(self, *, is_framed: bool = True) -> bytes:
        """Header lines that depend on the request: CORS and Connection. Not framed: the end of the connection ends the body."""
        request = self.request
        origin = request.header("origin")
        lines = self._connection.server.guard.cors_headers(origin) if origin is not None else b""
        lines += self.notes
        if not (is_framed and self.will_keep_alive):
            return lines + b"Connection: close\r\n"
        return lines + b"Connection: keep-alive\r\n" if request.http_minor == 0 else lines

    @property
    def will_keep_alive(self) -> bool:
        return self.request.keep_alive and not self._connection.server.is_stopping

    def stream_head(self, headers: bytes) -> bytes:
        """The head of a body of unknown length, with these header lines."""
        if self.is_chunked:
            return render_head(200, headers + self.headers() + b"Transfer-Encoding: chunked\r\n")
        return render_head(200, headers + self.headers(is_framed=False))

    def send(self, response: Response) -> None:
        """Answer with a whole response."""
        if self.is_over:
            return
        self._connection.transport.write(response.render(self.headers(), is_head=self.request.method == "HEAD"))
        self.end(response.status)

    def send_error(self, error: FastrouterError) -> None:
        self.send(self.error_response(error))

    def error_response(self, error: FastrouterError) -> Response:
        return error_response(error, self.errors)

    def internal_error(self) -> Response:
        """For an exception that is our own bug. Call it inside the `except`."""
        log.exception("%s %s failed", self.request.method, self.request.path)
        return self.error_response(FastrouterError("internal error; the router's log has the cause"))

    def count_generation(self) -> None:
        """Until it is over, the exchange counts for the concurrency limit of its key. Raises RateLimited."""
        caller = self.request.caller
        if caller is not None and not self._is_counted:
            caller.enter()
            self._is_counted = True

    def pass_count(self) -> Callable[[], None]:
        """The generation may outlive this exchange: it counts until the returned function is called."""
        is_counted, self._is_counted = self._is_counted, False
        leave: Callable[[], None] = self.request.caller.leave if is_counted else lambda: None
        return leave

    def _set_over(self, status: int | None) -> None:
        self.is_over = True
        if self._is_counted:
            self.request.caller.leave()
        if self.on_over is not None:
            self.on_over(self, status)

    def end(self, status: int | None = None, *, is_whole: bool = True, is_framed: bool = True) -> None:
        """The transport has the last byte. If the answer is not whole, the connection closes soon, so that the client sees the cut. If it
        is not framed, the connection closes now, so that the client sees the end."""
        if self.is_over:
            return
        self._set_over(status)
        self.responder = None
        self._connection.exchange_ended(is_framed and self.will_keep_alive, is_whole=is_whole)

    def end_stream(self) -> None:
        """Like `end`, after a body that was framed by chunks or by the connection's end."""
        self.end(200, is_framed=self.is_chunked)

    def abort(self) -> None:
        """Cut the connection now; unsent bytes are dropped."""
        self._connection.transport.abort()

    def run(self, answer: Coroutine[Any, Any, Response | None]) -> None:
        """Answer with the result or the error of the coroutine. When the client leaves, the coroutine is cancelled."""
        self._task = asyncio.get_running_loop().create_task(self._run(answer))

    async def _run(self, answer: Coroutine[Any, Any, Response | None]) -> None:
        try:
            response = await answer
        except FastrouterError as error:
            response = self.error_response(error)
        except asyncio.CancelledError:
            return  # by `disconnect` (the client has left) or `stop` (it has answered)
        except Exception:  # our own bug: it is logged with its traceback and answered with a 500
            response = self.internal_error()
        self._task = None
        if response is not None:
            self.send(response)

    def disconnect(self) -> None:
        if self.is_over:
            return
        self._set_over(CLIENT_LEFT)
        responder, self.responder = self.responder, None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if responder is not None:
            responder.disconnect()

    def stop(self, error: FastrouterError) -> None:
        """The server cannot wait any longer."""
        if self.responder is not None:
            self.responder.fail(error)
            return
        if self._task is not None:
            self._task.cancel()
        self.send_error(error)
