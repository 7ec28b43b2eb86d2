"""Pictures from addresses: which hosts are asked, what may come back, and how long it may take. The site is a real one on this machine."""

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import trustme
from conftest import Router, StartRouter
from picture_site import PictureSite, chunked, endless, picture_site, raw, redirect, slow, until_close
from tiny_models import make_llama
from tiny_projectors import make_llava, picture, png

from fastrouter.api.requests.pictures import IMAGE, MAX_BYTES, Pictures
from fastrouter.api.serving import picture_fetch
from fastrouter.api.serving.picture_fetch import Fetcher
from fastrouter.config.config import parse
from fastrouter.config.media_hosts import MediaHost, Reach, reach_of, read_hosts
from fastrouter.errors import ConfigError, InvalidRequest

ONE = png(picture(1))
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


@pytest.fixture
def site() -> Iterator[PictureSite]:
    with picture_site({"/one.png": ONE, "/a%20b.png?c=d%26e": ONE}) as site:
        yield site


class Names:
    """Stands for DNS: each look-up of a host takes its next answer, and the last one stays."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.answers.get(host.replace(".", "_"))
        if answers is None:
            raise OSError("no such host")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def fetch(urls: str | list[str], hosts: str = "", names: Names | None = None, context: ssl.SSLContext | None = None) -> list[bytes | None]:
    pictures = Pictures()
    for index, url in enumerate([urls] if isinstance(urls, str) else urls):
        pictures.add(f"picture {index}", url)
    resolver: dict[str, Any] = {"resolve": names} if names is not None else {}

    async def run() -> None:
        fetcher = Fetcher(read_hosts(hosts.split(",") if hosts else []), context=context, **resolver)
        fetcher.check(pictures)
        await fetcher.fetch(pictures)

    asyncio.run(run())
    return [each.content for each in pictures.all]


def refusal(*args: Any, **more: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        fetch(*args, **more)
    assert "field 'picture 0' is an address" in caught.value.message
    return str(caught.value.message)


def url_of(site: PictureSite, path: str = "/one.png", host: str = "127.0.0.1") -> str:
    return f"http://{host}:{site.port}{path}"


# ---------------------------------------------------------------- hosts


def test_none_is_fetched_by_default(site: PictureSite) -> None:
    assert "start it with --media-hosts 127.0.0.1, or send" in refusal(url_of(site))
    assert site.heads == []


def test_a_named_host_is_asked(site: PictureSite) -> None:
    assert fetch(url_of(site), "127.0.0.1") == [ONE]
    [(path, head)] = site.heads
    assert path == "/one.png"
    assert set(head) == {"host", "user-agent", "accept", "accept-encoding", "connection"}
    assert head["host"] == f"127.0.0.1:{site.port}"


def test_paths_are_sent_as_they_are_meant(site: PictureSite) -> None:
    assert fetch(url_of(site, "/a b.png?c=d%26e#part"), "127.0.0.1") == [ONE]


def test_the_same_address_is_asked_once(site: PictureSite) -> None:
    assert fetch([url_of(site)] * 3, "127.0.0.1") == [ONE] * 3
    assert len(site.heads) == 1


@pytest.mark.parametrize("hosts", ["*", "*.example.org", "localhost:1", "example.org,10.0.0.1"])
def test_another_host_is_not(site: PictureSite, hosts: str) -> None:
    names = Names(localhost=[["127.0.0.1"]], a_example_org=[["127.0.0.1"]])
    for host in ("localhost", "a.example.org"):
        refusal(url_of(site, host=host), hosts, names)
    assert site.heads == []


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "192.168.1.1", "0.0.0.0", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"])
def test_a_public_name_with_a_private_address(address: str) -> None:
    for hosts in ("*", "*.example.org"):
        assert "must name it as it is" in refusal("http://a.example.org/", hosts, Names(a_example_org=[["8.8.8.8", address]]))


def test_numbers_that_are_addresses(site: PictureSite) -> None:
    """The system reads these as 127.0.0.1."""
    for host in ("2130706433", "0x7f.1", "0177.0.0.1", "localhost."):
        refusal(url_of(site, host=host), "*")
    assert site.heads == []


def test_a_name_that_changes_its_address(site: PictureSite) -> None:
    """It is looked up once: what was checked is what is connected."""
    names = Names(a_example_org=[["127.0.0.1"], ["10.0.0.1"]])
    assert fetch(url_of(site, host="a.example.org"), "a.example.org", names) == [ONE]
    assert names.asked == ["a.example.org"]
    names = Names(a_example_org=[["8.8.8.8"], ["127.0.0.1"]], b_example_org=[["127.0.0.1"]])
    site.answers["/there"] = redirect(url_of(site, host="a.example.org"))
    first, *_ = [names.answers["a_example_org"].pop(0)]
    assert first == ["8.8.8.8"]
    assert "must name it as it is" in refusal(url_of(site, "/there", "b.example.org"), "*.example.org,b.example.org", names)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@127.0.0.1/",
        "http://127.0.0.1\\@8.8.8.8/",
        "http:///one.png",
        "http://[::1/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1/a\r\nHost: b",
        "http://127.0.0.1/" + "a" * 9000,
        f"http://{'a' * 70}.org/",
    ],
)
def test_odd_addresses(url: str) -> None:
    assert "cannot be read" in refusal(url, "*,127.0.0.1")


def test_unknown_hosts() -> None:
    assert "cannot be found" in refusal("http://a.example.org/", "*", Names())
    assert "cannot be reached" in refusal("http://127.0.0.1:1/", "127.0.0.1")


# ---------------------------------------------------------------- redirects


def test_redirects_are_checked_like_addresses(site: PictureSite) -> None:
    names = Names(a_example_org=[["127.0.0.1"]], b_example_org=[["127.0.0.1"]], **{"127_0_0_1": [["127.0.0.1"]]})
    site.answers |= {
        "/same": redirect("one.png"),
        "/other": redirect(url_of(site, host="b.example.org"), 307),
        "/private": redirect(url_of(site)),
        "/round": redirect("/round"),
        "/file": redirect("file:///etc/passwd"),
        "/odd": redirect("http://[/"),
    }

    def at(path: str) -> str:
        return url_of(site, path, "a.example.org")

    assert fetch(at("/same"), "a.example.org", names) == [ONE]
    assert "b.example.org, which --media-hosts does not name" in refusal(at("/other"), "a.example.org", names)
    assert fetch(at("/other"), "a.example.org,b.example.org", names) == [ONE]
    assert "127.0.0.1, which is this machine" in refusal(at("/private"), "a.example.org,*", names)
    assert "more than 3 times" in refusal(at("/round"), "a.example.org", names)
    assert "cannot be read" in refusal(at("/file"), "a.example.org", names)
    refusal(at("/odd"), "a.example.org", names)


def test_tls_is_checked_and_not_left() -> None:
    authority = trustme.CA()
    of_site, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("a.example.org").configure_cert(of_site)
    authority.configure_trust(ours)
    names = Names(a_example_org=[["127.0.0.1"]], b_example_org=[["127.0.0.1"]])
    with picture_site({"/one.png": ONE, "/plain": redirect("http://a.example.org/")}, of_site) as site:
        safe = f"https://a.example.org:{site.port}"
        assert fetch(f"{safe}/one.png", "a.example.org", names, ours) == [ONE]
        assert "not encrypted" in refusal(f"{safe}/plain", "a.example.org", names, ours)
        assert "no valid certificate" in refusal(f"{safe}/one.png", "a.example.org", names)  # an unknown authority
        assert "no valid certificate" in refusal(f"https://b.example.org:{site.port}/one.png", "*,b.example.org", names, ours)


# ---------------------------------------------------------------- answers


def test_bodies_of_every_form(site: PictureSite) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(ONE) + ONE
    site.answers |= {
        "/chunked": chunked(ONE),
        "/close": until_close(ONE),
        "/octets": (200, {"Content-Type": "Application/Octet-Stream"}, ONE),
        "/hints": raw(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + whole),
    }
    for path in ("/chunked", "/close", "/octets", "/hints"):
        assert fetch(url_of(site, path), "127.0.0.1") == [ONE], path


def test_what_is_no_picture(site: PictureSite) -> None:
    site.answers |= {
        "/page": (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>"),
        "/nothing": (200, {}, b""),
        "/cut": (200, {"Content-Length": "9999", "Content-Type": "image/png"}, ONE),
        "/cut-chunks": chunked(ONE, is_cut=True),
        "/junk": raw(b"SSH-2.0-x\r\n"),
        "/silent": raw(b""),
        "/heads": raw(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50_000),
        "/moved": (302, {}, b""),
    }
    for path, problem in (
        ("/none.png", "status 404"),
        ("/page", "text/html"),
        ("/nothing", "no content"),
        ("/cut", "too early"),
        ("/cut-chunks", "too early"),
        ("/junk", "broken"),
        ("/silent", "too early"),
        ("/heads", "too many headers"),
        ("/moved", "status 302"),
    ):
        assert problem in refusal(url_of(site, path), "127.0.0.1"), path


def test_too_large_is_given_up_early(site: PictureSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.answers |= {
        "/says": (200, {"Content-Length": str(MAX_BYTES[IMAGE] + 1)}, ONE),
        "/endless": endless(),
        "/a": (200, {}, bytes(3000)),
        "/b": (200, {}, bytes(3000)),
    }
    for path in ("/says", "/endless"):
        assert "more than 20 MiB" in refusal(url_of(site, path), "127.0.0.1")
    monkeypatch.setattr(picture_fetch, "MAX_REQUEST_BYTES", 5000)
    with pytest.raises(InvalidRequest, match="all fetched pictures"):
        fetch([url_of(site, "/a"), url_of(site, "/b")], "127.0.0.1")


def test_slow_servers(site: PictureSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes come all the time, but not enough of them."""
    monkeypatch.setattr(picture_fetch, "FETCH_S", 0.2)
    site.answers["/slow"] = slow(ONE, 0.01)
    assert "did not give the picture" in refusal(url_of(site, "/slow"), "127.0.0.1")
    monkeypatch.setattr(picture_fetch, "FETCH_S", 60.0)
    monkeypatch.setattr(picture_fetch, "ALL_S", 0.2)
    assert "had no time" in refusal(url_of(site, "/slow"), "127.0.0.1")


