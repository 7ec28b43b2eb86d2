"""Request bodies: what orjson refuses we refuse, and what we take means the same."""

from typing import Any

import orjson

from fastrouter._core import RequestParser
from fastrouter.api.requests.bodies import parse_json
from fastrouter.errors import InvalidRequest


def check(data: bytes) -> None:
    (request,) = RequestParser().feed(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    try:
        found = parse_json(request)
    except InvalidRequest:
        return
    assert _plain(found) == orjson.loads(data)


def _plain(value: Any) -> Any:
    """With its lists of ids as lists."""
    return orjson.loads(orjson.dumps(value))
