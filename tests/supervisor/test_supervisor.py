"""Leases, loads, evictions, crashes: the real supervisor with real processes that follow a script, see fake_worker.py."""

import asyncio
import contextlib
import errno
import gc
import os
import random
import signal
import sys
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import is_alive
from house import FOREVER, WHOLE, Collector, House, Run, Streamer, run_house, submit
from waiting import children, until

from fastrouter.errors import (
    FastrouterError,
    InvalidRequest,
    LoadFailed,
    LoadPostponed,
    ModelNotLoaded,
    ModelUnusable,
    Unavailable,
    WorkerDied,
)
from fastrouter.ipc.messages import Generate
from fastrouter.supervisor import managed_model as entry_module
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.supervisor import Event
from fastrouter.supervisor.workers.instance import Instance


@pytest.fixture
def house(tmp_path: Path) -> Run:
    """`house(body, models_max, **settings)`"""
    return partial(run_house, tmp_path)


# ---------------------------------------------------------------- leases


def test_cold_then_hot(house: Run) -> None:
    async def body(here: House) -> None:
        assert here.supervisor.acquire_now(here.spec("a")) is None
        assert await here.ask("a") == WHOLE
        lease = here.supervisor.acquire_now(here.spec("a"))
        assert lease
        sinks = [submit(lease, Collector(), tokens=3, text=f"{i};") for i in range(20)]
        assert [await sink.end() for sink in sinks] == [b"%d;" % i * 3 for i in range(20)]
        assert sinks[0].finish
        assert sinks[0].finish["completion_tokens"] == 3
        lease.release()
        lease.release()
        assert "0 leases" in repr(here.supervisor.instances())
        assert here.events == [("a", "loading"), ("a", "loaded")]

    house(body)


def test_calls(house: Run) -> None:
    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            assert await lease.call("echo", {"x": 1}) == {"x": 1}
            with pytest.raises(InvalidRequest, match="so be it"):
                await lease.call("fail", {})
            hung = asyncio.create_task(lease.call("hang", {}))
            await asyncio.sleep(0)
            with pytest.raises(WorkerDied):
                await lease.call("die", {"how": "SIGKILL"})
            with pytest.raises(WorkerDied):
                await hung
            with pytest.raises(WorkerDied):
                await lease.call("echo", {})
            assert await submit(lease, Collector()).end() == WHOLE, "by another worker"

    house(body)


def test_abort_and_release_stop_the_worker(house: Run) -> None:
    async def body(here: House) -> None:
        lease = await here.acquire("a")
        sinks = [submit(lease, Collector(), **FOREVER) for _ in range(3)]
        await until(lambda: all(sink.num_tokens for sink in sinks), "tokens")
        lease.abort(sinks[0].request_id)
        lease.abort(12345)
        assert await lease.call("num_streams", {}) == 2
        lease.release()
        with await here.acquire("a") as other:
            assert await other.call("num_streams", {}) == 0
        assert not any(sink.num_ends for sink in sinks)

    house(body)


def test_a_sink_that_raises_ends_alone(house: Run) -> None:
    class Broken(Collector):
        def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
            raise ValueError("our own bug")

        def fail(self, error: Exception) -> None:
            super().fail(error)
            raise ValueError("and another")

    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            broken, whole = submit(lease, Broken()), submit(lease, Collector())
            assert await whole.end() == WHOLE
            with pytest.raises(FastrouterError, match="our own bug"):
                await broken.end()
            assert await lease.call("num_streams", {}) == 0

    house(body)


# ---------------------------------------------------------------- who is resident


def test_least_recently_used_leaves(house: Run) -> None:
    async def body(here: House) -> None:
        for model in "aba":
            await here.ask(model)
        await here.ask("c")
        assert [here.status(model) for model in "abc"] == ["loaded", "unloaded", "loaded"]
        await here.ask("b")
        assert [here.status(model) for model in "abc"] == ["unloaded", "loaded", "loaded"]
        assert here.events[4:6] == [("b", "unloaded"), ("c", "loading")]

    house(body)


