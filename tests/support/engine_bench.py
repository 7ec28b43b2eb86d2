"""An engine without a router: a real model, a real ring, and a client that reads it."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from fastrouter._core import ERROR, EVENT, FINISH, LAST, REASONING, TEXT, Sink, TokenRing
from fastrouter.ipc.messages import Generate
from fastrouter.options.load import LoadOptions
from fastrouter.worker.engine.adapters import Adapters
from fastrouter.worker.engine.engine import Engine
from fastrouter.worker.engine.outbox import Outbox
from fastrouter.worker.llama.binding import api, start_backends
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model
from fastrouter.worker.llama.projector import Projector
from fastrouter.worker.media.pictures import Pictures

MAX_STEPS = 20_000
# The best token of each of the first 32 steps is at least 0.07 above the second: batching changes no logit by that much.
PROMPTS = ("two to we all", "not the he of all", "we a she", "of you a all", "not all the on", "cat dog a the", "we the on", "dog and she")


class Client(Sink):
    """All records of one request."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[int, bytes] = {}
        self.thoughts: dict[int, bytes] = {}
        self.events: list[dict[str, Any]] = []
        self.finishes: dict[int, dict[str, Any]] = {}
        self.error: dict[str, Any] | None = None
        self.num_records = 0
        self.is_over = False

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        assert not self.is_over, "a record after the last one"
        self.num_records += 1
        if kind == TEXT:
            assert choice not in self.finishes, "text after the finish"
            payload.decode()  # whole characters only
            self.texts[choice] = self.texts.get(choice, b"") + payload
        elif kind == REASONING:
            self.thoughts[choice] = self.thoughts.get(choice, b"") + payload
        elif kind == EVENT:
            self.events.append(orjson.loads(payload))
        elif kind == FINISH:
            assert choice not in self.finishes
            self.finishes[choice] = orjson.loads(payload)
        elif kind == ERROR:
            self.error = orjson.loads(payload)
        self.is_over = bool(flags & LAST)

    def fail(self, error: Exception) -> None:
        raise error

    def text(self, choice: int = 0) -> str:
        return self.texts.get(choice, b"").decode()

    @property
    def finish(self) -> dict[str, Any]:
        assert self.error is None, self.error
        [finish] = self.finishes.values()
        return finish


class Bench:
    """An engine, both ends of its ring, and its clients."""

    def __init__(self, path: Path, ring_bytes: int, **options: Any) -> None:
        self.options = LoadOptions(**{"threads": 2, **options})
        self.model = Model(str(path), self.options)
        adapters = Adapters(self.model, self.options)
        self.context = Context(self.model, self.options)
        self.ring = TokenRing.create(ring_bytes)
        self._writer = TokenRing.open(os.dup(self.ring.memory_fd), os.dup(self.ring.doorbell_fd))
        self.outbox = Outbox(self._writer)
        self.engine = Engine(self.model, self.context, self.outbox, self.options, adapters=adapters)
        self.pictures: Pictures | None = None
        if self.options.mmproj is not None:
            self.pictures = Pictures(Projector(self.model, self.options.mmproj, self.options), self.context.n_batch)
            self.engine.see(self.pictures)

    def close(self) -> None:
        self.engine.close()
        self.engine.prompts.close()
        if self.pictures is not None:
            self.pictures.close()
        self._writer.close()
        self.ring.close()
        self.context.close()
        self.model.close()

    def submit(self, prompt: Any, max_tokens: int = 24, **more: Any) -> Client:
        client = Client()
        request_id = self.ring.attach(client)
        sampling = {"temperature": 0, **more.pop("sampling", {})}
        files = tuple(more.pop("files", ()))
        self.engine.submit(request_id, Generate(prompt=prompt, max_tokens=max_tokens, sampling=sampling, **more), files=files)
        return client

    def step(self) -> None:
        if self.engine.is_compiling or self.engine.waits_for_picture:
            time.sleep(0.001)  # for a thread or a process: the number of steps is limited
        self.engine.step()
        self.ring.drain()

    def show(self, *parts: str | bytes, **more: Any) -> Client:
        """Asks a user's message of texts and files: WAV, MP3 and FLAC are audio, all others are pictures."""
        files = [part for part in parts if isinstance(part, bytes)]
        marks = [f"<picture {hashlib.sha256(file).hexdigest()} {index}>" for index, file in enumerate(files)]
        left = iter(marks)
        content = "".join(next(left) if isinstance(part, bytes) else part for part in parts)
        messages = [*more.pop("before", []), {"role": "user", "content": content}]
        named = [
            [mark, f"audio {index}", "audio"] if _is_audio(file) else [mark, f"picture {index}"]
            for index, (mark, file) in enumerate(zip(marks, files, strict=True))
        ]
        return self.submit(None, messages=messages, pictures=named, files=files, **more)

    def step_until(self, is_so: Callable[[], bool]) -> int:
        """The number of steps."""
        for number in range(MAX_STEPS):
            if is_so():
                return number
            self.step()
        raise AssertionError(f"still not so: {self.engine!r} {self.engine.slots!r}")

    def run(self, *clients: Client) -> None:
        self.step_until(lambda: all(client.is_over for client in clients))

    def ask(self, prompt: Any, max_tokens: int = 24, **more: Any) -> Client:
        client = self.submit(prompt, max_tokens, **more)
        self.run(client)
        return client

    def check_idle(self) -> None:
        """Nothing runs, nothing is held back, and the mirror of the KV cache is correct."""
        self.ring.drain()
        assert not self.engine.has_work
        assert not self.ring.sinks()
        assert len(self.engine.slots.idle) == len(self.engine.slots)
        for slot in self.engine.slots.all:
            last = api.llama_memory_seq_pos_max(self.context.memory, slot.id)
            assert last == slot.next_pos - 1, slot


@pytest.fixture(scope="session", autouse=True)
def backends() -> None:
    start_backends()


SYSTEM = "we all the cat and the dog to a man in the red one of " * 8


def _is_audio(file: bytes) -> bool:
    return file.startswith((b"ID3", b"\xff\xfb", b"fLaC")) or (file[:4] == b"RIFF" and file[8:12] == b"WAVE")


def show(bench: Bench, *parts: str | bytes, **more: Any) -> Client:
    """The answer to texts and files, see Bench.show."""
    client = bench.show(*parts, **more)
    bench.run(client)
    return client


def refusal(bench: Bench, *parts: str | bytes) -> str:
    """The message of the error that they get."""
    error = show(bench, *parts).error
    assert error is not None
    assert error["class"] in ("InvalidRequest", "ModelCannot", "ContextExceeded"), error
    return str(error["message"])
