"""How a worker leaves: it parks its prompts and ends by itself, or it is killed.

Never imports: supervisor.decide.planner. Invariant: a worker that was told to leave is gone after PARK_MS and PARK_GRACE_S.
"""

from collections.abc import Callable, Iterable

from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.memory_ledger import Memory
from fastrouter.supervisor.parking import Parking
from fastrouter.supervisor.queue import Queue
from fastrouter.supervisor.timers import Timers
from fastrouter.supervisor.workers.instance import FAULTS, Instance

PARK_MS = 5000  # a worker that leaves may take this long to park its prompts; each of them saves more time than it takes
PARK_GRACE_S = 0.5
WRITE_TIMEOUT_S = 8.0  # at the end, for parked prompts that are not on disk yet


class Departures:
    def __init__(
        self,
        queue: Queue,
        memory: Memory,
        parking: Parking,
        timers: Timers,
        on_gone: Callable[[str, float], None],
    ) -> None:
        """`on_gone` gets the model and the seconds from the order to leave to the end of the process."""
        self._queue = queue
        self._memory = memory
        self._parking = parking
        self._timers = timers
        self._left_at: dict[str, float] = {}  # by model, of those that have not ended yet
        self._on_gone = on_gone

    def __repr__(self) -> str:
        return f"<Departures {self._parking!r}>"

    def leave(self, instance: Instance, *, frees_first: bool = False) -> None:
        """`frees_first`: a load waits for its memory."""
        self._left_at[instance.spec.id] = self._timers.now()
        if not (self._parking.is_on and instance.can_park):
            instance.kill()
            return
        wanted = [model.spec for model in self._queue.models() if model.instance is None]
        instance.park(self._memory.room_to_park(instance, wanted, frees_first=frees_first), PARK_MS)
        self._timers.at(_timer_of(instance), self._timers.now() + PARK_MS / 1e3 + PARK_GRACE_S, instance.process.kill)

    def note_end(self, instance: Instance) -> None:
        """Its process is gone."""
        self._timers.cancel(_timer_of(instance))
        left_at = self._left_at.pop(instance.spec.id, None)
        if left_at is not None:
            self._on_gone(instance.spec.id, self._timers.now() - left_at)
        self._parking.note_end(instance, has_crashed=instance.state is not State.DYING and instance.process.exit_code in FAULTS)

    async def write_all(self, instances: Iterable[Instance]) -> None:
        """Before the router ends: what its workers hold goes to disk."""
        if not self._parking.files.is_on:
            return
        leaving = [instance for instance in instances if instance.can_park]
        for instance in leaving:
            self.leave(instance)
        await self._timers.until(lambda: all(instance.is_gone for instance in leaving), PARK_MS / 1e3 + PARK_GRACE_S)
        await self._timers.until(lambda: not self._parking.files.is_busy, WRITE_TIMEOUT_S)


def _timer_of(instance: Instance) -> str:
    """A model has one instance at a time."""
    return f"end {instance.spec.id}"
