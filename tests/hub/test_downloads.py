"""Models from the hub, through a real router: POST and DELETE /models, the events, -hf and presets; what a client sees meanwhile."""

import contextlib
import http.client
import json
import os
import random
import re
import signal
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fake_hub
import pytest
from conftest import Router, StartRouter, descendants, eventually, is_alive
from fake_hub import COMMIT, FakeHub, serving
from tiny_models import make_llama
from tiny_projectors import make_llava

from fastrouter.catalog.catalog import Catalog
from fastrouter.config.config import parse
from fastrouter.errors import ConfigError

TOKEN = "hf_" + "s3cret" * 6
NAME = "u/r:Q4_K_M"
FILE = "m-Q4_K_M.gguf"
CHAT = {"messages": [{"role": "user", "content": "the cat"}], "temperature": 0, "max_tokens": 6}


@pytest.fixture(scope="module")
def tiny(models: Path) -> bytes:
    return (models / "tiny0.gguf").read_bytes()


@pytest.fixture
def hub(tiny: bytes) -> Iterator[FakeHub]:
    with serving(FakeHub(repos={"u/r": {FILE: tiny}})) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def start(router: StartRouter, hub: FakeHub, cache: Path) -> StartRouter:
    def start(*flags: str, **more: Any) -> Router:
        env = {
            "LLAMA_CACHE": str(cache.parent / "x" / ".." / cache.name),
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DOWNLOAD_TIMEOUT": "2",
            **more.pop("env", {}),
        }
        return router(*flags, env=env, **more)

    return start


feeds: "list[Events]" = []


@pytest.fixture(autouse=True)
def closed_feeds() -> Iterator[None]:
    """Set up before the routers, so that they are gone when it ends."""
    yield
    for feed in feeds:
        feed.close()
    feeds.clear()


