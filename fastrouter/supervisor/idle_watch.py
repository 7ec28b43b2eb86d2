"""The one timer that checks which models have been idle for too long. The rule is in decide/idle.py."""

from collections.abc import Callable, Iterable

from fastrouter.supervisor.decide.idle import Idle, due
from fastrouter.supervisor.timers import Timers


class IdleWatch:
    """Calls `unload` and `sleep` with the ids of models that have been idle for too long."""

    def __init__(
        self, timers: Timers, look: Callable[[], Iterable[Idle]], unload: Callable[[str], None], sleep: Callable[[str], None]
    ) -> None:
        self._timers = timers
        self._look = look
        self._unload = unload
        self._sleep = sleep

    def watch(self) -> None:
        """A model is idle now, or may be."""
        self._timers.at("idle", self._timers.now(), self._end)

    def _end(self) -> None:
        decided = due(self._look(), self._timers.now())
        for model_id in decided.unload:
            self._unload(model_id)
        for model_id in decided.sleep:
            self._sleep(model_id)
        self._timers.at("idle", decided.next_at, self._end)