def test_one_place(house: Run) -> None:
    async def body(here: House) -> None:
        for model in "abcabcaab":
            assert await here.ask(model) == WHOLE

    house(body, 1)


def test_what_has_left_is_forgotten(house: Run) -> None:
    """No timer, callback or log keeps objects of a worker that has ended."""

    async def body(here: House) -> None:
        for model in "abc" * 12:
            await here.ask(model)
        await asyncio.sleep(0.5)
        gc.collect()
        kept = [found for found in gc.get_objects() if isinstance(found, Instance)]
        assert len(kept) <= 2, kept

    house(body, 1)


def test_a_waiter_that_leaves_does_not_affect_others(house: Run) -> None:
    async def body(here: House) -> None:
        held = await here.acquire("a")
        gone, stays = here.wait("b"), here.wait("c")
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait({gone})
        assert repr(here.supervisor).count(":") == 1, here.supervisor
        held.release()
        with await stays:
            assert [model for model, _ in here.events] == ["a", "a", "a", "c", "c"]
        loading = here.wait("d")
        while here.status("d") not in ("loading", "loaded"):  # a load can be over before the test looks
            await asyncio.sleep(0)
        loading.cancel()
        await asyncio.wait({loading})
        assert await here.ask("a") == WHOLE
        for delay in range(20):  # cancelled at any moment, even after the lease was granted
            task = here.wait("a" if delay % 2 else "b")
            await asyncio.sleep(delay / 2000)
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result().release()
        assert await here.ask("a") == WHOLE
        assert "0 leases" in repr(here.supervisor.instances())

    house(body, 1)


def test_two_busy_models_cannot_starve_a_third(house: Run) -> None:
    async def body(here: House) -> None:
        is_over = False
        served = dict.fromkeys("ab", 0)

        async def keep_busy(model: str) -> None:
            leases = [await here.acquire(model)]
            while not is_over:
                leases.append(await here.acquire(model))
                served[model] += 1
                await asyncio.sleep(0.01)
                leases.pop(0).release()
            for lease in leases:
                lease.release()

        async def keep_fed(model: str) -> None:
            """Requests in a row, each started before the last one has ended."""
            while not is_over:
                with await here.acquire(model):
                    served[model] += 1
                    await asyncio.sleep(0.02)

        tasks = [asyncio.create_task(keep_fed(model)) for model in "aabb" for _ in range(2)]
        await until(lambda: all(served.values()), "both busy")
        assert await here.ask("c") == WHOLE
        before = dict(served)
        await until(lambda: all(served[model] > before[model] for model in "ab"), "both served again")
        is_over = True
        await asyncio.gather(*tasks)

    house(body, queue_patience_s=0.2)


# ---------------------------------------------------------------- load and unload


def test_load_and_unload(house: Run) -> None:
    async def body(here: House) -> None:
        spec = here.spec("a", load_s=0.2, progress=[0.25, 0.75])
        await here.supervisor.load(spec)
        assert here.status("a") == "loading"
        with pytest.raises(InvalidRequest, match="already running"):
            await here.supervisor.load(spec)
        await here.until_status("a", "loaded")
        with pytest.raises(InvalidRequest, match="already running"):
            await here.supervisor.load(spec)
        meta = here.supervisor.status("a").meta
        assert meta
        assert meta["n_vocab"] == 1000
        assert here.events == [("a", "loading")] * 3 + [("a", "loaded")]
        here.supervisor.unload("a")
        assert here.status("a") == "unloaded"
        for model in ("a", "nobody"):
            with pytest.raises(InvalidRequest, match="not running"):
                here.supervisor.unload(model)
        await here.supervisor.load(spec)  # while the last worker is ending
        await here.until_status("a", "loaded")

    house(body)


