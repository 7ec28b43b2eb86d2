"""Which clients are allowed: keys with a scope, HTTPS, several sockets, hostile hosts and origins. Real routers, real clients."""

import contextlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
import trustme
from conftest import DEADLINE_S, Answer, Router, StartRouter, environment, eventually

ADMIN = {"Authorization": "Bearer admin"}
ALICE = {"Authorization": "Bearer alice-key"}
BOB = {"X-Api-Key": "bob-key"}
KEYS = "admin\nalice-key  name=alice models=tiny0,one concurrency=2\nbob-key name=bob read-only  # may look\nnobody-key models=no-such-*\n"


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("presets") / "p.ini"
    path.write_text("[tiny1]\nalias = one\n")
    return path


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text(KEYS)
    return path


@pytest.fixture(scope="module")
def server(module_router: StartRouter, models: Path, key_file: Path, presets: Path) -> Router:
    # Listing and waiting are the tests' own affair: the router's helpers have no key.
    return module_router("--api-key-file", str(key_file), "--models-preset", str(presets), "--metrics", models_dir=models)


def ids(answer: Answer) -> list[str]:
    return [model["id"] for model in answer.json["data"]]


def complete(server: Router, model: str, headers: dict[str, str], n_predict: int = 4) -> Answer:
    return server.post("/completion", {"model": model, "prompt": "the cat", "n_predict": n_predict}, headers)


def status_of(server: Router, model: str) -> str:
    value: str = server.get(f"/v1/models/{model}", ADMIN).json["status"]["value"]
    return value


# ---------------------------------------------------------------- keys with a scope


def test_a_scope_hides_models(server: Router) -> None:
    assert ids(server.get("/v1/models", ADMIN)) == ["tiny0", "tiny1", "tiny2"]
    assert ids(server.get("/models", ALICE)) == ["tiny0", "tiny1"]
    assert ids(server.get("/models", {"X-Api-Key": "nobody-key"})) == []
    assert ids(server.get("/v1/models", ADMIN)) == ["tiny0", "tiny1", "tiny2"]
    assert server.get("/v1/models/tiny2", ADMIN).status == 200
    for there, hidden, unknown in (
        (server.get("/v1/models/one", ALICE), server.get("/v1/models/tiny2", ALICE), server.get("/v1/models/tiny9", ALICE)),
        (complete(server, "tiny1", ALICE), complete(server, "tiny2", ALICE), complete(server, "tiny9", ALICE)),
        (server.get("/props?model=tiny0", ALICE), server.get("/props?model=tiny2", ALICE), server.get("/props?model=tiny9", ALICE)),
        *(
            [server.post(path, {"model": model, "content": "a"}, ALICE) for model in ("tiny0", "tiny2", "tiny9")]
            for path in ("/tokenize", "/models/load")
        ),
    ):
        assert there.status in (200, 400), there
        assert "not found" not in there.body.decode()
        assert hidden.status == unknown.status in (400, 404)
        assert hidden.error["message"].startswith("model 'tiny2' not found")
        assert hidden.body.replace(b"tiny2", b"tiny9") == unknown.body
    assert status_of(server, "tiny2") == "unloaded"


def test_a_scope_hides_who_would_have_to_leave(router: StartRouter, models: Path, key_file: Path) -> None:
    server = router("--api-key-file", str(key_file), "--models-max", "1", models_dir=models)
    assert complete(server, "tiny2", ADMIN).status == 200
    [evicted] = server.post("/models/plan", {"model": "tiny0"}, ADMIN).json["evict"]
    assert evicted["model"] == "tiny2"
    answer = server.post("/models/plan", {"model": "tiny0"}, ALICE)
    assert answer.json["evict"] == [{**evicted, "model": None}]
    assert "tiny2" not in answer.body.decode()
    assert server.post("/models/plan", {"model": "tiny2"}, ALICE).error["message"].startswith("model 'tiny2' not found")
    with endless(server, "tiny2", ADMIN):
        assert server.post("/models/plan", {"model": "tiny0"}, ADMIN).json["waits_for"]["models"] == ["tiny2"]
        assert server.post("/models/plan", {"model": "tiny0"}, ALICE).json["waits_for"]["models"] == []


