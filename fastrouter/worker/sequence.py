"""Request and Sequence: one generation's state. Sequence is the engine's only mutable record; a Request groups its `n` choices.

Knows no llama.cpp and no ring. Times are monotonic nanoseconds. Invariant: status moves only along TRANSITIONS.
"""

import time
from array import array
from collections.abc import Iterator
from concurrent.futures import Future
from enum import Enum
from typing import Any

import orjson

from fastrouter.messages import Generate
from fastrouter.worker.constraint import Matcher
from fastrouter.worker.detokenizer import Detokenizer
from fastrouter.worker.probabilities import Probabilities
from fastrouter.worker.sampler import Sampler
from fastrouter.worker.slots import AdapterSet, Slot


class Status(Enum):
    WAITING = "waiting"  # for a slot
    PREFILL = "prefill"
    DECODE = "decode"
    DONE = "done"


TRANSITIONS: dict[Status, set[Status]] = {
    Status.WAITING: {Status.PREFILL, Status.DECODE, Status.DONE},  # to DECODE: a choice that copies its sibling's prefill
    Status.PREFILL: {Status.WAITING, Status.DECODE, Status.DONE},  # back to WAITING: its KV was needed by older sequences
    Status.DECODE: {Status.DONE},
    Status.DONE: set(),
}


class Request:
    """What one Generate became: its prompt's tokens, its adapters and its choices."""

    __slots__ = ("adapters", "generate", "grammar", "id", "num_open", "prompt", "spare_choices")

    def __init__(self, generate: Generate, prompt: "array[int]", adapters: AdapterSet) -> None:
        self.generate = generate
        self.id = generate.request_id
        self.prompt = prompt
        self.adapters = adapters
        self.grammar: Future[Matcher] | None = None  # that each choice starts with a copy of
        self.num_open = max(1, generate.n)  # choices without a FINISH yet
        self.spare_choices = list(range(1, self.num_open))  # start when the first choice's prefill is done

    def __repr__(self) -> str:
        return f"<Request {self.id} prompt {len(self.prompt)} open {self.num_open}>"


class Sequence:
    """One choice of a request, from the queue to its FINISH."""

    __slots__ = (
        "choice", "detokenizer", "first_ns", "max_tokens", "next_token", "num_cached", "num_generated", "num_tokens_sent", "num_unsent",
        "probabilities", "prompt", "request", "sampler", "slot", "started_ns", "status", "tokens",
    )  # fmt: skip

    def __init__(self, request: Request, choice: int, sampler: Sampler, detokenizer: Detokenizer, max_tokens: int) -> None:
        self.request = request
        self.choice = choice
        self.prompt = request.prompt
        self.sampler = sampler
        self.detokenizer = detokenizer
        self.max_tokens = max_tokens  # -1: no limit
        self.status = Status.WAITING
        self.slot: Slot | None = None
        self.next_token = -1  # sampled, not yet in the KV
        self.num_cached = 0  # prompt tokens that were in the slot's KV already
        self.num_generated = 0
        self.num_unsent = 0  # tokens whose text is held back (half a character, or the start of a stop string)
        has_probabilities = request.generate.logprobs
        self.probabilities = Probabilities(detokenizer.pieces, is_after=sampler.is_after) if has_probabilities else None
        self.tokens: list[int] | None = [] if request.generate.return_tokens else None
        self.num_tokens_sent = 0  # of `tokens`
        self.started_ns = 0  # prefill began
        self.first_ns = 0  # prefill done, first token sampled

    def __repr__(self) -> str:
        where = f" slot {self.slot.id}" if self.slot else ""
        size = f"prompt {len(self.prompt)} generated {self.num_generated}"
        return f"<Sequence {self.request.id}.{self.choice} {self.status.value}{where} {size}>"

    def advance(self, status: Status) -> None:
        if status not in TRANSITIONS[self.status]:
            raise AssertionError(f"{self!r} cannot become {status.value}")
        self.status = status

    @property
    def has_events(self) -> bool:
        """Its text leaves with more than text."""
        generate = self.request.generate
        return self.probabilities is not None or generate.timings_per_token or generate.tokens_per_event

    def events(self, text: bytes) -> Iterator[bytes]:
        """The records for a text; only the first one holds it."""
        more: dict[str, Any] = {"timings": self.timings()} if self.request.generate.timings_per_token else {}
        if self.request.generate.verbose:
            more |= {"tokens_predicted": self.num_generated, "tokens_evaluated": len(self.prompt), "id_slot": -1}
        if self.tokens is not None and self.request.generate.tokens_per_event:
            more["tokens"] = self.tokens[self.num_tokens_sent :]
            self.num_tokens_sent = len(self.tokens)
        for entries in self.probabilities.take(len(text)) if self.probabilities else [[]]:
            found = {"probabilities": entries} if entries else {}
            yield orjson.dumps({"text": text.decode(), **found, **more})
            text = b""
            more.pop("tokens", None)

    def timings(self) -> dict[str, Any]:
        """llama-server's `timings`, up to now."""
        now = time.monotonic_ns()
        first = self.first_ns or now
        prompt_n = len(self.prompt) - self.num_cached
        prompt_ms = (first - (self.started_ns or first)) / 1e6
        predicted_n, predicted_ms = self.num_generated, (now - first) / 1e6
        num_steps = max(0, predicted_n - 1)  # the first token came with the prompt
        return {
            "cache_n": self.num_cached,
            "prompt_n": prompt_n,
            "prompt_ms": prompt_ms,
            "prompt_per_token_ms": prompt_ms / prompt_n if prompt_n else 0.0,
            "prompt_per_second": 1e3 * prompt_n / prompt_ms if prompt_ms else 0.0,
            "predicted_n": predicted_n,
            "predicted_ms": predicted_ms,
            "predicted_per_token_ms": predicted_ms / num_steps if num_steps else 0.0,
            "predicted_per_second": 1e3 * num_steps / predicted_ms if predicted_ms else 0.0,
        }
