"""Who is resident: each rule of the planner as a table, and its promises on random histories."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrouter.supervisor.decide.eviction import choose_victims, cost
from fastrouter.supervisor.decide.need import NOTHING, Need, on_devices, total
from fastrouter.supervisor.decide.planner import MAX_WAIT_S, Limits, Plan, Resident, Waiting, next_change, plan
from fastrouter.supervisor.decide.state import TRANSITIONS, State, check

PATIENCE_S = Limits().patience_s
LOADING, LOADED, DRAINING, STOPPING, DYING = State
SLEEPING = None
LATE = PATIENCE_S + 1


def waiting(model_id: str, since: float = 0.0, size: int = 0, can_start: bool = True) -> Waiting:
    return Waiting(model_id, since, Need(size), can_start)


def resident(model_id: str, state: State | None = LOADED, leases: int = 0, used: float = 0.0) -> Resident:
    return Resident(model_id, state, leases, used)


def decide(queue: list[Waiting], residents: list[Resident], models_max: int = 2, host: int | None = None, now: float = 0.0) -> str:
    """The plan in short: `+` start, `-` evict, `=` grant, `~` drain, `!` refuse."""
    decided = plan(queue, residents, Limits(models_max, host), now)
    signs = (("-", decided.evict), ("+", decided.start), ("=", decided.grant), ("~", decided.drain), ("!", decided.refuse))
    return " ".join(sign + model_id for sign, model_ids in signs for model_id in model_ids)


A, B, C, D = map(waiting, "abcd")


@pytest.mark.parametrize(
    ("queue", "residents", "expected"),
    [
        pytest.param([], [resident("a")], "", id="nothing waits, nothing happens"),
        pytest.param([A], [], "+a", id="free room"),
        pytest.param([A, B], [], "+a +b", id="room for both"),
        pytest.param([A], [resident("a")], "=a", id="resident"),
        pytest.param([A], [resident("a", leases=3)], "=a", id="resident and busy"),
        pytest.param([A], [resident("a", LOADING)], "", id="it loads already"),
        pytest.param([A], [resident("a", STOPPING, 1)], "", id="it must be gone before it can load again"),
        pytest.param([A], [resident("a", DYING)], "", id="it dies"),
        pytest.param([C], [resident("a", used=2), resident("b", used=1)], "-b +c", id="least recently used goes"),
        pytest.param([C], [resident("a", leases=1, used=1), resident("b", used=2)], "-b +c", id="the busy one stays"),
        pytest.param([C], [resident("a", LOADING, used=1), resident("b", used=2)], "-b +c", id="the loading one stays"),
        pytest.param([C, A], [resident("a", used=1), resident("b", used=2)], "-b +c =a", id="what is waited for stays"),
        pytest.param([C], [resident("a", leases=1), resident("b", leases=1)], "", id="all busy: it waits"),
        pytest.param([C], [resident("a", LOADING), resident("b", LOADING)], "", id="all loading: it waits"),
        pytest.param([C, D], [resident("a", used=1), resident("b", leases=1)], "-a +c", id="one place, two wait: the first gets it"),
        pytest.param([C, D], [resident("a", used=2), resident("b", used=1)], "-b -a +c +d", id="two places, each its own victim"),
        pytest.param([C, A], [resident("a", leases=1), resident("b", leases=1)], "=a", id="a resident model is served past a blocked one"),
        pytest.param([C], [resident("a", DYING), resident("b", leases=1)], "+c", id="a dying one holds no place"),
        pytest.param([A, C], [resident("a", DYING), resident("b", LOADING)], "", id="a place is kept for the model that dies first"),
        pytest.param([C, A], [resident("a", DYING), resident("b", LOADING)], "+c", id="but not against who came before"),
        pytest.param([A], [resident("a", DYING), resident("b"), resident("c", used=1)], "-b", id="room is made while it dies"),
        pytest.param([waiting("c", can_start=False)], [], "", id="its requests may not load it"),
        pytest.param([waiting("c", can_start=False)], [resident("c")], "=c", id="but use it"),
        pytest.param([waiting("c", can_start=False), D], [], "+d", id="and it is in nobody's way"),
    ],
)
def test_rules(queue: list[Waiting], residents: list[Resident], expected: str) -> None:
    assert decide(queue, residents) == expected


@pytest.mark.parametrize(
    ("residents", "now", "expected"),
    [
        pytest.param([resident("a", leases=1), resident("b", leases=1, used=1)], PATIENCE_S - 0.1, "", id="patient"),
        pytest.param([resident("a", leases=1), resident("b", leases=1, used=1)], LATE, "~a", id="least recently used of the busy"),
        pytest.param([resident("a", leases=1), resident("b", DRAINING, 1, 1)], LATE, "~b", id="one at a time"),
        pytest.param([resident("a", leases=1), resident("b", STOPPING, 1)], LATE, "", id="something ends anyway"),
        pytest.param([resident("a", LOADING), resident("b", LOADING)], LATE, "", id="a load is not interrupted"),
        pytest.param([resident("a", LOADING), resident("b", leases=1)], LATE, "~b", id="the one that serves"),
        pytest.param([resident("a", DRAINING), resident("b", leases=1)], LATE, "-a +c", id="drained"),
    ],
)
def test_patience(residents: list[Resident], now: float, expected: str) -> None:
    assert decide([C], residents, now=now) == expected


def test_what_is_evicted_drains_no_more() -> None:
    drained, busy = resident("a", DRAINING), resident("b", leases=1, used=1)
    assert decide([C, D], [drained, busy], now=LATE) == "-a +c ~b"


def test_patience_is_as_long_as_the_load() -> None:
    busy = [resident("a", leases=1), resident("b", leases=1, used=1)]
    slow = replace(C, load_s=10.0)
    assert decide([slow], busy, now=LATE) == ""
    assert decide([slow], busy, now=10.0) == "~a"
    assert decide([replace(C, load_s=1000.0)], busy, now=MAX_WAIT_S) == "~a", "but nobody waits for ever"
    assert next_change([slow], busy, Limits(2), 5.0) == 10.0


def test_a_draining_model_admits_nothing_new() -> None:
    residents = [resident("a", DRAINING, 1), resident("b", leases=1)]
    assert decide([C, waiting("a", 0.5)], residents, now=LATE) == "~a"
    assert decide([waiting("a", -1.0), C], residents, now=LATE) == "=a ~a", "who waited before is served"
    assert decide([C, waiting("a", 0.5)], [resident("a", DRAINING), resident("b", leases=1)], now=LATE) == "-a +c"


def test_no_limit() -> None:
    residents = [resident(str(i), used=i) for i in range(50)]
    assert decide([A, B], residents, models_max=0) == "+a +b"


def sized(model_id: str, size: int, state: State = LOADED, leases: int = 0, **more: float) -> Resident:
    return replace(resident(model_id, state, leases), need=Need(size), **more)


@pytest.mark.parametrize(
    ("queue", "residents", "expected"),
    [
        pytest.param([waiting("c", size=4)], [sized("a", 6)], "+c", id="room beside it"),
        pytest.param([waiting("c", size=5)], [sized("a", 6)], "-a", id="it leaves first, and its memory is awaited"),
        pytest.param([waiting("c", size=5)], [sized("a", 6, DYING)], "", id="it is not back yet"),
        pytest.param([waiting("c", size=4)], [sized("a", 6, DYING)], "+c", id="both fit"),
        pytest.param([waiting("c", size=11)], [sized("a", 6)], "!c", id="never"),
        pytest.param([waiting("c", size=5), waiting("d", size=11)], [sized("a", 6, LOADED, 1)], "!d", id="never, whoever waits before it"),
        pytest.param([waiting("c", size=5)], [sized("a", 6, is_pinned=True)], "!c", id="never beside what is pinned"),
        pytest.param([waiting("c", size=5)], [sized("a", 6, settled_at=1)], "", id="not yet: it has only just been loaded"),
        pytest.param([waiting("c", size=5)], [sized("a", 6, LOADED, 1)], "", id="busy"),
        pytest.param([waiting("c", size=5)], [sized("a", 6, LOADING)], "", id="loading"),
        pytest.param([waiting("c", size=5), waiting("d", size=1)], [sized("a", 6, LOADED, 1)], "", id="nobody overtakes"),
        pytest.param(
            [waiting("c", size=6)], [sized("a", 4, reload_s=1), sized("b", 4, reload_s=9)], "-a", id="the one that is quick to come back"
        ),
        pytest.param([waiting("c", size=6)], [sized("a", 4, last_used=-5), sized("b", 4, last_used=-90)], "-b", id="the one long unused"),
        pytest.param(
            [waiting("c", size=5)],
            [sized("a", 2, reload_s=1), sized("b", 3, reload_s=1), sized("d", 5, reload_s=3)],
            "-a -b",
            id="two small ones rather than a large one",
        ),
        pytest.param(
            [waiting("c", size=5)],
            [sized("a", 2, reload_s=2), sized("b", 3, reload_s=2), sized("d", 5, reload_s=3)],
            "-d",
            id="one large one rather than two",
        ),
        pytest.param([waiting("c", size=8)], [sized("a", 4), sized("b", 5, LOADED, 1)], "", id="no use in evicting one of two"),
    ],
)
def test_memory(queue: list[Waiting], residents: list[Resident], expected: str) -> None:
    assert decide(queue, residents, models_max=9, host=10) == expected


def test_the_figures_of_a_refusal() -> None:
    mib = 1 << 20
    limits = Limits(4, 2000 * mib, 1000 * mib)
    decided = plan([waiting("c", size=3000 * mib)], [], limits, 0)
    assert decided.refuse == {"c": "it needs 2.9 GiB of memory, and 2.0 GiB is the limit for all models"}
    decided = plan([Waiting("c", 0, Need(0, 1500 * mib))], [], limits, 0)
    assert decided.refuse == {"c": "it needs 1.5 GiB of device memory, and 1000.0 MiB is the limit for all models"}
    pinned = replace(sized("a", 1500 * mib), is_pinned=True)
    decided = plan([waiting("c", size=600 * mib)], [pinned], limits, 0)
    assert "beside the 1.5 GiB of pinned models (a)" in decided.refuse["c"]
    decided = plan([A], [replace(resident(name), is_pinned=True) for name in "bc"], Limits(2), 0)
    assert decided.refuse == {"a": "all 2 places are taken by pinned models"}


def test_several_drain_where_one_is_not_enough() -> None:
    big, now = waiting("c", size=9), LATE
    busy = [sized("a", 4, LOADED, 1, last_used=1), sized("b", 4, LOADED, 1, last_used=2)]
    assert decide([big], busy, 9, 10, now) == "~a"
    drained = [replace(busy[0], state=DRAINING, num_leases=0), busy[1]]
    assert decide([big], drained, 9, 10, now) == "~a ~b"
    assert decide([big], [drained[0], replace(busy[1], state=DRAINING, num_leases=0)], 9, 10, now) == "-a -b"


def test_pinned_and_new_ones_stay() -> None:
    old, new = replace(resident("a", used=1), is_pinned=True), replace(resident("b", used=2), settled_at=5.0)
    assert decide([C], [old, resident("b", used=2)]) == "-b +c"
    assert decide([C], [old, new]) == ""
    assert decide([C], [old, new], now=5.0) == "-b +c"
    assert decide([C], [replace(old, num_leases=1), replace(new, settled_at=0, num_leases=1)], now=LATE) == "~b"
    assert next_change([C], [old, new], Limits(2), 0.0) == 1.0
    assert next_change([C], [old, new], Limits(2), 1.5) == 5.0
    assert next_change([], [old, resident("b")], Limits(2), 1.5) is None


def test_sleepers_keep_a_place_and_give_it_first() -> None:
    asleep = resident("a", SLEEPING, used=9)
    assert decide([C], [asleep, resident("b", used=1)]) == "-a +c"
    assert decide([A], [asleep, resident("b", used=1)]) == "+a", "its place is its own"
    assert decide([A, C], [asleep, resident("b", leases=1)]) == "+a"
    assert decide([C], [asleep], models_max=1) == "-a +c"


def test_priorities() -> None:
    urgent = replace(waiting("d", 1.0), priority=5)
    assert decide([C, urgent], [], 1, now=2.0) == "+d"
    assert decide([C, urgent], [], 1, now=MAX_WAIT_S + 0.5) == "+c", "nobody waits for ever"
    assert decide([C, replace(urgent, priority=-1)], [], 1, now=2.0) == "+c"


SIZED = st.builds(
    lambda name, size, used, reload_s, asleep: Resident(
        name, SLEEPING if asleep else LOADED, 0, used, NOTHING if asleep else Need(size), reload_s=reload_s
    ),
    st.uuids().map(str),
    st.integers(1, 50),
    st.floats(-1000, 0),
    st.floats(0.01, 60),
    st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(SIZED, max_size=7), st.integers(0, 4), st.integers(0, 120))
def test_the_cheapest_set_leaves(candidates: list[Resident], num_places: int, lacking: int) -> None:
    """Compared with all possible sets."""

    def is_enough(chosen: Sequence[Resident]) -> bool:
        return len(chosen) >= num_places and sum(one.need.host_bytes for one in chosen) >= lacking

    def price(chosen: Sequence[Resident]) -> float:
        return sum(cost(one, 0.0) for one in chosen)

    found = choose_victims(candidates, num_places, Need(lacking), 0.0)
    sets = [chosen for size in range(len(candidates) + 1) for chosen in combinations(candidates, size) if is_enough(chosen)]
    if not sets:
        assert found is None
        return
    assert found is not None
    assert is_enough(found)
    if lacking:
        assert price(found) <= min(map(price, sets)) + 1e-9
    else:
        awake = [one.last_used for one in found if not one.is_asleep]
        left = [one.last_used for one in candidates if one not in found and not one.is_asleep]
        assert len(found) == num_places
        assert not awake or not left or max(awake) <= min(left)


def test_many_small_ones_for_a_large_one() -> None:
    small = [sized(str(index), 1, last_used=-float(index)) for index in range(40)]
    found = choose_victims(small, 1, Need(30), 0.0)
    assert found is not None
    assert len(found) == 30
    assert choose_victims(small, 1, Need(41), 0.0) is None


def test_states() -> None:
    for old in State:
        for new in State:
            if new in TRANSITIONS[old]:
                check(old, new)
            else:
                with pytest.raises(AssertionError):
                    check(old, new)
    assert not TRANSITIONS[DYING]


# ---------------------------------------------------------------- random histories


ON_DEVICES = {"a": {"x": 1}, "b": {"y": 2}, "c": {"x": 3}, "d": {"x": 1, "y": 1}}


def need_of(model: str) -> Need:
    return on_devices("abcdefgh".index(model) + 1, ON_DEVICES.get(model, {}))


@dataclass
class Machine:
    """Performs plans without processes: only the queue and the instances."""

    models_max: int
    host: int | None = None  # memory; models need 1 to 5
    device: int | None = None  # memory of each of two devices; see ON_DEVICES
    now: float = 0.0
    queue: dict[str, list[float]] = field(default_factory=dict)  # model -> when each of its requests came
    state: dict[str, State] = field(default_factory=dict)
    leases: Counter[str] = field(default_factory=Counter)
    used: dict[str, float] = field(default_factory=dict)
    num_waits: int = 0

    def arrive(self, model: str) -> None:
        if self.state.get(model) is LOADED and model not in self.queue:
            self.lend(model, 1)
        else:
            self.queue.setdefault(model, []).append(self.now)

    def lend(self, model: str, num: int) -> None:
        self.leases[model] += num
        self.used[model] = self.now

    def rebalance(self) -> None:
        for _ in range(20):
            if not self.queue:
                break
            decided = self.decide()
            self.perform(decided)
            if not (decided.start or decided.evict or decided.grant or decided.refuse):
                return
        else:
            pytest.fail("the plan never comes to rest")
        self.drain([])

    def decide(self) -> Plan:
        queue = [Waiting(model, since[0], need_of(model)) for model, since in self.queue.items()]
        residents = [Resident(model, state, self.leases[model], self.used[model], need_of(model)) for model, state in self.state.items()]
        by_device = () if self.device is None else (("x", self.device), ("y", self.device))
        decided = plan(queue, residents, Limits(self.models_max, self.host, by_device=by_device), self.now)
        self.check(decided, list(self.queue))
        return decided

    def check(self, decided: Plan, order: list[str]) -> None:
        lists = (decided.grant, decided.evict, decided.start)
        together = [model for names in lists for model in names]
        assert len(set(together)) == len(together), f"in two lists: {decided}"
        assert len(decided.drain) <= 1 or (self.host, self.device) != (None, None)
        assert set(decided.refuse) == {model for model in order if self.can_never_hold(model)}
        assert set(decided.grant) | set(decided.start) <= set(order)
        for victim in decided.evict:
            assert self.leases[victim] == 0, f"busy: {victim}"
            assert self.state[victim] in (LOADED, DRAINING)
            assert victim not in order or self.state[victim] is DRAINING, f"wanted: {victim}"
        spared = [
            model
            for model, state in self.state.items()
            if state is LOADED and not self.leases[model] and model not in decided.evict and model not in order
        ]
        for victim, scarce in decided.evict.items():
            if scarce == "count":
                assert all(self.used[victim] <= self.used[model] for model in spared), f"{victim} is not the oldest"
        assert decided.start == [model for model in order if model in decided.start], "out of order"
        if decided.start:
            before = order[: order.index(decided.start[-1])]
            skipped = [model for model in before if model not in (*decided.start, *decided.refuse) and model not in self.state]
            assert not skipped, f"{skipped} overtaken"

    def can_never_hold(self, model: str) -> bool:
        need, most = need_of(model), max([size for _, size in need_of(model).by_device], default=0)
        return (self.host is not None and need.host_bytes > self.host) or (self.device is not None and most > self.device)

    def perform(self, decided: Plan) -> None:
        for model in decided.refuse:
            del self.queue[model]
        for model in decided.evict:
            self.state[model] = DYING
        for model in decided.start:
            assert model not in self.state
            self.state[model] = LOADING
            self.used[model] = self.now
        for model in decided.grant:
            self.lend(model, len(self.queue.pop(model)))
        self.drain(decided.drain)
        held = [model for model, state in self.state.items() if state is not DYING]
        assert not self.models_max or len(held) <= self.models_max, held
        taken = total(need_of(model) for model in self.state)
        assert self.host is None or taken.host_bytes <= self.host, "with those that are on their way out"
        assert self.device is None or max(taken.on("x"), taken.on("y")) <= self.device

    def drain(self, models: list[str]) -> None:
        for model, state in self.state.items():
            if state is LOADED and model in models:
                self.state[model] = DRAINING
            elif state is DRAINING and model not in models:
                self.state[model] = LOADED

    def settle(self) -> None:
        """All that runs ends: loads finish, dying instances are gone, leases are given back."""
        for model, state in list(self.state.items()):
            if state is LOADING:
                self.state[model] = LOADED
            elif state is DYING:
                del self.state[model]
            elif self.leases[model]:
                self.leases[model] -= 1
                self.used[model] = self.now


MODELS = st.sampled_from("abcde")
EVENTS = st.one_of(
    st.tuples(st.just("arrive"), MODELS),
    st.tuples(st.just("leave"), MODELS),
    st.tuples(st.just("release"), MODELS),
    st.tuples(st.just("ready"), MODELS),
    st.tuples(st.just("crash"), MODELS),
    st.tuples(st.just("gone"), MODELS),
    st.tuples(st.just("stop"), MODELS),
    st.tuples(st.just("wait"), MODELS),
)


def apply(machine: Machine, event: str, model: str) -> None:
    state = machine.state.get(model)
    machine.now += PATIENCE_S if event == "wait" else 0.01
    if event == "arrive":
        machine.arrive(model)
    elif event == "leave" and model in machine.queue:
        machine.queue[model].pop()
        if not machine.queue[model]:
            del machine.queue[model]
    elif event == "release" and machine.leases[model]:
        machine.leases[model] -= 1
        machine.used[model] = machine.now
        if state is STOPPING and not machine.leases[model]:
            machine.state[model] = DYING
    elif event == "ready" and state is LOADING:
        machine.state[model] = LOADED
    elif (event == "crash" and state is not None) or (event == "gone" and state is DYING):
        del machine.state[model]
        machine.leases[model] = 0
    elif event == "stop" and state in (LOADED, DRAINING):
        machine.state[model] = STOPPING if machine.leases[model] else DYING
    machine.rebalance()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 4), st.sampled_from([None, 4, 5, 7, 11]), st.sampled_from([None, 2, 3, 4]), st.lists(EVENTS, max_size=60))
def test_random_histories(models_max: int, host: int | None, device: int | None, events: list[tuple[str, str]]) -> None:
    machine = Machine(models_max, host, device)
    for event, model in events:
        apply(machine, event, model)
    for model, state in list(machine.state.items()):
        if state is STOPPING:  # its requests end within its stop-timeout
            machine.state[model] = DYING
            machine.leases[model] = 0
    for _ in range(2000):
        if not machine.queue:
            break
        machine.now += 0.1
        machine.settle()
        machine.rebalance()
    assert not machine.queue, f"starved: {machine}"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("ab"), min_size=5, max_size=30))
def test_busy_models_cannot_starve_a_third(arrivals: list[str]) -> None:
    """Two models; the next request of each comes before its last one has ended."""
    machine = Machine(2)
    for model in "ab":
        machine.arrive(model)
        machine.rebalance()
        machine.settle()
        machine.rebalance()
    machine.arrive("c")
    for step in range(200):
        machine.now += 0.1
        for model in "ab":
            machine.arrive(model)
        machine.arrive(arrivals[step % len(arrivals)])
        machine.settle()
        machine.rebalance()
        if "c" not in machine.queue:
            break
    else:
        pytest.fail(f"starved: {machine}")
    assert step < 60
