"""The real supervisor follows a trace on a simulated clock: a recorded run comes out again, other limits change it as they should."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_room import Room
from traces import MIB, write_trace

from fastrouter.simulator.simulation import RECORDED, Outcome, Setting, Simulation, recorded
from fastrouter.simulator.trace import Trace, read_trace
from fastrouter.supervisor.trace_writer import open_trace

STEP_S = 0.01


@pytest.fixture(autouse=True)
def no_facts_of_earlier_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def simulate(path: Path, setting: Setting = RECORDED) -> Outcome:
    return Simulation(read_trace(str(path))[0], setting).run()


def events(trace: Trace, setting: Setting = RECORDED) -> list[str]:
    lines: list[str] = []
    Simulation(trace, setting, lambda at, text: lines.append(f"{at:.2f} {text}")).run()
    return lines


# ---------------------------------------------------------------- recorded, then simulated


def record(path: Path, seed: int, num_requests: int, **settings: Any) -> None:
    """Random requests to a supervisor with a simulated clock. Loads of a model take different times."""
    chance = random.Random(seed)
    trace = open_trace(str(path))
    room = Room(trace=trace, **settings)
    for number, model in enumerate("abcde"):
        room.settle(model, size_bytes=(number + 1) * 100 * MIB, ttl_s=chance.choice([None, 9.0]), min_resident_s=chance.choice([0.0, 1.0]))
        room.maker.load_s[model] = 0.3 + 0.4 * number
        room.maker.meta[model] = {"memory": {"host_bytes": (number + 1) * 110 * MIB, "device_bytes": 0}, "load_ms": 200}
    tasks = [
        room.begin(_use(room, chance.choice("aabbcde"), at, chance)) for at in sorted(chance.uniform(0, 60) for _ in range(num_requests))
    ]
    room.advance(1000)
    assert all(task.done() for task in tasks)
    room.close()
    trace.close()


async def _use(room: Room, model: str, at: float, chance: random.Random) -> None:
    await _sleep(room, at)
    room.maker.load_s[model] *= 1.07
    room.supervisor.note_turn(room.spec(model), "k")
    try:
        lease = await room.supervisor.acquire(room.spec(model), True, chance.choice([0, 0, 3]), "k")
    except Exception:  # refused; it is in the trace
        return
    with lease:
        await _sleep(room, chance.uniform(0.0, 3.0))


async def _sleep(room: Room, seconds: float) -> None:
    over = room.loop.create_future()
    room.loop.call_later(seconds, over.set_result, None)
    await over


@pytest.mark.parametrize(
    "settings",
    [
        {"models_max": 1},
        {"models_max": 2},
        {"models_max": 0, "models_memory_mib": 700},
        {"models_max": 3, "models_memory_mib": 900, "queue_patience_s": 0.5},
        {"models_max": 1, "queue_timeout_s": 4.0},
        {"models_max": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(3))
def test_a_recorded_run_comes_out_again(tmp_path: Path, seed: int, settings: dict[str, Any]) -> None:
    record(tmp_path / "t", seed, 60, **settings)
    trace, _ = read_trace(str(tmp_path / "t"))
    real, simulated = recorded(trace), Simulation(trace).run()
    assert len(real.waits) + real.num_refused == 60
    assert real.num_loads >= 5
    assert simulated.loads == real.loads
    assert simulated.departures == real.departures
    assert simulated.refused == real.refused
    assert simulated.reload_s == pytest.approx(real.reload_s, abs=STEP_S)
    assert simulated.waits == pytest.approx(real.waits, abs=STEP_S)


@pytest.mark.parametrize("seed", range(3))
def test_with_clients_in_turn_too(tmp_path: Path, seed: int) -> None:
    record(tmp_path / "t", seed, 40, models_max=2)
    trace, _ = read_trace(str(tmp_path / "t"))
    simulated = Simulation(trace, is_in_turn=True).run()
    assert simulated.loads == recorded(trace).loads
    assert simulated.waits == pytest.approx(recorded(trace).waits, abs=STEP_S)


def test_the_same_trace_has_the_same_outcome(tmp_path: Path) -> None:
    record(tmp_path / "t", 7, 80, models_max=2)
    trace, _ = read_trace(str(tmp_path / "t"))
    settings = [RECORDED, Setting(models_max=1), Setting(memory_mib=600), Setting(queue_patience_s=0.0)]
    first = [(Simulation(trace, setting).run(), events(trace, setting)) for setting in settings]
    assert first == [(Simulation(trace, setting).run(), events(trace, setting)) for setting in settings]
    assert len({str(outcome) for outcome, _ in first}) == len(settings)


# ---------------------------------------------------------------- other limits


def in_turn(models: str, num: int, gap_s: float = 10.0) -> list[dict[str, Any]]:
    return [{"t": gap_s * number, "model": models[number % len(models)], "run_s": 1.0} for number in range(num)]


def test_more_memory_and_more_places_save_loads(tmp_path: Path) -> None:
    models = {model: {"mib": 300, "loads": [4.0, 2.0, 2.0]} for model in "abc"}
    path = write_trace(tmp_path / "t", models, in_turn("abc", 30), host_bytes=600 * MIB)
    less, more = simulate(path), simulate(path, Setting(memory_mib=900))
    assert (less.num_loads, less.num_evictions) == (30, 28)
    assert (more.num_loads, more.num_evictions, more.reload_s) == (3, 0, 12.0)
    assert less.reload_s == pytest.approx(3 * 4.0 + 27 * 2.0)
    assert more.wait(0.5) == 0.0
    assert less.wait(0.5) == pytest.approx(2.01, abs=STEP_S)  # the victim's end, then the load
    one = simulate(path, Setting(models_max=1, memory_mib=0))
    assert one.departures == Counter({("a", "count"): 10, ("b", "count"): 10, ("c", "count"): 9})


def test_loads_take_the_times_of_the_trace_in_their_order(tmp_path: Path) -> None:
    models = {"a": {"loads": [5.0, 1.0, 3.0, 2.0]}, "b": {"loads": [0.5]}}
    path = write_trace(tmp_path / "t", models, in_turn("ab", 12), models_max=1)
    outcome = simulate(path)
    assert outcome.waits[::2] == pytest.approx([5.0, 1.0, 3.0, 2.0, 2.0, 2.0])  # then the median of all but the first
    assert outcome.waits[1::2] == pytest.approx([0.5] * 6)


def test_events_have_the_times_of_the_recording(tmp_path: Path) -> None:
    """1,000 MiB hold a and one of the others; b is busy when c comes."""
    models = {"a": {"mib": 600, "loads": [2.0]}, "b": {"mib": 300}, "c": {"mib": 300, "ttl_s": 60.0}, "d": {"mib": 2000}}
    requests = [
        {"t": 0, "model": "a", "run_s": 10.0},
        {"t": 1, "model": "b"},
        {"t": 3, "model": "c", "run_s": 2.0},
        {"t": 4, "model": "d"},
        {"t": 5, "model": "a"},
        {"t": 100, "model": "a"},
    ]
    trace, _ = read_trace(str(write_trace(tmp_path / "t", models, requests, host_bytes=1000 * MIB)))
    assert events(trace) == [
        "2.00 a: loaded in 2.00 s",
        "2.00 b: loaded in 1.00 s",
        "3.00 b: leaves (memory)",
        "4.01 c: loaded in 1.00 s",
        "66.01 c: leaves (ttl)",
    ]
    assert Simulation(trace).run().refused == Counter({"DoesNotFit": 1})


def test_rules_of_models_can_be_tried(tmp_path: Path) -> None:
    models = {model: {"loads": [1.0]} for model in "abc"}
    path = write_trace(tmp_path / "t", models, in_turn("abcb", 20), models_max=2)
    usual, pinned = simulate(path), simulate(path, Setting(pinned=("b",)))
    assert pinned.loads["b"] == 1
    assert pinned.num_loads < usual.num_loads + 1
    assert simulate(path, Setting(ttl_s=5.0)).departures.keys() == {(model, "ttl") for model in "abc"}
    hasty = [{"t": 0.0, "model": "a", "run_s": 30.0}, {"t": 1.5, "model": "b"}, {"t": 1.6, "model": "a"}]
    path = write_trace(tmp_path / "t", models, hasty, models_max=1, queue_timeout_s=0.0)
    assert simulate(path, Setting(queue_timeout_s=5.0)).refused == Counter({"Unavailable": 1})
    assert simulate(path, Setting(queue_patience_s=60.0)).waits == pytest.approx([1.0, 30.5, 0.0], abs=STEP_S)


def test_priorities_count(tmp_path: Path) -> None:
    models = {model: {"loads": [1.0]} for model in "abc"}
    requests: Sequence[dict[str, Any]] = [
        {"t": 0.0, "model": "a", "run_s": 5.0},
        {"t": 1.0, "model": "b"},
        {"t": 1.1, "model": "c", "priority": 5},
    ]
    waits = simulate(write_trace(tmp_path / "t", models, requests, models_max=1)).waits
    assert waits[2] < waits[1]


def test_a_client_that_waits_for_its_answers(tmp_path: Path) -> None:
    """It turns from a to b and back without a pause, and one place makes every request wait for a load."""
    models = {model: {"loads": [5.0]} for model in "ab"}
    requests = [{"t": 5.0 + number, "model": "ab"[number % 2]} for number in range(9)]
    requests[0] |= {"t": 0.0, "wait_s": 5.0, "run_s": 0.5}
    trace, _ = read_trace(str(write_trace(tmp_path / "t", models, [{**request, "run_s": 0.5} for request in requests])))
    one_place = Setting(models_max=1)
    assert Simulation(trace, is_in_turn=True).run().num_loads == 2
    assert Simulation(trace, one_place, is_in_turn=True).run().num_loads == 9
    together = Simulation(trace, one_place).run()
    assert together.num_loads < 9  # requests that pile up share a load
    assert together.wait(1.0) > 6.0


def test_who_waits_for_whom(tmp_path: Path) -> None:
    """The last request of the same client that had ended."""
    asked = [(0.0, 1, 5.0), (1.0, 1, 1.0), (2.5, 1, 1.0), (3.0, 2, 1.0), (6.0, 1, 1.0), (7.0, None, 1.0), (8.0, 2, 1.0)]
    requests = [{"t": at, "client": client, "run_s": run_s, "model": "a"} for at, client, run_s in asked]
    trace, _ = read_trace(str(write_trace(tmp_path / "t", {"a": {}}, requests)))
    assert trace.turns() == [None, None, (1, 0.5), None, (0, 1.0), None, (3, 4.0)]


# ---------------------------------------------------------------- requests and loads that end in other ways


def test_clients_that_leave(tmp_path: Path) -> None:
    """The one that waited for 2 s leaves; with a faster load it gets its answer, which takes the usual time."""
    requests: Sequence[dict[str, Any]] = [
        {"t": 0.0, "model": "a", "outcome": "left", "wait_s": 2.0, "run_s": None},
        {"t": 9.0, "model": "a", "run_s": 4.0},
    ]
    assert simulate(write_trace(tmp_path / "t", {"a": {"loads": [5.0]}}, requests)).num_left == 1
    outcome = simulate(write_trace(tmp_path / "t", {"a": {"loads": [1.0]}}, requests))
    assert (outcome.num_left, outcome.waits) == (0, [1.0, 0.0])


def test_a_load_that_failed_fails_again(tmp_path: Path) -> None:
    path = write_trace(
        tmp_path / "t",
        {"a": {"loads": [3.0, 1.0]}},
        [{"t": 0, "model": "a", "outcome": "refused", "error": "LoadFailed"}, {"t": 9, "model": "a"}],
    )
    path.write_text(path.read_text().replace('"outcome": "loaded", "took_s": 3.0', '"outcome": "failed", "took_s": 3.0'))
    outcome = simulate(path)
    assert (outcome.num_refused, outcome.waits) == (1, [1.0])


def test_what_users_ask_for(tmp_path: Path) -> None:
    """load, pin and unload while no request comes."""
    path = write_trace(tmp_path / "t", {"a": {"loads": [2.0]}, "b": {}}, [{"t": 5, "model": "b"}, {"t": 30, "model": "a"}], models_max=1)
    lines = path.read_text()
    asks = [(0.5, "load"), (3.0, "pin"), (20.0, "unload"), (21.0, "load")]
    path.write_text(lines + "".join(f'{{"t": {at}, "event": "ask", "do": "{what}", "model": "a"}}\n' for at, what in asks))
    trace, _ = read_trace(str(path))
    assert events(trace) == ["2.50 a: loaded in 2.00 s", "20.00 a: leaves (unload)", "23.00 a: loaded in 2.00 s"]
    assert Simulation(trace).run().refused == Counter({"DoesNotFit": 1})


def test_keep_alive(tmp_path: Path) -> None:
    requests = [{"t": 0, "model": "a", "keep_alive_s": 7}, {"t": 20, "model": "b", "keep_alive_s": -1}]
    trace, _ = read_trace(str(write_trace(tmp_path / "t", {"a": {}, "b": {"ttl_s": 5.0}}, requests)))
    assert [line for line in events(trace) if "leaves" in line] == ["9.00 a: leaves (ttl)"]


def test_nothing_outside_is_touched(tmp_path: Path) -> None:
    """Facts of real loads neither count nor change."""
    record_path = write_trace(tmp_path / "t", {"a": {}, "b": {}}, in_turn("ab", 6), models_max=1)
    assert simulate(record_path).num_loads == 6
    assert not (tmp_path / "cache").exists()
