"""What is prepared for the model that comes next: the spare, and the page cache."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from fake_room import Room

from fastrouter.system import read_ahead as read_ahead_module
from fastrouter.system.read_ahead import LARGE_BYTES, STEP_BYTES, is_missing, read_ahead, reading_ahead


def turns(room: Room, models: str) -> None:
    for model in models:
        room.supervisor.note_turn(room.spec(model), "")
        room.use(model)


def prepared(room: Room) -> str | None:
    """The model that the spare opens."""
    path = room.maker.workers[-1].primed.path
    return None if path is None else Path(path).name


ROOMS: list[Room] = []


@pytest.fixture(autouse=True)
def rooms_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # the order of one test must not reach the next one
    yield
    while ROOMS:
        ROOMS.pop().close()


def room_of(models_max: int, **settings: Any) -> Room:
    ROOMS.append(Room(models_max, **settings))
    return ROOMS[-1]


def test_agents_take_turns_and_the_next_one_is_prepared() -> None:
    room = room_of(1)
    turns(room, "abcabcabc")
    assert prepared(room) == "a"
    turns(room, "a")
    assert prepared(room) == "b"


def test_without_an_order_it_is_the_model_that_left_last() -> None:
    room = room_of(1)
    turns(room, "abc")
    assert prepared(room) == "b"


def test_with_one_flag_nothing_is_learned() -> None:
    room = room_of(1, foresee=False)
    turns(room, "abcabcabc")
    assert prepared(room) == "b"


def test_a_client_says_what_comes_next() -> None:
    room = room_of(1)
    turns(room, "abc")
    room.supervisor.expect(room.spec("x"))
    assert prepared(room) == "x"  # it was never loaded
    turns(room, "x")
    assert prepared(room) == "c"  # the hint is used up
    room.supervisor.expect(room.spec("x"))
    assert prepared(room) == "c"  # it is loaded


def test_a_resident_model_needs_no_preparation() -> None:
    room = room_of(2)
    turns(room, "ababababab")
    assert prepared(room) is None


def is_cached(path: Path, at: int) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(fd, [bytearray(1)], at, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def uncached(path: Path, size: int) -> Path:
    """A file of this size, none of which is in the page cache."""
    path.write_bytes(os.urandom(size))
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    try:
        if any(is_cached(path, at) for at in (size // 2, size - 1)):
            pytest.skip("this file system does not let pages go")
    except OSError as error:
        pytest.skip(f"this file system cannot tell: {error}")
    return path


def test_a_file_is_read_into_the_page_cache(tmp_path: Path) -> None:
    size = 2 * STEP_BYTES + 4097
    path = uncached(tmp_path / "large.gguf", size)
    read_ahead([str(tmp_path / "missing"), str(path)])
    assert all(is_cached(path, at) for at in (STEP_BYTES // 2, STEP_BYTES + STEP_BYTES // 2, size - 1))


def test_a_large_file_is_missing_until_it_was_read(tmp_path: Path) -> None:
    path = uncached(tmp_path / "large.gguf", LARGE_BYTES)
    assert is_missing(str(path))
    read_ahead([str(path)])
    assert not is_missing(str(path))
    small = uncached(tmp_path / "small.gguf", LARGE_BYTES - 1)
    assert not is_missing(str(small)), "it is read in no time"
    assert not is_missing(str(tmp_path / "none.gguf"))


def test_a_load_reads_the_file_beside_its_other_work(tmp_path: Path) -> None:
    path = uncached(tmp_path / "large.gguf", LARGE_BYTES)
    num_threads = threading.active_count()
    with reading_ahead([str(path)]):
        until(lambda: not is_missing(str(path)))
    until(lambda: threading.active_count() == num_threads)
    with reading_ahead([str(path)]):
        assert threading.active_count() == num_threads, "there is nothing to read"


def until(is_so: Callable[[], bool]) -> None:
    eventually(is_so, "so")


def test_reading_ends_when_it_is_not_wanted(tmp_path: Path) -> None:
    path = uncached(tmp_path / "large.gguf", 4 * STEP_BYTES)
    read_ahead([str(path)], lambda: False)
    assert is_missing(str(path))


def test_an_old_kernel_reads_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = uncached(tmp_path / "large.gguf", LARGE_BYTES + 4097)
    monkeypatch.setattr(read_ahead_module, "_POPULATE_READ", 9999)
    read_ahead([str(path)])
    assert not is_missing(str(path))
