"""Which parked prompts are dropped when there is too little room for all. Pure."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

_JUST_USED_S = 1.0


class Droppable(Protocol):
    """A parked prompt."""

    @property
    def num_bytes(self) -> int: ...
    @property
    def used_at(self) -> float: ...
    @property
    def saves_ms(self) -> float: ...  # the time to compute it again


T = TypeVar("T", bound=Droppable)


def to_drop(entries: Iterable[T], num_bytes: int, num_places: int, now: float) -> list[T]:
    """Those that are least useful, until so many bytes and places are free. Within a model these are the least recently used ones; between
    models, a byte counts for more where it saves more time."""
    dropped: list[T] = []
    for entry in sorted(entries, key=lambda entry: usefulness(entry, now)):
        if num_bytes <= 0 and num_places <= 0:
            break
        dropped.append(entry)
        num_bytes -= entry.num_bytes
        num_places -= 1
    return dropped


def usefulness(entry: Droppable, now: float) -> float:
    """The time that a byte of it saves, times how likely that is: the longer it was not used, the less likely."""
    return entry.saves_ms / max(1, entry.num_bytes) / (_JUST_USED_S + max(0.0, now - entry.used_at))


def room_to_park(available_bytes: int, needed_bytes: int, freed_bytes: int) -> int:
    """How much a worker that ends may park. `needed_bytes`: of loads that wait, and of other programs; `freed_bytes`: of the worker, before
    these loads begin (0: they begin immediately)."""
    return max(0, min(available_bytes, available_bytes + freed_bytes - needed_bytes))
