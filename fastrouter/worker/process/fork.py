"""From a fork request to a running worker: descriptors, two forks, the connections to the router. Never imports: worker.llama.

Each worker is a grandchild, so that the router (a subreaper) becomes its parent and can wait for it. Invariant: a worker dies with its
router, by PDEATHSIG and by the end of the lifeline pipe.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from fastrouter._core import TokenRing
from fastrouter.ipc.descriptors import Descriptors
from fastrouter.ipc.wire import BlockingWire

_PR_SET_PDEATHSIG = 1
_NUM_FDS = 6  # control, ring memory, doorbell, lifeline, descriptors, log
_libc = ctypes.CDLL(None, use_errno=True)

Become = Callable[[int, int, int, int, int], int]
"""(control, memory, doorbell, lifeline, descriptors) -> exit code: what a fresh process does. It owns the descriptors."""


def die_with_parent(parent_pid: int) -> None:
    """SIGKILL when the parent dies; exits immediately if it is already dead."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def serve(fd: int, prepare: Callable[[], None], become: Become) -> int:
    """Answer fork requests on the SOCK_SEQPACKET socket `fd` until the router closes it."""
    router_pid = os.getppid()
    die_with_parent(router_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the router
    requests = socket.socket(fileno=fd)
    prepare()
    while True:
        data, fds, _, _ = socket.recv_fds(requests, 4096, _NUM_FDS)
        if not data:
            return 0
        if len(fds) == _NUM_FDS:
            _fork(requests, fds, router_pid, become)
        for received in fds:
            os.close(received)


def _fork(requests: socket.socket, fds: list[int], router_pid: int, become: Become) -> None:
    """Fork twice; returns in the fork server after the middle process has ended."""
    middle_pid = os.fork()
    if middle_pid:
        os.waitpid(middle_pid, 0)
        return
    try:
        middle_pid = os.getpid()
        if os.fork():
            os._exit(0)
        _settle(requests, fds, middle_pid, router_pid, become)
    except BaseException:  # this is a copy of the fork server: nothing may reach its loop
        traceback.print_exc()
    finally:
        _flush()
        os._exit(1)


def _settle(requests: socket.socket, fds: list[int], middle_pid: int, router_pid: int, become: Become) -> NoReturn:
    *channels, log = fds
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    requests.close()
    while os.getppid() == middle_pid:  # the router becomes the parent within microseconds
        time.sleep(0.0001)
    die_with_parent(router_pid)
    os._exit(become(*channels))


Run = Callable[[BlockingWire, TokenRing, Descriptors, Callable[[], None]], int]
"""(wire, ring, descriptors, watch_router) -> exit code. It calls `watch_router` when its work begins; EOFError means that the router has
ended."""


def run_worker(control: int, memory: int, doorbell: int, lifeline: int, descriptors: int, run: Run) -> int:
    """Returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):  # these are for the router, which ends its workers
        signal.signal(number, signal.SIG_IGN)
    code = 1
    try:
        guard = threading.Thread(target=_guard, args=(lifeline,), name="lifeline", daemon=True)
        wire, files = BlockingWire(socket.socket(fileno=control)), Descriptors(socket.socket(fileno=descriptors))
        code = run(wire, TokenRing.open(memory, doorbell), files, guard.start)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        code = 0  # the router has ended
    except Exception:  # a bug of ours: the router shows the last lines of stderr
        traceback.print_exc()
    _flush()
    return code


def _flush() -> None:
    """The reader of its log may be gone; then what is left must not keep the process from its end."""
    with contextlib.suppress(OSError):
        sys.stderr.flush()


def _guard(lifeline: int) -> None:
    """The router holds the other end and never writes: the end of file means that it has died."""
    os.read(lifeline, 1)
    os._exit(1)
