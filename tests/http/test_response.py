"""Responses as values: their bytes, and that they are rendered only once."""

import json
from collections.abc import Callable
from http import HTTPStatus

import pytest
from raw_http import read_answer, request, run, serving

from fastrouter.errors import InvalidApiKey, MethodNotAllowed, RateLimited
from fastrouter.http.response import (
    ErrorShape,
    Rendered,
    Response,
    encode_json,
    error_response,
    redirect,
    refusal,
    render_head,
    text_response,
)
from fastrouter.options.cors import Cors

JSON_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 9\r\n\r\n"


@pytest.mark.parametrize(
    ("response", "rendered"),
    [
        (encode_json({"a": "b"}), JSON_OK + b'{"a":"b"}'),
        (Response(200, b"X: y\r\n", memoryview(b"view")), b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 4\r\n\r\nview"),
        (Response(304, b"ETag: a\r\n"), b"HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n"),
        (redirect("/a/"), b"HTTP/1.1 308 Permanent Redirect\r\nLocation: /a/\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_bytes(response: Response, rendered: bytes) -> None:
    assert response.render() == rendered


@pytest.mark.parametrize("make", [lambda response: response, Rendered.of])
def test_lines_of_the_request_and_head(make: Callable[[Response], Response]) -> None:
    response = make(encode_json({"a": 1}))
    lines = b"Connection: close\r\n"
    with_lines = JSON_OK.replace(b": 9\r\n", b": 7\r\n").replace(b"OK\r\n", b"OK\r\n" + lines)
    assert response.render() == with_lines.replace(lines, b"") + b'{"a":1}'
    assert response.render(lines) == with_lines + b'{"a":1}'
    assert response.render(lines, is_head=True) == with_lines
    assert response.render(is_head=True) == with_lines.replace(lines, b"")
    assert (response.status, bytes(response.body)) == (200, b'{"a":1}')


def test_what_is_made_before_is_given_out_as_it_is() -> None:
    response = Rendered.of(text_response("hello"))
    assert response.render() is response.render()
    assert isinstance(response.body, memoryview)
    assert response.body.obj is response.whole  # the text is stored only once


def test_every_status_has_a_line() -> None:
    for status in HTTPStatus:
        assert render_head(status, b"").startswith(f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode())


def test_errors_bring_their_headers() -> None:
    limited = error_response(RateLimited("enough"), ErrorShape(lambda error: {"own": "shape"}), b"X-Model: m\r\n")
    assert (limited.status, limited.body) == (429, b'{"own":"shape"}')
    assert limited.headers.startswith(b"X-Model: m\r\nRetry-After: ")
    assert b"WWW-Authenticate: Bearer\r\n" in error_response(InvalidApiKey()).headers
    assert b"Allow: GET, HEAD, OPTIONS\r\n" in error_response(MethodNotAllowed({"GET"})).headers
    assert json.loads(bytes(refusal(505, "no").body))["error"] == {"code": 505, "message": "no", "type": "not_supported_error"}


def test_an_answer_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where CORS, HEAD, HTTP/1.0 and errors change its head."""
    rendered = []
    render = Response.render

    def counted(self: Response, more: bytes = b"", *, is_head: bool = False) -> bytes:
        rendered.append(self.status)
        return render(self, more, is_head=is_head)

    async def scenario() -> None:
        async with serving(cors=Cors(origins="*")) as site:
            monkeypatch.setattr(Response, "render", counted)
            reader, writer = await site.connect()
            writer.write(request(Origin="http://a.example") + request("/slow") + request("/refuse") + request("/nothing", "OPTIONS"))
            answers = [await read_answer(reader) for _ in range(4)]
            assert [status for status, _, _ in answers] == rendered == [200, 200, 400, 200]
            assert answers[0][1]["access-control-allow-origin"] == "http://a.example"
            writer.write(request("/json", "HEAD", version="1.0", Connection="keep-alive"))
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"Connection: keep-alive\r\n" in head
            assert b"Content-Length: 16\r\n" in head
            writer.write(b"\x16 this is TLS")
            assert (await read_answer(reader))[0] == 400
            assert rendered == [200, 200, 400, 200, 200, 400]
            writer.close()

    run(scenario())
