"""Models that clients make with Ollama's create, copy and blobs: with the official package, over a restart."""

import contextlib
import hashlib
import http.client
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest
from conftest import Router, StartRouter, eventually
from tiny_models import make_llama, make_lora

GREEDY: dict[str, Any] = {"temperature": 0, "num_predict": 8}
ASK = [{"role": "user", "content": "the cat"}]
TEMPLATE = "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"


@contextlib.contextmanager
def client_of(server: Router, **headers: str) -> Iterator[ollama.Client]:
    client = ollama.Client(host=server.url, timeout=60, headers=headers)
    yield client
    client.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    make_llama(tmp_path / "models" / "tiny.gguf", chat_template=TEMPLATE)
    return tmp_path


def prompt_of(server: Router, model: str, messages: list[dict[str, str]]) -> str:
    prompt: str = server.post("/apply-template", {"model": model, "messages": messages}).json["prompt"]
    return prompt


def names(client: ollama.Client) -> set[str | None]:
    return {model.model for model in client.list().models}


def test_a_preset_survives_a_restart(router: StartRouter, folder: Path) -> None:
    flags = ("--created-dir", str(folder / "created"))
    server = router(*flags, models_dir=folder / "models")
    with client_of(server) as client:
        made = client.create(
            "mario:latest",
            from_="tiny",
            system="You are Mario,\nand brief.",
            parameters={"temperature": 0.25, "seed": 7, "num_predict": 3, "stop": ["END"], "num_ctx": 64},
            messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "It's-a me!"}],
            stream=True,
        )
        lines = [line.status for line in made]
        assert lines == ["num_ctx has no effect: the model is loaded as tiny is", "writing manifest", "success"]
        assert client.chat("mario", ASK).eval_count == 3
    server.stop()
    server.is_over = True
    server = router(*flags, models_dir=folder / "models")
    with client_of(server) as client:
        assert "mario" in names(client)
        expected = "[system]You are Mario,\nand brief.[user]hi[assistant]It's-a me![user]the cat"
        assert prompt_of(server, "mario", ASK) == expected
        own = [{"role": "system", "content": "Be long."}, *ASK]
        assert prompt_of(server, "mario", own) == "[system]Be long.[user]hi[assistant]It's-a me![user]the cat"
        shown = client.show("mario:latest")
        assert "FROM tiny" in (shown.modelfile or "")
        assert re.search(r"temperature +0.25\n", shown.parameters or "")
        assert server.post("/completion", {"model": "mario", "prompt": "a", "n_predict": 1}).json["generation_settings"]["stop"] == ["END"]
        assert client.chat("mario", ASK).eval_count == 3


def test_made_again_copied_and_deleted(router: StartRouter, folder: Path) -> None:
    server = router("--created-dir", str(folder / "created"), models_dir=folder / "models")
    with client_of(server) as client:
        client.create("a/one", from_="tiny", system="first")
        client.create("a/one", from_="tiny", system="second")
        assert prompt_of(server, "a/one", ASK).startswith("[system]second[user]")
        client.copy("a/one", "two:latest")
        client.create("three", from_="a/one", parameters={"top_k": 1})
        assert prompt_of(server, "two", ASK) == prompt_of(server, "three", ASK) == prompt_of(server, "a/one", ASK)
        client.copy("tiny", "same")
        assert client.chat("same", ASK, options=GREEDY).message == client.chat("tiny", ASK, options=GREEDY).message
        with pytest.raises(ollama.ResponseError, match="three is made from it"):
            client.delete("a/one")
        for name in ("three", "a/one", "same"):
            client.delete(name)
        assert names(client) == {"tiny", "two"}
        assert prompt_of(server, "two", ASK).startswith("[system]second[user]")
        client.delete("two")
        assert names(client) == {"tiny"}
    assert list((folder / "created" / "texts").iterdir()) == []


