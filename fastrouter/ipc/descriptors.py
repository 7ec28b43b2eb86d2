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
            socket.send_fds(self._sock, [_NUMBER.pack(number)], [fd], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def take(self, number: int) -> int:
        """The descriptor, which the caller closes. Raises ProtocolError when it has not come."""
        while number not in self._arrived and self._receive():
            pass
        if number not in self._arrived:
            raise ProtocolError(f"descriptor {number} was not sent")
        return self._arrived.pop(number)

    def _receive(self) -> bool:
        """False: there is nothing to read."""
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, _NUMBER.size, 1, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return False
        if len(data) != _NUMBER.size or len(fds) != 1 or len(self._arrived) >= MAX_UNTAKEN:
            for fd in fds:
                os.close(fd)
            return bool(data)
        number = _NUMBER.unpack(data)[0]
        if number in self._arrived:
            os.close(self._arrived[number])
        self._arrived[number] = fds[0]
        return True

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()
        while self._arrived:
            with contextlib.suppress(OSError):
                os.close(self._arrived.popitem()[1])
