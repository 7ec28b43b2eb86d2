"""Whole responses as bytes, made once where they can be. Knows no route and no connection.

Invariant: every function returns a complete HTTP/1.1 head; what depends on the request (Connection, CORS) is added by `with_headers`.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

import orjson

from fastrouter.errors import FastrouterError, MethodNotAllowed

_REASONS = {
    200: "OK",
    204: "No Content",
    304: "Not Modified",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
_LINES = {status: f"HTTP/1.1 {status} {reason}\r\n".encode() for status, reason in _REASONS.items()}
_JSON = b"Content-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
_TEXT = b"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: %d\r\n\r\n"
_UNBUFFERED = b"Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + _UNBUFFERED
NDJSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n" + _UNBUFFERED
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ErrorShape(NamedTuple):
    """How an API says an error: the body, and the status where that is not the error's own."""

    body: Callable[[FastrouterError], Any]
    status: Callable[[FastrouterError], int] = attrgetter("status")
    events: tuple[type[FastrouterError], ...] = ()  # a stream says these as an event, even where it could still have their status
    ends_stream: bool = False  # after its error event a stream ends properly; else it is cut


OPENAI_ERRORS = ErrorShape(FastrouterError.to_json)


def json_response(body: bytes, status: int = 200, headers: bytes = b"") -> bytes:
    return _LINES[status] + headers + _JSON % len(body) + body


def encode_json(value: Any, status: int = 200) -> bytes:
    return json_response(orjson.dumps(value), status)


def text_response(text: str) -> bytes:
    body = text.encode()
    return _LINES[200] + _TEXT % len(body) + body


def typed_response(body: bytes, content_type: str) -> bytes:
    return _LINES[200] + b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n" % (content_type.encode(), len(body)) + body


def file_response(body: bytes, headers: bytes) -> bytes:
    """`headers`: whole lines, the content's type among them."""
    return _LINES[200] + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


def not_modified(headers: bytes) -> bytes:
    return _LINES[304] + headers + b"\r\n"


def redirect(location: str) -> bytes:
    """`location`: a path that holds nothing but ASCII."""
    return _LINES[308] + f"Location: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def error_response(error: FastrouterError, shape: ErrorShape = OPENAI_ERRORS) -> bytes:
    headers = b""
    if error.retry_after_s is not None:
        headers = b"Retry-After: %d\r\n" % error.retry_after_s
    if error.status == 401:
        headers += b"WWW-Authenticate: Bearer\r\n"
    if isinstance(error, MethodNotAllowed):
        headers += b"Allow: %b\r\n" % error.allow.encode()
    return json_response(orjson.dumps(shape.body(error)), shape.status(error), headers)


def refusal(status: int, message: str) -> bytes:
    """What a client gets whose bytes were no acceptable HTTP; the connection closes after it."""
    kind = "not_supported_error" if status in (501, 505) else "unavailable_error" if status == 503 else "invalid_request_error"
    body = orjson.dumps({"error": {"code": status, "message": message, "type": kind}})
    headers = b"Connection: close\r\n" + (b"Retry-After: 1\r\n" if status == 503 else b"")
    return json_response(body, status if status in _LINES else 400, headers)


def with_headers(response: bytes, headers: bytes) -> bytes:
    """`response` with more header lines, each ended by CRLF, right after its status line."""
    return response.replace(b"\r\n", b"\r\n" + headers, 1)


def without_body(response: bytes) -> bytes:
    """The answer to HEAD: the same head, Content-Length included."""
    return response[: response.index(b"\r\n\r\n") + 4]
