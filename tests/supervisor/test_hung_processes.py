"""Processes that really hang: stopped, spinning, in a deadlock; workers, spares, the fork server. And some that only look as if they did.

The limits are short here, so only what hangs for ever may be killed by them; what is slow has the usual limit.
"""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import StartRouter, descendants, eventually, has_mapped, is_alive, text_of
from house import WHOLE, Collector, House, Run, Streamer, run_house, submit
from waiting import FAKE, until

from fastrouter.errors import Unavailable, WorkerDied
from fastrouter.supervisor.workers import hang_watch
from fastrouter.supervisor.workers import process as process_module
from fastrouter.supervisor.workers.look import child_with, is_stopped

SHORT_S = 0.5


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(hang_watch, "LOOK_S", 0.02)
    return lambda body, **settings: run_house(tmp_path, body, **{"worker_hang_timeout_s": SHORT_S, **settings})


@pytest.mark.parametrize("how", ["stop", "spin", "deadlock", "turn"])
def test_a_worker_that_hangs_in_mid_stream(house: Run, how: str) -> None:
    async def body(house: House) -> None:
        lease = await house.acquire("m")
        pid = house.pid("m")
        sink = submit(lease, Streamer(), freeze=how, die_after=3, tokens=9)
        with pytest.raises(WorkerDied, match="hung and was killed"):
            await sink.end()
        lease.release()
        assert not is_alive(pid)
        assert await house.ask("m") == WHOLE

    house(body)


def test_a_call_is_work_too(house: Run) -> None:
    async def body(house: House) -> None:
        with await house.acquire("m") as lease:
            os.kill(house.pid("m"), signal.SIGSTOP)
            with pytest.raises(WorkerDied, match="hung and was killed"):
                await lease.call("echo", {})
        assert await house.ask("m") == WHOLE

    house(body)


@pytest.mark.parametrize("how", ["stop", "spin", "deadlock"])
def test_a_load_that_hangs_before_it_is_ready(house: Run, how: str) -> None:
    """The second worker finds a model that loads."""

    async def body(house: House) -> None:
        house.spec("m", freeze=how)
        if how == "spin":  # a load may compute for as long as it wants
            house.settle("m", load_timeout_s=4.0)
        asked = house.wait("m")
        pid = await until(lambda: next((i.process.pid for i in house.supervisor.instances() if i.has_begun), None), "a load")
        (house.folder / "m").write_text("{}")
        if how == "spin":
            with pytest.raises(Exception, match="load-timeout"):
                await asked
        else:
            (await asked).release()
        await until(lambda: not is_alive(pid), "the end of the first worker")

    house(body)


def test_a_worker_that_was_stopped_while_it_was_idle(house: Run) -> None:
    async def body(house: House) -> None:
        assert await house.ask("m") == WHOLE
        pid = house.pid("m")
        os.kill(pid, signal.SIGSTOP)
        assert await house.ask("m") == WHOLE
        assert house.pid("m") != pid

    house(body)


def test_a_stopped_spare_delays_no_load(house: Run) -> None:
    async def body(house: House) -> None:
        spare = await until(lambda: house.supervisor.spares.pid, "a spare")
        os.kill(spare, signal.SIGSTOP)
        assert await house.ask("m") == WHOLE
        assert house.pid("m") != spare
        await until(lambda: not is_alive(spare), "the end of the stopped one")

    house(body, worker_hang_timeout_s=3600.0)


def test_a_stopped_fork_server_delays_no_load(house: Run) -> None:
    async def body(house: House) -> None:
        await until(lambda: house.supervisor.spares.pid, "a spare")
        stopped = house.fork_server.pid
        assert stopped
        os.kill(stopped, signal.SIGSTOP)
        assert await house.ask("a") == WHOLE  # by the spare
        assert await house.ask("b") == WHOLE
        assert house.fork_server.pid != stopped
        assert not is_alive(stopped)

    house(body, worker_hang_timeout_s=3600.0)


def test_a_fork_server_that_is_stopped_while_it_should_start_a_worker(house: Run) -> None:
    async def body(house: House) -> None:
        spare = await until(lambda: house.supervisor.spares.pid, "a spare")
        stopped = house.fork_server.pid
        assert stopped
        assert await house.ask("a") == WHOLE  # takes the spare
        os.kill(stopped, signal.SIGSTOP)
        await until(lambda: house.supervisor.spares.spare is not None, "another spare, that cannot start")
        assert await house.ask("b") == WHOLE
        assert house.fork_server.pid != stopped
        assert spare == house.pid("a")

    house(body)


