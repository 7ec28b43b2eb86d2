"""Who may ask: API keys, Host names on a loopback bind, foreign origins, CORS. Knows no route and no model.

Invariant: with a loopback bind, a page on another site can neither read an answer nor change a state.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from fastrouter._core import Request
from fastrouter.errors import Forbidden, InvalidApiKey

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_REMEMBERED = 64


@dataclass(frozen=True)
class Cors:
    """llama-server's --cors-* flags. `origins`: "localhost" (local origins are reflected), "*", or a comma-separated list."""

    origins: str = "localhost"
    methods: str = "GET, POST, DELETE, OPTIONS"
    headers: str = "*"
    credentials: bool = True


def host_of(authority: str) -> str:
    """`host:port` or `[v6]:port` without its port, in lower case."""
    authority = authority.strip().lower()
    if authority.startswith("["):
        return authority[: authority.find("]") + 1]
    return authority.partition(":")[0]


def is_loopback(host: str) -> bool:
    """A name or address that only this machine can be reached by. `127.evil.example` is none."""
    if host in ("localhost", "::1", "[::1]"):
        return True
    octets = host.split(".")
    return len(octets) == 4 and octets[0] == "127" and all(octet.isascii() and octet.isdigit() for octet in octets)


class Guard:
    def __init__(self, api_keys: Sequence[str] = (), hosts: Sequence[str] = ("127.0.0.1",), cors: Cors | None = None) -> None:
        self._keys = [key.encode() for key in api_keys]
        self._bound = {host.lower() for host in hosts}
        self._is_local = all(is_loopback(host) for host in self._bound if not host.endswith(".sock"))
        self._cors = cors or Cors()
        self._origins = {origin.strip() for origin in self._cors.origins.split(",")}
        self._accepted_hosts: set[str] = set()

    def check(self, request: Request) -> None:
        """Raises Forbidden or InvalidApiKey."""
        self._check_host(request)
        if request.method not in _SAFE_METHODS:
            self._check_origin(request)
        if self._keys:
            self._check_key(request)

    def _check_host(self, request: Request) -> None:
        host = request.header("host")
        if not self._is_local or host is None or host in self._accepted_hosts:
            return
        name = host_of(host)
        if not is_loopback(name) and name not in self._bound:
            raise Forbidden("the Host header names another machine")
        if len(self._accepted_hosts) < _MAX_REMEMBERED:
            self._accepted_hosts.add(host)

    def _check_origin(self, request: Request) -> None:
        origin = request.header("origin")
        if origin is not None:
            is_same = origin.partition("://")[2].lower() == (request.header("host") or "").lower()
            if not is_same and not self._is_allowed(origin):
                raise Forbidden("a page of another origin may not do this")
        elif request.header("sec-fetch-site") == "cross-site":
            raise Forbidden("a page of another site may not do this")
        content_type = (request.header("content-type") or "").partition(";")[0].strip().lower()
        if content_type == "text/plain":
            raise Forbidden("a text/plain body is not accepted; send application/json")

    def _check_key(self, request: Request) -> None:
        given = request.header("authorization") or request.header("x-api-key") or ""
        if given[:7].lower() == "bearer ":
            given = given[7:]
        candidate = given.strip(" \t").encode("latin-1")  # the bytes as they came
        # Every key is compared, so that the time says nothing about which one was near.
        matches = [hmac.compare_digest(candidate, key) for key in self._keys]
        if not any(matches):
            raise InvalidApiKey()

    def _is_allowed(self, origin: str) -> bool:
        if self._cors.origins == "*" or origin in self._origins:
            return True
        scheme, _, authority = origin.partition("://")
        return "localhost" in self._origins and scheme in ("http", "https") and is_loopback(host_of(authority))

    def cors_headers(self, origin: str) -> bytes:
        """Header lines for an answer to `origin`; empty when it may not read one."""
        if not self._is_allowed(origin) or not origin.isascii() or not origin.isprintable():
            return b""
        allowed = "*" if self._cors.origins == "*" and not self._cors.credentials else origin
        return f"Access-Control-Allow-Origin: {allowed}\r\nVary: Origin\r\n".encode()

    def preflight(self) -> bytes:
        """The answer to any OPTIONS; the origin's own line is added like on every response."""
        credentials = "true" if self._cors.credentials else "false"
        return (
            "HTTP/1.1 200 OK\r\n"
            f"Access-Control-Allow-Credentials: {credentials}\r\n"
            f"Access-Control-Allow-Methods: {self._cors.methods}\r\n"
            f"Access-Control-Allow-Headers: {self._cors.headers}\r\n"
            "Content-Type: text/html\r\nContent-Length: 0\r\n\r\n"
        ).encode()
