"""The standard output and error of a process: a pipe that the event loop reads, so that it never fills up.

Invariant: a line that is passed on is printable, not empty, and has a limited length.
"""

import asyncio
import os
from collections.abc import Callable

from fastrouter.supervisor.workers.worker_log import clean_line

MAX_LINE_BYTES = 4096
LAST_READS = 8  # twice the capacity of a pipe
READ_BYTES = 16 << 10  # in one read: a process that floods its log must not delay others


class LinePipe:
    def __init__(self, on_line: Callable[[str], None], fd: int | None = None) -> None:
        """`fd`: the reading end of a pipe whose other end a process has already. Raises OSError."""
        self._on_line = on_line
        self._loop = asyncio.get_running_loop()
        self._half_line = b""
        self._is_listening = False
        self._fd, self.child_fd = os.pipe2(os.O_CLOEXEC) if fd is None else (fd, -1)
        os.set_blocking(self._fd, False)

    def __repr__(self) -> str:
        return f"<LinePipe{' listening' if self._is_listening else ''}>"

    def listen(self) -> None:
        """The process has the other end now."""
        self._close_child_end()
        self._is_listening = True
        self._loop.add_reader(self._fd, self.read)

    def read(self) -> bool:
        """True: there may be more to read."""
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return False
        is_end = not data
        if is_end:
            self._loop.remove_reader(self._fd)
            data = b"\n"
        *lines, self._half_line = (self._half_line + data).split(b"\n")
        if len(self._half_line) > MAX_LINE_BYTES:
            lines.append(self._half_line)
            self._half_line = b""
        for line in lines:
            text = clean_line(line[:MAX_LINE_BYTES].decode("utf-8", "replace"))
            if text:
                self._on_line(text)
        return not is_end

    def read_last(self) -> None:
        """Read what a process wrote before its end, unless other processes still write."""
        for _ in range(LAST_READS):
            if not self.read():
                return

    def close(self) -> None:
        """Idempotent."""
        self._close_child_end()
        if self._fd >= 0:
            if self._is_listening:
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _close_child_end(self) -> None:
        if self.child_fd >= 0:
            os.close(self.child_fd)
            self.child_fd = -1
