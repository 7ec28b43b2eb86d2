"""Streams that outlive their workers: they go on where they were, and a request that kills its workers is found. Scripted processes."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from house import FOREVER, WHOLE, Collector, House, Run, Streamer, run_house, submit
from waiting import until

from fastrouter.errors import KillsWorkers, LoadFailed, ModelNotFound, Unavailable, WorkerDied
from fastrouter.ipc.messages import Generate
from fastrouter.supervisor import resume
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.managed_model import BACK_OFF_S

FAULTS = ["SIGSEGV", "SIGBUS", "SIGABRT", "exit1", "exit0"]
counted: Counter[str] = Counter()


@pytest.fixture
def house(tmp_path: Path) -> Run:
    return partial(run_house, tmp_path)


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[None]:
    yield
    print(f"\nscripted workers: {dict(counted)}")


def text(num_tokens: int) -> bytes:
    return b"".join(b"t%d " % i for i in range(num_tokens))


def num_loads(here: House) -> int:
    return [what for _, what in here.events].count("loading")


async def begun(*sinks: Collector) -> None:
    await until(lambda: all(sink.num_tokens for sink in sinks), "tokens")


def kill(here: House, model: str = "a", number: int = signal.SIGKILL) -> None:
    os.kill(here.pid(model), number)


# ---------------------------------------------------------------- they go on


@pytest.mark.parametrize("how", ["SIGKILL", *FAULTS])
def test_a_crash_in_mid_stream(house: Run, tmp_path: Path, how: str) -> None:
    """All streams of the worker go on where they were; those of other models are not touched."""

    async def body(here: House) -> None:
        with await here.acquire("a") as lease, await here.acquire("b") as other:
            untouched = submit(other, Streamer(), tokens=60, delay_s=0.002)
            others = [submit(lease, Streamer(), tokens=40 + n, delay_s=0.003) for n in range(3)]
            await begun(*others)
            first = submit(lease, Streamer(), tokens=10, die=how, die_after=3, once=str(tmp_path / "died"))
            assert await first.end() == text(10)
            assert [await sink.end() for sink in others] == [text(40 + n) for n in range(3)]
            assert await untouched.end() == text(60)
            assert first.finish == {**(first.finish or {}), "completion_tokens": 10}
            assert (first.num_tokens, others[0].num_tokens) == (10, 40), "no token is counted twice"
        assert here.status("a") == "loaded"
        assert num_loads(here) == 3
        assert [what for _, what in here.events if "failed" in what] == []

    house(body)


def test_nothing_of_it_is_a_gap_between_tokens(house: Run) -> None:
    from fastrouter._core import ItlHistogram

    async def body(here: House) -> None:
        here.spec("a", load_s=0.3)
        with await here.acquire("a") as lease:
            sink = Streamer()
            sink.itl = ItlHistogram()
            submit(lease, sink, tokens=20, delay_s=0.005)
            await begun(sink)
            first_ns = sink.first_text_ns
            kill(here)
            assert await sink.end() == text(20)
            assert sink.first_text_ns == first_ns
            assert sum(sink.itl.counts) == 18, "one for each token, but for the first one of each worker"

    house(body)


def test_killed_before_the_first_token(house: Run) -> None:
    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            sink = submit(lease, Streamer(), wait_s=0.1)
            await asyncio.sleep(0.02)
            kill(here)
            assert await sink.end() == WHOLE

    house(body)


def test_killed_again_and_again(house: Run) -> None:
    """As long as something comes between, up to a limit."""

    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            sink = submit(lease, Streamer(), tokens=60, delay_s=0.01)
            for number in range(1, resume.MAX_DEATHS):
                await until(lambda n=number: sink.num_tokens >= 4 * n, "tokens")  # type: ignore[misc]
                kill(here, number=signal.SIGSEGV if number % 2 else signal.SIGKILL)
            assert await sink.end() == text(60)
        with await here.acquire("a") as lease:
            sink = submit(lease, Streamer(), tokens=5000, delay_s=0.01)
            for _ in range(resume.MAX_DEATHS):
                num_tokens = sink.num_tokens
                await until(lambda n=num_tokens: sink.num_tokens > n, "tokens")  # type: ignore[misc]
                kill(here)
            with pytest.raises(WorkerDied):
                await sink.end()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastrouter.supervisor.managed_model.BACK_OFF_S", (0.0, 0.01))
        house(body)


def test_killed_while_it_catches_up(house: Run) -> None:
    """The next worker has the request, and has sent nothing yet."""

    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            sink = submit(lease, Streamer(), tokens=9, delay_s=0.01, wait_s=0.1)
            await until(lambda: sink.num_tokens > 3, "tokens")
            kill(here)
            await until(lambda: num_loads(here) == 2 and here.status("a") == "loaded" and sink.request_id, "submitted again")
            kill(here)
            assert await sink.end() == text(9)
        assert num_loads(here) == 3

    house(body)


def test_a_client_that_leaves_in_the_pause(house: Run) -> None:
    async def body(here: House) -> None:
        lease = await here.acquire("a")
        sink = submit(lease, Streamer(), **FOREVER)
        await begun(sink)
        here.spec("a", load_s=0.1)
        kill(here)
        await here.until_status("a", "loading")
        lease.release()
        assert await here.ask("a") == WHOLE
        assert not sink.num_ends
        assert "0 leases" in repr(here.supervisor.instances())

    house(body)


def test_a_load_that_fails_ends_it(house: Run) -> None:
    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            sink = submit(lease, Streamer(), **FOREVER)
            await begun(sink)
            here.spec("a", fail="the disk is gone")
            kill(here)
            with pytest.raises(LoadFailed, match="the disk is gone"):
                await sink.end()
            assert sink.text() == b"t0 "

    house(body)


def test_a_model_that_is_gone_ends_it(house: Run) -> None:
    async def body(here: House) -> None:
        here.settle("b", is_pinned=True)
        with await here.acquire("a") as lease:
            sink = submit(lease, Streamer(), **FOREVER)
            await begun(sink)
            kill(here)
            await until(lambda: here.supervisor.num_waiting().get("a"), "it waits")
            here.supervisor.reload(["a"])
            with pytest.raises((ModelNotFound, Unavailable)):
                await sink.end()

    house(body)


def test_what_an_operator_stops_is_not_continued(house: Run) -> None:
    async def body(here: House) -> None:
        spec = here.spec("a", stop_timeout_s=0.1, lines=["up"])
        lease = await here.supervisor.acquire(spec, autoload=True)
        sink = submit(lease, Streamer(), **FOREVER)
        await begun(sink)
        here.supervisor.unload("a")
        with pytest.raises(Unavailable, match="unloaded"):
            await sink.end()
        lease.release()
        with await here.acquire("b") as lease:
            sink = submit(lease, Streamer(), **FOREVER)
            await begun(sink)
            here.supervisor.unload("b")
            kill(here, "b")
            with pytest.raises(WorkerDied):
                await sink.end()
        assert num_loads(here) == 2

    house(body)


def test_one_that_is_too_long_to_be_kept(house: Run) -> None:
    """A stream ends with an error; a whole answer begins again, because the client has seen nothing of it."""

    async def body(here: House) -> None:
        here.spec("a", flood=True)
        with await here.acquire("a") as lease:
            streams = [submit(lease, kind(), tokens=1 << 19) for kind in (Streamer, Collector)]
            await until(lambda: all(sink.num_tokens > 1 << 18 for sink in streams), "more than is kept")
            kill(here)
            with pytest.raises(WorkerDied):
                await streams[0].end()
            assert await streams[1].end() == b" token" * (1 << 19)

    house(body)


def test_the_next_request_of_a_lease_whose_worker_has_died(house: Run) -> None:
    """A stream of several prompts, between two of them."""

    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            assert await submit(lease, Streamer()).end() == WHOLE
            kill(here)
            await until(lambda: not here.supervisor.instances() or here.status("a") == "unloaded failed", "its end")
            assert await submit(lease, Streamer(), tokens=7).end() == text(7)

    house(body)


# ---------------------------------------------------------------- who is to blame


@pytest.mark.parametrize("how", FAULTS)
def test_a_request_that_kills_two_workers_is_refused(house: Run, how: str) -> None:
    async def body(here: House) -> None:
        await here.ask("a")
        for after, sink_type in ((3, Streamer), (0, Collector)):
            before = num_loads(here)
            with await here.acquire("a") as lease:
                sink = submit(lease, sink_type(), tokens=10, die=how, die_after=after)
                with pytest.raises(KillsWorkers) as caught:
                    await sink.end()
                assert (caught.value.status, caught.value.code) == (422, "worker_died")
                assert sink.text() == text(after)
            assert await here.ask("a") == WHOLE
            assert num_loads(here) == before + 2, "the second worker, and the one of the last request"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastrouter.supervisor.managed_model.BACK_OFF_S", (0.0,))
        house(body)


def test_a_signal_from_outside_is_not_the_request_s_fault(house: Run) -> None:
    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            sink = submit(lease, Streamer(), tokens=10, die="SIGKILL", die_after=3)
            with pytest.raises(WorkerDied) as caught:
                await sink.end()
            assert caught.value.status == 503
        assert num_loads(here) == 3

    house(body)


@pytest.mark.parametrize("after", [0, 2])
def test_the_innocent_survive(house: Run, after: int) -> None:
    """Eight streams, one of them deadly: the others go on, and the worker dies twice."""

    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            others = [submit(lease, Streamer(), tokens=30 + n, delay_s=0.01) for n in range(7)]
            await begun(*others)
            killer = submit(lease, Streamer(), tokens=10, die="SIGSEGV", die_after=after)
            with pytest.raises(KillsWorkers):
                await killer.end()
            assert [await sink.end() for sink in others] == [text(30 + n) for n in range(7)]
        assert num_loads(here) == 3

    house(body)


def test_the_condemned_are_remembered(house: Run) -> None:
    async def body(here: House) -> None:
        supervisor, spec = here.supervisor, here.spec("a")
        deadly = Generate(messages=[{"role": "user", "content": '{"die": "SIGSEGV"}'}], exchange=1, chance=5, asked_at=1.0)
        same = Generate(messages=deadly.messages, exchange=2, chance=6, asked_at=2.0)
        await here.ask("a")
        supervisor.check(spec, [deadly])
        with await here.acquire("a") as lease:
            sink = Collector()
            lease.submit(deadly, sink)
            with pytest.raises(KillsWorkers):
                await sink.end()
        with pytest.raises(KillsWorkers, match="refused for a minute"):
            supervisor.check(spec, [Generate(prompt="x"), same])
        supervisor.check(spec, [Generate(prompt="x")])
        supervisor.check(here.spec("b"), [same])
        here.stopped_at = here._now() + resume.MEMORY_S + 1
        supervisor.check(spec, [same])
        here.stopped_at = None

    house(body)


def test_a_trial_goes_on_when_its_client_leaves(house: Run) -> None:
    """The first of the suspects leaves before anything of it has come."""

    async def body(here: House) -> None:
        leases = [await here.acquire("a") for _ in range(3)]
        silent = submit(leases[0], Streamer(), **FOREVER)
        others = [submit(lease, Streamer(), tokens=20, delay_s=0.01) for lease in leases[1:]]
        await begun(silent, *others)
        kill(here, number=signal.SIGSEGV)
        await until(lambda: num_loads(here) == 2 and silent.request_id, "its turn")
        assert not any(sink.request_id for sink in others), "they wait for it"
        leases[0].release()
        assert [await sink.end() for sink in others] == [text(20)] * 2
        for lease in leases:
            lease.release()

    house(body)


def test_a_trial_ends_after_a_while(house: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "TRIAL_S", 0.1)

    async def body(here: House) -> None:
        with await here.acquire("a") as lease:
            silent, other = submit(lease, Streamer(), **FOREVER), submit(lease, Streamer(), tokens=20, delay_s=0.01)
            await begun(silent, other)
            kill(here, number=signal.SIGSEGV)
            assert await other.end() == text(20)

    house(body)


def test_workers_that_die_in_a_row_are_replaced_more_slowly(house: Run) -> None:
    async def body(here: House) -> None:
        started = []
        with await here.acquire("a") as lease:
            sink = submit(lease, Streamer(), tokens=400, delay_s=0.01)
            [model] = [model for model in here.supervisor._models if model.spec.id == "a"]
            for number in range(3):
                await until(lambda n=number: sink.num_tokens > 3 * n, "tokens")  # type: ignore[misc]
                kill(here)
                await until(lambda n=number: model.num_deaths == n + 1, "noticed")  # type: ignore[misc]
                started.append(model.start_at - model.died_at)
        assert started == list(BACK_OFF_S[:3])

    house(body)


# ---------------------------------------------------------------- the volume


async def client(here: House, source: random.Random, model: str) -> None:
    num_tokens, is_stream = source.randint(1, 30), source.random() < 0.7
    script: dict[str, Any] = {"tokens": num_tokens, "delay_s": source.choice([0, 0.001, 0.004]), "wait_s": source.choice([0, 0, 0.01])}
    try:
        lease: Lease = await here.acquire(model)
    except (LoadFailed, Unavailable):
        counted["refused"] += 1
        return
    with lease:
        sink = submit(lease, Streamer() if is_stream else Collector(), **script)
        if source.random() < 0.1:
            await asyncio.sleep(source.random() * 0.02)
            counted["left"] += 1
            return
        try:
            found = await sink.end()
        except (WorkerDied, LoadFailed, Unavailable):
            counted["errors"] += 1
            found = text(num_tokens)[: len(sink.text())]
            assert sink.text() == found
        else:
            counted["whole"] += 1
            assert found == text(num_tokens)
            assert (sink.finish or {})["completion_tokens"] == num_tokens


@pytest.mark.parametrize("seed", range(4))
def test_kills_at_random(house: Run, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every stage: while it loads, before the first token, in the middle, at the end, idle. No stream is lost or changed."""
    monkeypatch.setattr("fastrouter.supervisor.managed_model.BACK_OFF_S", (0.0, 0.01, 0.02))
    signals = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGTERM)

    async def body(here: House) -> None:
        source = random.Random(seed)
        is_over = False

        async def killer() -> None:
            while not is_over:
                await asyncio.sleep(source.random() * 0.05)
                for instance in here.supervisor.instances():
                    process = instance.process
                    if process.pid and not process.is_closed and source.random() < 0.4:
                        counted[f"killed while {instance.state.value}"] += 1
                        with contextlib.suppress(ProcessLookupError):  # it has just ended
                            os.kill(process.pid, source.choice(signals))

        killing = asyncio.create_task(killer())
        for _ in range(15):
            await asyncio.wait_for(asyncio.gather(*(client(here, source, source.choice("ab")) for _ in range(8))), 120)
        is_over = True
        await killing
        await until(lambda: not any(instance.num_leases for instance in here.supervisor.instances()), "at rest")
        assert "<Queue >" in repr(here.supervisor)

    house(body)