def test_a_failure_ends_the_others(site: PictureSite) -> None:
    site.answers["/slow"] = slow(ONE, 0.05)
    with pytest.raises(InvalidRequest, match=r"picture 1.*status 404"):
        fetch([url_of(site, "/slow"), url_of(site, "/none")], "127.0.0.1")


# ---------------------------------------------------------------- the flag


def test_hosts_of_the_flag() -> None:
    assert read_hosts(["Example.ORG", "*.a-b.net:8080", "[::1]", "[2001:DB8::1]:443", "*", "10.0.0.1:80"]) == (
        MediaHost("example.org", None),
        MediaHost("*.a-b.net", 8080),
        MediaHost("::1", None),
        MediaHost("2001:db8::1", 443),
        MediaHost("*", None),
        MediaHost("10.0.0.1", 80),
    )
    for text in ("", "http://a.org", "a.org/", "a b", "a*.org", "a.org:", "a.org:0", "a.org:65536", "::1", "*.*"):
        with pytest.raises(ConfigError, match="--media-hosts"):
            read_hosts([text])


def test_reach() -> None:
    hosts = read_hosts(["a.org:80", "*.b.org", "c.b.org"])
    for host, port, reach in (
        ("a.org", 80, Reach.ANYWHERE),
        ("a.org", 81, Reach.NOWHERE),
        ("b.org", 80, Reach.NOWHERE),
        ("xb.org", 80, Reach.NOWHERE),
        ("x.b.org", 80, Reach.WORLD),
        ("c.b.org", 80, Reach.ANYWHERE),
    ):
        assert reach_of(hosts, host, port) is reach, host


