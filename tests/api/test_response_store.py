"""Stored responses are returned unchanged: after a restart, within a size, and only to their owner."""

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fastrouter.api import response_store
from fastrouter.api.response_store import FILE_NAME, ResponseStore
from fastrouter.errors import InvalidRequest

T = TypeVar("T")
LARGE = 1 << 24


def do(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def response(name: str, previous: str | None = None, text: str = "yes") -> dict[str, Any]:
    message = {"type": "message", "id": f"msg_{name}", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    return {"id": f"resp_{name}", "previous_response_id": previous, "output": [message]}


def asked(name: str) -> list[dict[str, Any]]:
    return [{"type": "message", "id": f"msg_in_{name}", "role": "user", "content": name}]


def put(store: ResponseStore, name: str, previous: str | None = None, owner: str = "", text: str = "yes") -> None:
    store.put(owner, response(name, previous, text), lambda: asked(name), 100)


def ids(items: list[dict[str, Any]] | None) -> list[str] | None:
    return None if items is None else [item["id"] for item in items]


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = ResponseStore(tmp_path / "state", LARGE)
    yield store
    store.close()


def test_a_response_comes_back(store: ResponseStore) -> None:
    put(store, "a")
    found = do(store.get("", "resp_a"))
    assert found is not None
    assert (found.response, found.input) == (response("a"), asked("a"))
    assert do(store.get("", "resp_b")) is None


def test_a_conversation_is_put_together(store: ResponseStore) -> None:
    put(store, "a")
    put(store, "b", "resp_a")
    put(store, "c", "resp_b")
    assert ids(do(store.conversation("", "resp_c"))) == ["msg_in_a", "msg_a", "msg_in_b", "msg_b", "msg_in_c", "msg_c"]
    assert ids(do(store.conversation("", "resp_a"))) == ["msg_in_a", "msg_a"]


def test_a_conversation_with_a_gap_is_not_there(store: ResponseStore) -> None:
    put(store, "a")
    put(store, "b", "resp_a")
    assert do(store.delete("", "resp_a")) is True
    assert do(store.conversation("", "resp_b")) is None
    assert do(store.get("", "resp_b")) is not None
    assert do(store.delete("", "resp_a")) is False


def test_it_survives_a_restart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        store = ResponseStore(tmp_path, LARGE)
        put(store, name, {"a": None, "b": "resp_a"}[name])
        store.close()
    again = ResponseStore(tmp_path, LARGE)
    assert ids(do(again.conversation("", "resp_b"))) == ["msg_in_a", "msg_a", "msg_in_b", "msg_b"]
    again.close()


def test_nobody_else_can_read_the_file(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path / "x" / "y", LARGE)
    put(store, "a")
    store.close()
    assert stat.S_IMODE(os.stat(tmp_path / "x" / "y").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(tmp_path / "x" / "y" / FILE_NAME).st_mode) == 0o600


def test_owners(store: ResponseStore) -> None:
    """An owner who may do everything sees everything. Other owners see only their own responses."""
    put(store, "a", owner="one")
    put(store, "b")
    for owner, sees in (("one", [True, False]), ("two", [False, False]), ("", [True, True])):
        assert [do(store.get(owner, f"resp_{name}")) is not None for name in "ab"] == sees
        assert [len(do(store.items(owner, [f"msg_{name}"]))) == 1 for name in "ab"] == sees
    put(store, "c", "resp_b", owner="one")
    assert do(store.conversation("one", "resp_c")) is None
    assert do(store.delete("two", "resp_a")) is False
    assert do(store.delete("one", "resp_a")) is True


def test_items_by_their_ids(store: ResponseStore) -> None:
    put(store, "a")
    found = do(store.items("", ["msg_a", "msg_in_a", "msg_of_nobody"]))
    assert found == {"msg_a": response("a")["output"][0], "msg_in_a": asked("a")[0]}


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    text = "x" * 10_000
    store = ResponseStore(tmp_path, 35_000)
    for name in "abc":
        put(store, name, text=text)
    assert do(store.get("", "resp_a")) is not None  # now b is the oldest
    put(store, "d", text=text)
    assert [do(store.get("", f"resp_{name}")) is not None for name in "abcd"] == [True, False, True, True]
    assert do(store.items("", ["msg_b"])) == {}
    put(store, "e", text="x" * 40_000)
    assert do(store.get("", "resp_e")) is None
    store.close()


def test_the_file_stays_small_and_deleted_texts_are_gone(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path, 100_000)
    for number in range(100):
        put(store, str(number), text=f"secret {number} " * 800)
        assert do(store.get("", f"resp_{number}")) is not None
    store.close()
    path = tmp_path / FILE_NAME
    assert path.stat().st_size < 200_000
    content = path.read_bytes()
    assert b"secret 99 " in content
    assert b"secret 5 " not in content


@pytest.mark.parametrize("content", [b"no database" * 1000, b""])
def test_a_damaged_file_begins_again(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    store = ResponseStore(tmp_path, LARGE)
    put(store, "a")
    assert do(store.get("", "resp_a")) is not None
    assert ("replaced by an empty one" in caplog.text) == bool(content)
    store.close()


def test_a_file_of_another_version_begins_again(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    store = ResponseStore(tmp_path, LARGE)
    put(store, "a")
    assert do(store.get("", "resp_a")) is not None
    store.close()


def test_without_a_place_for_a_file_it_is_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    for folder in (None, tmp_path / "file" / "below"):
        store = ResponseStore(folder, LARGE)
        put(store, "a")
        assert do(store.get("", "resp_a")) is not None
        store.close()
    assert caplog.text.count("kept in memory") == 1


def test_off(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path, 0)
    put(store, "a")
    assert do(store.get("", "resp_a")) is None
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_what_waits_for_a_slow_disk_is_bounded(
    store: ResponseStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(response_store, "MAX_PENDING_BYTES", 1000)
    is_ready = threading.Event()

    def slow_items() -> list[dict[str, Any]]:
        is_ready.wait(60)
        return asked("a")

    store.put("", response("a"), slow_items, 600)
    store.put("", response("b"), lambda: asked("b"), 600)
    store.put("", response("c"), lambda: asked("c"), 400)
    is_ready.set()
    assert [do(store.get("", f"resp_{name}")) is not None for name in "abc"] == [True, False, True]
    assert "response resp_b is not kept" in caplog.text
    store.put("", response("b"), lambda: asked("b"), 600)
    assert do(store.get("", "resp_b")) is not None


def test_what_cannot_be_written_costs_only_itself(store: ResponseStore, caplog: pytest.LogCaptureFixture) -> None:
    store.put("", {**response("a"), "strange": object()}, list, 100)
    put(store, "b")
    assert do(store.get("", "resp_b")) is not None
    assert "store of responses failed" in caplog.text


def test_two_routers_share_a_file(tmp_path: Path) -> None:
    one, other = ResponseStore(tmp_path, LARGE), ResponseStore(tmp_path, LARGE)
    put(one, "a")
    assert do(one.get("", "resp_a")) is not None
    put(other, "b", "resp_a")
    for store in (other, one):
        assert ids(do(store.conversation("", "resp_b"))) == ["msg_in_a", "msg_a", "msg_in_b", "msg_b"]
    one.close()
    other.close()


def test_an_id_of_an_item_that_several_owners_use(store: ResponseStore) -> None:
    store.put("ann", response("a"), lambda: [{"id": "same", "text": "ann's"}], 100)
    store.put("bob", response("b"), lambda: [{"id": "same", "text": "bob's"}], 100)
    assert [do(store.items(owner, ["same"]))["same"]["text"] for owner in ("ann", "bob")] == ["ann's", "bob's"]
    assert do(store.delete("bob", "resp_b"))
    assert do(store.items("ann", ["same"]))["same"]["text"] == "ann's"


def test_a_file_that_is_damaged_while_it_is_used_begins_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ResponseStore(tmp_path / "state", LARGE)
    for name in ("a", "b"):
        put(store, name, text=name * 3_000_000)  # more than SQLite keeps in memory
    assert do(store.get("", "resp_b"))
    for path in (tmp_path / "state" / FILE_NAME, tmp_path / "state" / f"{FILE_NAME}-wal"):
        path.write_bytes(b"\xff" * path.stat().st_size)
    assert do(store.get("", "resp_a")) is None
    put(store, "c")
    assert do(store.get("", "resp_c")) is not None
    assert "is damaged; it is replaced by an empty one" in caplog.text
    store.close()
    again = ResponseStore(tmp_path / "state", LARGE)
    assert do(again.get("", "resp_c")) is not None
    again.close()


def test_one_request_brings_back_no_more_than_a_body(store: ResponseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_store, "MAX_CONVERSATION_BYTES", 10_000)
    put(store, "a", text="a" * 6000)
    put(store, "b", "resp_a", text="b" * 6000)
    assert ids(do(store.conversation("", "resp_a"))) == ["msg_in_a", "msg_a"]
    with pytest.raises(InvalidRequest, match="conversation up to this response is larger than"):
        do(store.conversation("", "resp_b"))
    assert do(store.get("", "resp_b")) is not None, "alone it is small enough"
    assert do(store.items("", ["msg_a"])).keys() == {"msg_a"}
    for wanted in (["msg_a", "msg_a"], ["msg_a", "msg_b"]):
        with pytest.raises(InvalidRequest, match="the references stand for is larger than"):
            do(store.items("", wanted))
