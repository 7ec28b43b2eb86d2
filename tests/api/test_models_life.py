"""When models are loaded and unloaded, over HTTP with a real router and real models: limits, idle times, waiting requests, plans."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter, descendants, eventually, has_mapped
from tiny_models import make_llama

from fastrouter.system.machine import anonymous_bytes

CHAT = "/v1/chat/completions"


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "the red cat"}], "max_tokens": 4, "temperature": 0, **more}


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that can generate for half a minute."""
    folder = tmp_path_factory.mktemp("endless")
    for seed in range(4):
        make_llama(folder / f"tiny{seed}.gguf", seed=seed, n_ctx=1 << 17)
    return folder


def usage(server: Router, model: str) -> dict[str, Any]:
    found: dict[str, Any] = server.get(f"/v1/models/{model}").json["usage"]
    return found


def is_gone(server: Router, model: str) -> bool:
    """No process has its file in memory any more."""
    return not [pid for pid in descendants(server.process.pid) if has_mapped(pid, server.models / f"{model}.gguf")]


def test_memory_limit(router: StartRouter, models: Path) -> None:
    server = router("--models-memory", "80", "-c", "512", models_dir=models)
    for model in ("tiny0", "tiny1"):
        assert server.post(CHAT, chat(model)).status == 200
        time.sleep(0.3)
    need = usage(server, "tiny0")["memory_bytes"]
    assert 16 << 20 < need < 60 << 20
    preview = server.post("/models/plan", {"model": "tiny2"}).json
    assert (preview["action"], preview["fits"]) == ("evict", True)
    assert [victim["model"] for victim in preview["evict"]] == ["tiny0"]
    assert server.status("tiny0") == "loaded", "asking has no effect"
    assert server.post(CHAT, chat("tiny2")).status == 200
    assert [server.status(f"tiny{i}") for i in range(3)] == ["unloaded", "loaded", "loaded"]
    refused = router("--models-memory", "20", "-c", "512", models_dir=models).post(CHAT, chat("tiny0"))
    assert (refused.status, refused.error["type"]) == (400, "exceed_memory_error")
    assert "and 20.0 MiB is the limit" in refused.error["message"]
    assert refused.error["limit_bytes"] == 20 << 20 < refused.error["needed_bytes"]


def test_what_was_measured_outlives_the_router(router: StartRouter, models: Path, tmp_path: Path) -> None:
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    first = router("-c", "512", models_dir=models, env=cache)
    assert first.post("/models/plan", {"model": "tiny0"}).json["need"]["is_measured"] is False
    first.load("tiny0")
    first.stop()
    second = router("-c", "512", models_dir=models, env=cache)
    preview = second.post("/models/plan", {"model": "tiny0"}).json
    assert preview["need"]["is_measured"] is True
    assert 0 < preview["load_s"] < 60
    other = router("-c", "1024", models_dir=models, env=cache)
    assert other.post("/models/plan", {"model": "tiny0"}).json["need"]["is_measured"] is False, "other options, another need"


def test_ttl_returns_the_memory(router: StartRouter, models: Path) -> None:
    server = router("--ttl", "0.3", models_dir=models)
    assert server.post(CHAT, chat("tiny0")).status == 200
    assert 0 < usage(server, "tiny0")["expires_in_s"] <= 0.3
    server.await_status("tiny0", "unloaded")
    eventually(lambda: is_gone(server, "tiny0"), "its process is gone")
    assert server.post(CHAT, chat("tiny0", keep_alive=-1)).status == 200
    time.sleep(0.6)
    assert server.status("tiny0") == "loaded"
    assert server.post(CHAT, chat("tiny0", keep_alive="0s")).status == 200
    server.await_status("tiny0", "unloaded")
    assert server.post(CHAT, chat("tiny0", ttl=3600)).status == 200
    assert 3500 < usage(server, "tiny0")["expires_in_s"] <= 3600


def test_an_idle_machine_gets_all_of_it_back(router: StartRouter, tmp_path: Path, smollm2: Path) -> None:
    """No memory is held by the model's worker, nor by the spare, which prepares memory for models that were evicted."""
    (tmp_path / "smol.gguf").symlink_to(smollm2)
    server = router("--ttl", "1", "-c", "8192", models_dir=tmp_path)

    def anonymous() -> int:
        return sum(anonymous_bytes(pid) for pid in descendants(server.process.pid)) >> 20

    assert server.post(CHAT, chat("smol")).status == 200
    held = anonymous()
    assert held > 200
    server.await_status("smol", "unloaded")
    eventually(lambda: not [pid for pid in descendants(server.process.pid) if has_mapped(pid, smollm2)], "nobody has its file")
    eventually(lambda: anonymous() < held - 150, f"its {held} MiB are free")
    time.sleep(1.0)
    assert anonymous() < held - 150, "and stay so"


@pytest.mark.parametrize("field", [{"keep_alive": "soon"}, {"keep_alive": [5]}, {"ttl": True}, {"keep_alive": "5x"}, {"priority": "high"}])
def test_fields_of_time_are_checked(module_server: Router, field: dict[str, Any]) -> None:
    refused = module_server.post(CHAT, chat("tiny0", **field))
    assert refused.status == 400
    assert f"field '{next(iter(field))}'" in refused.error["message"]


@pytest.fixture(scope="module")
def module_server(module_router: StartRouter, models: Path) -> Router:
    return module_router("--models-max", "1", models_dir=models)


