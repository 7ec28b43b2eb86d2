"""The queue and the performer of plans, with a fake clock and fake workers: no process, no sleep. fake_room.py explains what a room
prints.
"""

import asyncio
import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_room import Room, submit
from fake_workers import EXIT_S
from house import Collector, Streamer
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrouter.errors import (
    DoesNotFit,
    InvalidRequest,
    LoadFailed,
    LoadPostponed,
    ModelNotLoaded,
    ModelUnusable,
    Unavailable,
    WorkerDied,
)
from fastrouter.supervisor.decide.planner import MAX_WAIT_S
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.managed_model import BACK_OFF_S
from fastrouter.supervisor.residency import FAILED_GRACE_S, SPARE_DELAY_S
from fastrouter.supervisor.supervisor import MAX_QUEUED
from fastrouter.supervisor.workers.spare import RETRY_S

MIB = 1 << 20
STEP_S = 0.1
Rooms = Any
Asked = asyncio.Task[Lease]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ask"] * 5 + ["release"] * 3 + ["wait"] * 3 + ["urgent", "leave", "die", "unload", "pin", "unpin", "long"]),
        st.sampled_from("abcde"),
    ),
    min_size=5,
    max_size=50,
)
LIMIT_MIB = 100
SIZES = {"a": 10, "b": 20, "c": 30, "d": 45, "e": 95}


