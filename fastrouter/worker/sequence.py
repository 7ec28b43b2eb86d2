"""The state of one generation: a GenerateRequest groups its `n` choices, each a Sequence; a Running is a Sequence with a slot.

Does not change the KV cache or the ring. Times are monotonic nanoseconds. Invariant: `status` changes only along TRANSITIONS.
"""

import hashlib
import os
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import Enum
from itertools import zip_longest
from typing import Any

from fastrouter._core import TEXT
from fastrouter.ipc.messages import Generate
from fastrouter.ipc.records import Delta, Entry, PromptProgress
from fastrouter.options.limits import INT32_MAX
from fastrouter.worker.kv.slots import AdapterSet, Slot
from fastrouter.worker.media.pictures import PlacedPicture
from fastrouter.worker.resumed import Resumed, ResumedRequest
from fastrouter.worker.sampling.grammar import Matcher
from fastrouter.worker.sampling.probabilities import Probabilities
from fastrouter.worker.sampling.sampler import Sampler
from fastrouter.worker.text.detokenizer import Detokenizer
from fastrouter.worker.text.message import Message
from fastrouter.worker.text.parsers.markers import QuietTexts
from fastrouter.worker.text.prompts import ReadPrompt
from fastrouter.worker.text_jobs import Job

NO_DRAFT: list[int] = []  # never changed
_LATER_NS = 1 << 62  # no limit of time is over before its last token from the other worker


class Status(Enum):
    WAITING = "waiting"  # for a slot
    PREFILL = "prefill"
    DECODE = "decode"
    DONE = "done"


TRANSITIONS: dict[Status, set[Status]] = {
    Status.WAITING: {Status.PREFILL, Status.DECODE, Status.DONE},  # to DECODE: a choice that copies its sibling's prefill
    Status.PREFILL: {Status.WAITING, Status.DECODE, Status.DONE},  # back to WAITING: older sequences needed its KV
    Status.DECODE: {Status.WAITING, Status.DONE},  # to WAITING: for the same reason; later it continues at the same place
    Status.DONE: set(),
}


class GenerateRequest:
    """One Generate in the engine: its prompt's tokens, its adapters and its choices."""

    __slots__ = (
        "adapters",
        "calls",
        "came_at",
        "generate",
        "grammar",
        "grammar_at",
        "id",
        "num_open",
        "pictures",
        "prompt",
        "prompt_end",
        "reading",
        "resumed",
        "spare_choices",
    )

    def __init__(
        self,
        request_id: int,
        generate: Generate,
        prompt: ReadPrompt | Job[ReadPrompt],
        adapters: AdapterSet,
        resumed: ResumedRequest | None = None,
    ) -> None:
        """`prompt`: the prompt, or the job that makes it. `resumed`: a worker has died with it."""
        self.generate = generate
        self.id = request_id
        self.reading = prompt if isinstance(prompt, Job) else None
        self.prompt, self.prompt_end, self.pictures = ReadPrompt(array("i")) if isinstance(prompt, Job) else prompt
        self.adapters = adapters
        self.came_at = time.monotonic()
        self.grammar: Future[Matcher] | None = None  # each choice starts with a copy of it
        self.grammar_at = self.came_at  # when its compiling was started
        self.calls: Future[Matcher] | None = None  # of optional calls; the request does not wait for it
        self.resumed = resumed or ResumedRequest()
        self.num_open = len(self.open_choices())  # choices without a FINISH
        new = [choice for choice in self.open_choices() if choice not in self.resumed.choices]
        self.spare_choices = new[1:]  # they start when the prefill of the first choice is done

    def open_choices(self) -> list[int]:
        """Those that had not finished when it came."""
        return [choice for choice in range(max(1, self.generate.n)) if choice not in self.resumed.finished]

    def take_prompt(self) -> None:
        """Takes the prompt from the job that has made it. Raises the job's error."""
        if self.reading is not None:
            self.prompt, self.prompt_end, self.pictures = self.reading.result()
            self.reading = None

    @property
    def is_ready(self) -> bool:
        """Whether all its parts are ready."""
        return (self.reading is None or self.reading.done()) and (self.grammar is None or self.grammar.done()) and not self.waits_for_calls

    @property
    def waits_for_calls(self) -> bool:
        """Calls that it has begun may follow their grammar, so it has to be there."""
        return bool(self.resumed.choices) and self.calls is not None and not self.calls.done()

    def __repr__(self) -> str:
        return f"<GenerateRequest {self.id} prompt {len(self.prompt)} open {self.num_open}>"


