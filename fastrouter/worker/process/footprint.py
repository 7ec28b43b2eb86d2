"""How much memory of the machine and of its devices a load has taken: measured before and after it, for the router's budget.

What is on a device is the larger of two numbers: what llama.cpp has said it allocates there, and how much less is free than before. Of
RPC devices only the first counts, because other models may use them at the same time.
"""

from collections.abc import Iterator
from typing import Any

from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama import devices
from fastrouter.worker.llama.binding import log
from fastrouter.worker.llama.devices import Device
from fastrouter.worker.llama.model import Model
from fastrouter.worker.process.warm_heap import allocated_bytes


class Footprint:
    """Made before the load; `taken` is called after it. `opened_bytes`: what the model had allocated when it was opened early."""

    def __init__(self, opened_bytes: int = 0) -> None:
        self._heap = allocated_bytes() - opened_bytes
        self._free = {device.key: device.free_bytes for device in _devices() if device.kind != "rpc"}

    def taken(self, models: list[Model], options: LoadOptions, later_bytes: int = 0) -> dict[str, Any]:
        """`memory` of Ready's meta: bytes by kind. Mapped weights count, because a model needs them in memory, and so does what is
        allocated later. With devices also what they have."""
        found = {device.key: device for device in _devices()}
        host = max(0, allocated_bytes() - self._heap) + later_bytes
        mapped = sum(model.size_bytes for model in models) if options.mmap else 0
        of_weights = sum(log.buffers["model", key] for key in found)
        on_device = {key: size for key, device in found.items() if (size := self._taken_of(device))}
        memory: dict[str, Any] = {"host_bytes": host + max(0, mapped - of_weights), "device_bytes": sum(on_device.values())}
        if not found:
            return {"memory": memory}
        memory["devices"] = on_device
        sizes = {key: {"free_bytes": device.free_bytes, "total_bytes": device.total_bytes} for key, device in found.items()}
        return {"memory": memory, "devices": sizes}

    def _taken_of(self, device: Device) -> int:
        allocated = sum(size for (_, name), size in log.buffers.items() if name == device.key)
        return max(allocated, self._free.get(device.key, 0) - device.free_bytes)


def _devices() -> Iterator[Device]:
    return (devices.describe(handle) for handle in devices.handles() if devices.kind_of(handle) != "cpu")
