"""What systemd wants to hear of a service: ready, reloading, stopping, still alive. Knows nothing of what the service does.

Invariant: the loop never waits for systemd; where nobody listens, everything here does nothing. The sockets systemd hands over are
taken in http/sockets.py.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import MutableMapping


class Notifier:
    """Takes its variables out of `environ`: workers must not speak for the router."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        path = environ.pop("NOTIFY_SOCKET", "")
        interval_us, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if path.startswith(("/", "@")) else None
        is_meant = pid in ("", str(os.getpid()), str(os.getppid()))  # the parent's: a launcher that runs us as its child
        self._beat_s = int(interval_us) / 2e6 if self._socket is not None and is_meant and interval_us.isdigit() else 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Notifier {self._address!r}{f' every {self._beat_s:g} s' if self._beat_s else ''}>"

    def start_watchdog(self) -> None:
        """Call in the loop whose turning is the sign of life; it goes on until `close`."""
        if self._beat_s:
            self._tell("WATCHDOG=1")
            self._timer = asyncio.get_running_loop().call_later(self._beat_s, self.start_watchdog)

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Until `ready`."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def close(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, *lines: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # its queue is full, or it is gone: the next word may arrive
                self._socket.sendto("\n".join(lines).encode(), self._address)
