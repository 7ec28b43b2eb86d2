"""Reloads while the router serves: by difference, all or nothing, shared, and by itself with --watch."""

import asyncio
import gc
import logging
import os
import shutil
import signal
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter, eventually
from tiny_models import make_llama

from fastrouter.api.models.reload import Reloads
from fastrouter.catalog import watch as watch_module
from fastrouter.catalog.catalog import Catalog
from fastrouter.catalog.difference import Difference
from fastrouter.catalog.scan import Scan
from fastrouter.catalog.watch import Watch
from fastrouter.config.config import parse
from fastrouter.errors import ConfigError

# ---------------------------------------------------------------- after a reload


def test_a_reload_freezes_nothing(tmp_path: Path) -> None:
    """A frozen cycle is never freed, and a reload may come while large bodies exist."""
    catalog = Catalog(parse(["--models-dir", str(tmp_path)], {}))
    before = gc.get_freeze_count()
    for number in range(3):
        make_llama(tmp_path / f"new{number}.gguf")
        kept = [[] for _ in range(1000)]  # type: ignore[var-annotated]
        assert catalog.get(f"new{number}") is None
        catalog.reload()
        assert catalog.get(f"new{number}") is not None
        assert len(kept) == 1000
    assert gc.get_freeze_count() <= before


# ---------------------------------------------------------------- callers that share a scan


class SlowCatalog(Catalog):
    """Its scans end when the test says so."""

    def __init__(self, folder: Path) -> None:
        self.may_end = threading.Semaphore(1)
        self.num_scans = 0
        self.fails = False
        super().__init__(parse(["--models-dir", str(folder)], {}))

    def scan(self, *, with_presets: bool = True) -> Scan:
        self.num_scans += 1
        assert self.may_end.acquire(timeout=60)
        if self.fails:
            raise ConfigError("wrong")
        return super().scan(with_presets=with_presets)


