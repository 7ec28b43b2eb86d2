"""A hub on a loopback port: the two endpoints that downloads use, and the ways in which it can fail. Uses nothing of fastrouter.

Invariant: the faults of a file are used one request after the other; then it is served correctly.
"""

import contextlib
import hashlib
import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case


@dataclass
class Reply:
    """What is sent; faults change it."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut_at: int | None = None  # the connection ends before this byte of the body
    silent_at: int | None = None  # nothing comes from this byte on
    bytes_per_s: float | None = None


Fault = Callable[[Reply], Reply]


@dataclass
class FakeHub:
    port: int = 0
    token: str | None = None  # a request without it gets a 401
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commit: str = COMMIT
    faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))  # by path of a file; "" for the listing
    always: dict[str, Fault] = field(default_factory=dict)
    stated: dict[str, dict[str, Any]] = field(default_factory=dict)  # what the listing says about a file, right or wrong
    seen: list[Seen] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ranges(self, path: str) -> list[str | None]:
        """Of all requests for a file."""
        return [seen.headers.get("range") for seen in self.seen if seen.path.endswith(f"/{path}")]

    def answer(self, path: str, headers: dict[str, str]) -> Reply:
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        is_listing = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if is_listing else parts[:2])
        name = "" if is_listing else "/".join(parts[4:])
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            reply = _error(401, "GatedRepo" if repo.startswith("gated/") else "RepoNotFound")
        elif repo not in self.repos:
            reply = _error(404, "RepoNotFound")
        elif is_listing:
            reply = Reply(200, {"Content-Type": "application/json"}, json.dumps(self._listing(repo)).encode())
        elif name not in self.repos[repo] or parts[2:4] != ["resolve", self.commit]:
            reply = _error(404, "EntryNotFound")
        else:
            reply = _ranged(self.repos[repo][name], headers.get("range"))
        fault = self.faults[name].popleft() if self.faults[name] else self.always.get(name)
        return fault(reply) if fault else reply

    def _listing(self, repo: str) -> dict[str, Any]:
        siblings = []
        for name, content in self.repos[repo].items():
            sha256 = hashlib.sha256(content).hexdigest()
            lfs = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append({"rfilename": name, "size": len(content), "blobId": "b" * 40, "lfs": lfs} | self.stated.get(name, {}))
        return {"_id": "1", "id": repo, "modelId": repo, "sha": self.commit, "private": False, "siblings": siblings, "tags": []}


def _error(status: int, code: str) -> Reply:
    return Reply(status, {"X-Error-Code": code, "X-Error-Message": "no", "Content-Type": "application/json"}, b'{"error":"no"}')


def _ranged(content: bytes, wanted: str | None) -> Reply:
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
    if wanted is None:
        return Reply(200, headers, content)
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if start >= len(content):
        return Reply(416, headers, b"")
    return Reply(206, {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}, content[start:])


# ---------------------------------------------------------------- faults


def status(code: int, **headers: str) -> Fault:
    return lambda reply: Reply(code, {name.replace("_", "-"): value for name, value in headers.items()}, b"busy")


def cut(at: int) -> Fault:
    def change(reply: Reply) -> Reply:
        reply.cut_at = at
        return reply

    return change


def stall(at: int) -> Fault:
    def change(reply: Reply) -> Reply:
        reply.silent_at = at
        return reply

    return change


def slow(bytes_per_s: float) -> Fault:
    def change(reply: Reply) -> Reply:
        reply.bytes_per_s = bytes_per_s
        return reply

    return change


def flip(at: int) -> Fault:
    """Makes one byte wrong."""

    def change(reply: Reply) -> Reply:
        content = bytearray(reply.body)
        content[at] ^= 1
        reply.body = bytes(content)
        return reply

    return change


def says_length(length: int) -> Fault:
    def change(reply: Reply) -> Reply:
        reply.headers["Content-Length"] = str(length)
        return reply

    return change


def body(content: bytes) -> Fault:
    return lambda reply: Reply(200, {}, content)


def redirect(location: str) -> Fault:
    return lambda reply: Reply(302, {"Location": location}, b"")


# ---------------------------------------------------------------- the server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.seen.append(Seen(self.command, self.path, headers))
        reply = self.hub.answer(self.path, headers)
        self.send_response_only(reply.status)
        for name, value in ({"Content-Length": str(len(reply.body))} | reply.headers).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        ends = [at for at in (reply.cut_at, reply.silent_at) if at is not None]
        content = reply.body[: min(ends)] if ends else reply.body
        step = max(1, int(reply.bytes_per_s / 20)) if reply.bytes_per_s else 1 << 16
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            self.wfile.flush()
            if reply.bytes_per_s:
                time.sleep(step / reply.bytes_per_s)
        if reply.silent_at is not None:
            self.connection.recv(1)  # until the client gives up
        if ends or int(reply.headers.get("Content-Length", len(content))) != len(content):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextlib.contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    with _Server(("127.0.0.1", 0), handler) as server:
        hub.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
