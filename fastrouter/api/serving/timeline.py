"""The times of one request: the source of Server-Timing, `queue_ms`, `load_ms` and the metrics. Never imports: api.flavours.

Invariant: there is one clock (monotonic). It is read a few times per request and never per token. A request is counted once, at its end.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import quote

from fastrouter import metrics
from fastrouter._core import ItlHistogram
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import FastrouterError
from fastrouter.ipc.records import Finish, Timings
from fastrouter.supervisor.managed_model import LoadTimes, WaitPreview

OK, CLIENT_ERROR, SERVER_ERROR, CANCELLED = "ok", "client_error", "server_error", "cancelled"


@lru_cache(256)
def header_value(model_id: str) -> str:
    """The text itself if it is a valid header value, otherwise percent-encoded."""
    return model_id if model_id.isascii() and model_id.isprintable() else quote(model_id, safe="/: +@")


class Timeline:
    __slots__ = ("_counts", "_is_ended", "_is_waiting", "_load", "_look", "_spec", "arrived", "flavour", "load_s", "queue_s", "submitted")

    def __init__(self, spec: ModelSpec, flavour: str, look: Callable[[ModelSpec], WaitPreview]) -> None:
        """`look` gives the preview for a request that waits for a model."""
        self._spec = spec
        self.flavour = flavour
        self.arrived = time.monotonic()
        self.submitted = 0.0  # when the worker got it
        self.queue_s = 0.0  # waiting for a place
        self.load_s = 0.0  # waiting for its model's load
        self._look = look
        self._counts = metrics.of(spec.id)
        self._load: LoadTimes | None = None  # the load that it waited for
        self._is_waiting = False
        self._is_ended = False

    def __repr__(self) -> str:
        return f"<Timeline {self.flavour} {self._spec.id} queue {self.queue_s:.3f} s load {self.load_s:.3f} s>"

    # ------------------------------------------------------------ the wait

    def wait(self) -> None:
        """The request begins to wait for a lease."""
        self._is_waiting = True

    def grant(self) -> None:
        """The lease is there."""
        self._note_wait()
        self._is_waiting = False

    def _note_wait(self) -> None:
        """Split the time since the request for a lease."""
        if self._is_waiting:
            now, load = time.monotonic(), self._look(self._spec).load
            self.load_s = load.seconds_between(self.arrived, now)
            self.queue_s = max(0.0, now - self.arrived - self.load_s)
            self._load = load if self.load_s else None

    def submit(self) -> None:
        if not self.submitted:
            self.submitted = time.monotonic()

    def comment(self) -> bytes:
        """The text for a client that waits for a lease."""
        wait_preview = self._look(self._spec)
        if not wait_preview.is_loading:
            return b"queued %d" % wait_preview.position if wait_preview.position else b"queued"
        text = b"loading" if wait_preview.progress is None else b"loading %d%%" % int(100 * wait_preview.progress)
        return text if wait_preview.remaining_s is None else text + b" eta %.1fs" % wait_preview.remaining_s

    # ------------------------------------------------------------ what clients see

    def header(self, first_text_ns: int = 0, ended: float = 0.0) -> bytes:
        """X-Model and Server-Timing, as far as they are known. With `ended` the answer is whole and has all four times."""
        self._note_wait()
        timing = f"queue;dur={self.queue_s * 1e3:.1f}, load;dur={self.load_s * 1e3:.1f}"
        if self.submitted:
            first = first_text_ns / 1e9 or ended or time.monotonic()
            timing += f", prefill;dur={max(0.0, first - self.submitted) * 1e3:.1f}"
            if ended:
                timing += f", decode;dur={max(0.0, ended - first) * 1e3:.1f}"
        return f"X-Model: {header_value(self._spec.id)}\r\nServer-Timing: {timing}\r\n".encode()

    def timings_of(self, finish: Finish) -> Timings:
        """The worker's timings, with `queue_ms` and `load_ms`."""
        if not finish.timings:
            return {}
        return {**finish.timings, "queue_ms": round(self.queue_s * 1e3, 3), "load_ms": round(self.load_s * 1e3, 3)}

    # ------------------------------------------------------------ the end

    def fail(self, error: FastrouterError, first_text_ns: int = 0) -> None:
        self.end(CLIENT_ERROR if error.status < 500 else SERVER_ERROR, first_text_ns)

    def end(self, outcome: str, first_text_ns: int = 0) -> None:
        """Count the request. Idempotent."""
        if self._is_ended:
            return
        self._is_ended = True
        self._note_wait()
        self._counts.num_changes += 1
        counts = self._counts
        counts.requests[self.flavour, outcome] += 1
        counts.queue.observe(self.queue_s)
        if first_text_ns:
            first = first_text_ns / 1e9
            counts.ttft.observe(first - self.arrived)
            counts.prefill.observe(max(0.0, first - self.submitted))
            if self._load is not None:
                counts.switch[self._load.has_evicted].observe(first - self.arrived)

    @property
    def itl(self) -> ItlHistogram:
        """For the sinks."""
        return self._counts.itl

    def count_tokens(self, finish: Finish, *, is_new_prompt: bool) -> None:
        """The worker's data about one finished choice."""
        counts, timings = self._counts, finish.timings
        counts.generated_tokens += finish.completion_tokens
        counts.generated_s += timings.get("predicted_ms", 0) / 1e3
        counts.num_decodes += finish.num_decodes
        counts.num_busy_decodes += finish.num_busy_decodes
        counts.drafts += finish.num_guesses
        counts.draft_tokens += int(timings.get("draft_n", 0))
        counts.draft_tokens_accepted += int(timings.get("draft_n_accepted", 0))
        counts.most_tokens = max(counts.most_tokens, finish.prompt_tokens + finish.completion_tokens)
        if is_new_prompt:
            counts.prompt_tokens += finish.prompt_tokens
            counts.cached_tokens += finish.cached_tokens
            counts.prompt_s += timings.get("prompt_ms", 0) / 1e3

    def count_lost(self, num_tokens: int) -> None:
        """Tokens that were generated for an answer that did not finish."""
        if num_tokens > 0:
            self._counts.generated_tokens += num_tokens
