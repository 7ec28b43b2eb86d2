"""Threads that compile: which jobs wait for which, which are not started, which do not end. And the deadline of a waiting request."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from engine_bench import Bench, Client, backends  # noqa: F401
from llguidance import LLMatcher
from tiny_models import make_llama

from fastrouter.worker.engine import admission
from fastrouter.worker.sampling.compilers import MAX_SMALL, NUM_THREADS, Compilers
from fastrouter.worker.sampling.grammar import Grammars, Matcher

WAIT_S = 30


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Jobs that wait for the event; they end with the test."""
    made = threading.Event()
    yield made
    made.set()


def held(compilers: Compilers[str], gate: threading.Event, size: int = 1) -> Future[str]:
    """A job that has started and waits."""
    begun = threading.Event()

    def job() -> str:
        begun.set()
        gate.wait(WAIT_S)
        return "held"

    future = compilers.submit(job, size)
    assert begun.wait(WAIT_S)
    return future


def test_small_ones_do_not_wait_behind_large_ones(gate: threading.Event) -> None:
    compilers: Compilers[str] = Compilers()
    large = held(compilers, gate, MAX_SMALL + 1)
    assert compilers.submit(lambda: "small", MAX_SMALL).result(WAIT_S) == "small"
    assert not large.done()
    gate.set()
    assert large.result(WAIT_S) == "held"


def test_what_is_cancelled_is_not_begun_and_what_does_not_end_is_replaced(gate: threading.Event) -> None:
    compilers: Compilers[str] = Compilers()
    for _ in range(NUM_THREADS["small"]):
        held(compilers, gate)
    gone, waiting = compilers.submit(lambda: "gone", 1), compilers.submit(lambda: "waiting", 1)
    assert gone.cancel()
    compilers.replace(1)
    assert waiting.result(WAIT_S) == "waiting"


def test_errors_reach_who_asked() -> None:
    compilers: Compilers[str] = Compilers()
    for error in (ValueError("x"), SystemExit("y")):

        def job(error: BaseException = error) -> str:
            raise error

        assert compilers.submit(job, 1).exception(WAIT_S) is error


# ---------------------------------------------------------------- requests


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(make_llama(tmp_path / "tiny.gguf"), 1 << 16, parallel=2)
    yield one
    one.close()


class Compiled:
    """The jobs that were started; all of them wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gate: threading.Event) -> None:
        self.begun: list[str] = []
        self.num_ended = 0
        self._gate = gate
        compile_one = Grammars._compile

        def slowly(grammars: Grammars, field: str, source: Any) -> Matcher:
            self.begun.append(source(None)[0])
            gate.wait(WAIT_S)
            try:
                return compile_one(grammars, field, source)
            finally:
                self.num_ended += 1

        monkeypatch.setattr(Grammars, "_compile", slowly)

    def end(self) -> None:
        """They use the model."""
        self._gate.set()
        eventually(lambda: self.num_ended == len(self.begun), "the end of all that was begun")


def asked(bench: Bench, text: str) -> Client:
    return bench.submit("the cat", 4, constraint={"kind": "regex", "field": "regex", "text": text})


def test_nothing_is_compiled_for_who_has_left(bench: Bench, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = Compiled(monkeypatch, gate)
    clients = [asked(bench, text) for text in ("a+", "b+", "c+", "c+", "d+")]
    for client in (clients[2], clients[4]):  # another client waits for c+
        bench.engine.abort(client.request_id)
        bench.ring.detach(client.request_id)
    gate.set()
    bench.run(clients[0], clients[1], clients[3])
    assert sorted(compiled.begun) == [LLMatcher.grammar_from_regex(text) for text in ("a+", "b+", "c+")]
    assert clients[3].text().strip("c") == ""
    bench.check_idle()
    compiled.end()


def test_a_deadline(bench: Bench, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grammar that takes too long itself is the client's error; one that only waits for others is not; and others continue."""
    compiled = Compiled(monkeypatch, gate)
    monkeypatch.setattr(Compilers, "replace", lambda *_: None)  # a waiting job must not start by chance
    monkeypatch.setattr(admission, "COMPILE_DEADLINE_S", 0.05)
    clients = [asked(bench, text) for text in ("a+", "b+", "c+")]
    bench.run(*clients)
    found = [client.error for client in clients if client.error is not None]
    assert [error["class"] for error in found] == ["InvalidRequest", "InvalidRequest", "Unavailable"]
    assert "'regex'" in found[0]["message"]
    assert "too long to compile" in found[0]["message"]
    assert bench.ask("the cat", 4).finish["completion_tokens"] == 4
    bench.check_idle()
    compiled.end()