def test_a_scope_hides_slots_and_logs(server: Router) -> None:
    for model in ("tiny0", "tiny2"):
        assert complete(server, model, ADMIN).status == 200

    def models_in(path: str, headers: dict[str, str]) -> set[str]:
        return {slot["model"] for slot in server.get(path, headers).json}

    assert {"tiny0", "tiny2"} <= models_in("/slots", ADMIN)
    assert "tiny0" in models_in("/slots", ALICE)
    assert "tiny2" not in models_in("/slots", ALICE)
    assert server.get("/models/logs?model=tiny2", ADMIN).status == 200
    assert server.get("/models/logs?model=tiny2", ALICE).error["message"].startswith("model 'tiny2' not found")
    assert "tiny2: " not in server.get("/models/logs", ALICE).body.decode()
    assert b'"tiny2"' in server.get("/metrics", ADMIN).body
    assert server.get("/metrics", BOB).status == 200
    assert (server.get("/metrics", ALICE).status, server.get("/metrics?model=tiny0", ALICE).status) == (403, 200)
    assert server.get("/metrics?model=tiny2", ALICE).error["message"].startswith("model 'tiny2' not found")


def test_a_scope_hides_events(server: Router) -> None:
    connection, response = server.open("GET", "/models/sse", headers=ALICE)
    other, all_of_them = server.open("GET", "/models/sse", headers=ADMIN)
    with contextlib.closing(connection), contextlib.closing(other):
        assert complete(server, "tiny2", ADMIN).status == 200
        server.post("/models/unload", {"model": "tiny2"}, ADMIN)
        complete(server, "tiny1", ADMIN)
        server.post("/models/unload", {"model": "tiny1"}, ADMIN)

        def seen(stream: http.client.HTTPResponse) -> set[str]:
            found = set()
            for line in stream:
                if line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    found.add(event["model"])
                    if (event["model"], event["data"].get("exit_code")) == ("tiny1", 0):
                        return found
            raise AssertionError("the feed ended")

        assert seen(response) == {"tiny0", "tiny1"}
        assert seen(all_of_them) == {"tiny0", "tiny1", "tiny2"}


def test_a_read_only_key(server: Router) -> None:
    assert ids(server.get("/models", BOB)) == ["tiny0", "tiny1", "tiny2"]
    server.post("/models/unload", {"model": "tiny0"}, ADMIN)
    eventually(lambda: status_of(server, "tiny0") == "unloaded", "its end")
    for path in ("/models?reload=1", "/v1/models/?reload=true", "/props?model=tiny0&autoload=true", "/slots?model=tiny0&autoload=1"):
        refused = server.get(path, BOB)
        assert (refused.status, "read-only" in refused.error["message"]) == (403, True), path
    refused = complete(server, "tiny0", BOB)
    assert (refused.status, "loading a model needs a key without `read-only`" in refused.error["message"]) == (403, True)
    assert server.post("/tokenize?autoload=1", {"model": "tiny0", "content": "a"}, BOB).status == 403
    assert server.post("/models/plan", {"model": "tiny0"}, BOB).json["action"] != "use"  # reading is allowed
    assert server.get("/props?model=tiny0", BOB).status == 200
    assert complete(server, "tiny0", ADMIN).status == 200
    assert complete(server, "tiny0", BOB).status == 200
    for method, path in (
        ("POST", "/models/load"),
        ("POST", "/models/unload"),
        ("POST", "/models"),
        ("POST", "/models/pin"),
        ("POST", "/models/tiny0/anything-new"),
        ("DELETE", "/models?model=tiny0"),
        ("POST", "/props"),
        ("POST", "/lora-adapters"),
        ("POST", "/slots/0?action=erase"),
    ):
        refused = server.request(method, path, {"model": "tiny0"}, BOB)
        assert (refused.status, refused.error["type"]) == (403, "permission_error"), path
        assert server.request(method, path, {"model": "no-such"}, ADMIN).status != 403, path
    assert status_of(server, "tiny0") == "loaded"
    assert server.post("/tokenize", {"model": "tiny0", "content": "a"}, BOB).status == 200
    assert server.post("/models/plan", {"model": "tiny0"}, BOB).json["action"] == "use"


