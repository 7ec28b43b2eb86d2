"""A streamed answer that goes on when its client leaves. A later client reads it from any byte. Never imports: api.flavours, supervisor.

A Recording is between a Stream and its clients. The Stream writes into it as into a connection, once per drain of the ring. Each client
has a Reader, which has its own place in the bytes.

Invariant: bytes are dropped only at the front, when there are too many, and only if a client has got them. If too many wait that no client
has got, the generation ends.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastrouter.api.serving.stream import Stream
from fastrouter.api.serving.whole import Whole
from fastrouter.errors import StreamStopped
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response

PIECE_BYTES = 64 << 10  # of one write to a client that catches up


def _nothing() -> None:
    pass


class Recording:
    is_chunked = False  # each Reader makes the chunks of its client

    def __init__(self, model_id: str, max_bytes: int, grow: Callable[[int], bool], on_end: Callable[[], None]) -> None:
        """`grow(num_bytes)` counts what is kept; False: there is no memory for it."""
        self.model_id = model_id
        self.started_at = time.time()
        self.completed_at = 0.0
        self.responder: Stream | Whole | None = None  # while it runs
        self.end_count: Callable[[], None] = _nothing  # it does not count for the limit of its key any more
        self.headers = b""  # lines of the head of its answer
        self.has_begun = False  # those are known
        self.refusal: Response | None = None  # the answer, if it failed before its first byte
        self.is_whole = False
        self.num_tokens = 0  # when it is over
        self.num_dropped = 0
        self._max_bytes = max_bytes
        self._kept = bytearray()
        self._num_read = 0  # bytes that at least one client has got
        self._is_full = False
        self._readers: list[Reader] = []
        self._task: asyncio.Task[None] | None = None  # waits for the model
        self.expiry: asyncio.TimerHandle | None = None  # after its end, until it is forgotten
        self._grow, self._on_end = grow, on_end

    def __repr__(self) -> str:
        return f"<Recording {self.num_dropped}..{self.num_bytes} {len(self._readers)} readers{' over' if self.is_over else ''}>"

    @property
    def is_over(self) -> bool:
        return self.completed_at > 0

    @property
    def num_bytes(self) -> int:
        """All that ever came."""
        return self.num_dropped + len(self._kept)

    @property
    def num_kept(self) -> int:
        return len(self._kept)

    @property
    def has_readers(self) -> bool:
        return bool(self._readers)

    # ------------------------------------------------------------ what the Stream calls, as if this were an exchange

    @property
    def transport(self) -> "Recording":
        return self

    def stream_head(self, headers: bytes) -> bytes:
        self.headers = headers
        self.has_begun = True
        return b""

    def write(self, data: bytes) -> None:
        if self.is_over:
            return
        self._kept += data
        has_room = self._grow(len(data))
        for reader in tuple(self._readers):
            reader.advance()
        if len(self._kept) > self._max_bytes or not has_room:
            self._shorten(has_room)

    def send(self, response: Response) -> None:
        self.refusal = response
        self._end()

    def end_stream(self) -> None:
        self.is_whole = True
        self._end()

    def end(self, *, is_whole: bool = True) -> None:
        self.is_whole = is_whole
        self._end()

    def abort(self) -> None:
        self._end()

    # ------------------------------------------------------------ its life

    def run(self, waiting: Coroutine[Any, Any, None]) -> None:
        """The wait for the model goes on without a client."""
        self._task = asyncio.get_running_loop().create_task(waiting)

    def stop(self, why: str) -> None:
        """Idempotent."""
        if self.responder is not None:
            self.responder.cancel(StreamStopped(f"the request was cancelled: {why}"))
        if self._task is not None:
            self._task.cancel()

    def _shorten(self, has_room: bool) -> None:
        num_over = len(self._kept) - self._max_bytes if has_room else len(self._kept)
        num_bytes = min(num_over, self._num_read - self.num_dropped)
        del self._kept[:num_bytes]
        self.num_dropped += num_bytes
        self._grow(-num_bytes)
        for reader in tuple(self._readers):
            if reader.at < self.num_dropped:
                reader.cut()
        if num_bytes < num_over and not self._is_full and self.responder is not None:
            self._is_full = True  # the error is written here too
            self.responder.fail(StreamStopped(f"the answer was ended: {len(self._kept)} bytes of it wait, and no client has read them"))

    def _end(self) -> None:
        if self.is_over:
            return
        self.completed_at = time.time()
        if self.responder is not None:
            self.num_tokens = self.responder.num_tokens
            self.responder = None  # with the request's texts
        self.end_count()
        on_end, self._on_end = self._on_end, _nothing  # it refers to this object
        on_end()
        for reader in tuple(self._readers):
            reader.advance()

    # ------------------------------------------------------------ for readers

    def attach(self, exchange: Exchange, at: int) -> "Reader":
        """One more client, which has got all bytes before `at`. `at` is not before `num_dropped`, and not after `num_bytes`."""
        reader = Reader(exchange, self, at)
        self._readers.append(reader)
        exchange.responder = reader
        return reader

    def leave(self, reader: "Reader") -> None:
        if reader in self._readers:
            self._readers.remove(reader)

    def read(self, at: int) -> bytes:
        """The next bytes for a client that has got all before `at`."""
        start = at - self.num_dropped
        piece = bytes(self._kept[start : start + PIECE_BYTES])
        self._num_read = max(self._num_read, at + len(piece))
        return piece


class Reader:
    """One client of a recording: its exchange, and its place in the bytes."""

    def __init__(self, exchange: Exchange, recording: Recording, at: int) -> None:
        self.at = at
        self._exchange = exchange
        self._recording = recording
        self._is_paused = False
        self._is_started = False

    def __repr__(self) -> str:
        return f"<Reader at {self.at}{' paused' if self._is_paused else ''} of {self._recording}>"

    @property
    def num_tokens(self) -> int:
        """For the access log."""
        running = self._recording.responder
        return self._recording.num_tokens if running is None else running.num_tokens

    def advance(self) -> None:
        """Sends what the client has not got, unless it is slow."""
        recording = self._recording
        while self.at < recording.num_bytes and not self._is_paused and not self._exchange.is_over:
            piece = recording.read(self.at)
            self.at += len(piece)
            self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._exchange.is_chunked else piece)
        if recording.is_over and self.at == recording.num_bytes and not self._exchange.is_over:
            self._end()

    def start(self) -> None:
        """The client knows at the first byte that its stream exists."""
        if self._recording.has_begun and not self._is_started:
            self._write(b"")
        self.advance()

    def _write(self, data: bytes) -> None:
        if not self._is_started:
            self._is_started = True
            data = self._exchange.stream_head(self._recording.headers) + data
        self._exchange.transport.write(data)

    def _end(self) -> None:
        recording, exchange = self._recording, self._exchange
        recording.leave(self)
        if recording.refusal is not None:
            exchange.send(recording.refusal)
        elif recording.is_whole:
            self._write(b"0\r\n\r\n" if exchange.is_chunked else b"")
            exchange.end_stream()
        else:
            exchange.end(is_whole=False)

    def cut(self) -> None:
        """The client is too slow: bytes that it needs are gone."""
        self._recording.leave(self)
        self._exchange.abort()

    # ------------------------------------------------------------ what the exchange calls

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self.advance()

    def disconnect(self) -> None:
        self._recording.leave(self)

    def fail(self, error: Exception) -> None:
        """The server stops: no client gets any more."""
        if self._recording.responder is not None:
            self._recording.responder.fail(error)
        self._recording.leave(self)
        self._exchange.end(is_whole=False)
