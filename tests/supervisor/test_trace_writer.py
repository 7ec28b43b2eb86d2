"""What --record writes: no content, a file for its owner only; a full disk ends the recording and nothing else."""

import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_room import Room, submit
from house import Collector

from fastrouter.errors import ConfigError
from fastrouter.supervisor import trace_writer
from fastrouter.supervisor.trace_writer import TraceWriter, open_trace


@pytest.fixture(autouse=True)
def no_facts_of_earlier_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def events_of(path: Path, *kinds: str) -> list[dict[str, Any]]:
    return [line for line in lines_of(path) if line["event"] in kinds]


def room_of(path: Path, models_max: int = 1, **settings: Any) -> tuple[Room, TraceWriter]:
    trace = open_trace(str(path))
    room = Room(models_max, trace=trace, **settings)
    room.maker.meta["a"] = {"memory": {"host_bytes": 5 << 20, "device_bytes": 1 << 20}, "load_ms": 800.0}
    return room, trace


def end(room: Room, trace: TraceWriter) -> None:
    room.close()
    trace.close()


def test_a_switch(tmp_path: Path) -> None:
    path = tmp_path / "t"
    room, trace = room_of(path, queue_timeout_s=60.0)
    room.settle("a", size_bytes=4 << 20, ttl_s=30.0, is_pinned=False)
    first = room.begin(room.supervisor.acquire(room.spec("a"), True, 2, "key"))
    room.advance(1.5)
    first.result().release()
    room.use("b")
    end(room, trace)
    lines = lines_of(path)
    assert [line["event"] for line in lines] == [
        *("trace", "model", "request", "load", "end"),
        *("model", "request", "leave", "gone", "load", "end", "stop"),
    ]
    head, model, request, load, ended, _, _, leave, gone, *_ = lines
    assert (head["format"], head["version"], head["models_max"], head["queue_timeout_s"]) == ("fastrouter trace", 1, 1, 60.0)
    assert (model["model"], model["size_bytes"], model["host_bytes"], model["ttl_s"], model["pinned"]) == (
        "a",
        4 << 20,
        4 << 20,
        30.0,
        False,
    )
    assert {name: request[name] for name in ("t", "id", "model", "client", "priority", "autoload")} == {
        "t": 0.0,
        "id": 1,
        "model": "a",
        "client": 1,
        "priority": 2,
        "autoload": True,
    }
    assert (load["t"], load["took_s"], load["usual_s"], load["host_bytes"], load["device_bytes"]) == (1.0, 1.0, 0.8, 5 << 20, 1 << 20)
    assert (ended["id"], ended["outcome"], ended["wait_s"], ended["run_s"]) == (1, "done", 1.0, 0.5)
    assert (leave["model"], leave["reason"], gone["took_s"]) == ("a", "count", 0.01)
    assert [line["t"] for line in lines] == sorted(line["t"] for line in lines)


def test_clients_are_numbers_and_no_text_is_written(tmp_path: Path) -> None:
    path = tmp_path / "t"
    room, trace = room_of(path)
    for client in ("secret-key", "", "secret-key", None):
        lease = room.begin(room.supervisor.acquire(room.spec("a"), True, 0, client))
        room.advance(1.1)
        submit(lease.result(), Collector())  # its prompt is "hello"
        lease.result().count_prompt(7, 3)
        lease.result().keep_alive(float("inf"))
        room.worker("a").answer(b"words")
        lease.result().release()
    end(room, trace)
    assert [line["client"] for line in events_of(path, "request")] == [1, 2, 1, None]
    ended = events_of(path, "end")[0]
    assert (ended["prompt_tokens"], ended["cached_tokens"], ended["tokens"], ended["keep_alive_s"]) == (7, 3, 1, -1.0)
    assert not any(word in path.read_text() for word in ("secret", "hello", "words"))


def test_requests_that_do_not_get_their_model(tmp_path: Path) -> None:
    path = tmp_path / "t"
    room, trace = room_of(path, queue_timeout_s=3.0)
    lease = room.lease("a")
    waits, leaves = room.ask("b"), room.ask("b")
    room.advance(1.0)
    leaves.cancel()
    room.advance(5.0)
    refused = room.ask("c", autoload=False)
    room.advance(0.1)
    assert [type(task.exception()).__name__ for task in (waits, refused)] == ["Unavailable", "ModelNotLoaded"]
    lease.release()
    end(room, trace)
    ended = {line["id"]: (line["outcome"], line.get("error"), round(line["wait_s"], 1)) for line in events_of(path, "end")}
    assert ended == {
        1: ("done", None, 1.0),
        2: ("refused", "Unavailable", 3.0),
        3: ("left", None, 1.0),
        4: ("refused", "ModelNotLoaded", 0.0),
    }


