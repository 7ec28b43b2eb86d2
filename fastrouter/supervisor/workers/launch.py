"""The process of a fork server. The router starts it before it imports what is behind the socket, so that both import at the same time.

So this file imports only what that needs. Never imports: ipc, supervisor.workers.process. Invariant: what Launched has opened, `close`
closes; whoever takes its output closes that, and calls `end`.
"""

import contextlib
import errno
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping

from fastrouter.errors import FastrouterError
from fastrouter.options.limits import DEFAULT_POLL
from fastrouter.system.reexec import command_of, environment_for_own, start

FORK_SERVER_COMMAND = command_of("fastrouter.worker")
# From systemd: workers must not speak for the router.
_OF_THE_ROUTER = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_SPINS, _SPINS_RANGE = 1000, 300  # of the middle value; between it and each end


def spin_count(poll: int) -> int:
    """How often a thread of OpenMP looks for work before it sleeps. 50 means a few microseconds, because models share the cores: with
    OpenMP's default, which is 100 here, two models on two cores make 3 tokens/s together instead of 130."""
    return round(_SPINS * _SPINS_RANGE ** ((poll - DEFAULT_POLL) / DEFAULT_POLL)) if poll else 0


def environment_of(environ: Mapping[str, str], poll: int) -> dict[str, str]:
    """Of a fork server and its workers."""
    kept = {name: value for name, value in environment_for_own(environ).items() if name not in _OF_THE_ROUTER}
    kept.setdefault("GGML_NO_BACKTRACE", "1")  # otherwise an abort in llama.cpp starts a debugger on the worker
    if poll != DEFAULT_POLL or "GOMP_SPINCOUNT" not in environ:
        kept["GOMP_SPINCOUNT"] = str(spin_count(poll))
    return kept


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Raises FastrouterError for errors of the system."""
    try:
        yield
    except OSError as error:
        more = "; allow more open files (ulimit -n)" if error.errno in (errno.EMFILE, errno.ENFILE) else ""
        raise FastrouterError(f"cannot start worker processes: {error.strerror or error}{more}") from None


class Launched:
    """A fork server that was started, with our end of its socket and what it writes."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        """Raises FastrouterError."""
        self.command, self.environment = command, environment
        with in_words(), contextlib.ExitStack() as undo:
            self.output_fd, output = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, self.output_fd)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            try:
                self._process = start([*command, "--fork-server", str(theirs.fileno())], environment, pass_fds=[theirs.fileno()], **streams)
            finally:
                os.close(output)
                theirs.close()
            undo.pop_all()
        self.socket = ours

    def __repr__(self) -> str:
        return f"<Launched {self.pid}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> int:
        """Returns the exit code. The output stays open. Idempotent."""
        self.socket.close()
        self._process.kill()
        return self._process.wait()

    def close(self) -> None:
        """For one that no one has taken. Idempotent."""
        is_first = self.socket.fileno() >= 0
        self.end()
        if is_first:
            os.close(self.output_fd)
