"""Which workers hang: the rule on invented looks, and the watch on a fake clock. test_hung_processes.py has processes that do."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_room import Room, submit
from fake_workers import FakeWorker
from house import Collector, Streamer

from fastrouter.supervisor.decide.hang import MAX_GAP_S, STOPPED_S, Life, Look, Watched, after, after_look, how_it_hangs
from fastrouter.supervisor.workers.hang_watch import LOOK_S

TIMEOUT_S = 30.0
Seen = tuple[Life, Look | None]


class Watch:
    """One worker that is looked at again and again."""

    def __init__(self, is_loading: bool = False) -> None:
        self.watched = Watched((0, 0))
        self.is_loading = is_loading

    def see(self, life: Life, look: Look | None = None, passed_s: float = LOOK_S) -> str | None:
        known = after(self.watched, life, passed_s)
        self.watched = known or after_look(self.watched, look, passed_s, is_loading=self.is_loading)
        return how_it_hangs(self.watched, TIMEOUT_S)

    def seconds_to_the_end(self, seen: Iterator[Seen], most_s: int = 1000) -> int | None:
        """When it is found to hang; None: not within that time."""
        return next((second for second, one in zip(range(1, most_s), seen, strict=False) if self.see(*one)), None)


def silent(state: str, cpu_share: float = 0.0, reads: int = 0) -> Iterator[Seen]:
    second = 0
    while True:
        second += 1
        yield (0, 0), Look(state, cpu_share * second, reads * second)


@pytest.mark.parametrize(
    ("seen", "is_loading", "ends_after_s"),
    [
        (silent("T"), False, 5),
        (silent("T"), True, 5),
        (silent("S"), False, 31),  # a deadlock; the first look has nothing to compare with
        (silent("S"), True, 31),
        (silent("R", 1.0), False, 31),  # it spins
        (silent("R", 8.0), False, 31),  # on eight cores
        (silent("R", 0.1), False, 301),  # it spins on a tenth of a core: it has had little time
        (silent("R", 1.0), True, None),  # weights are repacked; load-timeout limits it
        (silent("R"), False, None),  # it gets no core at all
        (silent("D"), False, None),
        (silent("D"), True, None),
        (silent("S", reads=4096), True, None),
        (silent("t"), False, None),
    ],
)
def test_without_a_sign_of_life(seen: Iterator[Seen], is_loading: bool, ends_after_s: int | None) -> None:
    assert Watch(is_loading).seconds_to_the_end(seen) == ends_after_s


def test_a_loop_that_only_turns() -> None:
    turning: Iterator[Seen] = (((second, 0), None) for second in range(1, 1000))
    assert Watch().seconds_to_the_end(turning) == 30


def test_reasons_are_in_words() -> None:
    assert how_it_hangs(Watched((0, 0), stopped_s=5.0), TIMEOUT_S) == "it was stopped by a signal for 5 s"
    assert how_it_hangs(Watched((0, 0), silent_s=31.0), TIMEOUT_S) == "no sign of life for 31 s (worker-hang-timeout)"
    assert how_it_hangs(Watched((0, 0), stuck_s=30.0), TIMEOUT_S) == "no progress for 30 s (worker-hang-timeout)"


def test_a_short_limit_is_also_one_for_stopped_processes() -> None:
    assert how_it_hangs(Watched((0, 0), stopped_s=1.0), 1.0)
    assert not how_it_hangs(Watched((0, 0), stopped_s=1.0), TIMEOUT_S)


def test_a_process_that_was_stopped_and_continues() -> None:
    watch = Watch()
    for _ in range(100):
        for _ in range(int(STOPPED_S) - 1):
            assert not watch.see((0, 0), Look("T"))
        assert not watch.see((0, 0), Look("D"))


def long_prefill(seed: int) -> Iterator[Seen]:
    """Minutes of one prompt on a slow machine: long operations, a core that others use too, weights that come from a disk."""
    chance, cpu_s, reads, num_operations = random.Random(seed), 0.0, 0, 0
    while True:
        kind = chance.choice(["quick", "slow", "starved", "disk"])
        for _ in range(chance.randrange(1, 25)):
            if kind == "quick":
                num_operations += chance.randrange(1, 500)
            cpu_s += {"quick": 2.0, "slow": 1.0, "starved": 0.02, "disk": 0.1}[kind]
            reads += 100_000 if kind == "disk" else 0
            yield (0, num_operations), Look("D" if kind == "disk" else "R", cpu_s, reads)
        num_operations += 1
        yield (0, num_operations), Look("R", cpu_s, reads)


@pytest.mark.parametrize("seed", range(20))
def test_a_long_prefill_is_never_killed(seed: int) -> None:
    assert Watch().seconds_to_the_end(long_prefill(seed), 3000) is None


@pytest.mark.parametrize("state", ["T", "S", "R"])
def test_a_pause_of_the_router_counts_for_nothing(state: str) -> None:
    """It was stopped with its workers, or the machine was: the clock has gone on, and the workers have not."""
    watch = Watch()
    for _ in range(100):
        for second in range(4):
            assert not watch.see((0, 0), Look(state, second))
        assert not watch.see((0, 0), Look(state), passed_s=MAX_GAP_S + 1000)


# ---------------------------------------------------------------- the watch


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    room = Room(2, load_s=1.0)
    yield room
    room.close()


def busy(room: Room, sink: Collector) -> FakeWorker:
    submit(room.lease("a"), sink)
    return room.worker("a")


@pytest.mark.parametrize(("look", "ends_after_s"), [(Look("T"), 7), (Look("S"), 33)])
def test_a_worker_that_hangs_is_replaced_and_its_request_goes_on(room: Room, look: Look, ends_after_s: float) -> None:
    sink = Collector()
    worker = busy(room, sink)
    worker.seen = look
    room.advance(ends_after_s - 2.5)
    assert not worker.is_closed
    room.advance(2.5)
    assert worker.is_closed
    room.advance(1.5)
    assert room.worker("a") is not worker
    room.worker("a").answer()
    assert sink.text() == b"so"


def test_the_log_says_how_it_hung_and_its_stream_goes_on(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    sink = Streamer()
    worker = busy(room, sink)
    assert worker.ring.try_push(sink.request_id, 1, 0, 0, 1, b"begun")
    worker.ring.drain()
    worker.seen = Look("T")
    room.advance(8)
    assert "its worker hangs and is killed: it was stopped by a signal for 5 s" in caplog.text
    assert (sink.error, room.worker("a") is worker) == (None, False)


def test_a_load_that_never_begins_goes_to_another_worker(room: Room) -> None:
    room.maker.load_s["a"] = 1e9
    asked, worker = room.ask("a"), room.worker("a")
    worker.seen = Look("T")
    room.advance(7)
    assert worker.is_closed
    assert room.worker("a") is not worker
    room.maker.load_s["a"] = 1.0
    room.worker("a").die(-9)
    room.advance(10)
    assert isinstance(asked.exception(), Exception), "two workers were lost: that is an error, and no wait for ever"


def test_a_long_load_is_never_killed(room: Room) -> None:
    room.maker.load_s["a"] = 500.0
    asked, worker = room.ask("a"), room.worker("a")
    worker.progress(0.0)
    for second in range(500):
        worker.seen = Look("R", float(second))
        room.advance(1)
    room.advance(1)
    assert asked.result()


def test_a_worker_that_notes_progress_stays(room: Room) -> None:
    worker = busy(room, Collector())
    worker.seen = Look("S")
    for _ in range(20):
        room.advance(25)
        worker.ring.note_progress()
    assert not worker.is_closed


def test_an_idle_machine_has_no_timer(room: Room) -> None:
    room.lease("a").release()
    room.worker("a").seen = Look("T")
    room.advance(60)
    assert room.loop.num_timers == 0
    assert not room.worker("a").is_closed
    worker = busy(room, Collector())
    room.advance(8)
    assert worker.is_closed, "its next request finds out"


def test_a_pause_of_everything_kills_nothing(room: Room) -> None:
    worker = busy(room, Collector())
    worker.seen = Look("T")
    for _ in range(20):
        room.advance(3.5)
        room.loop.now += 100  # nothing runs meanwhile
    assert not worker.is_closed


def test_the_watch_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    room = Room(2, load_s=1.0, worker_hang_timeout_s=0.0)
    worker = busy(room, Collector())
    worker.seen = Look("T")
    room.advance(1000)
    assert not worker.is_closed
    room.close()


def test_a_stopped_spare_is_not_given_a_model(room: Room) -> None:
    spare = room.spare()
    spare.seen = Look("T")
    lease = room.lease("a")
    assert room.worker("a") is not spare
    room.advance(1)
    assert spare.is_closed
    lease.release()
