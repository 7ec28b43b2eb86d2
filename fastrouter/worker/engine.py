"""The engine: schedule -> one llama_decode -> sample each sequence -> detokenise -> ring. One `step()` serves all sequences.

Owns slots and sequences. Knows no wire and no router: requests come in through `submit` and `abort`, records leave through the Outbox.
Invariant: `slot.tokens` is exactly what the KV cache holds for that slot; a sampled token enters both with the next decode. Sequences with
different adapters never share a decode.
"""

import sys
import time
import traceback
from bisect import insort
from collections import deque
from typing import Any

import numpy as np

from fastrouter._core import EVENT, TEXT
from fastrouter.errors import ContextExceeded, FastrouterError, NotSupported
from fastrouter.messages import Generate, LoadOptions
from fastrouter.worker.adapters import Adapters
from fastrouter.worker.constraint import ConstrainedSampler, Grammars
from fastrouter.worker.detokenizer import Detokenizer, PieceTable
from fastrouter.worker.llama import Context, Model
from fastrouter.worker.outbox import Outbox
from fastrouter.worker.prefix import Prefixes
from fastrouter.worker.prompts import Prompts
from fastrouter.worker.sampler import Sampler, file_defaults
from fastrouter.worker.scheduler import schedule
from fastrouter.worker.sequence import Request, Sequence, Status
from fastrouter.worker.slots import AdapterSet, Slots
from fastrouter.worker.turns import Turns


