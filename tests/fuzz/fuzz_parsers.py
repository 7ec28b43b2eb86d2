"""The tool parsers: any text of a model, in any pieces, gives the same message.

The first byte names the format, the second the switches; the rest is text.
"""

import random

from pieces import Message, read

from fastrouter.worker.text.parsers.parser import MessageParser
from fastrouter.worker.text.parsers.table import GENERIC, ROWS

FORMATS = (GENERIC, *(row.format for row in ROWS))
PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": PROPERTIES}}},
    {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}},
]


def check(data: bytes) -> None:
    name, switches = (data[:2] + b"\0\0")[:2]
    text = data[2:].decode("utf-8", "replace")
    source = random.Random(data)
    cuts = sorted(source.randrange(len(text) + 1) for _ in range(source.randrange(6)))
    some = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = _read(name, switches, [text])
    assert whole == _read(name, switches, text), "one character at a time"
    assert whole == _read(name, switches, some), cuts


def _read(name: int, switches: int, pieces: list[str] | str) -> Message:
    parser = MessageParser(
        FORMATS[name % len(FORMATS)],
        TOOLS if switches & 1 else (),
        reasoning_open=bool(switches & 2),
        parses_calls=not switches & 4,
        parses_reasoning=not switches & 8,
        holds_calls=bool(switches & 16),
    )
    return read(parser, pieces, cut=bool(switches & 32))