@contextlib.contextmanager
def endless(server: Router, model: str, headers: dict[str, str]) -> Iterator[http.client.HTTPConnection]:
    """A request that runs, and whose answer would take long; at the end its client leaves."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_S)
    body = {"model": model, "prompt": ["the cat"] * 128, "n_predict": 1900, "ignore_eos": True}
    try:
        connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json", **headers})
        slots = f"/slots?model={model}"
        eventually(lambda: any(slot["is_processing"] for slot in server.get(slots, ADMIN).json), "its start")
        yield connection
    finally:
        connection.close()


def test_concurrency_counts_what_runs_and_what_waits(server: Router) -> None:
    with endless(server, "tiny0", ALICE), endless(server, "tiny1", ALICE) as second:
        refused = complete(server, "tiny1", ALICE)
        assert refused.status == 429
        assert (refused.error["type"], refused.headers["Retry-After"]) == ("rate_limit_error", "1")
        assert refused.error["message"] == "the key alice has 2 requests running or waiting, and may have 2"
        assert ids(server.get("/models", ALICE)) == ["tiny0", "tiny1"]  # reading is not a generation
        assert complete(server, "tiny2", ALICE).status == 400
        assert complete(server, "tiny2", ADMIN).status == 200
        second.close()  # a client that leaves makes room
        eventually(lambda: complete(server, "tiny1", ALICE).status == 200, "room for alice")
        assert complete(server, "tiny1", ALICE, n_predict=-5).status == 400  # a request that is refused for another reason does not count
        assert complete(server, "tiny1", ALICE).status == 200


def test_keys_are_in_no_answer_and_no_log(server: Router) -> None:
    answers = [server.get(path, ADMIN).body for path in ("/models", "/props", "/v1/models/tiny0")]
    for secret in (b"admin", b"alice-key", b"bob-key", b"nobody-key"):
        assert not any(secret in answer for answer in answers)
        assert secret.decode() not in server.log
        assert secret.decode() not in server.out


def test_no_worker_has_a_key(router: StartRouter, models: Path) -> None:
    server = router(models_dir=models, env={"LLAMA_API_KEY": "sekret", "LLAMA_ARG_N_PARALLEL": "1"})
    assert complete(server, "tiny0", {"X-Api-Key": "sekret"}).status == 200
    environ = Path(f"/proc/{server.worker_of('tiny0')}/environ").read_bytes()
    assert b"LLAMA_ARG_N_PARALLEL=1" in environ
    assert b"sekret" not in environ
    assert server.get("/models").status == 401


def test_of_two_keys_one_has_to_be_right(server: Router) -> None:
    for bearer, other, status in (("bob-key", "x", 200), ("x", "bob-key", 200), ("x", "y", 401), ("", "bob-key", 200)):
        assert server.get("/models", {"Authorization": f"Bearer {bearer}", "X-Api-Key": other}).status == status, (bearer, other)


def test_a_wrong_key(server: Router) -> None:
    for headers in ({}, {"Authorization": "Bearer alice"}, {"X-Api-Key": "name=alice"}):
        refused = server.get("/models", headers)
        assert (refused.status, refused.error["message"].startswith("Invalid API Key")) == (401, True)
        assert ("none was sent" in refused.error["message"]) is (not headers)
        assert refused.headers["WWW-Authenticate"] == "Bearer"


def test_a_default_model_outside_the_scope_is_no_default(router: StartRouter, models: Path, key_file: Path) -> None:
    server = router("--api-key-file", str(key_file), "-m", str(models / "tiny2.gguf"))
    assert server.post("/completion", {"prompt": "a", "n_predict": 1}, ADMIN).status == 200
    refused = server.post("/completion", {"prompt": "a", "n_predict": 1}, ALICE)
    assert (refused.status, refused.error["message"]) == (400, "model name is missing from the request")


# ---------------------------------------------------------------- hosts and paths


def test_a_proxy_may_pass_its_own_name(router: StartRouter, models: Path) -> None:
    refused = router(models_dir=models).get("/models", {"Host": "ai.example.com"})
    assert (refused.status, "--allowed-hosts ai.example.com" in refused.error["message"]) == (403, True)
    by_flag = router("--allowed-hosts", "other.example,ai.example.com", models_dir=models)
    by_environment = router(models_dir=models, env={"LLAMA_ARG_ALLOWED_HOSTS": "*"})
    for server in (by_flag, by_environment):
        assert server.get("/models", {"Host": "ai.example.com:443"}).status == 200
    assert by_flag.get("/models", {"Host": "evil.example"}).status == 403


def test_wrong_paths_say_what_was_meant(router: StartRouter, models: Path) -> None:
    server = router("--api-prefix", "/router", "--no-webui", models_dir=models, can_wait=False)
    for method, path, status, words in (
        ("GET", "/router/v1/models/", 200, ""),
        ("GET", "/router//v1//models", 200, ""),
        ("POST", "/router/tokenize/", 200, ""),
        ("GET", "/router/v1/models/tiny0/", 200, ""),
        ("GET", "/router/v1/v1/models", 404, "did you mean /v1/models?"),
        ("POST", "/router/v1/v1/chat/completions", 404, "did you mean /v1/chat/completions?"),
        ("GET", "/router/v1/", 404, "/v1/chat/completions"),
        ("POST", "/router/v1/api/chat", 404, "did you mean /api/chat?"),
        ("GET", "/v1/models", 404, "begin with /router"),
        ("GET", "/router/v1/chat/completions/", 405, "POST"),
        ("POST", "/router/v1/chat/completions", 400, "the request body is empty; send a JSON object"),
    ):
        answer = server.request(method, path, {"model": "tiny0", "content": "a"} if method == "POST" and status != 400 else None)
        assert answer.status == status, (path, answer)
        if status == 404:
            assert answer.error["message"].startswith("File Not Found: ")
        assert not words or words in answer.error["message"], (path, answer)


# ---------------------------------------------------------------- keys that change


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def may(server: Router, key: str) -> bool:
    return server.get("/models", {"X-Api-Key": key}).status == 200


def test_keys_change_while_it_runs(router: StartRouter, models: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("first\nsecond name=two\n")
    server = router("--api-key-file", str(path), models_dir=models)
    connection, response = server.open("GET", "/models/sse", headers={"X-Api-Key": "second"})
    with contextlib.closing(connection), response:
        assert response.status == 200
        replace(path, "first\nthird\n")  # seen by itself
        eventually(lambda: not may(server, "second"), "the end of a key")
        assert complete(server, "tiny0", {"X-Api-Key": "first"}).status == 200
        assert any(b'"loaded"' in line for line in response)  # running requests continue
    assert may(server, "first")
    assert may(server, "third")
    replace(path, "fourth\n")  # immediately after a request for it
    assert server.get("/models?reload=1", {"X-Api-Key": "third"}).status == 200
    assert (may(server, "fourth"), may(server, "third")) == (True, False)
    replace(path, "fifth\n")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: may(server, "fifth"), "the fifth key")
    # An invalid or missing file changes nothing.
    replace(path, "sixth\nseventh sekret\n")
    refused = server.get("/models?reload=1", {"X-Api-Key": "fifth"})
    assert (refused.status, f"{path}:2" in refused.error["message"]) == (400, True)
    path.unlink()
    eventually(lambda: "there is no such file; the old keys stay in use" in server.log, "a line in the log")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "reload refused" in server.log, "another one")
    assert (may(server, "fifth"), may(server, "sixth")) == (True, False)
    assert "sekret" not in server.log
    assert server.log.count("the old keys stay in use") <= 2


# ---------------------------------------------------------------- other doors


class Running:
    """A router that listens elsewhere than on plain HTTP and 127.0.0.1."""

    def __init__(self, process: "subprocess.Popen[str]", out: Path, log: Path, line: str) -> None:
        self.process = process
        self.out_path = out
        self.log_path = log
        self.addresses = line.partition("is listening on ")[2].split(" and ")

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def out(self) -> str:
        return self.out_path.read_text()

    def address(self, start: str) -> str:
        [found] = [address for address in self.addresses if address.startswith(start)]
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.await_end()

    def await_end(self) -> None:
        assert self.process.wait(DEADLINE_S) == 0, self.log
        assert "Traceback" not in self.log, self.log


@contextlib.contextmanager
def started(folder: Path, *flags: str, before: Sequence[str] = (), **options: Any) -> Iterator[Running]:
    here = folder / f"router{len(list(folder.glob('router*')))}"
    here.mkdir()
    out, log = here / "out", here / "log"
    command = [*before, sys.executable, "-m", "fastrouter", *flags]
    with out.open("w") as stdout, log.open("w") as stderr:
        process = subprocess.Popen(command, env=environment(here), stdout=stdout, stderr=stderr, text=True, **options)

    def first_line() -> str:
        assert process.poll() is None, log.read_text()
        return (out.read_text().splitlines(keepends=True) or [""])[0].removesuffix("\n") if "\n" in out.read_text() else ""

    try:
        router = Running(process, out, log, eventually(first_line, "the first line of the router"))
        yield router
        if process.poll() is None:
            router.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def run_verb(folder: Path, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "fastrouter", *arguments]
    return subprocess.run(command, env=environment(folder, **env), cwd=folder, capture_output=True, text=True, timeout=60)


def get(address: str, path: str = "/health") -> int:
    """The status that a plain client gets at a TCP address."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=DEADLINE_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


