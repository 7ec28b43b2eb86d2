"""The verbs against a running router: what they print, where errors go, exit codes."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import FASTROUTER, Router, StartRouter, environment, eventually
from tiny_models import make_llama

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def server(module_router: StartRouter, models: Path) -> Router:
    return module_router("--temp", "0", "-n", "12", models_dir=models)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(*arguments: str, url: str = "", stdin: str = "", **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*FASTROUTER, *arguments],
            env=environment(tmp_path, **({"FASTROUTER_URL": url} if url else {}), **env),
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def check_failed(result: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert result.returncode == 1, result
    assert result.stderr.startswith("fastrouter: "), result
    assert result.stderr.count("\n") == 1, result
    for word in words:
        assert word in result.stderr


def test_list(run: Run, server: Router) -> None:
    result = run("list", url=server.url)
    assert (result.returncode, result.stderr) == (0, "")
    head, *rows = [line.split() for line in result.stdout.splitlines()]
    assert head == ["MODEL", "STATUS", "SIZE", "CONTEXT", "SOURCE"]
    assert [row[0] for row in rows] == ["tiny0", "tiny1", "tiny2"]
    assert rows[0][2:] == ["0.5", "MB", "2048", "models_dir"]


@pytest.fixture(scope="module")
def marked(module_router: StartRouter, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Router:
    """One model is loaded, one is not, and the file of one is cut and has a long name."""
    folder = tmp_path_factory.mktemp("marked")
    for name, seed in (("first", 0), ("second", 1)):
        (folder / f"{name}.gguf").symlink_to(models / f"tiny{seed}.gguf")
    whole = (models / "tiny2.gguf").read_bytes()
    (folder / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    presets = folder / "presets.ini"
    presets.write_text(f"[first]\nmodel = {folder / 'first.gguf'}\nalias = code, fim, a-name-that-is-longer-than-the-others\n")
    server = module_router("--models-preset", str(presets), models_dir=folder)
    server.load("first")
    return server


COLOUR = {"TERM": "xterm"}


@pytest.mark.parametrize(
    ("flags", "env", "shown"),
    [
        (
            [],
            COLOUR,
            [
                "\x1b[32m● loaded",
                "\x1b[31m✗ failed",
                "\x1b[2m○ unloaded",
                "code, fim, a-n",
                "…\n",
                "\x1b[31m  cut.gguf: tensor",
                "it is incomplete",
            ],
        ),
        ([], {**COLOUR, "NO_COLOR": "1"}, [" ● loaded", " ✗ failed", " ○ unloaded"]),
        ([], {"TERM": "dumb"}, [" ● loaded", " ✗ failed", " ○ unloaded"]),
        ([], {"PYTHONIOENCODING": "ascii", "COLUMNS": "50"}, [" * loaded", " ! failed", " - unloaded", "code, fim", "...\n"]),
        (["-v"], {}, ["code, fim, a-name-that-is-longer-than-the-others", "/cut.gguf: tensor"]),
    ],
    ids=["colours", "NO_COLOR", "dumb", "ascii", "verbose"],
)
def test_list_on_a_terminal(marked: Router, tmp_path: Path, flags: list[str], env: dict[str, str], shown: list[str]) -> None:
    with Terminal(tmp_path, "list", *flags, FASTROUTER_URL=marked.url, **env) as terminal:
        found = terminal.all()
    for text in shown:
        assert text in found, found
    assert ("/cut.gguf: tensor" in found) == ("-v" in flags)
    assert ("\x1b" in found) == any("\x1b" in text for text in shown)


def test_list_in_a_pipe_is_whole_and_plain(run: Run, marked: Router) -> None:
    listed = run("list", url=marked.url, TERM="xterm", COLUMNS="40").stdout
    head, *rows = listed.splitlines()
    assert head.split() == ["MODEL", "STATUS", "SIZE", "CONTEXT", "SOURCE", "ALIASES", "PROBLEM"]
    assert [row.split()[:2] for row in rows] == [["cut", "failed"], ["first", "loaded"], ["second", "unloaded"]]
    assert ": it is incomplete" in rows[0]
    assert rows[1].endswith("code, fim, a-name-that-is-longer-than-the-others")
    assert listed.isascii()


def test_a_name_cannot_command_the_terminal(run: Run, router: StartRouter, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "red\x1b[31m.gguf").symlink_to(models / "tiny0.gguf")
    listed = run("list", url=router(models_dir=folder).url).stdout
    assert "red" in listed
    assert "\x1b" not in listed


def test_an_empty_list_says_how_to_get_models(run: Run, router: StartRouter, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    result = run("list", url=router(models_dir=tmp_path / "models").url)
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 1)
    assert "fastrouter pull" in result.stderr


def test_load_ps_unload(run: Run, server: Router) -> None:
    assert run("ps", url=server.url).stdout.split() == ["MODEL", "STATUS", "MEMORY", "CONTEXT", "RUNNING", "WAITING", "UNTIL"]
    loaded = run("load", "tiny1", "--url", server.url)
    assert loaded.returncode == 0
    assert loaded.stdout.startswith("tiny1 is loaded (")
    check_failed(run("load", "tiny1", url=server.url), "model is already running")
    shown = run("ps", url=server.url).stdout.splitlines()
    [row] = [line.split() for line in shown[1:]]
    assert (row[:2], row[3:]) == (["tiny1", "loaded"], ["MB", "2048"])
    assert 10 < float(row[2]) < 1000
    unloaded = run("unload", "tiny1", url=server.url)
    assert (unloaded.returncode, unloaded.stdout) == (0, "tiny1 is unloading\n")
    server.await_status("tiny1", "unloaded")
    check_failed(run("unload", "tiny1", url=server.url), "model is not running")


@pytest.mark.parametrize("verb", ["load", "unload", "chat"])
def test_unknown_model(run: Run, server: Router, verb: str) -> None:
    check_failed(run(verb, "no-such", *(["hello"] if verb == "chat" else []), url=server.url), "model 'no-such' not found")


def test_chat(run: Run, server: Router) -> None:
    body = {"model": "tiny0", "messages": [{"role": "user", "content": "the cat is on it"}]}
    expected = server.post("/v1/chat/completions", body).json["choices"][0]["message"]["content"]
    for url in (server.url, f"{server.url}/v1", server.url.removeprefix("http://")):
        result = run("chat", "tiny0", "the", "cat", "is", "on", "it", url=url)
        assert (result.returncode, result.stdout, result.stderr) == (0, f"{expected}\n", "")
    piped = run("chat", "tiny0", url=server.url, stdin="the cat is on it")
    assert (piped.returncode, piped.stdout) == (0, f"{expected}\n")


def test_chat_options(run: Run, server: Router) -> None:
    options = ["--max-tokens", "3", "--seed", "5", "--temperature", "1.5", "--system", "you are one"]
    body = {
        "model": "tiny0",
        "messages": [{"role": "system", "content": "you are one"}, {"role": "user", "content": "hello"}],
        "max_tokens": 3,
        "seed": 5,
        "temperature": 1.5,
    }
    expected = server.post("/v1/chat/completions", body).json["choices"][0]["message"]["content"]
    assert run("chat", "tiny0", "hello", *options, url=server.url).stdout == f"{expected}\n"


class Terminal:
    """A verb under a pseudo terminal, which is its controlling terminal, so that Ctrl-C reaches it."""

    def __init__(self, folder: Path, *arguments: str, **env: str) -> None:
        self._controller, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fastrouter", *arguments],
            env=environment(folder, **{"TERM": "dumb", "COLUMNS": "80", "NO_COLOR": "", "PYTHONIOENCODING": "utf-8", **env}),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(terminal)
        os.set_blocking(self._controller, False)
        self._shown = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._controller)

    def _read(self) -> str:
        with contextlib.suppress(OSError):
            while read := os.read(self._controller, 4096):
                self._shown += read.decode(errors="replace").replace("\r", "")
        return self._shown

    def until(self, text: str) -> str:
        """Returns what was shown up to it, and forgets that part."""
        eventually(lambda: text in self._read(), f"{text!r} in {self._shown[-300:]!r}")
        before, _, self._shown = self._shown.partition(text)
        return before

    def type(self, *lines: str) -> None:
        """Types each line after its prompt."""
        for line in lines:
            self.until("> ")
            self.write(f"{line}\n")

    def write(self, text: str) -> None:
        os.write(self._controller, text.encode())

    def all(self) -> str:
        """All that is shown until it ends with exit code 0."""
        eventually(lambda: self._read() is not None and self.process.poll() is not None, "its end")
        assert self.process.returncode == 0, self._read()
        return self._read()


def test_conversation(server: Router, tmp_path: Path) -> None:
    """On a terminal: two turns, of which the second knows the first, then the end of input."""
    turns = [{"role": "user", "content": "one"}]
    answers = []
    for text in ("two", ""):
        answer = server.post("/v1/chat/completions", {"model": "tiny0", "messages": turns}).json["choices"][0]["message"]["content"]
        answers.append(answer)
        turns += [{"role": "assistant", "content": answer}, {"role": "user", "content": text}]
    with Terminal(tmp_path, "chat", "tiny0", FASTROUTER_URL=server.url) as terminal:
        assert "tiny0 has no chat template" in terminal.until("\n>")
        terminal.write("one\n")
        for answer, following in zip(answers, ("two\n", "\x04"), strict=True):
            terminal.until(f"{answer}\n")
            assert re.fullmatch(r"\[12 tokens, [\d.]+ tokens/s, first token after [\d.]+ s(, loaded in .*)?\]\n", terminal.until("> "))
            terminal.write(following)
        terminal.all()


@pytest.fixture(scope="module")
def chatter(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    """Scripted models, so that a conversation is as long as a test needs."""
    folder = tmp_path_factory.mktemp("chatter")
    (folder / "one.gguf").write_text("{}")
    (folder / "two.gguf").write_text("{}")
    return module_router(models_dir=folder, is_fake=True)


COMMANDS = [
    ("/help", "/model NAME"),
    ("/model two", "From now on two."),
    ("/model no-such", "model 'no-such' not found"),
    ("/model", "It is two."),
    ("/nothing", "There is no command /nothing"),
    ("/models", "MODEL"),
    ("/system be brief", "The system message is set."),
    ("/clear", "The conversation is forgotten."),
]


def test_commands_of_a_conversation(chatter: Router, tmp_path: Path) -> None:
    with Terminal(tmp_path, "chat", "one", FASTROUTER_URL=chatter.url) as terminal:
        for line, shown in COMMANDS:
            terminal.type(line)
            terminal.until(shown)
        terminal.type(json.dumps({"tokens": 1, "text": "an answer \x1b[31m of two"}))
        terminal.until("\nan answer [31m of two\n")  # without codes that would colour the terminal
        assert chatter.status("two") == "loaded"
        terminal.type("/quit")
        terminal.all()


@pytest.mark.parametrize("lines", [('"""{"tokens": 1,', '"text": "both lines"}"""'), ('{"tokens": 1, \\', '"text": "both lines"}')])
def test_questions_of_several_lines(chatter: Router, tmp_path: Path, lines: tuple[str, str]) -> None:
    with Terminal(tmp_path, "chat", "one", FASTROUTER_URL=chatter.url) as terminal:
        terminal.type(lines[0])
        terminal.until("\n. ")
        terminal.write(f"{lines[1]}\n")
        terminal.until("\nboth lines\n")
        terminal.type("/quit")
        terminal.all()


def test_a_stopped_answer_says_what_it_cost(router: StartRouter, tmp_path: Path) -> None:
    make_llama(tmp_path / "long.gguf", n_ctx=65536)
    server = router("-c", "65536", models_dir=tmp_path)
    with Terminal(tmp_path, "chat", "long", FASTROUTER_URL=server.url) as terminal:
        terminal.type("the cat")
        eventually(lambda: server.is_processing("long"), "the answer")
        time.sleep(0.5)
        terminal.write("\x03")
        terminal.until("[stopped, ")
        terminal.until(" tokens, ")
        terminal.until(" tokens/s, first token after")
        terminal.type("/quit")
        terminal.all()


def test_ctrl_c_ends_the_answer_and_not_the_conversation(chatter: Router, tmp_path: Path) -> None:
    with Terminal(tmp_path, "chat", "one", FASTROUTER_URL=chatter.url) as terminal:
        terminal.type(json.dumps({"tokens": 3000, "delay_s": 0.02}))
        terminal.until("t3 ")
        terminal.write("\x03")
        terminal.until("[stopped, first token after")
        eventually(lambda: not chatter.is_processing("one"), "the end of the stopped stream")
        terminal.until("> ")
        terminal.write("half a question\x03")
        terminal.until("(Ctrl-D or /quit ends)")
        terminal.type(json.dumps({"tokens": 1, "text": "still here"}))
        terminal.until("\nstill here\n")
        terminal.until("> ")
        terminal.write("\x04")
        terminal.all()


def test_a_conversation_with_an_unknown_model_does_not_begin(chatter: Router, tmp_path: Path) -> None:
    with Terminal(tmp_path, "chat", "no-such", FASTROUTER_URL=chatter.url) as terminal:
        terminal.until("model 'no-such' not found")
        assert terminal.process.wait(60) == 1


def test_a_router_with_one_model_takes_every_name(router: StartRouter, models: Path, tmp_path: Path) -> None:
    server = router("-m", str(models / "tiny0.gguf"), "-n", "3")
    with Terminal(tmp_path, "chat", "gpt-4o", FASTROUTER_URL=server.url) as terminal:
        terminal.until("gpt-4o has no chat template")
        terminal.type("hello")
        terminal.until("[3 tokens, ")
        terminal.type("/quit")
        terminal.all()


def test_not_running(run: Run) -> None:
    for arguments in (["list"], ["ps"], ["load", "x"], ["unload", "x"], ["chat", "x", "hello"]):
        check_failed(run(*arguments, url="http://127.0.0.1:9"), "from http://127.0.0.1:9: Connection refused; is the router running?")
    check_failed(run("list", url="ftp://127.0.0.1"), "not an http:// address")
    for url in ("http://127.0.0.1:99999", "http://127.0.0.1:x", "http://[::1", "http://"):
        check_failed(run("list", url=url), "not an http:// address")


def test_wrong_arguments(run: Run) -> None:
    assert run("load").returncode == 2
    assert run("list", "--no-such-flag").returncode == 2
    helped = run("chat", "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "--max-tokens" in helped.stdout


def test_key(run: Run, router: StartRouter, models: Path) -> None:
    server = router("--api-key", "secret", models_dir=models)
    check_failed(run("list", url=server.url), "Invalid API Key", "give it with --api-key or in LLAMA_API_KEY")
    assert run("list", url=server.url, LLAMA_API_KEY="secret").returncode == 0
    assert run("list", "--api-key", "secret", url=server.url).returncode == 0


def test_prefix(run: Run, router: StartRouter, models: Path) -> None:
    server = router("--api-prefix", "/llm", models_dir=models)
    assert run("list", url=f"{server.url}/llm").returncode == 0


def test_failed_load(run: Run, router: StartRouter, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    whole = (models / "tiny0.gguf").read_bytes()
    (folder / "strange.gguf").write_bytes(whole.replace(b"blk.1.attn_q.weight", b"blk.7.attn_q.weight"))
    server = router(models_dir=folder)
    check_failed(run("load", "strange", url=server.url), "strange failed to load", "attn_q")
    check_failed(run("chat", "strange", "hello", url=server.url), "failed to load")
    head, row = run("list", url=server.url).stdout.splitlines()
    assert head.split()[-1] == "PROBLEM"
    assert row.split()[:2] == ["strange", "failed"]
    assert "strange.gguf: tensor 'blk.1.attn_q.weight' not found" in row


def test_router_that_dies_in_the_middle(router: StartRouter, tmp_path: Path) -> None:
    make_llama(tmp_path / "long.gguf", n_ctx=65536)
    server = router("-c", "65536", models_dir=tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "fastrouter", "chat", "long", "hello", "--max-tokens", "60000"],
        env=environment(tmp_path, FASTROUTER_URL=server.url),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.read(1)
    server.process.send_signal(signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.startswith("fastrouter: the stream ended too early")
    server.await_end()


def test_interrupted_chat(router: StartRouter, tmp_path: Path) -> None:
    """Ctrl-C ends the answer, and the router stops it too."""
    make_llama(tmp_path / "long.gguf", n_ctx=131072)
    server = router("-c", "131072", models_dir=tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "fastrouter", "chat", "long", "hello", "--max-tokens", "130000"],
        env=environment(tmp_path, FASTROUTER_URL=server.url),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    eventually(lambda: not server.is_processing("long"), "its slot is free", 10)


def test_reader_that_leaves(run: Run, server: Router, tmp_path: Path) -> None:
    command = f"{sys.executable} -m fastrouter chat tiny0 hello --max-tokens 1500 | head -c 1"
    result = subprocess.run(
        ["bash", "-c", command], env=environment(tmp_path, FASTROUTER_URL=server.url), capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr


# ---------------------------------------------------------------- logs


@pytest.fixture
def talker(router: StartRouter, tmp_path: Path) -> Router:
    """A scripted model that writes three lines when it loads."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "talks.gguf").write_text('{"lines": ["one", "two", "\\u001b[31mthree"]}')
    return router(models_dir=folder, is_fake=True)


def said(text: str) -> list[str]:
    """Without the time."""
    return [line.split(" ", 2)[2] for line in text.splitlines()]


def test_logs(run: Run, talker: Router) -> None:
    result = run("logs", "talks", url=talker.url)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert talker.status("talks") == "unloaded"
    talker.load("talks")
    eventually(lambda: said(run("logs", "talks", url=talker.url).stdout)[1:] == ["one", "two", "three"], "all lines")
    assert said(run("logs", "talks", "-n", "1", url=talker.url).stdout) == ["three"]
    assert said(run("logs", "-n", "2", url=talker.url).stdout) == ["talks: two", "talks: three"]
    check_failed(run("logs", "no-such", url=talker.url), "model 'no-such' not found")
    check_failed(run("logs", "talks", "-n", "-1", url=talker.url), "field 'tail' must be a number of lines")
    check_failed(run("logs", "talks", url="http://127.0.0.1:9"), "is the router running?")


def test_follow_logs(talker: Router, tmp_path: Path) -> None:
    talker.load("talks")
    command = [sys.executable, "-m", "fastrouter", "logs", "talks", "-f", "-n", "1"]
    with subprocess.Popen(command, env=environment(tmp_path, FASTROUTER_URL=talker.url), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert said(process.stdout.readline()) == ["three"]
        talker.unload("talks")
        assert said(process.stdout.readline())[0].endswith("was ended by the router ---")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stdout.read() == ""


INTERRUPTED = """
import os, signal, sys
from fastrouter import cli

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "fastrouter.app.router":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.argv = ["fastrouter"]
cli.main()
"""


def test_ctrl_c_while_the_router_is_being_imported_leaves_no_traceback() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")
