"""The rows of the matrix in which clients are at fault: slow ones, and those that leave in the middle."""

import asyncio
import contextlib
import resource
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from chaos_client import KEPT, Counts, ask, body_of, close, percentile, request_of, text_of_script
from chaos_faults import Row, in_lanes, lanes, times, unload
from chaos_site import Site
from conftest import StartRouter

CHAT = "/v1/chat/completions"
NUM_ASKED = 20  # requests of a good client, for a typical time
MOST_S = 60.0  # a slow client must be closed by then
SPARE_DESCRIPTORS = 500  # of this process
# What a slow client sends first, and once a second from then on.
SLOW = {
    "says nothing": (b"", b""),
    "slow head": (f"POST {CHAT} HTTP/1.1\r\n".encode(), b"X"),
    "slow body": (f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n".encode(), b" "),
}
LONG_ANSWER: dict[str, Any] = {"tokens": 100, "text": "x" * 20_000}  # more than all buffers hold
STAGES = (
    *("in the head", "after the head", "in the body", "while it loads", "before the first token", "at the first token"),
    *("mid-stream", "half closed", "without reading", "in a whole answer"),
)

# ---------------------------------------------------------------- F1


async def f1(start: StartRouter, folder: Path, seed: int, share: float) -> Counts:
    counts = Counts("F1", "slow clients")
    site = Site(start, folder, lanes(), "--models-max", "4", seed=seed)
    kinds = list(SLOW)
    async with site.watched(counts):
        alone_s = await _typical_s(site, counts)
        sitting = [asyncio.create_task(_sit(site, counts, kinds[number % len(kinds)])) for number in range(_num_sockets(share))]
        reading = [asyncio.create_task(_read_slowly(site, counts)) for _ in range(times(40, share))]
        await asyncio.sleep(3)  # all of them are there, and buffers are full
        beside_s = await _typical_s(site, counts)
        closed_s = await asyncio.gather(*sitting)
        await asyncio.gather(*reading)
    counts.notes["closed after"] = f"{max(closed_s):.1f} s at most"
    counts.notes["a good client waits"] = f"{1e3 * beside_s:.1f} ms beside them, {1e3 * alone_s:.1f} ms without them"
    return counts


def _num_sockets(share: float) -> int:
    """As many as this process may open."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = times(2000, share, 6)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(resource.getrlimit(resource.RLIMIT_NOFILE)[0], wanted + 500)), hard))
    return min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS)


async def _typical_s(site: Site, counts: Counts) -> float:
    took_s = []
    for _ in range(NUM_ASKED):
        begun = time.monotonic()
        counts.take(await site.ask("lane0", {"tokens": 1}))
        took_s.append(time.monotonic() - begun)
    return percentile(took_s, 50)


async def _sit(site: Site, counts: Counts, kind: str) -> float:
    """Until the server closes. Returns how long that took."""
    counts.faults[kind] += 1
    first, more = SLOW[kind]
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(first)
    reading = asyncio.create_task(reader.read())
    while not reading.done() and time.monotonic() < begun + MOST_S:
        await asyncio.wait([reading], timeout=1.0 if more else MOST_S)
        writer.write(more)
    took_s = time.monotonic() - begun
    counts.expect(reading.done(), f"{kind}: still open after {MOST_S:g} s")
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError, OSError):
        await reading
    await close(writer)
    return took_s


async def _read_slowly(site: Site, counts: Counts) -> None:
    """It gets all of its answer, in its own time."""
    counts.faults["slow reader"] += 1
    answer = await ask(site.port, body_of("lane1", LONG_ANSWER), text_of_script(LONG_ANSWER), path=CHAT, pace_s=0.2)
    counts.expect(counts.take(answer).kind == KEPT, f"a slow reader: {answer.kind}: {answer.why[:200]}")


# ---------------------------------------------------------------- F3


async def f3(start: StartRouter, folder: Path, seed: int, share: float) -> Counts:
    counts = Counts("F3", "clients that leave")
    site = Site(start, folder, {lane: {"load_s": 0.05} for lane in lanes()}, "--models-max", "4", seed=seed)
    chosen = [STAGES[number % len(STAGES)] for number in range(times(1000, share, len(STAGES)))]
    site.random.shuffle(chosen)
    async with site.watched(counts):
        await in_lanes([_vanish(site, counts, stage) for stage in chosen])
    return counts


def _vanish(site: Site, counts: Counts, stage: str) -> Callable[[str], Coroutine[Any, Any, None]]:
    async def job(model: str) -> None:
        counts.faults[stage] += 1
        if stage == "while it loads":
            await unload(site, model)
        else:
            counts.take(await site.ask(model, {"tokens": 1}))
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        await _go_as_far_as(stage, reader, writer, model)
        await _leave(site, writer)
        begun = time.monotonic()
        while any(slot["is_processing"] for slot in await site.get(f"/slots?model={model}")):
            counts.expect(time.monotonic() < begun + MOST_S, f"{stage}: its request goes on after {MOST_S:g} s")
            await asyncio.sleep(0)
        counts.recovery_s.append(time.monotonic() - begun)
        after = counts.take(await site.ask(model, {"tokens": 2}))
        counts.expect(after.kind == KEPT, f"the next request is {after.kind}: {after.why}")

    return job


async def _go_as_far_as(stage: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, model: str) -> None:
    script: dict[str, Any] = {"tokens": 5000, "delay_s": 0.002}
    if stage == "before the first token":
        script["wait_s"] = 60
    elif stage == "without reading":
        script = {"tokens": 5000, "text": "x" * 5000}
    body = {**body_of(model, script), "stream": stage != "in a whole answer"}
    head, data = request_of(CHAT, body)
    writer.write({"in the head": head[:40], "after the head": head, "in the body": head + data[:-5]}.get(stage, head + data))
    if stage in ("at the first token", "half closed"):
        await reader.readuntil(b'"t0 ')
    elif stage == "mid-stream":
        await reader.readuntil(b'"t9 ')
    elif stage in ("while it loads", "before the first token", "without reading", "in a whole answer"):
        await asyncio.sleep(0.02)
    if stage == "half closed":
        writer.write_eof()
        await reader.read()


async def _leave(site: Site, writer: asyncio.StreamWriter) -> None:
    """With a goodbye, or without one."""
    if site.random.randrange(2):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    await close(writer)


CLIENT_ROWS: dict[str, Row] = {"F1": f1, "F3": f3}
