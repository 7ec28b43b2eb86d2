"""RPC workers as their users have them: real processes on loopback ports, and servers that only pretend to be one."""

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from conftest import FASTROUTER, descendants, eventually, is_alive


@dataclass
class RpcWorker:
    process: "subprocess.Popen[str]"
    endpoint: str
    greeting: str

    @property
    def port(self) -> int:
        return int(self.endpoint.partition(":")[2])

    @property
    def key(self) -> str:
        """Of its only device."""
        return f"RPC0[{self.endpoint}]"

    def kill(self) -> None:
        """As if its machine were switched off: it says nothing more, and its connections end."""
        everything = [self.process.pid, *descendants(self.process.pid)]
        for pid in everything:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        eventually(lambda: not [pid for pid in everything if is_alive(pid)], "the end of the RPC worker")


@contextlib.contextmanager
def rpc_worker(*flags: str, env: dict[str, str] | None = None) -> Iterator[RpcWorker]:
    command = [*FASTROUTER, "rpc-worker", "--port", "0", "--threads", "1", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}) as process:
        try:
            assert process.stdout is not None
            greeting = process.stdout.readline()
            found = re.match(r"RPC worker on ([\d.]+:\d+): CPU: .+ \(\d+ MiB, \d+ MiB free\)\n", greeting)
            assert found, greeting
            yield RpcWorker(process, found[1], greeting)
        finally:
            children = descendants(process.pid)
            process.terminate()
            process.wait()
            eventually(lambda: not [pid for pid in children if is_alive(pid)], "the end of its processes")


@contextlib.contextmanager
def pretender(answer: bytes | None) -> Iterator[str]:
    """A server that gives every client this answer and closes; None: it accepts nobody, as a server that is busy. Yields HOST:PORT."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(30)
    is_over = threading.Event()

    def serve() -> None:
        while answer is not None and not is_over.is_set():
            with contextlib.suppress(OSError), listener.accept()[0] as client:
                client.recv(64)
                client.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        is_over.set()
        with contextlib.suppress(OSError):
            socket.create_connection(listener.getsockname(), 1).close()
        thread.join()
        listener.close()


def hello(major: int, minor: int) -> bytes:
    """The answer of a server with this version of the protocol."""
    return struct.pack("<QBBBB24x", 28, major, minor, 0, 0)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port
