"""What flags name on other machines before the start: preset files of the hub, files by their address, models on Docker Hub, drafts."""

import hashlib
import json
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fake_hub
import pytest
from conftest import DEADLINE_S, FASTROUTER, Router, StartRouter, environment
from fake_hub import COMMIT, FakeHub, serving

from fastrouter.config.flag import Kind, Scope
from fastrouter.config.presets import read_presets
from fastrouter.config.remote_presets import OF_FILES, OF_GUESSES, OF_MODELS, is_allowed
from fastrouter.config.table import TABLE
from fastrouter.hub import direct
from fastrouter.hub.job import DownloadFailed, HubUnavailable, Refused

FILE = "m-Q4_K_M.gguf"
PRESETS = b"[*]\nctx-size = 256\n\n[mine]\nhf-repo = u/r:Q4_K_M\nalias = other\nload-on-startup = true\n"
CHAT = {"model": "mine", "messages": [{"role": "user", "content": "the cat"}], "temperature": 0, "max_tokens": 4}


@pytest.fixture(scope="module")
def tiny(models: Path) -> bytes:
    return (models / "tiny0.gguf").read_bytes()


@pytest.fixture
def hub(tiny: bytes, models: Path) -> Iterator[FakeHub]:
    other = (models / "tiny1.gguf").read_bytes()
    repos = {"u/r": {FILE: tiny}, "u/presets": {"preset.ini": PRESETS, "big-Q8_0.gguf": other}, "u/d": {"draft-Q8_0.gguf": other}}
    with serving(FakeHub(repos=repos)) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def start(router: StartRouter, hub: FakeHub, cache: Path) -> StartRouter:
    def start(*flags: str, **more: Any) -> Router:
        return router(*flags, env={"LLAMA_CACHE": str(cache), "HF_ENDPOINT": hub.url, "HF_HUB_DOWNLOAD_TIMEOUT": "2"}, **more)

    return start


Refuse = Callable[..., str]


@pytest.fixture
def refused(hub: FakeHub, cache: Path, tmp_path: Path) -> Refuse:
    """What a start with these flags says before it ends."""

    def run(*flags: str) -> str:
        env = environment(tmp_path, LLAMA_CACHE=str(cache), HF_ENDPOINT=hub.url, HF_HUB_DOWNLOAD_TIMEOUT="2")
        found = subprocess.run(
            [*FASTROUTER, "--port", "0", *flags], capture_output=True, text=True, env=env, check=False, timeout=DEADLINE_S
        )
        assert (found.returncode, found.stdout) == (1, ""), found
        return found.stderr

    return run


# ---------------------------------------------------------------- preset files


@pytest.mark.parametrize("flags", [("-hf", "u/presets"), ("--models-preset", "hf:u/presets")])
def test_a_repository_with_a_preset_file(start: StartRouter, hub: FakeHub, flags: tuple[str, str]) -> None:
    running = start(*flags)
    assert "preset.ini in u/presets on the hub; use only presets that you trust" in running.log
    running.await_status("mine", "loaded")
    assert running.get("/props?model=other").json["default_generation_settings"]["n_ctx"] == 256
    words = running.post("/v1/chat/completions", CHAT).json["choices"][0]["message"]["content"]
    assert not hub.ranges("big-Q8_0.gguf")
    assert running.stop() == 0
    again = start(*flags, "--offline")
    again.await_status("mine", "loaded")
    assert again.post("/v1/chat/completions", CHAT).json["choices"][0]["message"]["content"] == words


def test_the_newest_preset_file_is_used_and_an_old_one_without_the_hub(start: StartRouter, hub: FakeHub) -> None:
    first = start("-hf", "u/presets")
    first.await_status("mine", "loaded")
    first.stop()
    hub.repos["u/presets"]["preset.ini"], hub.commit = PRESETS.replace(b"256", b"512"), "d" * 40
    second = start("-hf", "u/presets")
    second.await_status("mine", "loaded")
    assert second.get("/props?model=mine").json["default_generation_settings"]["n_ctx"] == 512
    second.stop()
    hub.always[""] = fake_hub.status(404)
    assert start("-hf", "u/presets").get("/v1/models/mine").status == 200


def test_presets_that_are_not_there(refused: Refuse) -> None:
    assert "preset.ini of u/r: the repository has no preset.ini" in refused("--models-preset", "hf:u/r")
    assert "preset.ini of u/nothing: " in refused("--models-preset", "hf:u/nothing")
    assert "'nothing' is not the name of a model on the hub" in refused("--models-preset", "hf:nothing")
    assert "preset.ini of u/r is not in the cache, and --offline forbids" in refused("--models-preset", "hf:u/r", "--offline")


