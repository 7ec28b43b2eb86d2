"""The times of one request: how a wait is divided, the headers and comments, the effect of a worker's false times on counts."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from fastrouter import metrics
from fastrouter.api.serving.timeline import CANCELLED, OK, Timeline
from fastrouter.catalog.catalog import Catalog
from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.errors import InvalidRequest, Unavailable
from fastrouter.ipc.records import Finish
from fastrouter.metrics import ModelCounts
from fastrouter.supervisor.managed_model import LoadTimes, WaitPreview


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    (tmp_path / "a.gguf").write_bytes(b"")
    found = Catalog(Config(models_dir=tmp_path)).get("a")
    assert found is not None
    return found


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModelCounts]:
    fresh: dict[str, ModelCounts] = {}
    monkeypatch.setattr(metrics, "_models", fresh)
    return fresh


@pytest.mark.parametrize(
    ("load", "since", "until", "seconds"),
    [
        (LoadTimes(), 10, 20, 0),  # there was none
        (LoadTimes(12, 15), 10, 20, 3),
        (LoadTimes(5, 15), 10, 20, 5),  # it had started before
        (LoadTimes(12), 10, 20, 8),  # it still loads
        (LoadTimes(12, 25), 10, 20, 8),
        (LoadTimes(2, 5), 10, 20, 0),  # a long time ago
        (LoadTimes(25, 30), 10, 20, 0),
    ],
)
def test_how_much_of_a_wait_was_a_load(load: LoadTimes, since: float, until: float, seconds: float) -> None:
    assert load.seconds_between(since, until) == seconds


def test_a_wait_is_queue_and_load(spec: ModelSpec, counts: dict[str, ModelCounts]) -> None:
    load = LoadTimes(has_evicted=True)
    timeline = Timeline(spec, "chat", lambda _: WaitPreview(load))
    timeline.arrived -= 10
    load.began, load.ended = timeline.arrived + 2, timeline.arrived + 9
    timeline.wait()
    timeline.grant()
    assert timeline.load_s == pytest.approx(7)
    assert 3 <= timeline.queue_s < 4
    load.ended = 0.0  # another load, later: it does not concern this request
    timeline.submit()
    timeline.end(OK, time.monotonic_ns())
    timeline.end(CANCELLED)
    found = counts["a"]
    assert found.requests == {("chat", OK): 1}
    assert (found.switch[True].sum, found.switch[False].sum) == (pytest.approx(10, abs=1), 0)
    assert found.queue.sum == timeline.queue_s


def test_headers_say_what_is_known(spec: ModelSpec, counts: dict[str, ModelCounts]) -> None:
    timeline = Timeline(spec, "chat", lambda _: WaitPreview())
    head = b"X-Model: a\r\nServer-Timing: queue;dur=0.0, load;dur=0.0"
    assert timeline.header() == head + b"\r\n"
    timeline.submit()
    assert timeline.header().startswith(head + b", prefill;dur=")
    submitted, second = timeline.submitted, 1_000_000_000
    first_ns = int((submitted + 1) * second)
    assert timeline.header(first_ns) == head + b", prefill;dur=1000.0\r\n"
    assert timeline.header(first_ns, submitted + 3) == head + b", prefill;dur=1000.0, decode;dur=2000.0\r\n"
    assert timeline.header(0, submitted + 3) == head + b", prefill;dur=3000.0, decode;dur=0.0\r\n"  # an answer without text


@pytest.mark.parametrize(
    ("wait_preview", "said"),
    [
        (WaitPreview(), b"queued"),
        (WaitPreview(position=3), b"queued 3"),
        (WaitPreview(is_loading=True), b"loading"),
        (WaitPreview(is_loading=True, progress=0.437), b"loading 43%"),
        (WaitPreview(is_loading=True, progress=0.43, remaining_s=1.24), b"loading 43% eta 1.2s"),
        (WaitPreview(is_loading=True, remaining_s=61.0), b"loading eta 61.0s"),
    ],
)
def test_comments(spec: ModelSpec, wait_preview: WaitPreview, said: bytes) -> None:
    assert Timeline(spec, "chat", lambda _: wait_preview).comment() == said


def test_outcomes(spec: ModelSpec, counts: dict[str, ModelCounts]) -> None:
    for error in (InvalidRequest("no"), Unavailable("later"), Unavailable("later")):
        Timeline(spec, "chat", lambda _: WaitPreview()).fail(error)
    assert counts["a"].requests == {("chat", "client_error"): 1, ("chat", "server_error"): 2}
    assert sum(counts["a"].ttft.counts) == 0


@pytest.mark.parametrize("lie", [None, "x", -1, True, 1 << 60, 1 << 90, 1.5, [1], {}])
def test_a_worker_that_lies_spoils_no_count(spec: ModelSpec, counts: dict[str, ModelCounts], lie: Any) -> None:
    names = ("prompt_tokens", "cached_tokens", "completion_tokens")
    told = {**dict.fromkeys(names, lie), "timings": lie if lie in (None, "x") else {"prompt_ms": -1.0, "predicted_ms": lie}}
    finish = Finish.from_payload(json.dumps(told).encode())
    timeline = Timeline(spec, "chat", lambda _: WaitPreview())
    timeline.count_tokens(finish, is_new_prompt=True)
    timeline.count_lost(-5)
    found = counts["a"]
    assert (found.prompt_tokens, found.cached_tokens, found.generated_tokens, found.prompt_s) == (0, 0, 0, 0)
    assert found.generated_s in (0, 0.0015)
