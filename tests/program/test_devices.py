"""A real router whose devices are RPC workers: who is where, who leaves when a device is full, and what follows when a device is lost."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import FASTROUTER, Router, StartRouter, descendants, environment, eventually, has_mapped, text_of
from rpc_workers import RpcWorker, free_port, rpc_worker
from tiny_models import make_llama

from fastrouter.system.confinement import landlock_version

MIB = 1 << 20
LONG = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 60, "ignore_eos": True, "cache_prompt": False}


@pytest.fixture
def worker() -> Iterator[RpcWorker]:
    with rpc_worker() as found:
        yield found


@pytest.fixture
def second() -> Iterator[RpcWorker]:
    with rpc_worker() as found:
        yield found


def preset_of(folder: Path, models: dict[str, dict[str, Any]]) -> Path:
    """Each model has its own file, which is its name."""
    lines = []
    for name, keys in models.items():
        path = folder / f"{name}.gguf"
        if not path.exists():
            make_llama(path)
        lines += [f"[{name}]", f"model = {path}", "ctx-size = 512", *(f"{key} = {value}" for key, value in keys.items())]
    preset = folder / "models.ini"
    preset.write_text("\n".join(lines) + "\n")
    return preset


def plan(server: Router, model: str) -> dict[str, Any]:
    found: dict[str, Any] = server.post("/models/plan", {"model": model}).json
    return found


def log_of(server: Router, model: str) -> str:
    return server.get(f"/models/logs?model={model}").body.decode()


# ---------------------------------------------------------------- memory of devices


def test_two_models_share_a_device(router: StartRouter, tmp_path: Path, worker: RpcWorker) -> None:
    server = router("--models-preset", str(preset_of(tmp_path, {"a": {"rpc": worker.endpoint}, "b": {"rpc": worker.endpoint}})))
    for model in ("a", "b", "a"):
        assert server.post("/v1/completions", {"model": model, "prompt": "the", "max_tokens": 8}).status == 200
    assert {server.status("a"), server.status("b")} == {"loaded"}
    usage = server.get("/v1/models/a").json["usage"]
    assert list(usage["devices"]) == [worker.key]
    assert usage["device_memory_bytes"] == usage["devices"][worker.key] > 0
    found = plan(server, "b")
    assert found["need"]["is_measured"]
    assert found["used"]["devices"][worker.key] == 2 * usage["devices"][worker.key]
    assert found["limits"]["devices"][worker.key] > 0, "all that its machine has"
    said = f"no access to other {'files and network' if landlock_version() else 'network'}"
    eventually(lambda: said in log_of(server, "a"), f'"{said}": it is confined, and its connections stay open')


def test_a_full_device_evicts_only_models_that_use_it(router: StartRouter, tmp_path: Path, worker: RpcWorker, second: RpcWorker) -> None:
    """In this order, so that the least recently used model is the one on the other device."""
    places = {"b": second, "a": worker, "c": worker}
    preset = preset_of(tmp_path, {name: {"rpc": place.endpoint} for name, place in places.items()})
    cache = {"XDG_CACHE_HOME": str(tmp_path)}  # so that both know the measured sizes
    server = router("--models-preset", str(preset), env=cache)
    server.load("a", "b", "c")
    size = plan(server, "a")["need"]["devices"][worker.key]
    server.stop()
    limits = ",".join(f"{place.key}={int(1.9 * size / MIB)}" for place in (worker, second))
    server = router("--models-preset", str(preset), "--models-memory-device", limits, env=cache)
    server.load("b", "a")
    asked = plan(server, "c")
    assert [one["model"] for one in asked["evict"]] == ["a"]
    assert asked["evict"][0]["reason"] == "memory"
    server.load("c")
    server.await_status("a", "unloaded")
    assert server.status("b") == "loaded"
    server.load("a")
    server.await_status("c", "unloaded")
    assert server.status("b") == "loaded"


def test_a_model_that_no_device_has_room_for(router: StartRouter, tmp_path: Path, worker: RpcWorker) -> None:
    preset = preset_of(tmp_path, {"a": {"rpc": worker.endpoint}, "host": {"rpc": worker.endpoint, "device": "none"}})
    server = router("--models-preset", str(preset), "--models-memory-device", f"{worker.key}=1")
    error = server.post("/v1/completions", {"model": "a", "prompt": "the", "max_tokens": 1}).error
    assert error["type"] == "exceed_memory_error"
    assert f"of memory of {worker.key}, and 1.0 MiB is the limit" in error["message"]
    assert server.post("/v1/completions", {"model": "host", "prompt": "the", "max_tokens": 1}).status == 200
    assert plan(server, "host")["need"]["devices"] == {}


def test_a_model_moves_at_its_next_load(router: StartRouter, tmp_path: Path, worker: RpcWorker, second: RpcWorker) -> None:
    both = f"{worker.endpoint},{second.endpoint}"
    preset = preset_of(tmp_path, {"a": {"rpc": both, "device": "RPC0"}})
    server = router("--models-preset", str(preset))
    server.load("a")
    assert list(plan(server, "a")["need"]["devices"]) == [worker.key]
    preset_of(tmp_path, {"a": {"rpc": both, "device": "RPC1"}})
    assert server.get("/models?reload=1").status == 200
    eventually(lambda: server.status("a") == "unloaded", "the end of the old one")
    server.load("a")
    assert list(plan(server, "a")["need"]["devices"]) == [second.key]


# ---------------------------------------------------------------- devices that are lost


def stream_with_a_loss(server: Router, body: dict[str, Any], lost: RpcWorker) -> tuple[str, list[Any]]:
    """The text, and the errors among the events; after the tenth piece of text the RPC worker is killed."""
    pieces, errors = [], []
    with server.stream("/v1/completions", {**body, "stream": True}) as events:
        for event in events:
            if "error" in event:
                errors.append(event["error"])
                continue
            if text := text_of(event):
                pieces.append(text)
                if len(pieces) == 10:
                    lost.kill()
    return "".join(pieces), errors


def test_a_stream_goes_on_without_the_lost_device(router: StartRouter, smollm2: Path, worker: RpcWorker, second: RpcWorker) -> None:
    flags = ["--rpc", f"{worker.endpoint},{second.endpoint}", "-ts", "1,1"]
    server = router("-m", str(smollm2), "--alias", "smol", "-c", "1024", *flags)
    undisturbed = server.post("/v1/completions", LONG).json["choices"][0]["text"]
    assert set(plan(server, "smol")["need"]["devices"]) == {worker.key, second.key}
    text, errors = stream_with_a_loss(server, LONG, second)
    assert errors == []
    assert text == undisturbed
    log = server.log
    assert f"its worker has lost an RPC server: one of {worker.endpoint}, {second.endpoint} has ended" in log
    assert f"--rpc {second.endpoint}: it is left out of this load: connection refused" in log
    assert "safe mode" not in log, "the CPU is not the suspect"
    assert list(plan(server, "smol")["need"]["devices"]) == [worker.key]


def test_a_stream_ends_with_an_error_when_no_device_is_left(router: StartRouter, smollm2: Path, worker: RpcWorker) -> None:
    server = router("-m", str(smollm2), "--alias", "smol", "-c", "1024", "--rpc", worker.endpoint)
    text, errors = stream_with_a_loss(server, LONG, worker)
    assert text
    [error] = errors
    assert f"no server can be used: {worker.endpoint}: connection refused" in error["message"]
    answer = server.post("/v1/completions", LONG)
    assert answer.status == 503
    assert "connection refused" in answer.error["message"]
    with rpc_worker("--port", str(worker.port)) as again:
        assert again.endpoint == worker.endpoint
        answer = eventually(lambda: (one := server.post("/v1/completions", LONG)).status == 200 and one, "the next try")
    assert answer.json["choices"][0]["text"].startswith(text)


def test_other_models_do_not_notice(router: StartRouter, tmp_path: Path, worker: RpcWorker) -> None:
    """A device that is lost while nothing is asked of it is noticed by the next request, which waits a little longer."""
    server = router("--models-preset", str(preset_of(tmp_path, {"a": {"rpc": f"{worker.endpoint},127.0.0.1:{free_port()}"}, "b": {}})))
    body = {"prompt": "the", "max_tokens": 8, "temperature": 0}
    server.load("a", "b")
    [pid] = [each for each in descendants(server.process.pid) if has_mapped(each, tmp_path / "b.gguf")]
    worker.kill()
    assert server.post("/v1/completions", {"model": "b", **body}).status == 200
    assert server.post("/v1/completions", {"model": "a", **body}).status == 503
    assert has_mapped(pid, tmp_path / "b.gguf")


# ---------------------------------------------------------------- what there is


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*FASTROUTER, *words], capture_output=True, text=True, timeout=60, env=environment(folder))


def test_devices(tmp_path: Path, worker: RpcWorker, second: RpcWorker) -> None:
    missing = f"127.0.0.1:{free_port()}"
    words = ("--models-preset", str(preset_of(tmp_path, {"a": {"rpc": f"{worker.endpoint},{missing}"}, "b": {"rpc": second.endpoint}})))
    done = run(tmp_path, "devices", "--json", *words)
    cpu, first, lost, other = json.loads(done.stdout)["devices"]
    assert (cpu["name"], cpu["kind"], done.returncode) == ("CPU", "cpu", 0)
    assert 0 < cpu["free_bytes"] < cpu["total_bytes"]
    assert (first["name"], first["key"], first["kind"], first["description"]) == ("RPC0", worker.key, "rpc", worker.endpoint)
    assert (lost["name"], lost["description"], lost["error"]) == ("RPC1", missing, "connection refused")
    assert (other["name"], other["key"]) == ("RPC2", second.key)
    lines = run(tmp_path, "devices", *words).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "CPU", "RPC0", "RPC1", "RPC2"]
    assert lines[3].endswith(f"{missing}: connection refused")


def test_list_devices_as_llama_server(tmp_path: Path, worker: RpcWorker) -> None:
    done = run(tmp_path, "--rpc", worker.endpoint, "--list-devices")
    mib = worker.greeting.rpartition("(")[2].strip().rstrip(")")  # 15990 MiB, 15990 MiB free
    assert (done.returncode, done.stdout) == (0, f"Available devices:\n  RPC0: {worker.endpoint} ({mib})\n")
    assert run(tmp_path, "--list-devices").stdout == "Available devices:\n  (none)\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rpc", "here"], "--rpc here: must be HOST:PORT of servers, comma-separated"),
        (["--rpc", "a:1,b"], "--rpc a:1,b: must be HOST:PORT of servers"),
        (["--rpc", ",".join(f"a:{number}" for number in range(1, 18))], "must be HOST:PORT of servers"),
        (["--models-memory-device", "CUDA0="], "--models-memory-device CUDA0=: must be auto, a number of MiB, or DEVICE=MIB"),
        (["--models-memory-device", "=5"], "--models-memory-device =5: must be auto"),
    ],
)
def test_mistakes(tmp_path: Path, words: list[str], message: str) -> None:
    done = run(tmp_path, *words)
    assert done.returncode == 1
    assert message in done.stderr
