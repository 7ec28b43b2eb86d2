"""Ollama and llama-swap as measured servers, with a stand-in for each: start, request, switch, unload, end."""

import json
import sys
from pathlib import Path

import pytest

from bench import others
from bench.running import FLAGS, running
from bench.suite import SCENARIOS
from fastrouter.cli.bench.load_client import BenchFailed
from fastrouter.cli.bench.switching import ttft

STAND_IN = Path(__file__).parent.parent / "support" / "stand_in_rival.py"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("tiny0", "tiny1"):
        (folder / f"{name}.gguf").write_bytes(b"GGUF")
    (tmp_path / others.LLAMA_SERVER).symlink_to("/bin/true")
    return folder


@pytest.fixture(autouse=True)
def own_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def program(tmp_path: Path, name: str) -> Path:
    path = tmp_path / f"{name}-program"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} {name} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("name", [others.OLLAMA, others.LLAMA_SWAP])
def test_a_model_is_switched_to_and_unloaded(models: Path, tmp_path: Path, name: str) -> None:
    with running(name, program(tmp_path, name), models, *FLAGS, "--models-max", "1") as server:
        assert (server.name, server.start_s > 0, server.rss_bytes() > 0) == (name, True, True)
        assert ttft(server, "tiny0") > 0
        assert [server.status(model) for model in ("tiny0", "tiny1")] == ["loaded", "unloaded"]
        ttft(server, "tiny1")
        assert [server.status(model) for model in ("tiny0", "tiny1")] == ["unloaded", "loaded"], "there is room for one"
        server.unload("tiny1")
        assert server.status("tiny1") == "unloaded"
    assert server.process.returncode is not None


def test_ollama_gets_the_same_settings(models: Path, tmp_path: Path) -> None:
    with running(others.OLLAMA, program(tmp_path, others.OLLAMA), models, *FLAGS, "--models-max", "2"):
        pass
    given = json.loads((tmp_path / "bench-ollama.log").read_text().splitlines()[0])
    assert (given["OLLAMA_CONTEXT_LENGTH"], given["OLLAMA_NUM_PARALLEL"], given["OLLAMA_MAX_LOADED_MODELS"]) == ("2048", "4", "2")
    assert (tmp_path / "ollama" / "tiny0.created").read_text() == f"FROM {models / 'tiny0.gguf'}\nPARAMETER num_thread 2\n"


def test_ollama_makes_its_models_once(models: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with running(others.OLLAMA, program(tmp_path, others.OLLAMA), models, *FLAGS):
            made = (tmp_path / "ollama" / "tiny0.created").stat().st_mtime_ns
    assert made == (tmp_path / "ollama" / "tiny0.created").stat().st_mtime_ns
    assert len(list((tmp_path / "ollama").iterdir())) == 2


def test_llama_swap_starts_the_llama_server_of_the_run(models: Path) -> None:
    one = others.llama_swap_configuration(models, [*FLAGS, "--models-max", "1"], Path("/opt/llama-server"))
    assert one["models"]["tiny0"]["cmd"] == f"/opt/llama-server --port ${{PORT}} --no-ui -m {models}/tiny0.gguf -c 8192 -t 2 -np 4"
    assert "groups" not in one
    both = others.llama_swap_configuration(models, FLAGS, Path("/opt/llama-server"))
    assert both["groups"]["all"] == {"swap": False, "exclusive": True, "members": ["tiny0", "tiny1"]}


@pytest.mark.parametrize("name", [others.OLLAMA, others.LLAMA_SWAP])
def test_what_they_do_not_have_is_refused(models: Path, tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(BenchFailed, match="has nothing like --spec-type"),
        running(name, program(tmp_path, name), models, *FLAGS, "--spec-type", "x"),
    ):
        pass


def test_a_server_that_ends_is_reported(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "ends"
    path.write_text("#!/bin/sh\nexit 3\n")
    path.chmod(0o755)
    with pytest.raises(BenchFailed, match="ollama ended with exit code 3"), running(others.OLLAMA, path, models, *FLAGS):
        pass


def test_they_are_asked_only_for_what_they_can_do() -> None:
    """Events, several limits of models, and llama-server's own flags are not theirs."""
    able = {name: {other for other in others.STARTERS if other in scenario.servers} for name, scenario in SCENARIOS.items()}
    assert able["cold"] == able["evict"] == able["back"] == able["hot"] == {"ollama", "llama-swap"}
    assert not able["storm"] | able["repeat"] | able["memory"] | able["scripted"]
