"""Memory of models: what each needs, what all may take, what loads have shown. The other parts of the supervisor get all this from here.

Invariant: an instance's `need` is the one that it was admitted with, until its load has shown a better one.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.errors import DoesNotFit, FastrouterError, Unavailable
from fastrouter.supervisor import snapshot
from fastrouter.supervisor.decide.need import total
from fastrouter.supervisor.decide.parking import room_to_park
from fastrouter.supervisor.decide.planner import Limits
from fastrouter.supervisor.managed_model import ManagedModels
from fastrouter.supervisor.memory.limits import Held, LimitReader
from fastrouter.supervisor.memory.measurements import Measures
from fastrouter.supervisor.parking import Parking
from fastrouter.supervisor.workers.instance import Instance
from fastrouter.system.machine import total_bytes


class Memory:
    def __init__(
        self, config: Config, models: ManagedModels, spare_pid: Callable[[], int | None], parking: Parking, measures: Measures | None = None
    ) -> None:
        self._models = models
        self._parking = parking
        self._spare_pid = spare_pid
        self.measures = measures or Measures()
        self._limits = LimitReader(config)
        self.host_limit_bytes = self.measures.host_limit_bytes = self._limits.most_bytes  # 0: no limit

    def __repr__(self) -> str:
        return f"<Memory {self._limits!r} {self.measures!r}>"

    def limits(self) -> Limits:
        """What all models may take now. The memory that the spare has prepared is for the next model, so it counts as free."""
        return self._limits.read(self._held(), self._parking.num_bytes)

    def spare_limits(self) -> Limits:
        """The same for a load that no request waits for: it takes nothing back that is lent, and not more than the machine has."""
        limits = self.limits()
        machine = self._limits.of_machine(self._held(), 0)
        found = [limit for limit in (limits.host_bytes, machine) if limit is not None]
        lent = sum(instance.prompt_cache_bytes for instance in self._models.instances())
        lent += self._parking.num_bytes if self._limits.is_automatic else 0
        return replace(limits, host_bytes=min(found) - lent if found else None)

    def _held(self) -> list[Held]:
        return [*snapshot.held(self._models), Held(self._spare_pid(), total_bytes())]

    def refusal(self, spec: ModelSpec, why: str, limits: Limits) -> FastrouterError:
        """The error for a model that does not fit: never, or as long as other programs use the memory."""
        need = self.measures.need(spec)
        figures: dict[str, int | None] = {"needed_bytes": need.host_bytes, "limit_bytes": limits.host_bytes}
        if need.device_bytes:
            figures |= {"needed_device_bytes": need.device_bytes, "limit_device_bytes": limits.all_devices_bytes}
        if limits.host_bytes is not None and limits.host_bytes < need.host_bytes <= self._limits.most_bytes:
            return Unavailable(f"model '{spec.id}' cannot be loaded now: {why}; other programs use the rest", model=spec.id, **figures)
        hint = "; --models-memory 0 tries it anyway" if self._limits.is_automatic and not self.measures.has_device else ""
        return DoesNotFit(spec.id, why + hint, **figures)

    def make_way(self) -> None:
        """A load has begun. Limits count parked prompts and prompt caches as free, so these give back what is lacking: first the parked
        prompts, but only what the machine lacks, whatever the flags say; then the prompt cache of the least recently used model."""
        instances, parking = self._models.instances(), self._parking
        caching = [instance for instance in instances if instance.prompt_cache_bytes]
        needed = total(instance.need for instance in instances).host_bytes + sum(instance.prompt_cache_bytes for instance in caching)
        if parking.num_bytes and (room := self._limits.of_machine(self._held(), parking.num_bytes)) is not None:
            parking.shrink(needed + parking.num_bytes - room)
        limits = self.limits() if caching else None
        if limits is None or limits.host_bytes is None:
            return
        lack = needed + (parking.num_bytes if self._limits.is_automatic else 0) - limits.host_bytes
        for instance in sorted(caching, key=lambda instance: instance.last_used):
            if lack > 0:
                lack -= instance.shrink(lack)

    def room_to_park(self, leaving: Instance, wanted: Iterable[ModelSpec], *, frees_first: bool) -> int:
        """How much a worker may park before it ends. `wanted`: models that wait for a load; `frees_first`: they wait for its end."""
        room = self._limits.of_machine([], 0)
        if room is None:
            return self._parking.limit_bytes()
        needed = total(self.measures.need(spec) for spec in wanted).host_bytes
        return min(self._parking.limit_bytes(), room_to_park(room, needed, leaving.heap_bytes if frees_first else 0))

    def learn(self, instance: Instance) -> None:
        """Learn from a load that has just succeeded."""
        meta = instance.meta or {}
        self.measures.note(instance.spec, meta, instance.load_s)
        instance.need = self.measures.need(instance.spec)
        if found := _memory_of_devices(meta.get("devices")):
            self.measures.devices |= {name: size for name, (_, size) in found.items()}
            self._limits.note_devices(found, total(other.need for other in self._models.instances()))

    def save(self) -> None:
        self.measures.save()


def _memory_of_devices(reported: Any) -> dict[str, tuple[int, int]]:
    """(free, total) of each device that a worker has reported. It may report anything."""
    found = reported.items() if isinstance(reported, dict) else ()
    pairs = {name: (each.get("free_bytes"), each.get("total_bytes")) for name, each in found if isinstance(each, dict)}
    return {name: (free, size) for name, (free, size) in pairs.items() if type(free) is int and type(size) is int and 0 <= free <= size}
