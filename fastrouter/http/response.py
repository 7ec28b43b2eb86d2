"""Whole responses as values. They become bytes when they are sent. Never imports: http.routes, http.connection.

Invariant: a response is rendered once, with all of its header lines. The bytes are not read or changed afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from operator import attrgetter
from typing import Any, NamedTuple

import orjson

from fastrouter.errors import FastrouterError, MethodNotAllowed

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_JSON = b"Content-Type: application/json; charset=utf-8\r\n"
_TEXT = b"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"
_UNBUFFERED = b"Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
SSE_HEADERS = b"Content-Type: text/event-stream\r\n" + _UNBUFFERED
NDJSON_HEADERS = b"Content-Type: application/x-ndjson\r\n" + _UNBUFFERED
CONTINUE = _STATUS_LINES[100] + b"\r\n"


class ErrorShape(NamedTuple):
    """How an API shows an error: the body, and the status where it differs from the error's."""

    body: Callable[[FastrouterError], Any]
    status: Callable[[FastrouterError], int] = attrgetter("status")
    events: tuple[type[FastrouterError], ...] = ()  # a stream sends these as an event, even when it could still send their status
    ends_stream: bool = False  # after an error event a stream ends normally; otherwise it is cut


OPENAI_ERRORS = ErrorShape(FastrouterError.to_json)


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: bytes = b""  # whole lines, each ended by CRLF; Content-Length is added when it is rendered
    body: bytes | memoryview = b""

    def render(self, more: bytes = b"", *, is_head: bool = False) -> bytes:
        """`more`: header lines that depend on the request. `is_head`: the same head without the body, for a HEAD request."""
        lines = more + self.headers
        if self.status not in (HTTPStatus.NOT_MODIFIED, HTTPStatus.NO_CONTENT):
            lines += b"Content-Length: %d\r\n" % len(self.body)
        head = render_head(self.status, lines)
        return head if is_head else head + self.body


@dataclass(frozen=True, slots=True)
class Rendered(Response):
    """A response for many requests. Its bytes are made in advance, for requests that add no header line."""

    whole: bytes = b""

    @classmethod
    def of(cls, response: Response) -> "Rendered":
        whole = response.render()
        body = memoryview(whole)[len(whole) - len(response.body) :]  # a large body is stored only once
        return cls(response.status, response.headers, body, whole)

    def render(self, more: bytes = b"", *, is_head: bool = False) -> bytes:
        return Response.render(self, more, is_head=is_head) if more or is_head else self.whole


def render_head(status: int, headers: bytes) -> bytes:
    return _STATUS_LINES[status] + headers + b"\r\n"


def json_response(body: bytes, status: int = 200, headers: bytes = b"") -> Response:
    """`body` is JSON already."""
    return Response(status, headers + _JSON, body)


def encode_json(value: Any, status: int = 200) -> Response:
    return json_response(orjson.dumps(value), status)


def text_response(text: str, headers: bytes = b"") -> Response:
    return Response(200, headers + _TEXT, text.encode())


def redirect(location: str) -> Response:
    """`location`: a path in ASCII."""
    return Response(308, f"Location: {location}\r\n".encode())


def error_response(error: FastrouterError, shape: ErrorShape = OPENAI_ERRORS, headers: bytes = b"") -> Response:
    if error.retry_after_s is not None:
        headers += b"Retry-After: %d\r\n" % error.retry_after_s
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers += b"WWW-Authenticate: Bearer\r\n"
    if isinstance(error, MethodNotAllowed):
        headers += b"Allow: %b\r\n" % error.allow.encode()
    return json_response(orjson.dumps(shape.body(error)), shape.status(error), headers)


def refusal(status: int, message: str) -> Response:
    """The answer to bytes that are not acceptable HTTP. The connection closes after it."""
    kind = "not_supported_error" if status in (501, 505) else "unavailable_error" if status == 503 else "invalid_request_error"
    body = orjson.dumps({"error": {"code": status, "message": message, "type": kind}})
    return json_response(body, status, b"Connection: close\r\n" + (b"Retry-After: 1\r\n" if status == 503 else b""))
