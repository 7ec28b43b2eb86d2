"""Which sequences have their turn when they cannot share a batch, because their adapters differ. Pure: `now` is an argument.

Invariant: a group waits at most for one turn of each group that was there before it. A turn ends with the first step that began TURN_NS
after it did, so a long step is a whole turn.
"""

from collections.abc import Collection
from typing import Generic, TypeVar

TURN_NS = 20_000_000  # a change of adapters costs 0.2 ms for a tiny model and 2 ms for one with 30 layers (where a token takes 6 ms)

Group = TypeVar("Group")


class Turns(Generic[Group]):
    def __init__(self) -> None:
        self._waiting: list[Group] = []
        self._current: list[Group] = []  # one, or none before the first turn
        self._began_ns = 0

    def __repr__(self) -> str:
        return f"<Turns {self._current} then {self._waiting}>"

    def next(self, present: Collection[Group], now_ns: int) -> Group:
        """The group of this step, one of `present`."""
        self._waiting = [group for group in self._waiting if group in present]
        self._waiting += [group for group in present if group not in self._waiting and group not in self._current]
        is_over = not self._current or self._current[0] not in present or now_ns - self._began_ns >= TURN_NS
        if is_over and self._waiting:
            self._waiting += [group for group in self._current if group in present]
            self._current = [self._waiting.pop(0)]
            self._began_ns = now_ns
        return self._current[0]
