"""Hosts, origins and CORS: bytes of a request in, let through or refused out. No socket."""

import pytest

from fastrouter._core import Request, RequestParser
from fastrouter.errors import Forbidden, UnsupportedMediaType
from fastrouter.http.guard import Guard, host_of, is_loopback
from fastrouter.options.cors import Cors

BINDS: dict[str, tuple[str, ...]] = {
    "loopback": ("127.0.0.1", "::1"),
    "public": ("0.0.0.0",),
    "mixed": ("127.0.0.1", "192.168.1.5"),
    "unix": (),
}


def parsed(method: str = "POST", target: str = "/x", version: str = "1.1", **fields: str) -> Request:
    fields = {"Host": "localhost:8080", **fields}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items() if value != "missing")
    (request,) = RequestParser().feed(f"{method} {target} HTTP/{version}\r\n{lines}\r\n".encode("latin-1"))
    return request


def passes(guard: Guard, request: Request) -> bool:
    try:
        guard.check(request)
    except (Forbidden, UnsupportedMediaType):
        return False
    return True


# ---------------------------------------------------------------- hosts

LOCAL_HOSTS = ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:8080", "127.255.0.9:1", "[::1]", "[::1]:8080"]
HOSTILE_HOSTS = [
    *("evil.com", "evil.com:8080", "localhost.evil.com", "localhost.evil.com:8080", "127.0.0.1.evil", "127.0.0.1.evil.com:8080"),
    *("evil.localhost.com", "notlocalhost", "localhost.", "127.0.0.1.", "127.evil.example", "127.0.0.1.nip.io"),
    *("0.0.0.0", "0.0.0.0:8080", "[::]", "[::1%25lo]", "[::1%lo]:8080", "[fe80::1%25eth0]", "[::ffff:10.0.0.1]", "::1"),
    *("localhost@evil.com", "evil.com@localhost", "localhost:80@evil.com", "127.0.0.1:8080@evil.com", "[::1]evil.com", "[::1]@evil.com"),
    *("localhost:evil.com", "localhost:", "localhost:8080:8080", "localhost:999999", "localhost/evil.com", "localhost#evil.com"),
    *("localhost\\evil.com", "local host", "127.0.0.999", "127.0.0", "127.1", "2130706433", "0x7f.0.0.1", "[", "]", "[]", ""),
    *("xn--localhost-", "localhost\xe9", "192.168.1.5", "10.0.0.1:8080"),
]


@pytest.mark.parametrize("host", LOCAL_HOSTS)
@pytest.mark.parametrize("bind", BINDS)
def test_local_hosts_pass_everywhere(bind: str, host: str) -> None:
    assert passes(Guard(None, BINDS[bind]), parsed("GET", Host=host))


@pytest.mark.parametrize("host", HOSTILE_HOSTS)
def test_on_loopback_only_local_hosts_pass(host: str) -> None:
    guard = Guard(None, BINDS["loopback"])
    for method in ("GET", "POST", "DELETE"):
        assert not passes(guard, parsed(method, Host=host)), method
    assert passes(guard, parsed("GET"))


@pytest.mark.parametrize("bind", ["public", "mixed", "unix"])
def test_elsewhere_a_router_cannot_know_its_names(bind: str) -> None:
    for host in ("evil.com", "models.example.com:443", "192.168.1.5:8080"):
        assert passes(Guard(None, BINDS[bind]), parsed("GET", Host=host))


def test_http_1_0_needs_no_host() -> None:
    """No browser leaves it out."""
    assert passes(Guard(None, BINDS["loopback"]), parsed("GET", version="1.0", Host="missing"))


def test_what_is_remembered_of_hosts_is_bounded() -> None:
    guard = Guard(None, BINDS["loopback"])
    for port in range(1000):
        assert passes(guard, parsed("GET", Host=f"localhost:{port}"))
    assert len(guard._accepted_hosts) <= 64


@pytest.mark.parametrize(
    ("allowed", "host", "is_allowed"),
    [
        (("ai.example.com",), "ai.example.com", True),
        (("ai.example.com",), "AI.example.com:8443", True),
        (("AI.example.com:8443", "b.example"), "ai.example.com", True),
        (("ai.example.com", "b.example"), "b.example", True),
        (("ai.example.com",), "evil.example", False),
        (("ai.example.com",), "evil.ai.example.com", False),
        (("ai.example.com",), "localhost", True),
        (("*",), "anything.example", True),
        ((), "ai.example.com", False),
        (("",), "", False),
    ],
)
def test_allowed_hosts(allowed: tuple[str, ...], host: str, is_allowed: bool) -> None:
    assert passes(Guard(None, BINDS["loopback"], None, allowed), parsed("GET", Host=host)) is is_allowed


