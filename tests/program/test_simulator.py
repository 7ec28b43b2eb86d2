"""bench/simulator.py: a trace in, switches, waits and evictions out."""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
TRACE = {
    "models": {
        "a": {"mib": 600, "load_s": 2.0},
        "b": {"mib": 300, "load_s": 1.0},
        "c": {"mib": 300, "load_s": 1.0, "ttl_s": 60.0},
        "d": {"mib": 2000},
    },
    "requests": [
        {"at": 0, "model": "a", "answer_s": 10},
        {"at": 1, "model": "b"},
        {"at": 3, "model": "c", "answer_s": 2},
        {"at": 4, "model": "d"},
        {"at": 5, "model": "a"},
        {"at": 100, "model": "a"},
    ],
}


def test_a_trace(tmp_path: Path) -> None:
    """1,000 MiB hold a and one of the others. c waits until b has been used."""
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps(TRACE))
    command = [sys.executable, "-m", "bench.simulator", str(trace), "--models-memory", "1000"]
    lines = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    moments = {tuple(line.split()[1:]): float(line.split()[0]) for line in lines if ": " in line and line.startswith(" ")}
    assert moments["a:", "loading"] == 0.0
    assert moments["a:", "loaded"] == 2.0
    assert moments["b:", "unloaded", "memory"] == 3.0
    assert moments["c:", "loading"] == 3.01
    assert 66 <= moments["c:", "unloaded", "ttl"] < 66.1
    rows = {line.split()[0]: line.split()[1:] for line in lines[-6:]}
    assert rows["a"] == ["3", "1", "0.00", "2.00", "2.00"]
    assert rows["b"] == ["1", "1", "1.00", "1.00", "1.00", "memory", "1"]
    assert rows["c"] == ["1", "1", "1.01", "1.01", "1.01", "ttl", "1"]
    assert rows["d"][0] == "0"
    assert "2.0 GiB" in lines[-1]
    assert lines[-1].startswith("refused: d: ")
