"""One client connection: bytes -> Request -> handler -> Response -> bytes. Never imports: http.routes, http.guard.

Invariant: one exchange at a time, and a new one does not start while the client leaves answers unread. A pipelined request waits, and
reading stops while many bytes wait. Only the server and the event loop refer to a connection: when the client has left, the connection and
its request bodies are freed without the garbage collector.
The states are in connection_state.py. The only other state is flow control: whether we may write, and whether we read.
Time is counted in sweeps of the server (one a second), so the hot path sets no deadline and no timer. Only a cut sets a timer.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from fastrouter._core import HttpError, Request, RequestParser
from fastrouter.errors import FastrouterError
from fastrouter.http.connection_state import State, Wait, check
from fastrouter.http.exchange import Door, Exchange
from fastrouter.http.response import CONTINUE, Response, refusal
from fastrouter.http.sockets import has_peer_closed
from fastrouter.http.tls import acked_bytes

log = logging.getLogger("fastrouter.http")

HEAD_SWEEPS = 10  # also for a client that connects and says nothing
LINGER_SWEEPS = 2  # a refused client may still be sending; if we closed immediately, a reset would delete the answer
CUT_AFTER_S = 0.5  # when a body is cut, browsers discard what the page has not read of it, the error event included
MIN_BODY_RATE = 1024  # bytes per sweep, on average, once HEAD_SWEEPS have passed
WRITE_BUFFER_HIGH = 64 << 10
LEAST_HELD_BYTES = 64 << 10  # of a body; smaller ones are not counted
MAX_WAITING_BYTES = 64 << 10  # of pipelined requests; below this we keep reading, so that we notice immediately when a client leaves

_OPEN, _REFUSING = State.OPEN, State.REFUSING  # on the hot path


class Endpoint(Door, Protocol):
    """What a connection needs of its server."""

    stall_sweeps: int  # for this long a client may leave an answer unread
    keep_alive_sweeps: int
    connections: "set[Connection]"
    held_bytes: int  # of all large bodies that are being read, or whose requests are not over
    max_held_bytes: int
    admit: Callable[[Request, int], int] | None  # a RequestParser's gate

    def dispatch(self, request: Request, exchange: Exchange) -> Any: ...
    def on_idle(self) -> None: ...


class Connection(asyncio.Protocol):
    __slots__ = (
        "_answering_bytes",
        "_buffered",
        "_exchange",
        "_held_bytes",
        "_is_paused",
        "_is_pumping",
        "_is_reading_held",
        "_parser",
        "_queue",
        "_refusal",
        "_seen",
        "_stalled",
        "_state",
        "_sweeps",
        "_waiting_bytes",
        "num_requests",
        "server",
        "transport",
    )

    def __init__(self, server: Endpoint, make_parser: Callable[..., RequestParser]) -> None:
        self.server = server
        self.transport: asyncio.Transport
        self.num_requests = 0
        self._parser = make_parser()
        self._exchange: Exchange | None = None
        self._queue: deque[Request] = deque()
        self._state = State.OPEN
        self._refusal: Response | None = None  # while REFUSING
        self._is_pumping = False
        self._is_paused = False  # the transport asked us not to write
        self._is_reading_held = False
        self._answering_bytes = 0  # of the large body whose request is being answered
        self._held_bytes = 0  # what the server has counted for this connection
        self._waiting_bytes = 0  # that have arrived since a request began to wait
        self._seen: object = None  # at the last sweep: the wait, and values that show progress
        self._sweeps = 0  # how many sweeps have seen the same values
        self._buffered = 0  # bytes that the client had not read at the last sweep, plus a constant
        self._stalled = 0  # sweeps since that changed

    def __repr__(self) -> str:
        return f"<Connection {self._state.value} {self.num_requests} requests, {self._exchange or 'idle'}>"

    @property
    def exchange(self) -> Exchange | None:
        return self._exchange

    @property
    def state(self) -> State:
        return self._state

    def _advance(self, state: State) -> None:
        check(self._state, state)
        self._state = state

    # ------------------------------------------------------------ the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are not a subclass
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_HIGH)
        self.server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._state is not _OPEN:
            return
        try:
            requests = self._parser.feed(data, self.server.admit)
        except HttpError as error:
            self.refuse(error.status, str(error))
            return
        if len(requests) == 1 and self._exchange is None and not self._is_paused and not self._queue:
            self._handle(requests[0])
        elif requests or self._queue:
            self._queue.extend(requests)
            self._waiting_bytes += len(data)
            self._pump()
        if self._held_bytes or self._answering_bytes or self._parser.num_held_bytes > LEAST_HELD_BYTES:
            self._count_held()
        if (sink := self._parser.sink) is not None and sink.is_full:
            self._hold_reading(True)
            sink.call_when_free(self._read_on)
        if self._parser.error is not None:
            self.refuse(self._parser.error.status, str(self._parser.error))
        elif self._parser.num_held_bytes > LEAST_HELD_BYTES and self.server.held_bytes > self.server.max_held_bytes:
            self._parser.close()
            self.refuse(503, "too many large requests at the moment: try again later")
        elif self._parser.owes_continue:
            self._say_continue()

    def eof_received(self) -> bool:
        return False  # a client that has closed its side has left

    def connection_lost(self, exc: Exception | None) -> None:
        self._advance(State.LOST)
        self.server.connections.discard(self)
        self._queue.clear()
        self._parser.close()
        self._answering_bytes = 0
        self._count_held()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.disconnect()
            self.server.on_idle()

    def pause_writing(self) -> None:
        self._is_paused = True
        if self._exchange is not None and self._exchange.responder is not None:
            self._exchange.responder.pause()

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._exchange is None:
            self._go_on()
        elif self._exchange.responder is not None:
            self._exchange.responder.resume()

    # ------------------------------------------------------------ requests

    def _handle(self, request: Request) -> None:
        self.num_requests += 1
        self._answering_bytes = len(request.body) if len(request.body) > LEAST_HELD_BYTES else 0
        exchange = self._exchange = Exchange(self, request)
        try:
            result = self.server.dispatch(request, exchange)
        except FastrouterError as error:
            result = exchange.error_response(error)
        except Exception:  # our own bug: it is logged with its traceback and answered with a 500
            result = exchange.internal_error()
        if isinstance(result, Response):
            exchange.send(result)
        elif result is not None:
            exchange.run(result)

    def _pump(self) -> None:
        """Handle the waiting requests, as long as no answer is in progress or unread."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while self._queue and self._exchange is None and not self._is_paused and not self.transport.is_closing():
                self._handle(self._queue.popleft())
        finally:
            self._is_pumping = False
        if self.transport.is_closing():
            self._queue.clear()
        elif self._queue:
            self._hold_reading(self._waiting_bytes > MAX_WAITING_BYTES)
        else:
            self._waiting_bytes = 0
            self._hold_reading(False)
            if self._state is _REFUSING and self._exchange is None:
                self._linger(self._refusal)

    def _count_held(self) -> None:
        held = self._parser.num_held_bytes + self._answering_bytes + sum(len(request.body) for request in self._queue)
        self.server.held_bytes += held - self._held_bytes
        self._held_bytes = held

    def _read_on(self) -> None:
        """The sink of a body has room again."""
        if self._state is _OPEN and not self.transport.is_closing():
            self._hold_reading(False)

    def _hold_reading(self, is_held: bool) -> None:
        if is_held != self._is_reading_held:
            self._is_reading_held = is_held
            (self.transport.pause_reading if is_held else self.transport.resume_reading)()

    def exchange_ended(self, will_keep_alive: bool, *, is_whole: bool = True) -> None:
        self._exchange = None
        self._answering_bytes = 0
        if self._held_bytes:
            self._count_held()
        if not is_whole:
            self._queue.clear()
            self._advance(State.CUT)
            asyncio.get_running_loop().call_later(CUT_AFTER_S, self.transport.close)
        elif not will_keep_alive:
            self._queue.clear()
            if self._parser.is_ended:
                self._linger()  # much of a body that we do not read may still arrive
            else:
                self.transport.close()
        else:
            self._go_on()
        if self.server.is_stopping:
            self.server.on_idle()

    def _go_on(self) -> None:
        """Continue with what has waited for the end of an answer."""
        if self._queue:
            self._pump()
        elif self._parser.owes_continue:
            self._say_continue()
        elif self._state is _REFUSING and not self._is_pumping:
            self._linger(self._refusal)

    def refuse(self, status: int, message: str) -> None:
        """Answer unacceptable bytes, after all earlier requests, and close. Does nothing if the last byte is already written."""
        if self._state is not _OPEN:
            return
        response = refusal(status, message)
        self._parser.owes_continue = False
        if self._held_bytes:
            self._count_held()
        if self._exchange is None and not self._queue:
            self._linger(response)
        else:
            self._advance(State.REFUSING)
            self._refusal = response

    def _linger(self, response: Response | None = None) -> None:
        self._advance(State.LINGERING)
        self._refusal = None
        if not self.transport.is_closing():
            if response is not None:
                self.transport.write(response.render())
            # TLS cannot end one direction, but after a close it keeps reading until the client has closed too.
            (self.transport.write_eof if self.transport.can_write_eof() else self.transport.close)()

    def _say_continue(self) -> None:
        """After the answers to all earlier requests, and only to a client that still waits."""
        if self._exchange is None and not self._queue:
            self._parser.owes_continue = False
            if self._parser.in_body and not self._parser.num_body_bytes and not self.transport.is_closing():
                self.transport.write(CONTINUE)

    # ------------------------------------------------------------ the server calls

    def sweep(self) -> None:
        """Once a second: end what takes too long."""
        acked = acked_bytes(self.transport)
        if self._has_stalled(acked) or (self._is_reading_held and has_peer_closed(self.transport)):
            self.transport.abort()
            return
        wait = self._wait()
        has_said_all = wait in (Wait.DELIVERY, Wait.GOODBYE)
        seen = (wait, self.num_requests, self._undelivered(acked) if has_said_all else None)
        if seen != self._seen:
            self._seen = seen
            self._sweeps = 0
            return
        self._sweeps += 1
        if wait is Wait.ANSWER or self._sweeps < self._limit(wait):
            return
        if has_said_all:
            self.transport.abort()
        elif wait is Wait.REQUEST:
            self.transport.close()
        else:
            self.refuse(408, "the request took too long to arrive")

    def _wait(self) -> Wait:
        if self._exchange is not None:
            return Wait.ANSWER
        if self._state is not _OPEN and self._state is not _REFUSING:
            return Wait.GOODBYE
        if self.transport.is_closing():
            return Wait.DELIVERY
        if self._state is _REFUSING:
            return Wait.ANSWER
        if self._parser.is_idle:
            return Wait.REQUEST
        return Wait.BODY if self._parser.in_body else Wait.HEAD

    def _limit(self, wait: Wait) -> int:
        """How many sweeps the wait may last."""
        if wait is Wait.GOODBYE:
            return LINGER_SWEEPS
        if wait is Wait.DELIVERY:
            return self.server.stall_sweeps
        if wait is Wait.REQUEST and self.num_requests:
            return self.server.keep_alive_sweeps
        if wait is Wait.BODY:
            return max(HEAD_SWEEPS, self._parser.num_body_bytes // MIN_BODY_RATE + 1)
        return HEAD_SWEEPS

    def _undelivered(self, acked: int | None) -> int:
        """Bytes that the client has not received, plus a constant."""
        return self.transport.get_write_buffer_size() if acked is None else -acked

    def _has_stalled(self, acked: int | None) -> bool:
        """The client has read nothing of a waiting answer for too long."""
        buffered = self.transport.get_write_buffer_size()
        if not buffered or not (self._is_paused or self._exchange is None):
            self._buffered = self._stalled = 0
            return False
        left = self._undelivered(acked)
        self._stalled, self._buffered = self._stalled + 1 if left == self._buffered else 0, left
        return self._stalled >= self.server.stall_sweeps

    def stop(self) -> None:
        """The server stops: an idle connection closes now, a busy one after its answer."""
        if self._exchange is None:
            self.transport.close()
