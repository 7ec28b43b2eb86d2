"""The supervisor's timers: each is either one of many, or the one of its name. Knows nothing of what they do.

Moments are of `time.monotonic`. Invariant: after `cancel` none fires and none can be set.
"""

import asyncio
import time
from collections.abc import Callable

CLOCK_STEP_S = 0.002  # the event loop's clock goes in milliseconds, and may be early by as much


class Timers:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._handles: set[asyncio.TimerHandle] = set()
        self._named: dict[str, tuple[float, asyncio.TimerHandle]] = {}
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Timers {len(self._handles)} and {' '.join(self._named)}>"

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        def run() -> None:
            self._handles.discard(handle)
            action()

        if not self._is_over:
            handle = self._loop.call_later(delay_s, run)
            self._handles.add(handle)

    def at(self, name: str, moment: float | None, action: Callable[[], None]) -> None:
        """In place of the earlier one of that name; None: it is not needed any more."""
        known = self._named.pop(name, None)
        if known is not None:
            known[1].cancel()
        if moment is not None and not self._is_over:
            handle = self._loop.call_later(max(0.0, moment - time.monotonic()) + CLOCK_STEP_S, self._fire, name, action)
            self._named[name] = moment, handle

    def _fire(self, name: str, action: Callable[[], None]) -> None:
        del self._named[name]
        action()

    def cancel(self) -> None:
        self._is_over = True
        for handle in (*self._handles, *(handle for _, handle in self._named.values())):
            handle.cancel()
        self._handles.clear()
        self._named.clear()
