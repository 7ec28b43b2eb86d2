"""What h11 and our parser find in the same bytes: the requests, and whether the rest was refused."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import h11

from fastrouter._core import HttpError, RequestParser

_BLANKS_BEFORE_EXTENSION = re.compile(rb"(\r\n[0-9a-fA-F]{1,16})[ \t]+;")  # RFC 9112 7.1.1 allows them, h11 refuses them


@dataclass(frozen=True, slots=True)
class Found:
    requests: tuple[tuple[str, str, bytes], ...]  # method, target, body
    status: int | None  # of the refusal


def ours(pieces: Sequence[bytes]) -> Found:
    parser = RequestParser()
    requests: list[tuple[str, str, bytes]] = []
    status = None
    for piece in pieces:
        try:
            requests += [(request.method, request.target, request.body) for request in parser.feed(piece)]
        except HttpError as error:
            status = error.status
        if parser.error is not None:
            status = parser.error.status
        if status is not None:
            break
    return Found(tuple(requests), status)


def theirs(data: bytes) -> Found:
    """Each request with a connection of its own: h11 ends one after a request that says so, our parser leaves that to the server. An empty
    line before a request is removed: h11 refuses it, we read on as RFC 9112 2.2 asks for."""
    requests: list[tuple[str, str, bytes]] = []
    while (data := data.removeprefix(b"\r\n")) and data != b"\r":
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=32 << 10)
        connection.receive_data(data)
        request, body = None, bytearray()
        try:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return Found(tuple(requests), None)
                if isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
        except h11.RemoteProtocolError as error:
            return Found(tuple(requests), error.error_status_hint)
        assert request is not None
        requests.append((request.method.decode("latin-1"), request.target.decode("latin-1"), bytes(body)))
        data = connection.trailing_data[0]
    return Found(tuple(requests), None)


def is_agreed(mine: Found, data: bytes) -> bool:
    """Whether h11 finds all requests that we have found, and what it refuses we have refused too. It may take more than we do."""
    return _covers(theirs(data), mine) or _covers(theirs(_BLANKS_BEFORE_EXTENSION.sub(rb"\1;", data)), mine)


def _covers(other: Found, mine: Found) -> bool:
    is_prefix = mine.requests == other.requests[: len(mine.requests)]
    return is_prefix and (mine.status is not None or other.status is None)


def splits(data: bytes, count: int = 4, max_single: int = 2000) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and at random places, always the same ones for the same bytes."""
    yield [data]
    if len(data) <= max_single:
        yield [data[at : at + 1] for at in range(len(data))]
    source = random.Random(data)
    for _ in range(count):
        cuts = sorted(source.randrange(len(data) + 1) for _ in range(source.randrange(1, 6)))
        yield [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
