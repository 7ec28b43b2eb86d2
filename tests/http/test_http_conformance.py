"""Malformed requests, whole, byte by byte and at random places: every one is refused and closes, and nothing after it is read. h11 is the
oracle: what it refuses we refuse, and what we take it reads in the same way. The two exceptions, with their reasons, are in
tests/support/http_oracle.py."""

import asyncio
import random

import pytest
from http_oracle import is_agreed, ours, splits, theirs
from malformed_http import FOLLOWER, chunked, head, malformed
from raw_http import Site, run, serving

MALFORMED = malformed()
CLOSING = head(b"GET / HTTP/1.0", host=b"")
GOOD = (
    FOLLOWER,
    head(b"GET / HTTP/1.0", b"Connection: keep-alive"),
    head(b"POST /a HTTP/1.1", b"Content-Length: 3") + b"abc",
    head(b"POST /a HTTP/1.1", b"content-length:\t003 ") + b"abc",
    head(b"POST /a HTTP/1.1", b"Content-Length: 0"),
    head(b"PUT http://localhost/x?y HTTP/1.1", b"A:", b"B: \t x \t", b"Accept: */*"),
    head(b"OPTIONS * HTTP/1.1", b"A!#$%&'*+-.^_`|~0: \xe2\x82\xac"),
    head(b"TRACE / HTTP/1.1"),
    chunked(b"0\r\n\r\n"),
    chunked(b'3;x=y\r\nabc\r\n00A;z="q"\r\n0123456789\r\n0\r\nT: 1\r\n\r\n'),
    CLOSING,
)
PIECES = (
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b";", b"0", b"1", b"3", b"\0", b"a", b"%", b"\xff", b"\r\n\r\n", b"HTTP/1.0"),
    *(b"chunked", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"Host: x\r\n", b"Connection: close\r\n", b"0\r\n\r\n"),
)


def test_there_are_enough() -> None:
    assert len(MALFORMED) >= 300


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_every_malformed_request_is_refused_however_it_is_split(data: bytes) -> None:
    first, *others = {ours(pieces) for pieces in splits(data + FOLLOWER)}
    assert not others
    assert first.requests == ()
    assert first.status in (400, 413, 414, 417, 431, 501, 505)


@pytest.mark.parametrize("data", [*GOOD, *(data * 3 for data in GOOD if data is not CLOSING), *(data + FOLLOWER for data in GOOD[:-1])])
def test_good_requests_are_read_as_h11_reads_them(data: bytes) -> None:
    expected = theirs(data)
    assert expected.status is None
    assert expected.requests
    assert {ours(pieces) for pieces in splits(data)} == {expected}


@pytest.mark.parametrize("seed", range(4))
def test_changed_requests_are_refused_or_read_as_h11_reads_them(seed: int) -> None:
    source = random.Random(seed)
    taken = 0
    for _ in range(2000):
        data = bytearray(b"".join(source.choices(GOOD, k=source.randrange(1, 4))))
        for _ in range(source.choice((1, 1, 2, 3))):
            at = source.randrange(len(data))
            data[at : at + source.choice((0, 0, 1, 2, 5))] = source.choice(PIECES)
        found = ours([bytes(data)])
        taken += found.status is None
        assert is_agreed(found, bytes(data)), bytes(data)
    assert 100 < taken < 1900, "the changes are too small or too large to say much"


def test_the_blank_before_a_chunk_extension_is_allowed() -> None:
    data = chunked(b"3 \t;x\r\nabc\r\n0\r\n\r\n")
    assert theirs(data).status == 400
    assert ours([data]).requests == (("POST", "/echo", b"abc"),)
    assert is_agreed(ours([data]), data)


async def answers(site: Site, pieces: list[bytes]) -> bytes:
    """All that comes until the server closes its side."""
    reader, writer = await site.connect()
    answer = asyncio.ensure_future(reader.read())
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0)
    try:
        return await answer
    finally:
        writer.close()


@pytest.mark.parametrize("way", [0, 1, 2], ids=["whole", "bytes", "random"])
def test_every_refusal_is_one_answer_and_closes(way: int) -> None:
    async def scenario() -> None:
        async with serving() as site:
            for name, data in MALFORMED.items():
                found = await answers(site, list(splits(data + FOLLOWER, count=1, max_single=1 << 20))[way])
                answer_head, _, body = found.partition(b"\r\n\r\n")
                assert answer_head.split()[1] in (b"400", b"413", b"414", b"417", b"431", b"501", b"505"), name
                assert b"\r\nConnection: close" in answer_head, name
                assert answer_head.endswith(b"Content-Length: %d" % len(body)), f"a second answer to {name}"

    run(scenario())
