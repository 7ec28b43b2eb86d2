"""Messages to systemd about the service: ready, reloading, stopping, still alive. Never imports: supervisor, catalog, http, api.

Invariant: the loop never waits for systemd; without a listener, nothing happens here. http/sockets.py takes the sockets that systemd
passes on.
"""

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import MutableMapping

RETRY_S = 0.1  # systemd reads immediately; its queue is full only while it is busy


class Notifier:
    """Removes its variables from `environ`: workers must not speak for the router."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        path = environ.pop("NOTIFY_SOCKET", "")
        interval_us, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if path.startswith(("/", "@")) else None
        is_meant = pid in ("", str(os.getpid()), str(os.getppid()))  # the parent's pid: a launcher that runs us as its child
        self._beat_s = int(interval_us) / 2e6 if self._socket is not None and is_meant and interval_us.isdigit() else 0.0
        self._beat_timer: asyncio.TimerHandle | None = None
        self._retry_timer: asyncio.TimerHandle | None = None
        self._unsent: deque[bytes] = deque(maxlen=8)

    def __repr__(self) -> str:
        return f"<Notifier {self._address!r}{f' every {self._beat_s:g} s' if self._beat_s else ''}>"

    def start_watchdog(self) -> None:
        """Call it in the loop that has to be alive; it continues until `close`."""
        if self._beat_s:
            if not self._unsent:
                self._tell("WATCHDOG=1")
            self._beat_timer = asyncio.get_running_loop().call_later(self._beat_s, self.start_watchdog)

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """It lasts until `ready`."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def close(self) -> None:
        """Idempotent."""
        for timer in (self._beat_timer, self._retry_timer):
            if timer is not None:
                timer.cancel()
        self._beat_s = 0.0
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, *lines: str) -> None:
        if self._socket is not None:
            self._unsent.append("\n".join(lines).encode())
            if len(self._unsent) == 1:
                self._send()

    def _send(self) -> None:
        while self._unsent and self._socket is not None:
            try:
                self._socket.sendto(self._unsent[0], self._address)
            except BlockingIOError:
                self._retry_timer = asyncio.get_running_loop().call_later(RETRY_S, self._send)
                return
            except OSError:
                pass  # there is no listener
            self._unsent.popleft()
