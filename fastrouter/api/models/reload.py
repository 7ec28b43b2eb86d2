"""Reloads while requests are served: the scan runs in a thread, and its result is applied in the event loop. Never imports: http.

Invariant: one scan at a time. Each caller gets a scan that began after its call. Callers that come during a scan share the next one.
"""

import asyncio
import logging
from functools import partial

from fastrouter.catalog.catalog import Catalog
from fastrouter.catalog.difference import Difference
from fastrouter.supervisor.supervisor import Supervisor

log = logging.getLogger("fastrouter")


class Reloads:
    def __init__(self, catalog: Catalog, supervisor: Supervisor) -> None:
        self._catalog = catalog
        self._supervisor = supervisor
        self._running: asyncio.Task[Difference] | None = None
        self._next: asyncio.Task[Difference] | None = None  # its scan has not started
        self._is_preset_wanted = False  # for a caller that waits for `_next`

    async def reload(self, *, with_presets: bool = True) -> Difference:
        """Raises ConfigError; then nothing has changed. A caller that is cancelled does not affect others. `with_presets` False: only
        files, because the user has not asked to read the preset file again."""
        self._is_preset_wanted |= with_presets
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._run(self._running))
            self._next.add_done_callback(_take_error)
        return await asyncio.shield(self._next)

    async def _run(self, before: "asyncio.Task[Difference] | None") -> Difference:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        scan_all = partial(self._catalog.scan, with_presets=self._is_preset_wanted)
        self._is_preset_wanted = False
        scan = await asyncio.get_running_loop().run_in_executor(None, scan_all)
        known = {*self._catalog.warnings(), *self._catalog.faults()}
        difference = self._catalog.adopt(scan)
        for fault in dict.fromkeys([*self._catalog.warnings(), *self._catalog.faults()]):
            if fault not in known:
                log.warning("%s", fault)
        if difference != Difference():
            log.info("models reloaded: %s", difference)
        self._supervisor.reload(difference.stale, self._catalog.get)
        return difference


def _take_error(task: "asyncio.Task[Difference]") -> None:
    """If all callers have left, the error is not reported."""
    if not task.cancelled():
        task.exception()
