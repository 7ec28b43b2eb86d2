"""The files at /: headers, validators, encodings, what is not served, the flags. test_page.py and test_room.py test the page itself."""

import base64
import contextlib
import gzip
import hashlib
import json
import os
import re
import runpy
from pathlib import Path

import pytest
from conftest import Router, StartRouter

from fastrouter.api.operations.page_files import WEB
from fastrouter.config.config import parse
from fastrouter.errors import ConfigError

KEYED = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def served(module_router: StartRouter) -> Router:
    return module_router()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's own page, and files that must not be readable through it."""
    site = tmp_path / "site"
    (site / "sub dir").mkdir(parents=True)
    (site / "index.html").write_text("<h1>mine</h1>")
    (site / "sub dir" / "index.html").write_text("<h1>below</h1>")
    (site / "big.css").write_text("body { color: red }\n" * 100)
    (site / ".env").write_text("SECRET")
    (site / "health").write_text("not the health")
    (tmp_path / "secret.txt").write_text("SECRET")
    (tmp_path / "site-2").mkdir()
    (tmp_path / "site-2" / "secret.txt").write_text("SECRET")
    (site / "out.txt").symlink_to(tmp_path / "secret.txt")
    (site / "out").symlink_to(tmp_path)
    (site / "in.css").symlink_to(site / "big.css")
    (site / "loop").symlink_to(site / "loop")
    os.mkfifo(site / "pipe.txt")
    return site


# ---------------------------------------------------------------- the page that comes with it


def test_the_page_is_at_the_root(served: Router) -> None:
    answer = served.get("/")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.body == (WEB / "index.html").read_bytes() == served.get("/index.html").body


def test_nothing_foreign_nothing_inline_no_frame_around_it(served: Router) -> None:
    headers = served.get("/").headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy.pop("img-src") == "'self' data: blob:"
    assert policy.pop("media-src") == "'self' blob:"
    assert {name for name, sources in policy.items() if sources == "'self'"} == {"script-src", "style-src", "connect-src", "font-src"}
    assert {name for name, sources in policy.items() if sources == "'none'"} == {
        "default-src",
        "base-uri",
        "form-action",
        "frame-ancestors",
    }
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert headers["permissions-policy"].startswith("camera=(self), microphone=(self), geolocation=()")


@pytest.mark.parametrize("path", sorted(str(path.relative_to(WEB)) for path in WEB.rglob("*") if path.is_file()))
def test_every_file_is_served_with_its_type(served: Router, path: str) -> None:
    types = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": "application/json", ".svg": "image/svg+xml"}
    answer = served.get(f"/{path}")
    assert (answer.status, answer.body) == (200, (WEB / path).read_bytes())
    assert answer.headers["content-type"].split(";")[0] == {**types, ".txt": "text/plain", ".md": "text/markdown"}[Path(path).suffix]


def test_who_has_the_file_gets_no_second_copy(served: Router) -> None:
    first = served.get("/sw.js")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for given in (tag, f'"other", {tag}', tag.removeprefix("W/"), "*"):
        again = served.get("/sw.js", {"If-None-Match": given})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        assert "content-security-policy" in again.headers
    assert served.get("/sw.js", {"If-None-Match": '"other"'}).status == 200


