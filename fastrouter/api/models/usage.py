"""What the models in memory are doing, once a second, and their latest changes. Never imports: api.serving, api.models.live.

Invariant: without listeners there is no timer and no work. A change of state adds one entry to a short list; a token costs nothing.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastrouter import metrics
from fastrouter.supervisor.supervisor import Event, Supervisor
from fastrouter.supervisor.workers.instance import Instance
from fastrouter.system.machine import available_bytes, resident_bytes, total_bytes

PERIOD_S = 1.0
MAX_PAST = 400  # changes of state

Listener = Callable[[dict[str, Any]], None]


class UsageReporter:
    def __init__(self, supervisor: Supervisor, variants_of: Callable[[str], Sequence[str]]) -> None:
        self._supervisor = supervisor
        self._variants_of = variants_of
        self._listeners: list[Listener] = []
        self._timer: asyncio.TimerHandle | None = None
        self._past: deque[dict[str, Any]] = deque(maxlen=MAX_PAST)
        self._seen_at = 0.0
        self._seen: dict[str, int] = {}  # tokens until now, by model
        self._rates: dict[str, float] = {}  # tokens per second, from the last measurement
        supervisor.subscribe(self._remember)

    def __repr__(self) -> str:
        return f"<UsageReporter {len(self._listeners)} listeners, {len(self._past)} past>"

    @property
    def past(self) -> Sequence[dict[str, Any]]:
        """Changes of state, the oldest first."""
        return self._past

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` now and every second, until the returned function is called."""
        if not self._listeners:
            self._seen_at = 0.0
            self._measure()
            self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._tick)
        self._listeners.append(listener)
        listener(self._look())

        def leave() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)
            if not self._listeners and self._timer is not None:
                self._timer.cancel()

        return leave

    def _remember(self, event: Event) -> None:
        data = event.data
        if event.event != "model_status" or (data.get("progress") or {}).get("value"):
            return
        kept: dict[str, Any] = {name: data[name] for name in ("status", "reason", "failed", "error") if name in data}
        self._past.append({"time": round(time.time(), 3), "model": event.model, **kept})

    # ------------------------------------------------------------ once a second

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._tick)
        self._measure()
        seen = self._look()
        for listener in list(self._listeners):
            listener(seen)

    def _measure(self) -> None:
        now, before = time.monotonic(), self._seen
        self._seen = self._count()
        gap_s, self._seen_at = now - self._seen_at if self._seen_at else 0.0, now
        new = {model_id: max(0, total - before.get(model_id, 0)) for model_id, total in self._seen.items()}
        self._rates = {model_id: num_tokens / gap_s for model_id, num_tokens in new.items() if num_tokens} if gap_s else {}

    def _count(self) -> dict[str, int]:
        """Tokens until now of the models of each process, even if the process has ended."""
        counts = metrics.by_model()
        running = {instance.spec.id: sum(sink.num_tokens for sink in instance.running_sinks()) for instance in self._supervisor.instances()}
        totals = {}
        for model_id in dict.fromkeys((*running, *counts)):
            ids = (model_id, *self._variants_of(model_id))
            totals[model_id] = running.get(model_id, 0) + sum(counts[each].generated_tokens for each in ids if each in counts)
        variants = [variant for model_id in totals for variant in self._variants_of(model_id)]
        return {model_id: total for model_id, total in totals.items() if model_id not in variants}

    def _look(self) -> dict[str, Any]:
        supervisor = self._supervisor
        limits, waiting = supervisor.limits(), supervisor.num_waiting()
        instances = {instance.spec.id: instance for instance in supervisor.instances()}
        asleep = [model_id for model_id in supervisor.sleeping() if model_id not in instances]
        shown = dict.fromkeys((*instances, *asleep, *waiting, *self._rates))  # a model that was just unloaded may have worked
        models = [self._describe(model_id, instances.get(model_id)) for model_id in shown]
        return {
            "time": round(time.time(), 3),
            "limits": {
                "models_max": limits.models_max,
                "host_bytes": limits.host_bytes,
                "device_bytes": limits.all_devices_bytes,
                "devices": dict(limits.by_device),
            },
            "used": {name: sum(model[name] for model in models) for name in ("host_bytes", "device_bytes")},
            "machine": {"total_bytes": total_bytes(), "available_bytes": available_bytes()},
            "models": models,
        }

    def _describe(self, model_id: str, instance: Instance | None) -> dict[str, Any]:
        state = self._supervisor.status(model_id)
        num_slots = (instance.meta or {}).get("total_slots") if instance is not None else None
        num_streams = sum(1 for _ in instance.running_sinks()) if instance is not None else 0
        return {
            "model": model_id,
            "status": state.value,
            "state": instance.state.value if instance is not None else state.value,
            "host_bytes": state.need.host_bytes,
            "device_bytes": state.need.device_bytes,
            "devices": dict(state.need.by_device),
            "resident_bytes": resident_bytes(instance.process.pid) if instance is not None else 0,
            "shelf_bytes": instance.prompt_cache_bytes if instance is not None else 0,
            "parked_bytes": self._supervisor.parking.held(model_id)[1],
            "running": state.num_running,
            "waiting": state.num_waiting,
            "num_slots": num_slots if type(num_slots) is int else 0,
            "slots_used": min(num_streams, num_slots) if type(num_slots) is int else num_streams,
            "tokens_per_s": round(self._rates.get(model_id, 0.0), 1),
            "pinned": state.is_pinned,
            "idle_s": _rounded(state.idle_s),
            "expires_in_s": _rounded(state.expires_in_s),
        }


def visible(usage: dict[str, Any], can_see: Callable[[str], bool]) -> dict[str, Any]:
    """The usage without models that do not exist for the caller. Their bytes still count as used."""
    return {**usage, "models": [model for model in usage["models"] if can_see(model["model"])]}


def visible_past(past: Iterable[dict[str, Any]], can_see: Callable[[str], bool]) -> dict[str, Any]:
    return {"events": [event for event in past if can_see(event["model"])]}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
