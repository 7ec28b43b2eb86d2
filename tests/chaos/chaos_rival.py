"""The same faults in this router and in llama-server's: the same models, flags and client, real workers, which are killed by pid.

Of this router only the command line is used. Invariant: only processes that a server of this file has started get a signal.
"""

import asyncio
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_client import BROKEN, KEPT, REFUSED, Answer, ask, milliseconds
from chaos_site import At, kill
from conftest import descendants, has_mapped, is_alive
from tiny_models import make_llama

from fastrouter.cli.bench import servers

STAGES = ("loading", "prefill", "mid-stream", "idle")
NUM_LANES = 5  # each has a model of its own
FLAGS = ("-c", "16384", "-np", "8", "-t", "2", "--models-max", "8")
PATIENCE_S = 20.0  # a stream that is not over by then hangs; undisturbed ones take about a second
GONE_S = 1.0  # a router's children must have ended this long after it
NUM_STREAMS = 8  # when the router ends
# (prompt, tokens of the answer)
SHORT, LONG, NEXT = ("Once upon a time", 400), ("the cat and the dog " * 300, 60), ("And then", 8)
ENDINGS = ("went on", "error", "cut", "looks complete", "hung")
Asked = tuple[str, int]


@dataclass
class Endings:
    """How the streams of one server ended under one fault."""

    fault: str
    streams: Counter[str] = field(default_factory=Counter)  # by ENDINGS
    num_next: int = 0  # requests after a fault
    num_served: int = 0  # of these
    pauses_s: list[float] = field(default_factory=list)  # of streams that went on
    left: Counter[bool] = field(default_factory=Counter)  # whether children outlived their router by GONE_S

    def take(self, answer: Answer) -> None:
        ending = ending_of(answer)
        self.streams[ending] += 1
        if ending == "went on":
            self.pauses_s.append(answer.longest_gap_s)


def ending_of(answer: Answer) -> str:
    """`cut`: the connection broke. `looks complete`: a proper end of the body, although something is missing or wrong."""
    if answer.kind == KEPT:
        return "went on"
    if answer.kind in (BROKEN, REFUSED) or answer.status >= 400:
        return "error"
    if answer.is_hung:
        return "hung"
    return "cut" if answer.is_cut else "looks complete"


class Target:
    """One running server with its models."""

    def __init__(self, server: servers.MeasuredServer, folder: Path, seed: int, patience_s: float = PATIENCE_S) -> None:
        self.server = server
        self.patience_s = patience_s
        self.random = random.Random(seed)
        self._folder = folder
        self._texts: dict[tuple[str, Asked], str] = {}  # of undisturbed runs

    async def ask(self, model: str, asked: Asked, on_text: Callable[[int], None] = lambda count: None) -> Answer:
        expected = self._texts.get((model, asked), "")
        return await ask(self.server.port, body_of(model, asked), expected, on_text, "/v1/completions", patience_s=self.patience_s)

    async def learn(self) -> None:
        for model in lanes():
            for asked in (SHORT, LONG, NEXT):
                answer = await self.ask(model, asked)
                self._texts[model, asked] = answer.text
                assert answer.text, answer

    async def ready(self, model: str) -> int:
        """The pid of its worker, when it answers."""
        end = time.monotonic() + 5 * self.patience_s
        while time.monotonic() < end:
            if (await self.ask(model, NEXT)).kind == KEPT:
                return self.worker_of(model) or 0
            await asyncio.sleep(0.2)
        raise TimeoutError(f"{self.server.name}: {model} is not served any more")

    def worker_of(self, model: str) -> int | None:
        """The process that has the model's file in its memory."""
        path = self._folder / f"{model}.gguf"
        return next((pid for pid in self.children() if has_mapped(pid, path)), None)

    def children(self) -> list[int]:
        return [pid for pid in descendants(self.server.process.pid) if is_alive(pid)]

    async def until(self, is_so: Callable[[], Any], timeout_s: float) -> Any:
        end = time.monotonic() + timeout_s
        while not (value := is_so()) and time.monotonic() < end:
            await asyncio.sleep(0)
        return value


