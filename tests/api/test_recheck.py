"""Files that change, come or go while the router runs: the next request that names their model notices it, without a reload."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer, Router, StartRouter, eventually
from tiny_models import make_llama

from fastrouter.api.models import recheck as module
from fastrouter.api.models.recheck import first_change
from fastrouter.catalog.catalog import Catalog
from fastrouter.config.config import parse

LOOK_S = 2 * module.CHECK_S  # after this time a model's files are checked again


def complete(server: Router, model: str) -> Answer:
    return server.post("/completion", {"model": model, "prompt": "a", "n_predict": 8, "temperature": 0})


def say(server: Router, model: str) -> str:
    answer = complete(server, model)
    assert answer.status == 200, answer
    return str(answer.json["content"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """tiny0.gguf, to be changed; tiny1 and tiny2 are next to the folder."""
    folder = tmp_path / "models"
    folder.mkdir()
    make_llama(folder / "m.gguf", seed=0)
    for seed in (1, 2):
        make_llama(tmp_path / f"{seed}.gguf", seed=seed)
    return folder


def overwrite(path: Path, content: bytes) -> None:
    """In place: the same inode, like `cp`."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def replace(path: Path, content: bytes) -> None:
    """Like `mv` and most downloads."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def replace_silently(path: Path, content: bytes) -> None:
    """The file gets the old time and, like all files of these tests, the old size."""
    before = path.stat()
    replace(path, content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


@pytest.mark.parametrize("change", [overwrite, replace, replace_silently])
def test_a_loaded_model_s_file_is_changed(folder: Path, tmp_path: Path, router: StartRouter, change: Callable[[Path, bytes], None]) -> None:
    make_llama(folder / "as-it-should-be.gguf", seed=1)
    server = router(models_dir=folder)
    before, expected = say(server, "m"), say(server, "as-it-should-be")
    change(folder / "m.gguf", (tmp_path / "1.gguf").read_bytes())
    time.sleep(LOOK_S)
    assert expected != before
    assert {say(server, "m") for _ in range(3)} == {expected}
    warnings = [line for line in server.log.splitlines() if "has changed on disk while the model was loaded" in line]
    assert len(warnings) == 1, server.log
    assert f"m: {folder / 'm.gguf'} has changed" in warnings[0]


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"half"])
def test_what_comes_in_its_place_is_no_model(folder: Path, tmp_path: Path, router: StartRouter, content: bytes) -> None:
    server = router(models_dir=folder)
    path = folder / "m.gguf"
    whole = path.read_bytes()
    before = say(server, "m")
    replace(path, whole[: len(whole) // 2] if content == b"half" else content)
    time.sleep(LOOK_S)
    answers = [complete(server, "m") for _ in range(3)]
    assert {answer.status for answer in answers} == {400}
    assert len({answer.error["message"] for answer in answers}) == 1
    message = answers[0].error["message"]
    assert message.startswith(f"model name=m failed to load: {path}: ")
    assert message.endswith("get another copy of the file, or remove it")
    assert message.endswith(server.get("/v1/models/m").json["status"]["error"])
    replace(path, whole)
    time.sleep(LOOK_S)
    assert say(server, "m") == before


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_is_cut_while_its_model_answers(folder: Path, tmp_path: Path, router: StartRouter, share: float) -> None:
    """Its pages are gone, so its worker dies. The stream ends with an error, and only this model is hit, until its file is whole again."""
    (tmp_path / "1.gguf").rename(folder / "other.gguf")
    server = router("-c", "2048", models_dir=folder)
    path = folder / "m.gguf"
    whole = path.read_bytes()
    before, other = say(server, "m"), say(server, "other")
    with server.stream("/completion", {"model": "m", "prompt": "a", "n_predict": 2000, "stream": True, "ignore_eos": True}) as stream:
        events = iter(stream)
        next(events)
        os.truncate(path, int(len(whole) * share))
        last = list(events)[-1]
        assert "error" in last or last["stop"], last
    time.sleep(LOOK_S)
    assert complete(server, "m").status == 400
    assert say(server, "other") == other
    assert server.process.poll() is None
    replace(path, whole)
    time.sleep(LOOK_S)
    assert say(server, "m") == before


def test_a_file_changes_while_its_model_loads(folder: Path, router: StartRouter) -> None:
    """Requests that wait for the load get the new file, streamed and whole. Scripted workers, whose loads last."""

    def ask(is_stream: bool) -> None:
        body = {"model": "m", "stream": is_stream, "messages": [{"role": "user", "content": '{"tokens": 3}'}]}
        answers.append(server.post("/v1/chat/completions", body))

    path = folder / "m.gguf"
    path.write_text('{"load_s": 60, "progress": [0.1, 0.2]}')
    server = router(models_dir=folder, is_fake=True)
    answers: list[Answer] = []
    threads = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    server.await_status("m", "loading")
    eventually(lambda: server.get("/v1/models/m").json["usage"]["waiting"] == 4, "all of them wait")
    time.sleep(LOOK_S)
    replace(path, b'{"meta": {"n_ctx": 77}}')
    late = server.post("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "{}"}]})  # this one notices it
    for thread in threads:
        thread.join()
    assert [answer.status for answer in (*answers, late)] == [200] * 5
    assert all(b"t0 " in answer.body and b"error" not in answer.body for answer in answers)
    assert server.get("/v1/models/m").json["meta"]["n_ctx"] == 77
    assert "unloaded while it was loading" not in server.log


def test_streams_end_before_the_new_file_is_loaded(folder: Path, tmp_path: Path, router: StartRouter) -> None:
    server = router(models_dir=folder)
    server.load("m")
    with server.stream("/completion", {"model": "m", "prompt": "a", "n_predict": 300, "stream": True, "ignore_eos": True}) as stream:
        events = iter(stream)
        next(events)
        replace(folder / "m.gguf", (tmp_path / "1.gguf").read_bytes())
        time.sleep(LOOK_S)
        said: list[str] = []
        thread = threading.Thread(target=lambda: said.append(say(server, "m")))
        thread.start()
        last = list(events)[-1]
        assert (last["stop"], last["tokens_predicted"]) == (True, 300)
        thread.join()
    assert said
    assert len(said[0]) > 0


def test_a_loaded_model_lives_on_without_its_file(folder: Path, router: StartRouter) -> None:
    server = router(models_dir=folder)
    before = say(server, "m")
    (folder / "m.gguf").unlink()
    time.sleep(LOOK_S)
    assert say(server, "m") == before
    assert server.status("m") == "loaded"


def test_files_beside_the_model_count(folder: Path, tmp_path: Path) -> None:
    draft = make_llama(tmp_path / "draft.gguf", seed=4)
    presets = tmp_path / "presets.ini"
    presets.write_text(f"[m]\nmodel-draft = {draft}\n")
    [spec] = Catalog(parse(["--models-dir", str(folder), "--models-preset", str(presets)], {})).models()
    assert spec.files == (str(folder / "m.gguf"), str(draft))
    assert first_change(spec, may_be_gone=True) is None
    os.utime(draft, ns=(1, 1))
    assert first_change(spec, may_be_gone=True) == str(draft)
    draft.unlink()
    assert first_change(spec, may_be_gone=True) is None
    assert first_change(spec, may_be_gone=False) == str(draft)


# ---------------------------------------------------------------- files that come later


def test_a_file_that_appears_later(folder: Path, tmp_path: Path, router: StartRouter) -> None:
    """A new name, a broken link, a shard that was missing, a permission: any fault is checked again when a request needs the model."""
    make_llama(folder / "parts.gguf", tensors_per_shard=8)
    shard = folder / "parts-00002-of-00003.gguf"
    shard.rename(tmp_path / "shard")
    (folder / "link.gguf").symlink_to(tmp_path / "target.gguf")
    server = router(models_dir=folder)
    for name in ("new", "parts", "link"):
        assert complete(server, name).status == 400
    parts = server.get("/v1/models/parts").json
    assert str(shard) in parts["status"]["error"]
    assert parts["capabilities"] == []
    assert complete(server, "parts").error["message"] == f"model name=parts failed to load: {parts['status']['error']}"
    (tmp_path / "shard").rename(shard)
    (tmp_path / "1.gguf").rename(tmp_path / "target.gguf")
    (tmp_path / "2.gguf").rename(folder / "new.gguf")
    for name in ("parts", "link", "new"):
        eventually(lambda name=name: complete(server, name).status == 200, f"{name} is seen")
    assert server.post("/models/load", {"model": "no-such"}).status == 404


def test_load_looks_again_too(folder: Path, tmp_path: Path, router: StartRouter) -> None:
    server = router("--no-models-autoload", models_dir=folder)
    (tmp_path / "1.gguf").rename(folder / "new.gguf")
    eventually(lambda: server.post("/models/load", {"model": "new"}).status == 200, "the new file is seen")
    server.await_status("new", "loaded")


def test_unknown_names_cost_one_scan_a_second(folder: Path, router: StartRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    server = router("--models-preset", str(_presets(folder)), models_dir=folder)
    ended = time.monotonic()
    begin = ended
    num_asked = 0
    while ended - begin < 0.5 * module.SCAN_S:
        assert complete(server, f"no-such-{num_asked}").status == 400
        num_asked += 1
        ended = time.monotonic()
    make_llama(folder / "later.gguf")
    if ended - begin < module.SCAN_S:  # if the machine was not busy with other work
        assert complete(server, "no-such").status == 400
    assert num_asked > 0


def _presets(folder: Path) -> Path:
    path = folder.parent / "presets.ini"
    path.write_text("[m]\nctx-size = 256\n")
    return path


def test_a_look_does_not_read_the_preset_file(folder: Path, router: StartRouter) -> None:
    """A preset file that a user is editing is read only when the user asks for a reload."""
    presets = _presets(folder)
    server = router("--models-preset", str(presets), models_dir=folder)
    server.load("m")
    presets.write_text("[m]\nctx-size = 512\n")
    make_llama(folder / "new.gguf")
    eventually(lambda: complete(server, "new").status == 200, "the new file is seen")

    def context() -> Any:
        return server.get("/v1/models/m").json["meta"]["n_ctx"]

    assert (server.status("m"), context()) == ("loaded", 256)
    server.get("/models?reload=1")
    eventually(lambda: context() == 512, "the preset file is read")
