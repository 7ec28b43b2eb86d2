"""Which models are in memory: one decision from what waits, what runs and how much room there is. Pure: no I/O, no clock, no log.

`plan` lists its cases. `Plan.order` is the order of the queue; the place in the queue that clients see comes from it too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fastrouter.options.limits import DEFAULT_PATIENCE_S
from fastrouter.supervisor.decide.eviction import choose_victims
from fastrouter.supervisor.decide.need import NOTHING, Need, Sizes, total
from fastrouter.supervisor.decide.state import State
from fastrouter.system.words import in_words

MAX_WAIT_S = 30.0  # a model that has waited this long comes before all priorities


@dataclass(frozen=True, slots=True)
class Waiting:
    """One model that requests wait for. They are in the order of their first request."""

    model_id: str
    since: float  # seconds of the same clock as `now`
    need: Need = NOTHING
    can_start: bool = True  # False: its requests may use it, but must not load it
    priority: int = 0  # the highest priority of its requests
    load_s: float = 0.0  # the time that its load will take

    def patience_s(self, least_s: float) -> float:
        """How long other models may go on before one has to leave for it: at least the time of its load, or all time would be spent on
        loads."""
        return max(least_s, min(self.load_s, MAX_WAIT_S))


@dataclass(frozen=True, slots=True)
class Resident:
    """One instance as the planner sees it, or a model asleep, which keeps its place but no memory."""

    model_id: str
    state: State | None  # None: asleep, without an instance
    num_leases: int
    last_used: float
    need: Need = NOTHING
    is_pinned: bool = False
    settled_at: float = 0.0  # before this time it is not evicted
    reload_s: float = 1.0  # the time to load it again
    is_ahead: bool = False  # it was foreseen, and no request has asked for it yet

    @property
    def is_asleep(self) -> bool:
        return self.state is None


@dataclass(frozen=True, slots=True)
class Limits:
    """What all residents together may take. 0 or None: no limit."""

    models_max: int = 0
    host_bytes: int | None = None
    device_bytes: int | None = None  # of all devices together
    patience_s: float = DEFAULT_PATIENCE_S
    by_device: Sizes = ()  # of single devices; one that is not here has no limit of its own

    @property
    def all_devices_bytes(self) -> int | None:
        """What all devices together may take; None: no limit is known."""
        own = sum(limit for _, limit in self.by_device) if self.by_device else None
        return own if self.device_bytes is None else self.device_bytes

    def lacking(self, taken: Need) -> Need:
        """How much `taken` is over the limits."""
        host = 0 if self.host_bytes is None else max(0, taken.host_bytes - self.host_bytes)
        device = 0 if self.device_bytes is None else max(0, taken.device_bytes - self.device_bytes)
        by_device = tuple((name, over) for name, limit in self.by_device if (over := taken.on(name) - limit) > 0)
        return Need(host, device, by_device)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, by model id. `drain` names all that should be draining; all others admit requests again."""

    order: list[str] = field(default_factory=list)  # models that wait and do not load yet, the next one first
    grant: list[str] = field(default_factory=list)
    evict: dict[str, str] = field(default_factory=dict)  # model id -> "count" or "memory": what was scarce
    start: list[str] = field(default_factory=list)
    drain: list[str] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)  # model id -> why it can never fit
    blocked_on: str | None = None  # "count" or "memory": what the first model that cannot start is waiting for


def plan(queue: Sequence[Waiting], residents: Sequence[Resident], limits: Limits, now: float) -> Plan:
    """One pass over the models that wait: first those that have waited MAX_WAIT_S, then the highest priority, then first come, first
    served. For each of them the first case that is true:

    1. It is loaded: its requests are granted, unless it leaves or drains for a model before it.
    2. It loads, or it stops: nothing to do, it has its place.
    3. Its requests may use it, but must not load it: nothing to do.
    4. It can never fit: it is refused, even when other models are before it.
    5. A model before it waits for room: it waits too.
    6. There is room, or there will be when idle residents leave that no request waits for (eviction.py chooses them): they are evicted, and
       it starts, unless it needs the memory of residents that have not ended yet.
    7. All other residents are busy: it waits. When its patience is over, a busy resident drains: it admits no new requests, so that two
       busy models cannot keep out a third.

    Pinned models, and models that have only just been loaded, neither leave nor drain. A model that was loaded ahead of requests leaves
    before all others, even while it loads.
    """
    return _Planner(queue, residents, limits, now).decide()


def next_change(queue: Sequence[Waiting], residents: Sequence[Resident], limits: Limits, now: float) -> float | None:
    """When the plan may change without any event; None: never."""
    moments = [waiting.since + waiting.patience_s(limits.patience_s) for waiting in queue]
    moments += [waiting.since + MAX_WAIT_S for waiting in queue if len(queue) > 1]
    moments += [resident.settled_at for resident in residents]
    return min((moment for moment in moments if moment > now), default=None)


_READY = (State.LOADED, State.DRAINING)


