"""The files of the page at /, or of the folder of --path. All of these files are public. Never imports: supervisor, catalog, http.api_keys.

Invariant: a file outside the folder is never read, also not through a path or a link. Files whose names begin with a dot are never read.
"""

import asyncio
import gzip
import hashlib
import os
import stat
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from fastrouter._core import Request
from fastrouter.config.config import Config
from fastrouter.errors import NotSupported
from fastrouter.http.response import Response, redirect
from fastrouter.http.routes import Files

WEB = Path(__file__).parent.parent.parent / "web"
MAX_FILE_BYTES = 64 << 20
MAX_KEPT_BYTES = 1 << 20  # larger files are read each time
MAX_KEPT = 256
MIN_GZIP_BYTES = 512

# The page may use only its own files and its own server. Inline scripts, inline styles and frames around it are forbidden.
POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind} 'self'" for kind in ("script-src", "style-src", "connect-src", "font-src")),
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        *(f"{kind} 'none'" for kind in ("base-uri", "form-action", "frame-ancestors")),
    )
)
_SAFETY = b"X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
# The page asks for the camera and the microphone when their buttons are pressed.
PERMISSIONS = "camera=(self), microphone=(self), geolocation=(), payment=(), usb=()"
_STRICT = (
    f"Content-Security-Policy: {POLICY}\r\nPermissions-Policy: {PERMISSIONS}\r\nCross-Origin-Resource-Policy: same-origin\r\n".encode()
)

_TEXT = {".html": "html", ".htm": "html", ".css": "css", ".js": "javascript", ".mjs": "javascript", ".txt": "plain", ".md": "markdown"}
_TYPES = {
    **{suffix: f"text/{name}; charset=utf-8" for suffix, name in _TEXT.items()},
    **dict.fromkeys((".json", ".map"), "application/json"),
    **{suffix: f"image/{suffix[1:]}" for suffix in (".png", ".gif", ".webp", ".avif")},
    **{suffix: f"font/{suffix[1:]}" for suffix in (".woff", ".woff2", ".ttf", ".otf")},
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".ico": "image/x-icon",
    ".wasm": "application/wasm",
    ".pdf": "application/pdf",
    ".webmanifest": "application/manifest+json",
}
_SERVICE_WORKER = "/sw.js"
_BINARY = "application/octet-stream"
_IS_PACKED = frozenset((".png", ".gif", ".webp", ".avif", ".jpg", ".jpeg", ".woff", ".woff2", ".pdf"))


class _Stamp(NamedTuple):
    mtime_ns: int
    size: int


class _File(NamedTuple):
    stamp: _Stamp
    head: bytes  # header lines that a 304 has too
    content_type: bytes
    tag: str
    plain: bytes
    packed: bytes | None

    def answer(self, request: Request) -> Response:
        if _matches(request.header("if-none-match") or "", self.tag):
            return Response(304, self.head)
        if self.packed is not None and _accepts_gzip(request.header("accept-encoding") or ""):
            return Response(200, self.head + self.content_type + b"Content-Encoding: gzip\r\n", self.packed)
        return Response(200, self.head + self.content_type, self.plain)


class Folder:
    def __init__(self, root: Path, prefix: str = "", *, is_ours: bool) -> None:
        """Our own page: none of its files needs anything that the strict policy forbids. No file is read yet."""
        self._root = os.path.realpath(root)
        self._prefix = prefix
        self._headers = _SAFETY + (_STRICT if is_ours else b"")
        self._kept: OrderedDict[str, _File] = OrderedDict()  # by real path; only the event loop uses it

    def __repr__(self) -> str:
        return f"<Folder {self._root} {len(self._kept)} kept>"

    async def get(self, request: Request, path: str) -> Response | None:
        """The answer; None: the file does not exist. Raises NotSupported."""
        if not path:
            return redirect(quote(self._prefix) + "/")
        if not path.startswith("/"):
            return None  # /routerx is not below /router
        real = await asyncio.to_thread(self._find, path)
        if real is None:
            return None
        if real.is_folder:
            return redirect(quote(self._prefix + path) + "/")
        file = self._kept.get(real.path)
        if file is None or file.stamp != real.stamp:
            file = await asyncio.to_thread(self._read, real.path)
            if file is None:
                return None
            self._keep(real.path, file)
        return file.answer(request)

    def _keep(self, path: str, file: _File) -> None:
        self._kept.pop(path, None)
        if len(file.plain) <= MAX_KEPT_BYTES:
            self._kept[path] = file
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)

    # ------------------------------------------------------------ in a thread

    def _find(self, path: str) -> "_Real | None":
        parts = path[1:].split("/")
        if path.endswith("/"):
            parts[-1] = "index.html"
        if any(not part or part.startswith(".") or "\0" in part for part in parts):
            return None
        try:
            real = os.path.realpath(os.path.join(self._root, *parts), strict=True)
            found = os.stat(real)
        except (OSError, ValueError):
            return None
        if os.path.commonpath((self._root, real)) != self._root:
            return None
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            return None
        return _Real(real, stat.S_ISDIR(found.st_mode), _Stamp(found.st_mtime_ns, found.st_size))

    def _read(self, path: str) -> _File | None:
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    return None
                if found.st_size > MAX_FILE_BYTES:
                    raise NotSupported(f"{os.path.basename(path)} is larger than {MAX_FILE_BYTES >> 20} MiB")
                plain = file.read(MAX_FILE_BYTES)
        except OSError:
            return None
        suffix = os.path.splitext(path)[1].lower()
        packed = gzip.compress(plain, 9, mtime=0) if suffix not in _IS_PACKED and MIN_GZIP_BYTES <= len(plain) <= MAX_KEPT_BYTES else None
        tag = f'W/"{hashlib.sha256(plain).hexdigest()[:32]}"'  # weak: the compressed bytes are the same file
        head = self._headers + f"ETag: {tag}\r\nCache-Control: no-cache\r\nVary: Accept-Encoding\r\n".encode()
        content_type = f"Content-Type: {_TYPES.get(suffix, _BINARY)}\r\n".encode()
        return _File(_Stamp(found.st_mtime_ns, found.st_size), head, content_type, tag, plain, packed)


class _Real(NamedTuple):
    """The file or folder of a path inside the folder."""

    path: str
    is_folder: bool
    stamp: _Stamp


def _matches(given: str, tag: str) -> bool:
    opaque = tag.removeprefix("W/")
    return given.strip() == "*" or any(each.strip().removeprefix("W/") == opaque for each in given.split(","))


def _accepts_gzip(given: str) -> bool:
    for each in given.lower().split(","):
        name, _, weight = each.partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def files_of(config: Config) -> Files:
    """By the path below the prefix. llama-server's page leaves a service worker in browsers. It would hide our page forever, or the fact
    that there is no page. So its name always gets an answer: a service worker that removes itself."""
    ours = Folder(WEB, config.api_prefix, is_ours=True)
    theirs = Folder(config.static_path, config.api_prefix, is_ours=False) if config.static_path is not None else None

    async def get(request: Request, path: str) -> Response | None:
        if config.ui and theirs is None:
            return await ours.get(request, path)
        found = await theirs.get(request, path) if config.ui and theirs is not None else None
        return await ours.get(request, path) if found is None and path == _SERVICE_WORKER else found

    return get