@pytest.fixture
def room_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rooms]:
    """Makes rooms, see Room. At the end nothing may be left in them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # measurements of one test must not reach the next one
    rooms: list[Room] = []

    def make(*args: Any, **settings: Any) -> Room:
        rooms.append(Room(*args, **settings))
        return rooms[-1]

    yield make
    for room in rooms:
        room.close()


# ---------------------------------------------------------------- the queue


def test_cold_then_hot(room_of: Rooms) -> None:
    room = room_of(load_s=1.0)
    asked = room.ask("a")
    assert repr(room) == "a loading 0 | a:1"
    room.advance(0.9)
    assert not asked.done()
    room.advance(0.1)
    assert repr(room) == "a loaded 1"
    assert room.ask("a").done(), "no wait"
    assert repr(room) == "a loaded 2"
    asked.result().release()
    asked.result().release()
    assert repr(room) == "a loaded 1"
    assert room.events == ["+a", "=a"]


def test_what_is_used_stays_and_the_queue_is_in_order(room_of: Rooms) -> None:
    room = room_of(2, queue_patience_s=1000.0)
    a, _ = room.lease("a"), room.lease("b")
    order = [(model, room.ask(model)) for model in "cdce"]
    assert repr(room) == "a loaded 1, b loaded 1 | c:2 d:1 e:1"
    assert room.ask("a").done(), "what is resident serves meanwhile"
    room.advance(100)
    assert repr(room) == "a loaded 2, b loaded 1 | c:2 d:1 e:1"
    room.tasks[-1].result().release()
    a.release()
    room.advance(EXIT_S)
    assert repr(room) == "b loaded 1, c loading 0 | c:2 d:1 e:1"
    done: list[str] = []
    for _ in range(100):
        for model, task in order:
            if task.done() and not task.result().is_released:
                done.append(model)
                task.result().release()
        room.advance(STEP_S)
    assert done == list("ccde")
    assert room.events[4:] == ["-a count", "+c", "=c", "-c count", "+d", "=d", "-d count", "+e", "=e"]


def test_least_recently_used_leaves(room_of: Rooms) -> None:
    room = room_of(2)
    room.use(*"abac")
    assert repr(room) == "a loaded 0, c loaded 0"
    room.use("b")
    assert repr(room) == "b loaded 0, c loaded 0"


def test_who_leaves_the_queue_costs_no_other_its_place(room_of: Rooms) -> None:
    room = room_of(1)
    a = room.lease("a")
    gone, stays = room.ask("b"), room.ask("c")
    gone.cancel()
    room.advance()
    assert repr(room) == "a loaded 1 | c:1"
    assert room.position("c") == 1
    a.release()
    room.advance(EXIT_S + 1)
    assert stays.done()
    assert room.events[2:] == ["-a count", "+c", "=c"]


def test_a_lease_that_comes_as_its_client_leaves_goes_back(room_of: Rooms) -> None:
    room = room_of(1)
    gone = room.loop.create_task(room.supervisor.acquire(room.spec("a"), True))
    room.advance()
    room.loop.call_later(1.0, gone.cancel)  # after the worker's Ready, before the request continues
    room.advance(1.0)
    assert gone.cancelled()
    assert repr(room) == "a loaded 0"


def test_the_place_that_is_told_is_the_planner_s(room_of: Rooms) -> None:
    """A model that has waited MAX_WAIT_S comes before all priorities, and its clients are told so."""
    room = room_of(1, queue_patience_s=1000.0)
    a = room.lease("a")
    room.ask("b")
    room.advance(STEP_S)
    room.ask("c", priority=5)
    assert [room.position(model) for model in "abcd"] == [0, 2, 1, 0]
    room.advance(MAX_WAIT_S - 2 * STEP_S)
    assert [room.position(model) for model in "bc"] == [2, 1]
    room.advance(2 * STEP_S)
    assert [room.position(model) for model in "bc"] == [1, 2]
    a.release()
    room.advance(STEP_S)
    assert repr(room) == "b loading 0 | b:1 c:1", "and so it is"


def test_what_loads_has_its_place(room_of: Rooms) -> None:
    room = room_of(2, load_s=math.inf)
    for model in "abcd":
        room.ask(model)
    assert [room.position(model) for model in "abcd"] == [0, 0, 1, 2]
    preview = room.supervisor.preview(room.spec("e"))
    assert (preview["action"], preview["queued_models"]) == ("wait", ["c", "d"])


@pytest.mark.parametrize(("asked", "order"), [([("b", 0), ("c", -5), ("d", 7), ("b", 9)], "bdc"), ([("d", 7), ("c", -5), ("b", 0)], "dbc")])
def test_priority_goes_first(room_of: Rooms, asked: list[tuple[str, int]], order: str) -> None:
    """A model has the highest priority of its requests."""
    room = room_of(1, queue_patience_s=1000.0)
    a = room.lease("a")
    for model, priority in asked:
        room.ask(model, priority=priority)
        room.advance(STEP_S)
    assert [room.position(model) for model in order] == [1, 2, 3]
    a.release()
    room.advance(STEP_S)
    assert room.events[-1] == f"+{order[0]}"


def test_queue_timeout(room_of: Rooms) -> None:
    room = room_of(1, queue_timeout_s=2.0, queue_patience_s=1000.0)
    a = room.lease("a")
    late = room.ask("b")
    room.advance(1.9)
    assert not late.done()
    room.advance(0.2)
    with pytest.raises(Unavailable, match="waited 2 s") as caught:
        late.result()
    assert caught.value.retry_after_s
    assert repr(room) == "a loaded 1"
    room.maker.load_s["b"] = 5.0
    loading = room.ask("b")
    room.advance(1.0)
    a.release()
    room.advance(4.0)
    assert not loading.done(), "a load that has begun is awaited"
    room.advance(2.0)
    assert loading.result()


def test_a_full_queue(room_of: Rooms) -> None:
    room = room_of(1)
    room.lease("a")
    for _ in range(MAX_QUEUED):
        room.ask("b")
    with pytest.raises(Unavailable, match=f"{MAX_QUEUED} requests"):
        room.ask("c").result()
    assert room.ask("a").done()


def test_a_busy_model_that_drains_admits_no_request(room_of: Rooms) -> None:
    room = room_of(1, queue_patience_s=3.0)
    first = room.lease("a")
    b = room.ask("b")
    room.advance(2.9)
    assert room.ask("a").done(), "b is patient"
    room.advance(0.2)
    later = room.ask("a")
    assert repr(room) == "a draining 2 | b:1 a:1"
    assert [room.position(model) for model in "ba"] == [1, 2]
    first.release()
    room.tasks[-2].result().release()
    room.advance(EXIT_S + 1.0)
    b.result().release()
    room.advance(EXIT_S + 1.0)
    assert later.done()
    assert room.events == ["+a", "=a", "-a count", "+b", "=b", "-b count", "+a", "=a"]


def test_who_waits_no_more_lets_the_others_go_on(room_of: Rooms) -> None:
    room = room_of(1, queue_patience_s=3.0)
    room.lease("a")
    b = room.ask("b")
    room.advance(3.1)
    assert repr(room) == "a draining 1 | b:1"
    b.cancel()
    room.advance()
    assert repr(room) == "a loaded 1"


def test_autoload_off(room_of: Rooms) -> None:
    room = room_of(2)
    with pytest.raises(ModelNotLoaded):
        room.ask("a", autoload=False).result()
    room.run(room.supervisor.load(room.spec("a")))
    waits = room.ask("a", autoload=False)
    room.supervisor.unload("a")
    room.advance(STEP_S)
    with pytest.raises(Unavailable, match="unloaded while it was loading"):
        waits.result()


# ---------------------------------------------------------------- loads


def test_load_and_unload(room_of: Rooms) -> None:
    room = room_of(2)
    room.run(room.supervisor.load(room.spec("a")))
    assert repr(room) == "a loading 0"
    with pytest.raises(InvalidRequest, match="already running"):
        room.run(room.supervisor.load(room.spec("a")))
    room.advance(0.5)
    room.worker("a").progress(0.25)
    wait = room.supervisor.wait_preview(room.spec("a"))
    assert (wait.is_loading, wait.progress, wait.remaining_s) == (True, 0.25, None)
    room.advance(0.5)
    assert (room.status("a"), room.events) == ("loaded", ["+a", "+a", "=a"])
    room.supervisor.unload("a")
    assert room.status("a") == "unloaded"
    for model in ("a", "x"):
        with pytest.raises(InvalidRequest, match="not running"):
            room.supervisor.unload(model)
    again = room.begin(room.supervisor.load(room.spec("a")))
    assert repr(room) == "a dying 0 | a:1", "the last worker is on its way out"
    room.advance(EXIT_S)
    assert again.done()
    assert repr(room) == "a loading 0"


def test_how_long_a_load_will_take(room_of: Rooms) -> None:
    room = room_of(1, load_s=4.0)
    room.maker.meta["a"] = {"memory": {"host_bytes": 1, "device_bytes": 0}}
    room.use(*"ab")
    room.ask("a")
    room.advance(1.0 + EXIT_S)
    wait = room.supervisor.wait_preview(room.spec("a"))
    assert wait.remaining_s == pytest.approx(3.0, abs=0.02)
    assert wait.load.has_evicted


def test_load_timeout(room_of: Rooms) -> None:
    room = room_of(load_s=math.inf)
    room.settle("a", load_timeout_s=7.0)
    asked = room.ask("a")
    room.advance(6.9)
    assert not asked.done()
    room.advance(0.2)
    with pytest.raises(LoadFailed, match=r"not ready after 7 s \(load-timeout\)"):
        asked.result()
    room.maker.load_s["a"] = 1.0
    room.use("a")
    room.advance(10)
    assert repr(room) == "a loaded 0", "the time of the last load is nothing to this one"


@pytest.mark.parametrize(("may_work_later", "kind", "has_pause"), [(False, ModelUnusable, False), (True, LoadPostponed, True)])
def test_a_load_that_fails(room_of: Rooms, may_work_later: bool, kind: type[LoadFailed], has_pause: bool) -> None:
    room = room_of(load_s=math.inf)
    for number, pause_s in enumerate(BACK_OFF_S[:4]):
        asked = [room.ask("a") for _ in range(3)]
        room.worker("a").fail("no room", may_work_later=may_work_later)
        room.advance(FAILED_GRACE_S)
        assert not asked[0].done(), "it may say more"
        room.advance(EXIT_S)
        for task in asked:
            with pytest.raises(kind, match="no room"):
                task.result()
        assert room.events == ["+a", "!a"] * (number + 1)
        if pause_s:
            room.advance(pause_s - 0.2)
            with pytest.raises(kind, match="no room") as caught:
                room.ask("a").result()
            assert (caught.value.retry_after_s == 1) == has_pause
            room.advance(0.3)
    assert room.ask("b")
    assert "b loading 0" in repr(room), "others are loaded meanwhile"
    room.supervisor.unload("b")


def test_a_load_that_goes_well_ends_the_row_of_failures(room_of: Rooms) -> None:
    room = room_of(load_s=math.inf)
    for number in range(2):
        room.ask("a")
        room.worker("a").fail("no")
        room.advance(FAILED_GRACE_S + EXIT_S + BACK_OFF_S[number + 1])
    room.maker.load_s["a"] = 1.0
    room.use("a")
    room.worker("a").die(1)
    room.maker.load_s["a"] = math.inf
    failing = room.ask("a")
    room.worker("a").fail("no")
    room.advance(FAILED_GRACE_S + EXIT_S)
    with pytest.raises(LoadFailed) as caught:
        failing.result()
    assert caught.value.retry_after_s is None
    assert not room.ask("a").done(), "the first failure asks for no pause"
    room.supervisor.unload("a")


def test_one_sudden_end_of_a_load_is_no_failure(room_of: Rooms) -> None:
    room = room_of(load_s=1.0)
    asked = room.ask("a")
    room.worker("a").progress(0.5)
    room.worker("a").die(-9)
    assert repr(room) == "a loading 0 | a:1"
    room.worker("a").progress(0.5)
    room.worker("a").die(-9)
    room.advance()
    with pytest.raises(LoadFailed, match="signal 9"):
        asked.result()
    assert room.events == ["+a", "+a", "+a", "+a", "!a"]


def test_workers_that_cannot_be_made(room_of: Rooms) -> None:
    room = room_of()
    room.maker.problem = OSError("no descriptors")
    asked = room.ask("a")  # gets the spare
    room.advance(0.1)
    assert repr(room) == "a loading 0 | a:1"
    with pytest.raises(Unavailable, match="no descriptors"):
        room.ask("b").result()
    assert not room.supervisor.status("b").failed, "the model is not the cause"
    room.advance(1.0 + SPARE_DELAY_S)
    assert asked.done()
    room.maker.problem = None
    room.advance(RETRY_S - 0.1)
    assert room.supervisor.spares.spare is None
    room.advance(0.2)
    assert room.spare(), "it is tried again"


def test_load_of_the_spare(room_of: Rooms) -> None:
    """The next one is made when the load is over, and opens the model that left last."""
    room = room_of(1)
    spare = room.spare()
    asked = room.ask("a")
    assert room.worker("a") is spare
    room.advance(1.0)
    assert room.supervisor.spares.spare is None, "the first token comes first"
    room.advance(SPARE_DELAY_S)
    assert room.spare().primed.path is None
    asked.result().release()
    room.use("b")
    room.advance(SPARE_DELAY_S)
    assert room.spare().primed.path == "/models/a"


def test_a_spare_that_ends(room_of: Rooms) -> None:
    room = room_of()
    first = room.spare()
    first.die(-9)
    assert room.supervisor.spares.spare is None
    room.advance(RETRY_S + 0.1)
    assert room.spare() is not first


# ---------------------------------------------------------------- memory


def test_memory_waits_for_the_busy_and_for_what_still_ends(room_of: Rooms) -> None:
    room = room_of(0, models_memory_mib=100, queue_patience_s=1000.0)
    for model in "ab":
        room.settle(model, size_bytes=60 * MIB)
    a = room.lease("a")
    b = room.ask("b")
    room.advance(100)
    assert repr(room) == "a loaded 1 | b:1"
    preview = room.supervisor.preview(room.spec("b"))
    assert (preview["action"], preview["waits_for"]) == ("wait", {"what": "memory", "models": ["a"]})
    a.release()
    room.advance()
    assert repr(room) == "a dying 0 | b:1", "its memory is not back yet"
    room.advance(EXIT_S)
    assert repr(room) == "b loading 0 | b:1"
    room.advance(1.0)
    assert b.done()


def test_a_load_does_not_wait_for_the_end_of_the_model_that_leaves(room_of: Rooms) -> None:
    """Where only the places are scarce, or the memory is enough for both."""
    for memory_mib in (0, 130):
        room = room_of(1, models_memory_mib=memory_mib)
        for model in "ab":
            room.settle(model, size_bytes=60 * MIB)
        room.use("a")
        b = room.ask("b")
        assert repr(room) == "a dying 0, b loading 0 | b:1"
        room.advance(EXIT_S)
        assert repr(room) == "b loading 0 | b:1"
        room.advance(1.0)
        assert b.done()
        b.result().release()


# ---------------------------------------------------------------- idle


def test_ttl(room_of: Rooms) -> None:
    room = room_of()
    room.settle("a", ttl_s=15.0)
    a = room.lease("a")
    room.use("b")
    room.advance(100)
    assert repr(room) == "a loaded 1, b loaded 0", "it is in use"
    a.release()
    room.advance(14.9)
    assert room.supervisor.status("a").expires_in_s == pytest.approx(0.1)
    room.advance(0.2)
    assert repr(room) == "b loaded 0"
    assert room.events[-1] == "-a ttl"
    room.advance(SPARE_DELAY_S)
    assert room.spare().primed.path is None, "nothing is kept ready for it"
    room.use("a", "c")
    room.advance(SPARE_DELAY_S)
    assert room.spare().primed.path == "/models/b"


def test_a_loaded_model_without_a_request_has_a_ttl_too(room_of: Rooms) -> None:
    room = room_of()
    room.settle("a", ttl_s=15.0)
    room.run(room.supervisor.load(room.spec("a")))
    room.advance(15.9)
    assert repr(room) == "a loaded 0", "the load is no idle time"
    room.advance(0.2)
    assert room.events == ["+a", "=a", "-a ttl"]


def test_keep_alive_of_a_request_wins(room_of: Rooms) -> None:
    room = room_of()
    room.settle("a", ttl_s=5.0)
    with room.lease("a") as lease:
        lease.keep_alive(math.inf)
    room.advance(1000)
    assert repr(room) == "a loaded 0"
    with room.lease("a") as lease:
        lease.keep_alive(0.0)
        room.advance(1000)
    room.advance(0.1)
    assert repr(room) == ""
    room.use("a")
    room.advance(4.5)
    assert repr(room) == "a loaded 0", "the next load has the configured time again"
    room.advance(1.0)
    assert room.events[-1] == "-a ttl"


def test_sleep_and_wake(room_of: Rooms) -> None:
    room = room_of()
    room.settle("a", sleep_idle_s=10.0, ttl_s=60.0)
    room.use("a")
    room.advance(11)
    assert (room.status("a"), room.events[-1]) == ("sleeping", "~a")
    assert not room.supervisor.instances(), "its memory is back"
    with pytest.raises(InvalidRequest, match="already running"):
        room.run(room.supervisor.load(room.spec("a")))
    woken = room.ask("a", autoload=False)  # it is not a new model
    room.advance(1.0)
    woken.result().release()
    room.advance(61)
    assert (room.status("a"), room.events[-2:]) == ("unloaded", ["~a", "-a ttl"])


def test_a_sleeper_gives_its_place_first(room_of: Rooms) -> None:
    room = room_of(2)
    room.settle("b", sleep_idle_s=5.0)
    room.use("a", "b")
    room.advance(6)
    room.use("c")
    assert repr(room) == "a loaded 0, c loaded 0"
    assert room.events[-3:] == ["-b count", "+c", "=c"]


def test_pinned_by_hand(room_of: Rooms) -> None:
    room = room_of(2)
    room.settle("a", ttl_s=20.0)
    room.supervisor.pin(room.spec("a"), True)
    room.use(*"abcd")
    room.advance(1000)
    assert repr(room) == "a loaded 0, d loaded 0"
    room.supervisor.pin(room.spec("a"), False)
    room.advance(0.1)
    assert room.events[-1] == "-a ttl", "its time was over long ago"


def test_a_reload_changes_times(room_of: Rooms) -> None:
    room = room_of(2)
    room.use("a", "b")
    room.settle("b", ttl_s=0.5)
    room.supervisor.reload(["a", "x"], lambda model_id: room.spec(model_id))
    assert room.events[-1] == "-a reload"
    room.advance(1.0)
    assert room.events[-1] == "-b ttl"


def test_min_resident(room_of: Rooms) -> None:
    room = room_of(1)
    room.settle("a", min_resident_s=30.0)
    room.use("a")
    b = room.ask("b")
    room.advance(29.7)
    assert repr(room) == "a loaded 0 | b:1"
    room.advance(0.3)
    assert repr(room) == "b loading 0 | b:1"
    room.advance(1.0)
    assert b.done()


# ---------------------------------------------------------------- ends


def test_unload_lets_requests_finish(room_of: Rooms) -> None:
    room = room_of()
    a = room.lease("a")
    sink = submit(a, Collector())
    room.supervisor.unload("a")
    room.supervisor.unload("a")
    after = room.ask("a")
    assert repr(room) == "a stopping 1 | a:1"
    room.worker("a").answer()
    assert sink.text() == b"so"
    a.release()
    room.advance(EXIT_S + 1)
    assert after.done()
    assert room.events == ["+a", "=a", "-a unload", "+a", "=a"]


def test_unload_waits_no_longer_than_the_stop_timeout(room_of: Rooms) -> None:
    room = room_of()
    room.settle("a", stop_timeout_s=9.0)
    sink = submit(room.lease("a"), Streamer())
    room.supervisor.unload("a")
    room.advance(8.9)
    assert repr(room) == "a stopping 1"
    room.advance(0.2)
    assert isinstance(sink.error, Unavailable)
    assert not room.supervisor.instances()


def test_what_no_client_has_seen_starts_again(room_of: Rooms) -> None:
    room = room_of()
    a = room.lease("a")
    sink = submit(a, Collector())
    room.worker("a").die(-11)
    assert repr(room) == "a loading 0 | a:1"
    room.advance(1.0)
    room.worker("a").answer()
    assert sink.text() == b"so"
    a.release()
    sink = submit(room.lease("a"), Collector())
    for _ in range(3):
        assert sink.error is None
        room.worker("a").die(-9)
        room.advance(2.0)
    assert isinstance(sink.error, WorkerDied), "two times"


def test_a_client_that_leaves_before_its_fresh_worker(room_of: Rooms) -> None:
    """It leaves the queue, and the model that drains for it admits requests again."""
    room = room_of(1, queue_patience_s=3.0)
    a = room.lease("a")
    submit(a, Collector())
    b = room.ask("b")
    room.worker("a").die(-9)
    assert repr(room) == "b loading 0 | b:1 a:1"
    room.advance(4.1)
    assert repr(room) == "b draining 1 | a:1"
    a.release()
    room.advance()
    assert repr(room) == "b loaded 1"
    assert b.done()


def test_stop_with_everything_going_on(room_of: Rooms) -> None:
    room = room_of(2, load_s=math.inf)
    room.maker.load_s["a"] = 1.0
    sink = submit(room.lease("a"), Streamer())
    waiting = [room.ask(model) for model in "bc"]
    stopping = room.begin(room.supervisor.stop(5.0))
    for task in waiting:
        with pytest.raises(Unavailable, match="stopping"):
            task.result()
    with pytest.raises(Unavailable, match="stopping"):
        room.ask("a").result()
    assert repr(room) == "a loaded 1, b loading 0"
    room.advance(4.9)
    assert sink.error is None
    room.advance(0.3)
    assert isinstance(sink.error, Unavailable)
    assert stopping.done()


def test_stop_lets_leases_end(room_of: Rooms) -> None:
    room = room_of()
    a = room.lease("a")
    stopping = room.begin(room.supervisor.stop(60.0))
    room.advance(10.0)
    assert not stopping.done()
    a.release()
    room.advance(0.1)
    assert stopping.done()


# ---------------------------------------------------------------- random histories


class Crowd:
    """Clients that follow a history. After each step it checks what must hold in every state."""

    def __init__(self, room: Room, models_max: int) -> None:
        self.room = room
        self.models_max = models_max
        self.asked: list[tuple[str, Asked]] = []
        for model, size in SIZES.items():
            room.settle(model, size_bytes=size * MIB)

    def leases(self) -> list[Lease]:
        done = [task for _, task in self.asked if task.done() and not task.cancelled() and task.exception() is None]
        return [task.result() for task in done if not task.result().is_released]

    def step(self, what: str, model: str) -> None:
        room, supervisor = self.room, self.room.supervisor
        num_events = len(room.events)
        in_use = {instance.spec.id for instance in supervisor.instances() if instance.num_leases}
        if what in ("ask", "urgent"):
            self.asked.append((model, room.ask(model, priority=3 if what == "urgent" else 0)))
        elif what == "release" and self.leases():
            self.leases()[0].release()
        elif what == "leave" and self.asked:
            self.asked[-1][1].cancel()
        elif what == "die" and any(instance.spec.id == model for instance in supervisor.instances()):
            room.worker(model).die(-9)
        elif what == "unload":
            with contextlib.suppress(InvalidRequest):
                supervisor.unload(model)
        elif what in ("pin", "unpin"):
            supervisor.pin(room.spec(model), what == "pin")
        room.advance({"wait": 0.4, "long": MAX_WAIT_S}.get(what, 0.0))
        self.check()
        if what not in ("wait", "long", "release"):  # which may end uses
            left = {event[1] for event in room.events[num_events:] if event.endswith(("count", "memory"))}
            assert not left & in_use, f"{left & in_use} had to leave in use"

    def check(self) -> None:
        instances = self.room.supervisor.instances()
        living = [instance for instance in instances if instance.state is not State.DYING]
        assert not self.models_max or len(living) <= self.models_max
        assert sum(instance.need.host_bytes for instance in instances) <= LIMIT_MIB * MIB
        loading = {instance.spec.id for instance in instances if instance.state is State.LOADING}
        waiting = self.room.supervisor.num_waiting().keys() - loading
        assert sorted(map(self.room.position, waiting)) == list(range(1, len(waiting) + 1)), "each has its own place in the queue"
        assert not any(map(self.room.position, SIZES.keys() - waiting))

    def settle(self) -> None:
        """Nothing is pinned, and all that runs ends: then every request must end."""
        for model in SIZES:
            self.room.supervisor.pin(self.room.spec(model), False)
        for _ in range(200):
            for lease in self.leases():
                lease.release()
            self.room.advance(1.0)
            if all(task.done() for _, task in self.asked):
                break
        for model, task in self.asked:
            assert task.done(), f"{model} was forgotten: {self.room}"
            if not task.cancelled() and task.exception() is not None:
                assert isinstance(task.exception(), Unavailable | LoadFailed | DoesNotFit), task.exception()
        assert not self.room.supervisor.num_waiting()
        assert "draining" not in repr(self.room)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 3), EVENTS)
def test_random_histories(models_max: int, events: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", folder)
        room = Room(models_max, load_s=0.3, models_memory_mib=LIMIT_MIB)
        crowd = Crowd(room, models_max)
        for event in events:
            crowd.step(*event)
        crowd.settle()
        room.close()