def test_a_model_in_the_cache_needs_no_hub(start: StartRouter, hub: FakeHub) -> None:
    start("-hf", "u/r").stop()
    hub.seen.clear()
    start("-hf", "u/r").stop()
    assert hub.seen == []


LOCAL = """
model = /etc/passwd | mmproj = x | lora = x | lora-scaled = x:1 | control-vector = x | chat-template-file = x | grammar-file = x
json-schema-file = x | slot-save-path = /tmp | log-prompts-dir = /tmp/never | model-draft = x | system-prompt-file = x | messages-file = x
device = none | override-tensor = a=CPU | cpu-mask = f | threads = 64 | mlock = true | override-kv = a=int:1 | pin = true
"""
OF_ROUTER = "host = x | api-key = x | tools = all | mcp-servers-config = x | hf-token = x | path = / | log-file = x | ssl-key-file = x"


@pytest.mark.parametrize("line", [line.strip() for line in LOCAL.replace("\n", "|").split("|") if line.strip()])
def test_a_preset_file_of_the_hub_may_not_name_what_is_here(line: str, tmp_path: Path) -> None:
    path = tmp_path / "preset.ini"
    found = read_presets(path, text=f"[good]\nctx-size = 1\n\n[bad]\n{line}\n", is_remote=True)
    key = line.partition(" ")[0]
    assert found.faults == {"bad": (f"{path}:5 [bad]: {key} is not allowed in a preset file from the hub: it is about this machine",)}
    assert list(found.sections["good"]) == ["ctx_size"]
    assert found.sections["bad"] == {}
    assert not Path("/tmp/never").exists()


@pytest.mark.parametrize("line", OF_ROUTER.split(" | "))
def test_nor_what_belongs_to_the_router(line: str, tmp_path: Path) -> None:
    found = read_presets(tmp_path / "preset.ini", text=f"[*]\n{line}\n", is_remote=True)
    assert len(found.problems) == 1
    assert found.shared == {}


def test_what_is_allowed_names_nothing_of_this_machine() -> None:
    allowed = [flag for flag in TABLE if is_allowed(flag)]
    local = (
        Kind.PATH,
        Kind.FOLDER,
        Kind.NEW_FOLDER,
        Kind.FILES,
        Kind.SCALED_FILES,
        Kind.DEVICES,
        Kind.BUFFERS,
        Kind.CPU_MASK,
        Kind.CPU_RANGE,
    )
    assert not [flag.name for flag in allowed if flag.kind in local or flag.scope is Scope.ROUTER]
    assert {flag.target for flag in TABLE} >= OF_MODELS | OF_GUESSES | OF_FILES
    assert len(allowed) > 100


# ---------------------------------------------------------------- draft models


def test_a_draft_model_of_the_hub(start: StartRouter, hub: FakeHub, cache: Path) -> None:
    running = start("-hf", "u/r", "-hfd", "u/d", "-c", "512")
    running.await_status("u/r:Q4_K_M", "loaded")
    assert all(slot["speculative"] for slot in running.get("/slots").json)
    assert hub.ranges("draft-Q8_0.gguf") == [None]
    running.stop()
    again = start("-hf", "u/r", "-hfd", "u/d:Q8_0", "-c", "512", "--offline")
    assert all(slot["speculative"] for slot in again.get("/slots").json)


# ---------------------------------------------------------------- files by their address


def address(hub: FakeHub, repo: str = "u/r", file: str = FILE) -> str:
    return f"{hub.url}/{repo}/resolve/{COMMIT}/{file}"


def test_a_model_by_its_address(start: StartRouter, hub: FakeHub, cache: Path, tiny: bytes) -> None:
    hub.faults[FILE] = deque([fake_hub.cut(100_000), fake_hub.status(503)])
    running = start("-mu", address(hub), "-c", "256")
    assert running.get("/v1/models").json["data"][0]["id"] == FILE.removesuffix(".gguf")
    assert running.post("/completion", {"prompt": "a", "n_predict": 2}).status == 200
    assert (cache / FILE).read_bytes() == tiny
    assert hub.ranges(FILE) == [None, "bytes=100000-", "bytes=100000-"]
    assert f"downloading {address(hub)} to {cache / FILE}" in running.log
    running.stop()
    hub.seen.clear()
    start("-mu", address(hub), "-c", "256").stop()
    assert hub.seen == []


