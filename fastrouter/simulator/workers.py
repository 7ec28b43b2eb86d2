"""Workers without a process, and their maker: the protocols of supervisor/workers/worker.py on a simulated clock.

Never imports: catalog. Invariant: what a worker does, and when, comes from its script alone.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from fastrouter._core import TokenRing
from fastrouter.ipc.descriptors import Descriptors, descriptor_pair
from fastrouter.ipc.messages import Failed, Load, Park, Ready
from fastrouter.simulator.loop import SimulatedLoop
from fastrouter.supervisor.decide.hang import Look

RING_BYTES = 1 << 16


class Script(Protocol):
    def load(self, model_id: str) -> tuple[float, Ready | Failed] | None:
        """How long the next load of a model takes, and how it ends; None: it does not end by itself."""

    def exit_s(self, model_id: str) -> float:
        """From the order to leave to the end of the process; empty: a worker without a model."""


class SimulatedWorker:
    def __init__(self, loop: SimulatedLoop, script: Script, pid: int) -> None:
        self.pid: int | None = pid
        self.exit_code: int | None = None
        self.is_closed = False
        self.broke_protocol: str | None = None
        self.lines: deque[str] = deque()
        self.ring = TokenRing.create(RING_BYTES)
        self.descriptors, self.its_descriptors = map(Descriptors, descriptor_pair())
        self.on_message: Callable[[Any], None] = lambda message: None
        self.on_exit: Callable[[], None] = lambda: None
        self.model_id = ""
        self._loop = loop
        self._script = script
        self._is_doomed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pid} {self.model_id or 'spare'}>"

    def send(self, message: Any) -> None:
        if isinstance(message, Load):
            self._load(message.model_id)
        elif isinstance(message, Park):
            self._end(0)

    def _load(self, model_id: str) -> None:
        self.model_id = model_id
        ending = self._script.load(model_id)
        if ending is not None:
            after_s, message = ending
            self._loop.call_later(after_s, self.say, message)
            if isinstance(message, Failed):
                self._loop.call_later(after_s, self._end, 1)

    def _end(self, exit_code: int) -> None:
        if not self._is_doomed:
            self._is_doomed = True
            self._loop.call_later(self._script.exit_s(self.model_id), self.die, exit_code)

    def say(self, message: Any) -> None:
        if not self.is_closed:
            self.on_message(message)

    def die(self, exit_code: int) -> None:
        if not self.is_closed:
            self.exit_code = exit_code
            self.close()
            self.on_exit()

    def tell(self, on_line: Callable[[str], None]) -> None:
        pass

    def kill(self) -> None:
        self._end(-9)

    def give_up(self) -> None:
        self.kill()

    @property
    def is_stopped(self) -> bool:
        return False

    def look(self) -> Look | None:
        return None

    def close(self) -> None:
        self.is_closed = True
        self.ring.close()
        self.descriptors.close()
        self.its_descriptors.close()


class SimulatedMaker:
    def __init__(self, loop: SimulatedLoop, script: Script) -> None:
        self.on_end: Callable[[], None] = lambda: None
        self.pid: int | None = None
        self._loop = loop
        self._script = script
        self._num_workers = 0

    def __repr__(self) -> str:
        return f"<SimulatedMaker of {self._num_workers} workers>"

    def start(self) -> None:
        pass

    def spawn(self) -> SimulatedWorker:
        self._num_workers += 1
        return SimulatedWorker(self._loop, self._script, self._num_workers)

    def note_worker(self) -> None:
        pass

    def reap(self, known_pids: set[int]) -> bool:
        return False

    def close(self) -> None:
        pass
