"""Parked prompts in the router: who parks, who gets them back, how much memory they may take. Fake workers; the last part has processes."""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_room import Room, submit
from fake_workers import EXIT_S, FakeWorker
from house import WHOLE, Collector, House, Run, run_house
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from fastrouter.errors import ProtocolError
from fastrouter.ipc.messages import Drop, Lend, Load, Park, Parked, Restoring, Unusable
from fastrouter.options.load import LoadOptions
from fastrouter.supervisor import departures as departures_module
from fastrouter.supervisor import parking as parking_module
from fastrouter.supervisor.decide.parking import room_to_park, to_drop, usefulness
from fastrouter.supervisor.memory import limits as limits_module
from fastrouter.supervisor.parking import key_of

MIB = 1 << 20
Rooms = Any


@pytest.fixture
def room_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rooms]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rooms: list[Room] = []

    def make(*args: Any, **settings: Any) -> Room:
        rooms.append(Room(*args, **{"park_ram_mib": 100, **settings}))
        return rooms[-1]

    yield make
    for room in rooms:
        room.close()


def memory_file(num_bytes: int, *, is_sealed: bool = True) -> int:
    fd = os.memfd_create("parked", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, num_bytes)
    if is_sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    return fd


def park(worker: FakeWorker, entry_id: int, num_bytes: int = MIB, *, is_sealed: bool = True, **fields: Any) -> None:
    """The worker says that it has parked a prompt."""
    fd = memory_file(num_bytes, is_sealed=is_sealed)
    try:
        assert worker.its_descriptors.send(entry_id, fd)
    finally:
        os.close(fd)
    worker.say(Parked(**{"entry_id": entry_id, "num_tokens": 100, "saves_ms": 50.0, "replaces": [], **fields}))


def answered(room: Room, model: str) -> FakeWorker:
    """The worker of a model that has answered a request."""
    lease = room.lease(model)
    answer = submit(lease, Collector())
    worker = room.worker(model)
    worker.answer()
    assert answer.finish is not None
    lease.release()
    room.advance(0.1)
    return worker


def sent(worker: FakeWorker, kind: type[Any]) -> list[Any]:
    return [message for message in worker.sent if isinstance(message, kind)]


# ---------------------------------------------------------------- decisions


@dataclass
class Size:
    num_bytes: int
    used_at: float
    saves_ms: float = 1.0


def test_the_least_recently_used_are_dropped() -> None:
    entries = [Size(10, used_at) for used_at in (5.0, 1.0, 9.0, 3.0)]
    assert [entry.used_at for entry in to_drop(entries, 15, 0, 10.0)] == [1.0, 3.0]
    assert [entry.used_at for entry in to_drop(entries, 0, 1, 10.0)] == [1.0]
    assert to_drop(entries, 0, 0, 10.0) == []
    assert to_drop(entries, 1000, 0, 10.0) == sorted(entries, key=lambda entry: entry.used_at)


def test_a_byte_that_saves_more_time_stays_longer() -> None:
    large_model, small_model = Size(10, 0.0, saves_ms=100.0), Size(10, 5.0, saves_ms=1.0)
    assert to_drop([large_model, small_model], 1, 0, 10.0) == [small_model]
    assert to_drop([large_model, small_model], 1, 0, 10_000.0) == [small_model]


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 100)), max_size=20), st.integers(0, 500), st.integers(0, 10))
def test_no_more_are_dropped_than_needed(sizes: list[tuple[int, int]], num_bytes: int, num_places: int) -> None:
    entries = [Size(size, float(used_at)) for size, used_at in sizes]
    dropped = to_drop(entries, num_bytes, num_places, 100.0)
    is_enough = sum(entry.num_bytes for entry in dropped) >= num_bytes and len(dropped) >= num_places
    assert is_enough or len(dropped) == len(entries)
    if dropped:
        *others, last = dropped
        assert sum(entry.num_bytes for entry in others) < num_bytes or len(others) < num_places
        stay = [usefulness(entry, 100.0) for entry in entries if entry not in dropped]
        assert all(usefulness(last, 100.0) <= other for other in stay)