class Sequence:
    """One choice of a request, from the queue to its FINISH."""

    __slots__ = (
        "_call_seed", "choice", "detokenizer", "draft", "entries", "first_ns", "guesser", "has_events", "is_truncated", "max_tokens",
        "message", "next_token", "num_accepted", "num_cached", "num_decodes_before", "num_generated", "num_guessed", "num_guesses",
        "num_known", "num_quiet", "num_unsent", "number", "past", "prefix", "probabilities", "prompt", "prompt_entries", "quiet",
        "quiet_kind", "request", "sampler", "started_ns", "status", "tokens", "words",
    )  # fmt: skip

    def __init__(
        self,
        request: GenerateRequest,
        choice: int,
        sampler: Sampler,
        detokenizer: Detokenizer,
        max_tokens: int,
        number: int = 0,
        message: Message | None = None,
    ) -> None:
        self.request = request
        self.message = message  # None: its text is not parsed
        self.quiet: QuietTexts | None = None  # texts that are not parsed in this place of the message ...
        self.quiet_kind = TEXT  # ... but sent in records of this kind
        self.num_quiet = 0  # tokens when the last of them came
        self.choice = choice
        self.number = number  # counts the sequences of a model in the order in which they come
        self.prompt = request.prompt
        self.prefix = request.prompt  # what must be in the KV before the next token: after it gave back its slot, all its tokens
        self.sampler = sampler
        self.detokenizer = detokenizer
        self.max_tokens = max_tokens  # -1: no limit
        self.status = Status.WAITING
        self.next_token = -1  # sampled, not yet in the KV
        self.num_cached = 0  # prompt tokens that were already in the slot's KV
        self.num_generated = 0
        self.num_decodes_before = 0  # the engine's decodes before this sequence
        self.is_truncated = False  # it has lost a part of its context
        self.guesser: Any = None  # for speculation, if it has one
        self.draft = NO_DRAFT  # tokens that may follow next_token in this step
        self.num_guesses = 0
        self.num_guessed = 0  # tokens in these guesses
        self.num_accepted = 0  # of the drafted tokens
        self.num_unsent = 0  # tokens whose text is held back (half a character, or the start of a stop string)
        asked = request.generate
        self.probabilities = Probabilities(detokenizer.pieces, is_after=sampler.is_after) if asked.logprobs else None
        self.prompt_entries: list[Entry] = []  # of the prompt's tokens, if the answer begins with them
        self.entries: list[list[Entry]] = []  # of `probabilities`, for text that the parser holds back
        self.tokens: list[int] | None = [] if asked.return_tokens or asked.tokens_per_event else None  # tokens not yet in a record
        self.has_events = asked.logprobs or asked.timings_per_token or asked.tokens_per_event  # its text is sent with additional data
        self.started_ns = 0  # the prefill began
        self.first_ns = 0  # the prefill is done, the first token is sampled
        self.words = array("i")  # for the next record, see resumed.py
        self.past: Resumed | None = None  # what it has to follow before it goes on
        self.num_known = 0  # of the next records with text, those that the router has already
        self._call_seed = f"{asked.chance or os.urandom(8).hex()} {choice}"

    def __repr__(self) -> str:
        size = f"prompt {len(self.prompt)} generated {self.num_generated}"
        return f"<Sequence {self.request.id}.{self.choice} {self.status.value} {size}>"

    def advance(self, status: Status) -> None:
        if status not in TRANSITIONS[self.status]:
            raise AssertionError(f"{self!r} cannot become {status.value}")
        self.status = status

    def resume(self, past: Resumed, elapsed_ns: int, num_prefilled: int) -> None:
        """It has begun in another worker, `elapsed_ns` ago."""
        self.num_known = past.num_records
        if not past.tokens:
            return
        self.past = past
        self.prefix = self.prompt + past.tokens[:num_prefilled]
        self.num_cached = past.num_cached
        self.first_ns = max(1, time.monotonic_ns() - elapsed_ns)
        self.detokenizer.count_from(_LATER_NS)
        self.started_ns = max(1, self.first_ns - past.prompt_ns)

    @property
    def is_catching_up(self) -> bool:
        """It has begun in another worker, and nothing of it has been followed yet."""
        return self.past is not None and not self.past.num_read

    def follow(self, address: int, n_vocab: int) -> int:
        """Its next token, as the other worker has chosen it. `address` of its logits; 0: they were not computed."""
        past, sampler = self.past, self.sampler
        assert past is not None
        token, marks = past.next()
        sampler.follow(token, marks)
        if address and self.probabilities is not None:
            sampler.measure(address, n_vocab, token)
        if past.is_done:
            self.past = None
            sampler.mu = sampler.mu if past.mu is None else past.mu
            self.detokenizer.count_from(self.first_ns)
        return token

    def note_prompt(self) -> None:
        """Its first words; its prompt is in the KV."""
        prompt_us = (self.first_ns - (self.started_ns or self.first_ns)) // 1000
        self.words.extend((self.num_cached, min(prompt_us, INT32_MAX)))

    def take_words(self) -> bytes:
        words = self.words.tobytes()
        del self.words[:]
        return words

    def call_id(self, index: int) -> str:
        """The id of one of its tool calls."""
        return f"call_{hashlib.blake2b(f'{self._call_seed} {index}'.encode(), digest_size=12).hexdigest()}"

    @property
    def has_begun(self) -> bool:
        """A token was sampled, so its prompt was computed once."""
        return self.first_ns > 0

    @property
    def prompt_text(self) -> "array[int]":
        """The tokens of its prompt without those that stand for pictures."""
        return array("i", [token for token in self.prompt if token >= 0]) if self.request.pictures else self.prompt

    def picture_after(self, num_held: int) -> PlacedPicture | None:
        """The first picture of its prompt that is not completely in the KV, which holds this many tokens."""
        return next((picture for picture in self.request.pictures if picture.end > num_held), None)

    @property
    def reads_prompt(self) -> bool:
        """The probabilities of its prompt's tokens are wanted, so each of them needs logits."""
        generate = self.request.generate
        return generate.echoes and generate.logprobs and (not self.has_begun or self.is_catching_up)

    @property
    def is_pending(self) -> bool:
        """An event must be sent, even without text."""
        has_tokens = self.request.generate.tokens_per_event and self.tokens
        return bool(has_tokens or self.entries) or (self.probabilities is not None and self.probabilities.is_pending)

    def hold_entries(self, num_bytes: int) -> None:
        """The entries of the next `num_bytes` bytes of text are sent with the next event."""
        if self.probabilities is not None:
            self.entries += filter(None, self.probabilities.take(num_bytes))

    def events(self, parts: list[Delta]) -> Iterator[Delta]:
        """The records for these parts of the answer; only the first one holds tokens."""
        timings = self.timings() if self.request.generate.timings_per_token else {}
        tokens: list[int] = []
        if self.request.generate.tokens_per_event and self.tokens:
            tokens, self.tokens = self.tokens, []
        entries, self.entries = self.entries, []
        counts: dict[str, Any] = {"timings": timings, "prompt_tokens": len(self.prompt), "completion_tokens": self.num_generated}
        for part, probabilities in zip_longest(parts or [Delta()], entries):
            yield replace(part or Delta(), probabilities=probabilities or [], tokens=tokens, **counts)
            tokens = []

    def task(self) -> dict[str, Any]:
        """What llama-server's /slots shows of it, running or done."""
        settings: dict[str, Any] = {
            "n_predict": self.max_tokens,
            "max_tokens": self.max_tokens,
            "timings_per_token": self.request.generate.timings_per_token,
            "stop": self.request.generate.stop,
            "lora": [{"id": adapter_id, "scale": scale} for adapter_id, scale in self.request.adapters],
        }
        return {"id_task": self.request.id, "params": {**self.sampler.settings(), **settings}}

    def timings(self) -> dict[str, Any]:
        """`timings` of llama-server, up to now."""
        now = time.monotonic_ns()
        first = self.first_ns or now
        prompt_n = len(self.prompt) - self.num_cached
        prompt_ms = (first - (self.started_ns or first)) / 1e6
        predicted_n, predicted_ms = self.num_generated, (now - first) / 1e6
        guessed = {"draft_n": self.num_guessed, "draft_n_accepted": self.num_accepted} if self.num_guessed else {}
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
            **guessed,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """A sequence and its slot, until it ends or gives the slot back."""

    sequence: Sequence
    slot: Slot

    def __repr__(self) -> str:
        return f"<Running {self.sequence!r} in {self.slot!r}>"

    @property
    def num_unread(self) -> int:
        """Tokens of text that must still go into the KV before the next picture, or before the next token is sampled."""
        num_held = len(self.slot.tokens)
        picture = self.sequence.picture_after(num_held) if self.sequence.request.pictures else None
        return max(0, picture.start - num_held) if picture is not None else len(self.sequence.prefix) - num_held

    def progress(self) -> PromptProgress:
        sequence = self.sequence
        elapsed_ns = time.monotonic_ns() - sequence.started_ns if sequence.started_ns else 0
        timings = sequence.timings() if sequence.request.generate.timings_per_token else {}
        return PromptProgress(len(sequence.prompt), sequence.num_cached, len(self.slot.tokens), elapsed_ns // 10**6, timings)

    def standing(self) -> dict[str, Any]:
        """What llama-server's /slots shows only of a running sequence."""
        sequence, slot = self.sequence, self.slot
        remaining = sequence.max_tokens - sequence.num_generated if sequence.max_tokens >= 0 else -1
        next_token = {
            "has_next_token": True,
            "has_new_line": self._has_new_line(),
            "n_remain": remaining,
            "n_decoded": sequence.num_generated,
        }
        return {
            "n_prompt_tokens_processed": max(0, min(len(sequence.prompt), len(slot.tokens)) - sequence.num_cached),
            "n_prompt_tokens_cache": sequence.num_cached,
            "next_token": [next_token],
        }

    def _has_new_line(self) -> bool:
        piece = self.sequence.detokenizer.pieces.piece
        return any(b"\n" in piece(token) for token in self.slot.tokens[len(self.sequence.prompt) :])
