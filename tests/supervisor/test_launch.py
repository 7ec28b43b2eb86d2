"""A fork server that starts before the router needs it."""

import asyncio
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from conftest import is_alive
from waiting import FAKE, PR_SET_CHILD_SUBREAPER, descriptors, until

from fastrouter.errors import FastrouterError
from fastrouter.options.limits import DEFAULT_POLL
from fastrouter.supervisor.workers import launch
from fastrouter.supervisor.workers.fork_server import ForkServer
from fastrouter.supervisor.workers.launch import Launched, environment_of


def launched() -> Launched:
    return Launched(FAKE, environment_of(os.environ, DEFAULT_POLL))


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
        maker = ForkServer(launched=early)
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


def test_one_that_has_ended_is_replaced() -> None:
    async def body() -> None:
        early = launched()
        os.kill(early.pid, 9)
        maker = ForkServer(launched=early)
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


def test_without_descriptors_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(24, "Too many open files")

    before = descriptors()
    monkeypatch.setattr(launch, "start", fail)
    with pytest.raises(FastrouterError, match="ulimit"):
        launched()
    assert descriptors() == before


def test_the_router_imports_little_before_the_fork_server_starts() -> None:
    """Otherwise the two do not import at the same time, and the first load waits longer."""
    code = "import sys, fastrouter.app.router; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "fastrouter.supervisor.workers.launch" in found
    assert {"fastrouter.app.service", "fastrouter.ipc.messages", "fastrouter.supervisor.supervisor"}.isdisjoint(found)