def test_a_refused_host_is_told_the_flag() -> None:
    with pytest.raises(Forbidden, match=r"\(ai\.example\.com\).* --allowed-hosts ai\.example\.com$"):
        Guard().check(parsed("GET", Host="ai.example.com:80"))
    with pytest.raises(Forbidden, match="--allowed-hosts NAME"):
        Guard().check(parsed("GET", Host="user@evil/x"))


def test_a_name_that_was_bound_passes() -> None:
    assert host_of("[::1]:80") == "[::1]"
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "[::1]")] == [True] * 4
    assert [is_loopback(host) for host in ("127.0.0.256", "127.0.0.1000", "128.0.0.1", "127.0.0.1\n", "", "::")] == [False] * 6


# ---------------------------------------------------------------- origins

LOCAL_ORIGINS = ["http://localhost:3000", "https://localhost", "http://127.0.0.1:5173", "http://[::1]:3000", "http://localhost:8080"]
HOSTILE_ORIGINS = [
    *("http://evil.com", "https://evil.com", "http://evil.com:8080", "null", "", "file://", "http://", "://localhost", "localhost"),
    *("http://localhost.evil.com", "http://127.0.0.1.evil", "http://localhost.", "http://localhost.:8080", "http://127.0.0.1."),
    *(
        "http://localhost@evil.com",
        "http://localhost:80@evil.com",
        "http://[::1]@evil.com",
        "http://[::1%25lo]:8080",
        "http://[::1]evil.com",
    ),
    *("http://localhost:8080.evil.com", "http://localhost:8080/@evil.com", "http://evil.com#localhost", "http://evil.com/localhost"),
    *("tauri://localhost", "evil://localhost:8080", "chrome-extension://localhost", "http://localhost, http://evil.com"),
    *("http://evil.com, http://localhost", "http://evil.com\\localhost", "javascript:localhost", "http:///localhost"),
]


@pytest.mark.parametrize("origin", LOCAL_ORIGINS)
@pytest.mark.parametrize("bind", BINDS)
def test_local_pages_may_ask(bind: str, origin: str) -> None:
    guard = Guard(None, BINDS[bind])
    assert passes(guard, parsed(Origin=origin))
    assert f"Access-Control-Allow-Origin: {origin}\r\n".encode() in guard.cors_headers(origin)


@pytest.mark.parametrize("origin", HOSTILE_ORIGINS)
@pytest.mark.parametrize("bind", BINDS)
def test_foreign_pages_may_change_and_read_nothing(bind: str, origin: str) -> None:
    guard = Guard(None, BINDS[bind])
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert not passes(guard, parsed(method, Origin=origin)), method
    assert not passes(guard, parsed("GET", "/models?reload=1", Origin=origin))
    assert not passes(guard, parsed("GET", "/props?model=big", Origin=origin))
    assert passes(guard, parsed("GET", Origin=origin))  # but it may not read the answer:
    assert guard.cors_headers(origin) == b""


@pytest.mark.parametrize("bind", BINDS)
def test_a_page_of_the_server_itself_may_ask(bind: str) -> None:
    assert passes(Guard(None, BINDS[bind]), parsed(Origin="http://LocalHost:8080"))
    is_named = bind != "loopback"
    assert passes(Guard(None, BINDS[bind]), parsed(Host="models.example.com", Origin="https://models.example.com")) is is_named
    assert not passes(Guard(None, BINDS[bind]), parsed(Host="models.example.com", Origin="https://models.example.com.evil.com"))


def test_rebinding() -> None:
    """evil.com resolves to 127.0.0.1 now: to the browser it is one origin, and the Host gives it away."""
    guard = Guard(None, BINDS["loopback"])
    assert not passes(guard, parsed(Host="evil.com:8080", Origin="http://evil.com:8080"))
    assert not passes(guard, parsed("GET", Host="evil.com:8080", Sec_Fetch_Site="same-origin"))


