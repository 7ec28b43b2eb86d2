"""Reads a trace that supervisor/trace_writer.py has written. Never imports: supervisor.supervisor, simulator.loop.

Invariant: a file that is damaged, of another kind or of a newer version ends in a ConfigError that names the line and the way out. Only the
last line of a run may be cut, because its router may have been killed.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import orjson

from fastrouter.errors import ConfigError
from fastrouter.supervisor.changes import FAILED, LOADED
from fastrouter.supervisor.trace_writer import FORMAT, VERSION
from fastrouter.system.text_file import why_no_file

HOW = "record one with `fastrouter serve --record FILE`"
MAX_NUMBER = 1e15
MAX_LINE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class TracedModel:
    """A model as the router knew it when it was asked for first."""

    id: str
    host_bytes: int
    device_bytes: int
    expected_load_s: float
    is_pinned: bool
    ttl_s: float | None
    sleep_idle_s: float | None
    min_resident_s: float
    load_timeout_s: float
    stop_timeout_s: float


@dataclass(slots=True)
class TracedRequest:
    at: float
    model_id: str
    client: int | None
    priority: int
    is_autoload: bool
    wait_s: float | None = None  # until its model was there, or until it ended without; None: it had not ended
    run_s: float | None = None  # from then to its end; None: its model was never there
    outcome: str = ""  # done | refused | left; empty: it had not ended
    error: str = ""
    keep_alive_s: float | None = None
    prompt_tokens: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class TracedLoad:
    model_id: str
    outcome: str  # see supervisor/changes.py
    took_s: float
    usual_s: float  # what the router expects from the next one
    host_bytes: int
    device_bytes: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A load, an unload or a pin that a user or a flag wanted."""

    at: float
    what: str
    model_id: str


@dataclass(slots=True)
class Trace:
    """One run of a router."""

    models_max: int
    host_bytes: int | None  # the limits
    device_bytes: int | None
    queue_patience_s: float
    queue_timeout_s: float
    began: str = ""
    ended_at: float = 0.0
    is_whole: bool = False  # the router has ended in order
    models: dict[str, TracedModel] = field(default_factory=dict)
    requests: list[TracedRequest] = field(default_factory=list)
    loads: list[TracedLoad] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    departures: list[tuple[str, str]] = field(default_factory=list)  # (model, reason)
    exits: dict[str, list[float]] = field(default_factory=dict)  # seconds, by model

    def loads_of(self, model_id: str) -> list[TracedLoad]:
        """Those that ended by themselves."""
        return [load for load in self.loads if load.model_id == model_id and load.outcome in (LOADED, FAILED)]

    def usual_run_s(self) -> dict[str, float]:
        """By model, for requests of which the trace does not say how long they take: the median of the model, or that of all requests."""
        times: dict[str, list[float]] = {model_id: [] for model_id in self.models}
        for request in self.requests:
            if request.run_s is not None:
                times[request.model_id].append(request.run_s)
        every = [run_s for runs in times.values() for run_s in runs]
        usual = statistics.median(every) if every else 0.0
        return {model_id: statistics.median(runs) if runs else usual for model_id, runs in times.items()}

    def turns(self) -> list[tuple[int, float] | None]:
        """For each request the last one of its client that had ended before, and the seconds between; None: there is none."""
        running: dict[int, list[tuple[float, int]]] = {}
        latest: dict[int, tuple[float, int]] = {}
        found: list[tuple[int, float] | None] = []
        for number, request in enumerate(self.requests):
            client = request.client
            if client is None:
                found.append(None)
                continue
            ends = running.setdefault(client, [])
            while ends and ends[0][0] <= request.at:
                latest[client] = heappop(ends)
            found.append((latest[client][1], request.at - latest[client][0]) if client in latest else None)
            if request.wait_s is not None:
                heappush(ends, (request.at + request.wait_s + (request.run_s or 0.0), number))
        return found

    def without_load(self) -> list[str]:
        """Models that are asked for and were never loaded."""
        loaded = {load.model_id for load in self.loads if load.outcome == LOADED}
        wanted = [*(request.model_id for request in self.requests), *(ask.model_id for ask in self.asks if ask.what == "load")]
        return [model_id for model_id in dict.fromkeys(wanted) if model_id not in loaded]


def read_trace(path: str) -> tuple[Trace, int]:
    """The last run of a file that has requests, and the number of runs. Raises ConfigError."""
    runs = _read_runs(path)
    if not runs:
        raise ConfigError(f"{path}: the trace is empty; {HOW}")
    with_requests = [run for run in runs if run.requests]
    if not with_requests:
        raise ConfigError(f"{path}: the trace has no request; record while models are used")
    return with_requests[-1], len(runs)


def _read_runs(path: str) -> list[Trace]:
    readers: list[_Reader] = []
    for line in _lines(path):
        if line.fields.get("event") == "trace":
            readers.append(_Reader(_begin(line)))
        elif not readers:
            raise line.wrong(f"is not the beginning of a trace; {HOW}")
        else:
            readers[-1].take(line)
    for reader in readers:
        reader.finish()
    return [reader.trace for reader in readers]


# ---------------------------------------------------------------- lines


@dataclass(frozen=True, slots=True)
class _Line:
    place: str
    fields: dict[str, Any]

    def wrong(self, problem: str) -> ConfigError:
        return ConfigError(f"{self.place}: {problem}")

    def number(self, name: str, default: float | None = None, low: float = 0.0) -> float:
        value: Any = self.fields.get(name, default)
        if type(value) not in (int, float) or not low <= value <= MAX_NUMBER:
            raise self.wrong(f"`{name}` must be a number from {low:g} on, not {value!r}")
        return float(value)

    def count(self, name: str, default: float | None = None) -> int:
        return int(self.number(name, default))

    def optional(self, name: str) -> float | None:
        return None if self.fields.get(name) is None else self.number(name)

    def size(self, name: str) -> int | None:
        found = self.optional(name)
        return None if found is None else int(found)

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise self.wrong(f"`{name}` must be a text, not {value!r}")
        return value