def test_packed_for_who_can_unpack(served: Router) -> None:
    plain, packed = served.get("/sw.js"), served.get("/sw.js", {"Accept-Encoding": "br, gzip;q=0.5"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert "content-encoding" not in served.get("/sw.js", {"Accept-Encoding": "gzip;q=0"}).headers


def test_head_says_the_same_without_the_bytes(served: Router) -> None:
    head, get = served.request("HEAD", "/"), served.get("/")
    assert (head.status, head.body) == (200, b"")
    assert {**head.headers} == {**get.headers}


def test_a_keep_alive_connection_goes_on_after_a_304(served: Router) -> None:
    connection, response = served.open("GET", "/sw.js", headers={"If-None-Match": "*"})
    with contextlib.closing(connection):
        assert (response.status, response.read()) == (304, b"")
        connection.request("GET", "/health")
        assert json.loads(connection.getresponse().read()) == {"status": "ok"}


@pytest.mark.parametrize(
    "path", ["/nothing.js", "/nothing/", "/../pyproject.toml", "/%2e%2e/__init__.py", "//sw.js", "/sw.js/", "/sw.js%00"]
)
def test_what_is_no_file_is_not_found(served: Router, path: str) -> None:
    answer = served.get(path)
    assert (answer.status, answer.error["message"]) == (404, "File Not Found")


def test_only_reading(served: Router) -> None:
    assert served.post("/", {}).status == 404
    assert served.request("DELETE", "/index.html").status == 404


def test_not_under_another_machines_name(served: Router) -> None:
    assert served.get("/", {"Host": "evil.example"}).status == 403


def test_the_page_needs_no_key_but_what_it_asks_does(router: StartRouter) -> None:
    server = router("--api-key", "secret")
    assert server.get("/").status == server.get("/sw.js").status == 200
    assert server.get("/models").status == server.get("/nothing.js").status == server.get("/props").status == 401
    assert server.get("/nothing.js", KEYED).status == 404


# ---------------------------------------------------------------- flags


def test_below_a_prefix(router: StartRouter) -> None:
    server = router("--api-prefix", "/router")
    bare = server.get("/router")
    assert (bare.status, bare.headers["location"]) == (308, "/router/")
    assert server.get("/router/").body == (WEB / "index.html").read_bytes()
    assert server.get("/router/sw.js").status == 200
    assert server.get("/").status == server.get("/routerx").status == server.get("/sw.js").status == 404


@pytest.mark.parametrize("flag", ["--no-ui", "--no-webui"])
def test_no_page(router: StartRouter, flag: str) -> None:
    server = router(flag)
    for path in ("/", "/index.html", "/app.js"):
        assert server.get(path).error["message"] == "File Not Found"
    assert b"unregister" in server.get("/sw.js").body  # for a page that was here before


def test_a_folder_of_ones_own(router: StartRouter, folder: Path) -> None:
    server = router("--path", str(folder))
    index = server.get("/")
    assert (index.status, index.body) == (200, b"<h1>mine</h1>")
    assert "content-security-policy" not in index.headers  # its author decides
    assert index.headers["x-content-type-options"] == "nosniff"
    assert server.get("/sub%20dir").headers["location"] == "/sub%20dir/"
    assert server.get("/sub%20dir/").body == b"<h1>below</h1>"
    assert server.get("/in.css").body == server.get("/big.css").body
    assert b"unregister" in server.get("/sw.js").body
    assert server.get("/health").json == {"status": "ok"}  # a file hides no route
    assert server.get("/app.js").status == 404


def test_nothing_outside_of_it(router: StartRouter, folder: Path) -> None:
    server = router(env={"LLAMA_ARG_STATIC_PATH": str(folder)})
    steps = ("..", "%2e%2e", "..%2f..", "%252e%252e", "....", "out", "out/site-2", "../site-2", "sub dir/../..")
    paths = [f"/{step}/secret.txt".replace(" ", "%20") for step in steps]
    for path in (*paths, "/.env", "/%2eenv", "/out.txt", "/loop", "/pipe.txt", "//secret.txt", "/sub%20dir/../.env", "/" + "x" * 300):
        answer = server.get(path)
        assert answer.status == 404, path
        assert b"SECRET" not in answer.body, path


def test_a_changed_file_is_read_again(router: StartRouter, folder: Path) -> None:
    server = router("--path", str(folder))
    before = server.get("/")
    (folder / "index.html").write_text("<h1>newer</h1>")
    after = server.get("/", {"If-None-Match": before.headers["etag"]})
    assert (after.status, after.body) == (200, b"<h1>newer</h1>")


def test_defaults_of_the_pages_settings(router: StartRouter, tmp_path: Path) -> None:
    settings = {"theme": "dark", "temperature": 0.2}
    assert router("--ui-config", json.dumps(settings)).get("/props").json["ui_settings"] == settings
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings))
    assert router("--ui-config-file", str(file)).get("/props").json["ui_settings"] == settings
    assert router().get("/props").json["ui_settings"] == {}


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--path", "/no/such/folder", "--path /no/such/folder: there is no such folder"),
        ("--path", "", "--path : must be a path"),
        ("--ui-config", "[1]", "--ui-config [1]: must be a JSON object"),
        ("--webui-config", "{", "--webui-config {: must be a JSON object"),
        ("--ui-config-file", "/no/such", "--ui-config-file /no/such: there is no such file"),
        ("--ui-config-file", __file__, f"--ui-config-file {__file__}: must be a JSON object"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(flag: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse([flag, value], {})
    assert refused.value.message == said


def test_a_file_of_settings_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text("{}")
    assert parse(["--ui-config", '{"a": 1}'], {"LLAMA_ARG_UI_CONFIG_FILE": str(file)}).ui_settings == {"a": 1}
    assert not parse([], {"LLAMA_ARG_NO_UI": "1"}).ui


# ---------------------------------------------------------------- files of others


def test_vendored_files_are_those_that_were_recorded() -> None:
    record = json.loads((WEB / "vendor" / "vendor.json").read_text())
    assert {"marked", "dompurify", "temml", "uplot"} < {library["name"] for library in record}
    hashes = {name: digest for library in record for name, digest in library["files"].items()}
    found = {path.name: path.read_bytes() for path in (WEB / "vendor").iterdir()}
    assert set(found) == {*hashes, "vendor.json", "README.md"}
    for name, digest in hashes.items():
        assert digest == "sha512-" + base64.b64encode(hashlib.sha512(found[name]).digest()).decode(), name
    for library in record:
        assert library["integrity"].startswith("sha512-")
        assert sum(name.startswith("LICENSE-") for name in library["files"]) == 1, library


def test_the_script_pins_what_is_there() -> None:
    script = runpy.run_path(str(Path(__file__).parent.parent.parent / "packaging" / "vendor_web.py"))
    pinned = [(library.name, library.version, library.licence, library.integrity) for library in script["LIBRARIES"]]
    record = json.loads((WEB / "vendor" / "vendor.json").read_text())
    assert pinned == [(entry["name"], entry["version"], entry["licence"], entry["integrity"]) for entry in record]


def test_small_and_asks_no_other_server() -> None:
    files = {path: path.read_bytes() for path in WEB.rglob("*") if path.is_file()}
    assert sum(len(gzip.compress(content, 9)) for content in files.values()) < 300_000
    for path, content in files.items():
        if path.suffix in (".html", ".css", ".js"):
            text = content.decode()
            assert not re.search(r"""(\bsrc=|\bhref=|\bimport\(|\bfrom|@import|url\()\s*["']?(https?:)?//""", text), path
            assert "sourceMappingURL" not in text, path


def test_nothing_that_the_policy_forbids() -> None:
    for path in WEB.rglob("*.html"):
        text = path.read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text), path
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text)), path
    for path in WEB.rglob("*.js"):
        if path.parent.name != "vendor":
            assert not re.search(r"\beval\(|new Function\(", path.read_text()), path
