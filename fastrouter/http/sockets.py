"""Listening sockets: create them, take them over from systemd, name them, clean up. Never imports: http.connection.

Invariant: only its user can use the file of a Unix socket, and only a dead socket is ever replaced or removed.
"""

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import MutableMapping, Sequence

from fastrouter.errors import ConfigError

BACKLOG = 1024
FIRST_INHERITED = 3  # sd_listen_fds(3)
_CLOSE_WAIT = 8  # of Linux' TCP states, the first byte of tcp_info
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def is_unix(host: str) -> bool:
    return host.endswith(".sock")


def bind(hosts: Sequence[str], port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Listening sockets; port 0 is chosen once and shared. A host that ends with .sock is a Unix socket. Raises ConfigError."""
    sockets: list[socket.socket] = []
    is_only_ipv6 = all(is_unix(host) or ":" in host for host in hosts)
    try:
        for host in hosts:
            if is_unix(host):
                sockets.append(_bind_unix(host))
                continue
            for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
                is_dual = host == "::" and is_only_ipv6 and socket.has_dualstack_ipv6()
                name = (str(address[0]), port)
                sockets.append(
                    socket.create_server(name, family=family, backlog=BACKLOG, reuse_port=reuse_port, dualstack_ipv6=is_dual),
                )
                port = port or int(sockets[-1].getsockname()[1])
    except OSError as error:
        for sock in sockets:
            sock.close()
        where = host if is_unix(host) else f"{host} port {port}"
        reason = "it is in use" if error.errno == errno.EADDRINUSE else str(error.strerror or error)
        raise ConfigError(f"cannot listen on {where}: {reason}") from None
    return sockets


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_stale(path):
            os.unlink(path)
        os.fchmod(sock.fileno(), 0o600)  # the file has the socket's mode from the beginning, so other users can never connect
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _is_stale(path: str) -> bool:
    """Whether it is a socket whose owner has ended. `connect` gives the same error for other kinds of files."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "a file with this name exists, and it is not a socket")
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED


def inherited(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The sockets that systemd has opened for this process. Child processes must not use them. Raises ConfigError."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    # A one-file executable unpacks itself in the process that systemd has started, and runs in a child of that process.
    if pid not in (str(os.getpid()), str(os.getppid())) or not count.isdigit():
        return []
    sockets = []
    for descriptor in range(FIRST_INHERITED, FIRST_INHERITED + int(count)):
        try:
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
            is_listening = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        except OSError as error:
            raise ConfigError(f"descriptor {descriptor} of LISTEN_FDS: {error.strerror}") from None
        if sock.family not in _FAMILIES or sock.type != socket.SOCK_STREAM or not is_listening:
            raise ConfigError(f"descriptor {descriptor} of LISTEN_FDS is not a listening stream socket")
        sockets.append(sock)
    return sockets


def address_of(sock: socket.socket, *, is_tls: bool = False) -> str:
    """The URL for clients."""
    if sock.family == socket.AF_UNIX:
        return f"unix://{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{'https' if is_tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def has_peer_closed(transport: asyncio.Transport) -> bool:
    """Whether the client has closed its side, even if we have not read that far. For a Unix socket this is unknown."""
    sock = transport.get_extra_info("socket")
    try:
        return sock is not None and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSE_WAIT
    except OSError:
        return False


class SocketFile:
    """The file of a Unix socket that this process has bound."""

    def __init__(self, sock: socket.socket) -> None:
        self._path = str(sock.getsockname())
        self._identity = self._look()

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = os.lstat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns  # the inode number of a removed file is soon used again

    def remove(self) -> None:
        """Remove the file, unless another process has put its socket there. Idempotent."""
        if self._identity is not None and self._look() == self._identity:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        self._identity = None