class Engine:
    """All generations of one model."""

    def __init__(
        self,
        model: Model,
        context: Context,
        outbox: Outbox,
        options: LoadOptions,
        prompts: Prompts | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        self.model = model
        self.prompts = prompts or Prompts(model, options)
        self.adapters = adapters or Adapters(model, LoadOptions())
        self.sampling = {**file_defaults(model), **options.sampling}  # of requests that say nothing
        self.slots = Slots(context.num_slots)
        self._prefixes = Prefixes(model, context, self.slots)
        self._vocab = model.vocab
        self._context = context
        self._options = options
        self._outbox = outbox
        self._pieces = PieceTable(model.vocab)
        self._grammars = Grammars(model.vocab)
        self._compiling: list[Request] = []
        self._waiting: deque[Sequence] = deque()
        self._prefilling: list[Sequence] = []  # oldest first
        self._decoding: list[Sequence] = []  # by slot id: a split KV cache decodes a run of neighbours in one go
        self._broken: dict[Request, FastrouterError] = {}  # in this step
        self._turns: Turns[AdapterSet] = Turns()
        self._row_bytes = 4 * context.n_vocab
        self._is_crowded = False  # the KV cache was full: admit nobody until a sequence ends

    def __repr__(self) -> str:
        return f"<Engine {len(self._waiting)} waiting {len(self._prefilling)} prefill {len(self._decoding)} decode>"

    # ------------------------------------------------------------ requests

    @property
    def has_work(self) -> bool:
        return bool(self._decoding or self._prefilling or self._waiting or self._compiling or self._outbox.is_blocked)

    @property
    def is_blocked(self) -> bool:
        """The ring is full: nothing is decoded until the router has read from it."""
        return self._outbox.is_blocked

    @property
    def is_compiling(self) -> bool:
        """There is nothing to do until a grammar is ready."""
        return bool(self._compiling) and not (self._decoding or self._prefilling or self._waiting)

    @property
    def running(self) -> list[Sequence]:
        """Sequences that hold a slot."""
        return self._decoding + self._prefilling

    def submit(self, generate: Generate) -> None:
        """Queue a request. A bad one gets its ERROR record; nothing is raised."""
        try:
            if not self._context.memory or self._context.is_embedding:
                raise NotSupported("this model cannot generate text")
            request = Request(generate, *self.prompts.build(generate), self.adapters.resolve(generate.lora))
            if len(request.prompt) >= self._context.n_ctx_slot:
                raise _context_exceeded(len(request.prompt), self._context.n_ctx_slot)
            if generate.constraint is None:
                self._queue(request)
            else:
                request.grammar = self._grammars.compile(generate.constraint)
                self._compiling.append(request)
        except Exception as error:
            self._refuse(generate.request_id, error)

    def _queue(self, request: Request) -> None:
        """Its grammar, if it has one, is ready or has failed: that raises."""
        sequence = self._choice(request, 0)
        if request.prompt:
            self._waiting.append(sequence)
        else:
            self._finish_empty(request, sequence)
            self._outbox.ring_doorbell()

    def _queue_compiled(self) -> None:
        for request in [request for request in self._compiling if request.grammar.done()]:  # type: ignore[union-attr]
            self._compiling.remove(request)
            try:
                self._queue(request)
            except Exception as error:
                self._refuse(request.id, error)

    def _refuse(self, request_id: int, error: Exception) -> None:
        """A template or sampler bug must cost one request, not the worker."""
        if not isinstance(error, FastrouterError):
            traceback.print_exception(error, file=sys.stderr)
            error = FastrouterError(f"{type(error).__name__}: {error}")
        self._outbox.error(request_id, error)
        self._outbox.ring_doorbell()

    def _choice(self, request: Request, choice: int) -> Sequence:
        generate = request.generate
        options: dict[str, Any] = {"choice": choice, "has_probabilities": generate.logprobs}
        if request.grammar is None:
            sampler = Sampler(self._vocab, generate.sampling, self.sampling, **options)
        else:
            sampler = ConstrainedSampler(self._vocab, generate.sampling, self.sampling, request.grammar.result().copy(), **options)
        max_tokens = generate.max_tokens if generate.max_tokens >= 0 else self._options.n_predict
        return Sequence(request, choice, sampler, Detokenizer(self._pieces, generate.stop), max_tokens)

    def _finish_empty(self, request: Request, sequence: Sequence) -> None:
        """No token at all, not even BOS: every choice is an empty answer, as in llama-server."""
        for choice in range(request.num_open):
            sequence.choice = choice
            self._send_finish(sequence, "limit")

    def abort(self, request_id: int) -> None:
        """Forget a request at once; its slots keep their KV. Unknown ids are fine: it may just have finished."""
        for group in (self._decoding, self._prefilling, self._waiting):
            for sequence in [s for s in group if s.request.id == request_id]:
                group.remove(sequence)
                self._retire(sequence)
        self._compiling = [request for request in self._compiling if request.id != request_id]
        self._outbox.drop(request_id)

    # ------------------------------------------------------------ one step

    def step(self) -> None:
        """One iteration. Returns without decoding while the ring is full."""
        if self._outbox.is_blocked and not self._outbox.flush():
            return
        if self._compiling:
            self._queue_compiled()
        if self._waiting and not self._is_crowded:
            self._admit()
        decoding, prefilling = self._next_group() if self.adapters.all else (self._decoding, self._prefilling)
        batch = self._context.batch
        token, pos, seq, wants_logits = batch.token, batch.pos, batch.seq, batch.logits
        row = 0
        for sequence in decoding:
            slot = sequence.slot
            token[row] = sequence.next_token
            pos[row] = len(slot.tokens)  # type: ignore[union-attr]  # a decoding sequence has its slot
            seq[row] = slot.id  # type: ignore[union-attr]
            wants_logits[row] = 1
            row += 1
        takes = self._put_prompts(prefilling, row) if prefilling else []
        row += sum(takes)
        if not row:
            return
        begun_ns = time.monotonic_ns()
        code = self._context.decode(row)
        if code:
            self._recover(code, decoding + prefilling)
        else:
            if takes:
                self._prefixes.note_prefill(sum(takes), time.monotonic_ns() - begun_ns)
            self._accept(decoding, prefilling, takes)
        self._outbox.ring_doorbell()

    def _next_group(self) -> tuple[list[Sequence], list[Sequence]]:
        """The decoding and the prefilling sequences of this step: those whose adapters have their turn."""
        present = dict.fromkeys([sequence.request.adapters for sequence in self.running])
        if not present:
            return [], []
        chosen = self._turns.next(present, time.monotonic_ns())
        self.adapters.use(chosen, self._context)
        if len(present) == 1:
            return self._decoding, self._prefilling
        decoding = [sequence for sequence in self._decoding if sequence.request.adapters == chosen]
        return decoding, [sequence for sequence in self._prefilling if sequence.request.adapters == chosen]

    def _put_prompts(self, prefilling: list[Sequence], row: int) -> list[int]:
        """Pieces of prompts after the decode rows. Returns how many tokens of each prefilling sequence."""
        batch = self._context.batch
        done = [len(sequence.slot.tokens) for sequence in prefilling]  # type: ignore[union-attr]
        takes = schedule(row, [len(s.prompt) - d for s, d in zip(prefilling, done, strict=True)], self._context.n_batch)
        for sequence, start, take in zip(prefilling, done, takes, strict=True):
            if not take:
                continue
            if not sequence.started_ns:
                sequence.started_ns = time.monotonic_ns()
            piece = np.frombuffer(sequence.prompt, dtype=np.int32)[start : start + take]
            is_last = start + take == len(sequence.prompt)
            row = batch.put_prompt(row, piece, start, sequence.slot.id, wants_logits=is_last)  # type: ignore[union-attr]
        return takes

    def _accept(self, decoding: list[Sequence], prefilling: list[Sequence], takes: list[int]) -> None:
        """The decode worked: move its tokens into the slots, then sample every row that has logits."""
        n_vocab, row_bytes = self._context.n_vocab, self._row_bytes
        address = self._context.logits()
        ended: list[Sequence] = []
        for sequence in decoding:
            sequence.slot.tokens.append(sequence.next_token)  # type: ignore[union-attr]
            if self._take(sequence, sequence.sampler.sample(address, n_vocab)):
                ended.append(sequence)
            address += row_bytes
        for sequence in ended:
            self._decoding.remove(sequence)
            self._retire(sequence)
        if takes:
            self._accept_prompts(list(prefilling), takes, address)
        for request, error in self._broken.items():
            self.abort(request.id)
            self._outbox.error(request.id, error)
        self._broken.clear()

    def _accept_prompts(self, prefilling: list[Sequence], takes: list[int], address: int) -> None:
        for sequence, take in zip(prefilling, takes, strict=True):
            held = sequence.slot.tokens  # type: ignore[union-attr]
            held.extend(sequence.prompt[len(held) : len(held) + take])
            if not take or len(held) < len(sequence.prompt):
                continue
            self._prefilling.remove(sequence)
            self._start_decoding(sequence, address)
            self._start_siblings(sequence, address)
            address += self._row_bytes

    def _start_decoding(self, sequence: Sequence, address: int) -> None:
        """The prompt is in the KV: sample the first token from the logits of its last one."""
        sequence.first_ns = time.monotonic_ns()
        sequence.advance(Status.DECODE)
        if sequence.max_tokens == 0:
            self._end(sequence, "limit")
        else:
            sequence.sampler.prime(sequence.prompt)
            if not self._take(sequence, sequence.sampler.sample(address, self._context.n_vocab)):
                insort(self._decoding, sequence, key=_slot_id)
                return
        self._retire(sequence)

    def _start_siblings(self, first: Sequence, address: int) -> None:
        """The other choices share the prefill: by a copy of the KV where a slot is free, else later through prefix reuse."""
        request = first.request
        choices, request.spare_choices = request.spare_choices, []
        queued = []
        for choice in choices:
            sibling = self._choice(request, choice)
            slot = next((slot for slot in self.slots.idle if slot is not first.slot), None)
            if slot is None or first.slot is None:  # (the first choice may be over already)
                queued.append(sibling)
                continue
            self._prefixes.copy(first.slot, slot)
            self._prefixes.cut(slot, len(sibling.prompt))
            self.slots.take(slot)
            sibling.slot, sibling.started_ns, sibling.num_cached = slot, first.started_ns, first.num_cached
            self._start_decoding(sibling, address)
        self._waiting.extendleft(reversed(queued))

    def _take(self, sequence: Sequence, token: int) -> bool:
        """A sampled token: its text goes out. True when the sequence has ended (its FINISH is pushed, or its request is broken)."""
        if token < 0:
            self._broken[sequence.request] = sequence.sampler.error or FastrouterError("no token could be sampled")
            return True
        sequence.num_generated += 1
        sequence.num_unsent += 1
        if sequence.tokens is not None:
            sequence.tokens.append(token)
        if sequence.probabilities is not None:
            sequence.probabilities.add(token, sequence.sampler.probabilities)
        if self._vocab.is_eog(token):
            self._end(sequence, "eos")
            return True
        sequence.sampler.accept(token)
        text = sequence.detokenizer.push(token)
        if sequence.probabilities is not None and sequence.detokenizer.is_stopped:
            sequence.probabilities.cut(len(text))
        if text:
            self._send_text(sequence, text)
        if sequence.detokenizer.is_stopped:
            self._end(sequence, "word")
        elif sequence.sampler.is_complete:
            self._end(sequence, "eos")
        elif sequence.num_generated == sequence.max_tokens:
            self._end(sequence, "limit")
        elif len(sequence.slot.tokens) + 1 >= self._context.n_ctx_slot:  # type: ignore[union-attr]
            self._end(sequence, "limit", truncated=True)
        else:
            sequence.next_token = token
            return False
        return True

    # ------------------------------------------------------------ records

    def _send_text(self, sequence: Sequence, text: bytes) -> None:
        request, num_tokens = sequence.request, sequence.num_unsent
        sequence.num_unsent = 0
        if not sequence.has_events:
            self._outbox.push(request.id, TEXT, sequence.choice, 0, num_tokens, text)
            return
        for payload in sequence.events(text):
            self._outbox.push(request.id, EVENT, sequence.choice, 0, num_tokens, payload)
            num_tokens = 0

    def _end(self, sequence: Sequence, stop_type: str, *, truncated: bool = False) -> None:
        rest = sequence.detokenizer.finish()
        if sequence.probabilities is not None and sequence.detokenizer.is_stopped:
            sequence.probabilities.cut(len(rest))
        if rest or (sequence.probabilities is not None and sequence.probabilities.is_pending):
            self._send_text(sequence, rest)
        self._send_finish(sequence, stop_type, truncated=truncated)

    def _send_finish(self, sequence: Sequence, stop_type: str, *, truncated: bool = False) -> None:
        request, generate = sequence.request, sequence.request.generate
        request.num_open -= 1
        values: dict[str, Any] = {
            "stop_type": stop_type,
            "stopping_word": sequence.detokenizer.stopping_word if stop_type == "word" else "",
            "prompt_tokens": len(sequence.prompt),
            "cached_tokens": sequence.num_cached,
            "completion_tokens": sequence.num_generated,
            "truncated": truncated,
            "id_slot": sequence.slot.id if sequence.slot else -1,
            "timings": sequence.timings(),
        }
        if sequence.tokens is not None:
            values["tokens"] = sequence.tokens
        if generate.verbose:
            values["prompt"] = request.prompt_text or self._vocab.detokenize(sequence.prompt).decode("utf-8", "replace")
            lora = [{"id": adapter_id, "scale": scale} for adapter_id, scale in request.adapters]
            settings = {"n_predict": sequence.max_tokens, "max_tokens": sequence.max_tokens, "stop": generate.stop, "lora": lora}
            values["generation_settings"] = {**sequence.sampler.settings(), **settings}
        self._outbox.finish(request.id, sequence.choice, request.num_open == 0, values)

    # ------------------------------------------------------------ slots

    def _admit(self) -> None:
        """Give slots to waiting sequences, oldest first; one that insists on a busy slot lets the others pass."""
        if self.running and not self._options.cont_batching:
            return
        for sequence in list(self._waiting):
            request = sequence.request
            slot = self.slots.choose(sequence.prompt, request.generate.id_slot, request.adapters)
            if slot is None:
                if not self.slots.idle:
                    return
                continue
            self._waiting.remove(sequence)
            self.slots.take(slot)
            sequence.slot = slot
            if request.generate.cache_prompt:
                sequence.num_cached = self._prefixes.keep(slot, sequence.prompt, request.adapters)
            else:
                self._prefixes.start_over(slot, request.adapters)
            sequence.advance(Status.PREFILL)
            self._prefilling.append(sequence)

    def _retire(self, sequence: Sequence) -> None:
        """End of a sequence's life: the slot is free again and keeps its KV. Idempotent."""
        if sequence.status is not Status.DONE:
            sequence.advance(Status.DONE)
            self._is_crowded = False
            if sequence.slot is not None:
                self.slots.release(sequence.slot)
                sequence.slot = None

    # ------------------------------------------------------------ when a decode fails

    def _recover(self, code: int, group: list[Sequence]) -> None:
        """1: make room and try again in the next step. Anything else ends the sequences that were in the batch."""
        if code != 1:
            self._fail(group, FastrouterError(f"llama_decode failed with code {code}"))
            return
        idle = self.slots.to_purge()
        if idle is not None:
            self._prefixes.forget(idle)
        elif self._prefilling and len(self._prefilling) + len(self._decoding) > 1:
            self._postpone(self._prefilling[-1])
        elif self._decoding:
            sequence = self._decoding.pop()
            self._end(sequence, "limit", truncated=True)
            self._drop(sequence)
        else:
            prompt = self._prefilling[0].prompt
            self._fail(self._prefilling[:1], _context_exceeded(len(prompt), self._context.n_ctx))

    def _postpone(self, sequence: Sequence) -> None:
        """The newest prompt gives its KV to those that have already begun, and waits for one of them to end."""
        assert sequence.slot is not None
        self._prefilling.remove(sequence)
        self._prefixes.forget(sequence.slot)
        self.slots.release(sequence.slot)
        sequence.slot = None
        sequence.advance(Status.WAITING)
        self._waiting.appendleft(sequence)
        self._is_crowded = True

    def _drop(self, sequence: Sequence) -> None:
        """Retire, and let its KV go too."""
        slot = sequence.slot
        self._retire(sequence)
        if slot is not None:
            self._prefixes.forget(slot)

    def _fail(self, failed: list[Sequence], error: FastrouterError) -> None:
        """What the KV holds of these sequences is unknown now, so it goes."""
        for sequence in failed:
            (self._decoding if sequence.status is Status.DECODE else self._prefilling).remove(sequence)
            self._drop(sequence)
        for request in {sequence.request for sequence in failed}:
            self.abort(request.id)  # its other choices may still be waiting
            self._outbox.error(request.id, error)


def _slot_id(sequence: Sequence) -> int:
    return sequence.slot.id if sequence.slot else -1


def _context_exceeded(num_tokens: int, n_ctx: int) -> ContextExceeded:
    message = f"request ({num_tokens} tokens) exceeds the available context size ({n_ctx} tokens), try increasing it"
    return ContextExceeded(message, n_prompt_tokens=num_tokens, n_ctx=n_ctx)
