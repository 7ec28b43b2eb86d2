"""Parked prompts on disk: they survive the router, and a file that is wrong is only a prompt that is gone. Fake workers, real files."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_room import Room, submit
from fake_workers import FakeWorker
from house import Collector

from fastrouter.ipc.messages import Drop, Lend, Parked, Unusable
from fastrouter.ipc.parked import read_foot
from fastrouter.supervisor import parked_files as parked_files_module

MIB = 1 << 20
Rooms = Any


@pytest.fixture
def room_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rooms]:
    """The room before it has closed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rooms: list[Room] = []

    def make(*args: Any, **settings: Any) -> Room:
        if rooms:
            rooms.pop().close()
        rooms.append(Room(*args, **{"park_ram_mib": 100, "park_dir": tmp_path / "parked", **settings}))
        rooms[-1].advance()
        return rooms[-1]

    yield make
    for room in rooms:
        room.close()


def answered(room: Room, model: str) -> FakeWorker:
    """The worker of a model that has answered a request."""
    lease = room.lease(model)
    answer = submit(lease, Collector())
    worker = room.worker(model)
    worker.answer()
    assert answer.finish is not None
    lease.release()
    room.advance(0.1)
    return worker


def park(room: Room, worker: FakeWorker, entry_id: int, num_bytes: int = 5000) -> None:
    from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl

    fd = os.memfd_create("parked", os.MFD_ALLOW_SEALING)
    os.write(fd, bytes([entry_id]) * num_bytes)
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
    assert worker.its_descriptors.send(entry_id, fd)
    os.close(fd)
    worker.say(Parked(entry_id, 100, 50.0, []))
    room.advance(1.0)


def sent(worker: FakeWorker, kind: type[Any]) -> list[Any]:
    return [message for message in worker.sent if isinstance(message, kind)]


def lent(worker: FakeWorker) -> dict[int, bytes]:
    """The first bytes of what it was lent last, by id."""
    found = {}
    for entry_id in sent(worker, Lend)[-1].entry_ids:
        fd = worker.its_descriptors.take(entry_id)
        found[entry_id] = os.pread(fd, 3, 0)
        os.close(fd)
    return found


def files(folder: Path) -> list[Path]:
    return sorted((folder / "parked").glob("*.parked"))


def test_a_prompt_survives_the_router(room_of: Rooms, tmp_path: Path) -> None:
    room = room_of()
    park(room, answered(room, "a"), 7)
    [path] = files(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with path.open("rb") as file:
        foot = read_foot(file.fileno())
    assert (foot.model_id, foot.num_tokens, foot.saves_ms, foot.num_bytes) == ("a", 100, 50.0, 5000)
    again = room_of()
    assert again.supervisor.parking.held("a") == (1, 5000)
    assert again.supervisor.parking.num_bytes == 0, "it takes no memory"
    assert lent(answered(again, "a")) == {7: b"\7\7\7"}
    assert lent(answered(again, "b")) == {}


def test_a_model_that_was_loaded_before_the_folder_was_read(room_of: Rooms, tmp_path: Path) -> None:
    room = room_of()
    worker = answered(room, "a")
    park(room, worker, 7)
    [path] = files(tmp_path)
    path.with_name("0000000000009.parked").write_bytes(path.read_bytes())
    with path.open("rb") as file:
        foot = read_foot(file.fileno())
    other = answered(room, "b")
    room.supervisor.parking._find([(9, foot, 5.0)])
    assert lent(worker) == {9: b"\7\7\7"}
    assert lent(other) == {}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[1:]),
        lambda path: path.write_bytes(b"another program's"),
        lambda path: path.rename(path.with_name("not a number.parked")),
    ],
    ids=["empty", "cut", "cut at the start", "foreign", "renamed"],
)
def test_a_file_that_is_wrong_is_removed(room_of: Rooms, tmp_path: Path, spoil: Any, caplog: pytest.LogCaptureFixture) -> None:
    room = room_of()
    park(room, answered(room, "a"), 7)
    [path] = files(tmp_path)
    spoil(path)
    assert room_of().supervisor.parking.held("a") == (0, 0)
    assert files(tmp_path) == []
    assert len([record for record in caplog.records if "cannot be used and is removed" in record.message]) == 1


