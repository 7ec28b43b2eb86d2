"""The rows of the matrix: what is broken, how often, and what must hold. Each row is seeded and returns its counts."""

import asyncio
import contextlib
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from chaos_client import BROKEN, KEPT, LOST, REFUSED, Answer, Counts, close
from chaos_site import CALM, CALM_SCRIPT, At, Site, kill
from conftest import FASTROUTER, StartRouter, is_alive

SIGNALS = ("SIGKILL", "SIGSEGV", "SIGBUS", "SIGABRT", "exit3")
STAGES = ("loading", "prefill", "first token", "mid-stream", "end", "idle", "unloading")
FREEZES = ("stop", "spin", "deadlock", "turn")
NUM_LANES = 3  # models with faults, at the same time
HANG_TIMEOUT_S = 3.0
EXPECTED = {"first token": (KEPT,), "prefill": (KEPT,), "loading": (KEPT,), "idle": (KEPT,)}  # elsewhere an error is right too

Row = Callable[[StartRouter, Path, int, float], Coroutine[Any, Any, Counts]]
"""(start, folder, seed, share of the full number) -> counts"""


def times(full: int, share: float, least: int = 1) -> int:
    return max(least, round(full * share))


async def in_lanes(jobs: list[Callable[[str], Coroutine[Any, Any, None]]]) -> None:
    """Each lane has its own model, and does one job after the other."""

    async def lane(number: int) -> None:
        for job in jobs[number::NUM_LANES]:
            await job(f"lane{number}")

    await asyncio.gather(*map(lane, range(NUM_LANES)))


def lanes() -> dict[str, dict[str, Any]]:
    return {f"lane{number}": {} for number in range(NUM_LANES)}


# ---------------------------------------------------------------- F4


async def f4(start: StartRouter, folder: Path, seed: int, share: float) -> Counts:
    counts = Counts("F4", "a worker dies")
    site = Site(start, folder, lanes(), "--models-max", "4", seed=seed)
    kinds = [(stage, how) for stage in STAGES for how in SIGNALS]
    chosen = [kinds[number % len(kinds)] for number in range(times(500, share))]
    site.random.shuffle(chosen)
    async with site.watched(counts):
        await in_lanes([_death(site, counts, number, *kind) for number, kind in enumerate(chosen)])
    return counts


def _death(site: Site, counts: Counts, number: int, stage: str, how: str) -> Callable[[str], Coroutine[Any, Any, None]]:
    async def job(model: str) -> None:
        counts.faults[stage] += 1
        answer = counts.take(await _with_death(site, counts, number, model, stage, how))
        counts.expect(answer.kind in EXPECTED.get(stage, (KEPT, BROKEN, REFUSED)), f"{stage}, {how}: {answer.kind}: {answer.why}")
        await _recover(site, counts, model, answer)

    return job


async def _with_death(site: Site, counts: Counts, number: int, model: str, stage: str, how: str) -> Answer:
    tokens = site.random.randrange(5, 40)
    fault = {"die": how, "once": str(site.folder / f"once-{number}")}
    if stage == "idle":
        counts.take(await site.ask(model, {"tokens": 3}))
        kill(await site.pid_of(model), getattr(signal, how, signal.SIGKILL))
        return await site.ask(model, {"tokens": tokens})
    if stage == "unloading":
        return await _die_while_unloading(site, model, tokens, how)
    if stage == "loading":
        await _change(site, model, {"load_s": 0.02, **fault})
        answer = await site.ask(model, {"tokens": tokens})
        await _change(site, model, {})
        return answer
    after = {"prefill": 0, "first token": 0, "mid-stream": site.random.randrange(1, tokens), "end": tokens}[stage]
    wait_s = 0.05 if stage == "prefill" else 0.0
    return await site.ask(model, {"tokens": tokens, "delay_s": 0.001, "wait_s": wait_s, "die_after": after, **fault})


