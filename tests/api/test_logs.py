"""Lines of workers, stored for each model: text, live events, the last lines in errors. The router's log: text, JSON, files."""

import contextlib
import http.client
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer, Router, StartRouter, environment, eventually
from hypothesis import given
from hypothesis import strategies as st

from fastrouter.app.logs import JsonFormatter, TextFormatter
from fastrouter.supervisor.workers.worker_log import MAX_BYTES, MAX_LINES, Line, Logs, clean_line
from fastrouter.worker.llama.binding import Scarcity, refusal
from fastrouter.worker.llama.log import LlamaLog

STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


# ---------------------------------------------------------------- stored lines, without a process


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("plain", "plain"),
        ("  indented \r", "  indented"),
        ("\x1b[1;31merror\x1b[0m: no", "error: no"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("10%\r50%\r100%", "100%"),
        ("a\tb\x0bc\u2028d\x85e", "a b c d e"),
        ("a\x00b\x07c\x9bd\x7fe", "abcde"),
        ("Größe 模型", "Größe 模型"),
        ("\x1b[31m\x1b[0m", ""),
    ],
)
def test_clean_line(said: str, kept: str) -> None:
    assert clean_line(said) == kept


@given(st.text())
def test_clean_lines_are_one_line(said: str) -> None:
    kept = clean_line(said)
    assert "\x1b" not in kept
    assert len(kept.splitlines()) <= 1
    assert not any(character < " " or "\x7f" <= character <= "\x9f" for character in kept)


def test_bounds() -> None:
    logs = Logs()
    write = logs.of("a").begin(7)
    for number in range(3 * MAX_LINES):
        write(f"line {number}")
    lines = [line.text for line in logs.lines("a")]
    assert len(lines) == MAX_LINES
    assert lines[-1] == f"line {3 * MAX_LINES - 1}"
    for number in range(100):
        write(f"{number:04}" + "é" * 2000)
    lines = [line.text for line in logs.lines("a")]
    assert sum(len(text.encode()) for text in lines) <= MAX_BYTES
    assert len(lines) > 60
    assert lines[-1].startswith("0099")


def test_last_words() -> None:
    logs = Logs()
    assert logs.of("a").end(1, "exited with code 0") == []
    write = logs.of("a").begin(2)
    write("first")
    write("x" * 1000)
    assert logs.of("a").end(2, "exited with code 1") == ["first", "x" * 512]
    write = logs.of("a").begin(3)
    assert logs.of("a").end(3, "exited with code 1") == [], "what another worker said is not its last words"
    write = logs.of("a").begin(None)
    for number in range(30):
        write(str(number))
    assert logs.of("a").end(4, None) == [], "the router wanted it to end"
    assert [line.text for line in logs.lines("a") if line.text.startswith("-")][-2:] == [
        "--- a worker loads the model ---",
        "--- worker 4 was ended by the router ---",
    ]
    write = logs.of("a").begin(5)
    for number in range(30):
        write(str(number))
    assert logs.of("a").end(5, "exited with code 1") == [str(number) for number in range(10, 30)]


def test_listeners() -> None:
    logs = Logs()
    heard: list[Line] = []

    def bad(line: Line) -> None:
        raise RuntimeError("a bug")

    leave_bad = logs.listen(bad)
    leave = logs.listen(heard.append)
    logs.of("b").begin(1)("one")
    logs.of("a").begin(1)("two")
    assert [(line.model, line.text) for line in heard if not line.text.startswith("-")] == [("b", "one"), ("a", "two")]
    assert logs.lines(None) == heard, "in the order of time"
    leave()
    leave()
    leave_bad()
    logs.of("a").write("three")
    assert len(heard) == 4
    assert (logs.lines("no-such"), repr(logs)) == ([], "<Logs of 2 models, 0 listeners>")


# ---------------------------------------------------------------- GET /models/logs


def script(folder: Path, name: str, **content: Any) -> None:
    (folder / f"{name}.gguf").write_text(json.dumps(content))


