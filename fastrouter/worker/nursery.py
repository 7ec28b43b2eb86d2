"""The fork server: one process that has imported everything and makes a worker out of itself in a few milliseconds.

Stays single-threaded and never touches a model: what it holds is shared by every worker, copy on write. Each worker is a grandchild,
so that the router (a subreaper) inherits and reaps it. A worker dies with its router, by PDEATHSIG and by the lifeline pipe.
"""

import ctypes
import gc
import os
import signal
import socket
import sys
import threading
import time
import traceback
from typing import NoReturn

from fastrouter._core import TokenRing
from fastrouter.wire import BlockingWire
from fastrouter.worker import llama
from fastrouter.worker.chat import ChatTemplate
from fastrouter.worker.loop import Worker

_PR_SET_PDEATHSIG = 1
_NUM_FDS = 5  # control, ring memory, doorbell, lifeline, log
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent_pid: int) -> None:
    """SIGKILL when the parent dies; exits at once if it already has."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def serve(fd: int) -> int:
    """Answer fork requests on the SOCK_SEQPACKET socket `fd` until the router closes it."""
    router_pid = os.getppid()
    die_with_parent(router_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the router
    requests = socket.socket(fileno=fd)
    forks = not llama.has_device_backend()
    if forks:
        llama.start_backends()
    ChatTemplate("").render([{"role": "user", "content": ""}], None, True, False)  # Jinja's own caches are filled once for all
    sys.setswitchinterval(0.0005)  # a thread that compiles must not keep the loop waiting for the usual 5 ms
    gc.collect()
    gc.freeze()  # a worker's collections must not touch, and so copy, the shared pages
    while True:
        data, fds, _, _ = socket.recv_fds(requests, 4096, _NUM_FDS)
        if not data:
            return 0
        if len(fds) == _NUM_FDS:
            _fork(requests, fds, router_pid, forks)
        for received in fds:
            os.close(received)


def _fork(requests: socket.socket, fds: list[int], router_pid: int, forks: bool) -> None:
    """Fork twice; returns in the nursery, when the middle process has gone."""
    middle_pid = os.fork()
    if middle_pid:
        os.waitpid(middle_pid, 0)
        return
    try:
        middle_pid = os.getpid()
        if os.fork():
            os._exit(0)
        _become_worker(requests, fds, middle_pid, router_pid, forks)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def _become_worker(requests: socket.socket, fds: list[int], middle_pid: int, router_pid: int, forks: bool) -> NoReturn:
    control, memory, doorbell, lifeline, log = fds
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    requests.close()
    while os.getppid() == middle_pid:  # inherited by the router within microseconds
        time.sleep(0.0001)
    die_with_parent(router_pid)
    if not forks:
        _exec_spare(control, memory, doorbell, lifeline)
    os._exit(_run(control, memory, doorbell, lifeline))


def _exec_spare(*fds: int) -> NoReturn:
    """A fresh process image: no device context is shared with anyone. PDEATHSIG survives the exec."""
    for fd in fds:
        os.set_inheritable(fd, True)
    os.execv(sys.executable, [*sys.orig_argv[: sys.orig_argv.index("--nursery")], "--spare", *map(str, fds)])


def run_spare(control: int, memory: int, doorbell: int, lifeline: int) -> int:
    """The worker of a process that was started for it alone."""
    llama.start_backends()
    os._exit(_run(control, memory, doorbell, lifeline))


def _run(control: int, memory: int, doorbell: int, lifeline: int) -> int:
    """Owns the descriptors from here on. The exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_guard, args=(lifeline,), name="lifeline", daemon=True).start()
    code = 1
    try:
        wire = BlockingWire(socket.socket(fileno=control))
        code = Worker(wire, TokenRing.open(memory, doorbell)).run()
    except EOFError:
        code = 0  # the router is gone
    except Exception:
        traceback.print_exc()
    sys.stderr.flush()
    return code


def _guard(lifeline: int) -> None:
    """The router holds the other end and never writes: the end of file is its death."""
    os.read(lifeline, 1)
    os._exit(1)