def test_events(house: Run) -> None:
    async def body(here: House) -> None:
        heard: list[Event] = []

        def broken(event: Event) -> None:
            raise ValueError("a client's own bug")

        leave = [here.supervisor.subscribe(broken), here.supervisor.subscribe(heard.append)]
        here.spec("a", progress=[0.5])
        await here.ask("a")
        assert [event.event for event in heard[:2]] == ["model_status", "status_change"]
        assert heard[2].data == {"status": "loading", "progress": {"stages": ["text_model"], "current": "text_model", "value": 0.5}}
        assert heard[-1].data["info"]["n_ctx"] == 4096
        for unsubscribe in leave * 2:
            unsubscribe()
        here.supervisor.unload("a")
        assert heard[-1].data["status"] == "loaded"

    house(body)


def test_autoload_off(house: Run) -> None:
    async def body(here: House) -> None:
        with pytest.raises(ModelNotLoaded):
            await here.acquire("a", autoload=False)
        await here.supervisor.load(here.spec("a", load_s=0.1))
        with await here.acquire("a", autoload=False) as lease:
            assert await submit(lease, Collector()).end() == WHOLE
        await here.supervisor.load(here.spec("b", load_s=0.2, die="SIGKILL"))
        waiting = asyncio.create_task(here.acquire("b", autoload=False))
        with pytest.raises(LoadFailed):
            await waiting

    house(body)


def test_unload_lets_requests_finish(house: Run) -> None:
    async def body(here: House) -> None:
        lease = await here.acquire("a")
        sink = submit(lease, Collector(), delay_s=0.02)
        here.supervisor.unload("a")
        here.supervisor.unload("a")
        assert here.supervisor.acquire_now(here.spec("a")) is None
        after = here.wait("a")
        assert await sink.end() == WHOLE
        lease.release()
        with await after as fresh:
            assert await submit(fresh, Collector()).end() == WHOLE
        assert [what for _, what in here.events] == ["loading", "loaded", "unloaded", "loading", "loaded"]

    house(body)


def test_unload_waits_no_longer_than_the_stop_timeout(house: Run) -> None:
    async def body(here: House) -> None:
        lease = await here.supervisor.acquire(here.spec("a", stop_timeout_s=0.1), True)
        sinks = [submit(lease, Streamer(), **FOREVER) for _ in range(3)]
        await until(lambda: all(sink.num_tokens for sink in sinks), "tokens")
        here.supervisor.unload("a")
        for sink in sinks:
            with pytest.raises(Unavailable, match="unloaded"):
                await sink.end()
            assert not sink.request_id, "no record may follow the end"
        await here.until_status("a", "unloaded")
        lease.release()

    house(body)


def test_unload_while_loading(house: Run) -> None:
    async def body(here: House) -> None:
        here.spec("a", never_ready=True)
        waiting = here.wait("a")
        await here.until_status("a", "loading")
        here.supervisor.unload("a")
        with pytest.raises(Unavailable):
            await waiting
        here.spec("a", load_s=0.001)
        assert await here.ask("a") == WHOLE
        for model in "bcdb":  # at any moment, also before the worker is ready
            waiting = here.wait(model)
            await asyncio.sleep(0)
            with contextlib.suppress(InvalidRequest):
                here.supervisor.unload(model)
            with contextlib.suppress(Unavailable):
                (await waiting).release()

    house(body)


def test_reload_ends_what_changed(house: Run) -> None:
    async def body(here: House) -> None:
        for model in "ab":
            await here.ask(model)
        here.supervisor.reload(["a", "nobody"])
        assert [here.status(model) for model in "ab"] == ["unloaded", "loaded"]
        assert await here.ask("a") == WHOLE

    house(body)


# ---------------------------------------------------------------- failed loads