def say(server: Router, model: str, *lines: str, **more: Any) -> Answer:
    return server.post("/completion", {"model": model, "prompt": json.dumps({"lines": lines, "tokens": 1, **more})})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """talks (writes two lines when it loads) and quiet."""
    found = tmp_path / "scripts"
    found.mkdir()
    script(found, "talks", lines=["\x1b[32mhello\x1b[0m", "wörld"])
    script(found, "quiet")
    return found


def texts(answer: Answer) -> list[str]:
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    lines = answer.body.decode().splitlines()
    assert all(STAMP.match(line) for line in lines), lines
    return [STAMP.sub("", line) for line in lines]


def test_kept_lines(router: StartRouter, folder: Path) -> None:
    server = router(models_dir=folder, is_fake=True)
    assert texts(server.get("/models/logs?model=talks")) == []
    assert server.status("talks") == "unloaded"
    server.load("talks")
    lines = eventually(lambda: texts(server.get("/models/logs?model=talks"))[2:] and texts(server.get("/models/logs?model=talks")), "lines")
    assert re.fullmatch(r"--- (a worker|worker \d+) loads the model ---", lines[0])
    assert lines[1:] == ["hello", "wörld"]
    server.unload("talks")
    eventually(lambda: texts(server.get("/models/logs?model=talks"))[-1].endswith("was ended by the router ---"), "its end")
    assert say(server, "talks", "again").status == 200
    eventually(lambda: texts(server.get("/models/logs?model=talks"))[-1] == "again", "the line of the second worker")
    assert [line for line in texts(server.get("/models/logs?model=talks")) if not line.startswith("---")] == [
        *("hello", "wörld", "hello", "wörld", "again")
    ]
    assert texts(server.get("/models/logs?model=talks&tail=2")) == ["wörld", "again"]
    assert texts(server.get("/models/logs?model=talks&tail=0")) == []
    assert texts(server.get("/models/logs"))[-1] == "talks: again"
    for query in ("", "&follow=1"):
        head = server.request("HEAD", f"/models/logs?model=talks{query}")
        assert (head.body, head.headers["Content-Type"]) == (b"", "text/plain; charset=utf-8")


def test_wrong_questions(router: StartRouter, folder: Path) -> None:
    server = router("--api-key", "secret", models_dir=folder, is_fake=True)
    assert server.get("/models/logs?model=talks").status == 401
    key = {"Authorization": "Bearer secret"}
    unknown = server.get("/models/logs?model=no-such", key)
    assert (unknown.status, unknown.error["message"]) == (400, "model 'no-such' not found")
    for tail in ("-1", "x", "1.5", "", "9" * 30, "%C2%B2"):
        answer = server.get(f"/models/logs?model=talks&tail={tail}", key)
        assert (answer.status, answer.error["message"]) == (400, "field 'tail' must be a number of lines")
    assert server.post("/models/logs", {}, key).status == 405


def test_live_lines(router: StartRouter, folder: Path) -> None:
    server = router(models_dir=folder, is_fake=True)
    server.load("quiet")
    with server.stream("/models/logs?model=talks&follow=1") as stream, server.stream("/models/logs?follow=1") as of_all:
        assert stream.headers["Content-Type"] == "text/event-stream"
        events = stream.events()
        assert say(server, "quiet", "not for talks").status == 200
        server.load("talks")
        found = [next(events) for _ in range(3)]
        assert [event["line"] for event in found[1:]] == ["hello", "wörld"]
        assert {event["model"] for event in found} == {"talks"}
        assert all(abs(datetime.now().astimezone() - datetime.fromisoformat(event["time"])) < timedelta(minutes=5) for event in found)
        said = {(event["model"], event["line"]) for _, event in zip(range(5), of_all, strict=False)}
        assert said >= {("quiet", "not for talks"), ("talks", "hello")}
    with server.stream("/models/logs?model=talks&follow=true&tail=1") as stream:
        events = stream.events()
        assert next(events)["line"] == "wörld", "what is kept comes first"
        say(server, "talks", "live")
        assert next(events)["line"] == "live"
    connection, response = server.open("GET", "/models/logs?model=talks&tail=1", None, {"Accept": "text/event-stream"})
    with contextlib.closing(connection), response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.readline().startswith(b"data: {")
    assert server.status("quiet") == "loaded"