@pytest.mark.parametrize(
    ("method", "target", "fields", "is_allowed"),
    [
        ("POST", "/x", {"Sec_Fetch_Site": "cross-site"}, False),
        ("POST", "/x", {"Sec_Fetch_Site": "same-origin"}, True),
        ("POST", "/x", {"Sec_Fetch_Site": "none"}, True),
        ("GET", "/x?model=big", {"Sec_Fetch_Site": "cross-site"}, False),  # an <img> would load a model
        ("GET", "/x", {"Sec_Fetch_Site": "cross-site"}, True),
        ("POST", "/x", {"Content_Type": "text/plain"}, False),
        ("POST", "/x", {"Content_Type": "Text/Plain;charset=UTF-8"}, False),
        ("POST", "/x", {"Content_Type": " text/plain , application/json"}, False),
        ("POST", "/x", {"Content_Type": "application/json, text/plain"}, False),
        ("DELETE", "/x", {"Content_Type": "text/plain"}, False),
        ("POST", "/x", {"Content_Type": "application/json"}, True),
        ("POST", "/x", {"Content_Type": "text/plainer"}, True),
        ("POST", "/x", {}, True),  # curl -H 'Content-Type:'; a page cannot leave out both this and its origin
        ("GET", "/x", {"Content_Type": "text/plain"}, True),
    ],
)
@pytest.mark.parametrize("bind", BINDS)
def test_what_else_gives_a_page_away(bind: str, method: str, target: str, fields: dict[str, str], is_allowed: bool) -> None:
    assert passes(Guard(None, BINDS[bind]), parsed(method, target, **fields)) is is_allowed


# ---------------------------------------------------------------- --cors-*


@pytest.mark.parametrize(
    ("origins", "origin", "is_allowed"),
    [
        ("*", "https://any.example", True),
        ("*", "null", True),
        ("https://app.example", "https://app.example", True),
        ("https://app.example/", "https://App.Example", True),
        ("https://app.example", "http://app.example", False),
        ("https://app.example", "https://app.example:8443", False),
        ("https://app.example", "https://app.example.evil.com", False),
        ("https://app.example", "http://localhost:3000", False),
        ("https://app.example, localhost", "http://localhost:3000", True),
        ("https://a.example,tauri://localhost", "tauri://localhost", True),
        ("null", "null", True),
        ("", "http://localhost:3000", False),
        ("", "", False),
        ("https://a.example,", "", False),
        ("https://a.example,*", "https://b.example", True),
        ("localhost", "http://localhost:3000", True),
    ],
)
def test_origins(origins: str, origin: str, is_allowed: bool) -> None:
    guard = Guard(None, BINDS["loopback"], Cors(origins=origins))
    assert passes(guard, parsed(Origin=origin)) is is_allowed
    assert bool(guard.cors_headers(origin)) is is_allowed


def test_credentials() -> None:
    both = b"Access-Control-Allow-Origin: http://a.example\r\nAccess-Control-Allow-Credentials: true\r\nVary: Origin\r\n"
    assert Guard(None, (), Cors(origins="*")).cors_headers("http://a.example") == both
    without = Guard(None, (), Cors(origins="*", credentials=False))
    assert without.cors_headers("http://a.example") == b"Access-Control-Allow-Origin: *\r\nVary: Origin\r\n"
    assert b"Access-Control-Allow-Credentials: false\r\n" in without.preflight(parsed("OPTIONS")).headers


def test_an_origin_cannot_smuggle_a_header() -> None:
    guard = Guard(None, (), Cors(origins="*"))
    assert guard.cors_headers("http://a\r\nSet-Cookie: x") == b""
    assert guard.cors_headers("http://\xe9.example") == b""


@pytest.mark.parametrize(
    ("allowed", "asked", "answered"),
    [
        ("*", "authorization, content-type", "authorization, content-type"),
        ("*", "missing", "*"),
        ("*", "x-a\t, <script>", "*"),
        ("*", "x" * 2000, "*"),
        ("X-Api-Key", "authorization", "X-Api-Key"),
    ],
)
def test_preflight(allowed: str, asked: str, answered: str) -> None:
    guard = Guard(None, (), Cors(headers=allowed, methods="GET, POST"))
    answer = guard.preflight(parsed("OPTIONS", Access_Control_Request_Headers=asked))
    assert (answer.status, answer.body) == (200, b"")
    assert f"Access-Control-Allow-Headers: {answered}\r\n".encode() in answer.headers
    assert b"Access-Control-Allow-Methods: GET, POST\r\n" in answer.headers
