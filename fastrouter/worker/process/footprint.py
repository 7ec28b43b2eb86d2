"""How much memory of the machine and of its devices a load has taken: measured before and after it, for the router's budget."""

from typing import Any

from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama.binding import device_free_bytes
from fastrouter.worker.llama.model import Model
from fastrouter.worker.process.warm_heap import allocated_bytes


class Footprint:
    """Made before the load; `taken` is called after it. `opened_bytes`: what the model had allocated when it was opened early."""

    def __init__(self, opened_bytes: int = 0) -> None:
        self._heap = allocated_bytes() - opened_bytes
        self._device_free = device_free_bytes()

    def taken(self, models: list[Model], options: LoadOptions, later_bytes: int = 0) -> dict[str, Any]:
        """`memory` of Ready's meta: bytes by kind. Mapped weights count, because a model needs them in memory, and so does what is
        allocated later. With devices also how much of their memory is free now."""
        host = max(0, allocated_bytes() - self._heap) + later_bytes
        mapped = sum(model.size_bytes for model in models) if options.mmap else 0
        if self._device_free is None:
            return {"memory": {"host_bytes": host + mapped, "device_bytes": 0}}
        free = device_free_bytes() or 0
        on_device = max(0, self._device_free - free)
        return {
            "memory": {"host_bytes": host + max(0, mapped - on_device), "device_bytes": on_device},
            "device_free_bytes": free,
        }