class Ended:
    """Replaces the supervisor, and stores what it was told to end."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def reload(self, changed: tuple[str, ...], find: object) -> None:
        self.calls.append(changed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    make_llama(folder / "a.gguf")
    return folder


def together(folder: Path, test: Callable[[SlowCatalog, Reloads, Ended], Any]) -> None:
    async def run() -> None:
        catalog, supervisor = SlowCatalog(folder), Ended()
        catalog.num_scans = 0
        await asyncio.wait_for(test(catalog, Reloads(catalog, supervisor), supervisor), 60)  # type: ignore[arg-type]

    asyncio.run(run())


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.001)


def test_those_who_ask_during_a_scan_share_the_next(folder: Path) -> None:
    async def test(catalog: SlowCatalog, reloads: Reloads, supervisor: Ended) -> None:
        first = asyncio.create_task(reloads.reload())
        await until(lambda: catalog.num_scans == 1)
        later = [asyncio.create_task(reloads.reload()) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert catalog.num_scans == 1
        make_llama(folder / "b.gguf")
        catalog.may_end.release()
        await first
        await until(lambda: catalog.num_scans == 2)
        os.unlink(folder / "a.gguf")  # after the second has started: it may or may not see it
        last = asyncio.create_task(reloads.reload())
        catalog.may_end.release()
        found = await asyncio.gather(*later)
        assert all(difference is found[0] for difference in found)
        catalog.may_end.release()
        await last
        assert catalog.num_scans == 3
        assert [spec.id for spec in catalog.models()] == ["b"]

    together(folder, test)


def test_who_leaves_takes_nothing_from_the_others(folder: Path) -> None:
    async def test(catalog: SlowCatalog, reloads: Reloads, supervisor: Ended) -> None:
        leaving, staying = asyncio.create_task(reloads.reload()), asyncio.create_task(reloads.reload())
        await until(lambda: catalog.num_scans == 1)
        leaving.cancel()
        catalog.may_end.release()
        assert await staying == Difference()
        assert leaving.cancelled()
        assert (catalog.num_scans, supervisor.calls) == (1, [()])

    together(folder, test)


def test_a_scan_that_fails_changes_nothing_and_spoils_no_other(folder: Path) -> None:
    async def test(catalog: SlowCatalog, reloads: Reloads, supervisor: Ended) -> None:
        catalog.fails = True
        asked = [asyncio.create_task(reloads.reload()) for _ in range(3)]
        catalog.may_end.release()
        assert [str(error) for error in await asyncio.gather(*asked, return_exceptions=True)] == ["wrong"] * 3
        assert (catalog.version, supervisor.calls) == (1, [])
        catalog.fails = False
        os.unlink(folder / "a.gguf")
        catalog.may_end.release()
        assert await reloads.reload() == Difference(removed=("a",))
        assert supervisor.calls == [("a",)]

    together(folder, test)


# ---------------------------------------------------------------- by difference


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    return tmp_path / "p.ini"


def reload(server: Router) -> list[str]:
    answer = server.get("/models?reload=1")
    assert answer.status == 200, answer
    return [model["id"] for model in answer.json["data"]]


def test_what_a_running_model_survives(folder: Path, preset: Path, router: StartRouter) -> None:
    for name in ("kept", "options", "bytes", "gone"):
        shutil.copy(folder / "a.gguf", folder / f"{name}.gguf")
    preset.write_text("[kept]\nctx-size = 256\n[options]\nctx-size = 256\n")
    server = router("--models-preset", str(preset), "--models-max", "0", models_dir=folder)
    server.load("a", "kept", "options", "bytes", "gone")
    pid = server.worker_of("kept")
    preset.write_text("; new\n[kept]\nctx-size = 256\nalias = k\ntags = t\nload-on-startup = 1\n[options]\nctx-size = 128\n")
    make_llama(folder / "new", seed=5).rename(folder / "bytes.gguf")
    (folder / "gone.gguf").unlink()
    shutil.copy(folder / "a.gguf", folder / "added.gguf")
    assert reload(server) == ["a", "added", "bytes", "kept", "options"]
    assert {name: server.status(name) for name in ("a", "kept")} == {"a": "loaded", "kept": "loaded"}
    assert server.worker_of("kept") == pid
    kept = server.get("/v1/models/kept").json
    assert (kept["aliases"], kept["tags"]) == (["k", "kept.gguf"], ["t"])
    for name in ("options", "bytes"):
        server.await_status(name, "unloaded")
    eventually(
        lambda: "models reloaded: added added; changed bytes, options; removed gone; updated kept" in server.log, "its line in the log"
    )
    assert server.post("/v1/completions", {"model": "k", "prompt": "a", "max_tokens": 1}).status == 200
    assert reload(server) == ["a", "added", "bytes", "kept", "options"]
    eventually(lambda: server.log.count("models reloaded") == 1, "its line in the log")


def test_a_reload_is_an_event(folder: Path, router: StartRouter) -> None:
    server = router(models_dir=folder)
    with server.stream("/models/sse") as stream:
        events = iter(stream)
        next(events)
        reload(server)
        assert next(event for event in events if event["model"] == "*") == {"model": "*", "event": "models_reload", "data": {}}


def test_a_wrong_preset_file_changes_nothing_and_says_where(folder: Path, preset: Path, router: StartRouter) -> None:
    preset.write_text("[a]\nctx-size = 256\n")
    server = router("--models-preset", str(preset), models_dir=folder)
    server.load("a")
    before = server.get("/v1/models").json
    shutil.copy(folder / "a.gguf", folder / "b.gguf")
    preset.write_text("[a]\nctx-size = 128\n[*]\nnonsense = 1\n[*]\nport = 3\n")
    refused = server.get("/models?reload=1")
    assert refused.status == 400
    assert f"{preset}:4 [*]: unknown key nonsense" in refused.error["message"]
    assert f"(and 2 more: `fastrouter preset check {preset}` shows all)" in refused.error["message"]
    assert server.get("/v1/models").json == before
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: f"reload refused, nothing has changed: {preset}:4 [*]" in server.log, "a line in the log")
    preset.write_text("[a]\nctx-size = 256\n[b]\ntags = x\n")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "models reloaded: added b" in server.log, "the reload")
    assert server.status("a") == "loaded"


def test_a_section_that_becomes_wrong(folder: Path, preset: Path, router: StartRouter) -> None:
    """It is listed with its mistakes; its running process continues until its file changes, or it is unloaded."""
    shutil.copy(folder / "a.gguf", folder / "b.gguf")
    preset.write_text("[a]\nctx-size = 256\nalias = x\n[b]\nctx-size = 256\n[v]\nbase = b\n")
    server = router("--models-preset", str(preset), models_dir=folder)
    server.load("a")
    server.load("b")
    preset.write_text("[a]\nctx-size = x\nalias = x\n[b]\nctx-size = 512\n[v]\nbase = b\nmmap = 1\n[c]\nmodel = later.gguf\n")
    assert reload(server) == ["a", "b", "c", "v"]
    eventually(lambda: f"warning: {preset}:2 [a] ctx-size = x: must be a whole number" in server.log, "its line in the log")
    assert server.status("a") == "loaded"
    assert server.get("/props?model=a").json["default_generation_settings"]["n_ctx"] == 256
    eventually(lambda: server.status("b") == "unloaded", "the end of what has other options now")
    listed = {model["id"]: model["status"] for model in server.get("/v1/models").json["data"]}
    assert listed["a"]["error"].startswith(f"{preset}:2 [a] ctx-size = x")
    assert [listed[name].get("failed", False) for name in "abcv"] == [False, False, True, True]
    for name in ("a", "x"):
        assert server.post("/completion", {"model": name, "prompt": "a", "n_predict": 1}).status == 200
    server.unload("a")
    server.await_status("a", "unloaded")
    for name, line in (("a", 2), ("x", 2), ("v", 8), ("c", 10)):
        for path, body in (("/completion", {"prompt": "a"}), ("/models/load", {}), ("/tokenize", {"content": "a"})):
            refused = server.post(path, {"model": name, **body})
            assert (refused.status, f"{preset}:{line} [" in refused.error["message"]) == (400, True), (name, path, refused)
    preset.write_text("[a]\nctx-size = 128\n")  # not asked for: only files are checked again
    shutil.copy(folder / "a.gguf", preset.parent / "later.gguf")
    assert eventually(lambda: server.post("/completion", {"model": "c", "prompt": "a", "n_predict": 1}).status == 200, "the file")
    assert server.post("/completion", {"model": "a", "prompt": "a"}).status == 400
    assert reload(server) == ["a", "b"]
    assert server.post("/completion", {"model": "a", "prompt": "a", "n_predict": 1}).status == 200


def test_many_reloads_at_once(folder: Path, router: StartRouter) -> None:
    server = router(models_dir=folder)
    server.load("a")
    shutil.copy(folder / "a.gguf", folder / "b.gguf")
    answers: list[list[str]] = []
    threads = [threading.Thread(target=lambda: answers.append(reload(server))) for _ in range(16)]
    for thread in threads:
        thread.start()
        server.process.send_signal(signal.SIGHUP)
    for thread in threads:
        thread.join()
    assert answers == [["a", "b"]] * 16
    assert server.status("a") == "loaded"
    eventually(lambda: server.log.count("models reloaded") == 1, "its line in the log")


# ---------------------------------------------------------------- --watch


def listed(server: Router) -> list[str]:
    return [model["id"] for model in server.get("/v1/models").json["data"]]


@pytest.fixture
def watching(folder: Path, preset: Path, router: StartRouter) -> Router:
    preset.write_text("[a]\nctx-size = 256\n")
    server = router("--models-preset", str(preset), "--watch", models_dir=folder)
    server.load("a")
    eventually(lambda: f"watching {folder}" in server.log and f"watching {preset.parent}" in server.log, "the watch")
    return server


def test_changes_are_seen(watching: Router, folder: Path, preset: Path) -> None:
    server = watching
    (folder / "deep" / "er").mkdir(parents=True)
    shutil.copy(folder / "a.gguf", folder / "deep" / "er" / "x.gguf")
    eventually(lambda: "deep/er/x" in listed(server), "the new folder")
    shutil.rmtree(folder / "deep")
    eventually(lambda: listed(server) == ["a"], "the end of the new folder")
    other = preset.with_name("other.ini")
    other.write_text("[a]\nctx-size = 256\nalias = z\n")
    other.rename(preset)  # like editors
    eventually(lambda: server.get("/v1/models/a").json["aliases"] == ["z", "a.gguf"], "the new preset")
    preset.write_text("[*]\nnonsense = 1\n")
    eventually(lambda: "reload refused, nothing has changed" in server.log, "a line in the log")
    preset.write_text("[a]\nnonsense = 1\n")
    eventually(lambda: "unknown key nonsense" in server.get("/v1/models/a").json["status"].get("error", ""), "the mistake in the listing")
    preset.write_text("[a]\nctx-size = 256\nalias = y\n")
    eventually(lambda: server.get("/v1/models/a").json["aliases"] == ["y", "a.gguf"], "the corrected preset")
    assert server.status("a") == "loaded"


def test_what_is_news(folder: Path, preset: Path) -> None:
    preset.write_text("")

    async def run() -> list[str]:
        async def nothing() -> None:
            pass

        watch = Watch(parse(["--models-dir", str(folder), "--models-preset", str(preset)], {"LLAMA_CACHE": "/cache"}), nothing)
        try:
            below = [f"m.gguf{end}" for end in ("", ".incomplete", ".downloadInProgress", ".part", ".lock", ".tmp", "~")] + ["deep/m.gguf"]
            paths = [
                *(f"{folder}/{name}" for name in below),
                str(preset),
                f"{preset}.swp",
                f"{preset.parent}/x",
                "/cache/refs/main",
                "/cache2/x",
            ]
            return [path for path in paths if watch.is_news(None, path)]
        finally:
            await watch.stop()

    assert asyncio.run(run()) == [f"{folder}/m.gguf", f"{folder}/deep/m.gguf", str(preset), "/cache/refs/main"]


def test_a_folder_that_goes_and_comes_back(watching: Router, folder: Path, tmp_path: Path) -> None:
    server = watching
    before = listed(server)
    folder.rename(tmp_path / "elsewhere")
    eventually(lambda: "there is no such folder" in server.log, "a line in the log")
    assert listed(server) == before
    assert server.status("a") == "loaded"
    folder.mkdir()
    for name in ("back", "a"):
        shutil.copy(tmp_path / "elsewhere" / "a.gguf", folder / f"{name}.gguf")
    eventually(lambda: listed(server) == ["a", "back"], "the new folder")
    shutil.copy(tmp_path / "elsewhere" / "a.gguf", folder / "more.gguf")
    eventually(lambda: "more" in listed(server), "news from the new folder")
    (folder / "more.gguf").unlink()
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "more" not in listed(server), "its end")


def test_folders_are_polled_if_need_be(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[bool | None] = []

    async def awatch(*paths: Path, force_polling: bool | None, **options: Any) -> AsyncIterator[set[Any]]:
        calls.append(force_polling)
        if not force_polling:
            raise OSError(28, "No space left on device")
        yield set()
        await asyncio.Event().wait()

    async def run() -> None:
        async def change() -> None:
            changed.set()

        changed = asyncio.Event()
        watch = Watch(parse(["--models-dir", str(folder)], {}), change)
        await asyncio.wait_for(changed.wait(), 60)
        await watch.stop()

    monkeypatch.setattr(watch_module, "_import_awatch", lambda: awatch)
    monkeypatch.setattr(watch_module, "LOOK_AGAIN_S", 0.01)
    with caplog.at_level(logging.INFO, "fastrouter"):
        asyncio.run(run())
    assert calls == [None, True]
    assert [record.message for record in caplog.records] == [
        "--watch: the system cannot report changes ([Errno 28] No space left on device), so folders are polled",
        f"watching {folder}",
    ]


def test_a_file_that_always_changes_delays_no_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes come faster than QUIET_S and never stop."""

    async def awatch(*paths: Path, **options: Any) -> AsyncIterator[set[Any]]:
        while True:
            yield {1}
            await asyncio.sleep(0.001)

    async def run() -> None:
        async def change() -> None:
            changed.set()

        changed = asyncio.Event()
        watch = Watch(parse(["--models-dir", str(folder)], {}), change)
        await asyncio.wait_for(changed.wait(), 60)
        await watch.stop()

    monkeypatch.setattr(watch_module, "_import_awatch", lambda: awatch)
    monkeypatch.setattr(watch_module, "QUIET_S", 0.05)
    monkeypatch.setattr(watch_module, "MAX_WAIT_S", 0.2)
    asyncio.run(run())


def test_a_hidden_model_is_not_listed_but_answers(router: StartRouter, tmp_path: Path, models: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    shutil.copy(models / "tiny0.gguf", cache)
    presets = tmp_path / "presets.ini"
    presets.write_text(f"[*]\ndedup-cache-models = 1\n[mine]\nmodel = {cache / 'tiny0.gguf'}\n")
    server = router("--models-preset", str(presets), env={"LLAMA_CACHE": str(cache)})
    assert [model["id"] for model in server.get("/v1/models").json["data"]] == ["mine"]
    assert server.post("/tokenize", {"model": "tiny0", "content": "the cat"}).status == 200
    presets.write_text(presets.read_text().replace("models = 1", "models = 0"))
    assert [model["id"] for model in server.get("/v1/models?reload=1").json["data"]] == ["mine", "tiny0"]
    assert server.status("tiny0") == "loaded", "being listed or not is nothing to its process"
