"""Large bodies in every field of every route: none may cost the router much memory, or be answered with a 5xx.

`FASTROUTER_SWEEP_MB=1,4,16,64` sends all kinds of values in every field at these sizes (minutes); without it a part is sent at 1 and 4
MB. The longest time that /health took meanwhile is printed with `-s`. It is not asserted: a busy machine may be slow for other reasons.
"""

import contextlib
import http.client
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Router, StartRouter, eventually

from fastrouter.api.requests.fields import FIELDS

SIZES = os.environ.get("FASTROUTER_SWEEP_MB", "")
MAX_COST = 4  # times the size of a body, at its peak
WIDE_COST = 6  # of a text with a character of four bytes: Python then uses four bytes for every character
SLACK_BYTES = 24 << 20  # of the allocator, and of 65,536 values
START = {
    "/v1/completions": b'"prompt":"a","max_tokens":1',
    "/v1/chat/completions": b'"messages":[{"role":"user","content":"a"}],"max_tokens":1',
    "/infill": b'"input_prefix":"a","input_suffix":"b","n_predict":1',
    "/rerank": b'"query":"a","documents":["a"]',
}
# Fields of single APIs, in addition to those that all generations share.
OWN = {
    "/v1/completions": ("prompt", "model", "unknown"),
    "/completion": ("prompt",),
    "/v1/chat/completions": ("messages", "tools", "tool_choice", "chat_template_kwargs", "reasoning_effort", "add_generation_prompt"),
    "/v1/messages": ("messages", "system", "tools", "tool_choice", "thinking", "output_config", "output_format", "stop_sequences"),
    "/v1/messages/count_tokens": ("messages",),
    "/api/chat": ("messages", "tools", "options", "format", "think"),
    "/api/generate": ("prompt", "suffix", "context", "system", "options", "format"),
    "/api/embed": ("input", "dimensions"),
    "/infill": ("prompt", "input_prefix", "input_suffix", "input_extra"),
    "/tokenize": ("content", "add_special"),
    "/detokenize": ("tokens",),
    "/apply-template": ("messages", "tools"),
    "/v1/chat/completions/input_tokens": ("messages",),
    "/v1/embeddings": ("input", "content", "dimensions", "encoding_format"),
    "/embeddings": ("content",),
    "/rerank": ("query", "documents", "texts", "top_n"),
}
SMALL = (  # whose bodies are small
    *("/models", "/models/load", "/models/unload", "/models/plan", "/models/pin", "/props"),
    *("/lora-adapters?model=tiny0", "/slots/0?action=save&model=tiny0", "/tools", "/api/show", "/api/pull", "/no-such"),
)


