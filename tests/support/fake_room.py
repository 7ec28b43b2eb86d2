"""The real supervisor with a fake clock and fake workers: no process, no thread, no sleep. `repr(room)` is what tests look at."""

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable
from typing import Any

from fake_time import FakeLoop
from house import Collector, spec_of

from fastrouter._core import FINISH, LAST, TEXT, TokenRing
from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.ipc.messages import Failed, Generate, Load, Prime, Progress, Ready, Shrink
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.supervisor import Event, Supervisor

EXIT_S = 0.01  # from a kill to the end
_INSTANCE = re.compile(r"<Instance (\S+) (\S+) (\d+) leases \d+ streams>")


class FakeWorker:
    """A worker without a process. It does what a test says, except that it loads a model in the time that the room says."""

    def __init__(self, maker: "FakeMaker", pid: int) -> None:
        self.pid: int | None = pid
        self.exit_code: int | None = None
        self.is_closed = False
        self.broke_protocol: str | None = None
        self.lines: deque[str] = deque()
        self.ring = TokenRing.create(1 << 16)
        self.on_message: Callable[[Any], None] = lambda message: None
        self.on_exit: Callable[[], None] = lambda: None
        self.sent: list[Any] = []
        self._maker = maker
        self._is_doomed = False

    def __repr__(self) -> str:
        return f"<FakeWorker {self.pid}>"

    def send(self, message: Any) -> None:
        self.sent.append(message)
        if isinstance(message, Load):
            load_s = self._maker.load_s.get(message.model_id, self._maker.usual_load_s)
            self._maker.loop.call_later(load_s, self.say, Ready(self._maker.meta.get(message.model_id, {})))

    def tell(self, on_line: Callable[[str], None]) -> None:
        pass

    def kill(self) -> None:
        if not self._is_doomed:
            self._is_doomed = True
            self._maker.loop.call_later(EXIT_S, self.die, -9)

    def close(self) -> None:
        self.is_closed = True
        self.ring.close()

    # ------------------------------------------------------------ what a test makes it do

    def say(self, message: Any) -> None:
        if not self.is_closed:
            self.on_message(message)

    def progress(self, value: float) -> None:
        self.say(Progress(value))

    def fail(self, why: str, *, may_work_later: bool = False) -> None:
        self.say(Failed(why, may_work_later))

    def die(self, exit_code: int) -> None:
        if not self.is_closed:
            self.exit_code = exit_code
            self.close()
            self.on_exit()

    def answer(self, text: bytes = b"so") -> None:
        """To all that it was asked."""
        for sink in self.ring.sinks():
            number = sink.request_id
            assert self.ring.try_push(number, TEXT, 0, 0, 1, text)
            assert self.ring.try_push(number, FINISH, 0, LAST, 0, json.dumps({"stop_type": "eos"}).encode())
        self.ring.drain()

    @property
    def primed(self) -> Prime:
        """What it was told last to do ahead."""
        return [message for message in self.sent if isinstance(message, Prime)][-1]

    @property
    def shrunk(self) -> list[int]:
        return [message.num_bytes for message in self.sent if isinstance(message, Shrink)]


class FakeMaker:
    """Makes fake workers, unless `problem` is what it raises."""

    def __init__(self, loop: FakeLoop, usual_load_s: float) -> None:
        self.loop = loop
        self.usual_load_s = usual_load_s
        self.load_s: dict[str, float] = {}
        self.meta: dict[str, dict[str, Any]] = {}
        self.workers: list[FakeWorker] = []
        self.problem: Exception | None = None
        self.on_end: Callable[[], None] = lambda: None
        self.pid: int | None = 1

    def start(self) -> None:
        pass

    def spawn(self) -> FakeWorker:
        if self.problem is not None:
            raise self.problem
        self.workers.append(FakeWorker(self, 100 + len(self.workers)))
        return self.workers[-1]

    def note_worker(self) -> None:
        pass

    def reap(self, known_pids: set[int]) -> bool:
        return False

    def close(self) -> None:
        pass


class Room:
    def __init__(self, models_max: int = 2, *, load_s: float = 1.0, **settings: Any) -> None:
        """`load_s` infinite: loads end when a test says so."""
        self.loop = FakeLoop()
        self.maker = FakeMaker(self.loop, load_s)
        self.events: list[str] = []
        self.fields: dict[str, dict[str, Any]] = {}
        self.tasks: list[asyncio.Task[Any]] = []
        config = Config(models_max=models_max, **{"models_memory_mib": 0, **settings})
        self.supervisor = Supervisor(config, on_event=self._on_event, maker=self.maker, clock=self.loop.time, loop=self.loop)
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

    def spec(self, model: str) -> ModelSpec:
        return spec_of(model, f"/models/{model}", **self.fields.get(model, {}))

    def ask(self, model: str, *, autoload: bool = True, priority: int = 0) -> "asyncio.Task[Lease]":
        """A request, as far as it comes without time."""
        return self.begin(self.supervisor.acquire(self.spec(model), autoload, priority))

    def lease(self, model: str) -> Lease:
        """After its load, if need be."""
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
        """Something that waits for nothing."""
        return self.begin(work).result()

    def advance(self, seconds: float = 0.0) -> None:
        self.loop.advance(seconds)

    # ------------------------------------------------------------ looks

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
        """What `: queued N` says."""
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
                task.exception()  # a test that did not look at it did not care


def submit(lease: Lease, sink: Collector) -> Collector:
    lease.submit(Generate(0, prompt="hello"), sink)
    return sink
