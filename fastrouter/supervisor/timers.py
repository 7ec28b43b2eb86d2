"""The supervisor's timers: each is either one of many, or the one of its name. Knows nothing of what they do.

Moments are of `time.monotonic`. Invariant: after `close` none fires and none can be set. A timer keeps alive what its action holds, so one
that is long and mostly not needed has a name and is cancelled.
"""

import asyncio
import time
from collections.abc import Callable

CLOCK_STEP_S = 0.002  # the event loop's clock goes in milliseconds, and may be early by as much


class Timers:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._handles: set[asyncio.TimerHandle] = set()
        self._named: dict[str, asyncio.TimerHandle] = {}
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Timers {len(self._handles)} and {' '.join(self._named)}>"

    def after(self, delay_s: float, action: Callable[[], None]) -> Callable[[], None]:
        """One more; the function that is returned cancels it."""

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

    def at(self, name: str, moment: float | None, action: Callable[[], None]) -> None:
        """In place of the earlier one of that name; None: it is not needed any more."""
        self.cancel(name)
        if moment is not None and not self._is_over:
            delay_s = max(0.0, moment - time.monotonic()) + CLOCK_STEP_S
            self._named[name] = self._loop.call_later(delay_s, self._fire, name, action)

    def cancel(self, name: str) -> None:
        """Idempotent."""
        handle = self._named.pop(name, None)
        if handle is not None:
            handle.cancel()

    def _fire(self, name: str, action: Callable[[], None]) -> None:
        del self._named[name]
        action()

    def close(self) -> None:
        self._is_over = True
        for handle in (*self._handles, *self._named.values()):
            handle.cancel()
        self._handles.clear()
        self._named.clear()
