"""Worker processes as operating-system things: the nursery that forks them, their descriptors, their death. Knows no model.

The nursery is one process that has imported everything; it forks workers that the kernel gives to us (we are their subreaper), so we
can wait for them and hold a pidfd. Invariant: every descriptor opened here is closed by `close` of the object that opened it.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from fastrouter._core import TokenRing
from fastrouter.errors import FastrouterError, ProtocolError
from fastrouter.messages import Hello
from fastrouter.wire import AsyncWire

log = logging.getLogger("fastrouter.worker")

NURSERY_COMMAND = [sys.executable, "-m", "fastrouter.worker"]
_PR_SET_CHILD_SUBREAPER = 36
NUM_LOG_LINES = 200


def adopt_orphans() -> None:
    """Grandchildren whose parent ends become our children."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap_unknown(known_pids: set[int]) -> None:
    """Collect children that died before they could say who they are."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and found.si_pid not in known_pids:
            os.waitpid(found.si_pid, os.WNOHANG)


def describe_exit(exit_code: int | None) -> str:
    """In words. Negative: the signal that ended it."""
    if exit_code is None:
        return "ended before it was up"
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    try:
        return f"was killed by signal {-exit_code} ({signal.Signals(-exit_code).name})"
    except ValueError:
        return f"was killed by signal {-exit_code}"


class Nursery:
    """The fork server. Started again when it is needed and gone."""

    def __init__(self, command: list[str] | None = None) -> None:
        self._command = command or NURSERY_COMMAND
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        # The workers hold the reading end: its end of file tells them that the router is gone.
        self._lifeline, self._lifeline_write = os.pipe2(os.O_CLOEXEC)

    def __repr__(self) -> str:
        return f"<Nursery {self._process.pid if self._process else 'not started'}>"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        self._forget()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = subprocess.Popen(
                [*self._command, "--nursery", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            ours.close()
            raise FastrouterError(f"cannot start worker processes: {error}") from None
        finally:
            theirs.close()
        self._socket = ours

    def _forget(self) -> None:
        """Close what a nursery that has ended left behind."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            log.error("the fork server %s; starting another", describe_exit(self._process.wait()))
            self._process = None

    def spawn(self) -> "WorkerProcess":
        """A new worker, on its way up. Raises FastrouterError."""
        process = WorkerProcess()
        try:
            fds = [*process.child_fds[:3], self._lifeline, process.child_fds[3]]
            if self._process is None or self._process.poll() is not None or not self._send(fds):
                self.start()
                if not self._send(fds):
                    raise FastrouterError("cannot start worker processes: the fork server does not answer")
        except BaseException:
            process.close()
            raise
        finally:
            process.close_child_fds()
        process.connect()
        return process

    def _send(self, fds: list[int]) -> bool:
        try:
            assert self._socket is not None
            socket.send_fds(self._socket, [b"spare"], fds)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End it; the workers it made see the end of their lifeline."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._lifeline >= 0:
            os.close(self._lifeline)
            os.close(self._lifeline_write)
            self._lifeline = -1


class WorkerProcess:
    """One worker: its wire, its ring, its log and its death. The owner sets the callbacks; all run in the event loop."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.exit_code: int | None = None  # negative: the signal; None: alive, or it never came up
        self.on_message: Callable[[Any], None] = lambda message: None
        self.on_exit: Callable[[], None] = lambda: None  # everything it said before has been delivered
        self.lines: deque[str] = deque(maxlen=NUM_LOG_LINES)
        self.broke_protocol: str | None = None
        self._loop = asyncio.get_running_loop()
        self._sock, child_sock = socket.socketpair()
        self._log, child_log = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(child_log, True)
        self.ring = TokenRing.create()
        self.child_fds = [os.dup(child_sock.fileno()), self.ring.memory_fd, self.ring.doorbell_fd, child_log]
        child_sock.close()
        self._wire = AsyncWire(self._receive, self._wire_closed)
        self._connecting: asyncio.Task[Any] | None = None
        self._pidfd: int | None = None
        self._is_wire_open = True
        self.is_closed = False

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.pid or 'coming up'}{' closed' if self.is_closed else ''}>"

    @property
    def is_up(self) -> bool:
        return self.pid is not None

    def connect(self) -> None:
        self._connecting = self._loop.create_task(self._wire.connect(self._sock))
        self._loop.add_reader(self.ring.doorbell_fd, self.drain)
        self._loop.add_reader(self._log, self._read_log)

    def close_child_fds(self) -> None:
        for fd in (self.child_fds[0], self.child_fds[3]):
            os.close(fd)

    def send(self, message: Any) -> None:
        self._wire.send(message)

    def drain(self) -> None:
        """Hand out what is in the ring. A ring with impossible content costs its worker its life."""
        try:
            self.ring.drain()
        except ProtocolError as error:
            self._break(error)

    def kill(self) -> None:
        """At once. `on_exit` follows. Idempotent."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        else:
            self._wire.close()  # not up yet: it ends when it finds its wire closed

    # ------------------------------------------------------------ what it says

    def _receive(self, message: Any) -> None:
        if isinstance(message, Hello):
            self._take_pid(message.pid)
        else:
            self.on_message(message)

    def _take_pid(self, pid: int) -> None:
        """Believed only for a child of ours."""
        try:
            if self.pid is not None:
                raise ProtocolError("a second Hello")
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            self._pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError, TypeError, ProtocolError) as error:
            self._break(ProtocolError(f"Hello from process {pid}: {error}"))
            return
        self.pid = pid
        self._loop.add_reader(self._pidfd, self._died)

    def _break(self, error: ProtocolError) -> None:
        self.broke_protocol = error.message
        log.error("worker %s broke the protocol and is killed: %s", self.pid, error.message)
        if not self.is_closed:
            self._loop.remove_reader(self.ring.doorbell_fd)
        self.kill()

    def _read_log(self) -> None:
        try:
            data = os.read(self._log, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._log)
            return
        for line in data.decode("utf-8", "replace").splitlines():
            if line.strip():
                self.lines.append(line)
                log.debug("[%s] %s", self.pid, line)

    # ------------------------------------------------------------ its end

    def _wire_closed(self, error: Exception | None) -> None:
        if isinstance(error, ProtocolError):
            self._break(error)
        if self._is_wire_open:
            self._is_wire_open = False
            if self._pidfd is None:
                self._exited()
            else:
                self.kill()  # a worker that hangs up has nothing left to do here

    def _died(self) -> None:
        assert self._pidfd is not None
        assert self.pid is not None
        self._loop.remove_reader(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        self.exit_code = os.waitstatus_to_exitcode(status)
        os.close(self._pidfd)
        self._pidfd = None
        if self._is_wire_open:
            self._loop.call_soon(self._exited)  # what it last wrote to the wire is read first: it is in our buffer already
        else:
            self._exited()

    def _exited(self) -> None:
        if self.is_closed:
            return
        self.drain()
        self._read_log()
        on_exit = self.on_exit
        self.close()
        on_exit()

    def close(self) -> None:
        """Give everything back; a process that still runs finds its wire closed and ends. Idempotent."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            self._loop.remove_reader(self.ring.doorbell_fd)
            self._loop.remove_reader(self._log)
        self._wire.close()
        self._sock.close()
        os.close(self._log)
        self.ring.close()
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
