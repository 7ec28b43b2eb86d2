"""The HTTP client of downloads: who gets the token, where redirects may lead, how long the hub may be silent.

Never imports: hub.cache, hub.fetch. Invariant: the token goes only to the hub's own scheme, host and port; no answer of the hub can make
this machine ask another one in its network, unless the hub itself is there.
"""

import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx2
from huggingface_hub import constants, set_client_factory

from fastrouter.hub.job import Refused
from fastrouter.system.network_place import Place, least_trusted

MAX_REDIRECTS = 5


def place_of(host: str) -> Place:
    """Where a host's addresses are; if there are several, the least trusted place. Raises OSError."""
    return least_trusted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})


def _origin(scheme: str, host: str, port: int | None) -> tuple[str, str, int]:
    return scheme, host.lower().strip("[]"), port or (443 if scheme == "https" else 80)


class Gate:
    """Checks each request before it is sent, also those that follow a redirect."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._origin = _origin(parts.scheme, parts.hostname or "", parts.port)
        self._place: Place | None = None

    def __call__(self, request: httpx2.Request) -> None:
        url = request.url
        origin = _origin(url.scheme, url.host, url.port)
        if origin == self._origin:
            return
        request.headers.pop("Authorization", None)
        if url.scheme not in ("http", "https") or (self._origin[0] == "https" and url.scheme != "https"):
            raise Refused(f"the hub redirects to {url.scheme}://{url.host}, which is not encrypted")
        if origin[1] == self._origin[1]:
            return
        if self._place is None:
            self._place = self._look_up(self._origin[1])
        place = self._look_up(url.host)
        if place is not Place.WORLD and (place is not self._place or place is Place.NOWHERE):
            raise Refused(f"the hub redirects to {url.host}, which is {place.value}")

    def _look_up(self, host: str) -> Place:
        try:
            return place_of(host)
        except (OSError, ValueError) as error:
            if getproxies():  # the proxy knows names that this machine does not know
                return Place.WORLD
            raise httpx2.ConnectError(f"{host}: {error}") from None


def open_session(endpoint: str) -> None:
    """From here on the hub's library uses it."""
    timeout = httpx2.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT)  # of a silence, not of the whole transfer

    def make() -> httpx2.Client:
        hooks: Any = {"request": [Gate(endpoint)]}
        return httpx2.Client(event_hooks=hooks, follow_redirects=True, max_redirects=MAX_REDIRECTS, timeout=timeout)

    set_client_factory(make)
