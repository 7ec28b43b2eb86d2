"""Writes a trace of what was asked of models and what happened to them, one JSON line for each event: `fastrouter simulate` reads it.

It holds names of models, times and sizes; no text, no key, no address. A client is a number. Never imports: supervisor.decide.
Invariant: a line is written by a thread and never delays the router; after the first line that cannot be written there is no other one.
"""

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from fastrouter import __version__
from fastrouter._core import Sink
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import ConfigError, FastrouterError
from fastrouter.ipc.messages import Generate
from fastrouter.supervisor.changes import Changes, Departure, EndedLoad
from fastrouter.supervisor.events import Event
from fastrouter.supervisor.lease import Lease
from fastrouter.system.line_sink import LineSink

log = logging.getLogger("fastrouter.supervisor")

FORMAT, VERSION = "fastrouter trace", 1
MAX_FILE_BYTES = 1 << 30
MAX_CLIENTS = 1 << 16  # with a number of their own
FLUSH_S = 5.0  # at the end, for a slow disk


@dataclass(frozen=True, slots=True)
class Facts:
    """What the supervisor knows about a model now."""

    host_bytes: int
    device_bytes: int
    expected_load_s: float


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides who is in memory. 0 or None: no limit."""

    models_max: int
    host_bytes: int | None
    device_bytes: int | None
    queue_patience_s: float
    queue_timeout_s: float


class TraceFile:
    """A later run is added to the runs that are in the file."""

    def __init__(self, path: str) -> None:
        """Raises OSError. Non-blocking: a FIFO without a reader is an error."""
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        self._num_bytes = os.fstat(self._fd).st_size
        self._is_over = False
        if self._num_bytes:
            self.write(b"\n")  # the last line of the run before may be cut

    def write(self, data: bytes) -> None:
        """Raises OSError once, and then does nothing."""
        if self._is_over:
            return
        try:
            self._write(data)
        except OSError:
            self._is_over = True
            raise

    def _write(self, data: bytes) -> None:
        if self._num_bytes + len(data) > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"it has {MAX_FILE_BYTES >> 20} MiB")
        while data:
            num_written = os.write(self._fd, data)
            self._num_bytes += num_written
            data = data[num_written:]

    def close(self) -> None:
        """Nothing may be written afterwards."""
        os.close(self._fd)


def open_trace(path: str, began: str = "") -> "TraceWriter":
    """`began`: when the router was started, in words. Raises ConfigError."""
    try:
        return TraceWriter(TraceFile(path), path, began)
    except OSError as error:
        raise ConfigError(f"--record {path}: {error.strerror or error}") from None


class TraceWriter:
    def __init__(self, file: TraceFile, path: str = "", began: str = "") -> None:
        self.path = path
        self._file = file
        self._sink = LineSink(file, self._fail, self._note_lost)
        self._is_over = False
        self._now: Callable[[], float] = lambda: 0.0
        self._began, self._began_text = 0.0, began
        self._num_requests = 0
        self._clients: dict[str, int] = {}
        self._specs: dict[str, ModelSpec] = {}  # as they were written last
        self._changes = Changes()
        self._facts_of: Callable[[ModelSpec], Facts] = lambda spec: Facts(0, 0, 0.0)
        self._settings: Callable[[], Settings] = lambda: Settings(0, None, None, 0.0, 0.0)

    def __repr__(self) -> str:
        return f"<TraceWriter {self.path}: {self._num_requests} requests>"

    # ------------------------------------------------------------ the file

    def _fail(self, error: OSError) -> None:
        """In the thread of the sink."""
        self._is_over = True
        log.warning("--record %s: %s. The recording ends here; the router goes on", self.path, error.strerror or error)

    def _note_lost(self, num_lines: int) -> None:
        if not self._is_over:
            log.warning("--record %s: the disk is too slow, %d lines of the trace are lost", self.path, num_lines)

    def _write(self, event: str, **fields: Any) -> None:
        if not self._is_over:
            line = {"t": round(self._now() - self._began, 6), "event": event, **fields}
            self._sink.write(orjson.dumps(line).decode() + "\n")

    def close(self) -> None:
        """Blocks until the lines are on their way to the disk, for a limited time. Idempotent."""
        if not self._is_over:
            self._write("stop")
            self._is_over = True
            if self._sink.finish(FLUSH_S):  # otherwise its thread still writes
                self._file.close()

    # ------------------------------------------------------------ what the supervisor reports

    def begin(self, now: Callable[[], float], settings: Callable[[], Settings], facts_of: Callable[[ModelSpec], Facts]) -> None:
        """The supervisor starts."""
        self._now, self._settings, self._facts_of = now, settings, facts_of
        self._began = now()
        about = {"format": FORMAT, "version": VERSION, "program": __version__, "began": self._began_text}
        self._write("trace", **about, **asdict(settings()))
        log.info("times and sizes of requests and loads are recorded in %s", self.path, extra={"event": "record"})

    def _number_of(self, client: str) -> int:
        """The number of a client; 0: there are too many."""
        if client not in self._clients and len(self._clients) < MAX_CLIENTS:
            self._clients[client] = len(self._clients) + 1
        return self._clients.get(client, 0)

    def ask(self, what: str, spec: ModelSpec) -> None:
        """A user or a flag wants something done: load, unload, pin, unpin."""
        self._describe(spec.runner)
        self._write("ask", do=what, model=spec.runner.id)

    def request(self, spec: ModelSpec, client: str | None, priority: int, *, is_autoload: bool) -> "RequestTrace":
        """A request has arrived. `client` None: its models are not a turn."""
        self._describe(spec.runner)
        self._num_requests += 1
        number = self._num_requests
        fields = {"client": None if client is None else self._number_of(client), "priority": priority, "autoload": is_autoload}
        self._write("request", id=number, model=spec.runner.id, **fields)
        return RequestTrace(self, number, self._now)

    def end_request(self, number: int, **fields: Any) -> None:
        self._write("end", id=number, **fields)

    def _describe(self, spec: ModelSpec) -> None:
        """A model, before the first line that names it, and when its settings have changed."""
        known = self._specs.get(spec.id)
        if known is spec or self._is_over:
            return
        self._specs[spec.id] = spec  # after a reload, equal ones are new objects
        if known == spec:
            return
        rules = {name: getattr(spec, name) for name in ("ttl_s", "sleep_idle_s", "min_resident_s", "load_timeout_s", "stop_timeout_s")}
        facts = asdict(self._facts_of(spec))
        self._write("model", model=spec.id, size_bytes=spec.size_bytes, **facts, pinned=spec.is_pinned, **rules)

    def on_event(self, event: Event) -> None:
        """For Events."""
        change, now = self._changes.take(event, self._now()), self._now()
        if isinstance(change, EndedLoad):
            self._note_load(change, now)
        elif isinstance(change, Departure):
            self._write("leave", model=change.model_id, reason=change.reason)

    def _note_load(self, load: EndedLoad, now: float) -> None:
        spec, settings = self._specs.get(load.model_id), self._settings()
        facts = self._facts_of(spec) if spec is not None else Facts(0, 0, 0.0)
        limits = {"host_limit_bytes": settings.host_bytes, "device_limit_bytes": settings.device_bytes}
        took = {"outcome": load.outcome, "took_s": round(now - load.began, 6), "usual_s": round(facts.expected_load_s, 6)}
        sizes = {"host_bytes": facts.host_bytes, "device_bytes": facts.device_bytes}
        self._write("load", model=load.model_id, **took, **sizes, **limits)

    def gone(self, model_id: str, took_s: float) -> None:
        """The process of a model that has left has ended."""
        self._write("gone", model=model_id, took_s=round(took_s, 6))


class RequestTrace:
    """One request from its arrival to its end. It watches its lease."""

    def __init__(self, writer: TraceWriter, number: int, now: Callable[[], float]) -> None:
        self._writer = writer
        self._number = number
        self._now = now
        self._arrived = now()
        self._granted = 0.0
        self._sinks: list[Sink] = []
        self._sizes: dict[str, Any] = {}

    def grant(self, lease: Lease) -> None:
        self._granted = self._now()
        lease.watcher = self

    def refuse(self, error: FastrouterError) -> None:
        self._end("refused", error=type(error).__name__)

    def leave(self) -> None:
        """The client has left while it waited."""
        self._end("left")

    def _end(self, outcome: str, **fields: Any) -> None:
        waited_until = self._granted or self._now()
        self._writer.end_request(self._number, outcome=outcome, wait_s=round(waited_until - self._arrived, 6), **fields)

    # ------------------------------------------------------------ what its lease reports

    def submitted(self, generate: Generate, sink: Sink) -> None:
        if sink not in self._sinks:  # a request of several prompts has the same sink for all
            self._sinks.append(sink)
        if generate.max_tokens >= 0:
            self._sizes["max_tokens"] = generate.max_tokens

    def counted(self, prompt_tokens: int, cached_tokens: int) -> None:
        """The worker has counted the tokens of a prompt."""
        self._sizes["prompt_tokens"] = self._sizes.get("prompt_tokens", 0) + prompt_tokens
        self._sizes["cached_tokens"] = self._sizes.get("cached_tokens", 0) + cached_tokens

    def kept_alive(self, seconds: float) -> None:
        self._sizes["keep_alive_s"] = seconds if seconds != float("inf") else -1.0

    def released(self) -> None:
        first_ns = min((sink.first_text_ns for sink in self._sinks if sink.first_text_ns), default=0)
        if first_ns:
            self._sizes["first_s"] = round(max(0.0, first_ns / 1e9 - self._arrived), 6)
        num_tokens = {"tokens": sum(sink.num_tokens for sink in self._sinks)} if self._sinks else {}
        self._end("done", run_s=round(self._now() - self._granted, 6), **num_tokens, **self._sizes)
        self._sinks.clear()
