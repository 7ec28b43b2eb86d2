"""Bytes of memory on the host and on devices. Plain data."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

Sizes = tuple[tuple[str, int], ...]  # bytes by device, in the order of the names


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of memory, on the host and on all its devices together. `by_device`: the part of `device_bytes` whose device is known."""

    host_bytes: int = 0
    device_bytes: int = 0
    by_device: Sizes = ()

    def __add__(self, other: "Need") -> "Need":
        by_device = _added(self.by_device, other.by_device, 1)
        return Need(self.host_bytes + other.host_bytes, self.device_bytes + other.device_bytes, by_device)

    def __sub__(self, other: "Need") -> "Need":
        by_device = _added(self.by_device, other.by_device, -1)
        return Need(self.host_bytes - other.host_bytes, self.device_bytes - other.device_bytes, by_device)

    @property
    def is_some(self) -> bool:
        return self.host_bytes > 0 or self.device_bytes > 0 or any(size > 0 for _, size in self.by_device)

    def covers(self, other: "Need") -> bool:
        own = dict(self.by_device)
        has_devices = all(own.get(name, 0) >= size for name, size in other.by_device)
        return self.host_bytes >= other.host_bytes and self.device_bytes >= other.device_bytes and has_devices

    def on(self, device: str) -> int:
        return dict(self.by_device).get(device, 0)


NOTHING = Need()


def on_devices(host_bytes: int, sizes: dict[str, int]) -> Need:
    return Need(host_bytes, sum(sizes.values()), tuple(sorted((name, size) for name, size in sizes.items() if size)))


def total(needs: Iterable[Need]) -> Need:
    return reduce(Need.__add__, needs, NOTHING)


def _added(one: Sizes, other: Sizes, sign: int) -> Sizes:
    if not other:
        return one
    sizes = dict(one)
    for name, size in other:
        sizes[name] = sizes.get(name, 0) + sign * size
    return tuple(sorted((name, size) for name, size in sizes.items() if size))
