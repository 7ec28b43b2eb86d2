"""The connections, their common timer, and the stop. The sockets are made in sockets.py. Never imports: http.routes.

Invariant: never more connections than the descriptors allow. A stop first closes the listeners, then waits, then ends what still runs.
"""

import asyncio
import logging
import math
import resource
import socket
from collections.abc import Callable
from typing import Any, cast

from fastrouter._core import Request, RequestParser
from fastrouter.errors import ConfigError, Unavailable
from fastrouter.http.connection import Connection
from fastrouter.http.exchange import Exchange
from fastrouter.http.guard import Guard
from fastrouter.http.response import refusal
from fastrouter.http.sockets import BACKLOG
from fastrouter.http.tls import Certificate, TlsListener

log = logging.getLogger("fastrouter.http")

MAX_CONNECTIONS = 4096
RESERVED_DESCRIPTORS = 256  # for workers, rings, models and files, if the limit is high enough; otherwise half of the limit
LEAST_RESERVED = 40  # the start needs about 25, and a model 6
LEAST_DESCRIPTORS = 48
SWEEP_S = 1.0
MAX_HELD_BYTES = 256 << 20  # of all large bodies together; a client that sends one more must try again later
STALL_S = 10.0
KEEP_ALIVE_S = 75.0


def raise_descriptor_limit() -> int:
    """Soft limit -> hard limit; returns it. Our child processes inherit it: none of them uses select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 1 << 16)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def connections_for(limit: int) -> int:
    """How many connections are possible, so that descriptors are left for everything else. Raises ConfigError."""
    if limit < LEAST_DESCRIPTORS:
        raise ConfigError(f"only {limit} files may be open at a time, which is too few: allow {LEAST_DESCRIPTORS} or more (ulimit -n 1024)")
    return min(MAX_CONNECTIONS, limit - max(LEAST_RESERVED, min(RESERVED_DESCRIPTORS, limit // 2)))


class Server:
    def __init__(
        self,
        dispatch: Callable[[Request, Exchange], Any],
        guard: Guard,
        *,
        admit: Callable[[Request, int], int] | None = None,
        make_parser: Callable[..., RequestParser] = RequestParser,
        max_connections: int | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """`admit`: a RequestParser's gate. `timeout_s`: how long a client may leave an answer unread, and an idle connection lives; default
        STALL_S and KEEP_ALIVE_S."""
        self.guard = guard
        self.dispatch = dispatch
        self.admit = admit
        self.is_stopping = False
        self.stall_sweeps = math.ceil((timeout_s or STALL_S) / SWEEP_S)
        self.keep_alive_sweeps = math.ceil((timeout_s or KEEP_ALIVE_S) / SWEEP_S)
        self.connections: set[Connection] = set()
        self.held_bytes = 0
        self.max_held_bytes = MAX_HELD_BYTES
        self.max_connections = max_connections or connections_for(raise_descriptor_limit())
        self._make_parser = make_parser
        self._servers: list[asyncio.AbstractServer] = []
        self._tls: list[TlsListener] = []
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Event = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Server {len(self.connections)} connections{' stopping' if self.is_stopping else ''}>"

    async def start(self, sockets: list[socket.socket], certificate: Certificate | None = None) -> None:
        """With a certificate, all sockets except Unix sockets use HTTPS. Bytes of a Unix socket leave this machine only through a proxy."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            if certificate is not None and sock.family != socket.AF_UNIX:
                self._tls.append(TlsListener(sock, certificate, self._connection, self._is_full))
                continue
            create: Callable[..., Any] = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
            self._servers.append(await create(self._connection, sock=sock, backlog=BACKLOG))
        self._sweep_timer = loop.call_later(SWEEP_S, self._sweep)

    def _is_full(self) -> bool:
        return len(self.connections) + sum(listener.num_arriving for listener in self._tls) >= self.max_connections

    def _connection(self) -> asyncio.Protocol:
        if len(self.connections) >= self.max_connections:
            return Overflow()
        return Connection(self, self._make_parser)

    def _sweep(self) -> None:
        self.guard.keys.refresh()
        for connection in list(self.connections):
            connection.sweep()
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def on_idle(self) -> None:
        """A connection has lost or ended its exchange."""
        if self.is_stopping and not self._exchanges():
            self._idle.set()

    def _exchanges(self) -> list[Exchange]:
        running = [connection.exchange for connection in self.connections if connection.exchange is not None]
        return [exchange for exchange in running if not exchange.is_background]

    async def drain(self, timeout_s: float) -> None:
        """Stop listening, wait for running requests, then end the rest with an error. Idempotent."""
        self.is_stopping = True
        for server in self._servers:
            server.close()
        for listener in self._tls:
            listener.close()
        for connection in list(self.connections):
            connection.stop()
        stopping = Unavailable("the server is stopping")
        for connection in list(self.connections):
            if connection.exchange is not None and connection.exchange.is_background:
                connection.exchange.stop(stopping)
        await asyncio.sleep(0)  # connections that were just refused end here
        if num_running := len(self._exchanges()):
            said = f"{num_running} request{'' if num_running == 1 else 's'}"
            log.info("stopping: waiting up to %g s for %s; Ctrl-C, or another signal, ends it now", timeout_s, said)
            await self._wait_idle(timeout_s)
        for exchange in self._exchanges():
            exchange.stop(stopping)

    async def _wait_idle(self, timeout_s: float) -> None:
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            log.warning("%d requests did not finish in %g s", len(self._exchanges()), timeout_s)

    def close(self) -> None:
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection in list(self.connections):
            connection.transport.close()


class Overflow(asyncio.Protocol):
    """A connection above the limit gets an error immediately and is closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's transports are not a subclass
        transport.write(refusal(503, "too many connections").render())
        transport.close()
