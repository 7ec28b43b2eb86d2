"""A conversation whose model has left memory goes on where it was: with real workers, over HTTP."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter, eventually
from tiny_memories import MAKERS
from tiny_models import make_llama

WORDS = range(259, 329)  # tokens
KINDS = ("llama", *MAKERS)
ONE = ("--models-max", "1", "-np", "1", "--checkpoint-min-step", "64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("switch-back")
    for kind, make in MAKERS.items():
        make(made / f"{kind}.gguf")
    make_llama(made / "llama.gguf")
    make_llama(made / "other.gguf", seed=1)
    return made


def words(count: int, seed: int = 0) -> list[int]:
    source = random.Random(seed)
    return [source.choice(WORDS) for _ in range(count)]


def ask(server: Router, model: str, prompt: list[int]) -> dict[str, Any]:
    """`tokens` of the answer, `cache_n` and `prompt_n`."""
    wanted = {"model": model, "prompt": prompt, "n_predict": 16, "temperature": 0, "return_tokens": True}
    answer = server.post("/completion", wanted)
    assert answer.status == 200, answer
    return {"tokens": answer.json["tokens"], **{name: answer.json["timings"][name] for name in ("cache_n", "prompt_n")}}


def parked(server: Router, model: str) -> int:
    """Entries."""
    [found] = [entry for entry in server.get("/v1/models").json["data"] if entry["id"] == model]
    count: int = found.get("parked", {"entries": 0})["entries"]
    return count


def test_there_and_back(router: StartRouter, folder: Path) -> None:
    """A, B, A with one place: at least 95 % of the prompt is not computed again, and the text is the one without parking."""
    talks: dict[str, list[list[Any]]] = {}
    for flags in (("--park-ram", "0"), ("--park-ram", "200")):
        server = router(*ONE, *flags, models_dir=folder)
        for kind in KINDS:
            prompt = words(400)
            first = ask(server, kind, prompt)
            ask(server, "other", words(40))
            longer = [*prompt, *first["tokens"], *words(8, 1)]
            second = ask(server, kind, longer)
            talks.setdefault(kind, []).append([first["tokens"], second["tokens"]])
            if flags[1] == "0":
                assert second["cache_n"] == 0
            else:
                assert second["cache_n"] >= 0.95 * len(longer), kind
        server.stop()
    assert all(without == parked for without, parked in talks.values())


def test_after_an_unload_and_after_sleep(router: StartRouter, folder: Path) -> None:
    server = router("--sleep-idle-seconds", "1", models_dir=folder)
    prompt = words(300)
    first = ask(server, "llama", prompt)
    server.unload("llama")
    assert ask(server, "llama", prompt) == {**first, "cache_n": 299, "prompt_n": 1}
    server.await_status("llama", "sleeping")
    assert ask(server, "llama", prompt) == {**first, "cache_n": 299, "prompt_n": 1}


def test_after_sigkill_of_an_idle_worker(router: StartRouter, folder: Path) -> None:
    server = router(models_dir=folder)
    prompt = words(300)
    first = ask(server, "llama", prompt)
    eventually(lambda: parked(server, "llama"), "it is parked while its worker is idle")
    os.kill(server.worker_of("llama"), signal.SIGKILL)
    server.await_status("llama", "unloaded")
    assert ask(server, "llama", prompt) == {**first, "cache_n": 299, "prompt_n": 1}


def test_after_a_restart_of_the_router(router: StartRouter, folder: Path, tmp_path: Path) -> None:
    """Also when it is killed, and not when the file was changed."""
    flags = ("--park-dir", str(tmp_path / "parked"), "-np", "1")
    server = router(*flags, models_dir=folder)
    prompt = words(300)
    first = ask(server, "llama", prompt)
    ask(server, "hybrid", prompt)
    server.stop()
    server = router(*flags, models_dir=folder)
    assert ask(server, "llama", prompt) == {**first, "cache_n": 299, "prompt_n": 1}
    assert ask(server, "hybrid", prompt)["cache_n"] >= 0.95 * len(prompt)
    server.process.kill()
    server.await_end()
    server = router(*flags, models_dir=folder)
    assert ask(server, "llama", prompt) == {**first, "cache_n": 299, "prompt_n": 1}
    server.stop()
    for path in (tmp_path / "parked").glob("*.parked"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    server = router(*flags, models_dir=folder)
    assert ask(server, "llama", prompt) == {**first, "cache_n": 0, "prompt_n": 300}
    assert "a parked prompt cannot be used: it is damaged" in server.log


def test_they_can_be_forgotten(router: StartRouter, folder: Path) -> None:
    server = router(models_dir=folder)
    prompt = words(300)
    ask(server, "llama", prompt)
    server.unload("llama")
    eventually(lambda: parked(server, "llama"), "parked")
    assert "fastrouter_parked_bytes{" in server.get("/metrics").body.decode()
    assert server.request("DELETE", "/models/parked?model=nothing").status == 400
    assert server.request("DELETE", "/models/parked?model=other").json == {"entries": 0, "bytes": 0}
    dropped = server.request("DELETE", "/models/parked").json
    assert dropped["entries"] == 1
    assert dropped["bytes"] > 0
    assert parked(server, "llama") == 0
    assert ask(server, "llama", prompt)["cache_n"] == 0