def test_a_model_from_an_uploaded_file(router: StartRouter, folder: Path) -> None:
    server = router("--created-dir", str(folder / "created"), models_dir=folder / "models")
    file, adapter = make_llama(folder / "other.gguf", seed=5), make_lora(folder / "adapter.gguf", seed=1)
    with client_of(server) as client:
        digest, adapter_digest = client.create_blob(file), client.create_blob(adapter)
        assert digest == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
        assert server.request("HEAD", f"/api/blobs/{digest}").status == 200
        made = client.create("mine", files={"other.gguf": digest}, parameters={"num_ctx": 512, "temperature": 0}, template=TEMPLATE)
        assert made.status == "success"
        assert server.get("/props?model=mine&autoload=true").json["default_generation_settings"]["n_ctx"] == 512
        plain = client.generate("mine", "the cat", raw=True, options=GREEDY).response
        client.create("changed", from_="tiny", adapters={"adapter.gguf": adapter_digest})
        assert client.generate("changed", "the cat", raw=True, options=GREEDY).response
        assert plain
        client.delete("mine")
        client.delete("changed")
        assert names(client) == {"tiny"}
    assert list((folder / "created" / "blobs").iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"from_": "nobody"}, "model 'nobody' not found"),
        ({}, "'from'"),
        ({"from_": "tiny", "quantize": "q4_K_M"}, "'quantize' is not supported: this server does not quantize"),
        ({"from_": "tiny", "template": "{{ .Prompt }}"}, "'template' must be a Jinja template"),
        ({"from_": "tiny", "template": "{% for"}, "'template' cannot be used"),
        ({"from_": "tiny", "parameters": {"temperature": "hot"}}, "'parameters.temperature' must be a number"),
        ({"from_": "tiny", "parameters": {"repeat_last_n": 2**70}}, "'parameters.repeat_last_n' must be"),
        ({"files": {"a.gguf": "sha256:" + "0" * 64}}, "there is no uploaded file sha256:000"),
        ({"files": {"a.gguf": "../../etc/passwd"}}, "a digest must be"),
    ],
)
def test_what_cannot_be_made(refusing: Router, fields: dict[str, Any], problem: str) -> None:
    with client_of(refusing) as client:
        with pytest.raises(ollama.ResponseError) as caught:
            client.create("new", **fields)
        assert problem in caught.value.error
        assert caught.value.status_code in (400, 404)
        assert names(client) == {"tiny"}


