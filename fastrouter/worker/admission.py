"""From a request to a sequence in a slot: its prompt, its sampler, its grammar, its turn, and what the KV cache holds of it already.

Owns slots, prefixes and the queue. Knows no batch. Invariant: a sequence is here until it has a slot, and oldest first; one that insists on
a busy slot lets the others pass.
"""

from array import array
from collections import deque
from dataclasses import replace
from typing import Any

from fastrouter.errors import ContextExceeded, ModelCannot
from fastrouter.messages import Generate, LoadOptions
from fastrouter.worker.adapters import Adapters
from fastrouter.worker.answers import Answers
from fastrouter.worker.bounds import BoundedDetokenizer
from fastrouter.worker.constraint import ConstrainedSampler, Grammars
from fastrouter.worker.context import Context
from fastrouter.worker.detokenizer import Detokenizer, PieceTable
from fastrouter.worker.infill import build_infill
from fastrouter.worker.model import Model
from fastrouter.worker.prefix import Prefixes
from fastrouter.worker.prompts import Prompts
from fastrouter.worker.sampler import Sampler, file_defaults
from fastrouter.worker.sequence import Request, Sequence, Status
from fastrouter.worker.slots import Slot, Slots


class Admission:
    """All requests of one model that wait."""

    def __init__(
        self, model: Model, context: Context, answers: Answers, options: LoadOptions, prompts: Prompts, adapters: Adapters
    ) -> None:
        self.sampling = {**file_defaults(model), **options.sampling}  # of requests that say nothing
        self.slots = Slots(context.num_slots, options.slot_prompt_similarity)
        self.prefixes = Prefixes(model, context, self.slots, options)
        self._vocab = model.vocab
        self._context = context
        self._answers = answers
        self._options = options
        self._prompts = prompts
        self._adapters = adapters
        self._pieces = PieceTable(model.vocab, special=options.special)
        self._grammars = Grammars(model.vocab)
        self._compiling: list[Request] = []
        self._waiting: deque[Sequence] = deque()
        self._is_crowded = False  # the KV cache was full: admit nobody until a sequence ends

    def __repr__(self) -> str:
        return f"<Admission {len(self._waiting)} waiting {len(self._compiling)} compiling>"

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._compiling)

    @property
    def is_compiling(self) -> bool:
        """There is nothing to do until a grammar is ready."""
        return bool(self._compiling) and not self._waiting

    # ------------------------------------------------------------ in

    def submit(self, generate: Generate) -> None:
        """Queue a request. A bad one gets its ERROR record; nothing is raised."""
        try:
            if not self._context.memory or self._context.is_embedding:
                raise ModelCannot("this model cannot generate text")
            generate = self._with_defaults(generate)
            request = Request(generate, self._build(generate), self._adapters.resolve(generate.lora))
            if len(request.prompt) >= self._context.n_ctx_slot:
                raise context_exceeded(len(request.prompt), self._context.n_ctx_slot)
            if generate.constraint is None:
                self._queue(request)
            else:
                request.grammar = self._grammars.compile(generate.constraint)
                self._compiling.append(request)
        except Exception as error:
            self._answers.refuse(generate.request_id, error)

    def _with_defaults(self, generate: Generate) -> Generate:
        """Where the request says nothing."""
        options, changes = self._options, dict[str, Any]()
        if options.constraint is not None and generate.constraint is None and not generate.tools:
            changes["constraint"] = options.constraint
        if options.stop and not generate.stop:
            changes["stop"] = options.stop
        return replace(generate, **changes) if changes else generate

    def check_constraint(self) -> None:
        """Of the model itself. Raises FastrouterError; takes as long as compiling it does."""
        if self._options.constraint is not None and not self._options.embedding:
            self._grammars.compile(self._options.constraint).result()

    def _build(self, generate: Generate) -> "array[int]":
        """The prompt's tokens."""
        if generate.infill is not None:
            return build_infill(self._vocab, generate, self._options, self._context.n_ctx_slot)
        return self._prompts.build(generate)[0]

    def _queue(self, request: Request) -> None:
        """Its grammar, if it has one, is ready or has failed: that raises."""
        sequence = self.choice(request, 0)
        if request.prompt:
            self._waiting.append(sequence)
        else:
            self._answers.end_empty(request, sequence)

    def _queue_compiled(self) -> None:
        for request in [request for request in self._compiling if request.grammar.done()]:  # type: ignore[union-attr]
            self._compiling.remove(request)
            try:
                self._queue(request)
            except Exception as error:
                self._answers.refuse(request.id, error)

    def choice(self, request: Request, choice: int) -> Sequence:
        """One more sequence for this request. Raises FastrouterError."""
        generate = request.generate
        options: dict[str, Any] = {"choice": choice, "has_probabilities": generate.logprobs}
        if request.grammar is None:
            sampler = Sampler(self._vocab, generate.sampling, self.sampling, **options)
        else:
            sampler = ConstrainedSampler(self._vocab, generate.sampling, self.sampling, request.grammar.result().copy(), **options)
        max_tokens = generate.max_tokens if generate.max_tokens >= 0 else self._options.n_predict
        return Sequence(request, choice, sampler, self._detokenizer(generate), max_tokens)

    def _detokenizer(self, generate: Generate) -> Detokenizer:
        if generate.n_indent or generate.t_max_predict_ms > 0:
            return BoundedDetokenizer(self._pieces, generate.stop, generate.n_indent, max(0, generate.t_max_predict_ms))
        return Detokenizer(self._pieces, generate.stop)

    def put_first(self, sequences: list[Sequence]) -> None:
        """They come before all that wait, in this order."""
        self._waiting.extendleft(reversed(sequences))

    def forget(self, request_id: int) -> None:
        self._waiting = deque(sequence for sequence in self._waiting if sequence.request.id != request_id)
        self._compiling = [request for request in self._compiling if request.id != request_id]

    # ------------------------------------------------------------ out

    def admit(self, is_busy: bool) -> list[Sequence]:
        """The sequences that get a slot now. `is_busy`: others have one."""
        if self._compiling:
            self._queue_compiled()
        if not self._waiting or self._is_crowded or (is_busy and not self._options.cont_batching):
            return []
        admitted = []
        for sequence in list(self._waiting):
            request = sequence.request
            slot = self.slots.choose(sequence.prompt, request.generate.id_slot, request.adapters)
            if slot is None:
                if not self.slots.idle:
                    break
                continue
            self._waiting.remove(sequence)
            self.slots.take(slot)
            sequence.slot, sequence.num_decodes_before = slot, self._answers.num_decodes
            self._keep_prefix(sequence, slot)
            sequence.advance(Status.PREFILL)
            if request.generate.return_progress:
                self._answers.progress(sequence)
            admitted.append(sequence)
        return admitted

    def _keep_prefix(self, sequence: Sequence, slot: Slot) -> None:
        generate, adapters, options = sequence.request.generate, sequence.request.adapters, self._options
        if options.cache_prompt if generate.cache_prompt is None else generate.cache_prompt:
            min_chunk = options.cache_reuse if generate.n_cache_reuse is None else generate.n_cache_reuse
            sequence.num_cached = self.prefixes.keep(slot, sequence.prompt, adapters, min_chunk)
        else:
            self.prefixes.start_uncached(slot, adapters)
        if options.cache_idle_slots:
            self.prefixes.put_idle_away()

    def retire(self, sequence: Sequence, *, keeps_kv: bool = True) -> None:
        """End of a sequence's life: the slot is free again. Idempotent."""
        if sequence.status is Status.DONE:
            return
        sequence.advance(Status.DONE)
        self._is_crowded = False
        self._leave(sequence, keeps_kv=keeps_kv)

    def postpone(self, sequence: Sequence) -> None:
        """The newest prompt gives its KV to those that have already begun, and waits for one of them to end."""
        self._leave(sequence, keeps_kv=False)
        sequence.advance(Status.WAITING)
        self._waiting.appendleft(sequence)
        self._is_crowded = True

    def _leave(self, sequence: Sequence, *, keeps_kv: bool) -> None:
        slot = sequence.slot
        if slot is not None:
            slot.last_task = sequence.task()
        sequence.slot = None
        if slot is not None:
            self.slots.release(slot)
            if not keeps_kv:
                self.prefixes.forget(slot)


def context_exceeded(num_tokens: int, n_ctx: int) -> ContextExceeded:
    message = f"request ({num_tokens} tokens) exceeds the available context size ({n_ctx} tokens), try increasing it"
    return ContextExceeded(message, n_prompt_tokens=num_tokens, n_ctx=n_ctx)
