"""Bytes in, requests or one refusal out: the same as a whole, byte by byte, and in random pieces."""

import gc
import random
from collections import deque
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrouter._core import HttpError, RequestParser
from fastrouter.errors import NotFound

Result = tuple[list[tuple[Any, ...]], int | None]
HOST = b"Host: localhost\r\n"


def outcome(pieces: list[bytes], **limits: int) -> Result:
    """([requests], status of the refusal or None)"""
    parser = RequestParser(**limits)
    found: list[tuple[Any, ...]] = []
    status = None
    for piece in pieces:
        try:
            requests = parser.feed(piece)
        except HttpError as error:
            status = error.status
            break
        found += [(r.method, r.target, r.path, r.query, r.body, r.keep_alive, r.http_minor, tuple(r.headers())) for r in requests]
        if parser.error is not None:
            status = parser.error.status
            break
    return found, status


def every_way(data: bytes, **limits: int) -> Result:
    """The outcome, checked to be the same for every split."""
    whole = outcome([data], **limits)
    if len(data) < 5000:
        assert outcome([data[i : i + 1] for i in range(len(data))], **limits) == whole
    source = random.Random(len(data))
    for _ in range(8):
        cuts = sorted(source.randrange(len(data) + 1) for _ in range(source.randrange(1, 6)))
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        assert outcome(pieces, **limits) == whole, cuts
    return whole


def get(line: bytes = b"GET /health HTTP/1.1", fields: bytes = HOST) -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


def post(body: bytes, fields: bytes = b"") -> bytes:
    return b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n" % len(body) + fields + b"\r\n" + body


def chunked(body: bytes, line: bytes = b"POST /x HTTP/1.1") -> bytes:
    return line + b"\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + body


def test_a_plain_get() -> None:
    (request,), status = every_way(get(b"GET /a%20b?x=%201 HTTP/1.1", HOST + b"X-One: 1\r\nx-one:  2 \r\n"))
    assert status is None
    assert request[:7] == ("GET", "/a%20b?x=%201", "/a b", "x=%201", b"", True, 1)
    assert request[7] == (("host", "localhost"), ("x-one", "1"), ("x-one", "2"))


def test_repeated_fields_are_joined() -> None:
    (request,) = RequestParser().feed(get(fields=HOST + b"A: 1\r\nA: 2\r\n"))
    assert (request.header("a"), request.header("b")) == ("1, 2", None)


@pytest.mark.parametrize(
    ("line", "fields", "keeps"),
    [
        (b"GET / HTTP/1.1", HOST, True),
        (b"GET / HTTP/1.1", HOST + b"Connection: close\r\n", False),
        (b"GET / HTTP/1.0", b"", False),
        (b"GET / HTTP/1.0", b"Connection: keep-alive\r\n", True),
    ],
)
def test_keep_alive(line: bytes, fields: bytes, keeps: bool) -> None:
    (request,), status = every_way(get(line, fields))
    assert (request[5], status) == (keeps, None)


def test_bodies_of_both_kinds() -> None:
    assert every_way(post(b"hello"))[0][0][4] == b"hello"
    assert every_way(chunked(b"5\r\nhello\r\n1;a=b\r\n!\r\n0\r\nTrailer: x\r\n\r\n"))[0][0][4] == b"hello!"
    assert every_way(post(b""))[0][0][4] == b""


def test_pipelined_requests_keep_their_order() -> None:
    data = get(b"GET /1 HTTP/1.1") + post(b"two") + chunked(b"1\r\n3\r\n0\r\n\r\n") + get(b"GET /4 HTTP/1.1")
    requests, status = every_way(data)
    assert [request[1] for request in requests] == ["/1", "/x", "/x", "/4"]
    assert [request[4] for request in requests] == [b"", b"two", b"3", b""]
    assert status is None


def test_one_empty_line_before_a_request_line_is_tolerated() -> None:
    assert every_way(b"\r\n" + get()) == every_way(get())
    requests, status = every_way(get(b"GET /1 HTTP/1.1") + b"\r\n" + post(b"two") + b"\r\n" + get(b"GET /3 HTTP/1.1"))
    assert ([request[1] for request in requests], status) == (["/1", "/x", "/3"], None)
    parser = RequestParser()
    assert parser.feed(b"\r\n") == []
    assert parser.is_idle  # it is not a request that has begun: nothing waits for the rest of it


def test_good_requests_before_a_bad_one_are_delivered() -> None:
    requests, status = every_way(get() + post(b"x") + b"GET / HTTP/3.0\r\n" + HOST + b"\r\n" + get())
    assert ([request[0] for request in requests], status) == (["GET", "POST"], 505)


def test_after_a_refusal_everything_is_refused() -> None:
    parser = RequestParser()
    for _ in range(2):
        with pytest.raises(HttpError):
            parser.feed(b"\x16\x03\x01")
    with pytest.raises(HttpError):
        parser.feed(get())