def _lines(path: str) -> Iterator[_Line]:
    """A broken line is left out when nothing follows it in its run."""
    broken: _Line | None = None
    try:
        with open(path, "rb") as file:
            for number, content in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
                if not content.strip():
                    continue
                line = _parse(content, f"{path}:{number}")
                if broken is not None and (line is None or line.fields.get("event") != "trace"):
                    raise broken.wrong(f"is not a line of a trace; {HOW}")
                broken = _Line(f"{path}:{number}", {}) if line is None else None
                if line is not None:
                    yield line
                elif number == 1:
                    raise broken.wrong(f"is not a trace; {HOW}")  # type: ignore[union-attr]
    except OSError as error:
        why = why_no_file(Path(path)) if not Path(path).is_file() else error.strerror or str(error)
        raise ConfigError(f"{path}: {why}") from None


def _parse(content: bytes, place: str) -> _Line | None:
    try:
        fields = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return _Line(place, fields) if isinstance(fields, dict) else None


def _begin(line: _Line) -> Trace:
    if line.fields.get("format") != FORMAT:
        raise line.wrong(f"is not a trace; {HOW}")
    version = line.count("version")
    if version > VERSION:
        raise line.wrong(f"the trace has version {version}, this fastrouter reads version {VERSION}: use the fastrouter that recorded it")
    host, device = line.size("host_bytes"), line.size("device_bytes")
    times = line.number("queue_patience_s"), line.number("queue_timeout_s")
    return Trace(line.count("models_max"), host, device, *times, began=str(line.fields.get("began", "")))


class _Reader:
    """The lines of one run."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._requests: dict[int, TracedRequest] = {}
        self._host_limits: list[int] = []
        self._device_limits: list[int] = []
        self._takers: dict[str, Callable[[_Line], None]] = {
            "model": self._take_model,
            "request": self._take_request,
            "end": self._take_end,
            "load": self._take_load,
            "leave": self._take_departure,
            "gone": self._take_exit,
            "ask": self._take_ask,
            "stop": self._take_stop,
        }

    def take(self, line: _Line) -> None:
        """An event that this version does not know changes nothing."""
        self.trace.ended_at = max(self.trace.ended_at, line.number("t"))
        taker = self._takers.get(line.text("event"))
        if taker is not None:
            taker(line)

    def _take_model(self, line: _Line) -> None:
        model_id = line.text("model")
        if model_id in self.trace.models:  # settings that change meanwhile are not simulated
            return
        self.trace.models[model_id] = TracedModel(
            model_id,
            line.count("host_bytes"),
            line.count("device_bytes"),
            line.number("expected_load_s"),
            line.fields.get("pinned") is True,
            line.optional("ttl_s"),
            line.optional("sleep_idle_s"),
            line.number("min_resident_s", 0.0),
            line.number("load_timeout_s", 0.0),
            line.number("stop_timeout_s", 0.0),
        )

    def _known(self, line: _Line) -> str:
        model_id = line.text("model")
        if model_id not in self.trace.models:
            raise line.wrong(f"the model '{model_id}' was not described before; lines of the trace are lost, so record again")
        return model_id

    def _take_request(self, line: _Line) -> None:
        client = line.optional("client")
        is_autoload = line.fields.get("autoload") is not False
        number = None if client is None else int(client)
        request = TracedRequest(line.number("t"), self._known(line), number, int(line.number("priority", 0, -MAX_NUMBER)), is_autoload)
        self.trace.requests.append(request)
        self._requests[line.count("id")] = request

    def _take_end(self, line: _Line) -> None:
        request = self._requests.pop(line.count("id"), None)
        if request is None:  # its first line was lost
            return
        request.outcome, request.error = line.text("outcome"), str(line.fields.get("error", ""))
        request.wait_s, request.run_s = line.number("wait_s"), line.optional("run_s")
        request.keep_alive_s = None if line.fields.get("keep_alive_s") is None else line.number("keep_alive_s", low=-1.0)
        request.prompt_tokens, request.tokens = line.count("prompt_tokens", 0), line.count("tokens", 0)

    def _take_load(self, line: _Line) -> None:
        sizes = line.count("host_bytes"), line.count("device_bytes")
        load = TracedLoad(line.text("model"), line.text("outcome"), line.number("took_s"), line.number("usual_s"), *sizes)
        self.trace.loads.append(load)
        self._take_limits(line)

    def _take_limits(self, line: _Line) -> None:
        for limits, name in ((self._host_limits, "host_limit_bytes"), (self._device_limits, "device_limit_bytes")):
            if (found := line.size(name)) is not None:
                limits.append(found)

    def finish(self) -> None:
        """Automatic limits change with the memory that other programs use, and those of devices are known only after a load."""
        if self._host_limits:
            self.trace.host_bytes = statistics.median_low(self._host_limits)
        if self._device_limits:
            self.trace.device_bytes = statistics.median_low(self._device_limits)

    def _take_departure(self, line: _Line) -> None:
        self.trace.departures.append((line.text("model"), line.text("reason")))

    def _take_exit(self, line: _Line) -> None:
        self.trace.exits.setdefault(line.text("model"), []).append(line.number("took_s"))

    def _take_ask(self, line: _Line) -> None:
        self.trace.asks.append(Ask(line.number("t"), line.text("do"), self._known(line)))

    def _take_stop(self, line: _Line) -> None:
        self.trace.is_whole = True
