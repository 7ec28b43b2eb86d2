"""A parked prompt as a file: what was written is read, it cannot change, and what is damaged is refused."""

import fcntl
import os
import zlib
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import descriptors

from fastrouter.ipc.parked import Foot, read_foot
from fastrouter.worker.kv import parked_file
from fastrouter.worker.kv.slots import Checkpoint

TOKENS = array("i", range(300, 400))
STATE = np.arange(5000, dtype=np.uint8)
CHECKPOINTS = [Checkpoint(40, np.full(77, 4, np.uint8)), Checkpoint(96, np.full(130, 5, np.uint8))]
ADAPTERS = ((0, 0.5), (3, 1.0))


def write(**changes: Any) -> int:
    fields = {"key": "k", "tokens": TOKENS, "adapters": ADAPTERS, "oldest": 12, "state": parked_file.copy_of(STATE)}
    fd = parked_file.write(**{**fields, "checkpoints": CHECKPOINTS, **changes})
    assert fd is not None
    return fd


def test_what_was_written_is_read() -> None:
    before = descriptors()
    fd = write()
    entry = parked_file.read(fd, "k").prompt
    os.close(fd)
    assert (entry.tokens, entry.adapters, entry.oldest) == (TOKENS, ADAPTERS, 12)
    assert np.array_equal(entry.state, STATE)
    assert [checkpoint.length for checkpoint in entry.checkpoints] == [40, 96]
    for read, written in zip(entry.checkpoints, CHECKPOINTS, strict=True):
        assert np.array_equal(read.state, written.state)
    assert entry.num_bytes == 5000 + 77 + 130
    del entry, read
    assert descriptors() == before


def test_it_cannot_change() -> None:
    fd = write()
    for change in (lambda: os.ftruncate(fd, 10), lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 1 << 20)):
        with pytest.raises(PermissionError):
            change()
    entry = parked_file.read(fd, "k").prompt
    with pytest.raises(ValueError, match="read-only"):
        entry.state[0] = 1
    os.close(fd)


def test_a_state_that_cannot_be_saved_leaves_nothing() -> None:
    before = descriptors()
    refused = (100, lambda target: False)
    assert parked_file.write("k", TOKENS, (), 0, refused, []) is None
    assert descriptors() == before


def test_of_another_model() -> None:
    fd = write()
    with pytest.raises(ValueError, match="another model"):
        parked_file.read(fd, "other")
    os.close(fd)


def changed(content: bytes) -> int:
    """As a worker that is wrong would have sealed it."""
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
    return fd


def on_disk(content: bytes, folder: Path, **about: Any) -> int:
    """With a foot, as the router writes it."""
    fields = {"num_bytes": len(content), "crc32": zlib.crc32(content), **about}
    (folder / "file").write_bytes(content + Foot("model", "k", 100, 5.0, **fields).to_bytes())
    return os.open(folder / "file", os.O_RDONLY)


def content_of(fd: int) -> bytes:
    try:
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 1, 11, 12, 50, 200, 700, 5000])
def test_cut_short(size: int) -> None:
    fd = changed(content_of(write())[:size])
    with pytest.raises(ValueError):  # noqa: PT011  # mmap's own for an empty file
        parked_file.read(fd, "k")
    os.close(fd)


@pytest.mark.parametrize(
    "about",
    [
        {"tokens": -1},
        {"tokens": 1 << 60},
        {"tokens": 1.0},
        {"tokens": 0},
        {"sizes": [5000, 77]},
        {"sizes": [5000, 77, 1 << 40]},
        {"sizes": [0, 77, 130]},
        {"sizes": None},
        {"lengths": []},
        {"oldest": "x"},
        {"oldest": True},
    ],
    ids=str,
)
def test_wrong_numbers(about: dict[str, Any]) -> None:
    content = content_of(write())
    length = int.from_bytes(content[8:12], "little")
    wrong = orjson.dumps({**orjson.loads(content[12 : 12 + length]), **about})
    fd = changed(content[:8] + len(wrong).to_bytes(4, "little") + wrong + content[12 + length :])
    with pytest.raises(ValueError, match=r"damaged|cut short"):
        parked_file.read(fd, "k")
    os.close(fd)


@given(st.integers(0, 400), st.integers(0, 255))
def test_any_byte_of_the_head(position: int, value: int) -> None:
    """Either it is refused, or it is a prompt with as many tokens as states have been made for."""
    content = bytearray(content_of(write()))
    content[position] = value
    fd = changed(bytes(content))
    try:
        entry = parked_file.read(fd, "k").prompt
    except ValueError:
        return
    finally:
        os.close(fd)
    assert entry.num_bytes <= len(content)
    assert len(entry.tokens) <= len(content)


# ---------------------------------------------------------------- on disk


def test_from_disk(tmp_path: Path) -> None:
    fd = on_disk(content_of(write()), tmp_path)
    found = parked_file.read(fd, "k")
    assert np.array_equal(found.prompt.state, STATE)
    assert found.is_intact()
    assert read_foot(fd) == Foot("model", "k", 100, 5.0, os.fstat(fd).st_size - len(read_foot(fd).to_bytes()), read_foot(fd).crc32)
    os.close(fd)


def test_a_state_that_was_changed_on_disk_is_noticed(tmp_path: Path) -> None:
    content = bytearray(content_of(write()))
    crc32 = zlib.crc32(content)
    content[-300] ^= 1
    fd = on_disk(bytes(content), tmp_path, crc32=crc32)
    assert not parked_file.read(fd, "k").is_intact()
    os.close(fd)


@pytest.mark.parametrize("about", [{"num_bytes": 7}, {"num_bytes": -1}, {"crc32": -1}, {"crc32": None}], ids=str)
def test_a_foot_that_does_not_fit(tmp_path: Path, about: dict[str, Any]) -> None:
    fd = on_disk(content_of(write()), tmp_path, **about)
    with pytest.raises(ValueError, match="damaged"):
        parked_file.read(fd, "k")
    os.close(fd)


@given(st.binary(max_size=300))
def test_any_end_of_a_file(end: bytes) -> None:
    fd = os.memfd_create("test")
    os.write(fd, end)
    with pytest.raises(ValueError, match=r"whole file|damaged"):
        read_foot(fd)
    os.close(fd)
