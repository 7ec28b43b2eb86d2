"""The download process and a hub that fails: what is in the cache afterwards, what it reports, which requests get the token."""

import dataclasses
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_hub
import pytest
from conftest import eventually, is_alive
from fake_hub import COMMIT, FakeHub, Fault, serving

from fastrouter.catalog.sources import scan_cache
from fastrouter.hub.http_client import place_of
from fastrouter.hub.job import DownloadJob, start_process
from fastrouter.system.network_place import Place

CONTENT = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(1000)
NAME = "m-Q4_K_M.gguf"
TOKEN = "hf_" + "s3cret" * 6
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub(repos={"u/r": {NAME: CONTENT, "README.md": b"hello"}})) as hub:
        yield hub


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A silence of a second is a stall, and no file of the user is read or written."""
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def job_of(hub: FakeHub, cache: Path, **changes: Any) -> DownloadJob:
    return dataclasses.replace(DownloadJob("u/r", None, None, str(cache), hub.url, pause_s=0.01), **changes)


def run(job: DownloadJob) -> list[dict[str, Any]]:
    """All reports; the process has ended."""
    with start_process(job) as process:
        assert process.stdout is not None
        reports = [json.loads(line) for line in process.stdout]
        assert process.wait() == (0 if reports[-1]["event"] == "finished" else 1)
    return reports


def files_in(cache: Path) -> dict[str, bytes]:
    """What the catalog would find, by path in its snapshot."""
    found: dict[str, bytes] = {}
    for model in scan_cache(str(cache)):
        for path in [*model.files, *([model.mmproj] if model.mmproj else [])]:
            found[os.path.relpath(path, cache)] = Path(path).read_bytes()
    return found


def check_whole(cache: Path) -> None:
    assert files_in(cache) == {f"models--u--r/snapshots/{COMMIT}/{NAME}": CONTENT}
    assert sorted(os.listdir(cache / "models--u--r" / "blobs")) == [SHA]


def check_failed(reports: list[dict[str, Any]], cache: Path, kind: str, *words: str) -> None:
    assert reports[-1]["event"] == "failed", reports
    assert reports[-1]["kind"] == kind, reports[-1]
    for word in words:
        assert word in reports[-1]["message"], reports[-1]
    assert files_in(cache) == {}
    assert not list(cache.glob("*/snapshots/*/*"))


# ---------------------------------------------------------------- what works


def test_the_cache_is_laid_out_as_the_library_does_it(hub: FakeHub, tmp_path: Path) -> None:
    reports = run(job_of(hub, tmp_path / "hub"))
    assert [report["event"] for report in reports] == ["planned", *["progress"] * (len(reports) - 2), "finished"]
    url = f"{hub.url}/u/r/resolve/{COMMIT}/{NAME}"
    assert reports[0]["files"] == {url: {"done": 0, "total": len(CONTENT)}}
    assert reports[-2]["files"] == {url: {"done": len(CONTENT), "total": len(CONTENT)}}
    assert reports[-1] == {"event": "finished", "path": NAME}
    check_whole(tmp_path / "hub")
    code = "import sys, huggingface_hub as h; print(h.try_to_load_from_cache('u/r', sys.argv[1], cache_dir=sys.argv[2]))"
    code += "; [r] = h.scan_cache_dir(sys.argv[2]).repos; print(r.repo_id, r.size_on_disk, h.scan_cache_dir(sys.argv[2]).warnings)"
    seen = subprocess.run([sys.executable, "-c", code, NAME, str(tmp_path / "hub")], capture_output=True, text=True, check=True).stdout
    assert seen.splitlines() == [str(tmp_path / f"hub/models--u--r/snapshots/{COMMIT}/{NAME}"), f"u/r {len(CONTENT)} []"]


def test_what_is_there_is_not_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    run(job_of(hub, tmp_path))
    assert run(job_of(hub, tmp_path))[-1]["event"] == "finished"
    assert len(hub.ranges(NAME)) == 1


def test_shards_and_projector_come_together(hub: FakeHub, tmp_path: Path) -> None:
    """Until the last file is there, the snapshot has none of them."""
    names = [f"big/m-Q8_0-0000{index}-of-00003.gguf" for index in (1, 2, 3)]
    hub.repos["u/r"] |= {name: CONTENT + name.encode() for name in names} | {"mmproj-F16.gguf": OTHER}
    hub.always["mmproj-F16.gguf"] = fake_hub.status(404)
    check_failed(run(job_of(hub, tmp_path, quant="q8_0")), tmp_path, "Refused", "mmproj-F16.gguf", "the hub does not have it")
    hub.always.clear()
    assert run(job_of(hub, tmp_path, quant="q8_0"))[-1]["path"] == names[0]
    assert files_in(tmp_path) == {f"models--u--r/snapshots/{COMMIT}/{name}": hub.repos["u/r"][name] for name in [*names, "mmproj-F16.gguf"]}
    assert [len(hub.ranges(name)) for name in names] == [1, 1, 1]


def test_git_checksums_of_small_files(hub: FakeHub, tmp_path: Path) -> None:
    git = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    hub.stated[NAME] = {"lfs": None, "blobId": git}
    assert run(job_of(hub, tmp_path))[-1]["event"] == "finished"
    assert os.listdir(tmp_path / "models--u--r" / "blobs") == [git]


# ---------------------------------------------------------------- what goes wrong on the way


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        ([fake_hub.cut(100_000)], [None, "bytes=100000-"]),
        ([fake_hub.cut(100_000), fake_hub.cut(50_000), fake_hub.cut(0)], [None, "bytes=100000-", "bytes=150000-", "bytes=150000-"]),
        ([fake_hub.stall(70_000)], [None, "bytes=70000-"]),
        ([fake_hub.status(503), fake_hub.status(502), fake_hub.status(429)], [None] * 4),
        ([fake_hub.status(503, Retry_After="1")], [None] * 2),
        ([fake_hub.cut(100_000), fake_hub.status(416), fake_hub.cut(5)], [None, "bytes=100000-", None, "bytes=5-"]),
        ([fake_hub.cut(100_000), fake_hub.body(CONTENT)], [None, "bytes=100000-"]),  # the range is ignored
        ([fake_hub.flip(5)], [None, None]),
        ([fake_hub.cut(100_000), fake_hub.flip(5)], [None, "bytes=100000-", None]),
        ([fake_hub.says_length(10)], [None, "bytes=10-"]),
        ([fake_hub.says_length(400_000)], [None]),  # all of it came, although more was announced
        ([fake_hub.body(CONTENT + b"more")], [None]),
        ([fake_hub.body(b"<html>log in here</html>")], [None, "bytes=24-", None]),
    ],
    ids=[
        "cut",
        "cuts",
        "stall",
        "busy",
        "retry-after",
        "416",
        "no-ranges",
        "flip",
        "cut-flip",
        "short-length",
        "long-length",
        "more",
        "page",
    ],
)
def test_it_goes_on(hub: FakeHub, tmp_path: Path, faults: list[Fault], ranges: list[str | None]) -> None:
    hub.faults[NAME] = deque(faults)
    assert run(job_of(hub, tmp_path))[-1]["event"] == "finished"
    assert hub.ranges(NAME) == ranges
    check_whole(tmp_path)


def test_a_storm(hub: FakeHub, tmp_path: Path) -> None:
    """Forty shards with three faults each, in any order: all of them arrive, with the right content."""
    rng = random.Random(15)
    shards = {f"s-{index:05d}-of-00040.gguf": rng.randbytes(rng.randint(20_000, 200_000)) for index in range(1, 41)}
    hub.repos["u/r"] = shards
    for name, content in shards.items():
        somewhere = [rng.randrange(len(content) // 2) for _ in range(6)]
        faults = [fake_hub.cut(somewhere[0]), fake_hub.cut(somewhere[1]), fake_hub.says_length(somewhere[2])]
        faults += [fake_hub.status(503), fake_hub.status(500), fake_hub.status(416), fake_hub.body(content)]
        wrong = rng.choice([fake_hub.body(b"<html>"), fake_hub.flip(-1)])  # a second one ends it
        hub.faults[name] = deque(rng.sample([*faults, wrong], 3))
    hub.faults["s-00007-of-00040.gguf"].append(fake_hub.stall(100))
    assert run(job_of(hub, tmp_path))[-1]["event"] == "finished"
    assert files_in(tmp_path) == {f"models--u--r/snapshots/{COMMIT}/{name}": content for name, content in shards.items()}
    assert not list(tmp_path.glob("*/blobs/*.incomplete"))


def test_the_listing_is_tried_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[""] = deque([fake_hub.status(503), fake_hub.cut(10), fake_hub.stall(0)])
    assert run(job_of(hub, tmp_path))[-1]["event"] == "finished"
    check_whole(tmp_path)


def test_a_wrong_hash_is_never_kept(hub: FakeHub, tmp_path: Path) -> None:
    hub.always[NAME] = fake_hub.flip(299_999)
    check_failed(run(job_of(hub, tmp_path)), tmp_path, "DownloadFailed", NAME, "does not match the hub's checksum", SHA)
    assert hub.ranges(NAME) == [None, None]
    assert os.listdir(tmp_path / "models--u--r" / "blobs") == []


def test_a_killed_download_goes_on_later(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[NAME] = deque([fake_hub.stall(200_000)])
    part = tmp_path / "models--u--r" / "blobs" / f"{SHA}.incomplete"
    with start_process(job_of(hub, tmp_path)) as process:
        eventually(lambda: part.exists() and part.stat().st_size == 200_000, "two thirds")
        process.kill()
    assert files_in(tmp_path) == {}
    reports = run(job_of(hub, tmp_path))
    assert next(iter(reports[0]["files"].values()))["done"] == 200_000
    assert hub.ranges(NAME) == [None, "bytes=200000-"]
    check_whole(tmp_path)


def test_two_processes_share_one_transfer(hub: FakeHub, tmp_path: Path) -> None:
    hub.always[NAME] = fake_hub.slow(400_000)
    with start_process(job_of(hub, tmp_path)) as first, start_process(job_of(hub, tmp_path)) as second:
        assert (first.wait(60), second.wait(60)) == (0, 0)
    assert hub.ranges(NAME) == [None]
    check_whole(tmp_path)


def test_a_hub_that_stays_away(hub: FakeHub, tmp_path: Path) -> None:
    hub.always[""] = fake_hub.status(503)
    check_failed(run(job_of(hub, tmp_path)), tmp_path, "HubUnavailable", "u/r: the hub answers 503", "given up after 6 attempts")
    assert len(hub.seen) == 6


def test_a_hub_without_an_address(hub: FakeHub, tmp_path: Path) -> None:
    """It tries once more, and then stops; the message says what it waits for, and the way out."""
    reports = run(job_of(hub, tmp_path, endpoint="http://no-such-host.invalid"))
    assert [report["event"] for report in reports] == ["waiting", "failed"]
    check_failed(reports, tmp_path, "HubUnavailable", "no-such-host.invalid has no address", "HF_ENDPOINT", "given up after 2 attempts")
    assert "has no address" in reports[0]["why"]


@pytest.mark.parametrize("end", ["stdin", "parent"])
def test_it_ends_with_its_parent(hub: FakeHub, tmp_path: Path, end: str) -> None:
    hub.always[NAME] = fake_hub.slow(10_000)
    if end == "stdin":
        with start_process(job_of(hub, tmp_path)) as process:
            eventually(lambda: hub.ranges(NAME), "the transfer")
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(10) == 1
        return
    code = "import sys, json; from fastrouter.hub.job import *; p = start_process(read_job(sys.argv[1])); print(p.pid, flush=True); input()"
    job = json.dumps(dataclasses.asdict(job_of(hub, tmp_path)))
    command = [sys.executable, "-c", code, job]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        eventually(lambda: hub.ranges(NAME), "the transfer")
        parent.send_signal(signal.SIGKILL)
        eventually(lambda: not is_alive(child), "the end of the download", 10)


# ---------------------------------------------------------------- what cannot work


def test_no_such_repository(hub: FakeHub, tmp_path: Path) -> None:
    check_failed(run(job_of(hub, tmp_path, repo="no/such")), tmp_path, "Refused", "no/such: there is no such repository")
    check_failed(run(job_of(hub, tmp_path, quant="Q2_K")), tmp_path, "Refused", "no model of quant Q2_K", NAME)
    assert len(hub.seen) == 2


@pytest.mark.parametrize("given", [None, "hf_" + "wrong" * 8])
def test_gated(hub: FakeHub, tmp_path: Path, given: str | None) -> None:
    hub.token = TOKEN
    hub.repos["gated/r"] = {NAME: CONTENT}
    check_failed(run(job_of(hub, tmp_path, repo="gated/r", token=given)), tmp_path, "Refused", "restricted", "HF_TOKEN")
    check_failed(run(job_of(hub, tmp_path, token=given)), tmp_path, "Refused", "no such repository", "HF_TOKEN")
    assert run(job_of(hub, tmp_path, repo="gated/r", token=TOKEN))[-1]["event"] == "finished"


@pytest.mark.parametrize(
    "stated",
    [
        {"lfs": {"sha256": "../../../x", "size": 3, "pointerSize": 1}},
        {"lfs": {"sha256": SHA, "size": -1, "pointerSize": 1}},
        {"lfs": {"sha256": SHA, "size": "9", "pointerSize": 1}},
        {"rfilename": f"../../../{NAME}"},
        {"rfilename": f"/tmp/{NAME}"},
        {"lfs": 7},
        {"rfilename": None},
    ],
)
def test_a_listing_that_lies(hub: FakeHub, tmp_path: Path, stated: dict[str, Any]) -> None:
    hub.stated[NAME] = stated
    cache = tmp_path / "a" / "b" / "hub"
    reports = run(job_of(hub, cache))
    assert reports[-1]["event"] == "failed"
    assert hub.ranges(NAME) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("commit", ["../../../../x", "main"])
def test_a_revision_that_is_none(hub: FakeHub, tmp_path: Path, commit: str) -> None:
    hub.commit = commit
    reports = run(job_of(hub, tmp_path / "hub"))
    assert reports[-1]["event"] == "failed"
    assert not list(tmp_path.rglob("*.gguf"))


def test_no_room(hub: FakeHub, tmp_path: Path) -> None:
    hub.stated[NAME] = {"lfs": {"sha256": SHA, "size": 1 << 60, "pointerSize": 130}}
    check_failed(run(job_of(hub, tmp_path)), tmp_path, "DownloadFailed", "not enough room", str(tmp_path), "1152921504.6 GB are needed")
    assert hub.ranges(NAME) == []


def test_a_disk_that_fills_up(hub: FakeHub, tmp_path: Path) -> None:
    """As a limit of the process; what came is kept, and with enough room the download succeeds later."""
    process = start_process(job_of(hub, tmp_path))
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    with process:
        assert process.stdout is not None
        reports = [json.loads(line) for line in process.stdout]
    check_failed(reports, tmp_path, "DownloadFailed", "File too large")
    assert run(job_of(hub, tmp_path))[-1]["event"] == "finished"
    assert hub.ranges(NAME) == [None, "bytes=100000-"]
    check_whole(tmp_path)


@pytest.mark.parametrize("obstacle", ["blobs", "snapshots", "refs"])
def test_a_cache_with_a_file_in_the_way(hub: FakeHub, tmp_path: Path, obstacle: str) -> None:
    """Whichever step fails, there is never half a model; without the obstacle, finished parts are not downloaded again."""
    folder = tmp_path / "models--u--r"
    folder.mkdir()
    (folder / obstacle).write_text("a file, no folder")
    reports = run(job_of(hub, tmp_path))
    assert (reports[-1]["event"], reports[-1]["kind"], str(folder) in reports[-1]["message"]) == ("failed", "DownloadFailed", True)
    assert set(files_in(tmp_path).values()) <= {CONTENT}
    (folder / obstacle).unlink()
    assert run(job_of(hub, tmp_path))[-1]["event"] == "finished"
    assert len(hub.ranges(NAME)) == 1
    check_whole(tmp_path)


def test_a_cache_that_cannot_be_written(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file, no folder")
    reports = run(job_of(hub, tmp_path / "hub"))
    assert (reports[-1]["event"], reports[-1]["kind"]) == ("failed", "DownloadFailed")
    assert str(tmp_path / "hub") in reports[-1]["message"]


# ---------------------------------------------------------------- redirects and the token


def test_the_token_stays_with_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    """A redirect to another port, as to a content delivery network, is followed without it."""
    hub.token = TOKEN
    with serving(FakeHub(repos=hub.repos)) as other:
        hub.always[NAME] = fake_hub.redirect(f"{other.url}/u/r/resolve/{COMMIT}/{NAME}")
        other.faults[NAME] = deque([fake_hub.cut(1000)])
        reports = run(job_of(hub, tmp_path, token=TOKEN))
    assert reports[-1]["event"] == "finished"
    check_whole(tmp_path)
    assert [seen.headers.get("authorization") for seen in hub.seen] == [f"Bearer {TOKEN}"] * 3
    assert [seen.headers.get("authorization") for seen in other.seen] == [None] * 2
    assert other.ranges(NAME) == [None, "bytes=1000-"]
    assert TOKEN not in json.dumps(reports)


def test_the_token_shows_nowhere(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.always[NAME] = fake_hub.slow(10_000)
    job = job_of(hub, tmp_path, token=TOKEN)
    assert TOKEN not in repr(job)
    with start_process(job) as process:
        eventually(lambda: hub.ranges(NAME), "the transfer")
        for name in ("cmdline", "environ"):
            assert TOKEN.encode() not in Path(f"/proc/{process.pid}/{name}").read_bytes()
        process.kill()


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254, which is not the address of a server"),
        ("http://10.0.0.1/x", "10.0.0.1, which is a private network"),
        ("http://[fd00::1]/x", "fd00::1, which is a private network"),
        ("http://[::ffff:169.254.169.254]/x", "not the address of a server"),
        ("http://0.0.0.0/x", "not the address of a server"),
        ("file:///etc/passwd", "file:"),
    ],
)
def test_redirects_into_the_network_are_refused(hub: FakeHub, tmp_path: Path, location: str, words: str) -> None:
    hub.always[NAME] = fake_hub.redirect(location)
    check_failed(run(job_of(hub, tmp_path)), tmp_path, "Refused", words)
    assert len(hub.seen) == 2
    hub.always[""] = hub.always[NAME]
    if "169" in location:
        check_failed(run(job_of(hub, tmp_path)), tmp_path, "Refused", words)
        assert len(hub.seen) == 3, "not tried again and again"


def test_through_a_proxy(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy knows names that this machine does not know; the rules are the same."""
    monkeypatch.setenv("http_proxy", hub.url)
    hub.faults[NAME] = deque([fake_hub.redirect(f"http://delivery.invalid/u/r/resolve/{COMMIT}/{NAME}")])
    job = job_of(hub, tmp_path, endpoint="http://hub.invalid", token=TOKEN)
    assert run(job)[-1]["event"] == "finished"
    check_whole(tmp_path)
    assert [seen.path.split("/")[2] for seen in hub.seen] == ["hub.invalid", "hub.invalid", "delivery.invalid"]
    assert [seen.headers.get("authorization") for seen in hub.seen] == [f"Bearer {TOKEN}"] * 2 + [None]
    hub.always[NAME] = fake_hub.redirect("http://169.254.169.254/")
    check_failed(run(dataclasses.replace(job, cache_dir=str(tmp_path / "b"))), tmp_path / "b", "Refused", "not the address of a server")


def test_offline(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check_failed(run(job_of(hub, tmp_path)), tmp_path, "Refused", "HF_HUB_OFFLINE is set")
    assert hub.seen == []


def test_endless_redirects(hub: FakeHub, tmp_path: Path) -> None:
    hub.always[NAME] = fake_hub.redirect(f"/u/r/resolve/{COMMIT}/{NAME}")
    check_failed(run(job_of(hub, tmp_path)), tmp_path, "Refused", "redirect")


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("127.0.0.1", Place.HERE),
        ("::1", Place.HERE),
        ("localhost", Place.HERE),
        ("8.8.8.8", Place.WORLD),
        ("192.168.1.1", Place.NETWORK),
        ("100.64.0.1", Place.NETWORK),
        ("224.0.0.1", Place.NOWHERE),
        ("fe80::1", Place.NOWHERE),
        ("2002:7f00:1::", Place.HERE),
        ("64:ff9b::7f00:1", Place.HERE),
        ("64:ff9b::8.8.8.8", Place.WORLD),
        ("::7f00:1", Place.NETWORK),
        ("2606:4700::1111", Place.WORLD),
    ],
)
def test_places(host: str, place: Place) -> None:
    assert place_of(host) is place