def lanes() -> list[str]:
    return [f"tiny{number}" for number in range(NUM_LANES)]


def body_of(model: str, asked: Asked) -> dict[str, Any]:
    fixed = {"temperature": 0, "seed": 1, "stream": True, "ignore_eos": True, "cache_prompt": False}
    return {"model": model, "prompt": asked[0], "max_tokens": asked[1], **fixed}


# ---------------------------------------------------------------- a worker dies or stops


async def _hurt_workers(target: Target, share: float) -> list[Endings]:
    await target.learn()
    found = {stage: Endings(f"F4: worker killed, {stage}") for stage in STAGES}
    stopped = Endings("F5: worker stopped, mid-stream")

    def death(stage: str) -> Callable[[str], Coroutine[Any, Any, None]]:
        return lambda model: _kill_in(target, found[stage], stage, model)

    num_deaths, num_stops = max(len(STAGES), round(40 * share)), max(1, round(20 * share))
    jobs = [death(STAGES[number % len(STAGES)]) for number in range(num_deaths)]
    jobs += [lambda model: _stop(target, stopped, model)] * num_stops

    async def lane(number: int) -> None:
        for job in jobs[number::NUM_LANES]:
            await job(lanes()[number])

    await asyncio.gather(*map(lane, range(NUM_LANES)))
    return [*found.values(), stopped]


async def _kill_in(target: Target, endings: Endings, stage: str, model: str) -> None:
    worker = await target.ready(model)
    if stage == "loading":
        await asyncio.to_thread(target.server.unload, model)
        await target.until(lambda: not is_alive(worker), target.patience_s)
        asking = asyncio.create_task(target.ask(model, SHORT))
        kill(await target.until(lambda: target.worker_of(model), target.patience_s))
        endings.take(await asking)
    elif stage == "idle":
        kill(worker)
        endings.take(await target.ask(model, SHORT))
    else:
        endings.take(await _hit(target, model, stage, signal.SIGKILL))
    await _ask_next(target, endings, model)


async def _stop(target: Target, endings: Endings, model: str) -> None:
    worker = await target.ready(model)
    endings.take(await _hit(target, model, "mid-stream", signal.SIGSTOP))
    await _ask_next(target, endings, model)
    if worker in target.children():
        kill(worker)  # the next fault needs a model that answers


async def _hit(target: Target, model: str, stage: str, number: signal.Signals) -> Answer:
    """The worker gets this signal while it computes the prompt, or after some texts. A stream that was over by then does not count."""
    while True:
        worker, begun = target.worker_of(model), At(target.random.randrange(3, 60))
        asking = asyncio.create_task(target.ask(model, LONG if stage == "prefill" else SHORT, begun))
        reached = asyncio.create_task(begun.reached.wait())
        wait_s = 0.002 + 0.02 * target.random.random() if stage == "prefill" else None
        await asyncio.wait([asking, reached], return_when=asyncio.FIRST_COMPLETED, timeout=wait_s)
        reached.cancel()
        if not asking.done():
            kill(worker, number)
            return await asking


async def _ask_next(target: Target, endings: Endings, model: str) -> None:
    endings.num_next += 1
    answer = await target.ask(model, NEXT)
    endings.num_served += answer.kind == KEPT
    if answer.kind != KEPT:
        print(f"{target.server.name}, after {endings.fault}: {ending_of(answer)}: {answer.why[:200]}", flush=True)


# ---------------------------------------------------------------- the router dies


async def _end_router(target: Target, endings: Endings) -> None:
    begun = [At(1) for _ in range(NUM_STREAMS)]
    streams = [asyncio.create_task(target.ask("tiny0", SHORT, at)) for at in begun]
    await asyncio.wait_for(asyncio.gather(*(at.reached.wait() for at in begun)), 5 * target.patience_s)
    children = target.children()
    target.server.process.kill()
    began = time.monotonic()
    await target.until(lambda: not any(map(is_alive, children)), GONE_S)
    endings.pauses_s.append(time.monotonic() - began)
    endings.left[any(map(is_alive, children))] += 1
    for pid in filter(is_alive, children):
        kill(pid)
    for answer in await asyncio.gather(*streams):
        endings.streams[ending_of(answer)] += 1


