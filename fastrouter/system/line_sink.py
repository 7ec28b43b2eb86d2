"""Lines that must never delay the program: a thread writes them; lines that cannot be written are dropped and counted.

Invariant: `write` returns immediately, whatever is at the other end: a pipe without a reader, a full disk, a FIFO.
"""

import contextlib
import io
import os
import queue
import select
import stat
import threading
from collections.abc import Callable
from typing import Protocol

MAX_WAITING = 4096  # lines
FLUSH_S = 1.0  # at the end, for a slow reader


class Target(Protocol):
    """Where lines go."""

    def write(self, data: bytes) -> None:
        """Raises OSError."""


class Descriptor:
    """Standard output or error."""

    def __init__(self, number: int) -> None:
        self.number = number

    def write(self, data: bytes) -> None:
        """Writes all of it, however long that takes. Raises OSError."""
        while data:
            try:
                data = data[os.write(self.number, data) :]
            except BlockingIOError:  # another process has made it non-blocking
                waiter = select.poll()
                waiter.register(self.number, select.POLLOUT)
                waiter.poll()


class File:
    """It is opened again when it has been moved or removed, so logrotate needs no signal."""

    def __init__(self, path: str) -> None:
        """Raises OSError when such a file is not possible. A FIFO may have no reader yet."""
        self._path = path
        self._descriptor: Descriptor | None = None
        if not (os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)):
            self._open()

    def _open(self) -> Descriptor:
        self._descriptor = Descriptor(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666))
        return self._descriptor

    def write(self, data: bytes) -> None:
        """Raises OSError."""
        descriptor = self._descriptor
        if descriptor is not None and not self._is_still(descriptor):
            self._descriptor = None
            os.close(descriptor.number)
        (self._descriptor or self._open()).write(data)

    def _is_still(self, descriptor: Descriptor) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(descriptor.number))
        except FileNotFoundError:
            return False


class LineSink(io.TextIOBase):
    """A stream to print and log to. Only one thread at a time writes to it."""

    def __init__(self, target: Target, on_failure: Callable[[OSError], None], on_dropped: Callable[[int], None]) -> None:
        """Both are called in the sink's thread: `on_failure` the first time that a line cannot be written, `on_dropped` when lines can
        be written again, with the number of lost lines."""
        self._target = target
        self._on_failure = on_failure
        self._on_dropped = on_dropped
        self._half_line = ""
        self._waiting: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING)
        self._num_refused = 0  # there was no room; counted by the writing thread
        self._num_failed = 0  # they could not be written; counted by our thread
        self._num_told = 0
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<LineSink {self._waiting.qsize()} waiting, {self._num_refused + self._num_failed} dropped>"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        if isinstance(self._target, Descriptor):
            return self._target.number
        raise io.UnsupportedOperation("fileno")

    def isatty(self) -> bool:
        return isinstance(self._target, Descriptor) and os.isatty(self._target.number)

    def write(self, text: str) -> int:
        """Complete lines are written; the rest waits for its end."""
        self._half_line += text
        lines, newline, self._half_line = self._half_line.rpartition("\n")
        if newline:
            self._put((lines + newline).encode("utf-8", "backslashreplace"))
        return len(text)

    def _put(self, data: bytes) -> None:
        try:
            self._waiting.put_nowait(data)
        except queue.Full:
            self._num_refused += 1

    def _run(self) -> None:
        while (data := self._waiting.get()) is not None:
            try:
                self._target.write(data)
            except OSError as error:
                self._num_failed += 1
                if self._num_failed == 1:
                    self._on_failure(error)
            else:
                self._tell_dropped()
            if self._is_ending and self._waiting.empty():
                return

    def _tell_dropped(self) -> None:
        num_dropped = self._num_refused + self._num_failed
        if num_dropped > self._num_told and self._waiting.empty():
            self._on_dropped(num_dropped - self._num_told)
            self._num_told = num_dropped

    def finish(self, timeout_s: float = FLUSH_S) -> bool:
        """Write what is left, for a limited time. False: that was not enough. Nothing may be written afterwards. Idempotent."""
        if self._half_line:
            self.write("\n")
        self._is_ending = True
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()
