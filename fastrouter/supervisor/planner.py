"""Who is resident: one pure decision from what waits, what runs and how much memory is free. No I/O, no clock, no log.

Rules: first come, first served, by model. A waiting model takes free room, else the place of the least recently used instance that
serves nothing and that nobody waits for. When all are busy it waits; after PATIENCE_S one busy instance admits nothing new, so that
two busy models cannot starve a third.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fastrouter.supervisor.state import State

PATIENCE_S = 1.0
LOAD_MARGIN = 1.2  # memory a load needs beside the file itself, as a factor


@dataclass(frozen=True, slots=True)
class Waiting:
    """One model that requests wait for, in the order of their first request."""

    model_id: str
    since: float  # seconds of the same clock as `now`
    size_bytes: int = 0
    can_start: bool = True  # False: its requests may use it, but not load it


@dataclass(frozen=True, slots=True)
class Resident:
    """One instance as the planner sees it."""

    model_id: str
    state: State
    num_leases: int
    last_used: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, by model id. `drain` is the whole set that should be draining; who is not in it admits again."""

    grant: list[str]
    evict: list[str]
    start: list[str]
    drain: list[str]


def plan(queue: Sequence[Waiting], residents: Sequence[Resident], models_max: int, free_bytes: int, now: float) -> Plan:
    """`models_max` 0: no limit. `free_bytes`: memory that a load may use while a victim is still dying."""
    by_id = {resident.model_id: resident for resident in residents}
    wanted = {waiting.model_id for waiting in queue}
    held = [resident for resident in residents if resident.state is not State.DYING]
    idle = sorted((r for r in held if _is_evictable(r, wanted)), key=lambda resident: resident.last_used)
    num_held = len(held)
    is_memory_coming = num_held < len(residents)
    is_blocked = False  # nobody may overtake a model that waits for room
    result = Plan([], [], [], [])
    for waiting in queue:
        model_id = waiting.model_id
        resident = by_id.get(model_id)
        if resident is not None and resident.state is not State.DYING:
            if resident.state in _READY and model_id not in result.evict and model_id not in result.drain:
                result.grant.append(model_id)
            continue  # or it loads, or stops: it has its place
        if is_blocked or not waiting.can_start:
            continue
        if models_max and num_held >= models_max:
            victim = next((r for r in idle if r.model_id not in result.evict and r.model_id not in result.grant), None)
            if victim is None:
                result.drain.extend(_to_drain(waiting, held, now))
                is_blocked = True
                continue
            result.evict.append(victim.model_id)
            num_held -= 1
            is_memory_coming = True
        if resident is not None:
            num_held += 1  # its next worker's place, kept until the last one is gone
            continue
        needed = int(waiting.size_bytes * LOAD_MARGIN)
        if is_memory_coming and needed > free_bytes:
            is_blocked = True
            continue
        free_bytes -= needed
        num_held += 1
        result.start.append(model_id)
    return result


_READY = (State.LOADED, State.DRAINING)


def _is_evictable(resident: Resident, wanted: set[str]) -> bool:
    """Draining means that somebody has waited longer than those who want it now."""
    is_free = resident.state in _READY and not resident.num_leases
    return is_free and (resident.model_id not in wanted or resident.state is State.DRAINING)


def _to_drain(waiting: Waiting, held: Sequence[Resident], now: float) -> list[str]:
    """The instance that must end its work for `waiting`: what drains already, else the least recently used; none while it is patient
    or something ends anyway."""
    candidates = [resident for resident in held if resident.state in _READY]
    if now - waiting.since < PATIENCE_S or not candidates or any(r.state is State.STOPPING for r in held):
        return []
    return [min(candidates, key=lambda r: (r.state is not State.DRAINING, r.last_used)).model_id]
