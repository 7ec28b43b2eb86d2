"""How much memory all models together may take now: the flags, and what the machine has. Only reads memory counters.

For `auto` the host's limit is the available memory plus what our workers hold. Mapped weights count as needed although the kernel calls
their pages available: a model is useless when its weights do not stay in memory.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fastrouter.config.config import Config
from fastrouter.supervisor.decide.need import Need, Sizes
from fastrouter.supervisor.decide.planner import Limits
from fastrouter.system.machine import anonymous_bytes, available_bytes, total_bytes

AUTO = -1
RESERVED_SHARE = 16  # this part of the memory is left to other programs
MOST_RESERVED_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Held:
    """What one worker may hold."""

    pid: int | None
    heap_bytes: int  # at most: some pages are shared with other processes


class LimitReader:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._devices: dict[str, int] = {}  # what our models may take of each, as workers report it

    def __repr__(self) -> str:
        return f"<LimitReader {self._config.models_memory_mib} MiB, device {self._config.models_memory_device_mib} MiB>"

    def note_devices(self, found: Mapping[str, tuple[int, int]], held: Need) -> None:
        """A worker has reported the free and the total memory of devices while our models held that much. CPUs behind RPC servers call
        all their memory free."""
        self._devices |= {name: min(total, free + held.on(name)) for name, (free, total) in found.items()}

    @property
    def is_automatic(self) -> bool:
        return self._config.models_memory_mib == AUTO

    @property
    def most_bytes(self) -> int:
        """The host's limit if no other program used memory."""
        return total_bytes() - self._reserved_bytes() if self.is_automatic else self._config.models_memory_mib << 20

    def _reserved_bytes(self) -> int:
        return min(MOST_RESERVED_BYTES, total_bytes() // RESERVED_SHARE)

    def read(self, held: Iterable[Held], parked_bytes: int = 0) -> Limits:
        """`parked_bytes`: memory that a load takes back, so it counts as free."""
        config = self._config
        wanted = config.models_memory_device_mib
        return Limits(
            config.models_max,
            self._host_bytes(held, parked_bytes),
            wanted << 20 if wanted > 0 else None,
            config.queue_patience_s,
            self._of_devices(),
        )

    def _host_bytes(self, held: Iterable[Held], parked_bytes: int) -> int | None:
        wanted = self._config.models_memory_mib
        if wanted != AUTO:
            return wanted << 20 if wanted else None
        return self.of_machine(held, parked_bytes)

    def of_machine(self, held: Iterable[Held], parked_bytes: int) -> int | None:
        """What all models may take if only the machine is the limit. None: unknown."""
        available = available_bytes()
        if not available:
            return None  # no worker has reported it
        ours = sum(min(one.heap_bytes, anonymous_bytes(one.pid)) for one in held if one.pid is not None)
        return available + ours + parked_bytes - self._reserved_bytes()

    def _of_devices(self) -> Sizes:
        asked = {name: mib << 20 for name, mib in self._config.models_memory_devices}
        found = self._devices if self._config.models_memory_device_mib == AUTO else {}
        return tuple(sorted((found | asked).items()))
