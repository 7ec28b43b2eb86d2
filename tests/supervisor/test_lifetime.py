"""When models are loaded and leave: memory, idle times, sleep, pins, priorities, time limits, storms. The real supervisor, scripted
processes.
"""

import asyncio
import contextlib
import math
import os
import random
import time
from functools import partial
from pathlib import Path

import pytest
from house import WHOLE, Collector, House, Run, Streamer, run_house, submit
from waiting import until

from fastrouter.errors import DoesNotFit, InvalidRequest, Unavailable
from fastrouter.supervisor.decide.idle import Idle, due
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.managed_model import Waiter
from fastrouter.supervisor.memory import limits as limits_module
from fastrouter.system.machine import anonymous_bytes, available_bytes, total_bytes

MIB = 1 << 20


@pytest.fixture
def house(tmp_path: Path) -> Run:
    return partial(run_house, tmp_path)


# ---------------------------------------------------------------- memory


def test_the_cheapest_leave_for_memory(house: Run) -> None:
    async def body(here: House) -> None:
        for model, size in (("small", 10), ("large", 60), ("mid", 30), ("new", 45)):
            here.settle(model, size_bytes=size * MIB)
        for model in ("large", "small", "mid"):
            await here.ask(model)
        assert here.num_resident() == 3
        assert await here.ask("new") == WHOLE
        assert here.reasons == [("large", "memory")], "45 MiB are free without it; small and mid together would not do"
        assert {instance.spec.id for instance in here.supervisor.instances()} == {"small", "mid", "new"}

    house(body, 0, models_memory_mib=100)


def test_memory_waits_for_the_busy_and_for_the_dying(house: Run) -> None:
    async def body(here: House) -> None:
        for model in "abc":
            here.settle(model, size_bytes=60 * MIB)
        lease = await here.acquire("a")
        waiting = here.wait("b")
        await asyncio.sleep(0.05)
        assert here.status("b") == "unloaded"
        preview = here.supervisor.preview(here.spec("b"))
        assert (preview["action"], preview["waits_for"]) == ("wait", {"what": "memory", "models": ["a"]})
        lease.release()
        (await waiting).release()
        assert here.reasons == [("a", "memory")]
        for model in "cabcab":
            assert await here.ask(model) == WHOLE
            assert len(here.supervisor.instances()) == 1

    house(body, 0, models_memory_mib=100)


def test_what_can_never_fit_is_refused_at_once(house: Run) -> None:
    async def body(here: House) -> None:
        here.settle("a", size_bytes=60 * MIB, is_pinned=True)
        here.settle("b", size_bytes=50 * MIB)
        here.settle("c", size_bytes=101 * MIB)
        with pytest.raises(DoesNotFit, match=r"needs 101.0 MiB of memory, and 100.0 MiB is the limit") as caught:
            await here.acquire("c")
        assert caught.value.extra == {"model": "c", "needed_bytes": 101 * MIB, "limit_bytes": 100 * MIB}
        assert not here.events, "nothing was tried"
        await here.ask("a")
        with pytest.raises(DoesNotFit, match=r"beside the 60.0 MiB of pinned models \(a\)"):
            await here.acquire("b")
        assert here.supervisor.preview(here.spec("b"))["action"] == "refuse"
        here.supervisor.unload("a")
        assert await here.ask("b") == WHOLE

    house(body, 0, models_memory_mib=100)


def test_measured_memory_counts_from_then_on(house: Run) -> None:
    """The worker reports what it took; the next plans, and the next router, use that."""

    async def body(here: House) -> None:
        here.settle("a", size_bytes=10 * MIB)
        here.spec("a", meta={"memory": {"host_bytes": 70 * MIB, "device_bytes": 0}})
        here.settle("b", size_bytes=40 * MIB)
        assert here.supervisor.preview(here.spec("a"))["need"] == {
            "host_bytes": 10 * MIB,
            "device_bytes": 0,
            "devices": {},
            "is_measured": False,
        }
        await here.ask("a")
        assert here.supervisor.preview(here.spec("a"))["need"] == {
            "host_bytes": 70 * MIB,
            "device_bytes": 0,
            "devices": {},
            "is_measured": True,
        }
        await here.ask("b")
        assert here.reasons == [("a", "memory")]

    house(body, 0, models_memory_mib=100)

    async def again(here: House) -> None:
        here.settle("a", size_bytes=10 * MIB)
        preview = here.supervisor.preview(here.spec("a"))
        assert preview["need"] == {"host_bytes": 70 * MIB, "device_bytes": 0, "devices": {}, "is_measured": True}
        assert 0 < preview["load_s"] < 60

    house(again, 0, models_memory_mib=100)


