"""Two RPC workers are the devices: what goes where, and what the model says, is the same as in llama-server with the same flags.

Its answers are recorded (recorded/placements.json, made by placements.py).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter
from placements import ASKED, PLACEMENTS, RECORDED, SHARED, flags_of, placed
from rival import BUILD
from rpc_workers import RpcWorker, rpc_worker

MIB = 1 << 20


@pytest.fixture(scope="module")
def workers() -> Iterator[list[RpcWorker]]:
    with rpc_worker() as one, rpc_worker() as two:
        yield [one, two]


@pytest.fixture(scope="module")
def endpoints(workers: list[RpcWorker]) -> list[str]:
    return [worker.endpoint for worker in workers]


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory, endpoints: list[str], smollm2: Path) -> Router:
    """Each placement is a model."""
    preset = tmp_path_factory.mktemp("placements") / "models.ini"
    lines = []
    for name in PLACEMENTS:
        words = flags_of(name, endpoints)
        lines += [f"[{name}]", f"model = {smollm2}"]
        lines += [f"{flag.lstrip('-')} = {value}" for flag, value in _pairs(words)]
    preset.write_text("\n".join(lines) + "\n")
    return module_router("--models-preset", str(preset), "--models-max", "1", *SHARED)


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    """A switch of llama-server's, as the key of a preset."""
    words = list(words)
    while words:
        flag = words.pop(0)
        yield ("no-kv-offload", "true") if flag == "-nkvo" else (flag, words.pop(0))


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / "placements.json").read_text())
    assert found.pop("")["build"] == BUILD
    return found


@pytest.mark.parametrize("name", PLACEMENTS)
def test_placed_as_llama_server(name: str, server: Router, endpoints: list[str], theirs: dict[str, Any]) -> None:
    text = server.post("/completion", {**ASKED, "model": name}).json["content"]
    log = server.get(f"/models/logs?model={name}").body.decode()
    ours = placed(log, endpoints)
    assert ours["layers"] == theirs[name]["layers"]
    assert ours["buffers"] == theirs[name]["buffers"]
    assert text == theirs[name]["text"]

    check_counted(server, name, log, endpoints)


def check_counted(server: Router, name: str, log: str, endpoints: list[str]) -> None:
    """The router counts for each device what llama.cpp has allocated there."""
    need = server.post("/models/plan", {"model": name}).json["need"]
    expected: dict[str, float] = {}
    for buffer, mib in re.findall(r"(RPC0\S+) +\w+ buffer size = +([\d.]+) MiB", log):
        expected[buffer] = expected.get(buffer, 0.0) + float(mib)
    assert {device: num_bytes / MIB for device, num_bytes in need["devices"].items()} == pytest.approx(expected, abs=0.1)
    assert need["device_bytes"] == sum(need["devices"].values())
    assert set(need["devices"]) <= {f"RPC0[{endpoint}]" for endpoint in endpoints}
