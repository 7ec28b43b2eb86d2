"""Bodies: bytes become JSON, or are refused before any object is made from them."""

import asyncio
import gc
import json
import weakref
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrouter._core import FINISH, LAST, Request, RequestParser, scan_json
from fastrouter.api.requests.bodies import MAX_DEPTH, MAX_ID_LISTS, MAX_VALUES, Ids, parse_json, parse_large, parse_object, parse_optional
from fastrouter.api.requests.checks import duration, token_ids
from fastrouter.api.requests.fields import Ask, read_completion
from fastrouter.api.serving.whole import Whole
from fastrouter.errors import InvalidRequest
from fastrouter.ipc.messages import Call, Generate
from fastrouter.ipc.wire import encode


def request_of(body: bytes) -> Request:
    [request] = RequestParser().feed(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return request


def plain(value: Any) -> Any:
    """The body with lists of ids that stayed text, as a worker gets them."""
    return orjson.loads(orjson.dumps(value))


def num_values(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(num_values, value.values()))
    return 1 + (sum(map(num_values, value)) if isinstance(value, list) else 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8) | st.just("prompt"), inner, max_size=4),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(json_values, st.sampled_from([None, 1]), st.booleans())
def test_values_are_counted(value: Any, indent: int | None, is_ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    count = num_values(value)
    assert scan_json(text, b"\0\0", max_values=count, max_depth=100) == []
    with pytest.raises(InvalidRequest, match=f"more than {count - 1} values"):
        scan_json(text, b"\0\0", max_values=count - 1, max_depth=100)


IDS = list(range(0, 4000, 7))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ({"prompt": IDS}, 1),
        ({"n": 1, "input": [IDS, "text", IDS], "tokens": IDS}, 3),
        ({"prompt": [IDS, [1, 2]]}, 1),
        ({"prompt": IDS[:31]}, 0),
        ({"prompt": [*IDS, "text"]}, 0),
        ({"prompt": [*IDS, -1]}, 0),
        ({"prompt": [*IDS, 1 << 31]}, 0),
        ({"prompt": [*IDS, (1 << 31) - 1]}, 1),
        ({"prompt": [*IDS, 1.5]}, 0),
        ({"prompt": [[IDS]]}, 0),
        ({"prompt": {"tokens": IDS}}, 0),
        ({"other": IDS, "x": {"prompt": IDS}, "y": [{"tokens": IDS}]}, 0),
        ({'"prompt': IDS, "a": 'x", "prompt": [', "prompt\\": IDS}, 0),
    ],
)
def test_long_lists_of_ids_stay_text(body: dict[str, Any], kept: int, indent: int | None) -> None:
    text = json.dumps(body, indent=indent).encode()
    spans = scan_json(text, b"prompt\0input\0tokens\0\0", max_values=10**6, max_depth=9)
    assert len(spans) == kept
    assert all(orjson.loads(text[start:end])[:31] == IDS[:31] for start, end in spans)
    parsed = parse_object(request_of(text))
    assert plain(parsed) == body
    assert str(parsed).count("Fragment") == kept


@pytest.mark.parametrize("tail", [b"01]", b"1,]", b"1", b",1]", b"1 1]", b"+1]", b"1]]", b"1},"])
def test_broken_lists_of_ids_are_no_json(tail: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not valid JSON"):
        parse_object(request_of(b'{"prompt":[' + b"1," * 100 + tail + b"}"))


def test_ids_go_through_to_a_worker() -> None:
    """A field that takes ids also takes them as text."""
    body = parse_object(request_of(json.dumps({"prompt": [IDS, "a"], "tokens": IDS}).encode()))
    prompts = [generate.prompt for generate in read_completion(body).generates]
    assert plain(prompts) == [IDS, "a"]
    frame = encode(Call(1, "detokenize", {"tokens": token_ids("tokens", body["tokens"])}))
    assert json.loads(frame[4:])["params"]["tokens"] == IDS


def test_what_ids_could_be_mistaken_for() -> None:
    """A client's text is never read as a list of ids."""
    first = parse_object(request_of(json.dumps({"prompt": IDS, "content": "x 0"}).encode()))
    assert isinstance(first["prompt"], Ids)
    assert first["content"] == "x 0"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"1",
        b"null",
        b'"x"',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b"[" * 100_000,
        b"\xff",
        b'{"a":1}x',
        b"\0",
        b'"',
    ],
)
def test_bad_json(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="the body"):
        parse_object(request_of(body))


def test_an_empty_body_says_what_to_send() -> None:
    with pytest.raises(InvalidRequest, match="the request body is empty; send a JSON object"):
        parse_object(request_of(b""))
    assert parse_optional(request_of(b"")) == {}


