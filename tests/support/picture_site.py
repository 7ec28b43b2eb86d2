"""A real HTTP server on this machine with pictures, and with what a server may do to its client. Uses nothing of fastrouter."""

import contextlib
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class PictureSite(ThreadingHTTPServer):
    """`answers`: by path: the content, (status, headers, content), or a function of the handler."""

    daemon_threads = True

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.heads: list[tuple[str, dict[str, str]]] = []  # of all requests: the path, the headers in small letters
        self.port: int = self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PictureSite

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.heads.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        answer = self.server.answers.get(self.path, (404, {"Content-Type": "text/plain"}, b"no"))
        if callable(answer):
            answer(self)
            return
        status, headers, content = answer if isinstance(answer, tuple) else (200, {"Content-Type": "image/png"}, answer)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def redirect(to: str, status: int = 302) -> tuple[int, dict[str, str], bytes]:
    return status, {"Location": to}, b""


def chunked(content: bytes, *, is_cut: bool = False) -> Any:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(content), 100):
            piece = content[start : start + 100]
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if not is_cut:
            handler.wfile.write(b"0\r\n\r\n")

    return answer


def until_close(content: bytes) -> Any:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + content)

    return answer


def endless(piece: bytes = bytes(1 << 16)) -> Any:
    """Without a length."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(piece)

    return answer


def slow(piece: bytes, pause_s: float) -> Any:
    """A byte now and then: no single read takes long."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        with contextlib.suppress(OSError):
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + piece:
                handler.wfile.write(bytes([byte]))
                time.sleep(pause_s)

    return answer


def raw(content: bytes) -> Any:
    return lambda handler: handler.wfile.write(content)


@contextlib.contextmanager
def picture_site(answers: dict[str, Any], context: ssl.SSLContext | None = None) -> Iterator[PictureSite]:
    """`context`: it speaks TLS."""
    site = PictureSite(answers)
    if context is not None:
        site.socket = context.wrap_socket(site.socket, server_side=True)
    thread = threading.Thread(target=socketserver.BaseServer.serve_forever, args=(site, 0.02), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        site.server_close()
        thread.join()
