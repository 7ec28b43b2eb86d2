"""/cors-proxy through a real router: only configured servers are reached, nothing of the caller or of this origin goes along."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import Router, StartRouter


class Upstream(BaseHTTPRequestHandler):
    """Remembers what came, and answers as the path says."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, dict[str, str], bytes]]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        type(self).seen.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        path = self.path.partition("?")[0].strip("/")
        {
            "events": self.events,
            "empty": self.empty,
            "redirect": self.redirect,
            "cut": self.cut,
            "huge": self.huge,
            "nonsense": self.nonsense,
        }.get(path, self.plain)()

    do_POST = do_DELETE = do_GET

    def plain(self) -> None:
        self._reply(
            201, b'{"ok": true}', {"Content-Type": "application/json", "Mcp-Session-Id": "s1", "Set-Cookie": "evil=1", "X-Own": "1"}
        )

    def events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(3):
            event = b'data: {"number": %d}\n\n' % number
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def empty(self) -> None:
        self.send_response(204)
        self.end_headers()

    def redirect(self) -> None:
        self._reply(307, b"", {"Location": "http://169.254.169.254/latest"})

    def cut(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")

    def nonsense(self) -> None:
        self.close_connection = True
        self.wfile.write(b"\x00\x01 this is not HTTP\r\n\r\n")

    def huge(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(40):
                self.wfile.write(b"x" * (1 << 20))
        except OSError:
            pass  # the router has had enough

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def upstream() -> Iterator[ThreadingHTTPServer]:
    Upstream.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def server(module_router: StartRouter, upstream: ThreadingHTTPServer, tmp_path_factory: pytest.TempPathFactory) -> Router:
    config = tmp_path_factory.mktemp("proxy") / "mcp.json"
    servers = {"here": {"url": f"http://127.0.0.1:{upstream.server_port}/mcp", "headers": {"X-Configured": "secret"}}}
    config.write_text(json.dumps({"mcpServers": {**servers, "dead": {"url": "http://127.0.0.1:9/mcp"}}}))
    return module_router("--mcp-servers-config", str(config), "--ui-mcp-proxy", "--api-key", "the-key", is_fake=True)


KEY = {"Authorization": "Bearer the-key"}


def ask(server: Router, url: str, method: str = "GET", body: Any = None, **headers: str) -> Any:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.request(method, f"/cors-proxy?url={quote(url, safe='')}", body, {**KEY, **more})


def at(upstream: ThreadingHTTPServer, path: str) -> str:
    return f"http://127.0.0.1:{upstream.server_port}/{path}"


def test_a_request_and_its_answer(server: Router, upstream: ThreadingHTTPServer) -> None:
    answer = ask(server, at(upstream, "mcp?a=b%20c"), "POST", {"jsonrpc": "2.0"})
    assert (answer.status, answer.json) == (201, {"ok": True})
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Mcp-Session-Id"] == "s1"
    assert answer.headers["Set-Cookie"] is answer.headers["X-Own"] is None
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    method, path, headers, body = Upstream.seen[-1]
    assert (method, path, json.loads(body)) == ("POST", "/mcp?a=b%20c", {"jsonrpc": "2.0"})
    assert headers["host"] == f"127.0.0.1:{upstream.server_port}"
    assert server.get("/props", KEY).json["cors_proxy_enabled"] is True


def test_only_marked_headers_go_along(server: Router, upstream: ThreadingHTTPServer) -> None:
    more = {
        "Cookie": "session=secret",
        "Proxy-Authorization": "Basic secret",
        "x-llama-server-proxy-header-accept": "application/json",
        "x-llama-server-proxy-header-authorization": "Bearer explicit",
        "x-llama-server-proxy-header-host": "evil.example",
        "x-llama-server-proxy-header-content-length": "7",
        "X-Llama-Server-Proxy-Header-Transfer-Encoding": "chunked",
    }
    assert ask(server, at(upstream, "mcp"), **more).status == 201
    headers = Upstream.seen[-1][2]
    assert (headers["accept"], headers["authorization"]) == ("application/json", "Bearer explicit")
    assert headers["host"] == f"127.0.0.1:{upstream.server_port}"
    assert "the-key" not in str(headers)
    assert not {"cookie", "proxy-authorization", "x-api-key", "transfer-encoding", "x-configured"} & set(headers)


def test_events_and_other_answers(server: Router, upstream: ThreadingHTTPServer) -> None:
    answer = ask(server, at(upstream, "events"))
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.body == b"".join(b'data: {"number": %d}\n\n' % number for number in range(3))
    assert (ask(server, at(upstream, "empty"), "POST", {}).status, ask(server, at(upstream, "empty")).body) == (204, b"")
    num = len(Upstream.seen)
    assert ask(server, at(upstream, "mcp"), "DELETE").status == 200
    assert len(Upstream.seen) == num


def test_a_redirect_is_not_followed(server: Router, upstream: ThreadingHTTPServer) -> None:
    answer = ask(server, at(upstream, "redirect"))
    assert (answer.status, answer.headers["Location"]) == (307, None)


@pytest.mark.parametrize("path", ["cut", "nonsense", "huge"])
def test_an_answer_that_is_none(server: Router, upstream: ThreadingHTTPServer, path: str) -> None:
    answer = ask(server, at(upstream, path))
    assert answer.status == 502
    assert "cannot be read" in answer.error["message"]


def test_a_server_that_is_not_there(server: Router) -> None:
    answer = ask(server, "http://127.0.0.1:9/mcp")
    assert (answer.status, "cannot be reached" in answer.error["message"]) == (502, True)


@pytest.mark.parametrize(
    "url",
    [
        *("not-a-url", "ftp://example.com/", "http://@example.com/", "http://example.com:not-a-port/", "http://example.com:65536/"),
        *("http://[::1", "http://[::1]suffix/", "http://user@example.com/", "http://user:password@example.com/", "http://10.0.0.1:1/"),
        *("http://127.0.0.1:1/", "http://169.254.169.254/", "http://[::1]:1/", "http://[::ffff:127.0.0.1]:1/", "http://example.com/"),
        *(
            "http://metadata.google.internal/",
            "file:///etc/passwd",
            "http://2130706433:9/",
            "http://127.0.0.1.:9/x y",
            "http://127.1:9/",
            "",
        ),
        *(
            "http://127.0.0.1:9\r\nX: y/",
            "http://localhost:9/",
            "https://127.0.0.1:9/",
            "http://127.0.0.1:9@example.com/",
            "//127.0.0.1:9/",
        ),
    ],
)
def test_all_other_places_are_refused(server: Router, url: str) -> None:
    answer = ask(server, url)
    assert (answer.status, answer.error["message"][:3]) in ((400, "url"), (400, "the"))


def test_who_may_use_it(server: Router, upstream: ThreadingHTTPServer) -> None:
    num = len(Upstream.seen)
    path = f"/cors-proxy?url={quote(at(upstream, 'mcp'), safe='')}"
    assert server.get(path).status == 401
    assert server.get(path, {**KEY, "Origin": "https://evil.example"}).status == 403
    assert len(Upstream.seen) == num


def test_a_read_only_key_may_not(router: StartRouter, tmp_path: Path, upstream: ThreadingHTTPServer) -> None:
    (tmp_path / "keys").write_text("all\nlook read-only\n")
    servers = json.dumps({"mcpServers": {"here": {"url": at(upstream, "mcp")}}})
    server = router("--mcp-servers-json", servers, "--ui-mcp-proxy", "--api-key-file", str(tmp_path / "keys"), is_fake=True)
    path = f"/cors-proxy?url={quote(at(upstream, 'mcp'), safe='')}"
    assert server.get(path, {"X-Api-Key": "look"}).status == 403
    assert server.get(path, {"X-Api-Key": "all"}).status == 201