@pytest.mark.parametrize(
    ("piece", "count"),
    [
        (b"[]", MAX_VALUES),
        (b"{}", MAX_VALUES),
        (b"1", MAX_VALUES),
        (b'""', MAX_VALUES),
        (b"null", MAX_VALUES),
        (b'{"a":1}', MAX_VALUES // 3),
    ],
)
def test_a_body_of_too_many_values(piece: bytes, count: int) -> None:
    with pytest.raises(InvalidRequest, match=f"more than {MAX_VALUES} values"):
        parse_object(request_of(b'{"x":[' + b",".join([piece] * count) + b"]}"))
    parse_object(request_of(b'{"x":[' + b",".join([piece] * (count - 4)) + b"]}"))


def test_a_number_of_a_million_digits_is_not_read() -> None:
    for text in (b"1" * 1025, b"-1." + b"1" * 1_000_000, b"1e" + b"1" * 2000):
        with pytest.raises(InvalidRequest, match="a number of more than 1024 characters"):
            parse_object(request_of(b'{"x":%b}' % text))
    assert parse_object(request_of(b'{"x":1.%b}' % (b"0" * 1000))) == {"x": 1.0}


def test_a_body_of_too_many_escapes_is_not_read() -> None:
    """Each escape costs as much as many plain characters."""
    with pytest.raises(InvalidRequest, match="more than 1500000 backslashes"):
        parse_object(request_of(b'{"x":"%b"}' % (b"\\n" * 1_500_001)))
    assert parse_object(request_of(b'{"x":"%b"}' % (b"\\n" * 1_500_000))) == {"x": "\n" * 1_500_000}


def test_a_body_of_too_many_lists_of_ids() -> None:
    ids = b"[" + b"7," * 40 + b"7]"
    assert len(parse_object(request_of(b'{"input":[' + b",".join([ids] * MAX_ID_LISTS) + b"]}"))["input"]) == MAX_ID_LISTS
    with pytest.raises(InvalidRequest, match=f"more than {MAX_ID_LISTS} lists of token ids"):
        parse_object(request_of(b'{"input":[' + b",".join([ids] * (MAX_ID_LISTS + 1)) + b"]}"))


def test_depth() -> None:
    parse_object(request_of(b'{"x":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"))
    with pytest.raises(InvalidRequest, match=f"nested deeper than {MAX_DEPTH} levels"):
        parse_object(request_of(b'{"x":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}"))


def test_it_is_parsed_once_and_its_bytes_are_given_back() -> None:
    request = request_of(b'{"model": "a"}')
    assert parse_json(request) is parse_object(request) is parse_optional(request)
    assert (request.body, request.model) == (b"", "a")
    long = request_of(b'{"model": "%s"}' % (b"x" * 5000))
    assert len(parse_object(long)["model"]) == 5000
    assert long.model is None, "nothing repeats such a name"


def test_a_large_body_is_parsed_in_a_thread() -> None:
    request = request_of(json.dumps({"model": "a", "x": "y" * 1_000_000}).encode())
    asyncio.run(parse_large(request))
    assert (request.model, request.body, gc.isenabled()) == ("a", b"", True)
    with pytest.raises(InvalidRequest):
        asyncio.run(parse_large(request_of(b"x" * 1_000_000)))
    assert gc.isenabled()


@pytest.mark.parametrize("text", ["1h" * 100_000 + "x", "1" * 100_000, "1h" * 33])
def test_a_long_duration_is_not_read(text: str) -> None:
    with pytest.raises(InvalidRequest, match="longer than 64 characters"):
        duration("keep_alive", text)


def test_a_whole_answer_leaves_nothing_to_the_collector() -> None:
    """The objects of a request are freed when its answer is over, not at the next collection."""
    exchange: Any = SimpleNamespace(send=lambda response: None)
    timeline: Any = SimpleNamespace(itl=None)
    gc.collect()
    gc.disable()
    try:
        whole = Whole(exchange, Ask([Generate(prompt="x")]), SimpleNamespace(), timeline)  # type: ignore[arg-type]
        sink, alive = whole.sinks()[0], weakref.ref(whole)
        del whole
        assert alive() is None
        sink.on_record(FINISH, 0, LAST, b"{}")  # a late record has no effect
        assert not sink.restart()
    finally:
        gc.enable()


def test_what_is_parsed_can_be_written() -> None:
    """Inside some levels of an answer."""
    value: Any = parse_object(request_of(b'{"x":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"))
    assert orjson.dumps([[[[[[[[value]]]]]]]])