def ask_unix(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(data)
        answer = b""
        while more := client.recv(65536):
            answer += more
    return answer


class Issued:
    """A certificate in files, as an administrator has it."""

    def __init__(self, folder: Path, name: str = "server") -> None:
        ca = trustme.CA()
        issued = ca.issue_cert("127.0.0.1", "localhost")
        self.ca, self.cert, self.key = folder / f"{name}-ca.pem", folder / f"{name}.pem", folder / f"{name}-key.pem"
        self.ca.write_bytes(ca.cert_pem.bytes())
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())

    @property
    def flags(self) -> tuple[str, ...]:
        return "--ssl-cert-file", str(self.cert), "--ssl-key-file", str(self.key)


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return Issued(tmp_path_factory.mktemp("issued"))


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory, models: Path, issued: Issued) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("https")
    flags = ("--port", "0", "--models-dir", str(models), "--api-key", "secret", "--temp", "0", *issued.flags)
    with started(folder, *flags) as running:
        yield running


def test_the_openai_client_over_https(https: Running, issued: Issued) -> None:
    [address] = https.addresses
    assert address.startswith("https://127.0.0.1:")
    trust = ssl.create_default_context(cafile=str(issued.ca))
    http_client = openai.DefaultHttpxClient(verify=trust)
    with openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0, timeout=60, http_client=http_client) as client:
        assert [model.id for model in client.models.list()] == ["tiny0", "tiny1", "tiny2"]
        whole = client.completions.create(model="tiny0", prompt="the cat", max_tokens=300)
        pieces = client.completions.create(model="tiny0", prompt="the cat", max_tokens=300, stream=True)
        assert "".join(choice.text for chunk in pieces for choice in chunk.choices) == whole.choices[0].text
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
        abandoned = client.completions.create(
            model="tiny1", prompt="the cat", max_tokens=1900, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(abandoned))
        abandoned.close()
        assert client.completions.create(model="tiny1", prompt="a", max_tokens=4).choices


