"""The key ring without a server: the contents of a key file, the owner of a key, changes of the file."""

import logging
import os
import re
from pathlib import Path

import pytest

from fastrouter.errors import ConfigError, InvalidApiKey, RateLimited
from fastrouter.http.api_keys import Caller, KeyRing, KeyScope, read_keys

ALICE = "alice-key  name=alice models=planner,coder-* read-only concurrency=2"


def ring_of(path: Path, text: str, *keys: str) -> KeyRing:
    path.write_text(text)
    return KeyRing(keys, path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.txt"


def found(ring: KeyRing, key: str) -> Caller:
    caller = ring.find(key.encode())
    assert caller is not None
    return caller


def rewrite(path: Path, text: str) -> None:
    """As an editor does it; the time of the change differs even on a coarse clock."""
    before = path.stat().st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


# ---------------------------------------------------------------- the file


def test_lines() -> None:
    text = f"# mine\n\n  plain \t\r\n{ALICE}\nbob\tconcurrency=1 # at most\ncarol models=a,,b\n  # nobody\nö#x read-only\n"
    assert read_keys(text, "f") == {
        "plain": None,
        "alice-key": KeyScope("alice", ("planner", "coder-*"), True, 2),
        "bob": KeyScope(concurrency=1),
        "carol": KeyScope(models=("a", "b")),
        "ö#x": KeyScope(is_read_only=True),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f: holds no keys"),
        ("# only\n\n", "f: holds no keys"),
        ("a\na", "f:2: this key appears twice"),
        ("a\n\nb secret", "f:3: word 2 must be one of name="),
        ("a read-only=1", "f:1: word 2 must be one of"),
        ("a name=x models", "f:1: word 3 must be one of"),
        ("a name=", "f:1: name= needs a printable name"),
        ("a name=\x1b[2J", "f:1: name= needs a printable name"),
        ("a models=,", "f:1: models= needs a model"),
        ("a models=x models=y", "f:1: models appears twice"),
        ("a read-only read-only", "f:1: read-only appears twice"),
        ("a concurrency=0", "f:1: concurrency= must be a whole number from 1"),
        ("a concurrency=-1", "f:1: concurrency= must be"),
        ("a concurrency=1e3", "f:1: concurrency= must be"),
        ("a concurrency=²", "f:1: concurrency= must be"),
        ("a concurrency=99999999999999999999", "f:1: concurrency= must be"),
    ],
)
def test_mistakes_name_the_line_and_never_what_is_in_it(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read_keys(text, "f")
    assert "secret" not in caught.value.message


def test_a_file_that_cannot_be_read_is_named(path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--api-key-file {path}: there is no such file")):
        KeyRing((), path)
    path.write_bytes(b"a\xff")
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 1"):
        KeyRing((), path)


# ---------------------------------------------------------------- who it is


def test_find(path: Path) -> None:
    ring = ring_of(path, f"plain\n{ALICE}\nschlüssel\n", "given")
    assert len(ring) == 4
    assert [ring.find(key.encode()) for key in ("given", "plain", "schlüssel")] == [None, None, None]
    assert repr(found(ring, "alice-key")) == "<Caller alice 0 running>"
    for wrong in ("", "alice", "alice-key ", "alice-keyx", "ALICE-KEY", "name=alice", "schlussel"):
        with pytest.raises(InvalidApiKey):
            ring.find(wrong.encode())
    assert not KeyRing()


def test_no_key_is_kept(path: Path) -> None:
    ring = ring_of(path, ALICE, "sekret")
    assert "sekret" not in repr(vars(ring))
    assert "alice-key" not in repr(vars(ring))


def test_a_key_that_is_given_twice_would_have_two_scopes(path: Path) -> None:
    with pytest.raises(ConfigError, match="--api-key gives one of its keys too"):
        ring_of(path, "same read-only\n", "same")


@pytest.mark.parametrize(
    ("patterns", "names", "can_see"),
    [
        ("planner,coder-*", ("planner",), True),
        ("planner,coder-*", ("coder-7b",), True),
        ("planner,coder-*", ("Coder-7b",), False),
        ("planner,coder-*", ("planner2",), False),
        ("planner,coder-*", ("xplanner",), False),
        ("planner,coder-*", ("other", "coder-"), True),  # by an alias
        ("user/*", ("user/repo:Q4",), True),
        ("q[0-9]", ("q4",), True),
        ("q[0-9]", ("qx",), False),
        ("a?c", ("abc\n",), False),
        ("*", ("anything/at:all",), True),
        ("a.c", ("abc",), False),
    ],
)
def test_models_are_shell_patterns(patterns: str, names: tuple[str, ...], can_see: bool) -> None:
    assert Caller(KeyScope(models=tuple(patterns.split(",")))).can_see(names) is can_see


def test_a_key_without_models_sees_all() -> None:
    assert Caller(KeyScope("x")).can_see(("anything",))


def test_concurrency() -> None:
    caller = Caller(KeyScope("alice", concurrency=2))
    caller.enter()
    caller.enter()
    with pytest.raises(RateLimited, match="the key alice has 2 requests running or waiting, and may have 2") as caught:
        caller.enter()
    assert (caught.value.status, caught.value.type, caught.value.retry_after_s) == (429, "rate_limit_error", 1)
    assert caller.num_running == 2
    caller.leave()
    caller.enter()
    nameless = Caller(KeyScope(concurrency=1))
    nameless.enter()
    with pytest.raises(RateLimited, match=r"^this key has"):
        nameless.enter()


# ---------------------------------------------------------------- changes


def test_reload_keeps_callers_and_their_counts(path: Path) -> None:
    ring = ring_of(path, f"{ALICE}\nbob read-only\ncarol\n")
    alice = found(ring, "alice-key")
    alice.enter()
    rewrite(path, "alice-key name=alice models=planner\ncarol concurrency=1\ndave\n")
    ring.reload()
    assert found(ring, "alice-key") is alice
    assert (alice.models, alice.is_read_only, alice.num_running) == (("planner",), False, 1)
    assert not alice.can_see(("coder-7b",))
    assert found(ring, "carol").scope == KeyScope(concurrency=1)
    assert ring.find(b"dave") is None
    with pytest.raises(InvalidApiKey):
        ring.find(b"bob")


def test_a_bad_reload_changes_nothing(path: Path) -> None:
    ring = ring_of(path, "a\nb read-only\n", "given")
    for text in ("", "# all gone\n", "new\nb read-only=no\n", "new\nnew\n", "given\n"):
        rewrite(path, text)
        with pytest.raises(ConfigError):
            ring.reload()
    path.unlink()
    with pytest.raises(ConfigError, match="there is no such file"):
        ring.reload()
    assert len(ring) == 3
    assert found(ring, "b").is_read_only


def test_refresh_reads_a_changed_file_once_it_rests(path: Path) -> None:
    ring = ring_of(path, "a\n")
    ring.refresh()
    rewrite(path, "b\n")
    ring.refresh()  # it may still be written
    assert ring.find(b"a") is None
    ring.refresh()
    assert ring.find(b"b") is None
    with pytest.raises(InvalidApiKey):
        ring.find(b"a")


def test_refresh_says_once_what_is_wrong(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ring = ring_of(path, "a\n")
    with caplog.at_level(logging.INFO, "fastrouter.http"):
        rewrite(path, "a\nb sekret\n")
        for _ in range(5):
            ring.refresh()
        assert [record.getMessage() for record in caplog.records] == [
            f"--api-key-file {path}:2: word 2 must be one of name=, models=, read-only or concurrency=; the old keys stay in use"
        ]
        caplog.clear()
        path.unlink()
        for _ in range(5):
            ring.refresh()
        assert [record.getMessage() for record in caplog.records] == [
            f"--api-key-file {path}: there is no such file; the old keys stay in use"
        ]
        assert ring.find(b"a") is None
        caplog.clear()
        path.write_text("c\n")
        for _ in range(5):
            ring.refresh()
        assert [record.getMessage() for record in caplog.records] == [f"--api-key-file {path}: read again after a change"]
        assert ring.find(b"c") is None