@pytest.mark.parametrize(
    "memory",
    [
        "much",
        {"host_bytes": -1, "device_bytes": 0},
        {"host_bytes": 1 << 60, "device_bytes": 0},
        {"host_bytes": 1},
        {"host_bytes": 1, "device_bytes": 1, "devices": {"CUDA0": "all"}},
        {"host_bytes": 1, "device_bytes": 1, "devices": ["CUDA0"]},
    ],
)
def test_a_worker_that_lies_about_memory(house: Run, memory: object) -> None:
    async def body(here: House) -> None:
        here.settle("a", size_bytes=10 * MIB)
        here.spec("a", meta={"memory": memory, "devices": {"CUDA0": {"free_bytes": "all"}, "CUDA1": {"free_bytes": 2, "total_bytes": 1}}})
        assert await here.ask("a") == WHOLE
        assert here.supervisor.preview(here.spec("a"))["need"]["host_bytes"] == 10 * MIB

    house(body)


def test_device_memory_has_its_own_limit(house: Run) -> None:
    async def body(here: House) -> None:
        for model in "ab":
            here.settle(model, size_bytes=MIB)
            memory = {"host_bytes": MIB, "device_bytes": 600 * MIB, "devices": {"CUDA0": 600 * MIB}}
            here.spec(model, meta={"memory": memory, "devices": {"CUDA0": {"free_bytes": 400 * MIB, "total_bytes": 1000 * MIB}}})
        await here.ask("a")
        here.supervisor.unload("a")
        await here.ask("b")
        await until(lambda: len(here.supervisor.instances()) == 1, "a is gone")
        limits = here.supervisor.preview(here.spec("a"))["limits"]
        assert (limits["device_bytes"], limits["devices"]) == (1000 * MIB, {"CUDA0": 1000 * MIB})
        await here.ask("a")
        assert here.reasons == [("a", "unload"), ("b", "memory")]

    house(body, 0)