def test_the_flag_for_the_model_says_where_it_goes(start: StartRouter, hub: FakeHub, tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "new" / "mine.gguf"
    running = start("-mu", address(hub), "-m", str(path), "-c", "256")
    assert path.read_bytes() == tiny
    assert running.get("/v1/models").json["data"][0]["id"] == "mine"


def test_addresses_that_lead_nowhere(refused: Refuse, hub: FakeHub) -> None:
    assert f"{address(hub, file='none.gguf')}: the server answers 404" in refused("-mu", address(hub, file="none.gguf"))
    assert "ftp://x/y.gguf is not the http or https address of a file" in refused("-mu", "ftp://x/y.gguf")
    assert "--offline forbids the download" in refused("-mu", address(hub), "--offline")


def test_a_transfer_goes_on_where_it_was_cut(hub: FakeHub, tmp_path: Path, tiny: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "PAUSE_S", 0.001)
    said: list[str] = []
    hub.faults[FILE] = deque([fake_hub.cut(at) for at in (10, 1000, 5000, 5000, 100_000)])
    direct.fetch(direct.of_url(address(hub)), str(tmp_path / "x.gguf"), said.append)
    assert (tmp_path / "x.gguf").read_bytes() == tiny
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]
    assert len(said) == 5
    starts = [10, 1010, 6010, 11010, 111_010]  # each answer was cut so much later
    assert [wanted for wanted in hub.ranges(FILE) if wanted] == [f"bytes={start}-" for start in starts]
    hub.always[FILE] = fake_hub.status(503)
    with pytest.raises(HubUnavailable, match="the server answers 503"):
        direct.fetch(direct.of_url(address(hub)), str(tmp_path / "y.gguf"), said.append)


# ---------------------------------------------------------------- Docker Hub


class _Registry(BaseHTTPRequestHandler):
    content = b""
    media = "application/vnd.docker.ai.gguf.v3"
    seen: list[tuple[str, str | None]] = []  # noqa: RUF012 - one for all requests

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        digest = f"sha256:{hashlib.sha256(self.content).hexdigest()}"
        layers = [{"mediaType": "application/vnd.docker.ai.license", "digest": "sha256:0"}, {"mediaType": self.media, "digest": digest}]
        answers = {
            "/token?service=registry.docker.io&scope=repository:ai/tiny:pull": json.dumps({"token": "t0"}).encode(),
            "/v2/ai/tiny/manifests/135M": json.dumps({"layers": layers}).encode(),
            f"/v2/ai/tiny/blobs/{digest}": self.content,
        }
        body = answers.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Registry]]:
    handler = type("Handler", (_Registry,), {"content": b"GGUF" + bytes(5000), "seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        for name in ("REGISTRY", "REGISTRY_LOGIN"):
            monkeypatch.setattr(direct, name, f"http://127.0.0.1:{server.server_address[1]}")
        yield handler
        server.shutdown()
        thread.join()


def test_a_model_on_docker_hub(registry: type[_Registry], tmp_path: Path) -> None:
    found = direct.of_docker("tiny:135M")
    assert found.name == "ai_tiny_135M.gguf"
    direct.fetch(found, str(tmp_path / found.name), lambda text: None)
    assert (tmp_path / found.name).read_bytes() == registry.content
    assert [token for _, token in registry.seen] == [None, "Bearer t0", "Bearer t0"]


def test_what_docker_hub_does_not_have(registry: type[_Registry], tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="404"):
        direct.of_docker("tiny:other")
    for name in ("../x", "a/b/../c", "A", "x:y:z", "x y"):
        with pytest.raises(Refused, match="is not the name of a model on Docker Hub"):
            direct.of_docker(name)
    registry.media = "application/octet-stream"
    with pytest.raises(Refused, match="holds no GGUF file"):
        direct.of_docker("tiny:135M")


def test_a_wrong_checksum_makes_no_file(registry: type[_Registry], tmp_path: Path) -> None:
    found = direct.of_docker("tiny:135M")._replace(sha256="0" * 64)
    with pytest.raises(DownloadFailed, match="does not match its checksum"):
        direct.fetch(found, str(tmp_path / "x"), lambda text: None)
    assert list(tmp_path.iterdir()) == []


def test_only_one_flag_names_the_default_model(refused: Refuse, hub: FakeHub) -> None:
    assert "all name the default model; give one of them" in refused("-mu", address(hub), "-hf", "u/r")
