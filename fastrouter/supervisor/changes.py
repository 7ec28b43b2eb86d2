"""Loads and departures of models, read from the supervisor's events. The trace and the simulator both count with this, so that their
numbers mean the same. No clock, no I/O."""

from dataclasses import dataclass

from fastrouter.supervisor.events import Event

LOADED, FAILED, CUT = "loaded", "failed", "cut"  # how a load ends; cut: by an unload, or by the end of its process


@dataclass(frozen=True, slots=True)
class EndedLoad:
    model_id: str
    began: float
    outcome: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Departure:
    model_id: str
    reason: str  # count, memory, ttl, sleep, unload, reload, crash


class Changes:
    def __init__(self) -> None:
        self._loading: dict[str, float] = {}  # when the load began
        self._asleep: set[str] = set()

    def __repr__(self) -> str:
        return f"<Changes, loading {list(self._loading)}, asleep {sorted(self._asleep)}>"

    def take(self, event: Event, now: float) -> EndedLoad | Departure | None:
        if event.event != "model_status":
            return None
        model_id, status = event.model, event.data.get("status")
        if status == "loading":
            self._loading.setdefault(model_id, now)
            self._asleep.discard(model_id)
            return None
        if model_id in self._loading:
            return self._end_load(event)
        if status == "sleeping":
            self._asleep.add(model_id)
            return Departure(model_id, "sleep")
        if status != "unloaded" or model_id in self._asleep:  # a model that sleeps has left before
            self._asleep.discard(model_id)
            return None
        return Departure(model_id, "crash" if event.data.get("failed") else str(event.data.get("reason", "")))

    def _end_load(self, event: Event) -> EndedLoad:
        began = self._loading.pop(event.model)
        if event.data.get("status") == "loaded":
            return EndedLoad(event.model, began, LOADED)
        if event.data.get("failed"):
            return EndedLoad(event.model, began, FAILED, str(event.data.get("error", "")))
        return EndedLoad(event.model, began, CUT)