def test_automatic_limits(house: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The available memory and what our workers hold, less a reserve; memory of other programs comes back."""
    free = 100 * MIB
    monkeypatch.setattr(limits_module, "available_bytes", lambda: free)
    monkeypatch.setattr(limits_module, "total_bytes", lambda: 160 * MIB)

    async def body(here: House) -> None:
        nonlocal free
        for model, size in (("a", 60), ("b", 120), ("c", 151)):
            here.settle(model, size_bytes=size * MIB)
        assert here.supervisor.preview(here.spec("a"))["limits"]["host_bytes"] == 90 * MIB
        with pytest.raises(DoesNotFit, match="--models-memory 0 tries it"):
            await here.acquire("c")
        with pytest.raises(Unavailable, match="other programs use the rest") as caught:
            await here.acquire("b")
        assert caught.value.extra["needed_bytes"] == 120 * MIB
        free = 150 * MIB
        assert await here.ask("b") == WHOLE
        free = 0
        assert here.supervisor.preview(here.spec("c"))["limits"]["host_bytes"] is None, "nobody says"

    house(body)


def test_prompt_caches_give_way_to_a_load(house: Run) -> None:
    """First the cache of the least recently used model, and no more than is needed."""

    async def body(here: House) -> None:
        for model, size, shelved in (("a", 10, 40), ("b", 10, 40), ("c", 10, 0), ("d", 60, 0)):
            here.settle(model, size_bytes=size * MIB)
            here.spec(model, shelved=shelved * MIB)
        shelves = dict[str, float]()

        def look() -> dict[str, float]:
            shelves.update({one.spec.id: one.prompt_cache_bytes / MIB for one in here.supervisor.instances()})
            return shelves

        await here.ask("a")
        await here.ask("b")
        await until(lambda: look() == {"a": 40, "b": 40}, "they have told")
        await here.ask("c")
        assert look() == {"a": 30, "b": 40, "c": 0}, "100 MiB are full"
        await here.ask("b")
        await here.ask("d")
        assert look() == {"a": 0, "b": 10, "c": 0, "d": 0}
        assert not here.reasons, "nobody has left"

    house(body, 0, models_memory_mib=100)


def test_a_prompt_cache_counts_as_free_where_the_machine_is_the_limit(house: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "available_bytes", lambda: 100 * MIB)
    monkeypatch.setattr(limits_module, "anonymous_bytes", lambda pid: 50 * MIB)
    monkeypatch.setattr(limits_module, "total_bytes", lambda: 0)

    async def body(here: House) -> None:
        here.settle("a", size_bytes=10 * MIB)
        here.spec("a", shelved=30 * MIB)
        await here.ask("a")
        [instance] = here.supervisor.instances()
        await until(lambda: instance.prompt_cache_bytes == 30 * MIB, "it has told")
        assert here.supervisor.preview(here.spec("a"))["limits"]["host_bytes"] == (100 + 10 + 30) * MIB

    house(body)


def test_pages_of_a_process_are_counted() -> None:
    assert anonymous_bytes(os.getpid()) > MIB
    assert anonymous_bytes(1 << 22) == 0
    assert total_bytes() >= available_bytes() > 0


# ---------------------------------------------------------------- idle


@pytest.mark.parametrize(
    ("idle", "now", "unload", "sleep", "next_at"),
    [
        (Idle("a", 10, None, None), 99, [], [], None),
        (Idle("a", 10, 5, None), 14, [], [], 15),
        (Idle("a", 10, 5, None), 15, ["a"], [], None),
        (Idle("a", 10, None, 5), 15, [], ["a"], None),
        (Idle("a", 10, 9, 5), 15, [], ["a"], 19),
        (Idle("a", 10, 5, 5), 15, ["a"], [], None),
        (Idle("a", 10, 0, None), 10, ["a"], [], None),
    ],
)
def test_due(idle: Idle, now: float, unload: list[str], sleep: list[str], next_at: float | None) -> None:
    decided = due([idle], now)
    assert (decided.unload, decided.sleep, decided.next_at) == (unload, sleep, next_at)


def test_ttl_ends_the_process(house: Run) -> None:
    async def body(here: House) -> None:
        here.settle("a", ttl_s=0.15)
        here.settle("b", ttl_s=30.0)
        lease = await here.acquire("a")
        await here.ask("b")
        await asyncio.sleep(0.3)
        assert here.status("a") == "loaded", "it is in use"
        lease.release()
        begun = time.monotonic()
        await here.until_status("a", "unloaded")
        assert time.monotonic() - begun >= 0.14
        await until(lambda: [i.spec.id for i in here.supervisor.instances()] == ["b"], "its process is gone")
        assert here.reasons == [("a", "ttl")]
        assert await here.ask("a") == WHOLE

    house(body)


def test_sleep_and_wake(house: Run) -> None:
    async def body(here: House) -> None:
        here.settle("a", sleep_idle_s=0.1, ttl_s=1.0)
        await here.ask("a")
        await here.until_status("a", "sleeping")
        await until(lambda: not here.supervisor.instances(), "its memory is back")
        assert here.events[-1] == ("a", "sleeping")
        with pytest.raises(InvalidRequest, match="already running"):
            await here.supervisor.load(here.spec("a"))
        assert here.supervisor.preview(here.spec("a"))["action"] == "load"
        with await here.acquire("a", autoload=False) as lease:  # it is not a new model: it wakes
            assert await submit(lease, Collector()).end() == WHOLE
            assert here.status("a") == "loaded"
        await here.until_status("a", "sleeping")
        await here.until_status("a", "unloaded")
        assert here.reasons == [("a", "ttl")]
        await here.ask("a")
        await here.until_status("a", "sleeping")
        here.supervisor.unload("a")
        assert here.status("a") == "unloaded"
        assert here.reasons[1:] == [("a", "unload")]

    house(body)


def test_pinned_stays(house: Run) -> None:
    async def body(here: House) -> None:
        here.settle("a", is_pinned=True, ttl_s=0.01, sleep_idle_s=0.01)
        for model in "abcdb":
            await here.ask(model)
        assert here.status("a") == "loaded"
        here.supervisor.unload("a")
        assert here.status("a") == "unloaded", "except when somebody says so"

    house(body)


# ---------------------------------------------------------------- waiting


def test_a_storm_over_three_models_in_one_place(house: Run) -> None:
    """1,000 requests, each for another model than the last one: all are answered, and most find their model in memory."""

    async def body(here: House) -> None:
        num_answers = 0

        async def client(number: int) -> None:
            nonlocal num_answers
            for step in range(25):
                with await here.acquire("abc"[(number + step) % 3]) as lease:
                    assert await submit(lease, Streamer(), tokens=3).end() == b"t0 t1 t2 "
                    num_answers += 1

        await asyncio.gather(*(client(number) for number in range(40)))
        num_swaps = sum(what == "loading" for _, what in here.events)
        assert num_answers == 1000
        assert num_swaps <= 200, "far fewer swaps than requests"

    house(body, 1)


# ---------------------------------------------------------------- what would happen


@pytest.mark.parametrize("seed", range(4))
def test_the_preview_agrees_with_what_happens(house: Run, seed: int) -> None:
    """Asked in random states; then the request comes, and gets what was predicted."""

    def is_at_rest(here: House) -> bool:
        """No model is about to leave: its event would come after the next preview."""
        return all(i.state is State.LOADED and i.process.pid and not i.process.is_closed for i in here.supervisor.instances())

    async def body(here: House) -> None:
        random_ = random.Random(seed)
        for model in "abcdef":
            here.settle(model, size_bytes=random_.randint(10, 90) * MIB)
        held = []
        for _ in range(40):
            model = random_.choice("abcdef")
            with here.clock_stands_still():
                before, preview = len(here.events), here.supervisor.preview(here.spec(model))
                assert (len(here.events), preview["model"]) == (before, model), "asking does nothing"
                lease = await here.acquire(model) if preview["action"] != "wait" else None
            if lease is None:
                while held:
                    held.pop().release()
                await until(lambda: is_at_rest(here), "at rest")
                continue
            said = [(victim["model"], "unloaded") for victim in preview["evict"]]
            done = [event for event in here.events[before:] if event[1] == "unloaded"]
            assert said == done, preview
            is_load = "loading" in [what for name, what in here.events[before:] if name == model]
            assert is_load == (preview["action"] in ("load", "evict")), preview
            if random_.random() < 0.3:
                held.append(lease)
            else:
                lease.release()
            await until(lambda: is_at_rest(here), "at rest")
        for lease in held:
            lease.release()

    house(body, 3, models_memory_mib=150, queue_patience_s=1000.0)


def test_everything_at_random(house: Run) -> None:
    """Limits hold at every moment, and every request ends."""

    async def body(here: House) -> None:
        random_ = random.Random(7)
        for model in "abcdefgh":
            ttl = random_.choice([None, 0.0, 0.01, 0.05])
            here.settle(
                model,
                size_bytes=random_.randint(5, 60) * MIB,
                ttl_s=ttl,
                sleep_idle_s=random_.choice([None, None, 0.02]),
                is_pinned=model == "h",
            )

        def check() -> None:
            used = sum(instance.need.host_bytes for instance in here.supervisor.instances())
            assert used <= 140 * MIB, here.supervisor

        async def request(model: str) -> None:
            with contextlib.suppress(Unavailable), await here.acquire(model, priority=random_.randint(0, 3)) as lease:
                check()
                if random_.random() < 0.2:
                    lease.keep_alive(random_.choice([0.0, 0.05, math.inf]))
                assert await submit(lease, Collector(), delay_s=random_.choice([0, 0.002])).end() == WHOLE

        tasks = []
        for _ in range(300):
            tasks.append(asyncio.create_task(request(random_.choice("abcdefgh"))))
            if random_.random() < 0.1:
                with contextlib.suppress(InvalidRequest):
                    here.supervisor.unload(random_.choice("abcdefgh"))
            await asyncio.sleep(random_.choice([0, 0, 0.003]))
            check()
        await asyncio.wait_for(asyncio.gather(*tasks), 90)

    house(body, 4, models_memory_mib=140)


def test_waiters_have_no_priority_by_themselves() -> None:
    loop = asyncio.new_event_loop()
    assert Waiter(loop.create_future(), can_start=True).priority == 0
    loop.close()
