"""Traces written by hand, in the format of supervisor/trace_writer.py."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MIB = 1 << 20


def lines_of(models: dict[str, dict[str, Any]], requests: Sequence[dict[str, Any]], **header: Any) -> list[dict[str, Any]]:
    """A model has `mib`, `loads` [seconds], `exit_s` and fields of its line; a request has `t`, `model`, `run_s`, `wait_s` and
    fields of its two lines."""
    limits = {"models_max": 4, "host_bytes": None, "device_bytes": None, "queue_patience_s": 2.0, "queue_timeout_s": 0.0}
    head = {"t": 0.0, "event": "trace", "format": "fastrouter trace", "version": 1, "began": "2026-01-01T00:00:00Z", **limits, **header}
    lines = [head]
    for model, wanted in models.items():
        lines += _of_model(model, dict(wanted))
    for number, wanted in enumerate(requests, 1):
        lines += _of_request(number, dict(wanted))
    return [*lines, {"t": max(line["t"] for line in lines), "event": "stop"}]


def _of_model(model: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    loads, exit_s = wanted.pop("loads", [1.0]), wanted.pop("exit_s", 0.01)
    memory = {"host_bytes": wanted.pop("mib", 100) * MIB, "device_bytes": wanted.pop("device_mib", 0) * MIB}
    usual_s = loads[-1] if loads else 1.0
    lines = [{"t": 0.0, "event": "model", "model": model, "expected_load_s": usual_s, "pinned": False, **memory, **wanted}]
    for took_s in loads:
        lines.append({"t": 0.0, "event": "load", "model": model, "outcome": "loaded", "took_s": took_s, "usual_s": took_s, **memory})
    return [*lines, {"t": 0.0, "event": "gone", "model": model, "took_s": exit_s}]


def _of_request(number: int, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    at, model, client = wanted.pop("t"), wanted.pop("model"), wanted.pop("client", 1)
    begin = {"t": at, "event": "request", "id": number, "model": model, "client": client, "priority": wanted.pop("priority", 0)}
    end = {"t": at, "event": "end", "id": number, "outcome": "done", "wait_s": 0.0, "run_s": 1.0, **wanted}
    return [begin, {name: value for name, value in end.items() if value is not None}]


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_trace(path: Path, models: dict[str, dict[str, Any]], requests: Sequence[dict[str, Any]], **header: Any) -> Path:
    return write_lines(path, lines_of(models, requests, **header))