# ---------------------------------------------------------------- both servers


@contextmanager
def running(rival: Path | None, folder: Path) -> Iterator[servers.MeasuredServer]:
    environ = {**os.environ, "LLAMA_CACHE": "/nonexistent", "HF_HUB_CACHE": "/nonexistent"}
    with servers.running(rival, ["--models-dir", str(folder), *FLAGS], environ, folder.parent / "log") as server:
        yield server


def measure(rival: Path | None, folder: Path, seed: int, share: float, patience_s: float = PATIENCE_S) -> list[Endings]:
    with running(rival, folder) as server:
        found = asyncio.run(_hurt_workers(Target(server, folder, seed, patience_s), share))
    found.append(Endings(f"F7: router killed, {NUM_STREAMS} streams"))
    for _ in range(max(1, round(10 * share))):
        with running(rival, folder) as server:
            asyncio.run(_end_router(Target(server, folder, seed, patience_s), found[-1]))
    return found


def make_models(folder: Path) -> Path:
    """The folder below it."""
    made = folder / "models"
    made.mkdir()
    for number, lane in enumerate(lanes()):
        make_llama(made / f"{lane}.gguf", seed=number)
    return made


def compare(rival: Path, seed: int, share: float) -> dict[str, list[Endings]]:
    with tempfile.TemporaryDirectory() as name:
        folder = make_models(Path(name))
        return {server: measure(program, folder, seed, share) for server, program in ((servers.OURS, None), (servers.RIVAL, rival))}


def table(found: dict[str, list[Endings]]) -> str:
    lines = ["| fault | server | streams | " + " | ".join(ENDINGS) + " | next request served | pause p50 | children left |"]
    lines.append("|" + "---|" * (6 + len(ENDINGS)))
    for rows in zip(*found.values(), strict=True):
        lines += [_line(server, endings) for server, endings in zip(found, rows, strict=True)]
    return "\n".join(lines)


def _line(server: str, endings: Endings) -> str:
    cells: list[Any] = [endings.fault, server, endings.streams.total(), *(endings.streams[ending] for ending in ENDINGS)]
    cells.append(f"{endings.num_served} of {endings.num_next}" if endings.num_next else "")
    cells.append(milliseconds(endings.pauses_s, 50))
    cells.append(f"{endings.left[True]} of {endings.left.total()} times" if endings.left else "")
    return "| " + " | ".join(map(str, cells)) + " |"


ABOUT = """The same faults hit this router and llama-server's ({version}): five tiny models, the same flags (`{flags}`), the same
client, real workers, greedy answers that are compared with undisturbed ones. **Went on**: complete and right. **Error**: an explicit
error, as an event or a status. **Cut**: the connection broke. **Looks complete**: a proper end, although something is missing or wrong;
llama-server then adds a line `proxy error: ...` to the stream, which is not an event, so clients skip it. **Hung**: not over after
{patience} seconds. **Next request**: to the same model, immediately after it. **Pause**: the longest one in a stream that went on; for
F7, until the children have ended. **Children left**: {gone} second after the end of their router.
"""


def section(rival: Path, found: dict[str, list[Endings]], how: str) -> str:
    """For the page."""
    about = ABOUT.format(version=version_of(rival), flags=" ".join(FLAGS), patience=f"{PATIENCE_S:g}", gone=f"{GONE_S:g}")
    return f"{about}\n{table(found)}\n\n{how}"


def version_of(rival: Path) -> str:
    said = subprocess.run([rival, "--version"], capture_output=True, text=True)
    found = re.search(r"version: (.+)", said.stderr + said.stdout)
    return found[1] if found else "unknown version"
