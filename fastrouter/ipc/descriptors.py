"""Open files that travel between router and worker: a second socketpair beside the wire. Both ends are in this file.

A descriptor has a number, and a message on the wire names it. It is sent before its message, so whoever reads the message finds the
descriptor here. Invariant: a descriptor that is not taken is closed by `close`.
"""

import contextlib
import os
import socket
import struct

from fastrouter.errors import ProtocolError

MAX_UNTAKEN = 256  # descriptors that have come, and that no message has named yet
_NUMBER = struct.Struct("<Q")
_FD = struct.Struct("i")


def descriptor_pair() -> tuple[socket.socket, socket.socket]:
    """Raises OSError."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Descriptors:
    """One end. It never blocks."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._arrived: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Descriptors {len(self._arrived)} not taken>"

    def send(self, number: int, fd: int) -> bool:
        """The caller keeps its own. False: the other end has closed, or has not read earlier ones."""
        try:
            # Not socket.send_fds: it ignores flags.
            attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _FD.pack(fd))]
            self._sock.sendmsg([_NUMBER.pack(number)], attached, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def take(self, number: int) -> int:
        """The descriptor, which the caller closes. Raises ProtocolError when it has not come, or when too many others have."""
        while number not in self._arrived and self._receive():
            pass
        if number not in self._arrived:
            raise ProtocolError(f"descriptor {number} was not sent")
        return self._arrived.pop(number)

    def _receive(self) -> bool:
        """False: there is nothing to read."""
        try:
            flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            data, attached, _, _ = self._sock.recvmsg(_NUMBER.size, socket.CMSG_LEN(_FD.size), flags)
        except OSError:
            return False
        fds = [_FD.unpack(value)[0] for _, kind, value in attached if kind == socket.SCM_RIGHTS and len(value) == _FD.size]
        if len(data) != _NUMBER.size or not fds:
            return bool(data)
        number = _NUMBER.unpack(data)[0]
        if number in self._arrived or len(self._arrived) >= MAX_UNTAKEN:
            os.close(fds[0])
            raise ProtocolError("too many descriptors that no message names")
        self._arrived[number] = fds[0]
        return True

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()
        while self._arrived:
            with contextlib.suppress(OSError):
                os.close(self._arrived.popitem()[1])
