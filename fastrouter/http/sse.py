"""Server-sent events as bytes. The callers decide what an event contains."""

from typing import Any

import orjson

_DATA, _END = b"data: ", b"\n\n"


def json_event(value: Any, name: bytes = b"") -> bytes:
    """One whole event. `name` is its type, for APIs whose events have a type."""
    return raw_event(orjson.dumps(value), name)


def raw_event(data: bytes, name: bytes = b"") -> bytes:
    """`data`: one line."""
    before, after = event_parts(data, b"", name)
    return before + after


def comment(text: bytes) -> bytes:
    """A comment, which clients skip. It keeps the connection alive."""
    return b": " + text + b"\n\n"


def event_parts(before: bytes, after: bytes, name: bytes = b"") -> tuple[bytes, bytes]:
    """An event in two parts, between which its text is written later."""
    head = b"event: " + name + b"\n" if name else b""
    return head + _DATA + before, after + _END