REFUSED = [
    (400, get(fields=HOST + b"Host: other\r\n")),
    (400, get(fields=b"")),
    (400, b"GET /\r\n\r\n"),
    (505, get(b"GET / HTTP/2.0")),
    (505, get(b"GET / HTTP/0.9")),
    (505, get(b"GET / HTTP/1.2")),
    (400, b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (413, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 18446744073709551615\r\n\r\n"),
    (413, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n1"),
    (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (501, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    (400, get(b"GET http://evil.example/ HTTP/1.1")),
    (400, get(b"GET relative HTTP/1.1")),
    (501, get(b"CONNECT localhost:80 HTTP/1.1")),
    (501, get(fields=HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n")),
    (501, get(fields=HOST + b"Upgrade: h2c\r\n")),
    (417, get(fields=HOST + b"Expect: coffee\r\n")),
    (400, b"GET / HTTP/1.1\nHost: localhost\n\n"),
    (400, get(fields=HOST + b"A: 1\r\n folded\r\n")),
    (400, get(fields=HOST + b"No colon\r\n")),
    (400, get(fields=HOST + b"Spa ce: 1\r\n")),
    (400, get(fields=HOST + b"A: \x00\r\n")),
    (400, get(fields=HOST + b"A : 1\r\n")),
    (400, get(fields=HOST + b": 1\r\n")),
    (400, get(fields=HOST + b"A: 1\rB: 2\r\n")),
    (400, get(fields=HOST + b"Content-Length: 5,5\r\n")),
    (400, get(fields=HOST + b"Content-Length: +5\r\n")),
    (400, get(fields=HOST + b"Content-Length:\r\n")),
    (400, get(fields=HOST + b"Transfer-Encoding:\r\n")),
    (400, get(fields=HOST + b"Transfer-Encoding: \x0bchunked\r\n")),
    (400, get(fields=HOST + b"Transfer-Encoding: xchunked\r\n")),
    (400, get(b"GET\t/ HTTP/1.1")),
    (400, get(b"get / HTTP/1.1")),
    (400, get(b"GET /a b HTTP/1.1")),
    (400, get(b"GET  / HTTP/1.1")),
    (400, get(b"GET /  HTTP/1.1")),
    (400, get(b"GET / \tHTTP/1.1")),
    (400, get(b"GET /\t HTTP/1.1")),
    (400, get(b"GET /\ta HTTP/1.1")),
    (400, get(b"GET /\x0ba HTTP/1.1")),
    (400, get(b"GET /\x0c HTTP/1.1")),
    (400, get(b"GET /\x00 HTTP/1.1")),
    (400, get(b"GET /\x7f HTTP/1.1")),
    (400, get(b"GET /\xa0 HTTP/1.1")),
    (400, get(b"GET / HTTP/1.1 ")),
    (400, get(b"GET HTTP/1.1")),
    (400, get(b"GET /\ra HTTP/1.1")),
    (400, get(fields=HOST + b"A\t: 1\r\n")),
    (400, get(fields=HOST + b"A\x0b: 1\r\n")),
    (400, get(b"GET / RTSP/1.0")),
    (400, get(b"GET https://localhost/ HTTP/1.1")),
    (400, get(b"GET http://user@localhost/ HTTP/1.1")),
    (400, get(b"GET * HTTP/1.1")),
    (505, get(b"PRI * HTTP/2.0")),
    (501, get(b"M-SEARCH / HTTP/1.1")),
    (400, chunked(b"+1\r\nx\r\n")),
    (400, chunked(b"1_0\r\nx\r\n")),
    (400, chunked(b"1 \r\nx\r\n")),
    (400, chunked(b"0;a\nb\r\n\r\n")),
    (400, chunked(b"1;" + b"x" * 10_000_000)),
    (431, chunked(b"0\r\n" + b"T: 1\r\n" * 1_000_000)),
    (400, b"\x16\x03\x01\x02\x00"),
    (400, b"\r\n\r\n" + get()),
    (400, b"\n" + get()),
    (400, b"\rGET / HTTP/1.1\r\n" + HOST + b"\r\n"),
    (400, b"\r\r\n" + get()),
    (400, get("GET /ü HTTP/1.1".encode())),
    (400, chunked(b"-1\r\nx\r\n")),
    (400, chunked(b"0x1\r\nx\r\n")),
    (400, chunked(b"\r\n\r\n")),
    (400, chunked(b"5\r\nhello!\r\n0\r\n\r\n")),
    (400, chunked(b"5\nhello\r\n0\r\n\r\n")),
    (413, chunked(b"ffffffffffffffff\r\n")),
    (400, chunked(b"fffffffffffffffff\r\n")),
    (400, chunked(b"1;" + b"x" * 2000 + b"\r\n")),
    (400, chunked(b"0\r\nbad trailer\r\n\r\n")),
    (431, chunked(b"0\r\n" + b"T: 1\r\n" * 101 + b"\r\n")),
    (431, chunked(b"0\r\nT: " + b"x" * 9000 + b"\r\n\r\n")),
    (414, b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    (431, get(fields=HOST + b"A: " + b"x" * 9000 + b"\r\n")),
    (431, get(fields=HOST + b"A: 1\r\n" * 100)),
    (431, get(fields=HOST + (b"A: " + b"x" * 8000 + b"\r\n") * 5)),
    (431, get(fields=HOST + b"A: " + b"x" * 10_000_000)),
    (431, get(fields=HOST + b"A: 1\r\n" * 100_000)),
]


@pytest.mark.parametrize(("status", "data"), REFUSED, ids=lambda value: repr(value)[:60])
def test_refusals(status: int, data: bytes) -> None:
    assert every_way(data) == ([], status)


def test_absolute_form_with_the_same_authority_is_fine() -> None:
    (request,), status = every_way(get(b"GET http://localhost/a?b HTTP/1.1"))
    assert (request[2], request[3], status) == ("/a", "b", None)


@pytest.mark.parametrize(("over", "status"), [(0, None), (1, 431)])
def test_limits_are_exact(over: int, status: int | None) -> None:
    line = b"A: " + b"x" * (100 - 5 + over) + b"\r\n"
    assert every_way(get(fields=HOST + line), max_field=100)[1] == status
    fields = HOST + b"A: 1\r\n" * (9 + over)
    assert every_way(get(fields=fields), max_headers=10)[1] == status
    assert every_way(get(), max_head=len(get()) - over)[1] == status


@pytest.mark.parametrize(("over", "status"), [(0, None), (1, 414)])
def test_the_limit_of_the_request_line_is_exact(over: int, status: int | None) -> None:
    line = b"GET /" + b"x" * (100 - 16 + over) + b" HTTP/1.1"
    assert every_way(get(line), max_line=100)[1] == status


def test_limits_of_chunk_lines_and_trailers_are_exact() -> None:
    for over, status in ((0, None), (1, 400)):
        line = b"1;" + b"x" * (50 + 18 - 4 + over) + b"\r\n"
        assert every_way(chunked(line + b"!\r\n0\r\n\r\n"), max_chunk_extension=50)[1] == status
    for over, status in ((0, None), (1, 431)):
        assert every_way(chunked(b"0\r\n" + b"T: 1\r\n" * (8 + over) + b"\r\n"), max_headers=10)[1] == status
        trailers = b"T: " + b"x" * (100 - 5 + over) + b"\r\n\r\n"
        assert every_way(chunked(b"0\r\n" + trailers), max_field=100)[1] == status
        trailers = (b"T: " + b"x" * 45 + b"\r\n") * 3 + b"T: " + b"x" * (45 + over) + b"\r\n\r\n"
        assert every_way(chunked(b"0\r\n" + trailers), max_head=200)[1] == status


def test_nothing_without_an_end_is_kept_for_long() -> None:
    for start in (b"GET /", get(fields=HOST + b"A: ")[:-2], chunked(b"1;"), chunked(b"0\r\nT: ")):
        parser = RequestParser()
        parser.feed(start)
        with pytest.raises(HttpError):
            deque((parser.feed(b"x" * 1000) for _ in range(40)), maxlen=0)


def test_body_limit_is_exact() -> None:
    assert every_way(post(b"x" * 10), max_body=10)[1] is None
    assert every_way(post(b"x" * 11), max_body=10)[1] == 413
    assert every_way(chunked(b"5\r\nhello\r\n5\r\nhello\r\n0\r\n\r\n"), max_body=10)[1] is None
    assert every_way(chunked(b"5\r\nhello\r\n6\r\nhello!\r\n0\r\n\r\n"), max_body=10)[1] == 413


def test_continue_is_asked_for_once() -> None:
    parser = RequestParser()
    data = post(b"hello", b"Expect: 100-continue\r\n")
    owed = []
    for index in range(len(data)):
        parser.feed(data[index : index + 1])
        owed.append(parser.owes_continue)
        parser.owes_continue = False
    assert owed == [index == len(data) - 6 for index in range(len(data))]


def test_idle_and_body_progress() -> None:
    parser = RequestParser()
    assert parser.is_idle
    parser.feed(b"POST /x HT")
    assert not parser.is_idle
    parser.feed(post(b"x" * 100)[10:-50])
    assert (parser.in_body, parser.num_body_bytes) == (True, 50)
    parser.feed(b"x" * 50)
    assert parser.is_idle


def gate(limit: int, denied: Any = None) -> Any:
    """A gate with this answer, and the calls it got."""

    def admit(request: Any, num_bytes: int) -> int:
        admit.asked.append((request.path, num_bytes))  # type: ignore[attr-defined]
        request.denied = denied
        return limit

    admit.asked = []  # type: ignore[attr-defined]
    return admit


@pytest.mark.parametrize("data", [post(b"x" * 9), chunked(b"9\r\nxxxxxxxxx\r\n0\r\n\r\n")])
@pytest.mark.parametrize(("limit", "status"), [(9, None), (8, 413)])
def test_the_gate_limits_a_body(data: bytes, limit: int, status: int | None) -> None:
    parser, ask = RequestParser(), gate(limit)
    found, refused = [], None
    for index in range(len(data)):
        try:
            found += parser.feed(data[index : index + 1], ask)
        except HttpError as error:
            refused = error.status
            break
    if b"chunked" in data:
        assert refused == status
        assert [request.body for request in found] == ([] if status else [b"x" * 9])
    else:  # the gate decides about a length
        assert [request.body for request in found] == [b"x" * 9]
    assert ask.asked == [("/x", -1 if b"chunked" in data else 9)]
    assert RequestParser().feed(get(), ask)[0].path == "/health"
    assert len(ask.asked) == 1, "a request without a body needs no gate"


@pytest.mark.parametrize(
    ("data", "goes_on"),
    [
        (post(b"x" * 65536), True),
        (post(b"x" * 65537), False),
        (chunked(b"1\r\nx\r\n0\r\n\r\n"), False),
        (post(b"x", b"Expect: 100-continue\r\n"), False),
    ],
)
def test_a_denied_body_is_not_kept(data: bytes, goes_on: bool) -> None:
    parser, ask = RequestParser(), gate(0, NotFound("no"))
    half = data.index(b"\r\n\r\n") + 5
    found = parser.feed(data[:half], ask)
    assert len(found) == (not goes_on)
    found += parser.feed(data[half:] + get(), ask)
    assert (found[0].method, found[0].body, found[0].keep_alive) == ("POST", b"", goes_on)
    assert [request.path for request in found[1:]] == (["/health"] if goes_on else [])
    assert (parser.is_ended, parser.owes_continue) == (not goes_on, False)


def test_nothing_is_left_to_the_collector() -> None:
    """A parser and what it has read are freed with the last reference."""
    gc.collect()
    gc.disable()
    try:
        for data in (get(), post(b"x" * 100), post(b"x" * 100)[:-50], get() + b"bad\r\n\r\n", b"bad\r\n\r\n", post(b"x") + get()):
            parser = RequestParser()
            requests: Any = None
            with suppress(HttpError):
                requests = parser.feed(data, gate(100))
            del parser, requests
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert [item for item in gc.garbage if type(item).__module__.startswith(("fastrouter._core", "httptools"))] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


class Taker:
    """A sink."""

    def __init__(self) -> None:
        self.content = b""

    def write(self, data: bytes) -> None:
        self.content += data


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("data", [post(b"x" * 5000), chunked(b"1000\r\n" + b"x" * 4096 + b"\r\n388\r\n" + b"x" * 904 + b"\r\n0\r\n\r\n")])
def test_a_body_for_a_sink(data: bytes, size: int) -> None:
    """It is not limited and not kept here, and the next request of the connection is read as always."""
    parser, taker = RequestParser(max_body=100), Taker()

    def begin(request: Any, num_bytes: int) -> int:
        request.sink = taker
        return 0

    requests: list[Any] = []
    data += get()
    for start in range(0, len(data), size):
        requests += parser.feed(data[start : start + size], begin)
        assert parser.num_held_bytes == 0
    assert [(request.method, request.body, request.sink is taker) for request in requests] == [("POST", b"", True), ("GET", b"", False)]
    assert taker.content == b"x" * 5000
    assert parser.sink is None


def test_a_sink_is_let_go_with_its_connection() -> None:
    parser, taker = RequestParser(), Taker()

    def begin(request: Any, num_bytes: int) -> int:
        request.sink = taker
        return 0

    parser.feed(post(b"x" * 100)[:-50], begin)
    assert parser.sink is taker
    parser.close()
    assert parser.sink is None


SEEDS = [get(), post(b'{"model":"x"}'), chunked(b"5\r\nhello\r\n0\r\nT: 1\r\n\r\n"), get() + post(b"x")]


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_mutations_never_do_anything_but_refuse(seed: bytes, data: st.DataObject) -> None:
    mutated = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(mutated)))
        replacement = data.draw(st.one_of(st.binary(max_size=3), st.sampled_from([b"\r\n", b"\n", b":", b" ", b"\r", b"0", b";"])))
        mutated[position : position + data.draw(st.integers(0, 3))] = replacement
    text = bytes(mutated)
    whole = outcome([text])
    assert outcome([text[i : i + 1] for i in range(len(text))]) == whole