def test_sleep_and_wake(router: StartRouter, models: Path) -> None:
    server = router("--sleep-idle-seconds", "1", "--no-models-autoload", models_dir=models)
    server.load("tiny0")
    with server.stream("/models/sse") as stream:
        events = iter(stream)
        said = next(e for e in events if e["model"] == "tiny0" and e["data"]["status"] == "sleeping")
    assert said["event"] in ("model_status", "status_change")
    assert server.status("tiny0") == "sleeping"
    eventually(lambda: is_gone(server, "tiny0"), "its memory is free")
    for path in ("/health", "/v1/models", "/v1/models/tiny0", "/props"):
        server.get(path)
    assert server.status("tiny0") == "sleeping", "looking does not wake"
    assert server.post(CHAT, chat("tiny0")).status == 200
    assert server.status("tiny0") == "loaded"
    assert server.post(CHAT, chat("tiny1")).error["message"] == "model is not loaded"


def test_queue_timeout(router: StartRouter, endless: Path) -> None:
    server = router("--models-max", "1", "--queue-timeout", "0.3", "--queue-patience", "100", models_dir=endless)
    with server.stream(CHAT, chat("tiny0", stream=True, max_tokens=100000)) as stream:
        next(iter(stream))
        refused = server.post(CHAT, chat("tiny1"))
        assert (refused.status, refused.error["type"], refused.headers["retry-after"]) == (503, "unavailable_error", "1")
        assert "waited 0.3 s" in refused.error["message"]
        assert server.post(CHAT, chat("tiny0")).status == 200, "what is there is served"


def test_priority_decides_who_comes_first(router: StartRouter, endless: Path) -> None:
    server = router("--models-max", "1", "--queue-patience", "100", models_dir=endless)
    done: list[str] = []

    def ask(model: str, priority: int) -> None:
        assert server.post(CHAT, chat(model, priority=priority)).status == 200
        done.append(model)

    threads = []
    with server.stream(CHAT, chat("tiny0", stream=True, max_tokens=100000)) as stream:
        next(iter(stream))
        for number, (model, priority) in enumerate((("tiny1", 0), ("tiny2", 5), ("tiny3", -5)), 1):
            threads.append(threading.Thread(target=ask, args=(model, priority)))
            threads[-1].start()
            eventually(lambda number=number: sum(usage(server, f"tiny{i}")["waiting"] for i in range(4)) == number, "queued")
    for thread in threads:
        thread.join(60)
    assert done == ["tiny2", "tiny1", "tiny3"]


def test_a_client_says_which_model_comes_next(router: StartRouter, models: Path) -> None:
    server = router("--models-max", "1", models_dir=models)
    assert server.post("/models/warm", {"model": "tiny1"}).json == {"success": True}
    assert server.post("/models/warm", {"model": "nobody"}).status == 404
    body = {"model": "tiny0", "prompt": "we all", "max_tokens": 1}
    assert server.post("/v1/completions", {**body, "next_model": "tiny1"}).status == 200
    unknown = server.post("/v1/completions", {**body, "next_model": "tiny11"})
    assert (unknown.status, unknown.json["error"]["code"]) == (404, "model_not_found")
    assert server.post("/v1/completions", {**body, "next_model": 5}).status == 400
    for _ in range(3):
        for name in ("tiny0", "tiny1"):
            assert server.post("/v1/completions", {**body, "model": name}).status == 200
    assert 'fastrouter_foreseen_turns_total{model="tiny1",outcome="right"} 1' in server.get("/metrics").body.decode()


def test_pin(router: StartRouter, models: Path, tmp_path: Path) -> None:
    presets = tmp_path / "presets.ini"
    presets.write_text("[tiny0]\npin = true\nload-on-startup = 1\n")
    server = router("--models-max", "2", "--models-preset", str(presets), models_dir=models)
    server.await_status("tiny0", "loaded")
    for model in ("tiny1", "tiny2", "tiny1"):
        assert server.post(CHAT, chat(model)).status == 200
    assert server.status("tiny0") == "loaded"
    assert server.post("/models/pin", {"model": "tiny1"}).json == {"success": True}
    refused = server.post(CHAT, chat("tiny2"))
    assert (refused.status, refused.error["type"]) == (400, "exceed_memory_error")
    assert "all 2 places are taken by pinned models" in refused.error["message"]
    assert server.post("/models/plan", {"model": "tiny2"}).json["action"] == "refuse"
    assert server.post("/models/pin", {"model": "tiny0", "pin": False}).json == {"success": True}
    assert server.post(CHAT, chat("tiny2")).status == 200
    assert server.status("tiny0") == "unloaded"
    assert server.post("/models/pin", {"model": "nobody"}).status == 404
    assert server.post("/models/pin", {"model": "tiny0", "pin": "yes"}).status == 400


def test_a_reload_brings_new_times_to_what_runs(router: StartRouter, models: Path, tmp_path: Path) -> None:
    presets = tmp_path / "presets.ini"
    presets.write_text("[tiny0]\npin = true\n[tiny1]\nttl = 1000\n")
    server = router("--models-preset", str(presets), models_dir=models)
    server.load("tiny0", "tiny1")
    pid = server.worker_of("tiny0")
    presets.write_text("[tiny0]\n[tiny1]\nttl = 0.2\n")
    assert server.get("/v1/models?reload=1").status == 200
    server.await_status("tiny1", "unloaded")
    assert not usage(server, "tiny0")["pinned"]
    assert server.worker_of("tiny0") == pid, "nothing that its process knows has changed"


def test_storm(module_server: Router) -> None:
    """Agents that take turns on three models with room for one."""
    failures: list[Any] = []

    def client(number: int) -> None:
        for step in range(12):
            answer = module_server.post(CHAT, chat(f"tiny{(number + step) % 3}"))
            if answer.status != 200:
                failures.append(answer)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not failures
    assert module_server.log.count("loaded in") < 24 * 12 / 3, "most requests found their model there"
