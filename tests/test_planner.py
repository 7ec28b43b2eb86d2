"""Who is resident: each rule of the planner as a table, and its promises on random histories."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrouter.supervisor.planner import LOAD_MARGIN, PATIENCE_S, Plan, Resident, Waiting, plan
from fastrouter.supervisor.state import TRANSITIONS, State, check

GIB = 1 << 30
LOADING, LOADED, DRAINING, STOPPING, DYING = State
LATE = PATIENCE_S + 1


def waiting(model_id: str, since: float = 0.0, size: int = 0, can_start: bool = True) -> Waiting:
    return Waiting(model_id, since, size, can_start)


def resident(model_id: str, state: State = LOADED, leases: int = 0, used: float = 0.0) -> Resident:
    return Resident(model_id, state, leases, used)


def decide(queue: list[Waiting], residents: list[Resident], models_max: int = 2, free: int = GIB, now: float = 0.0) -> str:
    """The plan in short: `+` start, `-` evict, `=` grant, `~` drain."""
    decided = plan(queue, residents, models_max, free, now)
    signs = (("-", decided.evict), ("+", decided.start), ("=", decided.grant), ("~", decided.drain))
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


def test_a_draining_model_admits_nothing_new() -> None:
    residents = [resident("a", DRAINING, 1), resident("b", leases=1)]
    assert decide([C, waiting("a", 0.5)], residents, now=LATE) == "~a"
    assert decide([waiting("a", -1.0), C], residents, now=LATE) == "=a ~a", "who waited before is served"
    assert decide([C, waiting("a", 0.5)], [resident("a", DRAINING), resident("b", leases=1)], now=LATE) == "-a +c"


def test_no_limit() -> None:
    residents = [resident(str(i), used=i) for i in range(50)]
    assert decide([A, B], residents, models_max=0) == "+a +b"


def test_memory_is_awaited_while_a_victim_dies() -> None:
    size = int(GIB / LOAD_MARGIN)
    big = waiting("big", size=size + 8)
    dying = resident("a", DYING)
    assert decide([big], [dying]) == "", "its memory is not back yet"
    assert decide([big], []) == "+big", "nothing comes back: the load may fail, waiting would never end"
    assert decide([waiting("small", size=size)], [dying]) == "+small"
    assert decide([waiting("half", size=size // 2), waiting("more", size=size)], [dying], models_max=4) == "+half"
    assert decide([big, waiting("small")], [dying], models_max=4) == "", "nobody overtakes"
    assert decide([big], [resident("a"), resident("b", used=1)]) == "-a"


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


@dataclass
class Machine:
    """Performs plans on paper: the queue and the instances, without a process."""

    models_max: int
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
            if not (decided.start or decided.evict or decided.grant):
                return
        else:
            pytest.fail("the plan never comes to rest")
        self.drain([])

    def decide(self) -> Plan:
        queue = [Waiting(model, since[0]) for model, since in self.queue.items()]
        residents = [Resident(model, state, self.leases[model], self.used[model]) for model, state in self.state.items()]
        decided = plan(queue, residents, self.models_max, GIB, self.now)
        self.check(decided, list(self.queue))
        return decided

    def check(self, decided: Plan, order: list[str]) -> None:
        lists = (decided.grant, decided.evict, decided.start)
        together = [model for names in lists for model in names]
        assert len(set(together)) == len(together), f"in two lists: {decided}"
        assert len(decided.drain) <= 1
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
        for victim in decided.evict:
            assert all(self.used[victim] <= self.used[model] for model in spared), f"{victim} is not the oldest"
        assert decided.start == [model for model in order if model in decided.start], "out of order"
        if decided.start:
            before = order[: order.index(decided.start[-1])]
            skipped = [model for model in before if model not in decided.start and model not in self.state]
            assert not skipped, f"{skipped} overtaken"

    def perform(self, decided: Plan) -> None:
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

    def drain(self, models: list[str]) -> None:
        for model, state in self.state.items():
            if state is LOADED and model in models:
                self.state[model] = DRAINING
            elif state is DRAINING and model not in models:
                self.state[model] = LOADED

    def settle(self) -> None:
        """What runs comes to its end: loads finish, the dying are gone, leases are given back."""
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
@given(st.integers(0, 4), st.lists(EVENTS, max_size=60))
def test_random_histories(models_max: int, events: list[tuple[str, str]]) -> None:
    machine = Machine(models_max)
    for event, model in events:
        apply(machine, event, model)
    for model, state in list(machine.state.items()):
        if state is STOPPING:  # what it has ends within its stop-timeout
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
    """Two models whose next request always comes before the last one has ended."""
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
