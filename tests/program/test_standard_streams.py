"""The router's surroundings: closed descriptors, a log without a reader, a terminal that closes, Ctrl-C."""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import FASTROUTER, REPOSITORY, Router, StartRouter, descendants, environment, eventually, is_alive

from fastrouter.app.router import ONE_SIGNAL_S

FAKE_ROUTER = [sys.executable, str(REPOSITORY / "tests" / "support" / "fake_router.py")]
IN_A_TERMINAL = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@contextlib.contextmanager
def started(command: list[str], folder: Path, **more: Any) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(command, cwd=folder, env=environment(folder), **{"stdin": subprocess.DEVNULL, **more})
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def as_router(process: "subprocess.Popen[bytes]", port: int, folder: Path) -> Router:
    return Router(process, port, folder / "log", folder / "out", folder)


def port_in(text: str) -> int:
    found = re.search(r"is listening on http://127\.0\.0\.1:(\d+)", text)
    return int(found[1]) if found else 0


def await_port(path: Path) -> int:
    port: int = eventually(lambda: path.exists() and port_in(path.read_text()), "the port")
    return port


# ---------------------------------------------------------------- descriptors 0 to 2


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_descriptors(models: Path, tmp_path: Path, closed: str) -> None:
    """A closed one becomes /dev/null: no pipe or socket of ours may take its number."""
    log = tmp_path / "log"
    flags = ["--port", "0", "--models-dir", str(models), "--log-file", str(log), "--log-format", "json"]
    with started(["sh", "-c", f'exec "$@" {closed}', "sh", *FASTROUTER, *flags], tmp_path) as process:
        server = as_router(process, await_port(log), tmp_path)
        assert server.post("/completion", {"model": "tiny0", "prompt": "x", "n_predict": 2}).status == 200
        numbers = [int(word[0]) for word in closed.split()]
        assert {os.readlink(f"/proc/{process.pid}/fd/{number}") for number in numbers} == {"/dev/null"}
        assert server.stop() == 0
    assert "Traceback" not in log.read_text()


# ---------------------------------------------------------------- a log without a reader


def flood(port: int, num_requests: int) -> None:
    """Requests that each write a line to a verbose log; all are answered."""
    request = b"GET /v1/no-such-route-%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" % (b"x" * 100)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        for _ in range(num_requests // 100):
            sock.sendall(request * 100)
            answers = 0
            while answers < 100:
                data = sock.recv(1 << 20)
                assert data
                answers += data.count(b"HTTP/1.1 404")


@pytest.mark.parametrize("kind", ["stderr", "both", "fifo", "full disk"])
def test_a_log_without_a_reader(tmp_path: Path, kind: str) -> None:
    """Every request is answered and signals work; lost lines are counted, and reported when a reader is back."""
    reader, writer = os.pipe()
    out, fifo = tmp_path / "out", tmp_path / "fifo"
    (tmp_path / "a.gguf").write_text("{}")
    flags = ["--port", "0", "-v", "--models-dir", str(tmp_path)]
    if kind in ("fifo", "full disk"):
        os.mkfifo(fifo)
        flags += ["--log-file", str(fifo) if kind == "fifo" else "/dev/full"]
    with (
        out.open("wb") as file,
        started([*FAKE_ROUTER, *flags], tmp_path, stdout=writer if kind == "both" else file, stderr=writer) as process,
    ):
        os.close(writer)
        port = port_in(os.read(reader, 200).decode()) if kind == "both" else await_port(out)
        server = as_router(process, port, tmp_path)
        flood(port, 6000)
        assert server.get("/health").status == 200
        assert server.post("/completion", {"model": "a", "prompt": json.dumps({"tokens": 1, "lines": ["x"] * 50})}).status == 200
        if kind == "stderr":
            os.set_blocking(reader, False)
            said = b""

            def has_report() -> bool:
                nonlocal said
                with contextlib.suppress(BlockingIOError):
                    said += os.read(reader, 1 << 20)
                return b"lines of output were lost" in said

            eventually(has_report, "the number of lost lines")
            flood(port, 6000)
        if kind == "full disk":
            assert b"the log cannot be written to /dev/full: No space left on device" in os.read(reader, 1000)
        assert server.stop() == 0
    os.close(reader)


# ---------------------------------------------------------------- the terminal


def listed(server: Router) -> list[str]:
    return [model["id"] for model in server.get("/models").json["data"]]


@pytest.mark.parametrize("how", ["plain", "nohup"])
def test_a_terminal_that_is_closed(tmp_path: Path, how: str) -> None:
    """A router in the foreground ends with it; under nohup it continues, and SIGHUP is a reload."""
    controller, terminal = pty.openpty()
    (tmp_path / "a.gguf").write_text("{}")
    out = tmp_path / "out"
    command = [sys.executable, "-c", IN_A_TERMINAL, how, *FAKE_ROUTER, "--port", "0", "--models-dir", str(tmp_path)]
    with out.open("wb") as stdout, started(command, tmp_path, stdin=terminal, stdout=stdout, stderr=terminal) as process:
        os.close(terminal)
        server = as_router(process, await_port(out), tmp_path)
        eventually(lambda: listed(server) == ["a"], "the model")
        (tmp_path / "b.gguf").write_text("{}")
        server.load("a")
        worker = server.get("/models/logs?model=a").body
        os.killpg(process.pid, signal.SIGHUP)  # `kill -HUP %1`
        eventually(lambda: listed(server) == ["a", "b"], "a reload, as the terminal is still there")
        assert server.status("a") == "loaded", "the signal is for the router, not for its workers"
        assert server.get("/models/logs?model=a").body == worker
        os.close(controller)
        if how == "plain":
            assert server.await_end() == 0
            return
        (tmp_path / "c.gguf").write_text("{}")
        process.send_signal(signal.SIGHUP)
        eventually(lambda: listed(server) == ["a", "b", "c"], "a reload without a terminal")
        assert server.stop() == 0


def test_ctrl_c_says_what_it_waits_for(router: StartRouter, tmp_path: Path) -> None:
    """At the second signal it stops waiting."""
    (tmp_path / "a.gguf").write_text("{}")
    server = router("--shutdown-timeout", "1000", models_dir=tmp_path, is_fake=True)
    body = {"model": "a", "prompt": json.dumps({"tokens": 99999, "delay_s": 0.01}), "stream": True}
    with server.stream("/completion", body) as stream:
        events = stream.events()
        next(events)
        children = descendants(server.process.pid)
        server.process.send_signal(signal.SIGINT)
        eventually(lambda: "stopping: waiting up to 1000 s for 1 request; " in server.log, "a word")
        assert next(events)["content"], "the stream goes on"
        time.sleep(2 * ONE_SIGNAL_S)
        server.process.send_signal(signal.SIGINT)
        server.exits_with = 130
        assert server.await_end() == 130
    assert children
    eventually(lambda: not [pid for pid in children if is_alive(pid)], "the end of its children")


def test_a_load_is_not_waited_for(router: StartRouter, tmp_path: Path) -> None:
    (tmp_path / "slow.gguf").write_text(json.dumps({"never_ready": True}))
    server = router("--shutdown-timeout", "1000", models_dir=tmp_path, is_fake=True)
    assert server.post("/models/load", {"model": "slow"}).status == 200
    with contextlib.closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)) as client:
        content = b'{"model": "slow", "prompt": "x"}'
        client.sendall(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        client.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(content), content))
        eventually(lambda: server.get("/metrics").status in (200, 501) and server.status("slow") == "loading", "its load")
        server.process.send_signal(signal.SIGINT)
        answer = b""
        while data := client.recv(4096):
            answer += data
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"the server is stopping" in answer
    assert server.await_end() == 0