async def _die_while_unloading(site: Site, model: str, tokens: int, how: str) -> Answer:
    begun = At(2)
    asking = asyncio.create_task(site.ask(model, {"tokens": tokens, "delay_s": 0.01}, begun))
    await asyncio.wait([asking, asyncio.create_task(begun.reached.wait())], return_when=asyncio.FIRST_COMPLETED)
    begun.reached.set()
    pid = await site.pid_of(model)
    await site.post("/models/unload", {"model": model})
    kill(pid, getattr(signal, how, signal.SIGKILL))
    return await asking


async def unload(site: Site, model: str) -> None:
    await site.post("/models/unload", {"model": model})
    while (await site.get(f"/v1/models/{model}"))["status"]["value"] != "unloaded":
        await asyncio.sleep(0.005)


async def _change(site: Site, model: str, script: dict[str, Any]) -> None:
    """Before the next request: a file that changes under a request ends its model."""
    await unload(site, model)
    site.write(model, script)
    await site.get("/models?reload=1")


async def _recover(site: Site, counts: Counts, model: str, answer: Answer) -> None:
    """The next request is served. The time that the fault has cost: the gap in an answer that went on, else until the next answer."""
    begun = time.monotonic()
    after = counts.take(await site.ask(model, {"tokens": 1}))
    counts.expect(after.kind == KEPT, f"the next request is {after.kind}: {after.why}")
    counts.recovery_s.append(answer.longest_gap_s if answer.kind == KEPT else time.monotonic() - begun)


# ---------------------------------------------------------------- F5


async def f5(start: StartRouter, folder: Path, seed: int, share: float) -> Counts:
    counts = Counts("F5", "a worker hangs, or only looks like it")
    site = Site(start, folder, lanes(), "--models-max", "4", "--worker-hang-timeout", f"{HANG_TIMEOUT_S:g}", seed=seed)
    jobs = [_hang(site, counts, number, FREEZES[number % len(FREEZES)]) for number in range(times(60, share, 4))]
    jobs += [_stopped(site, counts, which) for which in ("idle worker", "spare", "fork server") for _ in range(times(10, share))]
    site.random.shuffle(jobs)
    num_slow = times(20, share, NUM_LANES)
    async with site.watched(counts, has_calm=False):
        await in_lanes([_slow(site, counts)] * num_slow)
        false_kills = site.router.log.count("hangs and is killed")
        await in_lanes(jobs)
    counts.notes["false kills"] = f"{false_kills} in {num_slow} slow prefills"
    counts.expect(not false_kills, "a slow prefill was killed")
    return counts


def _hang(site: Site, counts: Counts, number: int, how: str) -> Callable[[str], Coroutine[Any, Any, None]]:
    async def job(model: str) -> None:
        counts.faults[how] += 1
        after, tokens = site.random.randrange(0, 6), 12
        script = {"tokens": tokens, "die_after": after, "freeze": how, "once": str(site.folder / f"once-{number}")}
        answer = counts.take(await site.ask(model, script))
        counts.expect(answer.kind in (KEPT, BROKEN), f"{how}: {answer.kind}: {answer.why}")
        await _recover(site, counts, model, answer)

    return job


def _stopped(site: Site, counts: Counts, which: str) -> Callable[[str], Coroutine[Any, Any, None]]:
    async def job(model: str) -> None:
        counts.faults[f"stopped {which}"] += 1
        if which == "idle worker":
            counts.take(await site.ask(model, {"tokens": 1}))
            kill(await site.pid_of(model), signal.SIGSTOP)
        else:
            await unload(site, model)
            kill(site.fork_server() if which == "fork server" else await site.newest(), signal.SIGSTOP)
        answer = counts.take(await site.ask(model, {"tokens": 3}))
        counts.expect(answer.kind == KEPT, f"stopped {which}: {answer.kind}: {answer.why}")

    return job


