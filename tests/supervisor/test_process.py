"""Worker processes at the lowest level: start, handshake, end, and what is left afterwards. With real processes, see fake_worker.py."""

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from conftest import eventually, is_alive, parents
from waiting import FAKE, PR_SET_CHILD_SUBREAPER, children, descriptors, until

from fastrouter._core import Sink, TextCollector
from fastrouter.errors import ProtocolError
from fastrouter.ipc.messages import Call, Failed, Generate, Load, Progress, Ready, Reply, Submit
from fastrouter.options.load import LoadOptions
from fastrouter.supervisor.workers import fork_server
from fastrouter.supervisor.workers import process as process_module
from fastrouter.supervisor.workers.fork_server import ForkServer
from fastrouter.supervisor.workers.line_pipe import LinePipe
from fastrouter.supervisor.workers.look import child_with, is_stopped
from fastrouter.supervisor.workers.process import WorkerProcess, adopt_orphans, describe_exit, reap_unknown


def run(body: Callable[[ForkServer], Coroutine[Any, Any, None]], *spare: Any) -> None:
    """`body` with a fork server; afterwards no descriptor and no child may be left."""

    async def whole() -> None:
        adopt_orphans()
        await asyncio.sleep(0)
        gc.collect()  # objects that other tests have left for the collector
        before = descriptors(), children()
        fork_server = ForkServer([*FAKE, "--spare", json.dumps(spare[0])] if spare else FAKE)
        try:
            await body(fork_server)
        finally:
            fork_server.close()

        def is_clean() -> bool:
            reap_unknown(set())
            return (descriptors(), children()) == before

        await until(is_clean, f"as before: {descriptors() - before[0]}, {children()}")

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole())
    finally:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class Worker:
    """A process with its output and its messages."""

    def __init__(self, fork_server: ForkServer) -> None:
        self.process = fork_server.spawn()
        self.heard: list[Any] = []
        self.num_exits = 0
        self.heard_at_exit = -1
        self.process.on_message = self.heard.append
        self.process.on_exit = self.ended

    def ended(self) -> None:
        self.num_exits += 1
        self.heard_at_exit = len(self.heard)

    async def up(self) -> WorkerProcess:
        await until(lambda: self.process.is_up, "up")
        return self.process

    async def end(self) -> int | None:
        await until(lambda: self.num_exits, "the end")
        await asyncio.sleep(0.02)
        assert self.num_exits == 1
        assert self.heard_at_exit == len(self.heard)
        assert self.process.is_closed
        assert self.process.pid is None or not is_alive(self.process.pid)
        return self.process.exit_code

    async def load(self, path: Path, script: dict[str, Any]) -> None:
        path.write_text(json.dumps(script))
        self.process.send(Load("m", str(path), LoadOptions()))

    async def loaded(self, path: Path, script: dict[str, Any] | None = None) -> None:
        await self.load(path, script or {})
        await until(lambda: [m for m in self.heard if isinstance(m, Ready)], "Ready")

    def generate(self, sink: Sink, **script: Any) -> None:
        self.process.send(Submit(self.process.ring.attach(sink), Generate(prompt=json.dumps(script))))


class Collector(TextCollector):
    is_finished = False

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        self.is_finished = True


def test_descriptions() -> None:
    assert describe_exit(None) == "ended before it was ready"
    assert describe_exit(3) == "exited with code 3"
    assert describe_exit(-11) == "was killed by signal 11 (SIGSEGV)"
    assert describe_exit(-250) == "was killed by signal 250"


def test_spawn_and_kill() -> None:
    async def body(fork_server: ForkServer) -> None:
        workers = [Worker(fork_server) for _ in range(4)]
        pids = {(await worker.up()).pid for worker in workers}
        assert len(pids) == 4
        assert all(parents()[pid] == os.getpid() for pid in pids if pid)
        for worker in workers:
            worker.process.kill()
            worker.process.kill()
        assert [await worker.end() for worker in workers] == [-9] * 4
        workers[0].process.kill()
        workers[0].process.close()

    run(body)


def test_all_messages_come_before_the_exit(tmp_path: Path) -> None:
    async def body(fork_server: ForkServer) -> None:
        worker, sink = Worker(fork_server), Collector()
        await worker.loaded(tmp_path / "m")
        big = {"text": "x" * (3 << 20)}
        for request_id in range(3):
            worker.process.send(Call(request_id, "echo", big))
        await until(lambda: worker.heard[1:], "the first answer")
        await until(lambda: len(worker.heard) == 4, "three answers")
        worker.process.send(Call(9, "echo", big))
        worker.generate(sink, tokens=1000, die="SIGKILL", die_after=1000)
        assert await worker.end() == -9
        assert worker.heard[-1] == Reply(9, result=big)
        assert sink.text() == b"".join(b"t%d " % i for i in range(1000))

    run(body)


