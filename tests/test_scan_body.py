"""scan_body never disagrees with orjson."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastrouter._core import scan_body


def expected(body: bytes) -> tuple[str | None, bool]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None, False
    if not isinstance(value, dict):
        return None, False
    model = value.get("model")
    return (model if isinstance(model, str) else None), value.get("stream") is True


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12)
keys = st.sampled_from(["model", "stream", "messages", "mode", "models", "m\\odel", '"']) | st.text(max_size=4)
objects = st.dictionaries(keys, values | st.sampled_from(["x", "müller", True, False]), max_size=6)


@settings(max_examples=800, deadline=None)
@given(objects, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_valid_documents(value: dict[str, Any], is_ascii: bool, indent: Any) -> None:
    body = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode("utf-8", "surrogatepass")
    assert scan_body(body) == expected(body)


@settings(max_examples=1500, deadline=None)
@given(objects, st.data())
def test_damaged_documents(value: dict[str, Any], data: st.DataObject) -> None:
    body = bytearray(json.dumps({"model": "x", **value, "stream": True}), "utf-8")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        tokens = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u", b"0", b"-", b".", b"e9", b"\x00", b"\xff", b" ", b"\xed\xa0\x80"]
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(tokens) | st.binary(max_size=2))
    assert scan_body(bytes(body)) == expected(bytes(body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b" { } ",
        b"[]",
        b'"model"',
        b'{"model":"a","model":"b"}',
        b'{"model":"a","model":null}',
        b'{"stream":true,"stream":false}',
        b'{"m\\u006fdel":"a"}',
        b'{"model":"\\ud83d\\ude00"}',
        b'{"model":"\\ud83d"}',
        b'{"model":"a"} x',
        b'{"model":"a",}',
        b'{"model":"a"',
        b'{"a":01,"model":"x"}',
        b'{"a":1e999,"model":"x"}',
        b'{"a":123456789012345678901234567890,"model":"x"}',
        b'{"a":-0,"b":1.5E+3,"model":"x"}',
        b'{"a":NaN,"model":"x"}',
        b'{"a":' + b"[" * 500 + b"]" * 500 + b',"model":"x"}',
        b'{"a":' + b"[" * 2000 + b"]" * 2000 + b',"model":"x"}',
        b"[" * 100_000,
        b'\xef\xbb\xbf{"model":"x"}',
        '{"model":"ü","stream":true}'.encode(),
        b'{"a":{"model":"inner"},"stream":1}',
    ],
    ids=lambda body: repr(body)[:40],
)
def test_corner_cases(body: bytes) -> None:
    assert scan_body(body) == expected(body)


@settings(max_examples=500)
@given(st.binary(max_size=40))
@example(b'{"a":tru}')
def test_anything_at_all(body: bytes) -> None:
    assert scan_body(body) == expected(body)