def test_ctrl_c_of_make_run(tmp_path: Path) -> None:
    """make ends with 0 and prints no line."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, line in (("fastrouter", " ".join([*FAKE_ROUTER, '"$@"'])), ("python", f'{sys.executable} "$@"')):
        (binaries / name).write_text(f"#!/bin/sh\nexec {line}\n")
        (binaries / name).chmod(0o755)
    (tmp_path / "a.gguf").write_text("{}")
    command = ["make", "--no-print-directory", "-C", str(REPOSITORY), "-o", "install", "-o", ".venv/.demo", "run"]
    command += [f"BIN={binaries}", f"MODELS={tmp_path}", "ARGS=--port 0"]
    controller, terminal = pty.openpty()
    in_a_terminal = [sys.executable, "-c", IN_A_TERMINAL, "plain"]
    with started([*in_a_terminal, *command], tmp_path, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        said = ""
        while "is listening" not in said:
            said += os.read(controller, 4096).decode()
        os.write(controller, b"\x03")
        with contextlib.suppress(OSError):
            while data := os.read(controller, 4096):
                said += data.decode()
        assert process.wait(60) == 0
    os.close(controller)
    assert "make" not in said, said


# ---------------------------------------------------------------- few descriptors


def answers(sockets: list[socket.socket]) -> list[int]:
    """Statuses; 0: closed without one."""
    found = []
    for sock in sockets:
        try:
            data = sock.recv(4096)
        except ConnectionResetError:
            data = b""
        found.append(int(data[9:12]) if data else 0)
    return found


def test_few_descriptors_and_many_connections_at_once(models: Path, tmp_path: Path) -> None:
    """They connect before the router is ready: it takes as many as it can, refuses the others, and still loads a model."""
    log, out = tmp_path / "log", tmp_path / "out"
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    port = listener.getsockname()[1]
    clients = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(80)]
    for client in clients:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")  # it waits for the start
    shell = f'ulimit -n 64; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&{listener.fileno()}'
    command = ["bash", "-c", shell, "bash", *FASTROUTER, "--models-dir", str(models)]
    with log.open("wb") as stderr, out.open("wb") as stdout:
        process = subprocess.Popen(command, env=environment(tmp_path), stdout=stdout, stderr=stderr, pass_fds=[listener.fileno()])
    server = as_router(process, port, tmp_path)
    try:
        statuses = answers(clients)
        assert set(statuses) <= {200, 503, 0}
        assert statuses.count(200) >= 8
        one = clients[statuses.index(200)]  # the others stay too
        body = b'{"model": "tiny0", "prompt": "x", "n_predict": 2}'
        one.sendall(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        one.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        assert one.recv(4096).startswith(b"HTTP/1.1 200")
        for client in clients:
            client.close()
        assert server.stop() == 0
    finally:
        listener.close()
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "Traceback" not in server.log
    assert "Errno" not in server.log
