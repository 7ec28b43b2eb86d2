"""A run of real processes is recorded, then simulated: the simulation has the same loads and evictions and nearly the same times.

A load takes a time that its script says, far longer than anything else here; requests come one after the other, or while others run, in an
order that does not depend on how fast the machine is.
"""

import json
import os
import signal
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import FASTROUTER, REPOSITORY, Router, StartRouter, descendants, environment, eventually, is_alive
from tiny_models import make_llama

AGREES = 0.05
BLUR_S = 0.1  # of each wait: a busy machine may take that long from one event to the next
LOADS_S = {"planner": 0.8, "coder": 1.2, "critic": 0.6}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models"
    made.mkdir()
    for model, load_s in LOADS_S.items():
        memory = {"host_bytes": 2 << 20, "device_bytes": 0}
        (made / f"{model}.gguf").write_text(json.dumps({"load_s": load_s, "meta": {"memory": memory}}).ljust(2 << 20))
    return made


def ask(server: Router, model: str, **script: Any) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": json.dumps(script)}]}
    answer = server.post("/v1/chat/completions", body)
    assert answer.status == 200, answer


def simulate(path: Path, *words: str) -> Any:
    command = [*FASTROUTER, "simulate", str(path), "--json", *words]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(path.parent), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


def end(server: Router) -> None:
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0


def work(server: Router) -> None:
    for model in ("planner", "coder", "planner", "critic", "coder", "planner", "planner"):
        ask(server, model)
    busy = threading.Thread(target=ask, args=(server, "planner"), kwargs={"tokens": 20, "delay_s": 0.15})
    busy.start()
    eventually(lambda: server.get("/v1/models/planner").json["usage"]["running"], "a stream")
    ask(server, "critic")  # waits for its turn
    busy.join()
    ask(server, "coder")


@pytest.mark.parametrize(
    "limits",
    [("--models-max", "1"), ("--models-max", "2"), ("--models-max", "0", "--models-memory", "5")],
    ids=lambda limits: " ".join(limits),
)
def test_the_simulation_agrees_with_the_recorded_run(router: StartRouter, tmp_path: Path, folder: Path, limits: tuple[str, ...]) -> None:
    path = tmp_path / "trace"
    server = router("--record", str(path), "--queue-patience", "0.5", *limits, models_dir=folder, is_fake=True)
    work(server)
    end(server)
    found = simulate(path)
    real, [same] = found["recorded"], found["simulated"]
    assert real["loads"] >= 5
    assert real["evictions"] >= 2
    assert sum(real["loads_by_model"].values()) == real["loads"]
    for name in ("loads", "evictions", "departures", "loads_by_model", "refused", "left"):
        assert same[name] == real[name], name
    assert same["reload_s"] == pytest.approx(real["reload_s"], rel=AGREES)
    assert same["total_wait_s"] == pytest.approx(real["total_wait_s"], rel=AGREES, abs=BLUR_S * found["num_requests"])
    assert real["reload_s"] >= sum(count * LOADS_S[model] for model, count in real["loads_by_model"].items())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    more = simulate(path, "--models-max", "3", "--models-memory", "7")
    assert [one["loads"] for one in more["simulated"]] == [real["loads"], 3]
    assert more["best"] == {"models_max": 3, "memory_mib": 7}


def test_a_router_that_was_killed_leaves_a_trace(router: StartRouter, tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "trace"
    server = router("--record", str(path), "--models-max", "1", models_dir=folder, is_fake=True)
    for model in ("planner", "critic", "planner"):
        ask(server, model)
    eventually(lambda: path.read_text().count('"end"') == 3, "the last line")
    workers = descendants(server.process.pid)
    server.process.kill()
    server.exits_with = -signal.SIGKILL
    server.process.wait(60)
    eventually(lambda: not any(map(is_alive, workers)), "the end of the workers")
    os.truncate(path, path.stat().st_size - 10)
    found = simulate(path, "--models-max", "2")
    assert (found["is_whole"], found["recorded"]["loads"]) == (False, 3)
    assert [one["loads"] for one in found["simulated"]] == [3, 2]


def test_a_full_disk_does_not_stop_the_router(router: StartRouter, folder: Path) -> None:
    server = router("--record", "/dev/full", models_dir=folder, is_fake=True)
    ask(server, "critic")
    line = "--record /dev/full: No space left on device. The recording ends here; the router goes on"
    eventually(lambda: line in server.log, "the warning")
    ask(server, "critic")
    assert server.log.count("--record") == 1


def test_a_wrong_place_is_an_error(tmp_path: Path) -> None:
    command = [*FASTROUTER, "--port", "0", "--record", str(tmp_path)]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"fastrouter: --record {tmp_path}: Is a directory\n")


def test_real_models_are_recorded_too(router: StartRouter, tmp_path: Path) -> None:
    """With tokens, and without a word of what was asked or answered."""
    for seed, name in enumerate(("one", "two")):
        make_llama(tmp_path / f"{name}.gguf", seed=seed)
    path = tmp_path / "trace"
    server = router("--record", str(path), "--models-max", "1", "--api-key", "password", models_dir=tmp_path)
    for model in ("one", "two", "one"):
        body = {"model": model, "prompt": "the cat sat", "max_tokens": 6, "temperature": 0}
        assert server.request("POST", "/v1/completions", body, {"Authorization": "Bearer password"}).status == 200
    end(server)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    ends = [line for line in lines if line["event"] == "end"]
    assert all(line["outcome"] == "done" and line["tokens"] >= 1 and line["max_tokens"] == 6 for line in ends)
    assert all(line["prompt_tokens"] > 0 and line["first_s"] >= line["wait_s"] for line in ends)
    assert not any(word in path.read_text() for word in ("password", "the cat", "sat"))
    found = simulate(path)
    assert found["recorded"]["loads"] == found["simulated"][0]["loads"] == 3