def test_the_verbs_over_https(https: Running, issued: Issued, tmp_path: Path) -> None:
    [address] = https.addresses
    secret = {"LLAMA_API_KEY": "secret"}
    for trust in (("--cacert", str(issued.ca)), ("--cacert", str(issued.cert)), ("--insecure",)):
        listed = run_verb(tmp_path, "list", "--url", address, *trust, **secret)
        assert (listed.returncode, "tiny2" in listed.stdout) == (0, True), listed
    said = run_verb(tmp_path, "chat", "tiny0", "hello", "--max-tokens", "4", "--url", address, "--cacert", str(issued.ca), **secret)
    assert (said.returncode, said.stderr) == (0, ""), said
    for arguments, word in (
        ((), "--cacert FILE"),
        (("--cacert", "no-such.pem"), "--cacert no-such.pem: No such file"),
        (("--cacert", str(issued.key)), "--cacert "),
    ):
        refused = run_verb(tmp_path, "list", "--url", address, *arguments, **secret)
        assert (refused.returncode, refused.stderr.count("\n"), word in refused.stderr) == (1, 1, True), refused


def test_plain_http_on_the_https_port(https: Running, tmp_path: Path) -> None:
    address = https.addresses[0].replace("https://", "http://")
    refused = run_verb(tmp_path, "list", "--url", address)
    assert (refused.returncode, "use https:// instead of http://" in refused.stderr) == (1, True), refused
    assert "handshake" not in https.log