def test_a_reader_that_does_not_read_affects_no_others(router: StartRouter, folder: Path) -> None:
    server = router(models_dir=folder, is_fake=True)
    server.load("quiet")
    connection, response = server.open("GET", "/models/logs?model=quiet&follow=1")
    with contextlib.closing(connection), response:
        for _ in range(40):
            assert say(server, "quiet", *["y" * 3000] * 100).status == 200  # 12 MB in all: more than sockets hold
        last = say(server, "quiet", "the end")
        assert last.status == 200
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            response.read()
    eventually(lambda: texts(server.get("/models/logs?model=quiet&tail=1")) == ["the end"], "the last line")


def test_streams_end_with_the_server(router: StartRouter, folder: Path) -> None:
    server = router(models_dir=folder, is_fake=True)
    with server.stream("/models/logs?follow=1") as stream:
        server.process.send_signal(signal.SIGTERM)
        assert list(stream) == []
        assert stream.is_whole
    assert server.await_end() == 0


# ---------------------------------------------------------------- the last lines in errors


def test_failed_load(router: StartRouter, folder: Path) -> None:
    server = router(models_dir=folder, is_fake=True)
    said = [f"\x1b[33mline {number}\x1b[0m" for number in range(30)]
    script(folder, "quiet", lines=said, fail="it has no tensors")
    with server.stream("/models/sse") as stream:
        answer = say(server, "quiet")
        [failed] = [event["data"] for _, event in zip(range(2), _changes(stream), strict=False) if event["data"].get("failed")]
    expected = [f"line {number}" for number in range(10, 30)]
    assert (answer.status, answer.error["message"]) == (400, "model name=quiet failed to load: it has no tensors")
    assert answer.error["log"] == expected
    assert (failed["log"], failed["error"]) == (expected, "it has no tensors")
    status = server.get("/v1/models/quiet").json["status"]
    assert (status["failed"], status["log"]) == (True, expected)
    eventually(lambda: "error: quiet: it has no tensors" in server.log, "its line in the log")
    assert re.search(r"^\d\d:\d\d:\d\d quiet: \| line 29$", server.log, re.M), "what led to it is no error of its own"
    script(folder, "quiet", lines=["fine"])
    assert say(server, "quiet").status == 200
    assert not server.get("/v1/models/quiet").json["status"].keys() & {"failed", "log"}
    assert say(server, "talks").status == 200
    server.unload("talks")
    assert "log" not in server.get("/v1/models/talks").json["status"]


def _changes(stream: Any) -> Iterator[dict[str, Any]]:
    return (event for event in stream if event["event"] == "status_change")


def test_back_off_says_it_too(router: StartRouter, folder: Path) -> None:
    server = router(models_dir=folder, is_fake=True)
    script(folder, "quiet", lines=["because"], die="exit3")
    answers = [say(server, "quiet") for _ in range(4)]
    assert {answer.status for answer in answers} == {500}
    assert all(answer.error["log"] == ["because", "the script says exit"] for answer in answers)
    assert answers[-1].headers["Retry-After"]


def test_worker_that_died_while_serving(router: StartRouter, folder: Path) -> None:
    server = router(models_dir=folder, is_fake=True)
    crash = {"lines": ["oh no"], "die": "SIGABRT", "die_after": 1, "tokens": 9}
    with server.stream("/completion", {"model": "quiet", "prompt": json.dumps(crash), "stream": True}) as stream:
        last = list(stream)[-1]
    assert (last["error"]["code"], last["error"]["log"]) == ("worker_died", ["oh no"])
    status = server.get("/v1/models/quiet").json["status"]
    assert (status["failed"], status["log"]) == (True, ["oh no"])
    eventually(lambda: server.log.count("oh no") == 2, "in the cause of each death, and not again below it")


# ---------------------------------------------------------------- real workers