class Events:
    """The events of /models/sse, collected in the background."""

    def __init__(self, router: Router) -> None:
        self.events: list[dict[str, Any]] = []
        self._connection, self._response = router.open("GET", "/models/sse")
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        feeds.append(self)

    def _read(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException), self._response:
            for line in self._response:
                if line.startswith(b"data: "):
                    self.events.append(json.loads(line[6:]))

    def close(self) -> None:
        """The router is gone."""
        self._thread.join()
        self._connection.close()

    def of(self, *names: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] in names]

    def wait(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = eventually(lambda: self.of(name), name)
        return found[0]


def blobs(cache: Path) -> list[int]:
    """Their sizes."""
    return sorted(path.stat().st_size for path in cache.glob("models--u--r/blobs/*"))


def held_by(server: Router) -> tuple[int, int]:
    """(its descriptors, its children and theirs)."""
    return len(os.listdir(f"/proc/{server.process.pid}/fd")), len(descendants(server.process.pid))


def settled(server: Router) -> tuple[int, int]:
    """What it holds when that has not changed for half a second."""
    seen = [held_by(server)]

    def is_settled() -> bool:
        seen.append(held_by(server))
        return len(seen) > 50 and len(set(seen[-50:])) == 1

    eventually(is_settled, "quiet")
    return seen[-1]


# ---------------------------------------------------------------- POST /models


def test_from_the_hub_to_an_answer(start: StartRouter, hub: FakeHub, models: Path, tiny: bytes) -> None:
    server = start("--api-prefix", "", models_dir=models)
    expected = server.post("/v1/chat/completions", {**CHAT, "model": "tiny0"}).json["choices"]
    feed = Events(server)
    hub.always[FILE] = fake_hub.slow(len(tiny) / 1.5)
    answer = server.post("/models", {"model": NAME})
    assert (answer.status, answer.json) == (200, {"success": True})
    url = f"{hub.url}/u/r/resolve/{COMMIT}/{FILE}"

    def listed() -> dict[str, Any]:
        [model] = [model for model in server.get("/v1/models").json["data"] if model["id"] == NAME]
        return dict(model)

    coming = eventually(lambda: listed() if 0 < listed()["status"]["progress"][url]["done"] < len(tiny) else None, "the middle")
    assert coming["status"]["value"] == "downloading"
    assert coming["status"]["progress"][url]["total"] == len(tiny)
    assert server.get(f"/v1/models/{NAME}").json["status"]["value"] == "downloading"
    early = server.post("/v1/chat/completions", {**CHAT, "model": NAME})
    assert (early.status, early.error["type"], early.headers["Retry-After"]) == (503, "unavailable_error", "5")
    assert early.error["message"].startswith(f"model '{NAME}' is downloading (")
    assert server.post("/models", {"model": NAME.lower()}).error["message"] == f"model '{NAME.lower()}' is already downloading"
    assert feed.wait("download_finished") == {"model": NAME, "event": "download_finished", "data": {"id": NAME}}
    progress = [event["data"][url]["done"] for event in feed.of("download_progress")]
    assert progress == sorted(progress)
    assert len(progress) >= 3
    assert progress[-1] == len(tiny)
    assert [event["data"]["status"] for event in feed.of("model_status") if event["model"] == NAME] == ["downloading"]
    model = listed()
    assert (model["status"]["value"], model["source"], model["can_remove"], "error" in model["status"]) == (
        "unloaded",
        "cache",
        True,
        False,
    )
    assert server.post("/v1/chat/completions", {**CHAT, "model": NAME}).json["choices"] == expected
    again = server.post("/models", {"model": NAME})
    assert (again.status, again.error["message"]) == (400, f"model '{NAME}' already exists")
    assert server.post("/models", {"model": "u/r"}).status == 400


def test_shards_and_projector(start: StartRouter, hub: FakeHub, tmp_path: Path, cache: Path) -> None:
    make_llama(tmp_path / "m-Q8_0.gguf", tensors_per_shard=9)
    hub.repos["u/r"] = {path.name: path.read_bytes() for path in tmp_path.glob("m-*.gguf")} | {
        "mmproj-F16.gguf": make_llava(tmp_path / "mmproj.gguf").read_bytes()
    }
    server = start()
    feed = Events(server)
    assert server.post("/models", {"model": "u/r"}).status == 200
    assert feed.wait("download_finished")["data"] == {"id": "u/r:Q8_0"}
    model = server.get("/v1/models/u/r:Q8_0").json
    assert model["architecture"]["input_modalities"] == ["text", "image"]
    assert model["status"]["args"][:3] == [
        "llama-server",
        "--model",
        str(cache / f"models--u--r/snapshots/{COMMIT}/m-Q8_0-00001-of-00003.gguf"),
    ]
    assert len(blobs(cache)) == 4
    assert len(feed.of("download_progress")[-1]["data"]) == 4
    server.load("u/r:Q8_0")


def test_a_projector_at_an_address_for_a_section(start: StartRouter, hub: FakeHub, tmp_path: Path) -> None:
    """Model and projector are downloaded one after the other, under one name."""
    hub.repos["u/eyes"] = {"mmproj-x.gguf": make_llava(tmp_path / "mmproj.gguf").read_bytes()}
    preset = tmp_path / "p.ini"
    preset.write_text(f"[mine]\nhf-repo = u/r\nmmproj-url = {hub.url}/u/eyes/resolve/main/mmproj-x.gguf\n")
    server = start("--models-preset", str(preset))
    eventually(lambda: server.get("/v1/models/mine").json["architecture"]["input_modalities"] == ["text", "image"], "both", 60)
    server.load("mine")


@pytest.mark.parametrize("is_local", [True, False], ids=["a local model", "a model of the hub"])
def test_a_projector_at_an_address(start: StartRouter, hub: FakeHub, tmp_path: Path, models: Path, *, is_local: bool) -> None:
    """It may be in another repository. With the next start, it is there."""
    hub.repos["u/eyes"] = {"deep/mmproj-x.gguf": make_llava(tmp_path / "mmproj.gguf").read_bytes(), "mmproj-other.gguf": b"GGUF"}
    model = ["-m", str(models / "tiny0.gguf")] if is_local else ["-hf", "u/r"]
    url = f"{hub.url}/u/eyes/resolve/main/deep/mmproj-x.gguf?download=true"
    for _ in range(2):
        server = start(*model, "--mmproj-url", url)
        eventually(lambda: server.get("/health").status == 200, "the load", 60)  # noqa: B023
        [entry] = server.get("/v1/models").json["data"]
        assert entry["architecture"]["input_modalities"] == ["text", "image"]
        assert server.get("/props").json["modalities"]["vision"] is True
        server.stop()
    assert (len(hub.ranges("deep/mmproj-x.gguf")), hub.ranges("mmproj-other.gguf")) == (1, [])


def test_a_wrong_address_of_a_projector(router: StartRouter, models: Path, tmp_path: Path) -> None:
    for url, words in (
        ("https://example.org/u/r/resolve/main/m.gguf", "must be a file of the hub, like"),
        ("mmproj.gguf", "must be a file of the hub, like"),
        ("https://huggingface.co/u/r/resolve/v2/m.gguf", "only files of the revision main"),
        ("https://huggingface.co/u/r/resolve/main/..%2Fm.gguf", "is not a file name"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            Catalog(parse(["-m", str(models / "tiny0.gguf"), "--mmproj-url", url], {}))
    preset = tmp_path / "p.ini"
    preset.write_text(f"[a]\nmodel = {models / 'tiny0.gguf'}\nmmproj-url = nothing\n[b]\nmodel = {models / 'tiny0.gguf'}\n")
    found = Catalog(parse(["--models-preset", str(preset)], {}))
    assert found.get("b").error is None
    assert "p.ini:3 [a] mmproj-url nothing: must be a file of the hub" in str(found.get("a").error)
    with pytest.raises(ConfigError, match="both name the projector"):
        parse(["-m", str(models / "tiny0.gguf"), "--mmproj-url", "x", "--mmproj", str(models / "tiny0.gguf")], {})


def test_what_cannot_be_downloaded(start: StartRouter, hub: FakeHub, cache: Path, models: Path) -> None:
    server = start(models_dir=models)
    feed = Events(server)
    for body, words in (
        ({"model": "no/such"}, "no/such: there is no such repository"),
        ({"model": "u/r:Q2_K"}, f"no model of quant Q2_K; its GGUF files: {FILE}"),
        ({"model": "../../etc/passwd"}, "not the name of a model on the hub"),
        ({"model": "tiny0"}, "model 'tiny0' already exists"),
        ({"model": ""}, "model must be a non-empty string"),
        ({"model": 7}, "model must be a non-empty string"),
        ({}, "model must be a non-empty string"),
    ):
        answer = server.post("/models", body)
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error"), body
        assert words in answer.error["message"]
    assert [event["model"] for event in feed.of("download_failed")] == ["no/such", "u/r:Q2_K"]
    assert "there is no such repository" in feed.of("download_failed")[0]["data"]["error"]
    assert not list(cache.rglob("*.gguf"))
    assert [model["id"] for model in server.get("/v1/models").json["data"]] == ["tiny0", "tiny1", "tiny2"]


def test_offline(start: StartRouter, hub: FakeHub) -> None:
    answer = start("--offline").post("/models", {"model": NAME})
    assert (answer.status, answer.error["message"]) == (400, "--offline forbids downloads")
    assert hub.seen == []


def test_a_wrong_hash_makes_no_model(start: StartRouter, hub: FakeHub, cache: Path) -> None:
    server = start()
    feed = Events(server)
    hub.always[FILE] = fake_hub.flip(1000)
    server.post("/models", {"model": NAME})
    assert "does not match the hub's checksum" in feed.wait("download_failed")["data"]["error"]
    assert server.get("/v1/models").json["data"] == []
    assert blobs(cache) == []
    assert server.post("/v1/chat/completions", {**CHAT, "model": NAME}).status == 404
    hub.always.clear()
    assert server.post("/models", {"model": NAME}).status == 200
    feed.wait("download_finished")


def test_cancel_and_go_on(start: StartRouter, hub: FakeHub, cache: Path, tiny: bytes) -> None:
    server = start()
    feed = Events(server)
    hub.faults[FILE] = deque([fake_hub.stall(200_000)])
    server.post("/models", {"model": NAME})
    eventually(lambda: blobs(cache) == [200_000], "some of it")
    before = descendants(server.process.pid)
    assert server.post("/models/unload", {"model": NAME}).json == {"success": True}
    assert feed.wait("download_failed")["data"] == {"error": "it was cancelled"}
    eventually(lambda: len([pid for pid in before if is_alive(pid)]) < len(before), "the end of its process")
    assert server.post("/models/unload", {"model": NAME}).status == 400
    server.post("/models", {"model": NAME})
    feed.wait("download_finished")
    assert hub.ranges(FILE) == [None, "bytes=200000-"]
    assert blobs(cache) == [len(tiny)]


def test_two_at_once(start: StartRouter, hub: FakeHub, tiny: bytes, models: Path) -> None:
    for index in range(3):
        hub.repos[f"u/r{index}"] = {f"m{index}.gguf": tiny}
        hub.always[f"m{index}.gguf"] = fake_hub.slow(len(tiny) * 1.5)
    server = start(models_dir=models)
    feed = Events(server)
    server.load("tiny0")  # after the spare has served, all processes of the start are running
    server.unload("tiny0")
    before = settled(server)
    threads = [threading.Thread(target=server.post, args=("/models", {"model": f"u/r{index}"})) for index in range(3)]
    for index, thread in enumerate(threads):
        thread.start()
        eventually(lambda index=index: len(server.get("/v1/models").json["data"]) > index + len(list(models.iterdir())), "its turn")
    eventually(lambda: feed.of("download_finished"), "the first")
    assert hub.ranges("m2.gguf") == []
    eventually(lambda: len(feed.of("download_finished")) == 3, "all of them")
    for thread in threads:
        thread.join()
    assert all(now <= was for now, was in zip(settled(server), before, strict=True))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_router_ends_on_the_way(start: StartRouter, hub: FakeHub, number: signal.Signals) -> None:
    hub.always[FILE] = fake_hub.slow(20_000)
    server = start()
    server.post("/models", {"model": NAME})
    eventually(lambda: hub.ranges(FILE), "the transfer")
    server.process.send_signal(number)
    assert server.await_end() == (0 if number is signal.SIGTERM else -9)


def test_the_token(start: StartRouter, hub: FakeHub, cache: Path) -> None:
    hub.token = TOKEN
    assert "HF_TOKEN" in start().post("/models", {"model": NAME}).error["message"]
    hub.always[FILE] = fake_hub.slow(1_000_000)
    server = start("--verbose", env={"HF_TOKEN": TOKEN})
    feed = Events(server)
    assert server.post("/models", {"model": NAME}).status == 200
    for pid in descendants(server.process.pid):
        with contextlib.suppress(OSError):
            assert TOKEN.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    feed.wait("download_finished")
    assert TOKEN not in server.log + server.out + json.dumps(feed.events)
    assert not [path for path in cache.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


# ---------------------------------------------------------------- -hf and presets


def test_hf_repo_is_downloaded_and_loaded(start: StartRouter, hub: FakeHub, tiny: bytes) -> None:
    hub.always[FILE] = fake_hub.slow(len(tiny))
    server = start("-hf", "u/r:q4_k_m", "-a", "mine", can_wait=False)
    assert server.get("/health").error["message"] == "Loading model"
    early = server.post("/v1/chat/completions", CHAT)
    assert (early.status, early.error["message"].partition(" (")[0]) == (503, "model 'mine' is downloading")
    assert server.get("/v1/models/mine").json["status"]["value"] == "downloading"
    server.await_status("mine", "loaded")
    assert server.post("/v1/chat/completions", CHAT).status == 200
    eventually(lambda: "mine: downloaded" in server.log, "its line in the log")


def test_presets_are_downloaded(start: StartRouter, hub: FakeHub, tmp_path: Path, tiny: bytes) -> None:
    hub.repos["u/r"] = {"a.gguf": tiny, "b.gguf": tiny}
    presets = tmp_path / "presets.ini"
    presets.write_text("[one]\nhf-repo = u/r\nhf-file = b.gguf\nload-on-startup = 1\n[two]\nhf-repo = no/such\n[three]\nhf-repo = u/r:a\n")
    server = start("--models-preset", str(presets))
    server.await_status("one", "loaded")
    server.await_status("three", "unloaded")
    [failed] = eventually(
        lambda: [m for m in server.get("/models").json["data"] if m["id"] == "two" and m["status"].get("failed")], "its end"
    )
    assert (failed["status"]["value"], failed["can_remove"]) == ("unloaded", False)
    assert "no/such: there is no such repository" in failed["status"]["error"]
    answer = server.post("/v1/chat/completions", {**CHAT, "model": "two"})
    assert (answer.status, "there is no such repository" in answer.error["message"]) == (400, True)
    hub.repos["no/such"] = {"c.gguf": tiny[:-1] + b"x"}
    assert server.post("/models", {"model": "two"}).status == 200
    eventually(lambda: server.get("/v1/models/two").json["status"].keys().isdisjoint({"error", "progress"}), "it is there")
    assert server.post("/v1/chat/completions", {**CHAT, "model": "two"}).status == 200


# ---------------------------------------------------------------- DELETE /models


def delete(server: Router, name: str) -> Any:
    return server.request("DELETE", f"/models?model={quote(name, safe='')}")


@pytest.fixture
def filled(hub: FakeHub, start: StartRouter, cache: Path, models: Path, tmp_path: Path) -> Router:
    """A router whose cache holds two quants and their projector."""
    contents = [(models / f"tiny{index}.gguf").read_bytes() for index in range(2)]
    hub.repos["u/r"] = {FILE: contents[0], "m-Q8_0.gguf": contents[1], "mmproj-F16.gguf": make_llava(tmp_path / "mmproj.gguf").read_bytes()}
    server = start(models_dir=models)
    feed = Events(server)
    for quant in ("Q4_K_M", "Q8_0"):
        assert server.post("/models", {"model": f"u/r:{quant}"}).status == 200
    eventually(lambda: len(feed.of("download_finished")) == 2, "both")
    return server


def test_delete_while_it_runs(filled: Router, cache: Path) -> None:
    filled.load(NAME)
    feed = Events(filled)
    with filled.stream("/v1/chat/completions", {**CHAT, "model": NAME, "max_tokens": 20_000, "stream": True}) as events:
        next(iter(events))
        threading.Thread(target=events.close).start()
        answer = delete(filled, NAME)
    assert (answer.status, answer.json) == (200, {"success": True})
    assert feed.wait("model_remove") == {"model": NAME, "event": "model_remove", "data": {}}
    assert len(blobs(cache)) == 2  # the other quant, and the projector that it needs
    assert filled.get(f"/v1/models/{NAME}").status == 404
    assert filled.post("/v1/chat/completions", {**CHAT, "model": "u/r:Q8_0"}).status == 200
    assert (delete(filled, NAME).status, delete(filled, NAME).error["type"]) == (404, "not_found_error")
    assert filled.request("DELETE", "/models", {"model": "u/r:q8_0"}).status == 200
    assert not (cache / "models--u--r").exists()


def test_delete_on_the_way(start: StartRouter, hub: FakeHub, cache: Path) -> None:
    server = start()
    hub.faults[FILE] = deque([fake_hub.stall(100_000)])
    server.post("/models", {"model": NAME})
    eventually(lambda: blobs(cache) == [100_000], "some of it")
    assert delete(server, NAME).status == 200
    assert blobs(cache) == []
    assert server.get("/v1/models").json["data"] == []


def test_delete_beside_a_download(start: StartRouter, hub: FakeHub, cache: Path, tiny: bytes) -> None:
    """The last model of a repository is deleted while another of its models is being downloaded."""
    hub.repos["u/r"]["m-Q8_0.gguf"] = tiny[:-1] + b"x"
    server = start()
    feed = Events(server)
    server.post("/models", {"model": NAME})
    feed.wait("download_finished")
    hub.always["m-Q8_0.gguf"] = fake_hub.slow(len(tiny))
    server.post("/models", {"model": "u/r:Q8_0"})
    eventually(lambda: len(blobs(cache)) == 2, "its part")
    assert delete(server, NAME).status == 200
    eventually(lambda: len(feed.of("download_finished")) == 2, "the other")
    assert [model["id"] for model in server.get("/v1/models").json["data"]] == ["u/r:Q8_0"]
    assert blobs(cache) == [len(tiny)]


def test_blobs_of_other_snapshots_stay(filled: Router, cache: Path) -> None:
    """An older revision has the same file under another name; a link that leads out of the cache is removed, not followed."""
    old = cache / "models--u--r" / "snapshots" / ("a" * 40)
    old.mkdir()
    current = cache / "models--u--r" / "snapshots" / COMMIT
    (old / "copy.gguf").symlink_to(os.readlink(current / FILE))
    outside = cache.parent / "outside.gguf"
    outside.write_bytes(b"precious")
    (current / "m-Q8_0.gguf").unlink()
    (current / "m-Q8_0.gguf").symlink_to(outside)
    assert filled.get("/v1/models?reload=1").status == 200
    assert delete(filled, NAME).status == 200
    assert (old / "copy.gguf").resolve().is_file()
    assert delete(filled, "u/r:Q8_0").status == 200
    assert outside.read_bytes() == b"precious"
    assert not current.exists()


def test_the_flat_cache(start: StartRouter, cache: Path, tiny: bytes) -> None:
    cache.mkdir()
    for name in ("u_r_m-Q8_0.gguf", "other-Q8_0.gguf"):
        (cache / name).write_bytes(tiny)
        (cache / f"{name}.json").write_text("{}")
    (cache / "manifest=u=r=Q8_0.json").write_text("{}")
    server = start()
    assert delete(server, "u/r:Q8_0").status == 200
    assert sorted(path.name for path in cache.iterdir() if "other" in path.name) == ["other-Q8_0.gguf", "other-Q8_0.gguf.json"]
    assert not list(cache.glob("u_r*"))


def test_keys_with_a_scope(start: StartRouter, hub: FakeHub, tmp_path: Path, tiny: bytes) -> None:
    """A key can neither download, watch, cancel nor delete what it may not see; and a read-only key changes nothing."""
    keys = tmp_path / "keys"
    keys.write_text("all\nmine models=mine/*\nreader read-only\n")
    hub.repos["mine/r"] = {FILE: tiny}
    hub.always[FILE] = fake_hub.stall(1000)
    server = start("--api-key-file", str(keys))

    def ask(key: str, method: str, path: str, model: str | None = None) -> int:
        return server.request(method, path, None if model is None else {"model": model}, {"Authorization": f"Bearer {key}"}).status

    assert ask("reader", "POST", "/models", NAME) == 403
    assert ask("mine", "POST", "/models", NAME) == 400
    assert ask("all", "POST", "/models", NAME) == 200
    assert ask("mine", "POST", "/models", "mine/r") == 200
    listed = server.get("/v1/models", {"Authorization": "Bearer mine"}).json["data"]
    assert [model["id"] for model in listed] == ["mine/r"]
    assert (ask("mine", "GET", f"/v1/models/{NAME}"), ask("mine", "POST", "/models/unload", NAME)) == (404, 400)
    assert (ask("mine", "DELETE", f"/models?model={NAME}"), ask("reader", "DELETE", f"/models?model={NAME}")) == (404, 403)
    assert ask("mine", "POST", "/models/unload", "mine/r") == 200
    assert ask("all", "GET", f"/v1/models/{NAME}") == 200
    assert ask("all", "DELETE", f"/models?model={NAME}") == 200


def test_what_may_not_be_deleted(filled: Router, cache: Path, models: Path) -> None:
    answer = delete(filled, "tiny0")
    assert (answer.status, answer.error["type"], "not removable" in answer.error["message"]) == (400, "invalid_request_error", True)
    assert filled.request("DELETE", "/models").status == 400
    before = {
        path: path.lstat().st_mtime_ns
        for folder in (cache, models, cache.parent)
        for path in folder.rglob("*")
        if "router" not in str(path)
    }
    rng = random.Random(7)
    pieces = [
        "..",
        "/",
        "\\",
        "models--u--r",
        "u/r",
        ":",
        "blobs",
        "snapshots",
        "%2e%2e",
        "\0",
        "\n",
        "~",
        "*",
        "Q4_K_M",
        ".",
        FILE,
        str(cache),
        "é",
        " ",
    ]
    names = [str(models), str(cache), "..", "../..", "/", ".", "u/r:../../x", "u/r/../../x", f"../{FILE}", f"{cache}/models--u--r"]
    names += ["".join(rng.choices(pieces, k=rng.randint(1, 6))) for _ in range(200 - len(names))]
    known = {NAME, "u/r", f"u/r/{FILE}"}
    for name in names:
        if name in known:
            continue
        for method, path, body in (("DELETE", f"/models?model={quote(name, safe='')}", None), ("POST", "/models", {"model": name})):
            answer = filled.request(method, path, body)
            assert answer.status in (400, 404), (name, answer)
    after = {
        path: path.lstat().st_mtime_ns
        for folder in (cache, models, cache.parent)
        for path in folder.rglob("*")
        if "router" not in str(path)
    }
    assert after == before
