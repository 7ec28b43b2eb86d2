"""The router as a program: its first lines, its flags, its signals, folders that change while it runs."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import FASTROUTER, Router, StartRouter, descendants, environment, eventually, has_mapped, text_of
from gguf import PoolingType
from tiny_encoders import make_bert
from tiny_models import make_llama

from fastrouter.app.service import choose_to_try, curl_line
from fastrouter.catalog.catalog import Catalog
from fastrouter.cli.verb_names import ALL_VERBS
from fastrouter.config.config import parse
from fastrouter.config.flag import Kind


def fastrouter(folder: Path, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "fastrouter", *arguments],
        env=environment(folder, **env),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def check_refused(result: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert result.returncode == 1, result
    assert result.stdout == ""
    assert result.stderr.startswith("fastrouter: "), result
    assert result.stderr.count("\n") == 1, result
    for word in words:
        assert word in result.stderr


def ids(server: Router, path: str = "/models") -> list[str]:
    return [model["id"] for model in server.get(path).json["data"]]


def ask(server: Router, model: str) -> Any:
    return server.post("/completion", {"model": model, "prompt": "the cat", "n_predict": 4})


# ---------------------------------------------------------------- flags


def test_help_and_version(tmp_path: Path) -> None:
    helped = fastrouter(tmp_path, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout == fastrouter(tmp_path, "help").stdout == fastrouter(tmp_path, "serve", "-h").stdout
    for flag in ("--models-dir", "--models-max", "--port", "--ctx-size", "list|ps|load|unload|chat"):
        assert flag in helped.stdout
    usage = helped.stdout.partition("\n\n")[0]
    assert [verb for verb in ALL_VERBS if not re.search(rf"\b{verb}\b", usage)] == []
    assert not [kind.name for kind in Kind if "_" in kind.name and f" {kind.name} " in helped.stdout]
    shown = fastrouter(tmp_path, "--version")
    assert shown.returncode == 0
    assert "0.1.0" in shown.stdout


def test_whoever_reads_the_help_may_leave(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m fastrouter --help | head -1"
    shown = subprocess.run(command, shell=True, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=30)
    assert shown.stdout.startswith("fastrouter [serve] [flags]")
    assert shown.stderr == ""


@pytest.mark.parametrize("words", ["template check a.jinja", "preset check a.ini", "completion bash", "help template", "pull --help"])
def test_whoever_reads_an_answer_may_leave(tmp_path: Path, words: str) -> None:
    (tmp_path / "a.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    (tmp_path / "a.ini").write_text("[a]\nmodel = a.gguf\n")
    command = f"{shlex.join(FASTROUTER)} {words} | exec 0<&-"
    shown = subprocess.run(command, shell=True, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=30)
    assert shown.stderr == ""


def test_unknown_flag(tmp_path: Path) -> None:
    check_refused(fastrouter(tmp_path, "--modles-dir", "."), "--modles-dir", "did you mean --models-dir?")
    check_refused(fastrouter(tmp_path, "--prot", "1"), "--prot", "did you mean --port?")
    check_refused(fastrouter(tmp_path, "--xyzzy"), "unknown flag --xyzzy; `fastrouter help` lists all")
    check_refused(fastrouter(tmp_path, "--port", "0", "list"), "unexpected argument 'list'", "a verb comes first")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["lsit"], "list"),
        (["LIST"], "list"),
        (["sevre", "--port", "0"], "serve"),
        (["unlaod", "x"], "unload"),
        (["comp"], "completion"),
        (["help", "chta"], "chat"),
        (["tiny.gguf"], "--model tiny.gguf"),
        (["TINY.GGUF"], "--model TINY.GGUF"),
        (["run", "tiny"], "chat"),
        (["ls"], "list"),
        (["version"], "--version"),
        (["no-cache"], "--models-dir no-cache"),  # an existing folder
    ],
)
def test_unknown_verb(tmp_path: Path, words: list[str], meant: str) -> None:
    check_refused(fastrouter(tmp_path, *words), f"did you mean {meant}", f"The verbs are {', '.join(ALL_VERBS)}")


def test_unknown_option_of_a_verb(tmp_path: Path) -> None:
    refused = fastrouter(tmp_path, "pull", "user/repo", "--cacret", "x")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--cacret x, did you mean --cacert?" in refused.stderr


@pytest.mark.parametrize("verb", [verb for verb in ALL_VERBS if verb != "help"])
def test_help_of_a_verb(tmp_path: Path, verb: str) -> None:
    helped = fastrouter(tmp_path, "help", verb)
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout == fastrouter(tmp_path, verb, "--help").stdout
    assert f"fastrouter {verb}" in helped.stdout or verb == "serve"


def test_wrong_values(tmp_path: Path) -> None:
    check_refused(fastrouter(tmp_path, "--port", "99999"), "--port")
    check_refused(fastrouter(tmp_path, "--port", "8181", "--ollama-port", "8181"), "--ollama-port 8181: --port is the same")
    check_refused(fastrouter(tmp_path, "--lora", "no.gguf"), "--lora no.gguf: there is no such file")
    check_refused(fastrouter(tmp_path, "--models-dir", "no-such"), "there is no such folder; looked for", f"{tmp_path}/no-such")
    check_refused(fastrouter(tmp_path, "--models-preset", "no.ini"), "no.ini")
    check_refused(fastrouter(tmp_path, "-m", "no.gguf"), "no.gguf")
    check_refused(fastrouter(tmp_path, LLAMA_ARG_PORT="many"), "LLAMA_ARG_PORT")


def test_bad_preset(tmp_path: Path) -> None:
    """A mistake for all models ends the start before it says that it listens."""
    for text, word in (("[*]\nctx-sizes = 5\n", "ctx-sizes"), ("nonsense\n", "expected `key = value`"), ("\xff", "is not UTF-8")):
        (tmp_path / "p.ini").write_bytes(text.encode("latin-1"))
        check_refused(fastrouter(tmp_path, "--port", "0", "--models-preset", "p.ini"), "p.ini", word)
    (tmp_path / "p.ini").write_text("[one]\nctx-sizes = 5\n[two]\nbase = one\n[three]\nmodel = no.gguf\n")
    strict = fastrouter(tmp_path, "--port", "0", "--models-preset", "p.ini", "--strict")
    assert (strict.returncode, strict.stdout) == (1, "")
    lines = strict.stderr.splitlines()
    assert lines[0] == "fastrouter: --strict: 4 of p.ini cannot be used:"
    assert [line.partition(":")[2][:2] for line in lines[1:]] == ["2 ", "1 ", "4 ", "6 "]


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        check_refused(fastrouter(tmp_path, "--port", str(port)), f"port {port}", "in use")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.1,0.0.0.0"])
def test_public_bind_without_a_key(tmp_path: Path, host: str) -> None:
    check_refused(fastrouter(tmp_path, "--host", host, "--port", "0"), "--api-key", "--insecure")


def test_host_that_cannot_be_bound(tmp_path: Path) -> None:
    check_refused(fastrouter(tmp_path, "--host", "203.0.113.1", "--port", "0", "--insecure"), "203.0.113.1")


# ---------------------------------------------------------------- what it prints


def test_first_lines(router: StartRouter, models: Path) -> None:
    server = router(models_dir=models)
    eventually(lambda: "curl" in server.out, "the curl line")
    lines = server.out.splitlines()
    assert lines[0].endswith(f"is listening on {server.url}")
    assert lines[1:5] == ["3 models found:", *(f"  tiny{number} (no chat template)" for number in range(3))]
    assert lines[5] == "Try it:"


def test_no_models(router: StartRouter) -> None:
    server = router()
    eventually(lambda: "--models-dir" in server.out, "a hint")
    assert ids(server) == []
    assert "0 models found" in server.out


def test_what_was_hardly_meant_is_said_at_the_start(router: StartRouter, models: Path, tmp_path: Path) -> None:
    preset = tmp_path / "presets.ini"
    text = f"[a]\nmodel = {models}/tiny0.gguf\nsystem-prompt = 'one # two\nchat-template = {{% if %}}\n"
    preset.write_text(text)
    server = router("--models-preset", str(preset))
    eventually(lambda: "  a (chat template: line 1: Expected an expression" in server.out, "what the model lacks")
    eventually(
        lambda: f"warning: {preset}:3 [a] system-prompt = 'one: the comment `# two` ends the value here" in server.log,
        "its line in the log",
    )
    preset.write_text(text + "grammar = [a ; b\n")
    assert server.get("/models?reload=1").status == 200
    eventually(lambda: server.log.count("# two") == 1, "its line in the log")
    eventually(lambda: f"warning: {preset}:5 [a] grammar = [a: the comment `; b` ends" in server.log, "its line in the log")


def test_two_signals_of_one_sender_are_one(router: StartRouter, models: Path) -> None:
    """timeout(1) sends it to the process, then to its whole group."""
    server = router(models_dir=models)
    assert ask(server, "tiny0").status == 200
    server.process.send_signal(signal.SIGTERM)
    server.process.send_signal(signal.SIGTERM)
    assert server.await_end() == 0
    assert "second signal" not in server.log


def test_an_empty_folder(router: StartRouter, tmp_path: Path) -> None:
    folder = tmp_path / "no models"
    folder.mkdir()
    server = router(models_dir=folder)
    eventually(lambda: f"There is no .gguf file in {folder}: put some there" in server.out, "a hint")
    assert "Name a folder" not in server.out


def test_the_start_imports_only_what_it_needs() -> None:
    """Until the address is printed: all that serves requests is imported after it."""
    code = "import sys, fastrouter.cli.serve, fastrouter.catalog.catalog; print(*sys.modules)"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    late = ("fastrouter.ipc", "fastrouter.supervisor", "fastrouter.hub", "fastrouter.worker", "fastrouter.api.flavours", "jinja2", "numpy")
    launch = "fastrouter.supervisor.workers.launch"  # it starts the fork server, and imports little
    assert [name for name in there if name.startswith(late) and not launch.startswith(name)] == []


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="needs bash and curl")
@pytest.mark.parametrize(("key", "has_template"), [("", True), ("", False), ('it\'s "secret"', True)])
def test_curl_line_works_when_pasted(router: StartRouter, tmp_path: Path, key: str, has_template: bool) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    make_llama(
        folder / 'it\'s "odd" $HOME.gguf', chat_template="{% for m in messages %}{{ m.content }}{% endfor %}" if has_template else None
    )
    server = router("--temp", "0", "-n", "4", models_dir=folder, env={"LLAMA_API_KEY": key} if key else {})
    eventually(lambda: "curl" in server.out, "the curl line")
    [line] = [line for line in server.out.splitlines() if line.strip().startswith("curl ")]
    environ = {**os.environ, "LLAMA_API_KEY": key}
    result = subprocess.run(["bash", "-c", line.strip()], env=environ, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result
    assert ('"chat.completion"' if has_template else '"text_completion"') in result.stdout, result.stdout
    assert not key or key not in server.out


def test_curl_line_of_a_unix_socket(models: Path) -> None:
    [spec] = Catalog(parse(["-m", str(models / "tiny0.gguf"), "--chat-template", "chatml"], {})).models()
    line = curl_line("unix:///run/f.sock", spec, parse([], {}))
    assert line.startswith("curl --unix-socket /run/f.sock http://localhost/v1/chat/completions ")


@pytest.mark.parametrize(
    ("files", "default", "chosen", "path"),
    [
        ("base broken chat embed rerank", None, "chat", "/v1/chat/completions"),
        ("base broken chat embed rerank", "base", "chat", "/v1/chat/completions"),
        ("a-chat chat embed", "chat", "chat", "/v1/chat/completions"),
        ("a-chat chat embed", "embed", "a-chat", "/v1/chat/completions"),
        ("base broken embed", None, "base", "/v1/completions"),
        ("base broken embed", "embed", "embed", "/v1/embeddings"),
        ("embed zz-base", None, "zz-base", "/v1/completions"),
        ("broken rerank", None, "rerank", "/v1/rerank"),
        ("broken", "broken", None, ""),
        ("", None, None, ""),
    ],
)
def test_the_first_line_to_try(tmp_path: Path, files: str, default: str | None, chosen: str | None, path: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in files.split():
        file = folder / f"{name}.gguf"
        if "broken" in name:
            file.write_bytes(b"GGUF")
        elif name in ("embed", "rerank"):
            make_bert(file, pooling=PoolingType.RANK if name == "rerank" else PoolingType.MEAN)
        else:
            make_llama(file, chat_template="{{ messages }}" if "chat" in name else None)
    catalog = Catalog(parse(["--models-dir", str(folder), *(["-m", str(folder / f"{default}.gguf")] if default else [])], {}))
    spec = choose_to_try(catalog.models(), catalog.default)
    assert (spec.id if spec is not None else None) == chosen
    if spec is not None:
        assert f"/{path.lstrip('/')} " in curl_line("http://x", spec, parse([], {}))


# ---------------------------------------------------------------- where it listens


def test_unix_socket(tmp_path: Path, models: Path) -> None:
    path = tmp_path / "f.sock"
    command = [sys.executable, "-m", "fastrouter", "--host", str(path), "--models-dir", str(models)]
    process = subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        eventually(path.exists, "the socket")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := client.recv(65536):
                answer += data
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b'"tiny2"' in answer
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in log
    finally:
        process.kill()
        process.wait()


def test_environment(router: StartRouter, models: Path) -> None:
    server = router(env={"LLAMA_ARG_MODELS_DIR": str(models), "LLAMA_ARG_MODELS_MAX": "2", "LLAMA_ARG_N_PARALLEL": "3"})
    assert ids(server) == ["tiny0", "tiny1", "tiny2"]
    assert server.get("/props").json["max_instances"] == 2
    assert len(server.get("/slots?model=tiny0&autoload=true").json) == 3


def test_presets(router: StartRouter, models: Path, tmp_path: Path) -> None:
    preset = tmp_path / "p.ini"
    preset.write_text(
        "[*]\nc = 512\n[tiny0]\nalias = zero\ntemp = 0\n[tiny1]\nload-on-startup = true\n"
        f"[mine]\nmodel = {models / 'tiny2.gguf'}\nctx-size = 256\nn-predict = 3\n"
    )
    server = router("--models-preset", str(preset), "-np", "1", models_dir=models)
    server.await_status("tiny1", "loaded")
    assert ids(server) == ["mine", "tiny0", "tiny1", "tiny2"]
    answer = ask(server, "zero").json
    assert (answer["model"], answer["generation_settings"]["temperature"]) == ("tiny0", 0.0)
    assert server.post("/completion", {"model": "mine", "prompt": "a"}).json["tokens_predicted"] == 3
    contexts = {name: server.get(f"/props?model={name}").json["default_generation_settings"]["n_ctx"] for name in ("mine", "tiny0")}
    assert contexts == {"mine": 256, "tiny0": 512}
    assert "[mine]" in server.get("/v1/models/mine").json["status"]["preset"]


# ---------------------------------------------------------------- changes while it runs


def test_new_file_and_reload(router: StartRouter, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(models / "tiny0.gguf", folder)
    server = router(models_dir=folder)
    server.load("tiny0")
    shutil.copy(models / "tiny1.gguf", folder)
    assert ids(server) == ["tiny0"]
    assert ids(server, "/models?reload=1") == ["tiny0", "tiny1"]
    assert server.status("tiny0") == "loaded"
    assert ask(server, "tiny1").json["model"] == "tiny1"
    (folder / "tiny0.gguf").unlink()
    assert ids(server, "/v1/models?reload=1") == ["tiny1"]
    assert ask(server, "tiny0").error["message"] == "model 'tiny0' not found, did you mean tiny1?"
    eventually(lambda: "tiny0: unloaded" in server.log, "the end of tiny0")
    assert server.status("tiny1") == "loaded"


def test_changed_file_is_loaded_again(router: StartRouter, tmp_path: Path) -> None:
    path = make_llama(tmp_path / "one.gguf", seed=1)
    server = router("--temp", "0", models_dir=tmp_path)
    before = ask(server, "one").json["content"]
    make_llama(tmp_path / "new", seed=2).rename(path)
    server.get("/models?reload=1")
    assert ask(server, "one").json["content"] != before


def test_stream_survives_a_reload(router: StartRouter, tmp_path: Path) -> None:
    path = make_llama(tmp_path / "one.gguf", seed=1)
    server = router(models_dir=tmp_path)
    body = {"model": "one", "prompt": "the cat", "max_tokens": 1900, "temperature": 0, "stream": True}
    with server.stream("/v1/completions", body) as stream:
        events = stream.events()
        next(events)
        make_llama(tmp_path / "new", seed=2).rename(path)
        server.get("/models?reload=1")
        *_, last = events
        assert stream.is_done
    assert last["usage"]["completion_tokens"] == 1900
    assert ask(server, "one").status == 200


def test_a_stream_goes_on_after_a_reload_of_its_presets(router: StartRouter, tmp_path: Path) -> None:
    """It is not over when its model's time to stop is: the next process, with the new options, continues it to the letter."""
    preset = tmp_path / "p.ini"
    preset.write_text("[one]\nctx-size = 1024\nstop-timeout = 0\n")
    make_llama(tmp_path / "one.gguf", seed=1)
    server = router("--models-preset", str(preset), models_dir=tmp_path)
    body = {"model": "one", "prompt": "the cat", "max_tokens": 500, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    whole = server.post("/v1/completions", body).json["choices"][0]["text"]
    for number in range(20):  # on a quick machine it may be over before the reload
        ask(server, "one")
        worker = server.worker_of("one")
        with server.stream("/v1/completions", {**body, "stream": True}) as stream:
            events = stream.events()
            parts = [text_of(next(events))]
            preset.write_text(f"[one]\nctx-size = {1280 + 256 * number}\nstop-timeout = 0\n")
            server.process.send_signal(signal.SIGHUP)
            parts += [text_of(event) for event in events]
            assert stream.is_done
        assert "".join(parts) == whole
        now = [pid for pid in descendants(server.process.pid) if has_mapped(pid, tmp_path / "one.gguf")]
        if now and worker not in now:
            return
    pytest.fail("no stream has outlived its worker")


def test_hangup_reloads(router: StartRouter, models: Path, tmp_path: Path) -> None:
    folder, preset = tmp_path / "folder", tmp_path / "p.ini"
    folder.mkdir()
    preset.write_text("")
    shutil.copy(models / "tiny0.gguf", folder)
    server = router("--models-preset", str(preset), models_dir=folder)
    server.load("tiny0")
    shutil.copy(models / "tiny1.gguf", folder)
    preset.write_text("[tiny1]\nalias = one\n")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: ids(server) == ["tiny0", "tiny1"], "the new model")
    assert ask(server, "one").json["model"] == "tiny1"
    assert server.status("tiny0") == "loaded"
    # All or nothing: a preset file with a mistake for all models changes nothing.
    preset.write_text("[*]\nno-such-key = 1\n")
    shutil.copy(models / "tiny2.gguf", folder)
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "reload refused" in server.log, "a line in the log")
    eventually(lambda: "no-such-key" in server.log, "its line in the log")
    assert ids(server) == ["tiny0", "tiny1"]
    assert ask(server, "one").status == 200
    refused = server.get("/models?reload=1")
    assert (refused.status, "no-such-key" in refused.error["message"]) == (400, True)


def test_log_file(router: StartRouter, models: Path, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    server = router("--log-file", str(path), "-v", models_dir=models)
    server.load("tiny0")
    eventually(lambda: "tiny0: loaded" in path.read_text(), "its line in the file")
    assert "tiny0" not in server.log


def test_many_files(router: StartRouter, models: Path, tmp_path: Path) -> None:
    for number in range(300):
        os.link(models / "tiny0.gguf", tmp_path / f"m{number:03}.gguf")
    server = router(models_dir=tmp_path)
    assert len(ids(server)) == 300
    eventually(lambda: "... and 280 more" in server.out, "a short list")
    assert ask(server, "m299").status == 200


def test_interrupt_before_it_is_ready(tmp_path: Path, models: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "fastrouter", "--port", "0", "--models-dir", str(models)],
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0, log
        assert "Traceback" not in log