def test_failed_and_exit_code(tmp_path: Path) -> None:
    async def body(fork_server: ForkServer) -> None:
        for _ in range(10):
            worker = Worker(fork_server)
            await worker.load(tmp_path / "m", {"progress": [0.5], "fail": "no such tensor"})
            assert await worker.end() == 1
            assert worker.heard == [Progress(0.0), Progress(0.5), Failed("no such tensor")]

    run(body)


@pytest.mark.parametrize(("how", "code"), [("SIGSEGV", -11), ("SIGBUS", -7), ("SIGABRT", -6), ("SIGKILL", -9), ("exit1", 1), ("exit0", 0)])
def test_ways_to_die(tmp_path: Path, how: str, code: int) -> None:
    async def body(fork_server: ForkServer) -> None:
        worker = Worker(fork_server)
        await worker.load(tmp_path / "m", {"die": how})
        assert await worker.end() == code
        if how.startswith("exit"):
            assert list(worker.process.lines) == ["the script says exit"]

    run(body)


def test_killed_before_it_is_up() -> None:
    async def body(fork_server: ForkServer) -> None:
        workers = [Worker(fork_server) for _ in range(3)]
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            assert await worker.end() == -9

    run(body)


def test_dies_before_it_is_up() -> None:
    async def body(fork_server: ForkServer) -> None:
        worker = Worker(fork_server)
        assert await worker.end() is None
        assert worker.process.pid is None

    run(body, {"die": "SIGSEGV"})


def test_never_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "UP_TIMEOUT_S", 0.2)

    async def body(fork_server: ForkServer) -> None:
        assert await Worker(fork_server).end() is None

    run(body, {"mute": True})


def test_hangs_up_and_lives_on() -> None:
    async def body(fork_server: ForkServer) -> None:
        assert await Worker(fork_server).end() is None

    run(body, {"hangs": True})


def test_fork_server_killed(tmp_path: Path) -> None:
    async def body(fork_server: ForkServer) -> None:
        first = Worker(fork_server)
        await first.loaded(tmp_path / "m")
        old = fork_server.pid
        assert old
        os.kill(old, signal.SIGKILL)
        eventually(lambda: not is_alive(old), "its end")
        second = Worker(fork_server)
        await second.loaded(tmp_path / "m")
        assert fork_server.pid not in (None, old)
        first.process.send(Call(1, "pid", {}))
        await until(lambda: Reply(1, result=first.process.pid) in first.heard, "the first still answers")
        for worker in (first, second):
            worker.process.kill()
            assert await worker.end() == -9

    run(body)


