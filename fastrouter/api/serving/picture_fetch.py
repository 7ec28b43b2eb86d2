"""Fetches pictures from addresses that --media-hosts names. Never imports: hub, supervisor.

Invariant: a host is looked up once for each connection, all its addresses are checked, and one of these is connected to. So neither a
redirect nor a changing name leads to a machine that is not meant. Nothing of the client's request is sent, and there are no cookies.
"""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import httptools

from fastrouter import __version__
from fastrouter.api.requests.checks import invalid
from fastrouter.api.requests.pictures import MAX_BYTES, NOUNS, Picture, Pictures
from fastrouter.config.media_hosts import FLAG, MediaHost, Reach, reach_of
from fastrouter.system.network_place import Place, least_trusted

FETCH_S = 10.0  # for one picture, with its redirects; llama-server's limit too
ALL_S = 30.0  # for all pictures of a request
CONNECT_S = 4.0  # for each address of a host
MAX_REQUEST_BYTES = 64 << 20  # of all its fetched pictures
MAX_AT_ONCE = 16  # for all requests
MAX_OF_REQUEST = 4
MAX_REDIRECTS = 3
MAX_URL_CHARACTERS = 8192
_MAX_HEAD_BYTES = 64 << 10
_PIECE_BYTES = 64 << 10
_PORTS = {"http": 80, "https": 443}
_KEPT = "/%:@!$&'()*+,;=~-._?"  # characters of a path or query that are sent as they are
_KINDS = ("image/", "audio/", "video/", "application/octet-stream", "binary/octet-stream")

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]  # (host, port) -> its addresses; raises OSError


class _Failed(Exception):
    """The text continues `field '...' is an address`."""


class _Redirect(Exception):
    def __init__(self, to: str) -> None:
        self._to = to

    def from_(self, target: "_Target") -> str:
        """The address that it leads to. Raises _Failed."""
        try:
            url = urljoin(target.url, self._to)
        except ValueError:
            raise _Failed("that redirects to something that cannot be read") from None
        if target.is_safe and not url.lower().startswith("https://"):
            raise _Failed("that redirects from https to an address that is not encrypted")
        return url


