"""A stream of events to one client. It ends when the client leaves or the server stops.

Invariant: while there are no events, a ping shows each side that the other still exists. A client that reads too slowly is disconnected.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from fastrouter._core import SseWriter
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import SSE_HEADERS
from fastrouter.http.sse import json_event

PING_S = 15.0


class LiveStream(SseWriter):
    """Answers its exchange as soon as it is created. `send` the existing events, then `start`."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange.transport, exchange.stream_head(SSE_HEADERS), chunked=exchange.is_chunked)
        self._exchange = exchange
        self._leave: Callable[[], None] = lambda: None
        self._timer: asyncio.TimerHandle | None = None
        self._flush_handle: asyncio.Handle | None = None
        exchange.responder = self
        exchange.is_background = True

    def send(self, content: dict[str, Any]) -> None:
        """Sent together with the other events of this turn of the event loop."""
        self.write_event(json_event(content))
        if self._flush_handle is None:
            self._flush_handle = asyncio.get_running_loop().call_soon(self._flush)

    def start(self, leave: Callable[[], None]) -> None:
        """`leave` is called at the end."""
        self._leave = leave
        self.write_event(b": connected\n\n")
        self._flush()
        self._ping_later()

    def _flush(self) -> None:
        self._flush_handle = None
        self.flush()

    def _ping_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PING_S, self._ping)

    def _ping(self) -> None:
        self.write_event(b": ping\n\n")
        self._ping_later()
        self.flush()

    def disconnect(self) -> None:
        self._leave()
        for handle in (self._timer, self._flush_handle):
            if handle is not None:
                handle.cancel()

    def fail(self, error: Exception) -> None:
        """The server stops: the stream ends without an error."""
        self.disconnect()
        self.finish()
        self._exchange.end_stream()

    def on_overflow(self) -> None:
        self.disconnect()
        self._exchange.abort()
