"""A router with fake or real workers, watched from outside: its processes, its descriptors, its memory, /health all the time."""

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from chaos_client import Answer, Counts, ask, body_of, close, text_of_script
from conftest import Router, StartRouter, descendants, is_alive

PING_S = 0.02
SETTLE_S = 60.0  # at most, until everything is as before
CALM = "calm"  # a model without faults
CALM_SCRIPT = {"tokens": 40, "delay_s": 0.01}


class Site:
    """One router of fake workers. `models`: their scripts; the calm one is added."""

    def __init__(self, start: StartRouter, folder: Path, models: dict[str, dict[str, Any]], *flags: str, seed: int = 0) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, script in {**models, CALM: {}}.items():
            self.write(name, script)
        self.router: Router = start(*flags, models_dir=folder, is_fake=True)
        self.random = random.Random(seed)
        self._calm_pid: int | None = None  # the last one

    def write(self, model: str, script: dict[str, Any]) -> None:
        (self.folder / f"{model}.gguf").write_text(json.dumps(script))

    @property
    def port(self) -> int:
        return self.router.port

    # ------------------------------------------------------------ requests

    async def ask(self, model: str, script: dict[str, Any], on_text: Callable[[int], None] = lambda count: None) -> Answer:
        return await ask(self.port, body_of(model, script), text_of_script(script), on_text)

    async def get(self, path: str) -> Any:
        return (await asyncio.to_thread(self.router.get, path)).json

    async def post(self, path: str, body: Any) -> int:
        return (await asyncio.to_thread(self.router.post, path, body)).status

    async def pid_of(self, model: str) -> int | None:
        """None: it is not loaded."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            pid = (await self.get(f"/props?model={model}&autoload=false")).get("pid")
            return int(pid) if pid else None
        return None

    # ------------------------------------------------------------ what is seen from outside

    def descriptors(self) -> Counter[str]:
        """What the router has open, by kind."""
        folder, found = f"/proc/{self.router.process.pid}/fd", Counter[str]()
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):  # closed meanwhile
                target = os.readlink(f"{folder}/{name}").partition("[")[0]
                found["/dev/null" if target == "/" else target] += 1  # libuv keeps one of the two, for the time when there are none left
        return found

    def children(self) -> list[int]:
        return descendants(self.router.process.pid)

    def fork_server(self) -> int | None:
        """The child that has no ring."""
        return next((pid for pid in self.children() if is_alive(pid) and not _has_ring(pid)), None)

    async def newest(self) -> int | None:
        """The worker that was started last: the spare, if there is one. Never the calm model's."""
        self._calm_pid = await self.pid_of(CALM) or self._calm_pid
        return max((pid for pid in self.children() if pid != self._calm_pid and _has_ring(pid)), key=_started, default=None)

    def zombies(self) -> list[int]:
        return [pid for pid in self.children() if not is_alive(pid)]

    def resident_mib(self) -> float:
        return int(Path(f"/proc/{self.router.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.router.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # ------------------------------------------------------------ around a row

    @contextlib.asynccontextmanager
    async def watched(self, counts: Counts, *, has_calm: bool = True, has_pings: bool = True) -> AsyncIterator[None]:
        """Meanwhile /health answers and another model streams; afterwards everything is as before."""
        await self._quiet(counts)
        pid, before, mib = self.router.process.pid, self.descriptors(), self.resident_mib()
        if has_calm:  # it stays in memory, so that a fault never hits its load
            await self.post("/models/pin", {"model": CALM, "pin": True})
        works = [self._ping] * has_pings + [self._stream_calmly] * has_calm
        beside = [asyncio.create_task(work(counts)) for work in works]
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            for ended in await asyncio.gather(*beside, return_exceptions=True):
                counts.expect(ended is None or isinstance(ended, asyncio.CancelledError), f"beside it: {ended!r}")
        counts.expect(self.router.process.poll() is None and self.router.process.pid == pid, "the router has ended")
        await self._quiet(counts)
        await self._until(lambda: not self.descriptors() - before, lambda: f"descriptors are left: {self.descriptors() - before}", counts)
        growth = self.resident_mib() - mib
        counts.notes["router grew by"] = f"{growth:.1f} MiB"
        counts.expect("Traceback" not in self.router.log, "a traceback is in the log")

    async def _quiet(self, counts: Counts) -> None:
        """All models leave; the spare and the fork server stay."""
        for entry in (await self.get("/v1/models"))["data"]:
            if entry["status"]["value"] != "unloaded":
                await self.post("/models/unload", {"model": entry["id"]})
        await self._until(lambda: len(self.children()) == 2, lambda: f"children are left: {self.children()}", counts)
        await self._until(lambda: not self.zombies(), lambda: f"zombies are left: {self.zombies()}", counts)
        before = None
        while before != (now := self.descriptors()):  # the spare may still be starting
            before = now
            await asyncio.sleep(0.3)

    async def _until(self, is_so: Callable[[], bool], problem: Callable[[], str], counts: Counts) -> None:
        end = time.monotonic() + SETTLE_S
        while not is_so():
            if time.monotonic() > end:
                counts.problems.append(problem())
                return
            await asyncio.sleep(0.02)

    async def _ping(self, counts: Counts) -> None:
        while True:
            begun = time.monotonic()
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                counts.expect((await reader.read(-1)).startswith(b"HTTP/1.1 200"), "/health does not answer 200")
            finally:
                await close(writer)
            counts.health_s.append(time.monotonic() - begun)
            await asyncio.sleep(PING_S)

    async def _stream_calmly(self, counts: Counts) -> None:
        while True:
            asking = asyncio.create_task(self.ask(CALM, CALM_SCRIPT))
            try:
                counts.take(await asyncio.shield(asking), is_calm=True)
            except asyncio.CancelledError:
                counts.take(await asking, is_calm=True)  # the last one ends too
                raise


def kill(pid: int | None, number: int = signal.SIGKILL) -> bool:
    """False: it has ended."""
    try:
        if pid is not None:
            os.kill(pid, number)
    except ProcessLookupError:
        return False
    return pid is not None


def _has_ring(pid: int) -> bool:
    try:
        return "fastrouter-ring" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def _started(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


class At:
    """A moment in a stream: set by its client when that many texts have come."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.reached = asyncio.Event()

    def __call__(self, count: int) -> None:
        if count >= self._count:
            self.reached.set()
