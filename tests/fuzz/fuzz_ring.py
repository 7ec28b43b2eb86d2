"""The ring with a producer that lies: it may write anything anywhere. The reader drains or refuses, and stays inside its memory.

An operation is 11 bytes: what to do, where (u16), and eight bytes to write there.
"""

import mmap
import os

from fastrouter._core import LAST, Sink, SseWriter, TextCollector, TokenRing
from fastrouter.errors import ProtocolError

PAGE = os.sysconf("SC_PAGE_SIZE")
OPERATION = 11


class Recorder(Sink):
    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        assert len(payload) <= PAGE
        assert choice < 256

    def fail(self, error: Exception) -> None:
        raise AssertionError(error)


class Collector(TextCollector):
    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        assert len(payload) <= PAGE


class Writer(SseWriter):
    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        assert len(payload) <= PAGE

    def on_overflow(self) -> None: ...


def check(data: bytes) -> None:
    ring = TokenRing.create(PAGE)
    producer = TokenRing.open(os.dup(ring.memory_fd), os.dup(ring.doorbell_fd))
    writer = Writer(None, b"", max_buffered=1 << 12)
    writer.set_template(1, 0, b"<", b">")
    errors: list[BaseException] = []
    ring.on_sink_error = lambda sink, error: errors.append(error)
    ids = [ring.attach(sink) for sink in (Recorder(), Collector(), writer)]
    with mmap.mmap(ring.memory_fd, 2 * PAGE) as memory:
        for at in range(0, min(len(data), 64 * OPERATION), OPERATION):
            try:
                _operate(data[at : at + OPERATION].ljust(OPERATION, b"\0"), ring, producer, memory, ids)
            except ProtocolError:
                break  # the router ends such a worker
    ring.close()
    producer.close()
    assert not errors, errors


def _operate(operation: bytes, ring: TokenRing, producer: TokenRing, memory: mmap.mmap, ids: list[int]) -> None:
    what, where, value = operation[0], int.from_bytes(operation[1:3], "little"), operation[3:]
    if what & 3 == 0:
        place = where % (2 * PAGE - 7)
        memory[place : place + 8] = value
    elif what & 3 == 1:
        producer.try_push(ids[where % 3], value[0] % 7, value[1], LAST if value[2] > 250 else 0, value[3], value * (value[4] % 128))
    elif what & 3 == 2:
        ring.drain()
    else:
        place = (0, 64, 128, 192, 256, PAGE)[where % 6]
        memory[place : place + 8] = value
