"""When a request names a model, check whether its files on disk are still the ones that the catalog knows. If not, they are read again.

Never imports: api.serving, api.requests.fields. Invariant: requests for a loaded model cause at most one stat of its files every
CHECK_S. After a change is known, requests do not reach the old instance.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable

from fastrouter.api.models.reload import Reloads
from fastrouter.catalog.catalog import Catalog
from fastrouter.catalog.sources import GONE, printable, stat_of
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import ConfigError, Unavailable
from fastrouter.supervisor.supervisor import Supervisor

log = logging.getLogger("fastrouter")

CHECK_S = 0.1  # between two checks of a model's files
STAT_SHARE = 100  # checks may use at most this share of the time: some disks are slow
SCAN_S = 1.0  # between two scans for an unknown name
SCAN_SHARE = 10  # like STAT_SHARE
MAX_NAME_CHARS = 512


class Recheck:
    def __init__(self, catalog: Catalog, supervisor: Supervisor, reloads: Reloads) -> None:
        self._catalog = catalog
        self._supervisor = supervisor
        self._reloads = reloads
        self._due: dict[str, float] = {}  # by id: the time of the next check of its files
        self._due_version = -1  # of the catalog
        self._scan_due = 0.0
        self._scan: asyncio.Task[None] | None = None  # the last one for an unknown name
        self._changed: dict[str, asyncio.Task[None]] = {}  # by id: the scan that reads its files again

    def __repr__(self) -> str:
        return f"<Recheck {len(self._due)} models, {len(self._changed)} changed>"

    def before(self, name: str | None) -> Awaitable[None] | None:
        """The scan that a request for the model must wait for; None: nothing. `name` None: the default model."""
        spec = self._catalog.only or (self._catalog.get(name) if name else self._catalog.default)
        if spec is None:
            return self._look_for_more() if name and len(name) <= MAX_NAME_CHARS else None
        runner = spec.runner
        if runner.id in self._changed:
            return asyncio.shield(self._changed[runner.id])
        now = time.monotonic()
        if now < self._due.get(runner.id, 0.0) and self._due_version == self._catalog.version:
            return None
        is_running = self._supervisor.status(runner.id).value not in ("unloaded", "sleeping")
        changed = first_change(runner, may_be_gone=is_running)
        self._note_look(runner.id, now)
        if changed is not None:
            return self._read_again(runner, changed, is_running=is_running)
        return self._look_for_more() if runner.error is not None else None  # it may be readable now

    def _note_look(self, model_id: str, began: float) -> None:
        if self._due_version != self._catalog.version:
            self._due_version = self._catalog.version
            self._due.clear()
        ended = time.monotonic()
        self._due[model_id] = ended + max(CHECK_S, (ended - began) * STAT_SHARE)

    def _read_again(self, spec: ModelSpec, path: str, *, is_running: bool) -> Awaitable[None]:
        if is_running:
            log.warning("%s: %s has changed on disk while the model was loaded; the model is loaded again", spec.id, printable(path))
        task = asyncio.get_running_loop().create_task(self._reload_for(spec))
        self._changed[spec.id] = task
        task.add_done_callback(lambda _: self._changed.pop(spec.id))
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # the callers may have left
        return asyncio.shield(task)

    async def _reload_for(self, spec: ModelSpec) -> None:
        try:
            await self._reloads.reload(with_presets=False)
        except ConfigError as error:
            raise Unavailable(f"the file of model '{spec.id}' has changed, and the models cannot be read again: {error.message}") from None

    def _look_for_more(self) -> Awaitable[None] | None:
        now = time.monotonic()
        if now < self._scan_due:
            return None
        self._scan_due = float("inf")  # until this scan has ended
        self._scan = asyncio.get_running_loop().create_task(self._run_scan(now))
        return asyncio.shield(self._scan)

    async def _run_scan(self, began: float) -> None:
        try:
            await self._reloads.reload(with_presets=False)
        except ConfigError as error:
            log.warning("the models cannot be read again: %s", error.message)
        finally:
            ended = time.monotonic()
            self._scan_due = ended + max(SCAN_S, (ended - began) * SCAN_SHARE)


def first_change(spec: ModelSpec, *, may_be_gone: bool) -> str | None:
    """The first of its files that differs from the file that the catalog has read. A loaded model still works without its file."""
    for path, was in zip(spec.files, spec.states, strict=True):
        state = stat_of(path)
        if state != was and not (may_be_gone and state == GONE):
            return path
    return None
