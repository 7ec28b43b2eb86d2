"""One process of `fastrouter rpc-worker`: it serves one client at a time, with llama.cpp's RPC server.

llama.cpp's server opens a socket of its own, on a free port. This process puts a socket in its place that it shares with others of its
kind: then each of them takes a client, where llama.cpp alone would let the second one wait. Never imports: worker.engine.
Invariant: it ends with the process that started it.
"""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from fastrouter.ipc.served import served_of
from fastrouter.system.rpc_dial import greet
from fastrouter.worker.llama import rpc
from fastrouter.worker.llama.binding import LlamaError, log, start_backends
from fastrouter.worker.process.fork import die_with_parent

START_TIMEOUT_S = 60.0  # for llama.cpp's server to take its first client


def run(argument: str) -> int:
    """Returns the exit code."""
    served = served_of(argument)
    die_with_parent(served.parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the parent
    log.set_verbosity(served.verbosity)
    try:
        start_backends()
        rpc.load_library()
        threading.Thread(target=_share, args=(served.listener,), daemon=True).start()
        rpc.serve(served.threads, served.devices, Path(served.cache) if served.cache else None)
    except LlamaError as error:
        sys.stderr.write(f"{error.message}\n")
    return 1


def _share(listener: int) -> None:
    """Put the shared socket in the place of llama.cpp's own, as its first client: while it serves one, it waits at neither of them."""
    try:
        while (own := _own_listener(listener)) is None:
            time.sleep(0.002)
        fd, address = own
        with socket.create_connection(address) as connection:
            greet(connection, time.monotonic() + START_TIMEOUT_S)
            os.dup2(listener, fd)
    except (OSError, EOFError) as error:
        sys.stderr.write(f"llama.cpp's RPC server does not serve: {error}\n")
        os._exit(1)  # otherwise no client would ever be served


def _own_listener(shared: int) -> tuple[int, tuple[str, int]] | None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) != shared and (address := _address_of(int(name))) is not None:
            return int(name), address
    return None


def _address_of(fd: int) -> tuple[str, int] | None:
    """Of a socket that waits for clients."""
    try:
        with socket.socket(fileno=os.dup(fd)) as found:
            is_listening = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            return found.getsockname() if is_listening and found.family == socket.AF_INET else None
    except OSError:
        return None
