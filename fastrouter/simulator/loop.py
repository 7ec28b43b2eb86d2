"""An event loop whose time passes only when its owner says so. It runs timers and tasks, has no descriptors, and never waits."""

import asyncio
import contextvars
import math
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from itertools import count
from typing import Any


class Timer:
    def __init__(self, run: Callable[[], object]) -> None:
        self.run = run
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class SimulatedLoop(asyncio.AbstractEventLoop):
    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, work: Coroutine[Any, Any, Any], **_: Any) -> "asyncio.Task[Any]":  # type: ignore[override]
        return asyncio.Task(work, loop=self)

    def call_later(self, delay: float, action: Callable[..., object], *args: Any, context: contextvars.Context | None = None) -> Timer:  # type: ignore[override]
        context = context or contextvars.copy_context()
        timer = Timer(lambda: context.run(action, *args))
        heappush(self._timers, (self.now + delay, next(self._numbers), timer))
        return timer

    def call_soon(self, action: Callable[..., object], *args: Any, context: contextvars.Context | None = None) -> Timer:  # type: ignore[override]
        return self.call_later(0.0, action, *args, context=context)

    def call_soon_threadsafe(self, action: Callable[..., object], *args: Any, context: contextvars.Context | None = None) -> Timer:  # type: ignore[override]
        return self.call_later(0.0, action, *args, context=context)

    def run_in_executor(self, executor: None, action: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        action(*args)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise AssertionError(context)

    @property
    def num_timers(self) -> int:
        return sum(not timer.is_cancelled for _, _, timer in self._timers)

    def advance(self, seconds: float = 0.0) -> None:
        """Let this much time pass; all that is due meanwhile runs, in its order."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            self._step()
        self.now = end

    def run_until(self, is_over: Callable[[], bool], end: float = math.inf) -> None:
        """Let time pass until it is over, until nothing is left to do, or until the moment `end`."""
        while not is_over() and self._timers and self._timers[0][0] <= end:
            self._step()

    def _step(self) -> None:
        moment, _, timer = heappop(self._timers)
        if not timer.is_cancelled:
            self.now = max(self.now, moment)
            timer.run()
