"""`/models/sse?usage=1`: what the models in memory are doing, once a second, and their latest changes."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer, Router, StartRouter

from fastrouter.api.models.usage import PERIOD_S, UsageReporter
from fastrouter.supervisor.decide.planner import Limits
from fastrouter.supervisor.events import Events
from fastrouter.supervisor.managed_model import UNLOADED

SCRIPTS: dict[str, dict[str, Any]] = {
    "one": {"meta": {"total_slots": 4, "memory": {"host_bytes": 5 << 20, "device_bytes": 0}}},
    "two": {},
    "secret": {},
    "broken": {"fail": "no such quantisation"},
}


@pytest.fixture
def server(router: StartRouter, tmp_path: Path) -> Router:
    folder = tmp_path / "scripts"
    folder.mkdir()
    for name, script in SCRIPTS.items():
        (folder / f"{name}.gguf").write_text(json.dumps(script))
    keys = tmp_path / "keys"
    keys.write_text("admin\nlimited models=one,two\n")
    return router("--models-max", "2", "--models-memory", "64", "--api-key-file", str(keys), models_dir=folder, is_fake=True)


def ask(server: Router, path: str, body: Any) -> Answer:
    return server.post(path, body, {"Authorization": "Bearer admin"})


def watch(server: Router, key: str = "admin", query: str = "?usage=1") -> Iterator[dict[str, Any]]:
    """Events that concern all models."""
    connection, response = server.open("GET", f"/models/sse{query}", headers={"Authorization": f"Bearer {key}"})
    waiting = b""
    try:
        while data := response.read1(1 << 16):
            *blocks, waiting = (waiting + data).split(b"\n\n")
            for block in blocks:
                event = json.loads(block[6:]) if block.startswith(b"data: ") else {}
                if event.get("model") == "*":
                    yield event
    finally:
        response.close()
        connection.close()


def load(server: Router, model: str) -> None:
    assert ask(server, "/models/load", {"model": model}).status == 200
    for event in watch(server):
        if event["event"] == "usage" and {"model": model, "status": "loaded"}.items() <= _model(event, model).items():
            return


def _model(event: dict[str, Any], model: str) -> dict[str, Any]:
    return next((found for found in event["data"]["models"] if found["model"] == model), {})


def test_nothing_unless_asked_for(server: Router) -> None:
    load(server, "one")
    connection, response = server.open("GET", "/models/sse", headers={"Authorization": "Bearer admin"})
    time.sleep(1.5 * PERIOD_S)
    said = response.read1(1 << 16)
    response.close()
    connection.close()
    assert b"model_status" in said
    assert b'"usage"' not in said
    assert b'"history"' not in said


def test_what_a_model_is_doing(server: Router) -> None:
    load(server, "one")
    body = {"model": "one", "prompt": json.dumps({"tokens": 100, "delay_s": 0.02, "wait_s": 0.0})}
    threads = [threading.Thread(target=ask, args=(server, "/v1/completions", body)) for _ in range(2)]
    for thread in threads:
        thread.start()
    busy: dict[str, Any] = {}
    for event in watch(server):
        if event["event"] != "usage":
            continue
        busy = _model(event, "one")
        if busy["tokens_per_s"] > 20:
            break
    assert (busy["running"], busy["waiting"], busy["num_slots"], busy["slots_used"]) == (2, 0, 4, 2)
    assert busy["tokens_per_s"] < 120
    assert busy["host_bytes"] == 5 << 20
    assert 0 < busy["resident_bytes"] < 1 << 30
    assert (busy["idle_s"], busy["expires_in_s"], busy["pinned"]) == (None, None, False)
    assert event["data"]["limits"] == {"models_max": 2, "host_bytes": 64 << 20, "device_bytes": None, "devices": {}}
    assert event["data"]["used"] == {"host_bytes": 5 << 20, "device_bytes": 0}
    assert event["data"]["machine"]["total_bytes"] > event["data"]["machine"]["available_bytes"] > 0
    assert abs(event["data"]["time"] - time.time()) < 5
    for thread in threads:
        thread.join()
    for event in watch(server):
        idle = _model(event, "one") if event["event"] == "usage" else {"running": 1}
        if not idle["running"] and not idle["tokens_per_s"]:
            break
    assert idle["slots_used"] == 0
    assert idle["idle_s"] is not None


def test_what_has_happened_before_one_looked(server: Router) -> None:
    for model in ("one", "two", "secret"):
        load(server, model)
    ask(server, "/models/load", {"model": "broken"})
    past: list[dict[str, Any]] = []
    while not any(one.get("failed") for one in past):
        past = next(watch(server))["data"]["events"]
    lines = [(one["model"], one["status"], one.get("reason")) for one in past if not one.get("failed")]
    assert lines[:6] == [
        ("one", "loading", None),
        ("one", "loaded", None),
        ("two", "loading", None),
        ("two", "loaded", None),
        ("one", "unloaded", "count"),
        ("secret", "loading", None),
    ]
    [failed] = [one for one in past if one.get("failed")]
    assert (failed["model"], failed["status"], failed["error"]) == ("broken", "unloaded", "no such quantisation")
    assert [one["time"] for one in past] == sorted(one["time"] for one in past)


def test_a_key_sees_only_its_models(server: Router) -> None:
    for model in ("one", "secret"):
        load(server, model)
    events = watch(server, "limited")
    history, usage = next(events), next(events)
    assert {one["model"] for one in history["data"]["events"]} == {"one"}
    assert [one["model"] for one in usage["data"]["models"]] == ["one"]
    assert usage["data"]["used"]["host_bytes"] > 5 << 20  # memory of other programs counts as used


def test_who_sleeps_is_there(router: StartRouter, models: Path) -> None:
    server = router("--sleep-idle-seconds", "1", models_dir=models)
    assert server.post("/models/load", {"model": "tiny0"}).status == 200
    for event in watch(server):
        found = _model(event, "tiny0") if event["event"] == "usage" else {}
        if found.get("state") == "sleeping":  # its worker has ended
            break
    assert (found["status"], found["host_bytes"], found["resident_bytes"], found["num_slots"]) == ("sleeping", 0, 0, 0)


# ---------------------------------------------------------------- without a router


class Nobody:
    """A supervisor without models that counts reads."""

    def __init__(self) -> None:
        self.num_looks = 0
        self.subscribe = Events().subscribe
        self.instances = list
        self.sleeping = list
        self.num_waiting = dict
        self.status = lambda model_id: UNLOADED

    def limits(self) -> Limits:
        self.num_looks += 1
        return Limits(4, None, None, 1.0)


def test_no_worker_is_read_without_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastrouter.api.models.usage.PERIOD_S", 0.01)
    supervisor = Nobody()

    async def run() -> None:
        usage = UsageReporter(supervisor, lambda model_id: [])  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        assert supervisor.num_looks == 0
        heard: list[dict[str, Any]] = []
        leave, leave_too = usage.listen(heard.append), usage.listen(lambda usage: None)
        while len(heard) < 3:
            await asyncio.sleep(0.005)
        leave()
        leave()
        leave_too()
        looks, num_heard = supervisor.num_looks, len(heard)
        await asyncio.sleep(0.05)
        assert (supervisor.num_looks, len(heard)) == (looks, num_heard)
        assert repr(usage) == "<UsageReporter 0 listeners, 0 past>"

    asyncio.run(run())


def test_the_past_is_bounded_and_without_progress() -> None:
    feed = Events()
    supervisor = Nobody()
    supervisor.subscribe = feed.subscribe

    async def run() -> None:
        usage = UsageReporter(supervisor, lambda model_id: [])  # type: ignore[arg-type]
        for number in range(500):
            feed.loading(f"m{number}", 0.0)
            feed.loading(f"m{number}", 0.5)
            feed.tell("x", "download_progress", {})
        assert len(usage.past) == 400
        assert usage.past[-1] == {"time": usage.past[-1]["time"], "model": "m499", "status": "loading"}

    asyncio.run(run())
