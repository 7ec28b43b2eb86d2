"""`python -m bench`: which server is measured when, what is saved where, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import __main__ as program
from bench import report
from bench.running import Samples
from bench.suite import SCENARIOS, Scenario
from fastrouter.cli.bench.servers import OURS, RIVAL

REPOSITORY = Path(__file__).parent.parent.parent
Calls = list[tuple[str, str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """(scenario, server) in the order of their runs, instead of the real scenarios."""
    made: Calls = []

    def scenario(label: str, **fields: object) -> Scenario:
        def run(name: str, path: Path | None, models: Path) -> Samples:
            made.append((label, name))
            return {f"{label}_s": [1.0]}

        return Scenario(run, **fields)  # type: ignore[arg-type]

    def short(name: str, path: Path | None, models: Path) -> Samples:
        made.append(("short", name))
        return {}

    for name in list(SCENARIOS):
        monkeypatch.delitem(SCENARIOS, name)
    monkeypatch.setitem(SCENARIOS, "turns", scenario("turns", is_quick=True))
    monkeypatch.setitem(SCENARIOS, "own", scenario("own", servers=(OURS,), is_once=True))
    monkeypatch.setitem(SCENARIOS, "long", scenario("long", servers=(OURS,), short_run=short, is_quick=True))
    return made


def measured(tmp_path: Path, *arguments: str) -> dict[str, Samples]:
    read = program.read_arguments(["--rival", "/bin/true", *arguments])
    return program.run(read, program.programs_of(read), tmp_path)


def test_servers_take_turns(calls: Calls, tmp_path: Path) -> None:
    samples = measured(tmp_path, "--rounds", "2")
    assert calls == [
        *[("turns", OURS), ("turns", RIVAL), ("own", OURS), ("long", OURS)],
        *[("turns", RIVAL), ("turns", OURS), ("short", OURS)],
    ]
    assert samples == {OURS: {"turns_s": [1.0, 1.0], "own_s": [1.0], "long_s": [1.0]}, RIVAL: {"turns_s": [1.0, 1.0]}}


def test_quick_is_one_short_round(calls: Calls, tmp_path: Path) -> None:
    measured(tmp_path, "--quick")
    assert calls == [("turns", OURS), ("turns", RIVAL), ("short", OURS)]


def test_some_scenarios(calls: Calls, tmp_path: Path) -> None:
    measured(tmp_path, "--only", "own")
    assert calls == [("own", OURS)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rival", "/no/such"], "/no/such: there is no such program"),
        (["--only", "everything"], "invalid choice"),
        (["--rounds", "0"], "--rounds must be 1 or more"),
        (["--llama-swap", "/bin/true"], "--llama-swap needs --rival"),
    ],
)
def test_what_makes_no_sense(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.read_arguments(arguments)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("is_whole", "kind"), [(True, "switch"), (False, "part")])
def test_a_part_is_not_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_whole: bool, kind: str) -> None:
    monkeypatch.setattr(program, "__file__", str(tmp_path / "__main__.py"))
    monkeypatch.setattr(report, "main", lambda: None)
    program.save({"samples": {}}, is_whole=is_whole)
    [path] = (tmp_path / "results").iterdir()
    assert path.name.startswith(f"{kind}-")
    assert json.loads(path.read_text()) == {"samples": {}}


def test_a_real_run_of_one_scenario(tmp_path: Path, smollm2: Path) -> None:
    """For the bench, llama-server is a program with flags. This one is fastrouter under another name."""
    rival = tmp_path / "llama-server"
    rival.write_text(f'#!/bin/sh\nexec {sys.executable} -m fastrouter "$@"\n')
    rival.chmod(0o755)
    command = [sys.executable, "-m", "bench", "--rival", str(rival), "--only", "start", "--rounds", "1", "--no-save"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert "| start to /health | 3 | " in done.stdout
    assert "| start to the first token of a tiny model | 3 | " in done.stdout
    assert "Warm-up: none for starts" in done.stdout
