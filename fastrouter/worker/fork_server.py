"""The fork server of real workers: one process that has imported everything, and makes workers from itself in a few milliseconds.

It stays single-threaded and never opens a model: its memory is shared by every worker, copy on write. With a GPU backend, whose contexts
must not be forked, the fork executes a new process image instead.
"""

import gc
import os
import sys
from typing import NoReturn

from fastrouter.worker.llama.binding import cpu_variant, has_device_backend, start_backends
from fastrouter.worker.loop import run_worker
from fastrouter.worker.process import fork
from fastrouter.worker.text.chat_template import ChatTemplate


def serve(fd: int) -> int:
    """Answer fork requests on the socket `fd` until the router closes it."""
    if has_device_backend():
        return fork.serve(fd, lambda: None, _execute)
    return fork.serve(fd, _prepare, _run)


def _prepare() -> None:
    start_backends()
    cpu_variant()
    ChatTemplate("").render([{"role": "user", "content": ""}], None, True, False)  # both fill caches once for all workers
    sys.setswitchinterval(0.0005)  # a thread that compiles must not delay the loop for the usual 5 ms
    gc.freeze()  # a worker's collections must not touch, and so copy, the shared pages; imports leave too little garbage to collect first
    gc.enable()


def _run(control: int, memory: int, doorbell: int, lifeline: int, descriptors: int) -> int:
    return fork.run_worker(control, memory, doorbell, lifeline, descriptors, run_worker)


def _execute(*fds: int) -> NoReturn:
    """A new process image: no device context is shared. PDEATHSIG survives the exec."""
    for fd in fds:
        os.set_inheritable(fd, True)
    os.execv(sys.executable, [*sys.orig_argv[: sys.orig_argv.index("--fork-server")], "--spare", *map(str, fds)])


def run_spare(control: int, memory: int, doorbell: int, lifeline: int, descriptors: int) -> NoReturn:
    """A worker in a process that was started directly."""
    gc.enable()
    start_backends()
    os._exit(_run(control, memory, doorbell, lifeline, descriptors))