def test_room_to_park() -> None:
    assert room_to_park(100, 30, 0) == 70
    assert room_to_park(100, 150, 80) == 30, "the load waits until the worker's memory is free"
    assert room_to_park(100, 10, 80) == 100, "until then it holds all of its memory"
    assert room_to_park(100, 150, 0) == 0


def test_the_key_is_of_what_is_in_a_kv_cache(room_of: Rooms) -> None:
    room = room_of()
    room.settle("a", states=((100, 5, 1),))
    spec = room.spec("a")
    same = [replace(spec, states=((100, 5, 2),)), replace(spec, options=LoadOptions(parallel=3, ctx_size=99)), replace(spec, tags=("t",))]
    assert {key_of(one) for one in same} == {key_of(spec)}
    others = [
        replace(spec, states=((100, 6, 1),)),
        replace(spec, states=((101, 5, 1),)),
        replace(spec, path="/models/b"),
        *(
            replace(spec, options=LoadOptions(**options))
            for options in (
                {"cache_type_k": "q8_0"},
                {"cache_type_v": "q8_0"},
                {"flash_attn": "off"},
                {"swa_full": True},
                {"lora": [["/x.gguf", 1.0]]},
            )
        ),
    ]
    assert len({key_of(one) for one in (spec, *others)}) == len(others) + 1


# ---------------------------------------------------------------- the way of a prompt


def test_a_worker_that_leaves_parks_and_the_next_one_gets_it(room_of: Rooms) -> None:
    room = room_of(models_max=1)
    first = answered(room, "a")
    assert [lend.entry_ids for lend in sent(first, Lend)] == [[]]
    asked = room.ask("b")
    [order] = sent(first, Park)
    assert 0 < order.max_bytes <= 100 * MIB
    park(first, 7)
    park(first, 8, replaces=[7])
    room.advance(2.0)
    assert first.is_closed
    assert room.events[-3:] == ["-a count", "+b", "=b"]
    assert room.supervisor.parking.held("a") == (1, MIB)
    asked.result().release()
    again = answered(room, "a")
    [lend] = sent(again, Lend)
    assert lend.entry_ids == [8]
    assert [type(message) for message in again.sent[-3:-1]] == [Load, Lend]
    os.close(again.its_descriptors.take(8))


def test_the_load_of_the_next_model_does_not_wait(room_of: Rooms) -> None:
    room = room_of(models_max=1)
    answered(room, "a")
    room.ask("b")
    assert [worker.is_closed for worker in room.maker.workers[:2]] == [False, False]
    assert sent(room.worker("b"), Load), "while the other one parks"


def test_a_worker_that_has_answered_nothing_is_killed(room_of: Rooms) -> None:
    room = room_of(models_max=1)
    room.use("a")
    first = room.worker("a")
    room.ask("b")
    assert not sent(first, Park)


@pytest.mark.parametrize("action", ["unload", "sleep", "ttl"])
def test_every_end_parks(room_of: Rooms, action: str) -> None:
    room = room_of()
    room.settle("a", **{"sleep": {"sleep_idle_s": 5.0}, "ttl": {"ttl_s": 5.0}, "unload": {}}[action])
    worker = answered(room, "a")
    if action == "unload":
        room.supervisor.unload("a")
    else:
        room.advance(4.905)
    assert len(sent(worker, Park)) == 1
    park(worker, 3)
    room.advance(1.0)
    assert room.supervisor.parking.held("a") == (1, MIB)


def test_one_that_does_not_end_is_killed(room_of: Rooms) -> None:
    room = room_of(models_max=1)
    worker = answered(room, "a")
    worker.ends_after_park = False
    asked = room.ask("b")
    room.advance(departures_module.PARK_MS / 1e3)
    assert not worker.is_closed
    room.advance(departures_module.PARK_GRACE_S + EXIT_S + 0.1)
    assert (worker.is_closed, worker.exit_code) == (True, -9)
    asked.result().release()
    answered(room, "a")


def test_off(room_of: Rooms) -> None:
    room = room_of(models_max=1, park_ram_mib=0)
    worker = answered(room, "a")
    room.ask("b")
    assert not sent(worker, Park)
    assert not sent(worker, Lend)