def _slow(site: Site, counts: Counts) -> Callable[[str], Coroutine[Any, Any, None]]:
    async def job(model: str) -> None:
        answer = counts.take(await site.ask(model, {"tokens": 2, "wait_s": 1.5 * HANG_TIMEOUT_S}))
        counts.expect(answer.kind == KEPT, f"a slow prefill: {answer.kind}: {answer.why}")

    return job


# ---------------------------------------------------------------- F6


async def f6(start: StartRouter, folder: Path, seed: int, share: float) -> Counts:
    counts = Counts("F6", "a model whose load crashes, and requests that kill")
    site = Site(start, folder, {**lanes(), "bad": {"die": "SIGSEGV"}}, "--models-max", "4", seed=seed)
    num = times(50, share, 4)
    async with site.watched(counts):
        for _ in range(num // 2):
            counts.faults["load"] += 1
            answer = counts.take(await site.ask("bad", {"tokens": 1}))
            counts.expect(answer.kind == REFUSED, f"a load that crashes: {answer.kind}: {answer.why}")
        await in_lanes([_poison(site, counts, number) for number in range(num - num // 2)])
        counts.notes["loads tried"] = str(site.router.log.count("bad: its worker"))
        site.write("bad", {})
        await _until_kept(site, counts, "bad")
    return counts


def _poison(site: Site, counts: Counts, number: int) -> Callable[[str], Coroutine[Any, Any, None]]:
    async def job(model: str) -> None:
        counts.faults["request"] += 1
        answer = counts.take(await site.ask(model, {"tokens": 9, "die": "SIGKILL", "die_after": number % 3, "number": number}))
        counts.expect(answer.kind in (BROKEN, REFUSED), f"a request that kills: {answer.kind}: {answer.why}")
        await _recover(site, counts, model, answer)

    return job


async def _until_kept(site: Site, counts: Counts, model: str) -> None:
    """A model that was repaired is served after its back-off, at most 30 s."""
    end = time.monotonic() + 90
    while (answer := await site.ask(model, {"tokens": 1})).kind != KEPT:
        if answer.kind == LOST or time.monotonic() > end:
            counts.problems.append(f"a repaired model: {answer.kind}: {answer.why}")
            return
        await asyncio.sleep(0.1)


# ---------------------------------------------------------------- F7


async def f7(start: StartRouter, folder: Path, seed: int, share: float) -> Counts:
    counts = Counts("F7", "the router ends with 8 streams")
    ways = ("SIGKILL", "SIGTERM", "SIGINT twice")
    for number in range(times(100, share, 3)):
        await _end_router(start, folder / str(number), counts, ways[number % 3])
    return counts


async def _end_router(start: StartRouter, folder: Path, counts: Counts, way: str) -> None:
    site = await asyncio.to_thread(Site, start, folder, {"m": {}}, "--shutdown-timeout", "0.3")
    begun = [At(1) for _ in range(8)]
    streams = [asyncio.create_task(site.ask("m", {"tokens": 500, "delay_s": 0.01}, at)) for at in begun]
    await asyncio.wait_for(asyncio.gather(*(at.reached.wait() for at in begun)), 60)
    children, ended_at = site.children(), time.monotonic()
    site.router.exits_with = await _signal(site, way)
    while any(map(is_alive, children)) and time.monotonic() < ended_at + 30:
        await asyncio.sleep(0.002)
    counts.faults[way] += 1
    counts.recovery_s.append(time.monotonic() - ended_at)
    counts.expect(not any(map(is_alive, children)), f"{way}: workers are left")
    counts.expect(not list(Path("/dev/shm").glob("*fastrouter*")), "something is in /dev/shm")
    for answer in await asyncio.gather(*streams):
        if way == "SIGTERM":
            counts.take(answer)
        else:  # no process is left that could tell the client; but the end of its body must be missing
            counts.streams["cut"] += 1
            counts.expect(answer.is_cut or answer.kind != LOST, f"{way}: a stream that looks complete: {answer.why}")


async def _signal(site: Site, way: str) -> int:
    """Returns the exit code that follows."""
    router = site.router
    if way == "SIGKILL":
        router.process.kill()
    elif way == "SIGTERM":
        router.process.send_signal(signal.SIGTERM)
    else:
        router.process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            router.process.send_signal(signal.SIGINT)
    code = await asyncio.to_thread(router.process.wait, 60)
    router.is_over = True
    return code


# ---------------------------------------------------------------- F8


async def f8(start: StartRouter, folder: Path, seed: int, share: float) -> Counts:
    counts = Counts("F8", "many models in two places, and loads against unloads")
    names = [f"m{number:02}" for number in range(times(50, share, 8))]
    site = Site(start, folder, {name: {} for name in names}, "--models-max", "2", seed=seed)
    most = 0

    async def look() -> None:
        nonlocal most
        while True:
            states = [entry["status"]["value"] for entry in (await site.get("/v1/models"))["data"]]
            most = max(most, sum(state in ("loading", "loaded") for state in states))
            await asyncio.sleep(0.005)

    async with site.watched(counts, has_calm=False):
        looking = asyncio.create_task(look())
        room = asyncio.Semaphore(16)
        await asyncio.gather(*(_one_of(site, counts, room, names) for _ in range(times(1000, share, 60))))
        await asyncio.gather(*(_load_or_unload(site, counts, room, names) for _ in range(times(200, share, 20))))
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
    counts.notes["most models at a time"] = str(most)
    counts.expect(most <= 2, f"{most} models were in memory")
    return counts


async def _one_of(site: Site, counts: Counts, room: asyncio.Semaphore, names: list[str]) -> None:
    async with room:
        counts.faults["switch"] += 1
        answer = counts.take(await site.ask(site.random.choice(names), {"tokens": site.random.randrange(1, 5)}))
        counts.expect(answer.kind == KEPT, f"{answer.kind}: {answer.why}")


async def _load_or_unload(site: Site, counts: Counts, room: asyncio.Semaphore, names: list[str]) -> None:
    async with room:
        what = site.random.choice(["load", "unload", "ask", "reload"])
        counts.faults[what] += 1
        name = site.random.choice(names)
        if what == "ask":
            counts.take(await site.ask(name, {"tokens": 2, "delay_s": 0.01}))
        elif what == "reload":
            site.write(name, {"lines": [str(site.random.random())]})
            site.router.process.send_signal(signal.SIGHUP)
        else:
            status = await site.post(f"/models/{what}", {"model": name})
            counts.expect(status in (200, 400, 503), f"{what}: status {status}")


# ---------------------------------------------------------------- F17


async def f17(start: StartRouter, folder: Path, seed: int, share: float) -> Counts:
    counts = Counts("F17", "no descriptors left, and a port that is taken")
    site = Site(start, folder, lanes(), "--models-max", "4", seed=seed)
    async with site.watched(counts, has_calm=False, has_pings=False):
        for number in range(times(20, share, 2)):
            if number % 2:
                await _take_port(site, counts)
            else:
                await _exhaust(site, counts)
    return counts


async def _exhaust(site: Site, counts: Counts) -> None:
    counts.faults["descriptors"] += 1
    pid = site.router.process.pid
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    writers = []
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (site.descriptors().total() + 4, usual[1]))
    try:
        begun_s = site.cpu_s()
        for _ in range(30):
            writers.append((await asyncio.open_connection("127.0.0.1", site.port))[1])
        await asyncio.sleep(0.5)
        counts.notes["CPU while exhausted"] = f"{(site.cpu_s() - begun_s) / 0.5:.0%}"
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        for writer in writers:
            await close(writer)
    begun = time.monotonic()
    counts.expect(counts.take(await site.ask("lane0", {"tokens": 2})).kind == KEPT, "no answer after it had descriptors again")
    counts.recovery_s.append(time.monotonic() - begun)


async def _take_port(site: Site, counts: Counts) -> None:
    counts.faults["port"] += 1
    command = [*FASTROUTER, "--port", str(site.port), "--models-dir", str(site.folder)]
    second = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, cwd=site.folder)
    counts.expect(second.returncode and "Traceback" not in second.stderr, f"a second router on the port: {second.stderr[-300:]}")
    counts.expect(str(site.port) in second.stderr + second.stdout, f"its error does not name the port: {second.stderr[-300:]}")
    counts.take(await site.ask("lane1", {"tokens": 2}))


# ---------------------------------------------------------------- F19


async def f19(start: StartRouter, folder: Path, seed: int, share: float, seconds: float = 300.0) -> Counts:
    counts = Counts("F19", "all of it at random, 32 streams")
    names = [f"r{number}" for number in range(6)]
    flags = ("--models-max", "4", "--worker-hang-timeout", f"{HANG_TIMEOUT_S:g}")
    site = Site(start, folder, {name: {} for name in names}, *flags, seed=seed)
    sizes: list[tuple[float, float]] = []
    async with site.watched(counts):
        end = time.monotonic() + max(8.0, seconds * share)
        await site.ask(CALM, CALM_SCRIPT)  # it is loaded before anything breaks
        streams = [asyncio.create_task(_streams_until(site, counts, names, end, number)) for number in range(32)]
        while time.monotonic() < end:
            await _break_something(site, counts, names)
            sizes.append((time.monotonic(), site.resident_mib()))
            await asyncio.sleep(site.random.random() * 0.5)
        await asyncio.gather(*streams)
    half = sizes[len(sizes) // 2 :]  # by then the logs of the workers are full
    counts.notes["RSS slope"] = f"{slope(half) * 3600:.2f} MiB/h over the last {half[-1][0] - half[0][0]:.0f} s"
    return counts


async def _streams_until(site: Site, counts: Counts, names: list[str], end: float, lane: int) -> None:
    number = 0
    while time.monotonic() < end:
        number += 1
        script: dict[str, Any] = {"tokens": site.random.randrange(1, 60), "delay_s": site.random.choice([0.0, 0.002, 0.01])}
        if site.random.random() < 0.05:
            fault = site.random.choice(
                [("die", "SIGKILL"), ("die", "SIGSEGV"), ("freeze", "stop"), ("raw", "ffffffff"), ("ring_head", 1 << 40)]
            )
            script |= {fault[0]: fault[1], "die_after": site.random.randrange(0, 9), "once": str(site.folder / f"once-{lane}-{number}")}
            counts.faults[f"{fault[0]} in a request"] += 1
        counts.take(await site.ask(site.random.choice(names), script))


async def _break_something(site: Site, counts: Counts, names: list[str]) -> None:
    name = site.random.choice(names)
    what = site.random.choice(["kill", "stop", "unload", "spare", "fork server", "leave", "reload"])
    counts.faults[what] += 1
    if what in ("kill", "stop"):
        kill(await site.pid_of(name), signal.SIGKILL if what == "kill" else signal.SIGSTOP)
    elif what == "unload":
        await site.post("/models/unload", {"model": name})
    elif what in ("spare", "fork server"):
        kill(site.fork_server() if what == "fork server" else await site.newest(), site.random.choice([signal.SIGKILL, signal.SIGSTOP]))
    elif what == "leave":
        leaving = asyncio.create_task(site.ask(name, {"tokens": 100, "delay_s": 0.01}))
        await asyncio.sleep(0.05)
        leaving.cancel()
    else:
        site.write(name, {"lines": [str(site.random.random())]})
        site.router.process.send_signal(signal.SIGHUP)


def slope(points: list[tuple[float, float]]) -> float:
    """Least squares."""
    if len(points) < 2:
        return 0.0
    middle_x, middle_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0


ROWS: dict[str, Row] = {"F4": f4, "F5": f5, "F6": f6, "F7": f7, "F8": f8, "F17": f17, "F19": f19}