def test_what_users_ask_for_and_loads_that_fail(tmp_path: Path) -> None:
    path = tmp_path / "t"
    room, trace = room_of(path, load_s=float("inf"))
    room.begin(room.supervisor.load(room.spec("a")))
    room.advance(0.5)
    room.worker("a").fail("it is broken")
    room.worker("a").die(1)
    room.advance(1.0)
    room.begin(room.supervisor.load(room.spec("a")))
    room.advance(0.25)
    room.supervisor.unload("a")
    room.supervisor.pin(room.spec("a"), True)
    room.advance(1.0)
    end(room, trace)
    assert [line["do"] for line in events_of(path, "ask")] == ["load", "load", "unload", "pin"]
    assert [(line["outcome"], line["took_s"]) for line in events_of(path, "load")] == [("failed", 0.5), ("cut", 0.25)]
    assert not events_of(path, "leave")


def test_a_model_that_sleeps_leaves_once(tmp_path: Path) -> None:
    path = tmp_path / "t"
    room, trace = room_of(path)
    room.settle("a", sleep_idle_s=5.0, ttl_s=60.0)
    room.use("a")
    room.advance(100.0)
    room.use("a")
    end(room, trace)
    assert [line["reason"] for line in events_of(path, "leave")] == ["sleep"]
    assert len(events_of(path, "load")) == 2


def test_only_its_owner_can_read_the_file(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        open_trace(str(tmp_path / "t")).close()
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == 0o600


def test_a_later_run_is_added(tmp_path: Path) -> None:
    path = tmp_path / "t"
    for _ in range(2):
        room, trace = room_of(path)
        room.use("a")
        end(room, trace)
        with path.open("ab") as file:
            file.write(b'{"t": 9, "eve')  # as when the router is killed
    whole = [line for line in path.read_text().splitlines() if line.endswith("}")]
    assert sum('"trace"' in line for line in whole) == 2


@pytest.mark.parametrize("name", ["", "no/such/folder/t", "fifo"])
def test_a_file_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match=r"^--record .*: \w"):
        open_trace(str(tmp_path / name))


def test_a_full_disk_ends_the_recording(caplog: pytest.LogCaptureFixture) -> None:
    check_it_ends(open_trace("/dev/full"), caplog, "No space left on device")


def test_a_file_that_grows_too_large_ends_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trace_writer, "MAX_FILE_BYTES", 500)
    check_it_ends(open_trace(str(tmp_path / "t")), caplog, "it has 0 MiB")
    assert 0 < (tmp_path / "t").stat().st_size <= 500


def check_it_ends(trace: TraceWriter, caplog: pytest.LogCaptureFixture, why: str) -> None:
    """One warning; requests go on."""
    with caplog.at_level(logging.WARNING, "fastrouter"):
        room = Room(1, trace=trace)
        for _ in range(5):
            room.use("a", "b")
        end(room, trace)
    assert [record.message for record in caplog.records].count(
        f"--record {trace.path}: {why}. The recording ends here; the router goes on"
    ) == 1
    assert len(caplog.records) == 1


def test_a_slow_disk_delays_nothing(tmp_path: Path) -> None:
    """Lines wait in memory, but only a limited number of them."""

    class Stuck(trace_writer.TraceFile):
        def write(self, data: bytes) -> None:
            gate.wait()
            super().write(data)

    gate = threading.Event()
    trace = TraceWriter(Stuck(str(tmp_path / "t")))
    room = Room(1, trace=trace)
    lease = room.lease("a")
    for _ in range(6000):
        room.supervisor.acquire_now(room.spec("a")).release()  # type: ignore[union-attr]
    lease.release()
    gate.set()
    end(room, trace)
    assert 1000 < len(lines_of(tmp_path / "t")) < 6000


def test_it_is_closed_twice(tmp_path: Path) -> None:
    trace = open_trace(str(tmp_path / "t"))
    trace.close()
    trace.close()
    assert [line["event"] for line in lines_of(tmp_path / "t")] == ["stop"]
