"""Traces that are not one, are of a newer version, empty or damaged, and those that are fine."""

from pathlib import Path
from typing import Any

import pytest
from traces import MIB, lines_of, write_lines, write_trace

from fastrouter.errors import ConfigError
from fastrouter.simulator.simulation import recorded, with_load_times
from fastrouter.simulator.trace import read_trace

ONE: dict[str, dict[str, Any]] = {"a": {"mib": 600, "loads": [2.0, 1.0]}}


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        read_trace(str(path))
    return raised.value.message


def test_what_is_in_a_trace(tmp_path: Path) -> None:
    path = write_trace(
        tmp_path / "t",
        {"a": {"mib": 600, "loads": [2.0, 1.0], "ttl_s": 60.0, "pinned": True, "exit_s": 0.5}},
        [{"t": 1.0, "model": "a", "client": None, "priority": -3, "wait_s": 2.0, "run_s": 3.0, "prompt_tokens": 5, "keep_alive_s": -1}],
        host_bytes=1000 * MIB,
    )
    trace, num_runs = read_trace(str(path))
    assert (num_runs, trace.is_whole, trace.host_bytes, trace.device_bytes) == (1, True, 1000 * MIB, None)
    [request] = trace.requests
    assert (request.client, request.priority, request.prompt_tokens, request.keep_alive_s) == (None, -3, 5, -1.0)
    assert (trace.models["a"].ttl_s, trace.models["a"].is_pinned, trace.models["a"].sleep_idle_s) == (60.0, True, None)
    assert trace.exits == {"a": [0.5]}
    outcome = recorded(trace)
    assert (outcome.waits, outcome.num_loads, outcome.reload_s) == ([2.0], 2, 3.0)


def test_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "t"
    assert "there is no such file" in refusal(path)
    assert "is a folder" in refusal(tmp_path)
    path.write_bytes(b"")
    assert refusal(path) == f"{path}: the trace is empty; record one with `fastrouter serve --record FILE`"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 1000)
    assert refusal(path).startswith(f"{path}:1: is not a trace")
    path.write_text('{"models": {}}\n')
    assert refusal(path).startswith(f"{path}:1: is not the beginning of a trace")
    path.write_text('{"event": "trace", "format": "another"}\n')
    assert refusal(path).startswith(f"{path}:1: is not a trace")


def test_a_newer_version(tmp_path: Path) -> None:
    lines = lines_of(ONE, [{"t": 0, "model": "a"}])
    path = write_lines(tmp_path / "t", [{**lines[0], "version": 2}, *lines[1:]])
    assert "the trace has version 2, this fastrouter reads version 1: use the fastrouter that recorded it" in refusal(path)


def test_an_unknown_event_changes_nothing(tmp_path: Path) -> None:
    lines = lines_of(ONE, [{"t": 0, "model": "a"}])
    path = write_lines(tmp_path / "t", [*lines, {"t": 3.0, "event": "from the future", "model": 5}])
    assert len(read_trace(str(path))[0].requests) == 1


def test_no_request(tmp_path: Path) -> None:
    assert "the trace has no request; record while models are used" in refusal(write_trace(tmp_path / "t", ONE, []))


@pytest.mark.parametrize("cut", [1, 20])
def test_the_last_line_may_be_cut(tmp_path: Path, cut: int) -> None:
    path = write_trace(tmp_path / "t", ONE, [{"t": 0, "model": "a"}, {"t": 5, "model": "a"}])
    whole = path.read_bytes().rstrip(b"\n").rpartition(b"\n")[0]  # without the line that says it has ended
    path.write_bytes(whole[:-cut])
    trace, _ = read_trace(str(path))
    assert not trace.is_whole
    assert [request.outcome for request in trace.requests] == ["done", ""]


def test_a_run_after_a_cut_one(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "t", ONE, [{"t": 0, "model": "a"}])
    first = path.read_bytes()
    write_trace(path, ONE, [{"t": 0, "model": "a"}, {"t": 1, "model": "a"}])
    second = path.read_bytes()
    path.write_bytes(first[:-9] + b"\n" + second)
    trace, num_runs = read_trace(str(path))
    assert (num_runs, len(trace.requests)) == (2, 2)
    path.write_bytes(first + second + b"\n" + write_trace(path, ONE, []).read_bytes())
    trace, num_runs = read_trace(str(path))
    assert (num_runs, len(trace.requests)) == (3, 2)  # the last run with requests


def test_a_broken_line_in_the_middle(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "t", ONE, [{"t": 0, "model": "a"}])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "nonsense", *lines[2:]]))
    assert refusal(path).startswith(f"{path}:3: is not a line of a trace")


@pytest.mark.parametrize(
    ("index", "change", "problem"),
    [
        (0, {"models_max": "four"}, "`models_max` must be a number from 0 on, not 'four'"),
        (1, {"host_bytes": -5}, "`host_bytes` must be a number from 0 on, not -5"),
        (1, {"expected_load_s": None}, "`expected_load_s` must be a number"),
        (2, {"took_s": True}, "`took_s` must be a number"),
        (2, {"outcome": 7}, "`outcome` must be a text, not 7"),
        (5, {"model": "b"}, "the model 'b' was not described before"),
        (5, {"t": "noon"}, "`t` must be a number"),
        (6, {"wait_s": 1e300}, "`wait_s` must be a number"),
    ],
)
def test_a_wrong_field(tmp_path: Path, index: int, change: dict[str, Any], problem: str) -> None:
    lines = lines_of(ONE, [{"t": 0, "model": "a"}])
    lines[index] |= change
    path = write_lines(tmp_path / "t", lines)
    assert f"{path}:{index + 1}: {problem}" in refusal(path)


def test_an_automatic_limit_is_the_usual_one_at_loads(tmp_path: Path) -> None:
    lines = lines_of(ONE, [{"t": 0, "model": "a"}], host_bytes=900 * MIB)
    for line, mib in zip(lines[2:4], (700, 800), strict=True):
        line |= {"host_limit_bytes": mib * MIB, "device_limit_bytes": None}
    trace, _ = read_trace(str(write_lines(tmp_path / "t", lines)))
    assert trace.host_bytes == 700 * MIB


def test_a_model_without_a_load(tmp_path: Path) -> None:
    models: dict[str, dict[str, Any]] = {**ONE, "big one": {"loads": [], "expected_load_s": 4.25}}
    path = write_trace(tmp_path / "t", models, [{"t": 0, "model": "a"}, {"t": 1, "model": "big one", "outcome": "refused"}])
    trace, _ = read_trace(str(path))
    with pytest.raises(
        ConfigError, match="big one but no load, so their load time is unknown: give it, for example --load-time 'big one=4"
    ):
        with_load_times(trace, {})
    assert with_load_times(trace, {"big one": 3.0}).loads[-1].took_s == 3.0
    with pytest.raises(ConfigError, match="--load-time big on: the trace has no such model, did you mean big one"):
        with_load_times(trace, {"big on": 3.0})
