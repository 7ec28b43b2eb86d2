"""The verbs pull and rm, with a running router and without: what they print, what is in the cache afterwards, exit codes."""

import contextlib
import os
import pty
import signal
import subprocess
import termios
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_hub
import pytest
from conftest import FASTROUTER, Router, StartRouter, environment, eventually
from fake_hub import FakeHub, serving

NAME = "u/r:Q4_K_M"
FILE = "m-Q4_K_M.gguf"
NOWHERE = "http://127.0.0.1:9"  # no router answers there

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def hub(models: Path) -> Iterator[FakeHub]:
    with serving(FakeHub(repos={"u/r": {FILE: (models / "tiny0.gguf").read_bytes()}})) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def server(router: StartRouter, hub: FakeHub, cache: Path) -> Router:
    return router(env={"LLAMA_CACHE": str(cache), "HF_ENDPOINT": hub.url})


@pytest.fixture
def start(tmp_path: Path, hub: FakeHub, cache: Path) -> Start:
    def start(*arguments: str, url: str = NOWHERE, stderr: int = subprocess.PIPE) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*FASTROUTER, *arguments],
            env=environment(tmp_path, LLAMA_CACHE=str(cache), HF_ENDPOINT=hub.url, FASTROUTER_URL=url, TERM="xterm"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    return start


def end_of(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    with process:
        out, error = process.communicate(timeout=60)
        return process.returncode, out, error or ""


def is_there(cache: Path, hub: FakeHub) -> bool:
    contents = [path.read_bytes() for path in cache.glob("models--u--r/snapshots/*/*.gguf")]
    return contents == [hub.repos["u/r"][FILE]]


def test_without_a_router(start: Start, hub: FakeHub, cache: Path) -> None:
    code, out, error = end_of(start("pull", "u/r"))
    assert (code, out) == (0, f"{NAME} is in the cache\n")
    lines = error.splitlines()
    assert lines[0] == f"asking {hub.url} for u/r"
    assert lines[1].startswith(f"{FILE}: 0% of 0.")
    assert lines[-1].startswith(f"{FILE}: 100% of 0.")
    assert is_there(cache, hub)
    assert end_of(start("rm", NAME.lower())) == (0, f"{NAME.lower()} is removed\n", "")
    assert not is_there(cache, hub)
    assert end_of(start("rm", NAME)) == (1, "", f"fastrouter: model '{NAME}' is not in a cache\n")


def test_through_a_router(start: Start, hub: FakeHub, cache: Path, server: Router) -> None:
    hub.always[FILE] = fake_hub.slow(400_000)
    pulling = start("pull", "u/r", url=server.url)
    eventually(lambda: server.get("/v1/models").json["data"], "its beginning")
    rows = eventually(lambda: [row for row in end_of(start("list", url=server.url))[1].splitlines() if "downloading" in row], "a row")
    assert rows[0].split()[:2] == ["u/r", "downloading"]
    assert rows[0].split()[2].rstrip("%").isdigit()
    second = start("pull", "u/r", url=server.url)  # joins the first
    for process in (pulling, second):
        code, out, _ = end_of(process)
        assert (code, out) == (0, f"{NAME} is in the cache\n")
    assert hub.ranges(FILE) == [None]
    assert server.status(NAME) == "unloaded"
    assert end_of(start("pull", NAME, url=server.url)) == (0, f"{NAME} is in the cache\n", "")
    assert end_of(start("rm", NAME, url=server.url)) == (0, f"{NAME} is removed\n", "")
    assert server.get("/v1/models").json["data"] == []
    assert not is_there(cache, hub)
    code, said, problem = end_of(start("rm", NAME, url=server.url))
    assert (code, said) == (1, "")
    assert problem.startswith(f"fastrouter: model '{NAME}' not found; there are no models: ")


@pytest.mark.parametrize("with_router", [False, True])
def test_what_cannot_be_pulled(start: Start, with_router: bool, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("server").url if with_router else NOWHERE
    for name, words in (
        ("no/such", "there is no such repository"),
        ("u/r:Q2_K", "no model of quant Q2_K"),
        ("nonsense", "must look like user/repo"),
    ):
        code, out, error = end_of(start("pull", name, url=url))
        assert (code, out) == (1, "")
        last = error.splitlines()[-1]
        assert last.startswith("fastrouter: ")
        assert words in last


@pytest.mark.parametrize("with_router", [False, True])
def test_ctrl_c_and_on(start: Start, hub: FakeHub, cache: Path, with_router: bool, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("server").url if with_router else NOWHERE
    hub.faults[FILE] = deque([fake_hub.stall(100_000)])
    process = start("pull", "u/r", url=url)
    eventually(lambda: [path.stat().st_size for path in cache.glob("*/blobs/*")] == [100_000], "some of it")
    process.send_signal(signal.SIGINT)
    code, out, error = end_of(process)
    assert (code, out, error.splitlines()[-1]) == (130, "", "stopped; `fastrouter pull u/r` continues from there")
    assert end_of(start("pull", "u/r", url=url))[:2] == (0, f"{NAME} is in the cache\n")
    assert hub.ranges(FILE) == [None, "bytes=100000-"]


def test_a_hub_that_cannot_be_reached(start: Start, hub: FakeHub) -> None:
    """Each attempt is announced, so that the user knows why it waits."""
    hub.faults[""] = deque([fake_hub.status(503)])
    code, out, error = end_of(start("pull", "u/r"))
    assert (code, out) == (0, f"{NAME} is in the cache\n")
    assert error.splitlines()[:2] == [f"asking {hub.url} for u/r", "the hub answers 503 Service Unavailable; trying again in 0.5 s"]


def test_a_bar_on_a_terminal(start: Start, hub: FakeHub) -> None:
    hub.always[FILE] = fake_hub.slow(600_000)
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    process = start("pull", "u/r", stderr=terminal)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while data := os.read(controller, 4096):
            shown += data
    os.close(controller)
    assert end_of(process)[:2] == (0, f"{NAME} is in the cache\n")
    bars = shown.decode().split("\r")
    assert len(bars) > 3
    assert f"{FILE}: 100%|" in bars[-2] + bars[-1]
