"""Which requests are allowed: API keys, Host names on a loopback bind, foreign origins, CORS. Never imports: http.routes.

Invariant: with a loopback bind, a page of another site cannot read an answer and cannot change any state.
"""

import contextlib
import re
from collections.abc import Sequence

from fastrouter._core import Request
from fastrouter.errors import Forbidden, InvalidApiKey, UnsupportedMediaType
from fastrouter.http.api_keys import Caller, KeyRing
from fastrouter.http.response import Response
from fastrouter.options.cors import Cors

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_WEB_SCHEMES = ("http", "https")
_MAX_REMEMBERED = 64
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^][@/?#\\\s:]+)(?::[0-9]{1,5})?")
_OCTET = re.compile(r"[0-9]{1,3}")
_HEADER_NAMES = re.compile(r"[\w\-, \t]{1,1024}", re.ASCII)


def host_of(authority: str) -> str:
    """`host:port` or `[v6]:port` without its port, in lower case; empty for other forms (user names, zones, paths)."""
    match = _AUTHORITY.fullmatch(authority.strip().lower())
    return match[1] if match is not None else ""


def is_loopback(host: str) -> bool:
    """Whether only this machine can be reached by this name or address. `127.evil.example` is not such a name."""
    if host in ("localhost", "::1", "[::1]"):
        return True
    octets = host.split(".")
    return octets[0] == "127" and len(octets) == 4 and all(_OCTET.fullmatch(octet) and int(octet) <= 255 for octet in octets)


def _normalise(origin: str) -> str:
    return origin.strip().lower().rstrip("/")


class Guard:
    def __init__(
        self,
        keys: KeyRing | None = None,
        hosts: Sequence[str] = ("127.0.0.1",),
        cors: Cors | None = None,
        allowed_hosts: Sequence[str] = (),
    ) -> None:
        """`hosts`: names that TCP sockets are bound to; none means that there are only Unix sockets. `allowed_hosts`: other names that a
        client or a proxy may call this server by; "*": any."""
        self.keys = KeyRing() if keys is None else keys
        self._bound = {host.lower() for host in hosts}
        # A page cannot open a Unix socket. The client may be a proxy that sends the name of its site.
        self._is_local = bool(self._bound) and all(is_loopback(host) for host in self._bound) and "*" not in allowed_hosts
        self._known = self._bound | {host_of(host) for host in allowed_hosts} - {""}
        self._cors = cors or Cors()
        self._origins = {_normalise(origin) for origin in self._cors.origins.split(",")} - {""}
        self._allows_all = "*" in self._origins
        self._allows_local = "localhost" in self._origins
        self._origins -= {"*", "localhost"}  # words, not origins
        self._accepted_hosts: set[str] = set()

    def check(self, request: Request) -> None:
        """Set the request's caller. Raises Forbidden, UnsupportedMediaType or InvalidApiKey."""
        self.check_host(request)
        is_safe = request.method in _SAFE_METHODS
        if not is_safe or request.query:  # a query may scan again, or load the model that it names
            self._check_origin(request)
        if not is_safe:
            self._check_content_type(request)
        if self.keys:
            request.caller = self._caller_of(request)

    def _caller_of(self, request: Request) -> Caller | None:
        """Some clients send two keys, one for each kind of server. One correct key is enough. Raises InvalidApiKey."""
        bearer, other = request.header("authorization"), request.header("x-api-key")
        if bearer and other:
            with contextlib.suppress(InvalidApiKey):
                return self.keys.find(_key_of(bearer))
        return self.keys.find(_key_of(other or bearer or ""))

    def check_host(self, request: Request) -> None:
        """Also for paths that need no key. Raises Forbidden."""
        host = request.header("host")
        if not self._is_local or host is None or host in self._accepted_hosts:
            return
        name = host_of(host)
        if not is_loopback(name) and name not in self._known:
            raise Forbidden(
                f"the Host header names another machine ({name or 'not a valid name'}); "
                f"if that is a name of this server, start it with --allowed-hosts {name or 'NAME'}"
            )
        if len(self._accepted_hosts) < _MAX_REMEMBERED:
            self._accepted_hosts.add(host)

    def _check_origin(self, request: Request) -> None:
        origin = request.header("origin")
        if origin is not None:
            scheme, _, authority = origin.lower().partition("://")
            is_same = scheme in _WEB_SCHEMES and authority == (request.header("host") or "").lower()
            if not is_same and not self._is_allowed(origin):
                raise Forbidden("a page of another origin may not do this")
        elif request.header("sec-fetch-site") == "cross-site":
            raise Forbidden("a page of another site may not do this")

    def _check_content_type(self, request: Request) -> None:
        given = (request.header("content-type") or "").lower().split(",")
        if any(each.partition(";")[0].strip() == "text/plain" for each in given):
            raise UnsupportedMediaType("a text/plain body is not accepted; send the header `Content-Type: application/json`")

    def _is_allowed(self, origin: str) -> bool:
        if self._allows_all or _normalise(origin) in self._origins:
            return True
        scheme, _, authority = origin.partition("://")
        return self._allows_local and scheme in _WEB_SCHEMES and is_loopback(host_of(authority))

    def cors_headers(self, origin: str) -> bytes:
        """Header lines for an answer to `origin`; empty when that origin may not read an answer."""
        if not self._is_allowed(origin) or not origin.isascii() or not origin.isprintable():
            return b""
        if not self._cors.credentials:
            allowed = "*" if self._allows_all else origin
            return f"Access-Control-Allow-Origin: {allowed}\r\nVary: Origin\r\n".encode()
        return f"Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Allow-Credentials: true\r\nVary: Origin\r\n".encode()

    def preflight(self, request: Request) -> Response:
        """The answer to any OPTIONS; the lines for the origin are added as to every response."""
        headers, asked = self._cors.headers, request.header("access-control-request-headers")
        if headers == "*" and asked is not None and _HEADER_NAMES.fullmatch(asked):
            headers = asked  # for a browser, "*" does not include Authorization, and does not allow a request with credentials
        credentials = "" if self._cors.credentials else "Access-Control-Allow-Credentials: false\r\n"
        lines = (
            f"{credentials}"
            f"Access-Control-Allow-Methods: {self._cors.methods}\r\n"
            f"Access-Control-Allow-Headers: {headers}\r\n"
            "Content-Type: text/html\r\n"
        )
        return Response(200, lines.encode())


def _key_of(given: str) -> bytes:
    """The unchanged bytes of `Authorization: Bearer KEY` or `X-Api-Key: KEY`."""
    if f"{given} "[:7].lower() == "bearer ":  # blanks at the end are not part of a field
        given = given[7:]
    return given.strip(" \t").encode("latin-1")
