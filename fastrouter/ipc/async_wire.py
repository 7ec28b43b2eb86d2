"""The router's end of the wire, see wire.py. It is in its own file because workers start sooner without asyncio."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

from fastrouter.errors import ProtocolError
from fastrouter.ipc.messages import Message
from fastrouter.ipc.wire import FrameReader, encode


class AsyncWire(asyncio.Protocol):
    """The router's end. `on_message` and `on_close` are called in the event loop. A broken frame, or a ProtocolError that `on_message`
    raises, closes the wire with that error."""

    def __init__(self, on_message: Callable[[Any], None], on_close: Callable[[Exception | None], None]) -> None:
        self._on_message = on_message
        self._on_close = on_close
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []  # sent before the connection was made
        self._is_closed = False
        self._sock: socket.socket | None = None

    async def connect(self, sock: socket.socket) -> "AsyncWire":
        """Take ownership of `sock`. Must not be cancelled: the transport would lose its socket."""
        self._sock = sock
        await asyncio.get_running_loop().create_connection(lambda: self, sock=sock)
        return self

    def send(self, message: Message) -> None:
        """After the close it does nothing: the process is ending, and its end is reported elsewhere."""
        if self._is_closed:
            return
        if self._transport is None:
            self._unsent.append(encode(message))
        elif not self._transport.is_closing():
            self._transport.write(encode(message))

    def close(self) -> None:
        """Idempotent; also before the connection is made."""
        self._is_closed = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not a subclass
        if self._is_closed:
            asyncio.get_running_loop().call_soon(self._transport.abort)  # uvloop is still attaching the socket
            return
        for frame in self._unsent:
            self._transport.write(frame)
        self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        if self._is_closed:
            return
        try:
            for message in self._reader.feed(data):
                self._on_message(message)
        except ProtocolError as error:
            self.close()
            self._on_close(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sock is not None:
            self._sock.detach()  # uvloop closes the descriptor; it marks the socket as closed only when `connect` has returned before
        self._on_close(exc)