def test_models_for_embeddings_get_nothing(room_of: Rooms) -> None:
    room = room_of()
    room.settle("a", options=LoadOptions(embedding=True))
    assert not sent(answered(room, "a"), Lend)


def test_other_options_get_nothing(room_of: Rooms) -> None:
    room = room_of()
    worker = answered(room, "a")
    park(worker, 3)
    room.supervisor.unload("a")
    room.advance(1.0)
    room.settle("a", options=LoadOptions(cache_type_k="q8_0"))
    [lend] = sent(answered(room, "a"), Lend)
    assert lend.entry_ids == []


# ---------------------------------------------------------------- what workers say


def test_a_worker_that_is_wrong_about_its_entries(room_of: Rooms) -> None:
    room = room_of()
    worker, other = answered(room, "a"), answered(room, "b")
    with pytest.raises(ProtocolError, match="was not sent"):
        worker.say(Parked(5, 100, 1.0, []))
    with pytest.raises(ProtocolError, match="sealed"):
        park(worker, 6, is_sealed=False)
    park(worker, 7)
    with pytest.raises(ProtocolError, match="cannot be parked"):
        park(other, 7)
    park(other, 8, replaces=[7, 12345])
    other.say(Unusable(7, "so it says"))
    other.say(Restoring(99, 5))
    assert room.supervisor.parking.held("a") == (1, MIB), "a worker changes only what is of its own model"


def test_what_cannot_be_used_is_dropped(room_of: Rooms) -> None:
    room = room_of()
    worker = answered(room, "a")
    park(worker, 7)
    worker.say(Unusable(7, "it is damaged"))
    assert room.supervisor.parking.held("a") == (0, 0)


@pytest.mark.parametrize(("exit_code", "num_left"), [(-11, 1), (-9, 2)])
def test_what_a_crashed_worker_had_restored_is_dropped(room_of: Rooms, exit_code: int, num_left: int) -> None:
    room = room_of()
    worker = answered(room, "a")
    for entry_id in (7, 8):
        park(worker, entry_id)
    worker.say(Restoring(7, 90))
    worker.die(exit_code)
    room.advance(1.0)
    assert room.supervisor.parking.held("a")[0] == num_left


# ---------------------------------------------------------------- room


def test_the_limit_is_over_all_models(room_of: Rooms) -> None:
    room = room_of(park_ram_mib=10)
    a, b = answered(room, "a"), answered(room, "b")
    park(a, 1, 4 * MIB)
    room.advance(1.0)
    park(b, 2, 4 * MIB)
    room.advance(1.0)
    a.say(Restoring(1, 90))
    room.advance(1.0)
    park(b, 3, 4 * MIB)
    parking = room.supervisor.parking
    assert (parking.held("a"), parking.held("b")) == ((1, 4 * MIB), (1, 4 * MIB))
    assert [drop.entry_ids for drop in sent(b, Drop)] == [[2]]
    park(a, 4, 11 * MIB)
    assert parking.num_bytes <= 10 * MIB
    assert 4 in [entry_id for drop in sent(a, Drop) for entry_id in drop.entry_ids], "one that is larger than all the room is not kept"