def test_https_to_a_plain_port(server: Router, tmp_path: Path) -> None:
    refused = run_verb(tmp_path, "list", "--url", f"https://127.0.0.1:{server.port}")
    assert (refused.returncode, refused.stderr.count("\n"), "does the router speak http:// there?" in refused.stderr) == (1, 1, True), (
        refused
    )


def test_a_new_certificate_after_a_hangup(tmp_path: Path, models: Path, issued: Issued) -> None:
    here = Issued(tmp_path, "mine")
    with started(tmp_path, "--port", "0", "--models-dir", str(models), *here.flags) as running:
        [address] = running.addresses
        assert run_verb(tmp_path, "list", "--url", address, "--cacert", str(here.ca)).returncode == 0
        here.cert.write_bytes(issued.cert.read_bytes())
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: "reload refused" in running.log, "a line in the log")
        eventually(lambda: f"--ssl-key-file {here.key}: is not the key of {here.cert}" in running.log, "its line in the log")
        assert run_verb(tmp_path, "list", "--url", address, "--cacert", str(here.ca)).returncode == 0
        here.key.write_bytes(issued.key.read_bytes())
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: run_verb(tmp_path, "list", "--url", address, "--cacert", str(issued.ca)).returncode == 0, "the new one")
        assert f"curl --cacert {here.cert} {address}/v1" in running.out


def test_a_stop_under_https(tmp_path: Path, models: Path, issued: Issued) -> None:
    """One client idles, one is in the middle of a stream, one has not shaken hands."""
    flags = ("--port", "0", "--models-dir", str(models), "--shutdown-timeout", "0.2", *issued.flags)
    trust = ssl.create_default_context(cafile=str(issued.ca))
    with started(tmp_path, *flags) as running, contextlib.ExitStack() as clients:
        port = int(running.addresses[0].rpartition(":")[2])
        clients.enter_context(socket.create_connection(("127.0.0.1", port)))
        idle, busy = (http.client.HTTPSConnection("127.0.0.1", port, timeout=DEADLINE_S, context=trust) for _ in range(2))
        for connection in (idle, busy):
            clients.callback(connection.close)
        idle.request("GET", "/health")
        assert idle.getresponse().read() == b'{"status":"ok"}'
        body = {"model": "tiny0", "prompt": ["the cat"] * 128, "n_predict": 1900, "ignore_eos": True, "stream": True}
        busy.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        response = busy.getresponse()
        assert response.readline().startswith(b"data: ")
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(http.client.IncompleteRead) as cut:
            response.read()
        assert b'"the server is stopping"' in cut.value.partial
        running.await_end()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--ssl-key-file", "KEY"), ("belong together",)),
        (("--ssl-key-file", "KEY", "--ssl-cert-file", "nowhere.pem"), ("--ssl-cert-file nowhere.pem: there is no such file",)),
        (("--ssl-key-file", "CERT", "--ssl-cert-file", "CERT"), ("--ssl-key-file", "holds no PEM private key")),
        (("--api-key-file", "nowhere.txt"), ("--api-key-file nowhere.txt: there is no such file",)),
        (("--api-key-file", "CERT"), ("--api-key-file", ":1: word 2 must be one of")),
        (("--host", "0.0.0.0", "--ssl-key-file", "KEY", "--ssl-cert-file", "CERT"), ("--insecure",)),
        (("--host", "nowhere/x.sock"), ("cannot listen on nowhere/x.sock: No such file or directory",)),
        (("--host", "127.0.0.1", "--host", "::1,nowhere/x.sock"), ("cannot listen on nowhere/x.sock: No such file or directory",)),
    ],
)
def test_a_start_that_cannot_be(tmp_path: Path, issued: Issued, flags: tuple[str, ...], words: tuple[str, ...]) -> None:
    paths = {"KEY": str(issued.key), "CERT": str(issued.cert)}
    result = run_verb(tmp_path, "--port", "0", *(paths.get(flag, flag) for flag in flags))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1, result
    assert "PRIVATE" not in result.stderr
    for word in words:
        assert word in result.stderr, result


# ---------------------------------------------------------------- several sockets