def stopped_child_with(fd: int) -> int | None:
    pid = child_with(fd)
    return pid if is_stopped(pid) else None


def test_an_unload_of_a_model_whose_worker_was_stopped_before_its_first_message(house: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next request must not wait for that one."""
    monkeypatch.setattr(process_module, "START_GRACE_S", 0.2)

    async def body(house: House) -> None:
        spares, maker = house.supervisor.spares, house.fork_server
        for pid, command in ((await until(lambda: spares.pid, "a spare"), [*FAKE, "--spare", '{"freeze": "stop"}']), (None, FAKE)):
            maker.command = command
            assert maker.pid
            os.kill(maker.pid, signal.SIGKILL)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                spare = await until(lambda: spares.spare if spares.spare is not None and spares.pid is None else None, "a new spare")
                stopped = await until(lambda: stopped_child_with(spare.ring.memory_fd), "its process")  # noqa: B023
        asked = house.wait("m")
        await until(lambda: house.supervisor.status("m").value == "loading", "a load")
        house.supervisor.unload("m")
        with pytest.raises(Unavailable, match="unloaded while it was loading"):
            await asked
        assert await house.ask("m") == WHOLE
        assert not is_alive(stopped)

    house(body, worker_hang_timeout_s=3600.0)


def test_a_worker_that_ignores_sigterm_is_killed(house: Run) -> None:
    async def body(house: House) -> None:
        house.settle("m", stop_timeout_s=0.05)
        lease = await house.acquire("m")
        sink = submit(lease, Collector(), hang=True, die_after=1)
        pid = house.pid("m")
        os.kill(pid, signal.SIGTERM)
        await asyncio.sleep(0.05)
        assert is_alive(pid), "only the router ends workers"
        house.supervisor.unload("m")
        with pytest.raises(Unavailable, match="unloaded"):
            await sink.end()
        await until(lambda: not is_alive(pid), "its end")
        lease.release()

    house(body)


def test_a_pause_of_all_processes_kills_none(tmp_path: Path, router: StartRouter) -> None:
    """As by Ctrl-Z and `fg`, or a debugger that stops the machine."""
    (tmp_path / "m.gguf").write_text("{}")
    server = router("--worker-hang-timeout", "2", models_dir=tmp_path, is_fake=True)
    server.load("m")
    worker = server.get("/props?model=m").json["pid"]
    body = {"model": "m", "messages": [{"role": "user", "content": '{"tokens": 30, "delay_s": 0.1}'}], "stream": True}
    with server.stream("/v1/chat/completions", body) as events:
        coming = iter(events)
        texts = [text_of(next(coming)) for _ in range(2)]
        everything = [server.process.pid, worker]
        for pid in everything:
            os.kill(pid, signal.SIGSTOP)
        eventually(lambda: all(state_of(pid) == "T" for pid in everything), "a pause")
        time.sleep(4)
        for pid in reversed(everything):
            os.kill(pid, signal.SIGCONT)
        texts += [text_of(event) for event in coming]
        assert events.is_done
    assert "".join(texts) == "".join(f"t{index} " for index in range(30))
    assert server.get("/props?model=m").json["pid"] == worker


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# ---------------------------------------------------------------- real workers


def test_a_long_prefill_of_a_real_model_is_left_alone(smollm2: Path, router: StartRouter) -> None:
    """One llama_decode that takes much longer than the limit."""
    flags = ["-c", "1024", "-b", "1024", "-ub", "1024", "-np", "1", "-t", "1"]
    server = router("--model", str(smollm2), "--worker-hang-timeout", "1", *flags)
    worker = [pid for pid in descendants(server.process.pid) if has_mapped(pid, smollm2)]
    answer = server.post("/v1/completions", {"prompt": "word " * 800, "max_tokens": 1, "temperature": 0})
    assert answer.json["usage"]["prompt_tokens"] >= 800
    assert "hangs" not in server.log
    assert worker
    assert all(map(is_alive, worker))


def test_a_real_worker_that_is_stopped(models: Path, router: StartRouter) -> None:
    server = router("--worker-hang-timeout", "2", "-c", "512", models_dir=models)
    body: dict[str, Any] = {"model": "tiny0", "prompt": "a", "max_tokens": 8, "temperature": 0}
    expected = server.post("/v1/completions", body).json["choices"]
    worker = server.worker_of("tiny0")
    os.kill(worker, signal.SIGSTOP)
    answer = server.post("/v1/completions", body)
    assert answer.json["choices"] == expected
    assert not is_alive(worker)
    assert "its worker hangs and is killed: it was stopped by a signal" in server.log
