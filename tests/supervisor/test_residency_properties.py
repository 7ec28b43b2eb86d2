"""The supervisor with scripted processes, compared with a simple model of its rules, on histories from hypothesis."""

import asyncio
import contextlib
import os
import signal
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from house import WHOLE, Collector, House, run_house, submit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import until

from fastrouter.errors import DoesNotFit, InvalidRequest
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.lease import Lease

MIB = 1 << 20
MODELS = "abcde"
SIZES = {"a": 10, "b": 20, "c": 30, "d": 45, "e": 95}
LIMIT = 100

Event = tuple[str, str]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ask"] * 6 + ["hold", "hold", "release", "unload", "pin", "unpin", "kill", "preview"]), st.sampled_from(MODELS)
    ),
    min_size=5,
    max_size=30,
)


@dataclass
class Rules:
    """What must be true, derived from the requests alone. Oldest use first."""

    models_max: int
    used: list[str] = field(default_factory=list)  # resident models, least recently used first
    held: list[str] = field(default_factory=list)  # models of leases that are held
    pinned: set[str] = field(default_factory=set)

    def touch(self, model: str) -> None:
        if model in self.used:
            self.used.remove(model)
        self.used.append(model)

    def leaves(self, model: str) -> None:
        if model in self.used:
            self.used.remove(model)

    @property
    def room(self) -> int:
        return LIMIT - sum(SIZES[model] for model in self.used)

    def may_leave(self) -> list[str]:
        return [model for model in self.used if model not in self.held and model not in self.pinned]

    def kept_by_pins(self, model: str) -> int:
        return sum(SIZES[other] for other in self.used if other in self.pinned and other != model)

    def expected(self, model: str) -> str:
        """use, load, evict, wait or refuse."""
        if model in self.used:
            return "use"
        num_pinned = sum(other in self.pinned for other in self.used)
        if SIZES[model] + self.kept_by_pins(model) > LIMIT or (self.models_max and num_pinned >= self.models_max):
            return "refuse"
        has_place = not self.models_max or len(self.used) < self.models_max
        if has_place and SIZES[model] <= self.room:
            return "load"
        free = self.room + sum(SIZES[other] for other in self.may_leave())
        can_have_place = has_place or bool(self.may_leave())
        return "evict" if can_have_place and SIZES[model] <= free else "wait"


class Walk:
    """One history. After each step the supervisor and the rules must agree."""

    def __init__(self, here: House, models_max: int) -> None:
        self.here = here
        self.rules = Rules(models_max)
        self.leases: list[tuple[str, Lease]] = []
        for model, size in SIZES.items():
            here.settle(model, size_bytes=size * MIB)
            here.spec(model, load_s=0.001)

    async def step(self, what: str, model: str) -> None:
        seen = len(self.here.reasons)
        if what in ("ask", "hold"):
            await self.request(model, is_held=what == "hold")
        elif what == "release" and self.leases:
            name, lease = self.leases.pop(0)
            lease.release()
            self.rules.held.remove(name)
            if name in self.rules.used:
                self.rules.touch(name)
        elif what == "unload" and model not in self.rules.held:
            with contextlib.suppress(InvalidRequest):
                self.here.supervisor.unload(model)
            self.rules.leaves(model)
        elif what in ("pin", "unpin"):
            self.here.supervisor.pin(self.here.spec(model), what == "pin")
            (self.rules.pinned.add if what == "pin" else self.rules.pinned.discard)(model)
        elif what == "kill" and model in self.rules.used and model not in self.rules.held:
            os.kill(self.here.pid(model), signal.SIGKILL)
            self.rules.leaves(model)
        elif what == "preview":
            assert self.here.supervisor.preview(self.here.spec(model))["action"] == self.rules.expected(model)
        await self.rest()
        self.check(self.here.reasons[seen:])

    async def request(self, model: str, *, is_held: bool) -> None:
        expected = self.rules.expected(model)
        if expected == "wait":
            return  # it would wait for what this history holds
        try:
            lease = await self.here.acquire(model)
        except DoesNotFit:
            assert expected == "refuse"
            return
        assert expected != "refuse"
        gone = {name for name, why in self.here.reasons if why in ("count", "memory")} & set(self.rules.used) - self.resident()
        assert bool(gone) == (expected == "evict"), (model, gone, self.rules)
        assert gone <= set(self.rules.may_leave()), f"{gone} had to stay: {self.rules}"
        if gone and SIZES[model] <= self.rules.room:  # only a place was needed
            assert gone == {self.rules.may_leave()[0]}, f"not the least recently used: {self.rules}"
        for name in gone:
            self.rules.leaves(name)
        self.rules.touch(model)
        if is_held:
            self.leases.append((model, lease))
            self.rules.held.append(model)
        else:
            with lease:
                assert await submit(lease, Collector()).end() == WHOLE
            self.rules.touch(model)

    def resident(self) -> set[str]:
        return {instance.spec.id for instance in self.here.supervisor.instances() if instance.state is not State.DYING}

    async def rest(self) -> None:
        """No model is on its way out."""
        await until(lambda: all(i.state is not State.DYING and not i.process.is_closed for i in self.here.supervisor.instances()), "rest")
        await until(lambda: self.resident() == set(self.rules.used), f"{self.rules.used} in memory, not {self.resident()}")

    def check(self, left: list[Event]) -> None:
        instances = self.here.supervisor.instances()
        assert sum(instance.need.host_bytes for instance in instances) <= LIMIT * MIB
        assert not self.rules.models_max or len(instances) <= self.rules.models_max
        assert not [name for name, why in left if why in ("count", "memory") and name in self.rules.pinned]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 3), EVENTS)
def test_the_supervisor_keeps_the_rules(models_max: int, events: list[Event]) -> None:
    async def body(here: House) -> None:
        walk = Walk(here, models_max)
        for event in events:
            await walk.step(*event)
        for _, lease in walk.leases:
            lease.release()
        await asyncio.sleep(0)

    with tempfile.TemporaryDirectory() as folder:
        run_house(Path(folder), body, models_max, models_memory_mib=LIMIT, queue_patience_s=1000.0)
