"""Which idle models' time is over: a pure rule, and the one timer that asks it."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fastrouter.supervisor.timers import Timers


@dataclass(frozen=True, slots=True)
class Idle:
    """A model that serves nothing, with its two limits in seconds; None: never."""

    model_id: str
    since: float
    ttl_s: float | None
    sleep_s: float | None  # None also when it sleeps already


@dataclass(frozen=True, slots=True)
class Due:
    unload: list[str]
    sleep: list[str]
    next_at: float | None


def due(models: Iterable[Idle], now: float) -> Due:
    """Unloading wins over sleeping where both are due."""
    unload: list[str] = []
    sleep: list[str] = []
    moments: list[float] = []
    for model in models:
        ends = model.since + model.ttl_s if model.ttl_s is not None else None
        sleeps = model.since + model.sleep_s if model.sleep_s is not None else None
        if ends is not None and ends <= now:
            unload.append(model.model_id)
            continue
        if sleeps is not None and sleeps <= now:
            sleep.append(model.model_id)
            sleeps = None
        moments += [moment for moment in (ends, sleeps) if moment is not None]
    return Due(unload, sleep, min(moments, default=None))


class IdleWatch:
    """Calls `unload` and `sleep` with the ids of models whose time is over."""

    def __init__(
        self, timers: Timers, look: Callable[[], Iterable[Idle]], unload: Callable[[str], None], sleep: Callable[[str], None]
    ) -> None:
        self._timers = timers
        self._look = look
        self._unload = unload
        self._sleep = sleep

    def watch(self) -> None:
        """A model has become idle, or may have."""
        self._timers.at("idle", time.monotonic(), self._end)

    def _end(self) -> None:
        decided = due(self._look(), time.monotonic())
        for model_id in decided.unload:
            self._unload(model_id)
        for model_id in decided.sleep:
            self._sleep(model_id)
        self._timers.at("idle", decided.next_at, self._end)
