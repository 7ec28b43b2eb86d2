"""Models that are loaded before a request comes; the order of models over a restart. A fake clock and fake workers, see fake_room.py."""

import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_room import Room

from fastrouter import metrics
from fastrouter.catalog.spec import ModelSpec
from fastrouter.ipc.messages import Hurry, Load
from fastrouter.supervisor.ahead_loads import DELAY_S
from fastrouter.supervisor.decide.ahead import MAX_UNUSED
from fastrouter.supervisor.foresight import SAVE_DELAY_S

MIB = 1 << 20
ROOMS: list[Room] = []


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of the order."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(metrics, "_models", {})
    yield tmp_path / "fastrouter" / "order.json"
    while ROOMS:
        ROOMS.pop().close()


def room_of(models_max: int, **settings: Any) -> Room:
    ROOMS.append(Room(models_max, **settings))
    return ROOMS[-1]


def turns(room: Room, models: str, client: str = "") -> None:
    for model in models:
        room.supervisor.note_turn(room.spec(model), client)
        room.use(model)


def restarted(room: Room, **settings: Any) -> Room:
    ROOMS.remove(room)
    room.close()
    return room_of(**{"models_max": 4, **settings})


def learned(models: str = "abcabcabc", client: str = "", **settings: Any) -> Room:
    """A router that was restarted after these requests."""
    room = room_of(1)
    turns(room, models, client)
    return restarted(room, **settings)


def ahead(room: Room) -> list[str]:
    """Models that were given to a worker although no request waited."""
    return [message.model_id for worker in room.maker.workers for message in worker.sent if isinstance(message, Load) and message.is_ahead]


# ---------------------------------------------------------------- loads ahead


def test_the_foreseen_model_is_there_when_its_request_comes() -> None:
    room = learned()
    turns(room, "a")
    room.advance(2.0)
    assert repr(room) == "a loaded 0, b loaded 0"
    assert ahead(room) == ["b"]
    asked = room.ask("b")
    assert asked.done(), "no wait"
    asked.result().release()
    counts = metrics.by_model()["b"]
    assert (dict(counts.ahead), counts.ahead_saved_s) == ({"used": 1}, pytest.approx(1.0))


def test_one_after_the_other_until_all_are_there() -> None:
    room = learned()
    turns(room, "a")
    room.advance(2.0)
    turns(room, "b")
    room.advance(2.0)
    assert repr(room) == "a loaded 0, b loaded 0, c loaded 0"


def test_no_model_leaves_for_a_guess() -> None:
    room = learned(models_max=1)
    turns(room, "a")
    room.advance(5.0)
    assert repr(room) == "a loaded 0"
    assert ahead(room) == []


def test_no_memory_is_taken_for_a_guess() -> None:
    room = learned(models_memory_mib=100)
    for model in "ab":
        room.settle(model, size_bytes=60 * MIB)
    turns(room, "a")
    room.advance(5.0)
    assert repr(room) == "a loaded 0"


def test_a_prompt_cache_does_not_shrink_for_a_guess() -> None:
    room = learned(models_memory_mib=1000)
    room.settle("b", size_bytes=60 * MIB)
    turns(room, "a")
    [instance] = room.supervisor.instances()
    instance.prompt_cache_bytes = 990 * MIB
    room.advance(5.0)
    assert repr(room) == "a loaded 0"
    assert instance.prompt_cache_bytes == 990 * MIB


@pytest.mark.parametrize("settings", [{"foresee": False}, {"models_autoload": False}])
def test_one_flag_switches_it_off(settings: dict[str, Any]) -> None:
    room = learned(**settings)
    turns(room, "a")
    room.advance(5.0)
    assert ahead(room) == []


def test_a_request_for_another_model_takes_the_place_of_a_guess() -> None:
    room = learned(models_max=2)
    turns(room, "a")
    room.advance(2.0)
    assert repr(room) == "a loaded 0, b loaded 0"
    room.use("x")
    assert repr(room) == "a loaded 0, x loaded 0", "a was used, b was not"
    assert dict(metrics.by_model()["b"].ahead) == {"unused": 1}


