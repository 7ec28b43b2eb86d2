"""Which settings are tried, and which one is called the best."""

from pathlib import Path

from traces import MIB, write_trace

from fastrouter.simulator.grid import Tried, best_of, least_memory, next_step, settings_of, usual_axes
from fastrouter.simulator.simulation import RECORDED, Outcome, Setting
from fastrouter.simulator.trace import Trace, read_trace


def trace_of(folder: Path, num_models: int = 4, **header: object) -> Trace:
    models = {f"m{number}": {"mib": 1000} for number in range(num_models)}
    return read_trace(str(write_trace(folder / "t", models, [{"t": 0, "model": "m0"}], **header)))[0]


def tried(setting: Setting, *waits: float, refused: int = 0) -> Tried:
    outcome = Outcome(waits=list(waits))
    outcome.refused["Unavailable"] += refused
    return Tried(setting, outcome)


def test_combinations() -> None:
    assert settings_of({"models_max": [1, None], "ttl_s": [5.0]}) == [Setting(models_max=1, ttl_s=5.0), Setting(ttl_s=5.0)]
    assert settings_of({}) == [RECORDED]


def test_memory_is_tried_up_to_the_step_at_which_all_models_fit(tmp_path: Path) -> None:
    axes = usual_axes(trace_of(tmp_path, host_bytes=2000 * MIB, models_max=4))
    assert axes["memory_mib"] == [1000, 1500, None, 2500, 3000, 4000]
    assert axes["models_max"] == [2, None, 0]
    axes = usual_axes(trace_of(tmp_path, host_bytes=9000 * MIB, models_max=0))
    assert axes["memory_mib"] == [4500, 6750, None]
    assert axes["models_max"] == [2, 3, None]
    assert "memory_mib" not in usual_axes(trace_of(tmp_path, models_max=1))


def test_the_best_has_the_fewest_refusals_then_the_shortest_waits(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, host_bytes=2000 * MIB)
    now, more, most = tried(RECORDED, 50.0), tried(Setting(memory_mib=3000), 10.0), tried(Setting(memory_mib=4000), 9.9)
    assert best_of([now, more, most], trace) is more  # the last one is as good, and takes more
    assert best_of([now, tried(Setting(memory_mib=3000), 1.0, refused=1)], trace) is now
    assert next_step([now, more, most], more, trace) is most
    assert next_step([now, more, most], most, trace) is None
    assert least_memory([now, more, most], more, trace) is None
    assert least_memory([now, more, most], most, trace) is more
    less = tried(Setting(memory_mib=1000), 50.0)
    assert best_of([less, now], trace) is now  # it adds nothing to the recorded setting, and changes nothing
    assert least_memory([less, now], now, trace) is less
    unlimited = tried(Setting(memory_mib=0), 1.0)
    assert best_of([now, unlimited], trace) is unlimited
    assert next_step([now, more, unlimited], more, trace) is unlimited


def test_the_fewest_places_that_are_added(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, models_max=4)
    more, any_number = tried(Setting(models_max=8), 1.0), tried(Setting(models_max=0), 1.0)
    assert best_of([tried(RECORDED, 5.0), any_number, more], trace) is more
    assert next_step([more, any_number], more, trace) is None  # that is not a step of memory
