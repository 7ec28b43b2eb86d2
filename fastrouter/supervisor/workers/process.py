"""Worker processes as the operating system sees them: the messages to the fork server, descriptors, the end of a process.

The fork server is one process that has imported everything. It forks workers, which the kernel makes our children (we are their subreaper),
so we can wait for them and hold a pidfd. The pid of a worker is the one that the kernel reports with its first bytes: the pid that it
reports itself is never used to send a signal. Never imports: catalog. Invariant: every descriptor that is opened here is closed by `close`
of the object that opened it.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from fastrouter._core import TokenRing
from fastrouter.errors import ProtocolError
from fastrouter.ipc.async_wire import AsyncWire
from fastrouter.ipc.descriptors import Descriptors, descriptor_pair
from fastrouter.ipc.messages import Hello
from fastrouter.supervisor.decide.hang import Look
from fastrouter.supervisor.workers.line_pipe import LinePipe
from fastrouter.supervisor.workers.look import child_with, is_stopped, look_at

log = logging.getLogger("fastrouter.worker")

_PR_SET_CHILD_SUBREAPER = 36
NUM_LOG_LINES = 200
UP_TIMEOUT_S = 60.0  # from the fork request to its first message; the fork server may have to start first
START_GRACE_S = 5.0  # the same for a worker that is not needed any more
HANG_UP_GRACE_S = 0.2  # between the end of a worker's wire and the end of the worker
LAST_WORDS_S = 1.0  # between a worker's end and the end of its wire, which only a child process of the worker can keep open
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def adopt_orphans() -> None:
    """Grandchildren whose parent ends become our children."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap_unknown(known_pids: set[int]) -> bool:
    """Collect children that died before they reported who they are. False: there are no children at all."""
    try:
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and found.si_pid not in known_pids:
            os.waitpid(found.si_pid, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def describe_exit(exit_code: int | None) -> str:
    """In words. Negative: the signal that ended it."""
    if exit_code is None:
        return "ended before it was ready"
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    try:
        return f"was killed by signal {-exit_code} ({signal.Signals(-exit_code).name})"
    except ValueError:
        return f"was killed by signal {-exit_code}"


class WorkerProcess:
    """One worker: its wire, its ring, its log and its end. The owner sets the callbacks; all of them run in the event loop."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.exit_code: int | None = None  # negative: the signal; None: it runs, or it was never ready
        self.on_message: Callable[[Any], None] = lambda message: None
        self.on_exit: Callable[[], None] = lambda: None  # all its messages have been delivered before
        self.on_line: Callable[[str], None] = self._log_line
        self.starter_pid: int | None = None  # the process that should start it
        self.end_starter: Callable[[], None] = lambda: None
        self.lines: deque[str] = deque(maxlen=NUM_LOG_LINES)
        self.broke_protocol: str | None = None
        self.is_closed = False
        self._loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:
            self._sock, self._child_sock = socket.socketpair()
            undo.callback(self._sock.close)
            undo.callback(self._child_sock.close)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._sock.setblocking(False)
            ours, self._child_descriptors = descriptor_pair()
            self.descriptors = Descriptors(ours)
            undo.callback(self.descriptors.close)
            undo.callback(self._child_descriptors.close)
            self._log = LinePipe(self._take_line)
            undo.callback(self._log.close)
            self.ring = TokenRing.create()
            undo.pop_all()
        self._wire = AsyncWire(self._receive, self._wire_closed)
        self._connecting: asyncio.Task[Any] | None = None
        self._pidfd: int | None = None
        self._timer: asyncio.TimerHandle | None = None  # for what must not take for ever: its first message, its end
        self._is_doomed = False
        self._is_wire_open = True
        self._is_listening = False

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.pid or 'coming up'}{' closed' if self.is_closed else ''}>"

    @property
    def is_up(self) -> bool:
        """Its first message has come; stays true after its end."""
        return self.pid is not None

    def child_fds(self, lifeline: int) -> list[int]:
        """In the order of the fork request; valid until `listen`."""
        wire, descriptors = self._child_sock.fileno(), self._child_descriptors.fileno()
        return [wire, self.ring.memory_fd, self.ring.doorbell_fd, lifeline, descriptors, self._log.child_fd]

    def listen(self) -> None:
        """Its descriptors have been sent."""
        self._child_sock.close()
        self._child_descriptors.close()
        self._is_listening = True
        self._loop.add_reader(self._sock.fileno(), self._handshake)
        self._loop.add_reader(self.ring.doorbell_fd, self.drain)
        self._log.listen()
        self._wait_at_most(UP_TIMEOUT_S, self.give_up)

    def send(self, message: Any) -> None:
        self._wire.send(message)

    def drain(self) -> None:
        """Deliver the records in the ring. When the ring has impossible content, the worker is killed."""
        if self.broke_protocol is not None:
            return
        try:
            self.ring.drain()
        except ProtocolError as error:
            self._break(error)

    def kill(self) -> None:
        """Immediately, or as soon as it is ready. `on_exit` follows. Idempotent."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        elif self.pid is None and not (self._is_doomed or self.is_closed):
            self._wait_at_most(START_GRACE_S, self.give_up)
        self._is_doomed = True

    def give_up(self) -> None:
        """It hangs, perhaps before its first message, or the process that should start it does: then that one is ended. `on_exit`
        follows."""
        if self.pid is not None:
            self.kill()
        elif not self.is_closed:
            if not self._end_unknown():
                self.end_starter()
            self._exited()

    def _end_unknown(self) -> bool:
        """Kill the process that has been made for it and has not reported its pid. False: there is none."""
        child = child_with(self.ring.memory_fd)
        if child is not None:
            os.kill(child, signal.SIGKILL)  # a child that has not been waited for keeps its pid
        return child is not None

    @property
    def is_stopped(self) -> bool:
        """Its process, or the one that should start it, was stopped by a signal."""
        return is_stopped(self.pid or self.starter_pid)

    def look(self) -> Look | None:
        """Its process as the system sees it, or the process that should start it; None: unknown."""
        if self.pid is not None or self.is_closed:
            return look_at(self.pid)
        # Without any process it never comes, as if one slept.
        return look_at(child_with(self.ring.memory_fd) or self.starter_pid) or Look("S")

    def _wait_at_most(self, delay_s: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, action)

    # ------------------------------------------------------------ messages of the worker

    def _handshake(self) -> None:
        """Its first bytes, or its end. The bytes stay in the socket; the wire reads them later."""
        try:
            data, ancillary, _, _ = self._sock.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size), socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        self._loop.remove_reader(self._sock.fileno())
        pids = [_CREDENTIALS.unpack(value)[0] for _, kind, value in ancillary if kind == socket.SCM_CREDENTIALS]
        if not data or not pids or not self._take_pid(pids[0]):
            self._exited()
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._is_doomed:
            self.kill()
        self._connecting = self._loop.create_task(self._wire.connect(self._sock))

    def _take_pid(self, pid: int) -> bool:
        """Only a child of ours is a worker."""
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except OSError:
            return False
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:  # there is no descriptor left to watch it with
            log.error("a worker cannot be watched and is ended: %s", error.strerror)
            os.kill(pid, signal.SIGKILL)  # a child that has not been waited for keeps its pid
            return False
        self.pid = pid
        self._loop.add_reader(self._pidfd, self._died)
        return True

    def _receive(self, message: Any) -> None:
        if not isinstance(message, Hello):
            self.on_message(message)
        elif message.pid != self.pid:
            raise ProtocolError(f"process {self.pid} says that it is {message.pid}")

    def _break(self, error: ProtocolError) -> None:
        self.broke_protocol = error.message
        log.error("worker %s broke the protocol and is killed: %s", self.pid or "that was starting", error.message)
        self._loop.remove_reader(self.ring.doorbell_fd)
        self.kill()

    def _take_line(self, text: str) -> None:
        self.lines.append(text)
        self.on_line(text)

    def _log_line(self, text: str) -> None:
        log.debug("[%s] %s", self.pid or "starting", text)

    def tell(self, on_line: Callable[[str], None]) -> None:
        """From here on its lines belong to a model; before, it wrote as a spare."""
        self._log.read()
        self.on_line = on_line

    # ------------------------------------------------------------ its end

    def _wire_closed(self, error: Exception | None) -> None:
        if isinstance(error, ProtocolError):
            self._break(error)
        if not self._is_wire_open:
            return
        self._is_wire_open = False
        if self._pidfd is None:
            self._exited()
        else:  # it is ending, or has nothing left to do here
            self._wait_at_most(HANG_UP_GRACE_S, self.kill)

    def _died(self) -> None:
        assert self._pidfd is not None
        assert self.pid is not None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = None
        with contextlib.suppress(ChildProcessError):  # another caller has collected it: its exit code stays unknown
            _, status = os.waitpid(self.pid, 0)
            self.exit_code = os.waitstatus_to_exitcode(status)
        if self._is_wire_open:
            self._wait_at_most(LAST_WORDS_S, self._exited)  # the wire ends after its last message
        else:
            self._exited()

    def _exited(self) -> None:
        if self.is_closed:
            return
        self.drain()
        self._log.read_last()
        on_exit = self.on_exit
        self.close()
        on_exit()

    def close(self) -> None:
        """Close all descriptors; a process that still runs finds its wire closed and ends. Idempotent."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._connecting is None:
            if self._is_listening:
                self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        if self._is_listening:
            self._loop.remove_reader(self.ring.doorbell_fd)
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        self._child_sock.close()
        self._child_descriptors.close()
        self.descriptors.close()
        self._log.close()
        self._wire.close()
        self.ring.close()