def test_it_takes_the_place_of_a_guess_that_still_loads() -> None:
    room = learned(models_max=2)
    room.maker.load_s["b"] = 60.0
    turns(room, "a")
    room.advance(1.0)
    assert repr(room) == "a loaded 0, b loading 0"
    asked = room.ask("x")
    room.advance(1.1)
    asked.result().release()
    assert repr(room) == "a loaded 0, x loaded 0"


def test_a_request_that_comes_while_it_loads_makes_it_hurry() -> None:
    room = learned()
    room.maker.load_s["b"] = 3.0
    turns(room, "a")
    room.advance(DELAY_S + 1.0)
    assert repr(room) == "a loaded 0, b loading 0"
    asked = room.ask("b")
    assert [type(message) for message in room.worker("b").sent].count(Hurry) == 1
    room.advance(3.0)
    asked.result().release()
    saved_s = metrics.by_model()["b"].ahead_saved_s
    assert 0.8 < saved_s < 1.5
    assert dict(metrics.by_model()["b"].ahead) == {"used": 1}


def test_the_time_limit_of_a_load_begins_with_the_request() -> None:
    room = learned()
    room.maker.load_s["b"] = 60.0
    room.settle("b", load_timeout_s=5.0)
    turns(room, "a")
    room.advance(20.0)
    assert repr(room) == "a loaded 0, b loading 0", "nobody waits for it"
    asked = room.ask("b")
    room.advance(4.0)
    assert repr(room) == "a loaded 0, b loading 0 | b:1"
    room.advance(3.0)
    assert "load-timeout" in str(asked.exception())


def test_to_load_what_is_loaded_ahead_is_no_mistake() -> None:
    room = learned()
    turns(room, "a")
    room.advance(2.0)
    room.run(room.supervisor.load(room.spec("b")))
    assert dict(metrics.by_model()["b"].ahead) == {"used": 1}


def test_what_a_client_has_unloaded_comes_back_only_for_a_request() -> None:
    room = room_of(4)
    turns(room, "abcabcabc")
    room.supervisor.unload("a")
    room.advance(5.0)
    assert ahead(room) == []
    turns(room, "a")
    assert room.status("a") == "loaded"


def test_a_model_that_was_idle_for_too_long_does_not_come_back() -> None:
    room = room_of(4)
    room.settle("a", ttl_s=1.0)
    turns(room, "abababab")
    room.advance(30.0)
    assert room.status("a") == "unloaded"
    assert ahead(room) == []


def test_a_guess_that_cannot_be_loaded_is_not_tried_again() -> None:
    room = learned()
    turns(room, "a")
    room.maker.load_s["b"] = 60.0
    room.advance(1.0)
    room.worker("b").fail("no such tensor")
    room.worker("b").die(1)
    room.advance(30.0)
    assert ahead(room) == ["b"]
    assert repr(room) == "a loaded 0"


def test_not_while_requests_wait() -> None:
    room = learned(models_max=2)
    room.maker.load_s["a"] = 10.0
    room.supervisor.note_turn(room.spec("a"), "")
    asked = room.ask("a")
    room.advance(5.0)
    assert ahead(room) == []
    room.advance(6.0)
    asked.result().release()
    room.advance(1.0)
    assert ahead(room) == ["b"]


def test_not_while_a_model_answers() -> None:
    room = learned(models_max=2)
    room.supervisor.note_turn(room.spec("a"), "")
    asked = room.ask("a")
    room.advance(60.0)
    assert (asked.done(), ahead(room)) == (True, [])
    asked.result().release()
    room.advance(1.0)
    assert ahead(room) == ["b"]


