"""Workers without a process that do what a test says, and their maker."""

import json
from collections.abc import Callable
from typing import Any

from fastrouter._core import FINISH, LAST, TEXT
from fastrouter.ipc.messages import Failed, Park, Prime, Progress, Ready
from fastrouter.simulator.loop import SimulatedLoop
from fastrouter.simulator.workers import SimulatedWorker
from fastrouter.supervisor.decide.hang import Look

EXIT_S = 0.01  # from a kill to the end


class FakeWorker(SimulatedWorker):
    """Its load takes the time that the maker says."""

    def __init__(self, maker: "FakeMaker", pid: int) -> None:
        super().__init__(maker.loop, maker, pid)
        self.sent: list[Any] = []
        self.ends_after_park = True
        self.seen: Look | None = None  # what a look at its process shows

    def send(self, message: Any) -> None:
        self.sent.append(message)
        if not isinstance(message, Park) or self.ends_after_park:
            super().send(message)

    @property
    def is_stopped(self) -> bool:
        return self.seen is not None and self.seen.state == "T"

    def look(self) -> Look | None:
        return self.seen

    # ------------------------------------------------------------ actions for tests

    def progress(self, value: float) -> None:
        self.say(Progress(value))

    def fail(self, why: str, *, may_work_later: bool = False) -> None:
        self.say(Failed(why, may_work_later))

    def answer(self, text: bytes = b"so") -> None:
        """Answers all calls that have come."""
        for sink in self.ring.sinks():
            number = sink.request_id
            assert self.ring.try_push(number, TEXT, 0, 0, 1, text)
            assert self.ring.try_push(number, FINISH, 0, LAST, 0, json.dumps({"stop_type": "eos"}).encode())
        self.ring.drain()

    @property
    def primed(self) -> Prime:
        """What it was told last to prepare."""
        return [message for message in self.sent if isinstance(message, Prime)][-1]


class FakeMaker:
    """Makes fake workers, or raises `problem` if it is set."""

    def __init__(self, loop: SimulatedLoop, usual_load_s: float) -> None:
        self.loop = loop
        self.usual_load_s = usual_load_s
        self.load_s: dict[str, float] = {}
        self.meta: dict[str, dict[str, Any]] = {}
        self.workers: list[FakeWorker] = []
        self.problem: Exception | None = None
        self.on_end: Callable[[], None] = lambda: None
        self.pid: int | None = 1

    def load(self, model_id: str) -> tuple[float, Ready | Failed]:
        return self.load_s.get(model_id, self.usual_load_s), Ready(self.meta.get(model_id, {}))

    def exit_s(self, model_id: str) -> float:
        return EXIT_S

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
