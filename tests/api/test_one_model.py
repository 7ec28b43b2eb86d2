"""A router that was started with --model and no folder or preset: it behaves like llama-server with that model."""

import asyncio
import contextlib
import os
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytest
from conftest import Router, StartRouter
from waiting import FAKE

from fastrouter.app import router
from fastrouter.config.config import parse
from fastrouter.errors import ConfigError
from fastrouter.options.limits import DEFAULT_POLL
from fastrouter.supervisor.workers.launch import Launched, environment_of


@pytest.fixture(scope="module")
def server(module_router: StartRouter, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Router:
    """The cache has a model too, which is not used."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "cached.gguf").symlink_to(models / "tiny1.gguf")
    return module_router("-m", str(models / "tiny0.gguf"), "--alias", "mine", env={"LLAMA_CACHE": str(cache)})


def test_any_name_means_it(server: Router) -> None:
    for name in ("mine", "gpt-4o", "cached", "", None):
        answer = server.post("/v1/completions", {"model": name, "prompt": "the cat", "max_tokens": 2})
        assert (answer.status, answer.json["model"]) == (200, "mine")
    assert server.get("/slots?model=gpt-4o").json == server.get("/slots").json
    assert server.post("/tokenize", {"content": "the", "model": "gpt-4o"}).status == 200


def test_it_is_the_only_one_listed(server: Router) -> None:
    listing = server.get("/v1/models").json
    assert [model["id"] for model in listing["data"]] == [model["name"] for model in listing["models"]] == ["mine"]
    assert server.get("/v1/models/cached").status == 404


def test_commands_want_its_own_name(server: Router) -> None:
    for path in ("/models/unload", "/models/load", "/models/pin"):
        assert server.post(path, {"model": "gpt-4o"}).error["message"] == "model 'gpt-4o' not found"
    assert server.status("mine") == "loaded"
    answer = server.post("/models", {"model": "user/repo"})
    assert (answer.status, "this server has one model" in answer.error["message"]) == (400, True)


def test_props_and_metrics_are_its_own(server: Router) -> None:
    props = server.get("/props").json
    assert props["model_alias"] == "mine"
    assert "role" not in props
    lines = server.get("/metrics").body.decode().splitlines()
    assert [line for line in lines if line.startswith("llamacpp:requests_processing")] == ["llamacpp:requests_processing 0.0"]
    assert any(line.startswith('fastrouter_requests_running{model="mine"}') for line in lines)


def test_healthy_once_it_has_been_loaded(server: Router) -> None:
    server.unload("mine")
    assert server.get("/health").json == {"status": "ok"}
    assert server.post("/completion", {"prompt": "a", "n_predict": 1}).status == 200


def test_verbose_answers(router: StartRouter, models: Path) -> None:
    """With -v, as in llama-server."""
    server = router("-m", str(models / "tiny0.gguf"), "-v")
    answer = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 2}).json
    assert answer["__verbose"]["prompt"].startswith("<s> <|im_start|>user\nthe cat")


def test_who_comes_before_a_start_that_fails_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    is_asked = threading.Event()

    def read_catalog(config: Any) -> NoReturn:
        is_asked.wait(30)
        raise ConfigError("a preset is wrong")

    monkeypatch.setattr(router, "_read_catalog", read_catalog)

    async def scenario() -> tuple[bytes, bytes]:
        launched = Launched(FAKE, environment_of(os.environ, DEFAULT_POLL))
        app = router.App(parse(["--host", str(path), "--shutdown-timeout", "1000"], {}), launched)
        run = asyncio.create_task(app.run())
        await asyncio.sleep(0)
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(path)
                break
            await asyncio.sleep(0.01)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        health = await asyncio.wait_for(reader.readuntil(b"}}"), 60)
        writer.write(b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)
        is_asked.set()
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        with pytest.raises(ConfigError, match="a preset is wrong"):
            await run
        launched.close()
        return health, answer

    health, answer = asyncio.run(scenario())
    assert health.startswith(b"HTTP/1.1 503")
    assert b"the router is starting: it reads its preset file and its folders" in health
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"the server is stopping" in answer


def test_one_that_cannot_be_loaded(router: StartRouter, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    server = router("-m", str(broken))
    answer = server.get("/health")
    assert (answer.status, answer.error["type"]) == (503, "unavailable_error")
    assert "model name=broken failed to load" in answer.error["message"]
    answer = server.post("/completion", {"prompt": "a"})
    assert (answer.status, "failed to load" in answer.error["message"]) == (400, True)
