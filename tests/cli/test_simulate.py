"""`fastrouter simulate`: the table, the advice, the errors."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from traces import MIB, lines_of, write_lines, write_trace

from fastrouter.cli.simulate import run_simulate

GIB = 1024


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Three models of 6 GiB take turns where two of them fit."""
    models: dict[str, dict[str, Any]] = {model: {"mib": 6 * GIB, "loads": [4.0]} for model in ("planner", "coder", "critic")}
    requests = [{"t": 20.0 * number, "model": [*models][number % 3], "wait_s": 4.01} for number in range(12)]
    requests[0]["wait_s"] = requests[1]["wait_s"] = 4.0
    lines = lines_of(models, requests, host_bytes=16 * GIB * MIB, models_max=4)
    loads = [line for line in lines if line["event"] == "load"]
    left = [{"t": 1.0, "event": "leave", "model": "coder", "reason": "memory"}] * 10
    return write_lines(tmp_path / "t.trace", [*lines[:-1], *loads * 3, *left, lines[-1]])


def run(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert run_simulate([str(word) for word in words]) == 0
    out, err = capsys.readouterr()
    assert not err
    return out


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert run_simulate([str(word) for word in words]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("fastrouter: ")
    return err


def rows(out: str) -> dict[str, list[str]]:
    """The cells of the table by the name of the setting; units belong to their numbers."""
    found = {}
    for line in out.splitlines():
        cells = [cell for cell in re.split(r"\s\s+", re.sub(r"(?<=\d) s\b", "s", line)) if cell]
        if len(cells) >= 10:
            found[cells[0]] = cells[1:]
    return found


def test_would_more_memory_help(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, trace, "--models-memory", "+1G,+8G,+24G")
    assert out.startswith("recording: 4 min from 2026-01-01T00:00:00Z, 3 models, 12 requests, limits: 4 models, 16.0 GiB\n")
    table = rows(out)
    assert list(table) == [
        *("SETTING", "recorded", "as recorded"),
        *("models-memory 17.0 GiB", "models-memory 24.0 GiB", "models-memory 40.0 GiB"),
    ]
    assert table["recorded"] == table["as recorded"]
    assert table["as recorded"] == ["12", "12", "10", "48.00s", "4.01s", "4.01s", "4.01s", "48.10s", "0"]
    assert table["models-memory 24.0 GiB"] == ["12", "3", "0", "12.00s", "0.00s", "4.00s", "4.00s", "12.00s", "0"]
    assert "The simulation of the recorded setting agrees with the recording within 5%." in out
    assert "Best of these: models-memory 24.0 GiB: waits are 36 s shorter together, 3 loads instead of 12." in out
    assert out.endswith("The next step of memory (models-memory 40.0 GiB) would not make waits shorter.\n")


def test_a_grid(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, trace, "--grid")
    assert "Best of these: models-memory 20.0 GiB: waits are 36 s shorter together" in out
    assert rows(out)["models-max 2, models-memory 8.0 GiB"][1] == "12"
    assert run(capsys, trace, "--grid") == out


def test_the_recorded_setting_can_be_the_best(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "The recorded setting is the best of these.\nThe next step of memory (models-memory 17.0 GiB) would not" in run(
        capsys, trace, "--models-memory", "17G"
    )
    out = run(capsys, trace, "--models-memory", "12G,16G,17G", "--models-max", "4")
    assert len(rows(out)) == 5  # the recorded setting is simulated once
    assert out.endswith("would not make waits shorter.\nLess memory would do as well: models-memory 12.0 GiB.\n")
    assert "Try others: --grid" in run(capsys, trace)


def test_lists_are_combined(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "--models-max",
        "1,2",
        "--queue-patience",
        "0,5",
        "--ttl",
        "-1",
        "--min-resident",
        "2",
        "--pin",
        "coder",
        "--queue-timeout",
        "9",
    )
    found = json.loads(run(capsys, trace, "--json", *words))
    assert [one["setting"] for one in found["simulated"]] == [
        {},
        *(
            {
                "models_max": places,
                "queue_patience_s": patience,
                "queue_timeout_s": 9.0,
                "ttl_s": -1.0,
                "min_resident_s": 2.0,
                "pinned": ["coder"],
            }
            for places in (1, 2)
            for patience in (0.0, 5.0)
        ),
    ]
    assert found["simulated"][1]["refused"] == {"DoesNotFit": 7}
    assert (found["agrees"], found["num_requests"]) == (True, 12)
    fewest = min(sum(one["refused"].values()) for one in found["simulated"])
    assert [sum(one["refused"].values()) for one in found["simulated"] if one["setting"] == found["best"]] == [fewest]


def test_json(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, trace, "--json", "--models-memory", "0", "--events"))
    now, more = found["simulated"]
    assert found["recorded"]["loads"] == now["loads"] == 12
    assert now["departures"] == {"memory": 10}
    assert more == {
        "setting": {"memory_mib": 0},
        "loads": 3,
        "evictions": 0,
        "departures": {},
        "reload_s": 12.0,
        "refused": {},
        "left": 0,
        "wait_s": {"p50": 0.0, "p95": 4.0, "max": 4.0},
        "total_wait_s": 12.0,
        "loads_by_model": {"planner": 1, "coder": 1, "critic": 1},
    }
    assert found["best"] == {"memory_mib": 0}


def test_events(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, trace, "--events", "--models-max", "1").splitlines()
    begins = lines.index("models-max 1:")
    assert lines[0] == "as recorded:"
    assert lines[begins + 1 : begins + 4] == [
        "      4.00  planner: loaded in 4.00 s",
        "     20.00  planner: leaves (count)",
        "     24.00  coder: loaded in 4.00 s",
    ]


def test_a_simulation_that_does_not_agree_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_trace(tmp_path / "t", {"a": {"loads": [1.0, 1.0]}}, [{"t": 0, "model": "a", "wait_s": 1.0}])
    out = run(capsys, path)
    assert "differs from the recording: loads 1 instead of 2, seconds of reloading 1 instead of 2. Take the other rows as estimates." in out


def test_a_killed_router_and_several_runs(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_one = trace.read_bytes()
    trace.write_bytes(run_one[:-30] + b"\n" + run_one[:-5])
    first, _, _ = run(capsys, trace).partition("\n")
    assert first.startswith("recording: the last of 2 runs, ")
    assert first.endswith("; its end is missing, because the router was killed or still runs")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--models-max", "1,many"], "--models-max 1,many: must be whole numbers, with commas between them"),
        (["--models-max", ""], "--models-max : must be whole numbers"),
        (["--models-memory", "8T"], "--models-memory 8T: must be sizes in MiB, or in GiB as in 24G, or a difference as in +24G"),
        (["--models-memory-device", "+8G"], "--models-memory-device +8G: the recorded router had no limit that +8G could be added to"),
        (["--queue-patience", "-1"], "--queue-patience -1: must be seconds"),
        (["--ttl", "1e5"], "--ttl 1e5: must be seconds"),
        (["--pin", "code"], "--pin code: the trace has no such model, did you mean coder"),
        (["--load-time", "coder"], "--load-time coder: must be MODEL=SECONDS"),
        (["--load-time", "coder=fast"], "--load-time coder=fast: must be seconds"),
        (["--models-max", ",".join(map(str, range(30))), "--ttl", ",".join(map(str, range(30)))], "combinations, more than 500"),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_wrong_words(trace: Path, capsys: pytest.CaptureFixture[str], words: list[str], problem: str) -> None:
    assert problem in refused(capsys, trace, *words)


def test_a_model_without_a_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models: dict[str, dict[str, Any]] = {"a": {}, "big": {"mib": 9000, "loads": [], "expected_load_s": 8.0}}
    requests = [{"t": 0, "model": "a", "wait_s": 1.0}, {"t": 5, "model": "big", "outcome": "refused", "error": "DoesNotFit", "run_s": None}]
    path = write_trace(tmp_path / "t", models, requests, host_bytes=8000 * MIB)
    assert "requests for big but no load, so their load time is unknown: give it, for example --load-time 'big=8.0'" in refused(
        capsys, path
    )
    found = json.loads(run(capsys, path, "--json", "--load-time", "big=8.0", "--models-memory", "+4G"))
    assert [one["refused"] for one in found["simulated"]] == [{"DoesNotFit": 1}, {}]
    assert found["best"] == {"memory_mib": 8000 + 4096}