class _Planner:
    """The room that is left while a plan is made."""

    def __init__(self, queue: Sequence[Waiting], residents: Sequence[Resident], limits: Limits, now: float) -> None:
        self._queue = queue
        self._residents = {resident.model_id: resident for resident in residents}
        self._limits = limits
        self._now = now
        held = [resident for resident in residents if resident.state is not State.DYING]
        self._num_held = len(held)
        self._taken = total([resident.need for resident in residents])  # until dying residents are gone
        self._staying = total([resident.need for resident in held])
        wanted = {waiting.model_id for waiting in queue}
        self._evictable = [resident for resident in held if self._is_evictable(resident, wanted)]
        self._plan = Plan()

    def _is_evictable(self, resident: Resident, wanted: set[str]) -> bool:
        """A draining resident may leave although requests wait for it: others have waited longer."""
        if resident.is_asleep:
            return resident.model_id not in wanted
        if resident.is_ahead and resident.state is State.LOADING:
            return resident.model_id not in wanted
        is_free = resident.state in _READY and not resident.num_leases and self._may_leave(resident)
        return is_free and (resident.model_id not in wanted or resident.state is State.DRAINING)

    def _may_leave(self, resident: Resident) -> bool:
        return not resident.is_pinned and resident.settled_at <= self._now

    def decide(self) -> Plan:
        blocked_on: str | None = None
        for waiting in sorted(self._queue, key=self._rank):
            resident = self._residents.get(waiting.model_id)
            if resident is None or resident.state is not State.LOADING:
                self._plan.order.append(waiting.model_id)
            if resident is not None and resident.state not in (State.DYING, None):
                self._serve(resident)  # 1, 2
            elif waiting.can_start and not self._refuse(waiting) and not blocked_on:  # not 3, 4, 5
                blocked_on = self._admit(waiting, resident)  # 6, 7
        return replace(self._plan, blocked_on=blocked_on)

    def _rank(self, waiting: Waiting) -> float:
        """The lower one is first; equal ones stay in the order of the queue."""
        return float("-inf") if self._now - waiting.since >= MAX_WAIT_S else -float(waiting.priority)

    def _serve(self, resident: Resident) -> None:
        decided, model_id = self._plan, resident.model_id
        if resident.state in _READY and model_id not in decided.evict and model_id not in decided.drain:
            decided.grant.append(model_id)

    def _refuse(self, waiting: Waiting) -> bool:
        """True for a model that can never fit."""
        problem = self._never_fits(waiting)
        if problem is not None:
            self._plan.refuse[waiting.model_id] = problem
        return problem is not None

    def _admit(self, waiting: Waiting, resident: Resident | None) -> str | None:
        """Make room and start it. Returns what it must wait for, if anything."""
        decided = self._plan
        is_asleep = resident is not None and resident.is_asleep  # then it has its place already
        num_places = self._num_held + (0 if is_asleep else 1) - self._limits.models_max if self._limits.models_max else 0
        lacking = self._limits.lacking(self._staying + waiting.need)
        scarce = "memory" if lacking.is_some else "count"
        candidates = [r for r in self._evictable if r.model_id not in decided.evict and r.model_id not in decided.grant]
        victims = choose_victims(candidates, num_places, lacking, self._now)
        if victims is None:
            decided.drain.extend(self._to_drain(waiting))
            return scarce
        for victim in victims:
            decided.evict[victim.model_id] = scarce
            self._num_held -= 1
            self._staying -= victim.need
        if resident is None or is_asleep:
            if self._limits.lacking(self._taken + waiting.need).is_some:
                return "memory"  # it is being freed
            decided.start.append(waiting.model_id)
            self._taken += waiting.need
        self._num_held += 0 if is_asleep else 1  # while a dying worker keeps this place, the next worker of its model uses the same one
        self._staying += waiting.need
        return None

    def _never_fits(self, waiting: Waiting) -> str | None:
        """Why it can never fit, with the numbers."""
        limits, need = self._limits, waiting.need
        pinned = [
            resident
            for resident in self._residents.values()
            if resident.is_pinned and resident.state in (State.LOADING, *_READY) and resident.model_id != waiting.model_id
        ]
        if limits.models_max and len(pinned) >= limits.models_max:
            return f"all {limits.models_max} places are taken by pinned models"
        kept = total([resident.need for resident in pinned])
        beside = f" beside the {{}} of pinned models ({', '.join(resident.model_id for resident in pinned)})" if pinned else ""
        for what, needed, used, limit in (
            ("memory", need.host_bytes, kept.host_bytes, limits.host_bytes),
            ("device memory", need.device_bytes, kept.device_bytes, limits.device_bytes),
            *((f"memory of {name}", need.on(name), kept.on(name), limit) for name, limit in limits.by_device),
        ):
            if limit is not None and needed and needed + used > limit:
                there = f"{in_words(limit)} is the limit for all models"
                return f"it needs {in_words(needed)} of {what}{beside.format(in_words(used))}, and {there}"
        return None

    def _to_drain(self, waiting: Waiting) -> list[str]:
        """The instances that must end their work for `waiting`: those that drain already, and the least recently used one more when they
        are done and the room is still not enough. None while it is patient, or while an instance is ending anyway."""
        present = [resident for resident in self._residents.values() if resident.model_id not in self._plan.evict]
        ready = [resident for resident in present if resident.state in _READY and self._may_leave(resident)]
        is_ending = any(resident.state is State.STOPPING for resident in present)
        if self._now - waiting.since < waiting.patience_s(self._limits.patience_s) or is_ending:
            return []
        draining = [resident for resident in ready if resident.state is State.DRAINING]
        others = [resident for resident in ready if resident.state is State.LOADED]
        if others and not any(resident.num_leases for resident in draining):
            draining.append(min(others, key=lambda resident: resident.last_used))
        return [resident.model_id for resident in draining]
