"""What a request for a model would cause now: the planner is asked as if that request were in the queue. Changes nothing."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastrouter.catalog.spec import ModelSpec
from fastrouter.supervisor.decide.need import Need, total
from fastrouter.supervisor.decide.planner import Limits, Resident, Waiting, plan
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.memory.measurements import Measures


def look_ahead(
    spec: ModelSpec, queue: Sequence[Waiting], residents: Sequence[Resident], limits: Limits, measures: Measures, now: float
) -> dict[str, Any]:
    """`action`: use (it is in memory), wait_load (it is loading), load, evict (others leave first), wait (all are busy), refuse."""
    need = measures.need(spec)
    own = next((waiting for waiting in queue if waiting.model_id == spec.id), None)
    ahead = [waiting for waiting in queue if waiting is not own]
    waiting = replace(own, can_start=True) if own is not None else Waiting(spec.id, now, need)
    asked = [waiting if other is own else other for other in queue] if own is not None else [*ahead, waiting]
    before, decided = plan(ahead, residents, limits, now), plan(asked, residents, limits, now)
    resident = next((resident for resident in residents if resident.model_id == spec.id), None)
    evicted = {model_id: reason for model_id, reason in decided.evict.items() if model_id not in before.evict}
    needs = {resident.model_id: resident.need for resident in residents}
    action = _action(spec.id, resident, decided.refuse, decided.grant, decided.start, evicted)
    busy = [resident.model_id for resident in residents if resident.num_leases or resident.state is State.LOADING]
    answer: dict[str, Any] = {
        "model": spec.id,
        "action": action,
        "fits": action != "refuse",
        "evict": [{"model": model_id, "reason": reason, **_bytes_of(needs[model_id])} for model_id, reason in evicted.items()],
        "need": {**_bytes_of(need), "is_measured": measures.is_measured(spec)},
        "used": _bytes_of(total(list(needs.values()))),
        "limits": {
            "models_max": limits.models_max,
            "host_bytes": limits.host_bytes,
            "device_bytes": limits.all_devices_bytes,
            "devices": dict(limits.by_device),
        },
        "load_s": 0.0 if action == "use" else round(measures.expected_load_s(spec), 4),
        "queued_models": before.order,
    }
    if action == "refuse":
        answer["why"] = decided.refuse[spec.id]
    if action == "wait":
        answer["waits_for"] = {"what": decided.blocked_on, "models": busy}
    return answer


def _action(
    model_id: str, resident: Resident | None, refuse: dict[str, str], grant: list[str], start: list[str], evicted: dict[str, str]
) -> str:
    if model_id in refuse:
        return "refuse"
    if model_id in grant:
        return "use"
    if resident is not None and resident.state is State.LOADING:
        return "wait_load"
    if evicted:
        return "evict"
    return "load" if model_id in start or (resident is not None and resident.state is State.DYING) else "wait"


def _bytes_of(need: Need) -> dict[str, Any]:
    return {"host_bytes": need.host_bytes, "device_bytes": need.device_bytes, "devices": dict(need.by_device)}
