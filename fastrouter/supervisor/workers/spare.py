"""The spare: one worker process that has started and waits for a model, so that a load never waits for a process to start.

Owns the maker of workers, and collects processes that have ended. Never imports: catalog. Invariant: there is at most one spare; while the
router runs, one exists or is starting.
"""

import logging

from fastrouter.errors import FastrouterError
from fastrouter.ipc.messages import Prime
from fastrouter.supervisor.timers import Timers
from fastrouter.supervisor.workers.worker import Worker, WorkerMaker

log = logging.getLogger("fastrouter.supervisor")

RETRY_S = 1.0
REAP_DELAY_S = 0.2  # a process that was never ready may end a moment after its wire


class Spares:
    def __init__(self, maker: WorkerMaker, timers: Timers) -> None:
        self._maker = maker
        self._maker.on_end = self._maker_ended
        self._timers = timers
        self._taken: list[Worker] = []  # those that have got a model
        self._is_stopping = False
        self._likely: Prime | None = None  # the model that may be asked for next
        self._primed: Prime | None = None  # what this spare was told to open
        self.spare: Worker | None = None

    def __repr__(self) -> str:
        return f"<Spares {self.spare or 'none'}>"

    @property
    def pid(self) -> int | None:
        return self.spare.pid if self.spare else None

    def start(self) -> None:
        self._maker.start()
        self.make()

    def _maker_ended(self) -> None:
        """Start another one before it is needed."""
        if not self._is_stopping:
            try:
                self._maker.start()
            except (FastrouterError, OSError) as error:
                log.error("no fork server: %s", error)
                self._make_later()

    def make(self) -> None:
        """Idempotent. After a failure it tries again later; loads are slower until then."""
        if self.spare is not None or self._is_stopping:
            return
        try:
            self.spare = self._maker.spawn()
        except (FastrouterError, OSError) as error:
            log.error("no spare worker: %s", error)
            self._make_later()
        else:
            self.spare.on_exit = self._ended
            self._primed = None
            self.prime(self._likely)

    def _make_later(self) -> None:
        self._timers.at("spare", self._timers.now() + RETRY_S, self.make)

    def prime(self, likely: Prime | None) -> None:
        """Let the spare, or the next one, open this model early. None: no model is likely."""
        self._likely = likely
        if likely is not None and likely != self._primed and self.spare is not None:
            self._primed = likely
            self.spare.send(likely)

    def take(self) -> Worker:
        """The spare, or a worker that is still starting. Raises FastrouterError, OSError."""
        spare, self.spare = self.spare, None
        if spare is not None and spare.is_stopped:
            self._drop(spare)
            spare = None
        if spare is not None and spare.pid is not None:
            self._maker.note_worker()
        taken = spare if spare is not None else self._maker.spawn()
        self._taken.append(taken)
        return taken

    def _drop(self, spare: Worker) -> None:
        """It was stopped by a signal, or the fork server was before it made the spare: a load would wait for ever."""
        log.warning("the spare worker does not run and is replaced")
        self._taken.append(spare)  # until it has ended
        spare.on_exit = self.reap
        spare.give_up()

    # ------------------------------------------------------------ ends

    def _ended(self) -> None:
        self.spare = None
        self.reap()
        if not self._is_stopping:
            log.warning("the spare worker ended")
            self._likely = None  # perhaps the model that it opened early was the cause
            self._make_later()

    def reap(self) -> None:
        """A process has ended, or is about to end."""
        self._reap()
        self._timers.after(REAP_DELAY_S, self._reap)

    def _reap(self) -> bool:
        """False: no process is left."""
        self._taken = [worker for worker in self._taken if not worker.is_closed]
        pids = [self._maker.pid, self.pid, *(worker.pid for worker in self._taken)]
        return self._maker.reap({pid for pid in pids if pid is not None})

    async def stop(self, timeout_s: float) -> None:
        """End the spare and the fork server; wait until all workers have ended, and close those that do not end."""
        self._is_stopping = True
        self._timers.cancel("spare")
        if self.spare is not None:
            self.spare.kill()
        self._maker.close()
        await self._timers.until(lambda: self.spare is None and all(worker.is_closed for worker in self._taken), timeout_s)
        for worker in (*self._taken, *([self.spare] if self.spare is not None else [])):
            worker.close()
        self.spare = None
        await self._timers.until(lambda: not self._reap(), REAP_DELAY_S)
