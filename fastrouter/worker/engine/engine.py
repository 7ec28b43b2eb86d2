"""The engine: schedule -> one llama_decode -> sample each sequence -> detokenise -> ring. One `step()` serves all sequences.

Owns the sequences that have a slot; schedule/ decides what goes into a batch. Never imports: ipc.wire. Requests come in through `submit`
and `abort`, records leave through the Outbox. Invariant: `slot.tokens` is exactly what the KV cache holds for that slot; a sampled token
enters both with the next decode. Sequences with different adapters never share a decode.
"""

import time
from bisect import insort
from collections.abc import Callable
from typing import Any

from fastrouter.errors import FastrouterError
from fastrouter.ipc.messages import Generate
from fastrouter.options.load import LoadOptions
from fastrouter.worker.engine.adapters import Adapters
from fastrouter.worker.engine.admission import Admission
from fastrouter.worker.engine.answers import Answers
from fastrouter.worker.engine.context_shift import ContextShift
from fastrouter.worker.engine.echo import read_prompt
from fastrouter.worker.engine.outbox import Outbox
from fastrouter.worker.engine.picture_steps import PictureSteps
from fastrouter.worker.engine.recovery import Recovery
from fastrouter.worker.engine.rows import put_decoding, put_pieces
from fastrouter.worker.kv.slots import AdapterSet, Slot
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model
from fastrouter.worker.media.pictures import Pictures
from fastrouter.worker.prefill_speed import LONG_NS
from fastrouter.worker.sampling.guide import GuidedSampler
from fastrouter.worker.schedule.adapter_turns import Turns
from fastrouter.worker.schedule.scheduler import BatchLimits, Step, schedule
from fastrouter.worker.sequence import GenerateRequest, Running, Sequence, Status
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
        self.prefixes = self._admission.prefixes
        self._speed = self.prefixes.speed
        self._checkpoints = self.prefixes.checkpoints
        self.shifts = ContextShift(context, self.prefixes, options, adds_bos=model.vocab.add_bos)
        self._vocab = model.vocab
        self._context = context
        self._outbox = outbox
        self._prefilling: list[Running] = []  # the oldest first
        self._decoding: list[Running] = []  # by slot id: a split KV cache decodes neighbouring slots together
        self._recovery = Recovery(
            context, self._admission, self.speculation, self._answers, (self._decoding, self._prefilling), self._end_with
        )
        self._broken: dict[GenerateRequest, FastrouterError] = {}  # in this step
        self._turns: Turns[AdapterSet] = Turns()
        # A window frees the cells of earlier tokens for new ones, so all rows of a step with a guess must be computed together: otherwise
        # tokens are lost that are needed when a part of the guess is taken back. A split cache computes texts together only as far as they
        # are equally long.
        can_guess_beside_prompts = context.is_unified or not model.n_swa
        self._limits = BatchLimits(context.n_batch, self._checkpoints.is_on, can_guess_beside_prompts)
        self._row_bytes = 4 * context.n_vocab
        self._added_bos = model.vocab.bos if model.vocab.add_bos else -1
        self._cancelled = outbox.watch_cancels()
        context.abort_when(self._cancelled.function, self._cancelled.argument)
        self._pictures: PictureSteps | None = None
        self._step_ns = 0  # of the last step
        self.before_long_step: Callable[[], None] = lambda: None  # no call is answered while a step is computed

    def __repr__(self) -> str:
        return f"<Engine {self._admission!r} {len(self._prefilling)} prefill {len(self._decoding)} decode>"

    def see(self, pictures: Pictures) -> None:
        """From here on its prompts may have pictures."""
        self.prompts.pictures = pictures
        steps = PictureSteps(pictures, self._context, self.prefixes, self.adapters, self._recovery, self._end_with, self._note_prefill)
        steps.watch = lambda request_id: self._cancelled.start(request_id) if request_id else self._cancelled.stop()
        steps.before_long_step = lambda: self.before_long_step()
        self._pictures = steps

    def close(self) -> None:
        """Call it before the context and the model are closed."""
        self._admission.close()

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
        """There is no work until a grammar is ready."""
        return self._admission.is_compiling and not (self._decoding or self._prefilling)

    @property
    def is_encoding(self) -> bool:
        """A picture is being computed in another thread."""
        return self._pictures is not None and self._pictures.is_encoding

    @property
    def waits_for_picture(self) -> bool:
        """Nothing can be decoded until a picture is ready."""
        return self.is_encoding and not self._decoding and not any(running.num_unread for running in self._prefilling)

    @property
    def running(self) -> list[Running]:
        """All sequences that have a slot."""
        return self._decoding + self._prefilling

    def submit(self, request_id: int, generate: Generate, resumed: dict[str, Any] | None = None, files: tuple[bytes, ...] = ()) -> None:
        """Queue a request. A bad one gets its ERROR record; nothing is raised. `resumed`: see Submit. `files`: of its pictures."""
        try:
            self.speculation.check(generate)
        except FastrouterError as error:
            self._answers.refuse(request_id, error)
        else:
            self._admission.submit(request_id, generate, resumed, files)

    def check_constraint(self) -> None:
        """The constraint that answers follow by default. Raises FastrouterError."""
        self._admission.check_constraint()

    def abort(self, request_id: int) -> None:
        """Forget a request; its slots keep their KV. An unknown id is allowed: the request may have finished a moment ago."""
        for group in (self._decoding, self._prefilling):
            for running in [running for running in group if running.sequence.request.id == request_id]:
                group.remove(running)
                self._admission.retire(running)
        self._admission.forget(request_id)
        self._outbox.drop(request_id)

    def end_thought(self, request_id: int) -> bool:
        """End the thought, so that the answer begins. False if no choice of the request is in a thought that can be ended."""
        mine = [running.sequence for running in self.running if running.sequence.request.id == request_id]
        samplers = [sequence.sampler for sequence in mine if sequence.request.generate.reasoning_control]
        return sum(sampler.end_thought() for sampler in samplers if isinstance(sampler, GuidedSampler)) > 0  # all of them

    def _end_with(self, request_id: int, error: FastrouterError | None) -> None:
        """`error` None: its client has left."""
        self.abort(request_id)
        if error is not None:
            self._outbox.error(request_id, error)

    # ------------------------------------------------------------ one step

    def step(self) -> None:
        """One iteration. Returns without decoding while the ring is full."""
        if self._outbox.is_blocked and not self._outbox.flush():
            return
        step = self._schedule()
        if step.decoding or step.pieces:
            code = self._decode(step)
            if code:
                self._recovery.recover(code, step)
            else:
                self._outbox.note_progress()
                self._take(step)
            self._outbox.ring_doorbell()

    # ------------------------------------------------------------ schedule

    def _schedule(self) -> Step:
        """New sequences get their slots, then the scheduler says who is in this step, then guesses use the rows that are left."""
        if self._admission.has_work:
            self._prefilling += self._admission.admit(bool(self._decoding or self._prefilling))
        prefilling = self._prefilling
        if self._pictures is not None:
            if self._pictures.step(prefilling, len(self._decoding)):
                self._outbox.note_progress()
                self._outbox.ring_doorbell()
            prefilling = [running for running in prefilling if running.num_unread]
        turn = self._next_turn() if self.adapters.all else None
        step = schedule(self._decoding, prefilling, self._limits, self._speed, turn)
        if self.speculation.is_wanted:
            self.speculation.guess(step.decoding, step.num_free_rows)
        return step

    def _next_turn(self) -> AdapterSet | None:
        """The adapters of this step. None: no sequence runs."""
        present = dict.fromkeys([running.sequence.request.adapters for running in self.running])
        if not present:
            return None
        turn = self._turns.next(present, time.monotonic_ns())
        self.adapters.use(turn, self._context)
        return turn

    # ------------------------------------------------------------ decode

    def _decode(self, step: Step) -> int:
        """Returns the code of llama_decode. A prompt that is alone in the step ends the decode when its client leaves; other sequences
        would lose their results."""
        batch, pieces = self._context.batch, step.pieces
        num_rows = put_decoding(batch, step.decoding)
        if pieces:
            num_rows = put_pieces(batch, pieces, num_rows)
            self._cancelled.start(step.lone_request_id)
        if self._step_ns > LONG_NS or (pieces and self._speed.expected_ns(step.num_prompt_tokens) > LONG_NS):
            self.before_long_step()
        begun_ns = time.monotonic_ns()
        code = self._context.decode(num_rows)
        self._step_ns = time.monotonic_ns() - begun_ns
        if pieces:
            self._cancelled.stop()
        return code

    # ------------------------------------------------------------ take

    def _take(self, step: Step) -> None:
        """The decode succeeded: move its tokens into the slots, then sample every row that has logits."""
        self._answers.num_decodes += 1
        if self.speculation.is_wanted:
            self.speculation.note_step(bool(step.pieces))
        address = self._take_decoding(step)
        if step.pieces:
            self._take_pieces(step, address)
        if self._broken:
            self._end_broken()

    def _take_decoding(self, step: Step) -> int:
        """Returns the address of the next logits."""
        address, n_vocab, row_bytes = self._context.logits(), self._context.n_vocab, self._row_bytes
        for running in step.decoding:
            sequence = running.sequence
            running.slot.tokens.append(sequence.next_token)
            if sequence.draft:
                num_rows = 1 + len(sequence.draft)
                has_ended = self._verify(running, address)
                address += num_rows * row_bytes
            else:
                token = sequence.sampler.sample(address, n_vocab) if sequence.past is None else self._follow(sequence, address)
                has_ended = self._add(running, token)
                address += row_bytes
            if has_ended:
                self._decoding.remove(running)
                self._admission.retire(running)
        return address

    def _verify(self, running: Running, address: int) -> bool:
        """Sample as without a guess, row by row, while the guess is the same token; remove the rows after that from the KV. True: the
        sequence has ended."""
        sequence, slot = running.sequence, running.slot
        sample, n_vocab = sequence.sampler.sample, self._context.n_vocab
        num_accepted = 0
        has_ended = self._add(running, sample(address, n_vocab))
        for guessed in sequence.draft:
            if has_ended or sequence.next_token != guessed:
                break
            slot.tokens.append(guessed)
            num_accepted += 1
            has_ended = self._add(running, sample(address + num_accepted * self._row_bytes, n_vocab))
        if num_accepted < len(sequence.draft):
            self._context.remove(slot.id, slot.next_pos)
        self.speculation.note(sequence, num_accepted)
        return has_ended

    def _take_pieces(self, step: Step, address: int) -> None:
        self._speed.note_prefill(step.num_prompt_tokens, self._step_ns)
        for piece in step.pieces:
            running = piece.running
            sequence, slot = running.sequence, running.slot
            slot.tokens.extend(sequence.prefix[piece.start : piece.end])
            if sequence.reads_prompt:
                address += self._row_bytes * read_prompt(sequence, piece.start, piece.end, address, self._context.n_vocab, self._added_bos)
            self._note_prefill(running)
            if piece.is_last:
                self._prefilling.remove(running)
                self._start_decoding(running, address)
                self._start_siblings(running, address)
                address += self._row_bytes

    def _note_prefill(self, running: Running) -> None:
        """More of its prompt is in the KV."""
        sequence = running.sequence
        if self._checkpoints.is_on:
            self._checkpoints.note(running.slot, len(sequence.prefix))
        if sequence.request.generate.return_progress and not sequence.has_begun:
            self._answers.progress(running)

    def _end_broken(self) -> None:
        for request, error in self._broken.items():
            self._end_with(request.id, error)
        self._broken.clear()

    # ------------------------------------------------------------ a sequence

    def _start_decoding(self, running: Running, address: int) -> None:
        """Its prompt is in the KV, or its tokens from before it gave back its slot: sample the next token from the last one's logits."""
        sequence = running.sequence
        has_begun = sequence.has_begun and not sequence.is_catching_up
        sequence.first_ns = sequence.first_ns or time.monotonic_ns()
        sequence.advance(Status.DECODE)
        if not has_begun:
            sequence.note_prompt()
            if sequence.request.generate.echoes:
                self._answers.echo(sequence)
        if sequence.max_tokens == 0:
            self._answers.end(running, "limit")
        elif (has_begun or self._begin(running)) and not self._add(running, self._follow(sequence, address)):
            insort(self._decoding, running, key=_slot_id)
            return
        self._admission.retire(running)

    def _begin(self, running: Running) -> bool:
        """Its prompt is in the KV, and so are the first tokens that it got in a worker that has died. False: it has ended."""
        sequence = running.sequence
        sequence.sampler.prime(sequence.prompt_text)
        if sequence.past is None:
            self.speculation.begin(sequence)
            return True
        return all(not self._add(running, self._follow(sequence)) for _ in range(len(sequence.prefix) - len(sequence.prompt)))

    def _follow(self, sequence: Sequence, address: int = 0) -> int:
        """Its next token, as another worker has chosen it, if there is one. `address` of its logits, if they were computed."""
        if sequence.past is None:
            return sequence.sampler.sample(address, self._context.n_vocab)
        token = sequence.follow(address, self._context.n_vocab)
        if sequence.past is None:
            self.speculation.begin(sequence)
        return token

    def _start_siblings(self, first: Running, address: int) -> None:
        """The other choices share the prefill: by a copy of the KV if a slot is free, otherwise later by prefix reuse."""
        request = first.sequence.request
        choices, request.spare_choices = request.spare_choices, []
        queued = []
        for choice in choices:
            sibling = self._admission.choice(request, choice)
            slot = self._copy_of(first)
            if slot is None:
                queued.append(sibling)
            else:
                self.prefixes.cut(slot, len(sibling.prompt))
                self._start_decoding(self._admission.join(sibling, first.sequence, slot), address)
        self._admission.put_first(queued)

    def _copy_of(self, first: Running) -> Slot | None:
        """A slot that holds the same. None: no slot is free, the original is gone, or it has lost a part of the prompt."""
        if first.sequence.status is Status.DONE or first.sequence.is_truncated:
            return None
        slot = next(iter(self.slots.idle), None)
        return slot if slot is not None and self.prefixes.copy(first.slot, slot) else None

    def _add(self, running: Running, token: int) -> bool:
        """A sampled token: its text is sent. True: the sequence has ended (its FINISH is sent, or its request has failed)."""
        sequence = running.sequence
        if token < 0:
            self._broken[sequence.request] = sequence.sampler.error or FastrouterError("no token could be sampled")
            return True
        detokenizer, probabilities = sequence.detokenizer, sequence.probabilities
        sequence.num_generated += 1
        sequence.num_unsent += 1
        if sequence.sampler.has_marks:
            sequence.words.extend(sequence.sampler.take_marks())
        sequence.words.append(token)
        if sequence.tokens is not None:
            sequence.tokens.append(token)
        if probabilities is not None:
            probabilities.add(token, sequence.sampler.probabilities)
        if self._vocab.is_eog(token):
            self._answers.end(running, "eos", token)
            return True
        sequence.sampler.accept(token)
        text = detokenizer.push(token)
        if probabilities is not None and detokenizer.is_stopped:
            probabilities.cut(len(text))
        if text:
            self._answers.send(sequence, text)
        if detokenizer.is_stopped:
            self._answers.end(running, detokenizer.stop_type)
        elif sequence.sampler.is_complete:
            self._answers.end(running, "eos")
        elif sequence.num_generated == sequence.max_tokens:
            self._answers.end(running, "limit")
        elif len(running.slot.tokens) + 1 >= self._context.n_ctx_slot and not self.shifts.make_room(running):
            self._answers.end(running, "limit", truncated=True)
        else:
            sequence.next_token = token
            return False
        return True


def _slot_id(running: Running) -> int:
    return running.slot.id
