"""What waits for a model: one entry per model, first come first served. Knows no process; decides nothing.

Invariant: an entry is in the queue exactly while it has waiters.
"""

from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.managed_model import ManagedModel, Waiter


class Queue:
    """Entries with waiters, oldest first."""

    def __init__(self) -> None:
        self._entries: dict[str, ManagedModel] = {}

    def __repr__(self) -> str:
        return f"<Queue {' '.join(f'{model_id}:{len(entry.waiters)}' for model_id, entry in self._entries.items())}>"

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def num_waiters(self) -> int:
        return sum(len(entry.waiters) for entry in self._entries.values())

    def num_waiting(self) -> dict[str, int]:
        """Requests by model."""
        return {model_id: len(entry.waiters) for model_id, entry in self._entries.items()}

    def position(self, entry: ManagedModel) -> int:
        """Of the entry, from 1, a higher priority first; 0: it does not wait."""
        ordered = sorted(self._entries.values(), key=lambda entry: -max(waiter.priority for waiter in entry.waiters))
        return next((index for index, other in enumerate(ordered, 1) if other is entry), 0)

    def entries(self) -> list[ManagedModel]:
        return list(self._entries.values())

    def add(self, entry: ManagedModel, waiter: Waiter, now: float) -> None:
        if not entry.waiters:
            entry.since = now
            self._entries[entry.spec.id] = entry
        entry.waiters.append(waiter)

    def remove(self, entry: ManagedModel, waiter: Waiter) -> bool:
        """True when it was there."""
        if waiter not in entry.waiters:
            return False
        entry.waiters.remove(waiter)
        if not entry.waiters:
            del self._entries[entry.spec.id]
        return True

    def take_all(self, entry: ManagedModel) -> list[Waiter]:
        """The entry's waiters, oldest first; it leaves the queue."""
        self._entries.pop(entry.spec.id, None)
        waiters = list(entry.waiters)
        entry.waiters.clear()
        return waiters

    def take_where(self, entry: ManagedModel, *, can_start: bool | None = None, wants_lease: bool | None = None) -> list[Waiter]:
        """Those of the entry's waiters that match."""
        found = [w for w in entry.waiters if can_start in (None, w.can_start) and wants_lease in (None, w.wants_lease)]
        for waiter in found:
            self.remove(entry, waiter)
        return found

    def remove_lease(self, lease: Lease) -> None:
        """Its holder does not want the next worker any more."""
        for entry in self.entries():
            for waiter in [waiter for waiter in entry.waiters if waiter.lease is lease]:
                self.remove(entry, waiter)
