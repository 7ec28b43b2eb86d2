"""Bytes of memory on the host and on devices. Plain data."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of memory, on the host and on all its devices together."""

    host_bytes: int = 0
    device_bytes: int = 0

    def __add__(self, other: "Need") -> "Need":
        return Need(self.host_bytes + other.host_bytes, self.device_bytes + other.device_bytes)

    def __sub__(self, other: "Need") -> "Need":
        return Need(self.host_bytes - other.host_bytes, self.device_bytes - other.device_bytes)

    @property
    def is_some(self) -> bool:
        return self.host_bytes > 0 or self.device_bytes > 0

    def covers(self, other: "Need") -> bool:
        return self.host_bytes >= other.host_bytes and self.device_bytes >= other.device_bytes


NOTHING = Need()


def total(needs: Iterable[Need]) -> Need:
    return reduce(Need.__add__, needs, NOTHING)
