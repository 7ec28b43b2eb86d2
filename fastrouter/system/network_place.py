"""Where an IP address is: on the internet, in a private network, or on this machine. Pure."""

import ipaddress
from collections.abc import Iterable
from enum import Enum

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Place(Enum):
    """The most trusted first."""

    WORLD = "the internet"
    NETWORK = "a private network"
    HERE = "this machine"
    NOWHERE = "not the address of a server"


def place_of_address(address: Address) -> Place:
    inner = _inner(address)
    if inner is not None:
        return place_of_address(inner)
    if address.is_loopback:
        return Place.HERE
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return Place.NOWHERE
    return Place.WORLD if address.is_global and not address.is_reserved else Place.NETWORK


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that is reached by this one."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    translated = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if address in _NAT64 else None
    return address.ipv4_mapped or address.sixtofour or translated


def least_trusted(addresses: Iterable[str]) -> Place:
    """Of these texts, of which there must be one. Raises ValueError."""
    places = [place_of_address(ipaddress.ip_address(address.partition("%")[0])) for address in addresses]
    return max(places, key=list(Place).index)
