"""Bodies with one bad value each, made from /openapi.json: every field, and every field of the objects inside, gets every value.

So a field of the program's tables is tested as soon as it is in them.
"""

from collections.abc import Iterator
from typing import Any

import orjson

Schema = dict[str, Any]

MAX_DEPTH = 6  # of objects in objects
_NUMBERS = (
    *("0", "-0.0", "1", "-1", "0.5", "1e-320", "1e308", "-1e308", "1e400", "NaN", "Infinity", "-Infinity"),
    *(str(sign * (1 << bits) + more) for bits in (31, 32, 53, 63, 64) for sign in (1, -1) for more in (-1, 0, 1)),
    "1" * 400,
)
_LONG = ("x" * 100_000, "\U0001f600" * 1000)
_TEXTS = ("", " ", "nan", "inf", "1e309", "-1", "99999999999999999999", "\0", "\u202e", "../../etc/passwd", *_LONG)
VALUES: dict[str, bytes] = {
    **{number[:24]: number.encode() for number in _NUMBERS},
    **{f"text {text[:12]!r}": orjson.dumps(text) for text in _TEXTS},
    "lone surrogate": b'"\\ud800"',
    "bad escape": b'"\\x"',
    "null": b"null",
    "true": b"true",
    "empty list": b"[]",
    "empty object": b"{}",
    "list of null": b"[null]",
    "list of lists": b"[[[]],[]]",
    "list of numbers": b"[1e308,-1,9223372036854775808]",
    "list of texts": b'["","a"]',
    "object": b'{"":{"a":[]}}',
    "deep lists": b"[" * 150 + b"]" * 150,
    "deep objects": b'{"a":' * 150 + b"1" + b"}" * 150,
    "deeper than allowed": b"[" * 5000 + b"]" * 5000,
}


def sample(schema: Schema) -> Any:
    """A value that is valid."""
    if schema.get("examples"):
        return schema["examples"][0]
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    kinds = schema.get("type", "string")
    kind = kinds if isinstance(kinds, str) else kinds[0]
    found = {"string": "a", "integer": 1, "number": 1.0, "boolean": True, "null": None, "array": []}
    return found[kind] if kind in found else {name: sample(schema["properties"][name]) for name in schema.get("required", ())}


def places(schema: Schema, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """(path, a value in which that path exists) of all values inside a schema, the value itself first. 0 is the first item of a list."""
    yield path, None
    if len(path) > MAX_DEPTH:
        return
    for name, inner in schema.get("properties", {}).items():
        for below, value in places(inner):
            whole = {**sample({**schema, "type": "object"}), **({name: value} if below else {})}
            yield (*path, name, *below), whole
    if "items" in schema:
        for below, value in places(schema["items"]):
            yield (*path, 0, *below), [value if below else None]


def put(value: Any, path: tuple[str | int, ...], raw: bytes) -> Any:
    """A copy with these bytes at the path."""
    if not path:
        return orjson.Fragment(raw)
    head, *rest = path
    if isinstance(head, int):
        return [put(value[0], tuple(rest), raw)]
    return {**value, head: put(value.get(head), tuple(rest), raw)}


def cases(schema: Schema, example: Any) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """(field, its bodies with the name of each value)."""
    for path, value in places(schema):
        if not path:
            continue
        whole = {**example, **value} if isinstance(value, dict) and isinstance(example, dict) else value
        bodies = [(name, orjson.dumps(put(whole, path, raw))) for name, raw in VALUES.items()]
        yield "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix("."), bodies
