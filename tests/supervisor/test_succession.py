"""A model's source changes while requests wait for its load, or run in its worker. Scripted processes; a fake clock where times
matter."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fake_room import Room
from house import FOREVER, WHOLE, Collector, House, Run, Streamer, run_house, submit
from waiting import until

from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import ModelNotFound, ModelUnusable, Unavailable
from fastrouter.supervisor.managed_model import BACK_OFF_S
from fastrouter.supervisor.succession import MAX_CHANGES


@pytest.fixture
def house(tmp_path: Path) -> Run:
    return partial(run_house, tmp_path)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = Room(load_s=1.0)
    yield made
    made.close()


def text(num_tokens: int) -> bytes:
    return b"".join(b"t%d " % i for i in range(num_tokens))


def change(here: House, model: str = "a", *, is_other_file: bool = False, **script: Any) -> ModelSpec:
    """Another script in its file, or only other options; and the reload that finds it."""
    spec = here.spec(model, **script)
    if is_other_file:
        spec = replace(spec, files=(spec.path,), states=((1, 2, 3),))
    here.supervisor.reload([model], lambda model_id: spec)
    return spec


async def loads(here: House, model: str = "a") -> None:
    await here.until_status(model, "loading")
    await until(lambda: here.supervisor.status(model).progress is not None, "its worker has begun")


def worker_meta(here: House, model: str = "a") -> Any:
    return (here.supervisor.status(model).meta or {}).get("of")


# ---------------------------------------------------------------- requests that wait


def test_who_waits_for_a_load_gets_the_new_file(house: Run) -> None:
    async def body(here: House) -> None:
        here.spec("a", load_s=30.0, progress=[0.1, 0.2], meta={"of": "old"})
        waiting = [here.wait("a") for _ in range(3)]
        await loads(here)
        for _ in range(2):  # the second time as soon as it loads again
            change(here, is_other_file=True, load_s=30.0, progress=[0.1, 0.2])
            await until(lambda: here.status("a") == "unloaded", "its end")
            await loads(here)
        change(here, is_other_file=True, meta={"of": "new"})
        for lease in await asyncio.gather(*waiting):
            with lease:
                assert worker_meta(here) == "new"
                assert await submit(lease, Collector()).end() == WHOLE
        assert here.reasons == [("a", "reload")] * 3
        assert await here.ask("a") == WHOLE

    house(body)


def test_a_load_without_a_request_begins_again(house: Run) -> None:
    async def body(here: House) -> None:
        await here.supervisor.load(here.spec("a", load_s=30.0, progress=[0.1, 0.2]))
        waiting = asyncio.ensure_future(here.acquire("a", autoload=False))  # only because it loads
        await loads(here)
        change(here, meta={"of": "new"})
        with await waiting:
            assert worker_meta(here) == "new"

    house(body)


def test_a_file_that_is_gone_or_broken_by_then(house: Run) -> None:
    async def body(here: House) -> None:
        here.spec("a", load_s=30.0, progress=[0.1, 0.2])
        waiting = here.wait("a")
        await loads(here)
        here.supervisor.reload(["a"])
        with pytest.raises(ModelNotFound):
            await waiting
        waiting = here.wait("a")
        await loads(here)
        broken = replace(here.spec("a"), error="half of it is missing")
        here.supervisor.reload(["a"], lambda model_id: broken)
        with pytest.raises(ModelUnusable, match="half of it is missing"):
            await waiting
        await until(lambda: not here.supervisor.instances(), "the end of its worker")
        assert await asyncio.wait_for(here.ask("b"), 60) == WHOLE

    house(body)


def test_an_operator_who_unloads_it_refuses_who_waits(house: Run) -> None:
    async def body(here: House) -> None:
        here.spec("a", load_s=30.0, progress=[0.1, 0.2])
        waiting = here.wait("a")
        await loads(here)
        here.supervisor.unload("a")
        with pytest.raises(Unavailable, match="unloaded while it was loading"):
            await waiting

    house(body)


def test_a_file_that_never_stops_to_change(room: Room) -> None:
    """The pauses grow, so a file that is being copied is not loaded again and again; in the end the request gets an error."""
    asked, began = room.ask("a"), []
    for _ in range(MAX_CHANGES + 1):
        assert room.status("a") == "loading"
        began.append(room.loop.time())
        room.advance(0.2)
        room.supervisor.reload(["a"], room.spec)
        room.supervisor.reload(["a"], room.spec)  # while it waits: this changes neither the pause nor the count
        while room.status("a") != "loading" and not asked.done():
            room.advance(0.05)
    with pytest.raises(Unavailable, match=f"changed on disk {MAX_CHANGES} times while it was loading"):
        asked.result()
    pauses = [after - before for before, after in pairwise(began)]
    assert [round(pause - 0.2, 1) for pause in pauses] == pytest.approx(list(BACK_OFF_S), abs=0.15)
    later = room.ask("a")
    room.advance(1.1)
    later.result().release()


def test_a_load_that_ends_well_is_the_end_of_the_count(room: Room) -> None:
    for _ in range(MAX_CHANGES + 2):
        asked = room.ask("a")
        room.advance(0.2)
        room.supervisor.reload(["a"], room.spec)
        room.advance(1.5)
        asked.result().release()
        room.supervisor.unload("a")
        room.advance(0.1)


# ---------------------------------------------------------------- requests that run


def test_a_stream_goes_on_with_the_next_worker(house: Run) -> None:
    """Its model was reloaded with other options, and the time of the old worker is over."""

    async def body(here: House) -> None:
        with await here.supervisor.acquire(here.spec("a", stop_timeout_s=0.1), autoload=True) as lease:
            running = [submit(lease, kind(), tokens=80, delay_s=0.01) for kind in (Streamer, Collector)]
            short = submit(lease, Streamer(), tokens=3)
            await until(lambda: all(sink.num_tokens for sink in running), "tokens")
            change(here, meta={"of": "new"})
            later = here.wait("a")
            assert await short.end() == text(3)
            assert [await sink.end() for sink in running] == [text(80)] * 2
            assert [sink.num_tokens for sink in running] == [80, 80], "no token is counted twice"
            assert worker_meta(here) == "new"
        (await later).release()
        assert [what for _, what in here.events if "failed" in what] == []
        assert [what for _, what in here.events].count("loading") == 2

    house(body)


def test_a_stream_that_ends_in_time_stays(house: Run) -> None:
    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            sink = submit(lease, Streamer(), tokens=30, delay_s=0.01)
            await until(lambda: sink.num_tokens, "tokens")
            change(here)
            assert await sink.end() == text(30)
        await until(lambda: here.status("a") == "unloaded", "its end")
        assert [what for _, what in here.events].count("loading") == 1

    house(body)


@pytest.mark.parametrize("how", ["SIGSEGV", "SIGKILL"])
def test_its_worker_dies_while_it_is_to_stop(house: Run, tmp_path: Path, how: str) -> None:
    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            sink = submit(lease, Streamer(), tokens=40, delay_s=0.02, die=how, die_after=20, once=str(tmp_path / "died"))
            await until(lambda: sink.num_tokens, "tokens")
            change(here)
            assert await sink.end() == text(40)
        assert [what for _, what in here.events].count("loading") == 2

    house(body)


def test_another_model_s_words_are_never_added(house: Run) -> None:
    async def body(here: House) -> None:
        with await here.supervisor.acquire(here.spec("a", stop_timeout_s=0.1), autoload=True) as lease:
            sink = submit(lease, Streamer(), **FOREVER)
            await until(lambda: sink.num_tokens, "tokens")
            change(here, is_other_file=True)
            with pytest.raises(Unavailable, match="is being unloaded"):
                await sink.end()
            assert sink.text() == text(1)
        assert await here.ask("a") == WHOLE

    house(body)


def test_an_operator_has_the_last_word(house: Run) -> None:
    """Unloaded while it was to stop for a reload; unloaded before a reload."""

    async def body(here: House) -> None:
        for is_reload_first in (True, False):
            with await here.supervisor.acquire(here.spec("a", stop_timeout_s=0.2), autoload=True) as lease:
                sink = submit(lease, Streamer(), **FOREVER)
                await until(lambda sink=sink: sink.num_tokens, "tokens")  # type: ignore[misc]
                for is_reload in (is_reload_first, not is_reload_first):
                    _ = change(here) if is_reload else here.supervisor.unload("a")
                with pytest.raises(Unavailable, match="is being unloaded"):
                    await sink.end()
            await until(lambda: here.status("a") == "unloaded", "its end")
        assert [what for _, what in here.events].count("loading") == 2

    house(body)


def test_a_request_that_comes_to_a_worker_that_has_left(house: Run) -> None:
    """It has its lease, but had not sent its request yet."""

    async def body(here: House) -> None:
        with await here.supervisor.acquire(here.spec("a", stop_timeout_s=0.05), autoload=True) as lease:
            change(here)
            await until(lambda: not here.supervisor.instances(), "the end of its worker")
            assert await submit(lease, Collector()).end() == WHOLE

    house(body)
