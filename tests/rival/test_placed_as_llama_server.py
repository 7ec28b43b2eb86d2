"""Two RPC workers are the devices: what goes where, and what the model says, is the same as in llama-server with the same flags.

Its answers are recorded (recorded/placements.json, made by placements.py).
"""

import json
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
        lines += [f"[{name.replace(',', '')}]", f"model = {smollm2}"]
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
    model = name.replace(",", "")
    text = server.post("/completion", {**ASKED, "model": model}).json["content"]
    ours = placed(server.get(f"/models/logs?model={model}").body.decode(), endpoints)
    assert ours["layers"] == theirs[name]["layers"]
    assert ours["buffers"] == theirs[name]["buffers"]
    assert text == theirs[name]["text"]


@pytest.mark.parametrize("name", PLACEMENTS)
def test_the_router_counts_what_is_where(name: str, server: Router, endpoints: list[str], theirs: dict[str, Any]) -> None:
    model = name.replace(",", "")
    server.load(model)
    need = server.post("/models/plan", {"model": model}).json["need"]
    expected: dict[str, float] = {}
    for buffer, mib in theirs[name]["buffers"].items():
        for number, endpoint in enumerate(endpoints):
            if f"SERVER{number}" in buffer:
                expected[f"RPC0[{endpoint}]"] = expected.get(f"RPC0[{endpoint}]", 0.0) + mib
    assert {device: num_bytes / MIB for device, num_bytes in need["devices"].items()} == pytest.approx(expected, abs=0.1)
    assert need["device_bytes"] == sum(need["devices"].values())