@pytest.mark.parametrize(
    ("script", "cause", "code"),
    [
        ({"fail": "no such tensor"}, "no such tensor", 1),
        ({"die": "SIGSEGV"}, r"was killed by signal 11 \(SIGSEGV\)", -11),
        ({"die": "exit7", "progress": [0.5]}, "exited with code 7; its last line: the script says exit", 7),
        ({"raw": "ffffffff"}, "broke the protocol", -9),
        ({"raw": "01000000ff"}, "broke the protocol", -9),
        ({"ring_head": 1 << 40}, "broke the protocol", -9),
        ({"meta": {"x": 1}, "fail": "last", "progress": []}, "last", 1),
    ],
)
def test_failed_load(house: Run, script: dict[str, Any], cause: str, code: int) -> None:
    async def body(here: House) -> None:
        here.spec("a", **script)
        waiting = [here.wait("a") for _ in range(3)]
        for task in waiting:
            with pytest.raises(LoadFailed, match=cause) as caught:
                await task
            assert caught.value.exit_code == code
        status = here.supervisor.status("a")
        assert (status.value, status.failed, status.exit_code) == ("unloaded", True, code)
        assert here.events[-1] == ("a", "unloaded failed")
        here.spec("a", load_s=0.001)
        assert await here.ask("a") == WHOLE, "repaired, it loads"
        assert here.status("a") == "loaded"

    house(body)


@pytest.mark.parametrize(
    ("script", "total", "kind", "status", "has_pause"),
    [
        ({"fail": "no such tensor"}, 1 << 40, ModelUnusable, 400, False),
        ({"fail": "no memory", "is_scarce": True}, 1 << 40, LoadPostponed, 503, True),
        ({"fail": "no memory", "is_scarce": True}, 1, ModelUnusable, 400, False),  # it will never fit
    ],
)
def test_only_what_waiting_may_cure_is_worth_a_retry(
    house: Run,
    monkeypatch: pytest.MonkeyPatch,
    script: dict[str, Any],
    total: int,
    kind: type[LoadFailed],
    status: int,
    has_pause: bool,
) -> None:
    monkeypatch.setattr("fastrouter.supervisor.workers.instance.total_bytes", lambda: total)
    monkeypatch.setattr(entry_module, "BACK_OFF_S", (1000.0,))

    async def body(here: House) -> None:
        here.spec("a", **script)
        errors = []
        for _ in range(2):  # the second one comes before the pause is over
            with pytest.raises(LoadFailed) as caught:
                await here.acquire("a")
            errors.append(caught.value)
        assert [(type(error), error.status) for error in errors] == [(kind, status)] * 2
        assert errors[0].message == errors[1].message
        assert (errors[1].retry_after_s is not None) == has_pause
        assert here.events.count(("a", "loading")) == 1

    house(body)


