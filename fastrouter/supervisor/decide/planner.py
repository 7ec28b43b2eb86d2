"""Who is resident: one pure decision from what waits, what runs and what there is room for. No I/O, no clock, no log.

`plan` lists its cases. `Plan.order` is the order of the queue: what a client is told of its place comes from there too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fastrouter.options.limits import DEFAULT_PATIENCE_S
from fastrouter.supervisor.decide.eviction import choose_victims
from fastrouter.supervisor.decide.need import NOTHING, Need, total
from fastrouter.supervisor.decide.state import State
from fastrouter.system.words import in_words

MAX_WAIT_S = 30.0  # after so long a model comes before all priorities


@dataclass(frozen=True, slots=True)
class Waiting:
    """One model that requests wait for, in the order of their first request."""

    model_id: str
    since: float  # seconds of the same clock as `now`
    need: Need = NOTHING
    can_start: bool = True  # False: its requests may use it, but not load it
    priority: int = 0  # the highest of its requests
    load_s: float = 0.0  # what its load will take

    def patience_s(self, least_s: float) -> float:
        """How long others may go on before it makes one leave: no less than its load takes, or all time would go into loads."""
        return max(least_s, min(self.load_s, MAX_WAIT_S))


@dataclass(frozen=True, slots=True)
class Resident:
    """One instance as the planner sees it; or a model asleep, which keeps its place but no memory."""

    model_id: str
    state: State | None  # None: asleep, it has no instance
    num_leases: int
    last_used: float
    need: Need = NOTHING
    is_pinned: bool = False
    settled_at: float = 0.0  # it is not made to leave before
    reload_s: float = 1.0  # what its return would take

    @property
    def is_asleep(self) -> bool:
        return self.state is None


@dataclass(frozen=True, slots=True)
class Limits:
    """What all residents may take together. 0 or None: no limit."""

    models_max: int = 0
    host_bytes: int | None = None
    device_bytes: int | None = None
    patience_s: float = DEFAULT_PATIENCE_S

    def lacking(self, taken: Need) -> Need:
        """How far `taken` is over."""
        host = 0 if self.host_bytes is None else max(0, taken.host_bytes - self.host_bytes)
        device = 0 if self.device_bytes is None else max(0, taken.device_bytes - self.device_bytes)
        return Need(host, device)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, by model id. `drain` is the whole set that should be draining; the others admit again."""

    order: list[str] = field(default_factory=list)  # the models that wait and do not load yet, the next one first
    grant: list[str] = field(default_factory=list)
    evict: dict[str, str] = field(default_factory=dict)  # model id -> "count" or "memory": what was scarce
    start: list[str] = field(default_factory=list)
    drain: list[str] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)  # model id -> why it can never fit
    blocked_on: str | None = None  # "count" or "memory": what the first model that cannot start waits for


def plan(queue: Sequence[Waiting], residents: Sequence[Resident], limits: Limits, now: float) -> Plan:
    """One pass over the models that wait: those that have waited MAX_WAIT_S, then the highest priority, then first come, first served.
    For each of them the first case that is true:

    1. It is resident and ready: its requests are granted, unless it leaves or drains for a model before it.
    2. It loads, or it stops: nothing, it has its place.
    3. Its requests may use it, but not load it: nothing.
    4. It can never fit: it is refused, whoever is before it.
    5. A model before it waits for room: it waits, too.
    6. There is room, or there will be when idle residents leave that no request waits for (eviction.py chooses): they are evicted and it
       starts, if the memory of those that still end is not needed.
    7. All others are busy: it waits. When its patience is over a busy resident drains: it admits nothing new, so that two busy models
       cannot starve a third.

    Pinned models and those that have only just been loaded neither leave nor drain.
    """
    return _Planner(queue, residents, limits, now).decide()


def next_change(queue: Sequence[Waiting], residents: Sequence[Resident], limits: Limits, now: float) -> float | None:
    """When time alone may change the plan; None: never."""
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
        self._taken = total([resident.need for resident in residents])  # until the dying are gone
        self._staying = total([resident.need for resident in held])
        wanted = {waiting.model_id for waiting in queue}
        self._evictable = [resident for resident in held if self._is_evictable(resident, wanted)]
        self._plan = Plan()

    def _is_evictable(self, resident: Resident, wanted: set[str]) -> bool:
        """Draining means that somebody has waited longer than those who want it now."""
        if resident.is_asleep:
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
        """Lower first; the order of the queue among equals."""
        return float("-inf") if self._now - waiting.since >= MAX_WAIT_S else -float(waiting.priority)

    def _serve(self, resident: Resident) -> None:
        decided, model_id = self._plan, resident.model_id
        if resident.state in _READY and model_id not in decided.evict and model_id not in decided.drain:
            decided.grant.append(model_id)

    def _refuse(self, waiting: Waiting) -> bool:
        """True for what can never fit."""
        problem = self._never_fits(waiting)
        if problem is not None:
            self._plan.refuse[waiting.model_id] = problem
        return problem is not None

    def _admit(self, waiting: Waiting, resident: Resident | None) -> str | None:
        """Make room and start it; what it waits for, if it must."""
        decided = self._plan
        is_asleep = resident is not None and resident.is_asleep  # it has its place
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
                return "memory"  # which is on its way back
            decided.start.append(waiting.model_id)
            self._taken += waiting.need
        self._num_held += 0 if is_asleep else 1  # a dying one's next worker has its place, kept until the last one is gone
        self._staying += waiting.need
        return None

    def _never_fits(self, waiting: Waiting) -> str | None:
        """Why not, with the figures."""
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
        ):
            if limit is not None and needed and needed + used > limit:
                there = f"{in_words(limit)} is all there is for models"
                return f"it needs {in_words(needed)} of {what}{beside.format(in_words(used))}, and {there}"
        return None

    def _to_drain(self, waiting: Waiting) -> list[str]:
        """The instances that must end their work for `waiting`: what drains already, and one more, the least recently used, when all
        of those are done and it is still not enough; none while it is patient or something ends anyway."""
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
