"""Which idle models have to leave or to sleep, and when. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Idle:
    """A model that has no request, with its two limits in seconds; None: never."""

    model_id: str
    since: float
    ttl_s: float | None
    sleep_s: float | None  # also None when it sleeps already


@dataclass(frozen=True, slots=True)
class Due:
    unload: list[str]
    sleep: list[str]
    next_at: float | None


def due(models: Iterable[Idle], now: float) -> Due:
    """When both are due, it is unloaded."""
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