def test_what_others_could_have_written_is_left_alone(room_of: Rooms, tmp_path: Path) -> None:
    room = room_of()
    for entry_id in (7, 8, 9):
        park(room, answered(room, "a"), entry_id)
    open_to_others, link, _ = files(tmp_path)
    open_to_others.chmod(0o644)
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "parked" / "left.part").write_bytes(b"half")
    os.mkfifo(tmp_path / "parked" / "00000000000aa.parked", 0o600)
    assert room_of().supervisor.parking.held("a") == (1, 5000)
    assert open_to_others.exists()
    assert link.is_symlink()
    assert not (tmp_path / "parked" / "left.part").exists()


def test_a_full_disk_is_said_once(
    room_of: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    room = room_of()
    worker = answered(room, "a")

    def refuse(fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(parked_files_module, "_write_all", refuse)
        for entry_id in (7, 8):
            park(room, worker, entry_id)
    assert [record.message.partition(": ")[2] for record in caplog.records if "parked prompts" in record.message] == [
        os.strerror(errno.ENOSPC)
    ]
    assert room.supervisor.parking.held("a") == (2, 10_000), "they are in memory"
    park(room, worker, 9)
    assert [path.name for path in (tmp_path / "parked").iterdir() if path.name != "lock"] == ["0000000000009.parked"]


def test_what_leaves_memory_stays_on_disk(room_of: Rooms) -> None:
    room = room_of()
    worker = answered(room, "a")
    park(room, worker, 7)
    parking = room.supervisor.parking
    assert parking.shrink(1) == 5000
    assert (parking.num_bytes, parking.held("a")) == (0, (1, 5000))
    assert [drop.entry_ids for drop in sent(worker, Drop)] == [[7]]
    assert lent(worker) == {7: b"\7\7\7"}, "its worker goes on with the file"
    assert parking.shrink(1) == 0


def test_the_folder_has_a_limit(room_of: Rooms, tmp_path: Path) -> None:
    room = room_of(park_disk_mib=1)
    worker = answered(room, "a")
    for entry_id in (7, 8, 9):
        park(room, worker, entry_id, 400 << 10)
    assert [int(path.stem, 16) for path in files(tmp_path)] == [8, 9]
    assert room.supervisor.parking.held("a")[0] == 3
    room.supervisor.parking.shrink(10 * MIB)
    assert room.supervisor.parking.held("a")[0] == 2


def test_dropped_prompts_leave_no_file(room_of: Rooms, tmp_path: Path) -> None:
    room = room_of()
    worker = answered(room, "a")
    for entry_id in (7, 8):
        park(room, worker, entry_id)
    worker.say(Unusable(7, "it is damaged"))
    room.advance()
    assert [int(path.stem, 16) for path in files(tmp_path)] == [8]
    assert room.supervisor.parking.drop(["a"]) == (1, 5000)
    room.advance()
    assert files(tmp_path) == []


def test_two_routers_do_not_share_a_folder(room_of: Rooms, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    room_of()
    other = Room(park_ram_mib=100, park_dir=tmp_path / "parked")
    other.advance()
    assert [record.message.partition(": ")[2] for record in caplog.records if "--park-dir" in record.message] == [
        "another fastrouter uses it"
    ]
    worker = answered(other, "a")
    park(other, worker, 7)
    assert other.supervisor.parking.held("a") == (1, 5000)
    assert files(tmp_path) == []
    other.close()


def test_a_folder_that_cannot_be_made(room_of: Rooms, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    room = room_of(park_dir=tmp_path / "file" / "below")
    park(room, answered(room, "a"), 7)
    assert room.supervisor.parking.held("a") == (1, 5000)
    assert [record for record in caplog.records if "is not used: Not a directory" in record.message]


def test_workers_park_before_the_router_ends(room_of: Rooms, tmp_path: Path) -> None:
    room = room_of()
    worker = answered(room, "a")
    stopping = room.begin(room.supervisor.stop(0))
    park(room, worker, 7)
    room.advance(20)
    stopping.result()
    assert len(files(tmp_path)) == 1