async def resolve_host(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Fetcher:
    def __init__(self, hosts: Sequence[MediaHost], resolve: Resolve = resolve_host, context: ssl.SSLContext | None = None) -> None:
        """`context`: for https; None: the system's certificates."""
        self._hosts = hosts
        self._resolve = resolve
        self._context = context
        self._places = asyncio.Semaphore(MAX_AT_ONCE)

    def check(self, pictures: Pictures) -> None:
        """Before anything is fetched: raises InvalidRequest for an address whose host is not named."""
        for picture in pictures.all:
            if picture.is_on_web:
                try:
                    self._target_of(picture.url)
                except _Failed as problem:
                    raise invalid(picture.name, f"is an address {problem}") from None

    async def fetch(self, pictures: Pictures) -> None:
        """Fills in their contents. Raises InvalidRequest."""
        wanted: dict[str, list[Picture]] = {}
        for picture in pictures.all:
            if picture.is_on_web:
                wanted.setdefault(picture.url, []).append(picture)
        if not wanted:
            return
        budget, lanes = _Budget(), asyncio.Semaphore(MAX_OF_REQUEST)
        try:
            async with asyncio.timeout(ALL_S), asyncio.TaskGroup() as tasks:
                for same in wanted.values():
                    tasks.create_task(self._fetch_one(same, budget, lanes))
        except TimeoutError:
            [last, *_] = [same[0] for same in wanted.values() if same[0].is_on_web]
            raise invalid(last.name, f"is an address that had no time: all pictures of a request have {ALL_S:.0f} seconds") from None
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _fetch_one(self, same: list[Picture], budget: "_Budget", lanes: asyncio.Semaphore) -> None:
        async with lanes, self._places:
            try:
                async with asyncio.timeout(FETCH_S):
                    content = await self._follow(same[0], budget)
            except _Failed as problem:
                raise invalid(same[0].name, f"is an address {problem}") from None
            except TimeoutError:
                raise invalid(same[0].name, f"is an address that did not give the picture within {FETCH_S:.0f} seconds") from None
            except ssl.SSLCertVerificationError:
                raise invalid(same[0].name, "is an address whose server has no valid certificate") from None
            except (OSError, httptools.HttpParserError):
                raise invalid(same[0].name, "is an address whose server cannot be reached, or whose answer is broken") from None
        for picture in same:
            picture.content = content

    async def _follow(self, picture: Picture, budget: "_Budget") -> bytes:
        url = picture.url
        for _ in range(MAX_REDIRECTS + 1):
            target = self._target_of(url)
            try:
                return await self._get(target, _Answer(budget, picture.kind))
            except _Redirect as redirect:
                url = redirect.from_(target)
        raise _Failed(f"that redirects more than {MAX_REDIRECTS} times")

    def _target_of(self, url: str) -> "_Target":
        """Raises _Failed for a host that is not named."""
        target = _target_of(url)
        reach = reach_of(self._hosts, target.host, target.port)
        if reach is Reach.NOWHERE:
            way_out = 'send "data:...;base64,..."'
            if not self._hosts:
                raise _Failed(f"and this server fetches none: start it with {FLAG} {target.host}, or {way_out}")
            raise _Failed(f"of {target.host}, which {FLAG} does not name: {way_out}")
        return target._replace(reach=reach)

    async def _get(self, target: "_Target", answer: "_Answer") -> bytes:
        reader, writer = await self._connect(target)
        try:
            writer.write(target.head())
            return await answer.read(reader)
        finally:
            writer.transport.abort()

    async def _connect(self, target: "_Target") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To one of the addresses that were checked. Raises OSError."""
        try:
            addresses = await self._resolve(target.host, target.port)
            place = least_trusted(addresses)
        except (OSError, ValueError):
            raise _Failed(f"of {target.host}, which cannot be found") from None
        if place is not Place.WORLD and target.reach is not Reach.ANYWHERE:
            raise _Failed(f"of {target.host}, which is {place.value}: {FLAG} must name it as it is")
        tls = await self._tls(target.host) if target.is_safe else {}
        failed: OSError = OSError("no address")
        for address in addresses:
            try:
                async with asyncio.timeout(CONNECT_S):
                    return await asyncio.open_connection(address, target.port, limit=_PIECE_BYTES, **tls)
            except OSError as error:  # TimeoutError is one
                failed = error
        raise failed

    async def _tls(self, host: str) -> dict[str, Any]:
        self._context = self._context or await asyncio.to_thread(ssl.create_default_context)  # it reads all certificates
        return {"ssl": self._context, "server_hostname": host}


class _Budget:
    """What the pictures of one request may still have."""

    def __init__(self) -> None:
        self._left = MAX_REQUEST_BYTES

    def take(self, num_bytes: int) -> None:
        self._left -= num_bytes
        if self._left < 0:
            raise _Failed(f"whose picture is too much: all fetched pictures of a request may have {MAX_REQUEST_BYTES >> 20} MiB")


class _Target(NamedTuple):
    url: str
    host: str
    port: int
    path: str  # with the query
    is_safe: bool  # https
    netloc: str
    reach: Reach = Reach.NOWHERE

    def head(self) -> bytes:
        lines = (
            f"GET {self.path} HTTP/1.1",
            f"Host: {self.netloc}",
            f"User-Agent: fastrouter/{__version__}",
            "Accept: image/*, audio/*, video/*",
            "Accept-Encoding: identity",
            "Connection: close",
        )
        return "\r\n".join((*lines, "", "")).encode("ascii")


def _target_of(url: str) -> _Target:
    """Raises _Failed."""
    try:
        parts = urlsplit(url)
        host, port = _host_of(parts), parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):  # UnicodeError is a ValueError
        raise _Failed("that cannot be read: it must be like https://example.org/picture.png") from None
    if not host or "@" in parts.netloc or len(url) > MAX_URL_CHARACTERS or not url.isprintable():
        raise _Failed("that cannot be read: it must be like https://example.org/picture.png, without a user name")
    path = quote(parts.path or "/", safe=_KEPT) + (f"?{quote(parts.query, safe=_KEPT)}" if parts.query else "")
    shown = f"[{host}]" if ":" in host else host
    netloc = shown if port == _PORTS[parts.scheme] else f"{shown}:{port}"
    return _Target(url, host, port, path, parts.scheme == "https", netloc)


def _host_of(parts: SplitResult) -> str:
    """As it is looked up: in ASCII, an IP address in its usual form."""
    host = (parts.hostname or "").rstrip(".")
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    return host.encode("idna").decode("ascii").lower()


class _Answer:
    """A response as it comes. The parser calls the methods `on_...`."""

    def __init__(self, budget: _Budget, kind: str) -> None:
        """`kind`: of the file that is wanted."""
        self._budget = budget
        self._kind = kind
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()
        self._num_head_bytes = 0
        self._problem: Exception | None = None  # an exception in a method of the parser would become another one
        self._has_head = self._is_complete = False

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        """The body. Raises OSError, HttpParserError, _Failed, _Redirect."""
        while not self._is_complete:
            data = await reader.read(_PIECE_BYTES)
            if not data:
                break
            self._feed(data)
        is_whole = self._is_complete or (self._has_head and not {b"content-length", b"transfer-encoding"} & self._headers.keys())
        if not is_whole or not self._body:
            raise _Failed("whose server ended its answer too early" if not is_whole else "that has no content")
        return bytes(self._body)

    def _feed(self, data: bytes) -> None:
        if not self._has_head:
            self._num_head_bytes += len(data)
            if self._num_head_bytes > _MAX_HEAD_BYTES + _PIECE_BYTES:
                raise _Failed("whose answer has too many headers")
        self._parser.feed_data(data)
        if self._problem is not None:
            raise self._problem

    def on_message_begin(self) -> None:
        self._headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._has_head = status >= 200
        if self._has_head:
            self._problem = self._problem_of(status)

    def _problem_of(self, status: int) -> Exception | None:
        location = self._headers.get(b"location")
        if status in (301, 302, 303, 307, 308) and location:
            return _Redirect(location.decode("latin-1"))
        if status != 200:
            return _Failed(f"whose server answers with status {status}")
        kind = self._headers.get(b"content-type", b"").decode("latin-1").strip().lower()
        if kind and not kind.startswith(_KINDS):
            return _Failed(f"of something else than a picture: its server says that it is {kind[:60]!r}")
        size = self._headers.get(b"content-length", b"0")
        return self._too_large() if size.isdigit() and int(size) > MAX_BYTES[self._kind] else None

    def on_body(self, piece: bytes) -> None:
        if self._problem is not None:
            return
        self._body += piece
        if len(self._body) > MAX_BYTES[self._kind]:
            self._problem = self._too_large()
            return
        try:
            self._budget.take(len(piece))
        except _Failed as problem:
            self._problem = problem

    def on_message_complete(self) -> None:
        self._is_complete = self._has_head

    def _too_large(self) -> _Failed:
        return _Failed(f"of {NOUNS[self._kind]} of more than {MAX_BYTES[self._kind] >> 20} MiB: send a smaller one")
