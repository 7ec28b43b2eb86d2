"""A router under systemd: its messages on the notification socket, and the units of the package. Real sockets, real routers."""

import asyncio
import configparser
import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DEADLINE_S, REPOSITORY, StartRouter, descendants, environ_of, environment, eventually

from fastrouter.app.systemd import Notifier
from fastrouter.config.config import parse

UNITS = REPOSITORY / "packaging"


@contextlib.contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.settimeout(DEADLINE_S)
        yield sock


def next_word(sock: socket.socket) -> dict[str, str]:
    """The next message that is not a watchdog beat."""
    while (message := sock.recv(4096).decode()) == "WATCHDOG=1":
        pass
    return dict(line.split("=", 1) for line in message.split("\n"))


def beats(sock: socket.socket, num: int) -> None:
    for _ in range(num):
        assert sock.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize("is_abstract", [False, True])
def test_life_of_a_service(router: StartRouter, models: Path, tmp_path: Path, is_abstract: bool) -> None:
    name = f"@fastrouter-{tmp_path.name}" if is_abstract else str(tmp_path / "notify")
    with listening(name.replace("@", "\0", 1)) as sock:
        server = router(models_dir=models, env={"NOTIFY_SOCKET": name})
        assert next_word(sock) == {"READY": "1", "STATUS": f"listening on {server.url}"}
        assert server.get("/models").status == 200
        server.process.send_signal(signal.SIGHUP)
        reloading = next_word(sock)
        assert (reloading["RELOADING"], int(reloading["MONOTONIC_USEC"]) > 0) == ("1", True)
        assert next_word(sock)["READY"] == "1"
        server.load("tiny0")
        for pid in descendants(server.process.pid):
            assert b"NOTIFY_SOCKET" not in environ_of(pid)
        assert server.stop() == 0
        assert next_word(sock) == {"STOPPING": "1"}


def test_a_loop_that_hangs_beats_no_more(router: StartRouter, tmp_path: Path) -> None:
    with listening(str(tmp_path / "notify")) as sock:
        server = router(env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"})
        assert next_word(sock)["READY"] == "1"
        beats(sock, 2)
        server.process.send_signal(signal.SIGSTOP)
        try:
            eventually(lambda: ") T " in Path(f"/proc/{server.process.pid}/stat").read_text(), "the stop")
            sock.settimeout(0)
            with contextlib.suppress(BlockingIOError):  # messages that were on their way
                while sock.recv(4096):
                    pass
            sock.settimeout(0.5)
            with pytest.raises(TimeoutError):
                sock.recv(4096)
        finally:
            server.process.send_signal(signal.SIGCONT)
        sock.settimeout(DEADLINE_S)
        beats(sock, 1)


def test_a_socket_that_is_gone_costs_nothing(router: StartRouter, tmp_path: Path) -> None:
    server = router(env={"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "50000"})
    assert server.get("/models").status == 200


def test_it_never_waits_for_systemd_and_forgets_nothing(tmp_path: Path) -> None:
    """Beats are lost while the socket is not read, messages are not: they are sent when there is room again."""

    async def talk(sock: socket.socket) -> list[str]:
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000"})  # one beat in each millisecond
        notifier.start_watchdog()
        begun = time.monotonic()
        await asyncio.sleep(1)  # 1,000 beats that are not read; no queue of the kernel is that long
        notifier.ready("here")
        notifier.reloading()
        assert time.monotonic() - begun < DEADLINE_S
        sock.setblocking(False)
        heard: list[str] = []
        while len(heard) < 2:
            try:
                message = sock.recv(4096).decode()
                heard += [message.split("\n")[0]] if message != "WATCHDOG=1" else []
            except BlockingIOError:
                await asyncio.sleep(0.01)
        notifier.close()
        notifier.stopping()
        return heard

    with listening(str(tmp_path / "notify")) as sock:
        assert asyncio.run(talk(sock)) == ["READY=1", "RELOADING=1"]


@pytest.mark.parametrize(("variables", "shown"), [({"WATCHDOG_PID": "1"}, ""), ({"WATCHDOG_USEC": "x"}, ""), ({}, " every 1 s")])
def test_a_watchdog_that_is_for_us(variables: dict[str, str], shown: str) -> None:
    environ = {"NOTIFY_SOCKET": "@nobody-listens", "WATCHDOG_USEC": "2000000", **variables}
    notifier = Notifier(environ)
    assert repr(notifier) == f"<Notifier '\\x00nobody-listens'{shown}>"
    assert not environ
    notifier.close()


def test_started_by_its_socket(tmp_path: Path, models: Path) -> None:
    """Socket activation and notification together, as in fastrouter.socket and fastrouter.service."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, listening(str(tmp_path / "notify")) as sock:
        shell = f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&{tcp.fileno()}'
        command = ["bash", "-c", shell, "bash", sys.executable, "-m", "fastrouter", "--models-dir", str(models)]
        env = environment(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"))
        with socket.create_connection(tcp.getsockname()) as early:  # systemd starts it for this request
            early.sendall(b"GET /models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(command, env=env, pass_fds=[tcp.fileno()], stdout=quiet, stderr=quiet)
            try:
                early.settimeout(DEADLINE_S)
                assert early.recv(4096).startswith(b"HTTP/1.1 200 OK")
                status = next_word(sock)["STATUS"]
                assert status == f"listening on http://127.0.0.1:{tcp.getsockname()[1]}"
                process.send_signal(signal.SIGTERM)
                assert process.wait(DEADLINE_S) == 0
            finally:
                process.kill()
                process.wait()


# ---------------------------------------------------------------- the units


def read_unit(name: str) -> configparser.RawConfigParser:
    unit = configparser.RawConfigParser(strict=False, comment_prefixes=("#",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNITS / name)
    return unit


def test_the_service_starts_what_there_is(tmp_path: Path) -> None:
    service = read_unit("fastrouter.service")["Service"]
    program, *flags = service["ExecStart"].split()
    assert Path(program).name == "fastrouter"
    folder = tmp_path / "models"
    folder.mkdir()
    parse([str(folder) if flag.startswith("%S/") else flag for flag in flags], {})
    assert service["Type"] == "notify"
    assert re.fullmatch(r"\d+", service["WatchdogSec"])
    # The router ends its workers itself, and when the kernel kills a worker for memory, the router must survive.
    assert (service["KillMode"], service["OOMPolicy"]) == ("mixed", "continue")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    program = tmp_path / "fastrouter"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in ("fastrouter.service", "fastrouter.socket"):
        text = (UNITS / name).read_text()
        (tmp_path / name).write_text(text.replace(read_unit("fastrouter.service")["Service"]["ExecStart"].split()[0], str(program)))
    command = [
        "systemd-analyze",
        "verify",
        "--man=no",
        "--recursive-errors=no",
        str(tmp_path / "fastrouter.service"),
        str(tmp_path / "fastrouter.socket"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_service_is_as_closed_as_the_documentation_says() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / "fastrouter.service")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "Overall exposure" not in result.stdout:
        pytest.skip(f"this systemd-analyze cannot do it offline: {result.stderr[:200]}")
    exposure = float(re.findall(r"Overall exposure level for .*: ([0-9.]+)", result.stdout)[0])
    told = float(re.findall(r"exposure of ([0-9.]+)", (UNITS.parent / "docs" / "operations.md").read_text())[0])
    assert exposure <= told + 0.3, "other versions of systemd count other things"
