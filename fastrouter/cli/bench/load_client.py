"""The one client for every server: non-blocking sockets, a new connection for each request, times taken at the first byte of text.

It is the same for all servers. Times are seconds of `time.perf_counter`.
"""

import contextlib
import http.client
import json
import re
import selectors
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fastrouter.cli.sse import read_events

_TEXT = re.compile(rb'"(?:reasoning_)?content":"(?:[^"\\]|\\.)')  # a delta with at least one character
_ERROR = re.compile(rb'"message": ?"((?:[^"\\]|\\.)*)"')
_COMPLETION_TOKENS = re.compile(rb'"predicted_n":(\d+)')


class BenchFailed(RuntimeError):
    """A server did not do what is measured; the message is for the user."""


@dataclass
class TimedStream:
    """One streamed chat request. `ttft_s` and `total_s` begin just before connect."""

    ttft_s: float = 0.0
    total_s: float = 0.0
    num_tokens: int = 0  # 0: the server did not say
    reads: list[float] = field(default_factory=list)  # when data came
    body: bytearray = field(default_factory=bytearray)

    @property
    def is_whole(self) -> bool:
        return b"data: [DONE]" in self.body


def request_bytes(model: str, prompt: str, max_tokens: int, **more: Any) -> bytes:
    """`more`: other fields of the body."""
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
            **more,
        }
    ).encode()
    return head_bytes("POST", "/v1/chat/completions", len(body)) + body


def head_bytes(method: str, path: str, body_size: int) -> bytes:
    fields = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {body_size}\r\nConnection: close\r\n"
    return f"{method} {path} HTTP/1.1\r\n{fields}\r\n".encode()


def stream_all(port: int, requests: list[bytes], timeout_s: float = 300.0) -> list[TimedStream]:
    """Send all requests together, each on its own connection; wait until all have ended. Raises BenchFailed when one is not complete."""
    selector = selectors.DefaultSelector()
    streams = []
    starts: dict[socket.socket, float] = {}
    for request in requests:
        stream = TimedStream()
        start = time.perf_counter()
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(request)
        sock.setblocking(False)
        starts[sock] = start
        selector.register(sock, selectors.EVENT_READ, stream)
        streams.append(stream)
    deadline = time.perf_counter() + timeout_s
    while selector.get_map():
        if time.perf_counter() > deadline:
            raise BenchFailed("a stream did not end in time")
        for key, _ in selector.select(1.0):
            assert isinstance(key.fileobj, socket.socket)
            sock, stream = key.fileobj, key.data
            data = sock.recv(1 << 18)
            now = time.perf_counter()
            if not data:
                stream.total_s = now - starts[sock]
                selector.unregister(sock)
                sock.close()
                continue
            stream.body += data
            stream.reads.append(now)
            if not stream.ttft_s and _TEXT.search(stream.body):
                stream.ttft_s = now - starts[sock]
    for stream in streams:
        if not stream.is_whole or not stream.ttft_s:
            raise BenchFailed(f"the answer is incomplete: {_error_of(bytes(stream.body))}")
        counts = _COMPLETION_TOKENS.findall(stream.body)
        stream.num_tokens = int(counts[-1]) if counts else 0  # servers of other kinds do not count
    return streams


def _error_of(answer: bytes) -> str:
    """The server's words, if there are any."""
    found = _ERROR.search(answer)
    if found is None:
        return repr(answer[:500])
    return str(json.loads(b'"' + found[1] + b'"'))


def run_clients(port: int, scripts: list[list[bytes]]) -> list[TimedStream]:
    """Each script is one client that sends its requests one after the other; all clients run at the same time."""
    with ThreadPoolExecutor(len(scripts)) as pool:
        return [
            stream for streams in pool.map(lambda script: [stream_all(port, [one])[0] for one in script], scripts) for stream in streams
        ]


class LoadCounter:
    """Counts the loads that a router reports on /models/sse, until it is closed."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._connection.request("GET", "/models/sse")
        self._sock = self._connection.sock  # the answer takes over the socket
        self._counts: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        time.sleep(0.2)
        self._counts.clear()  # the router's reports of models that were loaded before

    def _read(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException), self._connection.getresponse() as response:
            for event in filter(None, read_events(response)):
                if event["data"].get("status") == "loaded":
                    self._counts[event["event"]] += 1

    def close(self) -> int:
        """Returns the number of loads; a router may report each under two names."""
        time.sleep(0.2)
        self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()
        return max(self._counts.values(), default=0)


def call(port: int, method: str, path: str, body: dict[str, Any] | None = None, timeout_s: float = 30.0) -> tuple[int, Any]:
    """(status, decoded JSON) of one plain request."""
    data = json.dumps(body).encode() if body is not None else b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as sock:
        sock.sendall(head_bytes(method, path, len(data)) + data)
        answer = bytearray()
        while chunk := sock.recv(1 << 16):
            answer += chunk
    head, _, payload = bytes(answer).partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" in head.lower():
        payload = b"".join(payload.split(b"\r\n")[1::2])
    return status, json.loads(payload) if payload.strip() else None
