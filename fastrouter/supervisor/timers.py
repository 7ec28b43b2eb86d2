"""The supervisor's clock, and its timers: some have a name, and only one timer has each name.

Decisions and their performer use no other clock and no other timer, so tests can pass in both. All moments are values of `now`.
Invariant: after `close` no timer fires and none can be set. A timer keeps the objects of its action alive, so a long timer that is mostly
not needed has a name and is cancelled.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Clock = Callable[[], float]  # monotonic seconds

CLOCK_STEP_S = 0.002  # the event loop's clock counts milliseconds, and may be early by up to that much
LOOK_S = 0.005  # between two checks of `until`


class Timers:
    def __init__(self, clock: Clock = time.monotonic, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """`loop` needs call_soon, call_later, create_future and run_in_executor; None: the running one. Its clock is not used: uvloop's has
        a resolution of a millisecond."""
        self.now = clock
        self._loop = loop or asyncio.get_running_loop()
        self._handles: set[asyncio.TimerHandle] = set()
        self._named: dict[str, asyncio.TimerHandle] = {}
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Timers {len(self._handles)} and {' '.join(self._named)}>"

    def soon(self, action: Callable[[], object]) -> None:
        """Not now, because the caller is in the middle of something. Cheap: every request needs one."""
        self._loop.call_soon(self._run, action)

    def _run(self, action: Callable[[], object]) -> None:
        if not self._is_over:
            action()

    def after(self, delay_s: float, action: Callable[[], object]) -> Callable[[], None]:
        """One timer more; the returned function cancels it."""

        def run() -> None:
            self._handles.discard(handle)
            action()

        def cancel() -> None:
            self._handles.discard(handle)
            handle.cancel()

        handle = self._loop.call_later(delay_s, run)
        if self._is_over:
            handle.cancel()
        else:
            self._handles.add(handle)
        return cancel

    def at(self, name: str, moment: float | None, action: Callable[[], object]) -> None:
        """Replaces the earlier timer of that name; None: it is not needed any more."""
        self.cancel(name)
        if moment is not None and not self._is_over:
            delay_s = max(0.0, moment - self.now()) + CLOCK_STEP_S
            self._named[name] = self._loop.call_later(delay_s, self._fire, name, action)

    def cancel(self, name: str) -> None:
        """Idempotent."""
        handle = self._named.pop(name, None)
        if handle is not None:
            handle.cancel()

    def _fire(self, name: str, action: Callable[[], object]) -> None:
        del self._named[name]
        action()

    def aside(self, action: Callable[[], T], then: Callable[[T], object] | None = None) -> None:
        """Runs in a thread, because it may block. `then` gets its result in the event loop."""

        def run() -> None:
            result = action()
            if then is not None:
                self._loop.call_soon_threadsafe(self._run, lambda: then(result))

        self._loop.run_in_executor(None, run)

    def future(self) -> "asyncio.Future[Any]":
        return self._loop.create_future()

    async def until(self, is_so: Callable[[], bool], timeout_s: float) -> None:
        """Returns when the condition is true, or after `timeout_s`."""
        deadline = self.now() + timeout_s
        while not is_so() and self.now() < deadline:
            looked = self.future()
            self._loop.call_later(LOOK_S, _resolve, looked)
            await looked

    def close(self) -> None:
        self._is_over = True
        for handle in (*self._handles, *self._named.values()):
            handle.cancel()
        self._handles.clear()
        self._named.clear()


def _resolve(future: "asyncio.Future[Any]") -> None:
    if not future.done():  # its task may have been cancelled
        future.set_result(None)