@pytest.fixture(scope="module")
def refusing(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("refusing")
    make_llama(folder / "tiny.gguf", chat_template=TEMPLATE)
    return module_router("--created-dir", str(folder / "created"), models_dir=folder)


@pytest.mark.parametrize("name", ["../x", "a]b", "a\nb", "", "x" * 300, "é", "[*]", "tiny", "*", "a b"])
def test_names_that_are_refused(refusing: Router, name: str) -> None:
    assert refusing.post("/api/create", {"model": name, "from": "tiny"}).status == 400
    assert refusing.post("/api/copy", {"source": "tiny", "destination": name}).status == 400


def put_blob(server: Router, digest: str, content: bytes, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", f"/api/blobs/{digest}", content, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_uploads_are_checked(router: StartRouter, folder: Path) -> None:
    server = router("--created-dir", str(folder / "created"), "--blobs-mib", "8", models_dir=folder / "models")
    blobs = folder / "created" / "blobs"
    large = b"x" * (5 << 20)
    assert put_blob(server, digest_of(large), large)[0] == 201
    status, answer = put_blob(server, digest_of(large), large + b"y")
    assert status == 400
    assert b"the file has" in answer, "9 MiB do not fit"
    small = b"y" * (1 << 20)
    status, answer = put_blob(server, digest_of(large), small)
    assert (status, b"hash is sha256:" in answer) == (400, True)
    assert put_blob(server, "sha256:xyz", small)[0] == 400
    status, answer = put_blob(server, digest_of(b""), b"")
    assert (status, b"is empty" in answer) == (400, True)
    assert [path.name for path in blobs.iterdir()] == [digest_of(large).replace(":", "-")]
    made = server.post("/api/create", {"model": "new", "files": {"a": digest_of(large)}})
    assert (made.status, "must name a GGUF file" in made.json["error"]) == (400, True)
    # A client that leaves in the middle leaves nothing behind.
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", f"/api/blobs/{digest_of(small)}")
    connection.putheader("Content-Length", str(len(small)))
    connection.endheaders(small[:1000])
    eventually(lambda: len(list(blobs.iterdir())) == 2, "its part")
    connection.close()
    eventually(lambda: len(list(blobs.iterdir())) == 1, "the end of its part")
    assert server.get("/health").status == 200


def chunks(content: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def test_a_large_upload_is_not_held_in_memory(router: StartRouter, folder: Path) -> None:
    server = router("--created-dir", str(folder / "created"), models_dir=folder / "models")
    assert server.get("/models").status == 200, "all routes are there"
    content = bytes(range(256)) * (1 << 10) * 400  # 100 MiB: above the limit of all bodies together would be 256
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # the peak is counted from here
        connection.request(
            "POST", f"/api/blobs/{digest_of(content)}", chunks(content, 1 << 20), {"Transfer-Encoding": "chunked"}, encode_chunked=True
        )
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (201, b"")
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200, "the same connection continues"
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10
    now = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) << 10
    assert peak - now < 48 << 20
    [blob] = (folder / "created" / "blobs").iterdir()
    assert blob.read_bytes() == content


def test_who_may_upload(router: StartRouter, folder: Path) -> None:
    content = b"GGUF"
    (folder / "keys").write_text("reader read-only\nmaster\nscoped models=other*\n")
    flags = ("--created-dir", str(folder / "created"))
    server = router(*flags, "--api-key-file", str(folder / "keys"), models_dir=folder / "models")
    for key, expected in (("reader", 403), ("master", 201), ("nobody", 401)):
        assert put_blob(server, digest_of(content), content, Authorization=f"Bearer {key}")[0] == expected
    for key, expected in (("reader", 403), ("scoped", 400), ("master", 200)):
        assert server.post("/api/create", {"model": "new", "from": "tiny"}, {"Authorization": f"Bearer {key}"}).status == expected
    for more in (("--insecure",), ("--blobs-mib", "0")):
        server = router(*flags, *more, models_dir=folder / "models")
        assert put_blob(server, digest_of(content), content)[0] == 403


def test_a_second_port(router: StartRouter, folder: Path) -> None:
    server = router("--ollama-port", "0", models_dir=folder / "models")
    [port] = re.findall(rf"and http://127\.0\.0\.1:(?!{server.port})(\d+)", server.out)
    client = ollama.Client(host=f"http://127.0.0.1:{port}", timeout=60)
    assert "tiny" in names(client)
    assert client.chat("tiny", ASK, options=GREEDY).eval_count == 8
    client.close()


def test_two_routers_keep_the_models_of_each_other(router: StartRouter, folder: Path) -> None:
    (folder / "others").mkdir()
    make_llama(folder / "others" / "second.gguf", seed=1)
    flags = ("--created-dir", str(folder / "created"))
    one, two = router(*flags, models_dir=folder / "models"), router(*flags, models_dir=folder / "others")
    assert one.post("/api/create", {"model": "of-one", "from": "tiny", "stream": False}).json == {"status": "success"}
    assert two.post("/api/create", {"model": "of-two", "from": "second", "stream": False}).json == {"status": "success"}
    for server, expected in ((one, {"tiny", "of-one"}), (two, {"second", "of-two"})):
        server.get("/models?reload=1")
        with client_of(server) as client:
            assert names(client) == expected, "what is made from a model that is not here is not listed"
