"""The hosts of --media-hosts: which addresses requests may name for their pictures. Pure.

A host is a name or an IP address, *.NAME for all names that end so, or * for all; a port may follow. Only a host that is named as it is
may be in this machine's own network.
"""

import re
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from fastrouter.errors import ConfigError

FLAG = "--media-hosts"
_NAME = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\*|\[[0-9a-f:.]+\]")


class Reach(Enum):
    NOWHERE = "not named"
    WORLD = "only on the internet"
    ANYWHERE = "also in private networks and on this machine"


class MediaHost(NamedTuple):
    name: str  # in small letters; an IPv6 address without brackets
    port: int | None  # None: any

    def reach(self, host: str, port: int) -> Reach:
        if self.port not in (None, port):
            return Reach.NOWHERE
        if host == self.name:
            return Reach.ANYWHERE
        is_below = self.name.startswith("*.") and host.endswith(self.name[1:])
        return Reach.WORLD if is_below or self.name == "*" else Reach.NOWHERE


def read_hosts(texts: Iterable[str]) -> tuple[MediaHost, ...]:
    """Raises ConfigError."""
    return tuple(map(_read, texts))


def _read(text: str) -> MediaHost:
    name, separator, port = text.lower().rpartition(":")
    if not separator or text.endswith("]"):
        name, separator, port = text.lower(), "", ""
    has_port = port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 1 << 16
    if not _NAME.fullmatch(name) or (separator and not has_port):
        raise ConfigError(f"{FLAG} {text}: must be a host such as example.org, *.example.org, [2001:db8::1] or *, and :PORT may follow")
    return MediaHost(name.strip("[]"), int(port) if separator else None)


def reach_of(hosts: Iterable[MediaHost], host: str, port: int) -> Reach:
    """Where a host of this name may be."""
    order = list(Reach)
    return max((each.reach(host, port) for each in hosts), key=order.index, default=Reach.NOWHERE)