def fillers(size: int) -> dict[str, bytes]:
    """JSON values of about `size` bytes."""

    def many(piece: bytes) -> bytes:
        return b"[" + b",".join([piece] * (size // (len(piece) + 1))) + b"]"

    names = b",".join(b'"%x":1' % number for number in range(1 << 24, (1 << 24) + size // 11))
    return {
        "text": b'"' + b"x" * size + b'"',
        "escapes": b'"' + b"\\n" * (size // 2) + b'"',
        "wide": b'"' + b"x" * size + "\U0001f600".encode() + b'"',
        "duration": b'"' + b"1h" * (size // 2) + b'x"',
        "slashes": b'["' + b"a/" * (size // 2) + b'"]',
        "digits": b"1" * size,
        "lists": many(b"[]"),
        "objects": many(b"{}"),
        "ones": many(b"1"),
        "ids": many(b"50000"),
        "id lists": many(b"[" + b"7," * 99 + b"7]"),
        "floats": many(b"1.5"),
        "texts": many(b'"ab"'),
        "messages": many(b'{"role":"user","content":"a"}'),
        "names": b"{" + names + b"}",
        "depth": b"[" * (size // 2) + b"]" * (size // 2),
    }


class Probe:
    """Asks /health all the time, in a separate thread."""

    def __init__(self, server: Router) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self._is_over = threading.Event()
        self.longest_s = 0.0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Probe":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._is_over.wait(0.001):
            begun = time.perf_counter()
            self._connection.request("GET", "/health")
            self._connection.getresponse().read()
            self.longest_s = max(self.longest_s, time.perf_counter() - begun)


def memory(pid: int, name: str) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) << 10


def ask(server: Router, path: str, body: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        with contextlib.suppress(ConnectionError):  # refused at its head, and closed while it was being sent
            connection.request("POST", path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status


@pytest.fixture(scope="module")
def server(module_router: StartRouter, models: Path) -> Router:
    server = module_router(models_dir=models, is_fake=True)
    server.load("tiny0")
    return server


def cases(size: int, *, is_all: bool) -> Iterator[tuple[str, str, str, bytes]]:
    """(path, field, filler, body)"""
    found = fillers(size)
    kinds = list(found)
    shared = [("/v1/completions", name) for name in FIELDS if name not in OWN["/v1/completions"]]
    own = [(path, name) for path, names in OWN.items() for name in names]
    for index, (path, name) in enumerate(shared + own):
        # Otherwise each filler is used in some fields of each kind.
        wanted = kinds if is_all else kinds[index % 8 :: 8] if (path, name) in own else kinds[index % 16 :: 16]
        for kind in wanted:
            start = START.get(path, b'"x":0')
            yield path, name, kind, b'{"model":"tiny0",%b,"%b":%b}' % (start, name.encode(), found[kind])
    for path in SMALL:
        yield path, "model", "text", b'{"model":%b}' % found["text"]
    for kind in kinds:
        yield "/completion", "", kind, found[kind]


@pytest.mark.parametrize("size_mb", [int(size) for size in SIZES.split(",")] if SIZES else [1, 4])
def test_no_body_costs_much(server: Router, size_mb: int) -> None:
    size = size_mb * 10**6
    pid, costs, waits = server.process.pid, {}, {}
    for path, field, kind, body in cases(size, is_all=bool(SIZES)):
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is counted from here
        before = memory(pid, "VmRSS")
        with Probe(server) as probe:
            status = ask(server, path, body)
        case = f"{path} {field} {kind}"
        assert 200 <= status < 500, (case, status)
        costs[case] = (memory(pid, "VmHWM") - before, kind)
        waits[case] = probe.longest_s
    for case in sorted(waits, key=lambda case: waits[case], reverse=True)[:5]:
        print(f"{size_mb} MB: /health took {1e3 * waits[case]:.0f} ms during {case}")
    for case in sorted(costs, key=lambda case: costs[case], reverse=True)[:5]:
        print(f"{size_mb} MB: {costs[case][0] / size:.1f} times its size for {case}")
    for case, (cost, kind) in costs.items():
        assert cost <= (WIDE_COST if kind == "wide" else MAX_COST) * size + SLACK_BYTES, (case, cost)
    assert server.get("/health").status == 200


def test_bodies_are_freed(server: Router) -> None:
    """A short endurance test: clients send much and leave, or are refused, with reloads in between."""
    pid = server.process.pid
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000100\r\n\r\n"

    def round_of_clients() -> None:
        for _ in range(10):
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
                connection.connect()
                connection.sock.sendall(head + b'{"model":"tiny0","prompt":"' + b"x" * 4_000_000)
        for kind in ("lists", "ids", "text"):
            ask(server, "/v1/completions", b'{"model":"no-such","prompt":%b}' % fillers(1_000_000)[kind])
        assert server.get("/models?reload=1").status == 200

    for _ in range(3):
        round_of_clients()
    before = memory(pid, "VmRSS")
    for _ in range(10):
        round_of_clients()
    # One round has sent 43 MB. A permanent loss would be many times this.
    eventually(lambda: memory(pid, "VmRSS") - before < 16 << 20, "the memory of what clients sent")
