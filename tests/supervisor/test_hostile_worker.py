"""10,000 mutations of what a worker writes, on its wire and in its ring. A worker that lies is killed, and the router goes on."""

import asyncio
import json
import mmap
import os
import random
import time

import pytest
from fake_workers import FakeMaker, FakeWorker
from house import Collector
from specs import spec_of

from fastrouter._core import EVENT, FINISH, PROGRESS, TEXT
from fastrouter.errors import FastrouterError, ProtocolError
from fastrouter.ipc.async_wire import AsyncWire
from fastrouter.ipc.messages import Failed, Generate, Message, Notice, Progress, PromptCacheSize, Ready, Reply, Snapshot
from fastrouter.ipc.records import Delta, Finish, PromptProgress
from fastrouter.ipc.wire import encode
from fastrouter.simulator.loop import SimulatedLoop
from fastrouter.supervisor.decide.need import NOTHING
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.workers.instance import Instance, WorkerStream

NUM_SEEDS, NUM_ROUNDS = 10, 250  # with 2 mutations on the wire and 2 in the ring each: 10,000
PAGE = os.sysconf("SC_PAGE_SIZE")
INDICES = [64, 128, 192, 256, 320, 384]  # in the control page
NUMBERS = [0, 1, 7, 8, 2**31, 2**32 - 1, 2**63, 2**64 - 1, PAGE, PAGE + 8]
MESSAGES: list[Message] = [
    Progress(0.5),
    Ready({"n_ctx": 512, "load_ms": 3.0, "memory": {"host": 1}}),
    Failed("no such tensor", False),
    Reply(1, result={"a": [1, 2, {"b": None}]}),
    Reply(2, error={"code": 400, "message": "no", "type": "invalid_request_error"}),
    PromptCacheSize(1 << 20),
    Snapshot("slots", [{"id": 0, "is_processing": True}]),
    Notice("warning", "the context is small"),
]
VALUES = [None, True, -1, 0, 1 << 31, 1 << 63, -1e308, 1e308, "", "x" * 300, "\ud7ff", [], {}, [[]] * 5, {"type": "Load"}]
RECORDS = [
    (TEXT, b"text \xc3\xa4"),
    (EVENT, Delta(text="a").to_payload()),
    (PROGRESS, PromptProgress(10, 0, 5, 1).to_payload()),
    (FINISH, Finish("eos", prompt_tokens=1).to_payload(1000)),
]


def mutated(chance: random.Random, frame: bytes) -> bytes:
    """A frame that may be wrong in its length, its bytes or its values."""
    kind = chance.randrange(4)
    if kind == 0:  # bytes
        data = bytearray(frame)
        for _ in range(chance.randrange(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        return bytes(data)
    if kind == 1:  # a value of another type, a field too many or too few
        values = json.loads(frame[4:])
        name = chance.choice(list(values))
        if chance.randrange(3):
            values[name] = chance.choice(VALUES)
        elif chance.randrange(2):
            del values[name]
        else:
            values["more"] = chance.choice(VALUES)
        payload = json.dumps(values).encode()
        return len(payload).to_bytes(4, "little") + payload
    if kind == 2:  # half of it, with the length of the whole or its own
        cut = frame[4 : chance.randrange(4, len(frame))]
        return chance.choice([frame[:4], len(cut).to_bytes(4, "little")]) + cut
    return chance.choice([2**32 - 1, 0, 1, 96 << 20]).to_bytes(4, "little") + chance.randbytes(chance.randrange(40))


class Subject:
    """An instance with two requests and two calls, whose worker writes what it wants."""

    def __init__(self, chance: random.Random) -> None:
        self.worker = FakeWorker(FakeMaker(SimulatedLoop(), 1.0), 100)
        self.refused = 0
        self.instance = Instance(spec_of("m", "/m"), NOTHING, self.worker, time.monotonic, lambda _: None, lambda *_: None)
        self.wire = AsyncWire(self.worker.say, self._closed)
        if chance.random() < 0.8:
            self.instance.advance(State.LOADED)
        self.sinks = [Collector(), Collector()]
        self.ids = [self.instance.submit(WorkerStream(Generate(prompt="a"), sink, None)) for sink in self.sinks]
        self.calls = [asyncio.create_task(self.instance.call("echo", {})) for _ in range(2)]

    def _closed(self, error: Exception | None) -> None:
        assert isinstance(error, ProtocolError)  # the router kills the worker for it
        self.refused += 1

    def on_wire(self, chance: random.Random) -> None:
        frame = mutated(chance, encode(chance.choice(MESSAGES)))
        cut = chance.randrange(len(frame))
        for piece in (frame[:cut], frame[cut:]):
            self.wire.data_received(piece)

    def in_ring(self, chance: random.Random) -> None:
        ring = self.worker.ring
        for _ in range(chance.randrange(5)):
            kind, payload = chance.choice(RECORDS)
            ring.try_push(chance.choice([*self.ids, 0, 2**32 - 1]), kind, chance.randrange(256), chance.randrange(2), 1, payload)
        with mmap.mmap(ring.memory_fd, 2 * PAGE) as memory:
            target = chance.choice([0, *INDICES, *INDICES, PAGE + 8 * chance.randrange(64), chance.randrange(2 * PAGE - 8)])
            memory[target : target + 8] = chance.choice([*NUMBERS, chance.getrandbits(64)]).to_bytes(8, "little")
        try:
            ring.drain()
        except ProtocolError:
            self.refused += 1

    async def close(self) -> None:
        await asyncio.sleep(0)
        for call in self.calls:
            call.cancel()
        for ended in await asyncio.gather(*self.calls, return_exceptions=True):
            assert not isinstance(ended, Exception) or isinstance(ended, FastrouterError), repr(ended)
        self.worker.close()


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_whatever_a_worker_writes(seed: int) -> None:
    """Each mutation means something, or is refused with a ProtocolError; nothing else is raised."""
    chance = random.Random(seed)

    async def body() -> int:
        refused = 0
        for _ in range(NUM_ROUNDS):
            subject = Subject(chance)
            await asyncio.sleep(0)
            for _ in range(2):
                subject.on_wire(chance)
                subject.in_ring(chance)
            await subject.close()
            refused += subject.refused
        return refused

    assert asyncio.run(body()) > NUM_ROUNDS