def test_fork_server_that_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is replaced; the worker that it was asked for ends."""
    monkeypatch.setattr(fork_server, "SPAWN_TIMEOUT_S", 0.2)

    async def body(fork_server: ForkServer) -> None:
        fork_server.start()
        old = fork_server.pid
        assert old
        os.kill(old, signal.SIGSTOP)
        workers = [Worker(fork_server)]
        while fork_server.pid == old:
            workers.append(Worker(fork_server))
            assert len(workers) < 1000
        for lost in workers[:-1]:
            assert await lost.end() is None
        await workers[-1].up()
        workers[-1].process.kill()
        assert await workers[-1].end() == -9

    run(body)


async def stopped_before_hello(worker: Worker) -> int:
    def child() -> int | None:
        pid = child_with(worker.process.ring.memory_fd)
        return pid if is_stopped(pid) else None

    found: int = await until(child, "a stopped child")
    assert worker.process.pid is None
    return found


@pytest.mark.parametrize("end", ["give_up", "kill"])
def test_a_worker_that_is_stopped_before_its_first_message(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """No one knows its pid, and it must end nevertheless; the fork server is not to blame."""
    monkeypatch.setattr(process_module, "START_GRACE_S", 0.2)

    async def body(fork_server: ForkServer) -> None:
        worker = Worker(fork_server)
        child, maker = await stopped_before_hello(worker), fork_server.pid
        look = worker.process.look()
        assert look is not None
        assert look.state == "T"
        getattr(worker.process, end)()
        assert await worker.end() is None
        await until(lambda: not is_alive(child), "its end")
        assert fork_server.pid == maker

    run(body, {"freeze": "stop"})


def test_a_worker_whose_fork_server_is_gone_before_its_first_message() -> None:
    async def body(fork_server: ForkServer) -> None:
        worker = Worker(fork_server)
        child = await stopped_before_hello(worker)
        assert fork_server.pid
        os.kill(fork_server.pid, signal.SIGKILL)
        await until(lambda: fork_server.pid is None, "the end of the fork server")
        look = worker.process.look()
        assert look is not None
        assert look.state == "T"
        os.kill(child, signal.SIGKILL)
        assert await worker.end() is None

    run(body, {"freeze": "stop"})


def test_fork_server_that_cannot_start() -> None:
    async def body(fork_server: ForkServer) -> None:
        fork_server.command = ["/nonexistent"]
        with pytest.raises(Exception, match="cannot start worker processes"):
            fork_server.spawn()
        fork_server.command = [sys.executable, "-c", "0"]
        assert await Worker(fork_server).end() is None

    run(body)


@pytest.mark.parametrize("pid", [1, -1, 0, 2**31, 2**63])
def test_a_false_hello(pid: int) -> None:
    async def body(fork_server: ForkServer) -> None:
        worker = Worker(fork_server)
        assert await worker.end() == -9
        assert worker.process.broke_protocol

    run(body, {"hello_pid": pid})


def test_a_false_hello_kills_only_its_own_process() -> None:
    """It claims to be another child of ours."""

    async def body(fork_server: ForkServer) -> None:
        victim = await asyncio.create_subprocess_exec("sleep", "60")
        fork_server.command = [*FAKE, "--spare", json.dumps({"hello_pid": victim.pid})]
        worker = Worker(fork_server)
        assert await worker.end() == -9
        assert worker.process.broke_protocol
        assert worker.process.pid != victim.pid
        assert is_alive(victim.pid)
        victim.kill()
        await victim.wait()

    run(body)


@pytest.mark.parametrize("raw", ["ffffffff", "00000000", "030000007b7d7d", "ff" * 5000, "01000000ff"])
def test_garbage_instead_of_a_greeting(raw: str) -> None:
    async def body(fork_server: ForkServer) -> None:
        worker = Worker(fork_server)
        assert await worker.end() == -9
        assert worker.process.broke_protocol

    run(body, {"raw": raw})


@pytest.mark.parametrize("raw", ["00", "0200000041"])
def test_a_frame_that_never_ends(raw: str) -> None:
    """Not an error: the worker may only be slow."""

    async def body(fork_server: ForkServer) -> None:
        worker = Worker(fork_server)
        process = await worker.up()
        await asyncio.sleep(0.05)
        assert not process.is_closed
        process.kill()
        assert await worker.end() == -9
        assert not process.broke_protocol

    run(body, {"raw": raw})


@pytest.mark.parametrize("head", [1, 7, 1 << 20, (1 << 20) + 8, 1 << 40, (1 << 64) - 8, 24, 4096])
def test_impossible_ring(tmp_path: Path, head: int) -> None:
    """Indices that are impossible, and possible indices without content behind them."""

    async def body(fork_server: ForkServer) -> None:
        worker = Worker(fork_server)
        await worker.load(tmp_path / "m", {"ring_head": head})
        assert await worker.end() == -9
        assert worker.process.broke_protocol
        with contextlib.suppress(ProtocolError):
            worker.process.ring.drain()

    run(body)


def test_log_lines() -> None:
    async def body() -> None:
        lines: list[str] = []
        pipe = LinePipe(lines.append)
        theirs = os.dup(pipe.child_fd)
        pipe.listen()
        for data in (b"one\ntw", b"o\r\n\n", b"x" * 5000, b"\nthree"):
            os.write(theirs, data)
            pipe.read()
        os.close(theirs)
        pipe.read()
        pipe.close()
        assert lines == ["one", "two", "x" * 4096, "three"]

    asyncio.run(body())


OWNER = """
import asyncio, sys
import uvloop
from fastrouter.supervisor.workers.process import adopt_orphans
from fastrouter.supervisor.workers.fork_server import ForkServer

async def main():
    adopt_orphans()
    fork_server = ForkServer(sys.argv[1:])
    workers = [fork_server.spawn() for _ in range(4)]
    while not all(worker.is_up for worker in workers):
        await asyncio.sleep(0.005)
    print(fork_server.pid, *(worker.pid for worker in workers), flush=True)
    await asyncio.sleep(600)

asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
"""


def test_the_death_of_the_router_ends_its_workers() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, *FAKE], stdout=subprocess.PIPE)
    with owner:
        assert owner.stdout
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 5
        assert all(map(is_alive, pids))
        owner.kill()
        owner.wait()
        eventually(lambda: not any(map(is_alive, pids)), "the end of all workers")
