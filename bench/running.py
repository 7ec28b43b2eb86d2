"""Starts one measured server for a scenario: fastrouter, llama-server, or one of others.py, with the same models and flags.

A scenario names the server; its program is None for fastrouter itself.
"""

import json
import os
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bench import others
from fastrouter.cli.bench import servers
from fastrouter.cli.bench.load_client import TimedStream
from fastrouter.cli.bench.servers import OURS, RIVAL, MeasuredServer

Samples = dict[str, list[float]]
FLAGS = ("-c", "8192", "-t", "2", "-np", "4")


def running(name: str, program: Path | None, models: Path, *flags: str) -> AbstractContextManager[MeasuredServer]:
    """Raises BenchFailed."""
    log = Path(tempfile.gettempdir()) / f"bench-{name}.log"
    if name in others.STARTERS:
        assert program is not None
        return others.STARTERS[name](program, models, flags, log)
    environ = {**os.environ, "LLAMA_CACHE": "/nonexistent", "HF_HUB_CACHE": "/nonexistent"}
    return servers.running(program if name == RIVAL else None, ["--models-dir", str(models), *flags], environ, log)


def without_foresight(name: str) -> tuple[str, ...]:
    """For a scenario whose models must not be in memory when they are asked for: fastrouter would load what it foresees."""
    return ("--no-foresee",) if name == OURS else ()


def timings_of(stream: TimedStream) -> dict[str, Any]:
    """llama-server's `timings` at the end of a stream."""
    found: dict[str, Any] = json.loads(b"{" + stream.body.rpartition(b'"timings":{')[2].partition(b"}")[0] + b"}")
    return found
