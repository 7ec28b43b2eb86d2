"""Questions about a worker's state, which clients ask at any time: they need no lease, and a worker that computes or hangs costs nothing.

Never imports: supervisor.workers.instance. Invariant: only one question of each kind runs at a time.
"""

import asyncio
import copy
from collections.abc import Callable, Coroutine
from typing import Any

from fastrouter.errors import Unavailable, WorkerDied
from fastrouter.supervisor.timers import Clock

PEEK_TIMEOUT_S = 3.0
SNAPSHOT_PATIENCE_S = 0.1  # then the worker is in a long step, and its last message is still true
SLOTS_AGE_S = 60.0  # older messages about slots are not used: the worker hangs


class Peeks:
    def __init__(self, model_id: str, clock: Clock, call: Callable[[str, dict[str, Any]], Coroutine[Any, Any, Any]]) -> None:
        """`call` asks the worker: (method, parameters) -> its answer."""
        self._model_id = model_id
        self._now = clock
        self._call = call
        self._asked: dict[str, asyncio.Task[Any]] = {}
        self._snapshots: dict[str, tuple[float, Any]] = {}  # method -> (when it came, what the worker said)

    def __repr__(self) -> str:
        return f"<Peeks {list(self._asked)}>"

    def note(self, method: str, result: Any) -> None:
        """The worker tells this by itself before it computes."""
        self._snapshots[method] = (self._now(), result)

    async def ask(self, method: str) -> Any:
        """None when the worker has ended meanwhile. Callers that come while one waits get the same answer. A worker that computes has sent
        its answer before. Raises Unavailable after PEEK_TIMEOUT_S."""
        asked = self._asked.get(method)
        if asked is None:
            asked = self._asked[method] = asyncio.get_running_loop().create_task(self._ask(method))
            asked.add_done_callback(lambda task: task.cancelled() or task.exception())  # the caller may have given up
        is_known = self._is_known(method)
        try:
            return await asyncio.wait_for(asyncio.shield(asked), SNAPSHOT_PATIENCE_S if is_known else PEEK_TIMEOUT_S)
        except TimeoutError:
            if is_known or self._is_known(method):
                return copy.deepcopy(self._snapshots[method][1])
            raise Unavailable(f"model {self._model_id} does not answer", model=self._model_id) from None

    def _is_known(self, method: str) -> bool:
        if method not in self._snapshots:
            return False
        return method != "slots" or self._now() - self._snapshots[method][0] < SLOTS_AGE_S

    async def _ask(self, method: str) -> Any:
        try:
            return await self._call(method, {})
        except WorkerDied:
            return None
        finally:
            del self._asked[method]
