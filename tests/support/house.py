"""A real supervisor with real processes that follow a script, for tests: see fake_worker.py."""

import asyncio
import contextlib
import ctypes
import gc
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
from specs import spec_of
from waiting import FAKE, PR_SET_CHILD_SUBREAPER, children, descriptors, until

from fastrouter._core import TextCollector
from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.ipc.messages import Generate
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.supervisor import Event, Supervisor
from fastrouter.supervisor.timers import Timers
from fastrouter.supervisor.workers.fork_server import ForkServer

WHOLE = b"".join(b"t%d " % i for i in range(5))  # the answer to a request without a script
RESIDENT = (State.LOADING, State.LOADED, State.DRAINING, State.STOPPING)
FOREVER = {"tokens": 1, "hang": True, "die_after": 1}  # one token, then silence


class Collector(TextCollector):
    """A whole answer: nothing is delivered before its end."""

    def __init__(self) -> None:
        super().__init__()
        self.finish: dict[str, Any] | None = None
        self.error: Exception | None = None
        self.num_ends = 0
        self.ended = asyncio.Event()

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        self.finish = json.loads(payload)
        self._end()

    def fail(self, error: Exception) -> None:
        self.error = error
        self._end()

    def _end(self) -> None:
        self.num_ends += 1
        self.ended.set()

    async def end(self) -> bytes:
        await asyncio.wait_for(self.ended.wait(), 60)
        await asyncio.sleep(0)
        assert self.num_ends == 1
        if self.error is not None:
            raise self.error
        return self.text()


class Streamer(Collector):
    """An answer of which the client sees each token."""

    def restart(self) -> bool:
        return not self.num_tokens and super().restart()


class House:
    """A supervisor, the files of its models, and the events for its subscriber."""

    def __init__(self, folder: Path, models_max: int, **settings: Any) -> None:
        self.folder = folder
        self.stopped_at: float | None = None  # what the supervisor's clock shows while it stands still
        self.events: list[tuple[str, str]] = []
        self.reasons: list[tuple[str, str]] = []  # (model, why it left)
        self.fields: dict[str, dict[str, Any]] = {}
        self.max_resident = 0
        self.fork_server = ForkServer(FAKE)
        config = Config(models_max=models_max, **settings)
        self.supervisor = Supervisor(config, maker=self.fork_server, on_event=self._on_event, timers=Timers(self._now))

    def _on_event(self, event: Event) -> None:
        if event.event == "model_status":
            self.events.append((event.model, event.data["status"] + (" failed" if event.data.get("failed") else "")))
            if "reason" in event.data:
                self.reasons.append((event.model, event.data["reason"]))
            self.max_resident = max(self.max_resident, self.num_resident())

    def _now(self) -> float:
        return time.monotonic() if self.stopped_at is None else self.stopped_at

    @contextlib.contextmanager
    def clock_stands_still(self) -> Iterator[None]:
        """Between two decisions that must agree: models that have been idle for longer leave earlier."""
        self.stopped_at = time.monotonic()
        try:
            yield
        finally:
            self.stopped_at = None

    def num_resident(self) -> int:
        return sum(instance.state in RESIDENT for instance in self.supervisor.instances())

    def settle(self, model: str, **fields: Any) -> None:
        """Fields of its spec from now on: ttl_s, is_pinned, size_bytes ..."""
        self.fields[model] = fields

    def spec(self, model: str, stop_timeout_s: float = 30.0, **script: Any) -> ModelSpec:
        path = self.folder / model
        if script or not path.exists():
            path.write_text(json.dumps(script))
        spec = spec_of(model, str(path), stop_timeout_s=stop_timeout_s, size_bytes=path.stat().st_size)
        return replace(spec, **self.fields.get(model, {}))

    async def acquire(self, model: str, autoload: bool = True, priority: int = 0) -> Lease:
        return await asyncio.wait_for(self.supervisor.acquire(self.spec(model), autoload, priority), 60)

    def wait(self, model: str, priority: int = 0) -> "asyncio.Task[Lease]":
        """An acquire that waits."""
        return asyncio.get_running_loop().create_task(self.acquire(model, priority=priority))

    async def ask(self, model: str, **script: Any) -> bytes:
        with await self.acquire(model) as lease:
            return await submit(lease, Collector(), **script).end()

    def status(self, model: str) -> str:
        found = self.supervisor.status(model)
        return found.value + (" failed" if found.failed else "")

    async def until_status(self, model: str, status: str) -> None:
        await until(lambda: self.status(model) == status, f"{model} {status}")

    def pid(self, model: str) -> int:
        [pid] = [instance.process.pid for instance in self.supervisor.instances() if instance.spec.id == model]
        assert pid
        return pid


def submit(lease: Lease, sink: Collector, **script: Any) -> Collector:
    prompt = json.dumps(script) if script else "hello"
    lease.submit(Generate(messages=[{"role": "user", "content": prompt}]), sink)
    return sink


Body = Callable[[House], Coroutine[Any, Any, None]]
Run = Callable[..., None]


def run_house(folder: Path, body: Body, models_max: int = 2, **settings: Any) -> None:
    """Run `body` with a supervisor; afterwards no descriptor, no child and no task may be left."""

    async def whole() -> None:
        await asyncio.sleep(0)
        gc.collect()  # objects that other tests have left for the collector
        before = descriptors()
        here = House(folder, models_max, **settings)
        await here.supervisor.start()
        try:
            await body(here)
        finally:
            await here.supervisor.stop(0)
        assert not models_max or here.max_resident <= models_max
        assert not here.supervisor.instances()
        assert not children(), "a child is left"
        await until(lambda: descriptors() == before, "descriptors as before")
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "no task")

    try:
        with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))  # measurements of one test must not reach the next one
            runner.run(whole())
    finally:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
