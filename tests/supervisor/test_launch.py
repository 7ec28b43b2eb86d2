"""A fork server that starts before the router needs it."""

import asyncio
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from conftest import eventually, is_alive
from waiting import FAKE, PR_SET_CHILD_SUBREAPER, descriptors, until

from fastrouter.options.limits import DEFAULT_POLL
from fastrouter.supervisor.workers import launch
from fastrouter.supervisor.workers.fork_server import ForkServer
from fastrouter.supervisor.workers.launch import Launched, environment_of, launch_early


def launched(poll: int = DEFAULT_POLL) -> Launched:
    return Launched(FAKE, environment_of(os.environ, poll))


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        before = descriptors()
        await body()
        await until(lambda: descriptors() == before, "all is closed")

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole())
    finally:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def test_it_is_the_one_that_is_used() -> None:
    async def body() -> None:
        early = launched()
        maker = ForkServer(FAKE, launched=early)
        maker.start()
        assert maker.pid == early.pid
        worker = maker.spawn()
        await until(lambda: worker.is_up, "up")
        worker.kill()
        await until(lambda: worker.is_closed, "its end")
        maker.close()
        assert not is_alive(early.pid)
        early.close()

    run(body)


def test_one_with_other_options_is_not() -> None:
    async def body() -> None:
        early = launched()
        maker = ForkServer(FAKE, poll=DEFAULT_POLL + 1, launched=early)
        assert not is_alive(early.pid)
        maker.start()
        assert maker.pid not in (None, early.pid)
        maker.close()

    run(body)


def test_one_that_has_ended_is_replaced() -> None:
    async def body() -> None:
        early = launched()
        os.kill(early.pid, 9)
        maker = ForkServer(FAKE, launched=early)
        ends: list[int] = []
        maker.on_end = lambda: (ends.append(1), maker.start())  # type: ignore[assignment, func-returns-value]
        maker.start()
        await until(lambda: bool(ends), "its end is noticed")
        assert maker.pid not in (None, early.pid)
        worker = maker.spawn()
        await until(lambda: worker.is_up, "up")
        worker.kill()
        await until(lambda: worker.is_closed, "its end")
        maker.close()

    run(body)


def test_one_that_is_never_used_ends() -> None:
    before = descriptors()
    early = launched()
    early.close()
    early.close()
    assert not is_alive(early.pid)
    assert descriptors() == before


def test_systemd_speaks_to_the_router_only() -> None:
    environ = {"LISTEN_FDS": "1", "NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "PATH": "/bin", "HF_TOKEN": "secret"}
    kept = environment_of(environ, DEFAULT_POLL)
    assert kept == {"PATH": "/bin", "GGML_NO_BACKTRACE": "1", "GOMP_SPINCOUNT": "1000", **_path_of_source(kept)}


def _path_of_source(kept: dict[str, str]) -> dict[str, str]:
    return {name: kept[name] for name in ("PYTHONPATH",) if name in kept}


def test_without_descriptors_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(24, "Too many open files")

    before = descriptors()
    monkeypatch.setattr(launch, "start", fail)
    assert launch_early(os.environ) is None
    assert descriptors() == before


@pytest.mark.parametrize(("arguments", "code"), [(["--port", "none"], 1), (["--help"], 0), (["--version"], 0)])
def test_a_command_that_ends_leaves_no_process(arguments: list[str], code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "fastrouter", *arguments]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    assert process.wait(60) == code, (tmp_path / "out").read_text()
    eventually(lambda: not _of_group(process.pid), "its children have ended")


def _of_group(group: int) -> list[int]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[2]) == group:
            found.append(int(pid))
    return found


def test_the_router_imports_little_before_the_fork_server_starts() -> None:
    """Otherwise the two do not import at the same time, and the first load waits longer."""
    code = "import sys, fastrouter.cli.serve; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"asyncio", "uvloop", "orjson", "fastrouter.config.config", "fastrouter.app.router"}.isdisjoint(found)
