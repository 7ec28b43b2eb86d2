"""Descriptors 0 to 2: open from the first line of every process, and the terminal they may lead to. Never imports: system.line_sink.

Invariant: after `open_missing`, nothing can become standard input, output or error by accident.
"""

import contextlib
import os
import signal
import sys

STANDARD = (0, 1, 2)


def open_missing() -> None:
    """Opens `/dev/null` for streams that are closed (`>&-`). Call it before anything else is opened."""
    for descriptor in STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, which is this one
            os.set_inheritable(descriptor, True)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


class Terminal:
    """The terminal that started this process, if the process has to end with it: not under nohup, which ignores SIGHUP."""

    def __init__(self) -> None:
        is_bound = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_controlling_terminal()
        self._descriptors = [descriptor for descriptor in STANDARD if is_bound and os.isatty(descriptor)]

    def __repr__(self) -> str:
        return f"<Terminal on {self._descriptors}{' gone' if self.is_gone else ''}>"

    @property
    def is_gone(self) -> bool:
        """It was there at the start and has been closed since."""
        return bool(self._descriptors) and not any(map(os.isatty, self._descriptors))


def _has_controlling_terminal() -> bool:
    with contextlib.suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        return True
    return False
