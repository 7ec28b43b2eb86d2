"""Asks an RPC server of llama.cpp which devices it has, over a connection of its own that ends with the answer. Loads nothing of llama.cpp.

llama.cpp itself ends its process when a server does not answer, so whoever wants to use one dials it first. Invariant: a dial takes at
most its timeout, and reads only answers of the expected size.
"""

import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from fastrouter.errors import FastrouterError
from fastrouter.options.endpoints import split_endpoint

DIAL_TIMEOUT_S = 3.0
MAX_DEVICES = 64  # of one server
PROTOCOL = (7, 0)  # major and minor version of llama.cpp's protocol: another major one, or a later minor one, cannot be used
_HELLO, _NUM_DEVICES, _MEMORY = 14, 15, 11  # commands
_CAPABILITIES_BYTES = 24
_COMMAND = struct.Struct("<BQ")  # number, bytes that follow
_LENGTH, _COUNT, _FREE_AND_TOTAL = struct.Struct("<Q"), struct.Struct("<I"), struct.Struct("<QQ")


class Unreachable(FastrouterError):
    """The server cannot be used now; the message says why."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    free_bytes: int
    total_bytes: int


def dial(endpoint: str, timeout_s: float = DIAL_TIMEOUT_S) -> list[DeviceMemory]:
    """The memory of each device. Raises Unreachable."""
    deadline = time.monotonic() + timeout_s
    try:
        with _connect(*split_endpoint(endpoint), deadline) as connection:
            return _ask_all(connection, deadline)
    except TimeoutError:
        raise Unreachable(f"it does not answer within {timeout_s:g} s; perhaps it serves another client") from None
    except (EOFError, struct.error):
        raise Unreachable("what answers there is not an RPC server of this version of llama.cpp") from None
    except OSError as error:
        raise Unreachable((error.strerror or str(error)).lower()) from None


def dial_all(endpoints: Sequence[str], timeout_s: float = DIAL_TIMEOUT_S) -> dict[str, list[DeviceMemory] | Unreachable]:
    """All at the same time."""
    found: dict[str, list[DeviceMemory] | Unreachable] = {}

    def note(endpoint: str) -> None:
        try:
            found[endpoint] = dial(endpoint, timeout_s)
        except Unreachable as error:
            found[endpoint] = error

    threads = [threading.Thread(target=note, args=(endpoint,)) for endpoint in endpoints]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {endpoint: found[endpoint] for endpoint in endpoints}


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    *_, address = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0]  # llama.cpp knows only IPv4
    return socket.create_connection((str(address[0]), port), _left(deadline))


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def greet(connection: socket.socket, deadline: float) -> tuple[int, int, int]:
    """The version of the server's protocol. It serves this connection from then on. Raises OSError, EOFError."""
    major, minor, patch = _ask(connection, _HELLO, bytes(_CAPABILITIES_BYTES), 4 + _CAPABILITIES_BYTES, deadline)[:3]
    return major, minor, patch


def _ask_all(connection: socket.socket, deadline: float) -> list[DeviceMemory]:
    major, minor, patch = greet(connection, deadline)
    if major != PROTOCOL[0] or minor > PROTOCOL[1]:
        theirs, ours = f"{major}.{minor}.{patch}", ".".join(map(str, PROTOCOL))
        raise Unreachable(f"it speaks version {theirs} of the protocol, and this llama.cpp {ours}: both must be of one release")
    (num_devices,) = _COUNT.unpack(_ask(connection, _NUM_DEVICES, b"", _COUNT.size, deadline))
    if not 0 < num_devices <= MAX_DEVICES:
        raise Unreachable(f"it has {num_devices} devices")
    asked = (_ask(connection, _MEMORY, _COUNT.pack(number), _FREE_AND_TOTAL.size, deadline) for number in range(num_devices))
    return [DeviceMemory(*_FREE_AND_TOTAL.unpack(answer)) for answer in asked]


def _ask(connection: socket.socket, command: int, content: bytes, answer_bytes: int, deadline: float) -> bytes:
    """Raises TimeoutError, EOFError."""
    connection.settimeout(_left(deadline))
    connection.sendall(_COMMAND.pack(command, len(content)) + content)
    (length,) = _LENGTH.unpack(_receive(connection, _LENGTH.size, deadline))
    if length != answer_bytes:
        raise EOFError
    return _receive(connection, answer_bytes, deadline)


def _receive(connection: socket.socket, num_bytes: int, deadline: float) -> bytes:
    received = b""
    while len(received) < num_bytes:
        connection.settimeout(_left(deadline))
        part = connection.recv(num_bytes - len(received))
        if not part:
            raise EOFError
        received += part
    return received
