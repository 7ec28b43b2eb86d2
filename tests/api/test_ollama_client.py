"""The official `ollama` package against a running router, on a real model and on tiny ones."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ollama
import pytest
from conftest import Router, StartRouter, eventually
from fake_hub import FakeHub, serving
from tiny_encoders import make_bert
from tiny_models import make_llama

MESSAGES = [{"role": "user", "content": "Say hello."}]
COLD: dict[str, Any] = {"temperature": 0, "num_predict": 24}
FILE = "m-Q4_K_M.gguf"
NAME = "u/r:Q4_K_M"


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Router:
    folder = tmp_path_factory.mktemp("some")
    make_llama(folder / "tiny0.gguf")
    make_bert(folder / "bert.gguf")
    return module_router("-m", str(smollm2), "--alias", "smollm2", "-c", "4096", models_dir=folder)


@pytest.fixture
def client(server: Router) -> Iterator[ollama.Client]:
    client = ollama.Client(host=server.url, timeout=60)
    yield client
    client.close()


def test_chat_whole_and_streamed(client: ollama.Client) -> None:
    whole = client.chat("smollm2", MESSAGES, options=COLD)
    text = whole.message.content
    assert text
    assert "hello" in text.lower()
    assert whole.eval_count is not None
    assert 4 < whole.eval_count <= 24
    assert whole.eval_duration
    parts = list(client.chat("smollm2", MESSAGES, options=COLD, stream=True))
    assert len(parts) > 4
    assert "".join(part.message.content or "" for part in parts) == text
    assert (parts[-1].done_reason, parts[-1].eval_count, parts[-1].prompt_eval_count) == (
        whole.done_reason,
        whole.eval_count,
        whole.prompt_eval_count,
    )
    assert client.chat("smollm2:latest", MESSAGES, options=COLD).message.content == text


def test_a_schema(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    answer = client.chat("smollm2", MESSAGES, format=schema, options={"temperature": 0, "num_predict": 60})
    assert (answer.message.content or "").replace(" ", "").replace("\n", "") in ('{"ok":true}', '{"ok":false}')


def test_a_context_continues_the_conversation(client: ollama.Client) -> None:
    first = client.generate("smollm2", "What is the capital of France?", system="You are a helpful assistant.", options=COLD)
    assert "Paris" in (first.response or "")
    second = client.generate("smollm2", "And of Italy?", context=first.context, options=COLD)
    assert first.prompt_eval_count is not None
    assert second.prompt_eval_count is not None
    assert second.prompt_eval_count > first.prompt_eval_count + 10
    with pytest.raises(ollama.ResponseError, match="'context' is not the 'context' of an answer of this server"):
        client.generate("smollm2", "And of Italy?", context=[128000, 882])


def test_raw_and_logprobs(client: ollama.Client) -> None:
    raw = client.generate("smollm2", "The capital of France is", raw=True, options={"temperature": 0, "num_predict": 4})
    assert "Paris" in (raw.response or "")
    answer = client.chat("smollm2", MESSAGES, logprobs=True, top_logprobs=2, options={"temperature": 0, "num_predict": 3})
    assert answer.logprobs is not None
    assert [len(entry.top_logprobs or []) for entry in answer.logprobs] == [2, 2, 2]


def test_models(client: ollama.Client, server: Router) -> None:
    listed = {model.model: model for model in client.list().models}
    assert {"smollm2", "tiny0", "bert"} <= listed.keys()
    found = listed["tiny0"]
    assert found.size == (server.models / "tiny0.gguf").stat().st_size
    assert found.digest is not None
    assert len(found.digest) == 64
    assert found.details is not None
    assert (found.details.format, found.details.family) == ("gguf", "llama")
    shown = client.show("smollm2:latest")
    assert shown.capabilities is not None
    assert "completion" in shown.capabilities
    assert shown.modelinfo is not None
    assert (shown.modelinfo["general.architecture"], shown.modelinfo["llama.context_length"]) == ("llama", 8192)
    assert "num_ctx                        4096" in (shown.parameters or "")
    assert client.show("bert").capabilities == ["embedding"]
    with pytest.raises(ollama.ResponseError, match="nobody") as caught:
        client.show("nobody")
    assert caught.value.status_code == 404


def test_a_model_is_loaded_and_unloaded(client: ollama.Client, server: Router) -> None:
    assert client.generate("tiny0", keep_alive="1h").done_reason == "load"
    [running] = [model for model in client.ps().models if model.model == "tiny0"]
    assert running.expires_at is not None
    assert 3000 < (running.expires_at - datetime.now(UTC)).total_seconds() < 3700
    assert running.context_length
    assert client.chat("tiny0", [], keep_alive=0).done_reason == "unload"
    server.await_status("tiny0", "unloaded")
    assert client.chat("tiny0", [], keep_alive=0).done_reason == "unload"
    assert "tiny0" not in [model.model for model in client.ps().models]


def test_embeddings(client: ollama.Client, server: Router) -> None:
    texts = ["the cat sings", "a dog"]
    vectors = client.embed("bert", texts)
    ours = server.post("/v1/embeddings", {"model": "bert", "input": texts}).json
    for vector, entry in zip(vectors.embeddings, ours["data"], strict=True):
        assert list(vector) == pytest.approx(entry["embedding"], abs=1e-5)
    assert vectors.prompt_eval_count == ours["usage"]["prompt_tokens"]
    assert list(client.embeddings("bert", "a dog").embedding) == pytest.approx(ours["data"][1]["embedding"], abs=1e-5)
    with pytest.raises(ollama.ResponseError, match="does not support embedding"):
        client.embed("tiny0", "a dog")


def test_what_is_refused(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="nobody") as caught:
        client.chat("nobody", MESSAGES)
    assert caught.value.status_code == 404
    for act in (
        lambda: client.push("smollm2"),
        lambda: client.pull("llama3.2"),
        lambda: client.delete("tiny0"),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            act()
        assert caught.value.status_code == 400
        assert len(caught.value.error) > 20


def test_who_looks_at_the_root(server: Router) -> None:
    for accept in ("*/*", "application/json"):
        assert server.get("/", {"Accept": accept}).body == b"Ollama is running"
        head = server.request("HEAD", "/", headers={"Accept": accept})
        assert (head.status, head.body) == (200, b"")
    page = server.get("/", {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["content-type"].startswith("text/html")
    assert server.get("/").body == page.body
    assert server.get("/api/version").json["version"].count(".") == 2


def test_the_root_of_a_users_own_files(router: StartRouter, models: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("mine")
    server = router("--path", str(site), models_dir=models, can_wait=False)
    assert server.get("/", {"Accept": "*/*"}).body == b"mine"


def test_a_read_only_key_unloads_nothing(router: StartRouter, models: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("reader read-only\nmaster\n")
    server = router("--api-key-file", str(keys), models_dir=models)
    reader, master = ({"Authorization": f"Bearer {name}"} for name in ("reader", "master"))
    assert server.post("/api/generate", {"model": "tiny0"}, master).status == 200
    assert server.post("/api/generate", {"model": "tiny0", "keep_alive": 0}, reader).status == 403
    assert server.post("/api/pull", {"model": NAME}, reader).status == 403
    expiry = server.get("/api/ps", master).json["models"][0]["expires_at"]
    for path in ("/api/generate", "/v1/completions", "/v1/embeddings"):
        server.post(path, {"model": "tiny0", "prompt": "a", "input": "a", "max_tokens": 1, "keep_alive": 100}, reader)
    assert server.post("/api/generate", {"model": "tiny0", "keep_alive": "1h"}, reader).status == 200
    assert server.get("/api/ps", master).json["models"][0]["expires_at"] == expiry, "how long a model stays is no reader's business"
    assert server.post("/api/chat", {"model": "tiny0", "messages": MESSAGES, "options": {"num_predict": 1}}, reader).status == 200
    assert server.get("/api/tags").status == 401
    assert server.get("/api/tags", reader).status == 200


def test_pull_and_delete(router: StartRouter, models: Path, tmp_path: Path) -> None:
    with serving(FakeHub(repos={"u/r": {FILE: (models / "tiny0.gguf").read_bytes()}})) as hub:
        server = router(env={"LLAMA_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url}, models_dir=models)
        client = ollama.Client(host=server.url, timeout=60)
        lines = list(client.pull(f"hf.co/{NAME}", stream=True))
        assert [lines[0].status, lines[-1].status] == ["pulling manifest", "success"]
        assert client.pull(NAME).status == "success"
        assert NAME in [model.model for model in client.list().models]
        assert client.generate(NAME, "the cat", options={"num_predict": 2}).eval_count == 2
        client.delete(NAME)
        eventually(lambda: NAME not in [model.model for model in client.list().models], "its end")
        with pytest.raises(ollama.ResponseError) as caught:
            client.delete(NAME)
        assert caught.value.status_code == 404
        with pytest.raises(ollama.ResponseError):
            client.pull("u/nothing:Q4_K_M")
        client.close()
