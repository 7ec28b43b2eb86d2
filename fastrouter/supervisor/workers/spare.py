"""The pre-warmed spare: one worker process that waits for a model, so that a load never waits for a process to start.

Owns the fork server. Knows no model. Invariant: at most one spare; while the router runs, one is there or on its way.
"""

import asyncio
import logging
from collections.abc import Callable

from fastrouter.errors import FastrouterError
from fastrouter.ipc.messages import Prime
from fastrouter.supervisor.workers.fork_server import ForkServer
from fastrouter.supervisor.workers.process import WorkerProcess

log = logging.getLogger("fastrouter.supervisor")

RETRY_S = 1.0


class Spares:
    def __init__(self, fork_server: ForkServer, on_exit: Callable[[], None]) -> None:
        self._fork_server = fork_server
        self._fork_server.on_end = self._fork_server_ended
        self._on_exit = on_exit
        self._spare: WorkerProcess | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._is_stopping = False
        self._likely: Prime | None = None  # the model that may be asked for next
        self._primed: Prime | None = None  # what this spare has been told

    def __repr__(self) -> str:
        return f"<Spares {self._spare or 'none'}>"

    @property
    def pid(self) -> int | None:
        return self._spare.pid if self._spare else None

    @property
    def pids(self) -> list[int | None]:
        return [self._fork_server.pid, self.pid]

    @property
    def is_empty(self) -> bool:
        return self._spare is None

    def start(self) -> None:
        self._fork_server.start()
        self.make()

    def _fork_server_ended(self) -> None:
        """Another one is up before it is needed."""
        if not self._is_stopping:
            try:
                self._fork_server.start()
            except (FastrouterError, OSError) as error:
                log.error("no fork server: %s", error)
                self._make_later()

    def make(self) -> None:
        """Idempotent. A failure is tried again later: it costs a load some time, nothing else."""
        if self._spare is not None or self._is_stopping:
            return
        try:
            self._spare = self._fork_server.spawn()
        except (FastrouterError, OSError) as error:
            log.error("no spare worker: %s", error)
            self._make_later()
        else:
            self._spare.on_exit = self._ended
            self._primed = None
            self.prime(self._likely)

    def prime(self, likely: Prime | None) -> None:
        """Let the spare, or the next one, open this model ahead. None: nothing is likely."""
        self._likely = likely
        if likely is not None and likely != self._primed and self._spare is not None:
            self._primed = likely
            self._spare.send(likely)

    def take(self) -> WorkerProcess:
        """The spare, or a worker that is on its way up. Raises FastrouterError, OSError."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.is_up:
            self._fork_server.note_worker()
        return spare if spare is not None else self._fork_server.spawn()

    def _ended(self) -> None:
        self._spare = None
        self._on_exit()
        if not self._is_stopping:
            log.warning("the spare worker ended")
            self._likely = None  # perhaps it could not bear what it opened ahead
            self._make_later()

    def _make_later(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = asyncio.get_running_loop().call_later(RETRY_S, self.make)

    def stop(self) -> None:
        """Kill the spare and the fork server; the spare's end is awaited through `is_empty`."""
        self._is_stopping = True
        if self._retry is not None:
            self._retry.cancel()
        if self._spare is not None:
            self._spare.kill()
        self._fork_server.close()

    def close(self) -> None:
        """Give up a spare that does not end."""
        if self._spare is not None:
            self._spare.close()