def test_the_cause_in_one_line(router: StartRouter, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    whole = (models / "tiny0.gguf").read_bytes()
    (folder / "strange.gguf").write_bytes(whole.replace(b"blk.1.attn_q.weight", b"blk.7.attn_q.weight"))
    server = router(models_dir=folder)
    error = server.post("/completion", {"model": "strange", "prompt": "x"}).error
    cause = "tensor 'blk.1.attn_q.weight' not found; get another copy of the file, or another version of the model"
    assert error["message"] == f"model name=strange failed to load: {folder}/strange.gguf: {cause}"
    assert any("blk.1.attn_q.weight" in line for line in error["log"])


@pytest.mark.parametrize(
    ("cause", "is_scarce"),
    [
        ("tensor 'blk.1.attn_q.weight' not found", False),
        ("unknown model architecture: 'nobody'", False),
        ("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 549755813888", True),
        ("mmap failed: Cannot allocate memory", True),
        ("std::bad_alloc", True),
        ("failed to open GGUF file '/m/x.gguf' (Too many open files)", True),
    ],
)
def test_causes_that_may_go_away(cause: str, is_scarce: bool) -> None:
    error = refusal(cause, "/home/memory/alloc.gguf")
    assert isinstance(error, Scarcity) == is_scarce
    assert error.message.startswith(f"/home/memory/alloc.gguf: {cause}")


@pytest.mark.parametrize(("flags", "is_loud"), [((), False), (("-lv", "4"), True), (("-v",), True), (("-lv", "1"), False)])
def test_what_llama_cpp_says(router: StartRouter, models: Path, flags: tuple[str, ...], is_loud: bool) -> None:
    server = router(*flags, models_dir=models)
    server.load("tiny0")
    said = eventually(lambda: "loaded in " in (text := server.get("/models/logs?model=tiny0").body.decode()) and text, "its last line")
    assert ("llama_context" in said) == is_loud
    if flags != ("-lv", "1"):
        eventually(lambda: "tiny0: loaded in " in server.log, "the line of the load")
    assert ("tiny0 | " in server.log) == is_loud
    assert re.search(r"loaded in \d+ ms \(model .* ms\): \d+ tokens of context shared by 4 slots", said)
    assert not re.search(r"<\w+ .*>", said), "no reprs"
    assert ("tiny0: loaded in " in server.log) == (flags != ("-lv", "1"))
    answer = server.post("/v1/chat/completions", {"model": "tiny0", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}).json
    assert ("generation_settings" in answer.get("__verbose", {})) == (flags == ("-v",)), "as if the request had asked for it"


def test_cause() -> None:
    log = LlamaLog()
    assert log.cause() == ""
    log.take(3, b"warning: odd\n")
    assert log.cause() == "odd"
    log.take(4, b"llama_model_load: error loading model: no such file\n")
    log.take(4, b"llama_model_load_from_file_impl: failed to load model\n")
    assert log.cause() == "no such file"
    log.clear()
    log.take(4, b"plain text\n")
    assert log.cause() == "plain text"
    log.clear()
    log.take(4, b"load: SPM vocabulary, but newline token not found: map::at! Using special_pad_id instead.\n")
    log.take(4, b"llama_model_load: error loading model: no such tensor\n")
    assert log.cause() == "no such tensor", "a note that llama.cpp calls an error is no cause"


def test_verbosity(capsys: pytest.CaptureFixture[str]) -> None:
    for verbosity, shown in ((0, "we"), (3, "we"), (4, "iwe"), (5, "diwe"), (99, "diwe")):
        log = LlamaLog()
        log.set_verbosity(verbosity)
        for level, text in ((1, b"d"), (2, b"i"), (3, b"w"), (4, b"e")):
            log.take(level, text)
            log.take(5, b".")
        assert capsys.readouterr().err == "".join(f"{letter}." for letter in shown)


# ---------------------------------------------------------------- the router's lines


def record(message: str, *args: Any, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.getLogger("fastrouter").makeRecord("fastrouter", level, "file", 1, message, args, None, extra=extra)
    made.created = 1_700_000_000.25
    return made


def test_text_lines() -> None:
    plain, bare, colored = TextFormatter(), TextFormatter(has_time=False, has_level=False), TextFormatter(colors=True)
    assert re.fullmatch(r"\d\d:\d\d:\d\d coder: loaded", plain.format(record("%s: loaded", "coder", model="coder")))
    assert plain.format(record("odd", level=logging.WARNING)).endswith(" warning: odd")
    assert plain.format(record("bad", level=logging.ERROR)).endswith(" error: bad")
    assert bare.format(record("bad", level=logging.ERROR)) == "bad"
    assert bare.format(record("%s", "a\n20:14:03 fake\x1b[2Jé")) == "a\\n20:14:03 fake\\x1b[2Jé"
    assert "\x1b[31merror:\x1b[0m bad" in colored.format(record("bad", level=logging.ERROR))
    assert "\x1b[33mwarning:\x1b[0m odd" in colored.format(record("odd", level=logging.WARNING))
    try:
        raise ValueError("why")
    except ValueError:
        failed = record("bug", level=logging.ERROR)
        failed.exc_info = sys.exc_info()
    assert plain.format(failed).endswith("ValueError: why")


@given(st.text(), st.text(), st.none() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.lists(st.text()))
def test_json_lines(message: str, model: str, more: Any) -> None:
    line = JsonFormatter().format(record("%s", message, level=logging.WARNING, model=model, more=more))
    assert "\n" not in line
    read = json.loads(line)
    assert read["level"] == "warning"
    assert datetime.fromisoformat(read["time"]).timestamp() == 1_700_000_000.25
    assert datetime.fromisoformat(read["time"]).tzinfo is not None
    assert (read["message"], read["model"]) == (message, model)
    assert read.get("more") == more


def test_json_of_what_is_no_text() -> None:
    line = JsonFormatter().format(record("%s", "\udcff", path=Path("/x"), odd="\udc80"))
    assert json.loads(line) == {**json.loads(line), "message": "\\udcff", "path": "/x", "odd": "\\udc80"}


def read_json(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert list(line)[:2] == ["time", "level"]
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
    return lines


@pytest.mark.parametrize("flags", [("--log-format", "json"), ("--log-jsonl", "-lv", "4", "--log-colors", "on")])
def test_json_log(router: StartRouter, folder: Path, flags: tuple[str, ...]) -> None:
    server = router(*flags, models_dir=folder, is_fake=True)
    server.load("talks")
    script(folder, "quiet", lines=['a "quoted" line', "\\"], die="exit3")
    assert say(server, "quiet").status == 500
    server.unload("talks")
    eventually(lambda: any(line.get("event") == "unloaded" for line in read_json(server.log)), "the last line")
    lines = read_json(server.log)
    assert server.out == ""
    by_event = {line.get("event"): line for line in lines}
    assert by_event["listening"]["addresses"] == [server.url]
    assert by_event["models"]["num_models"] == 2
    assert by_event["failed"] == {**by_event["failed"], "level": "error", "model": "quiet", "exit_code": 3}
    assert {"talks", "quiet"} <= {line.get("model") for line in lines if line.get("event") == "loading"}
    loads = [line for line in lines if line.get("path") == "/models/load"]
    assert [(line["method"], line["status"], line["client"]) for line in loads] == [("POST", 200, "127.0.0.1")] * ("-lv" in flags)
    assert ('quiet | a "quoted" line' in [line["message"] for line in lines]) == ("-lv" in flags)


def test_text_log(router: StartRouter, models: Path) -> None:
    server = router(models_dir=models)
    server.load("tiny0")
    eventually(lambda: re.search(r"^\d\d:\d\d:\d\d tiny0: loaded in \d+ ms \(\d\.\d MB\)$", server.log, re.M), "the line")
    assert "\x1b" not in server.log
    assert "/health" not in server.log


def test_disabled_and_bare(router: StartRouter, folder: Path) -> None:
    silent = router("--log-disable", "-v", models_dir=folder, is_fake=True)
    bare = router("--no-log-timestamps", "--no-log-prefix", models_dir=folder, is_fake=True)
    script(folder, "quiet", die="exit3")
    for server in (silent, bare):
        server.load("talks")
        assert say(server, "quiet").status == 500
    eventually(lambda: re.search("^talks: loaded", bare.log, re.M), "a line")
    assert re.search(r"^quiet: its worker exited with code 3", bare.log, re.M)
    assert silent.log == ""


@pytest.mark.parametrize("flags", [("--log-requests",), ("-v",), ()])
def test_lines_of_requests(router: StartRouter, folder: Path, flags: tuple[str, ...]) -> None:
    server = router(*flags, models_dir=folder, is_fake=True)
    server.load("quiet")
    assert say(server, "quiet", tokens=7).status == 200
    with server.stream("/completion", {"model": "quiet", "prompt": '{"tokens": 3}', "stream": True}) as stream:
        list(stream)
    with server.stream("/completion", {"model": "quiet", "prompt": '{"tokens": 99, "delay_s": 0.05}', "stream": True}) as stream:
        next(iter(stream))
    assert server.get("/slots?model=no-such%0Aone&secret=x").status == 400
    assert server.get("/nothing%0Ahere").status == 404
    crash = json.dumps({"die": "SIGKILL", "die_after": 1, "tokens": 9})
    with server.stream("/completion", {"model": "quiet", "prompt": crash, "stream": True}) as stream:
        list(stream)
    wanted = [
        r"POST /completion quiet: 200 in \d+ ms, 7 tokens",
        r"POST /completion quiet: 200 in \d+ ms, 3 tokens",
        r"POST /completion quiet: the client left in \d+ ms, \d+ tokens?",
        r"GET /slots no-such\\none: 400 in \d+ ms",
        r"GET /nothing\\nhere: 404 in \d+ ms",
        r"POST /completion quiet: cut off in \d+ ms, 1 token",
    ]
    for line in wanted:
        if flags:
            eventually(lambda line=line: re.search(rf"^\d\d:\d\d:\d\d {line}$", server.log, re.M), line)  # type: ignore[misc]
        else:
            assert not re.search(line, server.log)
    assert ("GET /health" in server.log) == (flags == ("-v",))
    assert "secret" not in server.log


# ---------------------------------------------------------------- where they go


def test_a_log_file_that_is_rotated(router: StartRouter, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "router.log"
    path.parent.mkdir()
    path.write_text("what was there\n")
    server = router("--log-file", str(path), models_dir=folder, is_fake=True)
    server.load("talks")
    path.rename(tmp_path / "logs" / "router.log.1")
    server.unload("talks")
    eventually(lambda: path.exists() and "talks: unloaded" in path.read_text(), "the new file")
    assert (tmp_path / "logs" / "router.log.1").read_text().startswith("what was there\n")
    path.unlink()
    path.parent.rename(tmp_path / "moved")
    for _ in range(2):
        server.load("talks")  # it cannot log, and continues
        server.unload("talks")
    eventually(lambda: server.log.count("the log cannot be written") == 1, "its line in the log")
    (tmp_path / "moved").rename(path.parent)
    server.load("talks")
    eventually(lambda: path.exists() and "talks: loaded" in path.read_text(), "it writes again")


def test_a_log_file_that_cannot_be_opened(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastrouter", "--port", "0", "--log-file", str(tmp_path / "no" / "such")]
    result = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (1, f"fastrouter: --log-file {tmp_path}/no/such: No such file or directory\n")


@pytest.mark.parametrize(
    ("flags", "env", "has_colors"),
    [((), {}, True), ((), {"NO_COLOR": "1"}, False), ((), {"TERM": "dumb"}, False), (("--log-colors", "off"), {}, False)],
)
def test_colors_on_a_terminal(tmp_path: Path, flags: tuple[str, ...], env: dict[str, str], has_colors: bool) -> None:
    controller, terminal = pty.openpty()
    (tmp_path / "x.gguf").write_text("{}")
    fake = Path(__file__).parent.parent / "support" / "fake_router.py"
    program = [sys.executable, str(fake), "-m", str(tmp_path / "x.gguf"), "--port", "0", *flags]
    full = {**environment(tmp_path), "TERM": "xterm", **env}
    with subprocess.Popen(program, env=full, stdout=subprocess.DEVNULL, stderr=terminal) as process:
        os.close(terminal)
        said = ""
        while "x: loaded" not in said:
            said += os.read(controller, 4096).decode()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    os.close(controller)
    assert ("\x1b[2m" in said) == has_colors
    assert ("\x1b" in said) == has_colors
