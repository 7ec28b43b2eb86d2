"""The engine: schedule -> one llama_decode -> sample each sequence -> detokenise -> ring. One `step()` serves all sequences.

Owns the sequences that have a slot. Knows no wire and no router: requests come in through `submit` and `abort`, records leave through the
Outbox. Invariant: `slot.tokens` is exactly what the KV cache holds for that slot; a sampled token enters both with the next decode.
Sequences with different adapters never share a decode.
"""

import time
from bisect import insort
from collections.abc import Callable

import numpy as np

from fastrouter.errors import FastrouterError
from fastrouter.ipc.messages import Generate
from fastrouter.options.load import LoadOptions
from fastrouter.worker.engine.adapters import Adapters
from fastrouter.worker.engine.admission import Admission
from fastrouter.worker.engine.answers import Answers
from fastrouter.worker.engine.context_shift import ContextShift
from fastrouter.worker.engine.outbox import Outbox
from fastrouter.worker.engine.recovery import Recovery
from fastrouter.worker.kv.slots import AdapterSet
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model
from fastrouter.worker.schedule.adapter_turns import Turns
from fastrouter.worker.schedule.prefill_speed import LONG_NS
from fastrouter.worker.schedule.prompt_shares import schedule
from fastrouter.worker.sequence import Request, Sequence, Status
from fastrouter.worker.speculation.speculation import Speculation
from fastrouter.worker.text.prompts import Prompts


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
        speculation: Speculation | None = None,
    ) -> None:
        self.model = model
        self.prompts = prompts or Prompts(model, options)
        self.adapters = adapters or Adapters(model, LoadOptions())
        self.speculation = speculation or Speculation(context, options)
        self._answers = Answers(model.vocab, outbox, options)
        self._admission = Admission(model, context, self._answers, options, self.prompts, self.adapters)
        self.sampling = self._admission.sampling
        self.slots = self._admission.slots
        self.prefixes = self._prefixes = self._admission.prefixes
        self._chunking = self.prefixes.chunking
        self._checkpoints = self.prefixes.checkpoints
        self.shifts = ContextShift(context, self.prefixes, options, adds_bos=model.vocab.add_bos)
        self._vocab = model.vocab
        self._context = context
        self._outbox = outbox
        self._prefilling: list[Sequence] = []  # oldest first
        self._decoding: list[Sequence] = []  # by slot id: a split KV cache decodes a run of neighbours in one go
        self._recovery = Recovery(
            context, self._admission, self.speculation, self._answers, (self._decoding, self._prefilling), self._end_with
        )
        self._broken: dict[Request, FastrouterError] = {}  # in this step
        self._turns: Turns[AdapterSet] = Turns()
        self._row_bytes = 4 * context.n_vocab
        self._cancelled = outbox.watch_cancels()
        context.abort_when(self._cancelled.function, self._cancelled.argument)
        self._step_ns = 0  # the last one
        self.before_long_step: Callable[[], None] = lambda: None  # nothing is answered while one is computed

    def __repr__(self) -> str:
        return f"<Engine {self._admission!r} {len(self._prefilling)} prefill {len(self._decoding)} decode>"

    # ------------------------------------------------------------ requests

    @property
    def has_work(self) -> bool:
        return bool(self._decoding or self._prefilling or self._admission.has_work or self._outbox.is_blocked)

    @property
    def is_blocked(self) -> bool:
        """The ring is full: nothing is decoded until the router has read from it."""
        return self._outbox.is_blocked

    @property
    def is_compiling(self) -> bool:
        """There is nothing to do until a grammar is ready."""
        return self._admission.is_compiling and not (self._decoding or self._prefilling)

    @property
    def running(self) -> list[Sequence]:
        """Sequences that hold a slot."""
        return self._decoding + self._prefilling

    def submit(self, generate: Generate) -> None:
        """Queue a request. A bad one gets its ERROR record; nothing is raised."""
        try:
            self.speculation.check(generate)
        except FastrouterError as error:
            self._answers.refuse(generate.request_id, error)
        else:
            self._admission.submit(generate)

    def check_constraint(self) -> None:
        """That answers follow by default. Raises FastrouterError."""
        self._admission.check_constraint()

    def abort(self, request_id: int) -> None:
        """Forget a request at once; its slots keep their KV. Unknown ids are fine: it may just have finished."""
        for group in (self._decoding, self._prefilling):
            for sequence in [s for s in group if s.request.id == request_id]:
                group.remove(sequence)
                self._admission.retire(sequence)
        self._admission.forget(request_id)
        self._outbox.drop(request_id)

    def _end_with(self, request_id: int, error: FastrouterError | None) -> None:
        """None: nobody listens."""
        self.abort(request_id)
        if error is not None:
            self._outbox.error(request_id, error)

    # ------------------------------------------------------------ one step

    def step(self) -> None:
        """One iteration. Returns without decoding while the ring is full."""
        if self._outbox.is_blocked and not self._outbox.flush():
            return
        if self._admission.has_work:
            self._prefilling += self._admission.admit(bool(self._decoding or self._prefilling))
        decoding, prefilling = self._next_group() if self.adapters.all else (self._decoding, self._prefilling)
        if self.speculation.is_wanted:
            self.speculation.guess(decoding, self._num_free_rows(decoding, prefilling))
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
            if sequence.draft:
                row = batch.put_draft(row, sequence.draft, pos[row - 1] + 1, seq[row - 1])
        takes = self._put_prompts(prefilling, row) if prefilling else []
        row += sum(takes)
        if not row:
            return
        code = self._decode(row, takes, decoding, prefilling)
        if code:
            self._recovery.recover(code, decoding + prefilling)
        else:
            self._answers.num_decodes += 1
            if takes:
                self._chunking.note_prefill(sum(takes), self._step_ns)
            self._accept(decoding, prefilling, takes)
        self._outbox.ring_doorbell()

    def _decode(self, num_rows: int, takes: list[int], decoding: list[Sequence], prefilling: list[Sequence]) -> int:
        """llama.cpp's code. A prompt that has the step for itself ends it when its client leaves; others would lose by that."""
        if self._step_ns > LONG_NS or self._chunking.expected_ns(sum(takes)) > LONG_NS:
            self.before_long_step()
        request_ids = {sequence.request.id for sequence in prefilling} if takes and not decoding else ()
        begun_ns = time.monotonic_ns()
        if len(request_ids) == 1:
            self._cancelled.start(*request_ids)
        code = self._context.decode(num_rows)
        self._cancelled.stop()
        self._step_ns = time.monotonic_ns() - begun_ns
        return code

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

    def _num_free_rows(self, decoding: list[Sequence], prefilling: list[Sequence]) -> int:
        """For guesses. All rows must be computed together: a window makes room for what comes by what was computed before it, so it would
        have lost tokens that are needed when the first part of a guess is taken back."""
        if prefilling and self.model.n_swa and not self._context.is_unified:
            return 0  # a split cache computes texts together only as far as they are equally long
        return self._context.n_batch - len(decoding) - sum(map(_num_unread, prefilling))

    def _put_prompts(self, prefilling: list[Sequence], row: int) -> list[int]:
        """Pieces of prompts after the decode rows. Returns how many tokens of each prefilling sequence."""
        batch = self._context.batch
        done = [len(sequence.slot.tokens) for sequence in prefilling]  # type: ignore[union-attr]
        num_rows = self._chunking.num_rows(row, self._context.n_batch)
        takes = schedule(row, [len(s.prefix) - d for s, d in zip(prefilling, done, strict=True)], num_rows)
        if self._checkpoints.is_on:
            takes = [self._checkpoints.limit(len(s.prefix), d, take) for s, d, take in zip(prefilling, done, takes, strict=True)]
        for sequence, start, take in zip(prefilling, done, takes, strict=True):
            if not take:
                continue
            if not sequence.started_ns:
                sequence.started_ns = time.monotonic_ns()
            piece = np.frombuffer(sequence.prefix, dtype=np.int32)[start : start + take]
            is_last = start + take == len(sequence.prefix)
            row = batch.put_prompt(row, piece, start, sequence.slot.id, wants_logits=is_last)  # type: ignore[union-attr]
        return takes

    def _accept(self, decoding: list[Sequence], prefilling: list[Sequence], takes: list[int]) -> None:
        """The decode worked: move its tokens into the slots, then sample every row that has logits."""
        n_vocab, row_bytes = self._context.n_vocab, self._row_bytes
        address = self._context.logits()
        if self.speculation.is_wanted:
            self.speculation.note_step(bool(takes))
        ended: list[Sequence] = []
        for sequence in decoding:
            sequence.slot.tokens.append(sequence.next_token)  # type: ignore[union-attr]
            if sequence.draft:
                next_address = address + row_bytes * (1 + len(sequence.draft))
                has_ended = self._verify(sequence, address)
            else:
                next_address = address + row_bytes
                has_ended = self._take(sequence, sequence.sampler.sample(address, n_vocab))
            if has_ended:
                ended.append(sequence)
            address = next_address
        for sequence in ended:
            self._decoding.remove(sequence)
            self._admission.retire(sequence)
        if takes:
            self._accept_prompts(list(prefilling), takes, address)
        for request, error in self._broken.items():
            self._end_with(request.id, error)
        self._broken.clear()

    def _verify(self, sequence: Sequence, address: int) -> bool:
        """Sample as without a guess, row by row, while the guess says the same; the rows after that leave the KV. True: it has ended."""
        sample, n_vocab, slot = sequence.sampler.sample, self._context.n_vocab, sequence.slot
        num_accepted = 0
        has_ended = self._take(sequence, sample(address, n_vocab))
        for guessed in sequence.draft:
            if has_ended or sequence.next_token != guessed:
                break
            slot.tokens.append(guessed)  # type: ignore[union-attr]  # a decoding sequence has its slot
            num_accepted += 1
            has_ended = self._take(sequence, sample(address + num_accepted * self._row_bytes, n_vocab))
        if num_accepted < len(sequence.draft):
            self._context.remove(slot.id, len(slot.tokens))  # type: ignore[union-attr]
        self.speculation.note(sequence, num_accepted)
        return has_ended

    def _accept_prompts(self, prefilling: list[Sequence], takes: list[int], address: int) -> None:
        for sequence, take in zip(prefilling, takes, strict=True):
            held = sequence.slot.tokens  # type: ignore[union-attr]
            held.extend(sequence.prefix[len(held) : len(held) + take])
            if self._checkpoints.is_on and take:
                self._checkpoints.note(sequence.slot, len(sequence.prefix))  # type: ignore[arg-type]
            if take and sequence.request.generate.return_progress and not sequence.has_begun:
                self._answers.progress(sequence)
            if not take or len(held) < len(sequence.prefix):
                continue
            self._prefilling.remove(sequence)
            self._start_decoding(sequence, address)
            self._start_siblings(sequence, address)
            address += self._row_bytes

    def _start_decoding(self, sequence: Sequence, address: int) -> None:
        """Its prompt is in the KV, or what it had when it gave its slot back: sample the next token from the last one's logits."""
        has_begun = sequence.has_begun
        sequence.first_ns = sequence.first_ns or time.monotonic_ns()
        sequence.advance(Status.DECODE)
        if sequence.max_tokens == 0:
            self._answers.end(sequence, "limit")
        else:
            if not has_begun:
                sequence.sampler.prime(sequence.prompt)
                self.speculation.begin(sequence)
            if not self._take(sequence, sequence.sampler.sample(address, self._context.n_vocab)):
                insort(self._decoding, sequence, key=_slot_id)
                return
        self._admission.retire(sequence)

    def _start_siblings(self, first: Sequence, address: int) -> None:
        """The other choices share the prefill: by a copy of the KV where a slot is free, else later through prefix reuse."""
        request = first.request
        choices, request.spare_choices = request.spare_choices, []
        queued = []
        for choice in choices:
            sibling = self._admission.choice(request, choice)
            slot = next((slot for slot in self.slots.idle if slot is not first.slot), None)
            # (the first choice may be over already, or has forgotten a part of the prompt)
            if slot is None or first.slot is None or first.is_truncated or not self._prefixes.copy(first.slot, slot):
                queued.append(sibling)
                continue
            self._prefixes.cut(slot, len(sibling.prompt))
            self._admission.join(sibling, first, slot)
            self._start_decoding(sibling, address)
        self._admission.put_first(queued)

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
            self._answers.end(sequence, "eos", token)
            return True
        sequence.sampler.accept(token)
        text = sequence.detokenizer.push(token)
        if sequence.probabilities is not None and sequence.detokenizer.is_stopped:
            sequence.probabilities.cut(len(text))
        if text:
            self._answers.send(sequence, text)
        if sequence.detokenizer.is_stopped:
            self._answers.end(sequence, sequence.detokenizer.stop_type)
        elif sequence.sampler.is_complete:
            self._answers.end(sequence, "eos")
        elif sequence.num_generated == sequence.max_tokens:
            self._answers.end(sequence, "limit")
        elif len(sequence.slot.tokens) + 1 >= self._context.n_ctx_slot and not self.shifts.make_room(sequence):  # type: ignore[union-attr]
            self._answers.end(sequence, "limit", truncated=True)
        else:
            sequence.next_token = token
            return False
        return True


def _num_unread(sequence: Sequence) -> int:
    return len(sequence.prefix) - len(sequence.slot.tokens) if sequence.slot else 0


def _slot_id(sequence: Sequence) -> int:
    return sequence.slot.id if sequence.slot else -1
