"""A load that no request waits for goes on only while a core is free, so that models which answer are not slowed down.

Invariant: from the router's Hurry on, it never waits again.
"""

import time
from collections.abc import Callable

from fastrouter.errors import ProtocolError
from fastrouter.ipc.messages import Hurry, Message
from fastrouter.system.machine import is_core_free

_PAUSE_MS = 1  # between two checks
_BUSY_PAUSE_MS = 20  # the same while no core is free: checks cost time too
CALM = 10  # this many checks in a row must find a free core after one that did not: threads that decode pause for moments


class Courtesy:
    """`wait(timeout_ms)` returns messages of the router; `note` says that the load goes on."""

    def __init__(self, wait: Callable[[int | None], list[Message]], note: Callable[[], None], *, is_on: bool) -> None:
        self._is_on = is_on
        self._wait = wait
        self._note = note
        self._num_free = 0
        self.kept: list[Message] = []  # all that came but Hurry
        self.waited_s = 0.0

    def __call__(self) -> None:
        """Before each piece of work: returns when a core is free, or a request waits."""
        if not self._is_on:
            return
        self._num_free = self._num_free if is_core_free() else 0
        begun = time.perf_counter()
        while self._is_on and self._num_free < CALM:
            self._read(_PAUSE_MS if self._num_free else _BUSY_PAUSE_MS)
            self._note()
            self._num_free = self._num_free + 1 if is_core_free() else 0
        self.waited_s += time.perf_counter() - begun

    def _read(self, timeout_ms: int) -> None:
        try:
            messages = self._wait(timeout_ms)
        except (EOFError, OSError, ProtocolError):  # the router has ended, which the next message to it finds out
            self._is_on = False
            return
        self.take(messages)

    def take(self, messages: list[Message]) -> None:
        """Messages that have come during the load."""
        self._is_on = self._is_on and not any(isinstance(message, Hurry) for message in messages)
        self.kept += [message for message in messages if not isinstance(message, Hurry)]