def test_the_automatic_limit_is_a_share_of_what_is_free(room_of: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    parking = room_of(park_ram_mib=-1).supervisor.parking
    monkeypatch.setattr(parking_module, "available_bytes", lambda: 400 * MIB)
    assert parking.limit_bytes() == 100 * MIB
    monkeypatch.setattr(parking_module, "available_bytes", lambda: 1 << 50)
    assert parking.limit_bytes() == parking_module.AUTO_MOST_BYTES


def test_a_load_takes_back_the_memory_that_it_needs(room_of: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    room = room_of(models_memory_mib=-1)
    parking = room.supervisor.parking
    monkeypatch.setattr(limits_module, "available_bytes", lambda: 100 * MIB - parking.num_bytes)
    monkeypatch.setattr(limits_module, "anonymous_bytes", lambda pid: 0)
    monkeypatch.setattr(limits_module, "total_bytes", lambda: 0)
    room.settle("a", size_bytes=10 * MIB)
    room.settle("b", size_bytes=50 * MIB)
    worker = answered(room, "a")
    for entry_id in range(1, 7):
        park(worker, entry_id, 10 * MIB)
        room.advance(1.0)
    assert parking.num_bytes == 60 * MIB
    assert room.supervisor.preview(room.spec("b"))["limits"]["host_bytes"] == 100 * MIB, "parked prompts count as free"
    room.lease("b").release()
    assert [drop.entry_ids for drop in sent(worker, Drop)] == [[1, 2]]
    assert parking.num_bytes == 40 * MIB


def test_no_more_is_parked_than_the_next_load_leaves(room_of: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    room = room_of(models_max=1)
    monkeypatch.setattr(limits_module, "available_bytes", lambda: 80 * MIB)
    monkeypatch.setattr(limits_module, "total_bytes", lambda: 0)
    room.settle("b", size_bytes=50 * MIB)
    worker = answered(room, "a")
    room.ask("b")
    assert [order.max_bytes for order in sent(worker, Park)] == [30 * MIB]


def test_drop(room_of: Rooms) -> None:
    room = room_of()
    a, b = answered(room, "a"), answered(room, "b")
    for worker, entry_id in ((a, 1), (a, 2), (b, 3)):
        park(worker, entry_id)
    parking = room.supervisor.parking
    assert parking.drop(["a"]) == (2, 2 * MIB)
    assert sorted(sent(a, Drop)[0].entry_ids) == [1, 2]
    assert not sent(b, Drop)
    assert parking.drop(["a", "b", "c"]) == (1, MIB)
    assert parking.drop(["b"]) == (0, 0)


def test_too_many_entries(room_of: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking_module, "MOST_ENTRIES", 3)
    room = room_of()
    worker = answered(room, "a")
    for entry_id in range(1, 6):
        park(worker, entry_id, 4096)
        room.advance(1.0)
    assert room.supervisor.parking.held("a")[0] == 3
    assert [drop.entry_ids for drop in sent(worker, Drop)] == [[1], [2]]


# ---------------------------------------------------------------- with processes


@pytest.fixture
def house(tmp_path: Path) -> Run:
    return partial(run_house, tmp_path)


def test_descriptors_come_from_a_worker_and_go_to_the_next(house: Run) -> None:
    """run_house looks for descriptors that are left."""

    async def body(here: House) -> None:
        here.spec("a", parks=[{"id": 11, "bytes": 5000}, {"id": 12, "bytes": 6000, "replaces": [11]}, {"id": 13, "bytes": 7000}])
        await here.ask("a")
        await here.ask("b")
        await until(lambda: here.supervisor.parking.held("a") == (2, 13000), "parked")
        with await here.acquire("a") as lease:
            assert await lease.call("lent", {}) == {"ids": [13, 12], "dropped": []}
        here.supervisor.parking.drop(["a"])
        with await here.acquire("a") as lease:
            assert sorted((await lease.call("lent", {}))["dropped"]) == [12, 13]

    house(body, 1)


def test_a_worker_that_ignores_the_order_delays_nothing(house: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departures_module, "PARK_MS", 100)
    monkeypatch.setattr(departures_module, "PARK_GRACE_S", 0.1)

    async def body(here: House) -> None:
        here.spec("a", ignores_park=True)
        await here.ask("a")
        pid = here.pid("a")
        assert await here.ask("b") == WHOLE
        await until(lambda: not os.path.exists(f"/proc/{pid}"), "its end")
        assert await here.ask("a") == WHOLE

    house(body, 1)


def test_a_file_that_may_still_change_ends_its_worker(house: Run) -> None:
    async def body(here: House) -> None:
        here.spec("a", parks=[{"id": 11, "is_open": True}], ignores_park=True)
        await here.ask("a")
        assert await here.ask("b") == WHOLE
        await until(lambda: len(here.supervisor.instances()) == 1, "its end")
        assert here.supervisor.parking.held("a") == (0, 0)

    house(body, 1)
