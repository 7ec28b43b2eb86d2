"""SSE: whatever text and events come from a worker, the client gets whole chunks, whole events, and the same text.

The first byte says how: chunked or not, with a log or not. Pieces follow, each with a byte for its length and its kind. The kinds are
text, thought, an event, and a change (pause, resume, drain, ping).
"""

import json

from fastrouter._core import REASONING, TEXT, EventLog, SseWriter, TokenRing
from fastrouter.cli.sse import read_events

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Wire:
    def __init__(self) -> None:
        self.out = bytearray()

    def write(self, data: bytes) -> None:
        self.out += data


class Writer(SseWriter):
    def on_overflow(self) -> None:
        raise AssertionError("nothing here is that large")


def check(data: bytes) -> None:
    how, rest = data[:1] or b"\0", data[1:]
    is_chunked, has_log = how[0] & 1, how[0] & 2
    wire = Wire()
    writer = Writer(wire, HEAD, chunked=bool(is_chunked), max_buffered=1 << 30)  # type: ignore[arg-type]
    log = EventLog() if has_log else None
    end = b"}\n\n" if has_log else b""
    for kind, name in ((TEXT, b"t"), (REASONING, b"r")):
        writer.set_template(kind, 0, b'data: {"' + name + b'":"', b'","n":' if has_log else b'"}\n\n', end, log)
    texts = _drive(writer, rest)
    writer.finish()
    assert wire.out.startswith(HEAD)
    body = bytes(wire.out[len(HEAD) :])
    events = list(read_events((_joined(body) if is_chunked else body).splitlines(keepends=True)))
    for name, sent in texts.items():
        assert "".join(event[name] for event in events if event and name in event) == sent
    if has_log:
        assert [event["n"] for event in events if event and "n" in event] == list(range(sum("n" in event for event in events if event)))


def _drive(writer: Writer, rest: bytes) -> dict[str, str]:
    ring = TokenRing.create()
    request_id = ring.attach(writer)
    texts = {"t": "", "r": ""}
    while rest:
        size, rest = rest[0], rest[1:]
        text, rest = rest[: size >> 2].decode("utf-8", "replace"), rest[size >> 2 :]
        if size & 3 < 2:
            name, kind = (("t", TEXT), ("r", REASONING))[size & 3]
            assert ring.try_push(request_id, kind, 0, 0, 1, text.encode())
            texts[name] += text
        elif size & 3 == 2:
            ring.drain()
            writer.write_event(b"data: " + json.dumps({"e": text}).encode() + b"\n\n")
        else:
            (writer.pause, writer.resume, ring.drain, lambda: writer.write_ping(b": ping\n\n"))[(size >> 2) & 3]()
    ring.drain()
    ring.close()
    return texts


def _joined(body: bytes) -> bytes:
    """What a chunked body holds; each chunk is a number of whole events."""
    result = b""
    while True:
        line, _, body = body.partition(b"\r\n")
        size = int(line, 16)
        chunk, body = body[:size], body[size:]
        assert len(chunk) == size
        assert body.startswith(b"\r\n")
        body = body[2:]
        if not size:
            assert not body
            return result
        assert chunk.endswith(b"\n\n")
        result += chunk
