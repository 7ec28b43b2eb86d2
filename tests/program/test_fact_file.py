"""Facts on disk: stored, limited in number, and never a cause of failure."""

import contextlib
import logging
import os
import resource
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from fastrouter.system import fact_file
from fastrouter.system.fact_file import FactFile, cache_folder


def facts(folder: Path, version: int = 1, max_entries: int = 100) -> FactFile:
    return FactFile("facts", version, max_entries, environ={"XDG_CACHE_HOME": str(folder)})


def file_of(folder: Path) -> Path:
    return folder / "fastrouter" / "facts.json"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder that holds a=1."""
    first = facts(tmp_path)
    first.put("a", 1)
    first.save()
    return tmp_path


def test_where_facts_are_kept() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/x", "HOME": "/home/me"}) == Path("/x/fastrouter")
    assert cache_folder({"XDG_CACHE_HOME": "", "HOME": "/home/me"}) == Path("/home/me/.cache/fastrouter")
    assert cache_folder({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}) == Path("/home/me/.cache/fastrouter")
    assert cache_folder({}) is None


def test_facts_outlive_their_process(tmp_path: Path) -> None:
    first = facts(tmp_path)
    assert first.get("a") is None
    first.put("a", {"n": [1, 2.5, None, "ä"]})
    first.put("b", 2)
    assert not file_of(tmp_path).exists()
    assert repr(first) == f"<FactFile {file_of(tmp_path)}: 2 entries, dirty>"
    first.save()
    second = facts(tmp_path)
    assert (second.get("a"), second.get("b")) == ({"n": [1, 2.5, None, "ä"]}, 2)
    assert stat.S_IMODE(file_of(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(file_of(tmp_path).parent.stat().st_mode) == 0o700
    assert os.listdir(file_of(tmp_path).parent) == ["facts.json"]


def test_nothing_new_is_not_written(kept: Path) -> None:
    file_of(kept).write_bytes(b"marked")
    facts(kept).save()
    assert file_of(kept).read_bytes() == b"marked"
    again = facts(kept)
    again.put("a", 1)
    again.save()
    file_of(kept).write_bytes(b"marked")
    again.put("a", 1)
    again.save()
    assert file_of(kept).read_bytes() == b"marked"
    again.put("a", 2)
    again.save()
    assert facts(kept).get("a") == 2


def test_without_a_home_facts_are_in_memory_only() -> None:
    nowhere = FactFile("facts", 1, 10, environ={})
    nowhere.put("a", 1)
    nowhere.save()
    assert nowhere.get("a") == 1
    assert repr(nowhere) == "<FactFile nowhere: 1 entries, dirty>"


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    first = facts(tmp_path, max_entries=3)
    for key in "abc":
        first.put(key, key)
    assert first.get("a") == "a"
    first.put("d", "d")
    first.save()
    second = facts(tmp_path, max_entries=3)
    assert [second.get(key) for key in "abcd"] == ["a", None, "c", "d"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\x00",
        b'{"name":"fastrouter facts","version":2,"entries":{"a":1}}',
        b'{"name":"fastrouter other","version":1,"entries":{"a":1}}',
        b'{"name":"fastrouter facts","version":1,"entries":[1]}',
        b'{"name":"fastrouter facts","version":1}',
        b"[" * 100_000,
    ],
)
def test_a_file_that_is_not_ours_counts_for_nothing(kept: Path, content: bytes) -> None:
    file_of(kept).write_bytes(content)
    second = facts(kept)
    assert second.get("a") is None
    second.put("b", 2)
    second.save()
    assert facts(kept).get("b") == 2


def test_every_cut_of_the_file_counts_for_nothing(kept: Path) -> None:
    whole = file_of(kept).read_bytes()
    for length in range(len(whole)):
        file_of(kept).write_bytes(whole[:length])
        assert facts(kept).get("a") is None


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_no_odd_file_is_read(tmp_path: Path, kind: str) -> None:
    path = file_of(tmp_path)
    path.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    odd = facts(tmp_path)
    assert odd.get("a") is None
    odd.put("a", 1)
    odd.save()  # a folder with that name stays; all others are replaced
    assert facts(tmp_path).get("a") == (None if kind == "folder" else 1)


def test_a_file_that_is_too_large_is_left_alone(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fact_file, "MAX_FILE_BYTES", file_of(kept).stat().st_size - 1)
    assert facts(kept).get("a") is None


def test_the_file_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fact_file, "MAX_FILE_BYTES", 1000)
    first = facts(tmp_path)
    for number in range(100):
        first.put(f"key{number}", "x" * 50)
    first.save()
    assert file_of(tmp_path).stat().st_size <= 1000
    second = facts(tmp_path)
    assert second.get("key99") == "x" * 50
    assert second.get("key0") is None


@pytest.mark.parametrize("bad", [{"k": "\ud800"}, {"\ud800": 1}, {"k": 2**70}, {"k": object()}])
def test_what_json_cannot_hold_is_forgotten_alone(tmp_path: Path, bad: dict[str, Any]) -> None:
    first = facts(tmp_path)
    first.put("a", 1)
    for key, value in bad.items():
        first.put(key, value)
        assert first.get(key) is value
    first.save()
    assert facts(tmp_path).get("a") == 1
    assert list(orjson.loads(file_of(tmp_path).read_bytes())["entries"]) == ["a"]


# ---------------------------------------------------------------- disks that fail


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Every file ends at 100 bytes: the write fails half way, as on a full disk. Not a fixture, because pytest has a report to write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_file(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = file_of(kept).read_bytes()
    second = facts(kept)
    second.put("b", "x" * 1000)
    with caplog.at_level(logging.WARNING, "fastrouter"), full_disk():
        second.save()
        second.save()
    assert second.get("b") == "x" * 1000
    assert file_of(kept).read_bytes() == old
    assert os.listdir(file_of(kept).parent) == ["facts.json"]
    assert [record.message for record in caplog.records] == [
        f"{file_of(kept)} cannot be written (File too large): its contents are measured again after a restart"
    ]


@pytest.mark.parametrize("call", ["mkdir", "mkstemp", "replace"])
@pytest.mark.parametrize("number", [5, 28, 30])  # EIO, ENOSPC, EROFS
def test_a_disk_that_fails_is_told_of_once(
    tmp_path: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    first = facts(tmp_path)
    first.put("a", 1)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "fastrouter"):
        patch.setattr(*{"mkdir": (Path, "mkdir"), "mkstemp": (tempfile, "mkstemp"), "replace": (os, "replace")}[call], fail)
        first.save()
        first.save()
    assert len(caplog.records) == 1
    assert os.strerror(number) in caplog.text
    assert not file_of(tmp_path).exists()
    first.save()
    assert facts(tmp_path).get("a") == 1
