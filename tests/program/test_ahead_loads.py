"""With real workers, over HTTP: after a restart the next model is in memory before its request comes. And the worker's manners."""

from pathlib import Path

import pytest
from conftest import Router, StartRouter, eventually
from tiny_models import make_llama

from fastrouter.errors import ProtocolError
from fastrouter.ipc.messages import Hurry, Message, Share
from fastrouter.worker.process import courtesy
from fastrouter.worker.process.courtesy import CALM, Courtesy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ahead")
    for index, name in enumerate("ab"):
        make_llama(made / f"{name}.gguf", seed=index)
    return made


def ask(server: Router, model: str) -> None:
    answer = server.post("/completion", {"model": model, "prompt": "the cat", "n_predict": 2})
    assert answer.status == 200, answer


def await_start(server: Router, model: str) -> None:
    """On a busy machine its load goes on only when a request comes."""
    eventually(lambda: server.status(model) in ("loading", "loaded"), f"{model}, before it is asked for")


def test_a_restart_does_not_forget_the_order(router: StartRouter, folder: Path, tmp_path: Path) -> None:
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    first = router("--models-max", "1", models_dir=folder, env=env)
    for _ in range(4):
        for model in "ab":
            ask(first, model)
    assert first.stop() == 0
    second = router("--models-max", "2", models_dir=folder, env=env)
    ask(second, "a")
    await_start(second, "b")  # it usually comes after a
    ask(second, "b")
    metrics = second.get("/metrics").body
    assert b'fastrouter_ahead_loads_total{model="b",outcome="used"} 1.0' in metrics
    assert b'fastrouter_ahead_saved_seconds_total{model="b"} ' in metrics


def test_a_hint_is_loaded_where_there_is_room(router: StartRouter, folder: Path) -> None:
    server = router("--models-max", "2", models_dir=folder)
    ask(server, "a")
    assert server.post("/models/warm", {"model": "b"}).status == 200
    await_start(server, "b")
    ask(server, "b")


# ---------------------------------------------------------------- the worker's manners


class Machine:
    """Its cores are free from check `free_from` on. `messages` come at the wait with that number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free_from: int, messages: dict[int, list[Message]] | None = None) -> None:
        self.num_checks = self.num_waits = self.num_notes = 0
        self._free_from = free_from
        self._messages = messages or {}
        monkeypatch.setattr(courtesy, "is_core_free", self.is_core_free)

    def is_core_free(self) -> bool:
        self.num_checks += 1
        return self.num_checks >= self._free_from

    def wait(self, timeout_ms: int | None) -> list[Message]:
        assert timeout_ms
        self.num_waits += 1
        assert self.num_waits < 1000
        return self._messages.get(self.num_waits, [])

    def note(self) -> None:
        self.num_notes += 1

    def courtesy(self, *, is_on: bool = True) -> Courtesy:
        return Courtesy(self.wait, self.note, is_on=is_on)


def test_it_waits_until_cores_are_free_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, free_from=20)
    polite = machine.courtesy()
    polite()
    assert machine.num_checks == 20 + CALM - 1
    assert machine.num_notes == machine.num_waits, "a worker that waits does not hang"
    assert polite.waited_s > 0
    before = machine.num_waits
    polite()
    assert machine.num_waits == before, "the core is still free"


def test_a_core_that_is_taken_stops_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, free_from=1)
    polite = machine.courtesy()
    polite()
    machine._free_from = machine.num_checks + 50
    polite()
    assert machine.num_waits > 50


def test_it_hurries_for_a_request_and_keeps_other_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, free_from=10_000, messages={3: [Share(2)], 5: [Hurry(), Share(1)]})
    polite = machine.courtesy()
    polite()
    assert machine.num_waits == 5
    polite()
    assert machine.num_waits == 5, "it never waits again"
    assert polite.kept == [Share(2), Share(1)]


def test_a_load_that_requests_wait_for_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, free_from=10_000)
    machine.courtesy(is_on=False)()
    hurried = machine.courtesy()
    hurried.take([Hurry()])
    hurried()
    assert machine.num_waits == 0


@pytest.mark.parametrize("error", [EOFError("gone"), ProtocolError("bad frame")])
def test_the_end_of_the_router_ends_the_wait(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def wait(timeout_ms: int | None) -> list[Message]:
        raise error

    machine = Machine(monkeypatch, free_from=10_000)
    machine.wait = wait  # type: ignore[method-assign]
    machine.courtesy()()