def test_a_wrong_host_ends_the_start() -> None:
    with pytest.raises(ConfigError, match=r"--media-hosts http://a\.org: must be a host"):
        parse(["--media-hosts", "http://a.org"], {})
    assert parse([], {"LLAMA_ARG_MEDIA_HOSTS": "a.org,b.org"}).media_hosts == ("a.org", "b.org")


# ---------------------------------------------------------------- through the server


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("fetching") / "models" / "sees"
    folder.mkdir(parents=True)
    make_llama(folder / "sees.gguf", seed=1, chat_template=TEMPLATE)
    make_llava(folder / "mmproj-sees.gguf")
    return module_router("--media-hosts", "127.0.0.1", models_dir=folder.parent)


def test_every_api_fetches(server: Router, site: PictureSite) -> None:
    url = url_of(site)
    part = {"type": "image_url", "image_url": {"url": url}}
    source = {"type": "image", "source": {"type": "url", "url": url}}
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": [part]}], "max_tokens": 4},
        "/v1/messages": {"messages": [{"role": "user", "content": [source]}], "max_tokens": 4},
        "/v1/responses": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}], "max_output_tokens": 4},
        "/v1/chat/completions/input_tokens": {"messages": [{"role": "user", "content": [part]}]},
        "/completion": {"prompt": {"prompt_string": "the <__media__> is", "multimodal_data": [url]}, "n_predict": 4},
    }
    for path, body in bodies.items():
        answer = server.post(path, {"model": "sees", **body})
        assert answer.status == 200, (path, answer.body)
    assert len(site.heads) == len(bodies)
    chat = {"model": "sees", **bodies["/v1/chat/completions"]}
    answer = server.post("/v1/chat/completions", chat, {"Authorization": "Bearer secret", "Cookie": "a=b"})
    assert answer.status == 200
    assert not {"authorization", "cookie"} & set(site.heads[-1][1])


def test_the_server_goes_on_meanwhile(server: Router, site: PictureSite) -> None:
    site.answers["/slow"] = slow(ONE, 0.2)
    part = {"type": "image_url", "image_url": {"url": url_of(site, "/slow")}}
    with server.stream("/v1/chat/completions", {"model": "sees", "messages": [{"role": "user", "content": [part]}], "stream": True}):
        assert server.get("/health").status == 200
        assert server.post("/completion", {"model": "sees", "prompt": "the", "n_predict": 2}).status == 200


def test_what_comes_is_checked_like_any_picture(server: Router, site: PictureSite) -> None:
    site.answers["/junk"] = b"nonsense"
    for path, problem in (("/junk", "is not a picture that can be read"), ("/none", "status 404")):
        part = {"type": "image_url", "image_url": {"url": url_of(site, path)}}
        answer = server.post("/v1/chat/completions", {"model": "sees", "messages": [{"role": "user", "content": [part]}]})
        assert answer.status == 400
        assert "messages[0].content[0].image_url" in answer.error["message"]
        assert problem in answer.error["message"]