def test_a_worker_that_failed_must_end(house: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastrouter.supervisor.residency.FAILED_GRACE_S", 0.05)

    async def body(here: House) -> None:
        here.spec("a", fail="never mind", linger=True)
        with pytest.raises(LoadFailed, match="never mind"):
            await here.acquire("a")

    house(body)


def test_a_spare_that_is_never_up_is_not_the_model_s_fault(house: Run) -> None:
    async def body(here: House) -> None:
        fork_server = here.fork_server
        await here.ask("a")
        for _ in range(3):
            await asyncio.sleep(0.05)
            assert fork_server.pid
            os.kill(fork_server.pid, signal.SIGKILL)
            here.supervisor.unload("a")
            assert await here.ask("a") == WHOLE
        fork_server.command = [sys.executable, "-c", "0"]
        assert fork_server.pid
        os.kill(fork_server.pid, signal.SIGKILL)
        await until(lambda: not is_alive(fork_server.pid or 0), "its end")
        spare = here.supervisor.spares.spare
        if spare:
            spare.kill()
            await until(lambda: here.supervisor.spares.spare is None, "no spare")
        for _ in range(4):
            with pytest.raises(Unavailable, match=r"before it was ready|cannot be started") as caught:
                await here.acquire("b")
            assert caught.value.retry_after_s
        assert here.status("b") == "unloaded", "the model has not failed"

    house(body)


def test_deaths_of_the_fork_server_and_of_spares_cost_no_model_anything(house: Run) -> None:
    """Killed again and again while requests come: each request is answered, or told to try again; no model is called unusable."""

    async def ask(here: House, model: str, results: list[Any]) -> None:
        try:
            results.append(await here.ask(model))
        except FastrouterError as error:
            results.append(error)

    async def body(here: House) -> None:
        spares, results, tasks = here.supervisor.spares, [], []
        for number in range(24):
            tasks.append(asyncio.create_task(ask(here, "abc"[number % 3], results)))
            for pid in (here.fork_server.pid, spares.pid if number % 2 else None):
                if pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(random.Random(number).choice([0.0, 0.02, 0.1]))
        await asyncio.gather(*tasks)
        for result in results:
            assert result == WHOLE or (isinstance(result, Unavailable | WorkerDied) and result.retry_after_s), result
        assert [what for _, what in here.events if "failed" in what] == []
        for model in "abc":
            assert await here.ask(model) == WHOLE, "no back-off"

    house(body)


def test_a_fork_server_that_was_killed_is_replaced_before_it_is_needed(house: Run) -> None:
    async def body(here: House) -> None:
        fork_server = here.fork_server
        old = fork_server.pid
        assert old
        os.kill(old, signal.SIGKILL)
        await until(lambda: fork_server.pid not in (None, old), "another one")
        assert old not in children(), "not even as a zombie"

    house(body)


def test_a_worker_that_cannot_be_watched_leaves_no_zombie(house: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor is left when it sends its first bytes."""
    pids, watch = [], os.pidfd_open

    def pidfd_open(pid: int) -> int:
        pids.append(pid)
        if len(pids) == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return watch(pid)

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)

    async def body(here: House) -> None:
        await until(lambda: pids and pids[0] not in children(), "its end, and that somebody has waited for it")
        assert await here.ask("a") == WHOLE

    house(body)


@pytest.mark.parametrize("is_load", [False, True])
def test_one_sudden_end_of_a_load_is_no_failure(house: Run, is_load: bool) -> None:
    async def body(here: House) -> None:
        spec = here.spec("a", progress=[0.5], load_s=0.2)
        if is_load:
            await here.supervisor.load(spec)
        else:
            waiting = here.wait("a")
        await until(lambda: here.supervisor.status("a").progress, "a load on its way")
        os.kill(here.pid("a"), signal.SIGKILL)
        await here.until_status("a", "loaded")
        if not is_load:
            (await waiting).release()
        assert here.events.count(("a", "unloaded failed")) == 0

    house(body)


def test_a_load_that_was_killed_twice_may_work_later(house: Run) -> None:
    """By a user, or by the kernel when memory runs out: the model is not the cause."""

    async def body(here: House) -> None:
        here.spec("a", die="SIGKILL")
        with pytest.raises(LoadPostponed) as caught:
            await here.acquire("a")
        assert (caught.value.status, caught.value.exit_code) == (503, -signal.SIGKILL)

    house(body)


def test_a_request_that_is_no_message_leaves_nothing_behind(house: Run) -> None:
    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            [instance] = here.supervisor.instances()
            with pytest.raises(TypeError):
                lease.submit(Generate(chat_template_kwargs={"x": 1 << 70}), Collector())
            assert (instance.process.ring.sinks(), instance.streams) == ([], {})

    house(body)


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "SIGBUS", "SIGABRT", "exit1", "exit0"])
def test_crash_in_mid_stream(house: Run, how: str) -> None:
    async def body(here: House) -> None:
        with await here.acquire("a") as lease, await here.acquire("b") as other:
            untouched = submit(other, Streamer(), tokens=60, delay_s=0.002)
            killer = submit(lease, Streamer(), tokens=10, die=how, die_after=3)
            with pytest.raises(WorkerDied):
                await killer.end()
            assert killer.text() == b"t0 t1 t2 ", "what it said before came before"
            assert here.status("a") == "unloaded failed"
            assert await untouched.end() == b"".join(b"t%d " % i for i in range(60))
        assert await here.ask("a") == WHOLE
        assert here.status("a") == "loaded"

    house(body)


def test_whole_answers_outlive_their_worker(house: Run) -> None:
    """The client does not notice."""

    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            whole = [submit(lease, Collector(), tokens=20, delay_s=0.01) for _ in range(3)]
            await until(lambda: whole[0].num_tokens > 2, "tokens")
            os.kill(here.pid("a"), signal.SIGKILL)
            for sink in whole:
                assert await sink.end() == b"".join(b"t%d " % i for i in range(20))
        assert [what for _, what in here.events] == ["loading", "loaded", "unloaded", "loading", "loaded"]
        assert "0 leases" in repr(here.supervisor.instances())

    house(body)


def test_only_one_retry(house: Run) -> None:
    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            sink = submit(lease, Collector(), die="exit1", die_after=2)
            with pytest.raises(WorkerDied, match="exited with code 1"):
                await sink.end()
        assert [what for _, what in here.events].count("loading") == 2

    house(body)


def test_a_retry_that_cannot_load(house: Run) -> None:
    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            sink = submit(lease, Collector(), **FOREVER)
            await until(lambda: sink.num_tokens, "a token")
            here.spec("a", fail="the disk is gone")
            os.kill(here.pid("a"), signal.SIGKILL)
            with pytest.raises(LoadFailed, match="the disk is gone"):
                await sink.end()

    house(body)


def test_a_client_that_leaves_before_the_retry(house: Run) -> None:
    async def body(here: House) -> None:
        lease = await here.acquire("a")
        sink = submit(lease, Collector(), **FOREVER)
        await until(lambda: sink.num_tokens, "a token")
        here.spec("a", load_s=0.1)
        os.kill(here.pid("a"), signal.SIGKILL)
        await here.until_status("a", "loading")
        lease.release()
        assert await here.ask("a") == WHOLE
        assert not sink.num_ends
        assert "0 leases" in repr(here.supervisor.instances())

    house(body)


def test_a_call_whose_caller_has_left(house: Run) -> None:
    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            hung = asyncio.create_task(lease.call("hang", {}))
            await asyncio.sleep(0)
            assert await lease.call("forgotten", {}) == []
            hung.cancel()
            await asyncio.gather(hung, return_exceptions=True)
            assert await lease.call("forgotten", {}) == [1]

    house(body)


def test_safe_mode_after_a_first_decode_that_kills(house: Run) -> None:
    async def body(here: House) -> None:
        here.spec("a", first_decode="SIGILL")
        assert await here.ask("a") == WHOLE
        assert [what for _, what in here.events] == ["loading", "loaded", "unloaded", "loading", "loaded"]
        here.supervisor.unload("a")
        assert await here.ask("a") == WHOLE, "it stays so"
        assert [what for _, what in here.events][5:] == ["unloaded", "loading", "loaded"]

    house(body)


def test_a_cpu_variant_is_dropped_when_the_safe_mode_does_not_help(house: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body(here: House) -> None:
        here.spec("a", first_decode="SIGILL", remedies=2)
        assert await here.ask("a") == WHOLE, "the client has not noticed"
        here.supervisor.unload("a")
        assert await here.ask("a") == WHOLE, "it stays so"
        assert [what for _, what in here.events].count("loading") == 4
        assert [what for _, what in here.events if "failed" in what] == []

    house(body)
    assert caplog.text.count("the next try is in the safe mode (no repacked weights) and with llama.cpp's build for simpler CPUs") == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_crash_of_the_cpu_s_build_happens_once(house: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Not once for each model and start: it is stored for this build of llama.cpp on this CPU."""
    num_loads = []

    async def body(here: House) -> None:
        for model in "abc":
            here.spec(model, first_decode="SIGILL", remedies=2)
            assert await here.ask(model) == WHOLE
        num_loads.append([what for _, what in here.events].count("loading"))

    house(body, models_max=3)
    house(body, models_max=3)
    assert num_loads == [5, 3], "two remedies for the first model"
    assert caplog.text.count("llama.cpp crashes on this CPU (model a: its worker was killed by signal 4 (SIGILL))") == 1
    assert caplog.text.count("llama.cpp crashed on this CPU in an earlier run (model a") == 1, "once per router"


def test_a_remedy_outlives_its_worker(house: Run) -> None:
    """An abort is llama.cpp's own check of this model: the remedy is only for this model."""

    async def body(here: House) -> None:
        for model in "ab":
            here.spec(model, first_decode="SIGABRT")
            for num_loads in (2, 3):
                assert await here.ask(model) == WHOLE
                assert here.events.count((model, "loading")) == num_loads
                os.kill(here.pid(model), signal.SIGKILL)
                await here.until_status(model, "unloaded failed")

    house(body)


def test_a_crash_that_may_be_chance_is_believed_the_second_time(house: Run) -> None:
    async def body(here: House) -> None:
        for model, num_loads in (("a", 2), ("b", 2), ("c", 1)):
            here.spec(model, first_decode="SIGSEGV")
            assert await here.ask(model) == WHOLE
            assert here.events.count((model, "loading")) == num_loads

    house(body, models_max=3)


def test_a_request_that_kills_every_build_teaches_nothing(house: Run) -> None:
    async def body(here: House) -> None:
        here.spec("a", first_decode="SIGILL", remedies=9)
        for _ in range(2):
            with pytest.raises(WorkerDied):
                await here.ask("a")
        here.spec("b", first_decode="SIGILL")
        assert await here.ask("b") == WHOLE
        assert here.events.count(("b", "loading")) == 2, "it begins as usual"

    house(body)


def test_no_variant_helps_against_a_bad_request(house: Run) -> None:
    async def body(here: House) -> None:
        here.spec("a", first_decode="SIGILL", remedies=9)
        for num_deaths in (3, 5):  # while a remedy is left, it gets a second new start; then one, like any other
            with pytest.raises(WorkerDied):
                await here.ask("a")
            await here.until_status("a", "unloaded failed")
            assert [what for _, what in here.events].count("loading") == num_deaths
        assert len([what for _, what in here.events if "failed" in what]) == 2, "once per request"

    house(body)


def test_killed_while_idle(house: Run) -> None:
    async def body(here: House) -> None:
        await here.ask("a")
        os.kill(here.pid("a"), signal.SIGKILL)
        await here.until_status("a", "unloaded failed")
        assert here.supervisor.status("a").exit_code == -9
        assert await here.ask("a") == WHOLE

    house(body)


def test_spare_killed(house: Run) -> None:
    async def body(here: House) -> None:
        spare = here.supervisor.spares.spare
        assert spare
        pid = await until(lambda: spare.pid, "up")
        os.kill(pid, signal.SIGKILL)
        await until(lambda: here.supervisor.spares.spare is None, "its end")
        assert await here.ask("a") == WHOLE

    house(body)


@pytest.mark.parametrize(
    "script",
    [
        {"ring_head": 1 << 40},
        {"ring_head": 1},
        {"raw": "ffffffff"},
        {"raw": b'\x1a\x00\x00\x00{"type":"Hello","pid":true}'.hex()},
        {"raw": b'\x1b\x00\x00\x00{"type":"Reply","request_id"'.hex()},
    ],
)
def test_a_hostile_worker_dies_alone(house: Run, script: dict[str, Any]) -> None:
    async def body(here: House) -> None:
        with await here.acquire("a") as lease, await here.acquire("b") as other:
            pid = here.pid("a")
            bad, good = submit(lease, Streamer(), die_after=2, **script), submit(other, Streamer(), tokens=30, delay_s=0.002)
            with pytest.raises(WorkerDied, match="broke the protocol"):
                await bad.end()
            assert not is_alive(pid)
            assert await good.end() == b"".join(b"t%d " % i for i in range(30))
        assert await here.ask("a") == WHOLE

    house(body)


# ---------------------------------------------------------------- the end


def test_stop_with_everything_going_on(house: Run) -> None:
    async def body(here: House) -> None:
        here.spec("b", never_ready=True)
        lease = await here.acquire("a")
        sink = submit(lease, Streamer(), **FOREVER)
        waiting = [here.wait(model) for model in "bc"]
        await here.until_status("b", "loading")
        await here.supervisor.stop(0.1)
        for task in waiting:
            with pytest.raises(Unavailable, match="stopping"):
                await task
        with pytest.raises(Unavailable):
            await sink.end()
        with pytest.raises(Unavailable):
            await here.acquire("a")
        assert here.supervisor.acquire_now(here.spec("a")) is None

    house(body)


def test_stop_at_once(house: Run) -> None:
    async def body(here: House) -> None:
        here.supervisor.spares.make()

    house(body)


def test_stop_lets_leases_end(house: Run) -> None:
    async def body(here: House) -> None:
        lease = await here.acquire("a")
        sink = submit(lease, Collector(), delay_s=0.02)
        stopping = asyncio.create_task(here.supervisor.stop(60))
        assert await sink.end() == WHOLE
        lease.release()
        await asyncio.wait_for(stopping, 30)

    house(body)


# ---------------------------------------------------------------- all of it at random


class Crowd:
    """Random clients, with models that die meanwhile. Every request must end."""

    def __init__(self, here: House, seed: int) -> None:
        self.here = here
        self.random = random.Random(seed)
        self.tasks: set[asyncio.Task[None]] = set()
        self.num_ends = 0

    async def request(self, model: str, is_stream: bool) -> None:
        with contextlib.suppress(WorkerDied, LoadFailed, Unavailable), await self.here.acquire(model) as lease:
            sink = submit(lease, Streamer() if is_stream else Collector(), delay_s=self.random.choice([0, 0.001, 0.005]))
            assert await sink.end() == WHOLE
        self.num_ends += 1

    async def load(self, model: str) -> None:
        with contextlib.suppress(InvalidRequest, LoadFailed, Unavailable):
            await self.here.supervisor.load(self.here.spec(model))
        self.num_ends += 1

    def act(self) -> None:
        here, choose = self.here, self.random
        model = choose.choice("abcdef")
        what = choose.choice(["ask"] * 8 + ["load", "unload", "kill", "cancel", "kill spare"])
        if what == "ask":
            self.start(self.request(model, choose.random() < 0.5))
        elif what == "load":
            self.start(self.load(model))
        elif what == "unload":
            with contextlib.suppress(InvalidRequest):
                here.supervisor.unload(model)
        elif what == "kill":
            pids = [i.process.pid for i in here.supervisor.instances() if i.process.pid and not i.process.is_closed]
            if pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(choose.choice(pids), signal.SIGKILL)
        elif what == "cancel" and self.tasks:
            choose.choice(sorted(self.tasks, key=lambda task: task.get_name())).cancel()
        elif what == "kill spare":
            spare = here.supervisor.spares.spare
            if spare:
                spare.kill()
        assert here.num_resident() <= 2

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"{len(self.tasks):05}")
        self.tasks.add(task)


@pytest.mark.parametrize("seed", range(3))
def test_random(house: Run, seed: int) -> None:
    async def body(here: House) -> None:
        crowd = Crowd(here, seed)
        for _ in range(200):
            crowd.act()
            await asyncio.sleep(crowd.random.choice([0, 0, 0.002, 0.01]))
        begun = time.monotonic()
        done, pending = await asyncio.wait(crowd.tasks, timeout=60)
        assert not pending, f"lost after {time.monotonic() - begun:.0f} s: {here.supervisor}"
        for task in done:
            if not task.cancelled():
                task.result()
        assert all(instance.num_leases == 0 for instance in here.supervisor.instances())
        assert "<Queue >" in repr(here.supervisor)
        for model in "abcdef":
            await here.until_status(model, here.status(model))
            await until(lambda: all(i.state is not State.DYING for i in here.supervisor.instances()), "at rest")
            with contextlib.suppress(LoadFailed):
                assert await here.ask(model) == WHOLE

    house(body)
