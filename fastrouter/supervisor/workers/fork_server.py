"""The fork server as the router sees it: it makes workers, and is started again when it has ended."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from functools import partial

from fastrouter.errors import FastrouterError
from fastrouter.options.limits import DEFAULT_POLL
from fastrouter.supervisor.workers.launch import FORK_SERVER_COMMAND, Launched, environment_of, in_words
from fastrouter.supervisor.workers.line_pipe import LinePipe
from fastrouter.supervisor.workers.look import is_stopped
from fastrouter.supervisor.workers.process import WorkerProcess, adopt_orphans, describe_exit, reap_unknown

log = logging.getLogger("fastrouter.worker")

SPAWN_TIMEOUT_S = 2.0  # the event loop waits at most this long for a fork server that does not read
BACK_OFF_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # after the first, second, ... fork server in a row that ended by itself


class ForkServer:
    """Started when it is needed, and again when it has ended."""

    def __init__(self, command: list[str] | None = None, poll: int = DEFAULT_POLL, launched: Launched | None = None) -> None:
        """`poll`: how long the workers' threads look for work, 0 to 100. `launched`: one that was started before, instead of both."""
        self._early = launched
        self.command = launched.command if launched is not None else command or FORK_SERVER_COMMAND
        self._environment = launched.environment if launched is not None else environment_of(os.environ, poll)
        self.on_end: Callable[[], None] = lambda: None  # it has ended, and does not start again by itself
        self._launched: Launched | None = None
        self._num_failed_starts = 0  # in a row, of fork servers that ended by themselves before a worker was ready
        self._retry_at = 0.0
        self._output: LinePipe | None = None
        # The workers hold the reading end: its end of file tells them that the router has ended.
        self._lifeline, self._lifeline_write = os.pipe2(os.O_CLOEXEC)

    def __repr__(self) -> str:
        return f"<ForkServer {self._launched or 'not started'}>"

    @property
    def pid(self) -> int | None:
        return self._launched.pid if self._launched else None

    def start(self) -> None:
        """Raises FastrouterError when it cannot be started, or has ended too often within a short time."""
        adopt_orphans()
        if self._launched is not None:
            self._note_end(self._end())
        if time.monotonic() < self._retry_at:
            raise FastrouterError("worker processes cannot be started: the fork server ends as soon as it starts; the log says more")
        early, self._early = self._early, None
        launched = early or Launched(self.command, self._environment)
        launched.socket.settimeout(SPAWN_TIMEOUT_S)
        # It writes only when something is wrong.
        self._launched, self._output = launched, LinePipe(partial(log.warning, "fork server: %s"), launched.output_fd)
        self._output.listen()
        asyncio.get_running_loop().add_reader(launched.socket.fileno(), self._hung_up)

    def _hung_up(self) -> None:
        """It never sends anything, so this is its end."""
        self._note_end(self._end())
        self.on_end()

    def _note_end(self, exit_code: int | None) -> None:
        log.warning("the fork server %s", describe_exit(exit_code))
        if exit_code is not None and exit_code >= 0:  # by itself, not by a signal from outside
            self._num_failed_starts += 1
            self._retry_at = time.monotonic() + BACK_OFF_S[min(self._num_failed_starts, len(BACK_OFF_S)) - 1]

    def note_worker(self) -> None:
        """One of its workers is ready: it works."""
        self._num_failed_starts, self._retry_at = 0, 0.0

    def _end(self) -> int | None:
        """Returns its exit code; None when there is none."""
        launched, self._launched = self._launched, None
        if launched is None:
            return None
        asyncio.get_running_loop().remove_reader(launched.socket.fileno())
        exit_code = launched.end()
        if self._output is not None:
            self._output.read_last()
            self._output.close()
            self._output = None
        return exit_code

    def reap(self, known_pids: set[int]) -> bool:
        """Collect workers that ended before they reported who they are. False: there are no children at all."""
        return reap_unknown(known_pids)

    def spawn(self) -> WorkerProcess:
        """A new worker that is still starting. Raises FastrouterError."""
        with in_words():
            return self._spawn()

    def _spawn(self) -> WorkerProcess:
        process = WorkerProcess()
        try:
            fds = process.child_fds(self._lifeline)
            if self._launched is None or self._launched.has_ended or is_stopped(self.pid) or not self._send(fds):
                self.start()
                if not self._send(fds):
                    raise FastrouterError("cannot start worker processes: the fork server does not answer")
        except BaseException:  # its descriptors are closed, whatever the exception is
            process.close()
            raise
        process.starter_pid, process.end_starter = self.pid, partial(self._kill, self.pid)
        process.listen()
        return process

    def _kill(self, pid: int | None) -> None:
        """The one with this pid hangs: another one starts in its place."""
        if self._launched is not None and self.pid == pid:
            log.error("the fork server hangs and is killed")
            self._hung_up()

    def _send(self, fds: list[int]) -> bool:
        assert self._launched is not None
        try:
            socket.send_fds(self._launched.socket, [b"spare"], fds)
        except OSError:  # also TimeoutError
            return False
        return True

    def close(self) -> None:
        """End it; the workers that it made notice the end of their lifeline. Idempotent."""
        self._end()
        if self._early is not None:
            self._early.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            os.close(self._lifeline_write)
            self._lifeline = -1
