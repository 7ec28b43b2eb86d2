"""The real supervisor with a fake clock and fake workers: no process, no thread, no sleep. Tests look at `repr(room)`."""

import asyncio
import re
from typing import Any

from fake_workers import FakeMaker, FakeWorker
from house import Collector
from specs import spec_of

from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.ipc.messages import Generate
from fastrouter.simulator.loop import SimulatedLoop
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.supervisor import Event, Supervisor
from fastrouter.supervisor.timers import Timers
from fastrouter.supervisor.trace_writer import TraceWriter

_INSTANCE = re.compile(r"<Instance (\S+) (\S+) (\d+) leases \d+ streams>")


class Room:
    def __init__(self, models_max: int = 2, *, load_s: float = 1.0, trace: TraceWriter | None = None, **settings: Any) -> None:
        """`load_s` infinite: loads end when a test says so."""
        self.loop = SimulatedLoop()
        self.maker = FakeMaker(self.loop, load_s)
        self.events: list[str] = []
        self.fields: dict[str, dict[str, Any]] = {}
        self.tasks: list[asyncio.Task[Any]] = []
        config = Config(models_max=models_max, **{"models_memory_mib": 0, **settings})
        self.known: set[str] | None = None  # the models in the catalog; None: all
        timers = Timers(self.loop.time, self.loop)
        self.supervisor = Supervisor(config, on_event=self._on_event, maker=self.maker, timers=timers, trace=trace, find=self._find)
        self.run(self.supervisor.start())

    def __repr__(self) -> str:
        """`a loaded 1, b loading 0 | c:2`: residents with their leases, and how many wait for which model."""
        instances, _, queue = repr(self.supervisor).partition("] <Queue ")
        residents = ", ".join(" ".join(found) for found in _INSTANCE.findall(instances))
        return " | ".join(part for part in (residents, queue.removesuffix(">>")) if part)

    def _on_event(self, event: Event) -> None:
        """`+a` it loads, `=a` it is loaded, `-a memory` it has left, `!a` it has failed, `~a` it sleeps."""
        if event.event == "model_status":
            data = event.data
            sign = {"loading": "+", "loaded": "=", "sleeping": "~", "unloaded": "!" if data.get("failed") else "-"}[data["status"]]
            self.events.append(sign + event.model + (f" {data['reason']}" if "reason" in data else ""))

    # ------------------------------------------------------------ requests

    def settle(self, model: str, **fields: Any) -> None:
        """Fields of its spec from now on."""
        self.fields[model] = fields

    def _find(self, model: str) -> ModelSpec | None:
        return self.spec(model) if self.known is None or model in self.known else None

    def spec(self, model: str) -> ModelSpec:
        return spec_of(model, f"/models/{model}", **self.fields.get(model, {}))

    def ask(self, model: str, *, autoload: bool = True, priority: int = 0) -> "asyncio.Task[Lease]":
        """A request, as far as it gets without any time passing."""
        return self.begin(self.supervisor.acquire(self.spec(model), autoload, priority))

    def lease(self, model: str) -> Lease:
        """Its lease, after a load if needed."""
        task = self.ask(model)
        self.advance(0 if task.done() else self.maker.load_s.get(model, self.maker.usual_load_s) + 0.1)
        return task.result()

    def use(self, *models: str) -> None:
        """One request after the other."""
        for model in models:
            self.lease(model).release()
            self.advance(0.1)

    def begin(self, work: Any) -> "asyncio.Task[Any]":
        task = self.loop.create_task(work)
        self.tasks.append(task)
        self.loop.advance()
        return task

    def run(self, work: Any) -> Any:
        """For an action that does not wait."""
        return self.begin(work).result()

    def advance(self, seconds: float = 0.0) -> None:
        self.loop.advance(seconds)

    # ------------------------------------------------------------ reading

    def worker(self, model: str) -> FakeWorker:
        [worker] = [instance.process for instance in self.supervisor.instances() if instance.spec.id == model]
        assert isinstance(worker, FakeWorker)
        return worker

    def spare(self) -> FakeWorker:
        spare = self.supervisor.spares.spare
        assert isinstance(spare, FakeWorker)
        return spare

    def status(self, model: str) -> str:
        return self.supervisor.status(model).value

    def position(self, model: str) -> int:
        """What `: queued N` shows."""
        return self.supervisor.wait_preview(self.spec(model)).position

    def close(self) -> None:
        stopping = self.begin(self.supervisor.stop(0))
        self.advance(20)
        stopping.result()
        assert not self.supervisor.instances()
        assert all(worker.is_closed for worker in self.maker.workers)
        for task in self.tasks:
            assert task.done(), "a request was forgotten"
            if not task.cancelled():
                task.exception()  # a test that did not look at it does not need it


def submit(lease: Lease, sink: Collector) -> Collector:
    lease.submit(Generate(prompt="hello"), sink)
    return sink
