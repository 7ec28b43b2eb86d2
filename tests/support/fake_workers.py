"""Workers without a process, and their maker: the protocols of workers/worker.py on a fake clock."""

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from fake_time import FakeLoop

from fastrouter._core import FINISH, LAST, TEXT, TokenRing
from fastrouter.ipc.descriptors import Descriptors, descriptor_pair
from fastrouter.ipc.messages import Failed, Load, Park, Prime, Progress, Ready
from fastrouter.supervisor.decide.hang import Look

EXIT_S = 0.01  # from a kill to the end


class FakeWorker:
    """A worker without a process. It does what a test says, but its load takes the time that the room says."""

    def __init__(self, maker: "FakeMaker", pid: int) -> None:
        self.pid: int | None = pid
        self.exit_code: int | None = None
        self.is_closed = False
        self.broke_protocol: str | None = None
        self.lines: deque[str] = deque()
        self.ring = TokenRing.create(1 << 16)
        self.descriptors, self.its_descriptors = map(Descriptors, descriptor_pair())
        self.on_message: Callable[[Any], None] = lambda message: None
        self.on_exit: Callable[[], None] = lambda: None
        self.sent: list[Any] = []
        self.ends_after_park = True
        self._maker = maker
        self._is_doomed = False
        self.seen: Look | None = None  # what a look at its process shows

    def __repr__(self) -> str:
        return f"<FakeWorker {self.pid}>"

    def send(self, message: Any) -> None:
        self.sent.append(message)
        if isinstance(message, Load):
            load_s = self._maker.load_s.get(message.model_id, self._maker.usual_load_s)
            self._maker.loop.call_later(load_s, self.say, Ready(self._maker.meta.get(message.model_id, {})))
        elif isinstance(message, Park) and self.ends_after_park and not self._is_doomed:
            self._is_doomed = True
            self._maker.loop.call_later(EXIT_S, self.die, 0)

    def tell(self, on_line: Callable[[str], None]) -> None:
        pass

    def kill(self) -> None:
        if not self._is_doomed:
            self._is_doomed = True
            self._maker.loop.call_later(EXIT_S, self.die, -9)

    def give_up(self) -> None:
        self.kill()

    @property
    def is_stopped(self) -> bool:
        return self.seen is not None and self.seen.state == "T"

    def look(self) -> Look | None:
        return self.seen

    def close(self) -> None:
        self.is_closed = True
        self.ring.close()
        self.descriptors.close()
        self.its_descriptors.close()

    # ------------------------------------------------------------ actions for tests

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