def test_hosts_of_all_kinds(tmp_path: Path, models: Path, issued: Issued) -> None:
    path = tmp_path / "r.sock"
    flags = (
        "--host",
        "127.0.0.1,[::1]",
        "--host",
        str(path),
        "--host",
        "[::1]",
        "--port",
        "0",
        "--api-prefix",
        "/in",
        "--models-dir",
        str(models),
    )
    with started(tmp_path, *flags) as running:
        assert get(running.address("http://127.0.0.1:"), "/in/health") == 200
        assert get(running.address("http://[::1]:"), "/in/health") == 200
        assert running.address("unix://") == f"unix://{path}"
        assert path.stat().st_mode & 0o777 == 0o600
        listed = run_verb(tmp_path, "list", "--url", f"unix://{path}/in")
        assert (listed.returncode, "tiny0" in listed.stdout) == (0, True), listed
        said = run_verb(tmp_path, "chat", "tiny0", "hello", "--max-tokens", "4", FASTROUTER_URL=f"unix://{path}/in/v1")
        assert (said.returncode, said.stderr) == (0, ""), said
    assert not path.exists()
    gone = run_verb(tmp_path, "list", "--url", f"unix://{path}")
    assert (gone.returncode, "is the router running?" in gone.stderr) == (1, True), gone


def test_a_unix_socket_stays_plain_beside_https(tmp_path: Path, issued: Issued) -> None:
    path = tmp_path / "r.sock"
    with started(tmp_path, "--host", f"{path},127.0.0.1", "--port", "0", *issued.flags) as running:
        assert running.address("https://127.0.0.1:")
        assert ask_unix(path, b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


def test_a_unix_socket_asks_for_no_name(tmp_path: Path) -> None:
    """Behind a proxy the Host is the proxy's site; no page can open the socket by itself."""
    path = tmp_path / "r.sock"
    with started(tmp_path, "--host", str(path)):
        head = b"GET /models HTTP/1.1\r\nHost: models.example.com\r\nConnection: close\r\n"
        assert ask_unix(path, head + b"\r\n").startswith(b"HTTP/1.1 200 OK")
        post = head.replace(b"GET /models", b"POST /models/load") + b"Content-Length: 2\r\n"
        assert b" 403 " in ask_unix(path, post + b"Origin: https://evil.example\r\n\r\n{}").split(b"\r\n")[0]
        assert b" 400 " in ask_unix(path, post + b"Origin: https://models.example.com\r\n\r\n{}").split(b"\r\n")[0]


def test_two_routers_share_a_port(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0", "--reuse-port") as first:
        [address] = first.addresses
        port = address.rpartition(":")[2]
        refused = run_verb(tmp_path, "--port", port)
        assert (refused.returncode, f"port {port}: it is in use" in refused.stderr) == (1, True), refused
        with started(tmp_path, "--port", port, "--reuse-port") as second:
            assert second.addresses == [address]
            first.stop()
            assert [get(address) for _ in range(20)] == [200] * 20


def test_sockets_of_systemd(tmp_path: Path, models: Path) -> None:
    path = tmp_path / "activated"
    shell = 'LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b exec "$@" 3<&{} 4<&{}'
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        numbers = sorted((tcp.fileno(), unix.fileno()))
        before = ("bash", "-c", shell.format(tcp.fileno(), unix.fileno()), "bash")
        with started(tmp_path, "--models-dir", str(models), before=before, pass_fds=numbers) as running:
            address = f"http://127.0.0.1:{tcp.getsockname()[1]}"
            assert running.addresses == [address, f"unix://{path}"]
            assert get(address, "/models") == 200
            assert b'"tiny0"' in ask_unix(path, b"GET /models HTTP/1.0\r\n\r\n")
        assert path.exists()  # it is systemd's


def test_sockets_of_systemd_for_another_process(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0", before=("env", "LISTEN_PID=1", "LISTEN_FDS=1")) as running:
        assert get(running.addresses[0]) == 200


def test_a_descriptor_of_systemd_that_is_none(tmp_path: Path) -> None:
    command = ["bash", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3</dev/null', "bash", sys.executable, "-m", "fastrouter"]
    result = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith("fastrouter: descriptor 3 of LISTEN_FDS"), result


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_public_bind(tmp_path: Path, host: str) -> None:
    with started(tmp_path, "--host", host, "--port", "0", "--insecure") as running:
        [address] = running.addresses
        assert get(address) == 200
        if host == "::":
            assert get(address.replace("[::1]", "127.0.0.1")) == 200  # both kinds, as with llama-server