def test_there_are_only_so_many_guesses() -> None:
    room = room_of(1)
    for number in range(5):
        turns(room, f"{number}x{number}x{number}x{number}", client=f"key{number}")
    room = restarted(room, models_max=0)
    for number in range(5):
        turns(room, f"{number}", client=f"key{number}")
    for model in "pqr":
        room.supervisor.expect(room.spec(model))
        room.advance(5.0)
    unused = [instance.spec.id for instance in room.supervisor.instances() if instance.is_ahead]
    assert len(unused) == MAX_UNUSED


def test_a_hint_loads_a_model_that_was_never_asked_for() -> None:
    room = room_of(2)
    turns(room, "a")
    room.supervisor.expect(room.spec("n"))
    room.advance(2.0)
    assert repr(room) == "a loaded 0, n loaded 0"


# ---------------------------------------------------------------- over a restart


def test_the_file_holds_no_key_and_is_private(cache: Path) -> None:
    room = room_of(1)
    turns(room, "ababab", client="sk-secret")
    room.advance(SAVE_DELAY_S + 1)
    assert b"sk-secret" not in cache.read_bytes()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    [record] = json.loads(cache.read_text())["entries"].values()
    assert [["a"], {"b": 3}] in record


def test_each_client_has_its_own_order() -> None:
    room = room_of(1)
    turns(room, "abababab", client="one")
    turns(room, "acacacac", client="two")
    room = restarted(room)
    turns(room, "a", client="two")
    room.advance(2.0)
    assert ahead(room) == ["c"]


def test_other_models_have_another_order(tmp_path: Path) -> None:
    room = learned(models_dir=tmp_path)
    turns(room, "a")
    room.advance(2.0)
    assert ahead(room) == []


@pytest.mark.parametrize("content", ["{", "", "[" * 5000, "\x00\xff"])
def test_a_damaged_file_is_ignored_with_one_line(cache: Path, caplog: pytest.LogCaptureFixture, content: str) -> None:
    room = room_of(1)
    turns(room, "abcabcabc")
    ROOMS.remove(room)
    room.close()
    cache.write_text(content)
    with caplog.at_level(logging.WARNING, "fastrouter"):
        room = room_of(4)
        turns(room, "aba")
        room.advance(2.0)
    assert ahead(room) == []
    assert [record.getMessage() for record in caplog.records if "order.json" in record.getMessage()] == [
        f"{cache} is damaged and is ignored: what it remembered is learned again"
    ]


@pytest.mark.parametrize(
    "record",
    [
        {},
        [1],
        [[["a"]]],
        [[[], {"b": 2}]],
        [[["a", "b", "c"], {"b": 2}]],
        [[["a"], {"b": "2"}]],
        [[["a"], {"b": True}]],
        [[["a"], {"b": -1}]],
        [[["a"], {"b": 2.5}]],
        [[[1], {"b": 2}]],
        [[["a"], {"": 2}]],
        [[["a"], {"b" * 2000: 2}]],
        [[["a"], {str(number): 2 for number in range(100)}]],
        [[["a"], {"b": 3}]] * 1000,
    ],
)
def test_entries_that_make_no_sense_are_ignored_with_one_line(cache: Path, caplog: pytest.LogCaptureFixture, record: Any) -> None:
    room = room_of(1)
    turns(room, "abab", client="one")
    turns(room, "abab", client="two")
    ROOMS.remove(room)
    room.close()
    found = json.loads(cache.read_text())
    found["entries"] = dict.fromkeys(found["entries"], record)
    cache.write_text(json.dumps(found))
    with caplog.at_level(logging.WARNING, "fastrouter"):
        room = room_of(4)
        turns(room, "a", client="one")
        turns(room, "a", client="two")
        room.advance(2.0)
    assert ahead(room) == []
    assert len([line for line in caplog.messages if "makes no sense" in line]) == 1


def test_a_model_that_no_request_has_named_since_the_start_is_found_in_the_catalog() -> None:
    room = learned()
    assert isinstance(room.spec("b"), ModelSpec)
    room.known = {"a", "c"}  # b is gone
    turns(room, "a")
    room.advance(2.0)
    assert ahead(room) == []
