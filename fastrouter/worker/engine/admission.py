"""From a request to a sequence in a slot: its prompt, its sampler, its grammar, its turn, and the part that the KV cache already holds.

Owns slots, prefixes and the queue. Never imports: worker.llama.batch, worker.schedule.scheduler. Invariant: a sequence is here until it
has a slot. Others may overtake a sequence that asks for a busy slot, but not one for which the KV cache has no room.
"""

import time
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from fastrouter.errors import FastrouterError, InvalidRequest, ModelCannot
from fastrouter.ipc.messages import Generate
from fastrouter.options.load import LoadOptions
from fastrouter.worker.engine.adapters import Adapters
from fastrouter.worker.engine.answers import Answers
from fastrouter.worker.engine.chats import ChatReading, Chats, must_call
from fastrouter.worker.engine.fair_queue import FairQueue
from fastrouter.worker.engine.prompt_log import PromptLog
from fastrouter.worker.kv.prefixes import Prefixes
from fastrouter.worker.kv.slots import Slot, Slots
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model
from fastrouter.worker.resumed import read_resumed
from fastrouter.worker.sampling.grammar import ConstrainedSampler, Grammars, Matcher
from fastrouter.worker.sampling.guide import GuidedSampler
from fastrouter.worker.sampling.sampler import Sampler, file_defaults
from fastrouter.worker.sampling.tool_grammar import triggers
from fastrouter.worker.sequence import GenerateRequest, Running, Sequence, Status
from fastrouter.worker.text.bounded_detokenizer import BoundedDetokenizer
from fastrouter.worker.text.detokenizer import Detokenizer, PieceTable
from fastrouter.worker.text.infill import build_infill
from fastrouter.worker.text.prompts import Prompts, ReadPrompt, context_exceeded
from fastrouter.worker.text_jobs import LONG_CHARS, SHORT_CHARS, Job, count_chars

COMPILE_DEADLINE_S = 20.0  # of a grammar, from the request on
NUM_SPARED = 32  # tokens of the KV cache for each running sequence: a new one must not need their place immediately


class Admission:
    """All waiting requests of one model."""

    def __init__(
        self, model: Model, context: Context, answers: Answers, options: LoadOptions, prompts: Prompts, adapters: Adapters
    ) -> None:
        self.sampling = {**file_defaults(model), **options.sampling}  # of requests that do not set them
        self.slots = Slots(context.num_slots, options.slot_prompt_similarity)
        self.prefixes = Prefixes(model, context, self.slots, options)
        self._vocab = model.vocab
        self._context = context
        self._answers = answers
        self._options = options
        self._prompts = prompts
        self._adapters = adapters
        self._pieces = PieceTable(model.vocab, special=options.special)
        self._prompt_log = PromptLog(options.log_prompts_dir, model.vocab)
        self._chats = Chats(model.vocab, prompts, options)
        self._grammars = Grammars(model.vocab)
        self._compiling: list[GenerateRequest] = []
        self._waiting = FairQueue()
        self._num_sequences = 0  # until now
        self._is_crowded = False  # the KV cache has no room for the next one: admit none until a sequence ends
        self._num_fitting = 0  # tokens in the slots when the cache was full; 0: it was never full since it was empty

    def __repr__(self) -> str:
        return f"<Admission {len(self._waiting)} waiting {len(self._compiling)} compiling>"

    def close(self) -> None:
        self._grammars.close()

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._compiling)

    @property
    def is_compiling(self) -> bool:
        """There is no work until a grammar is ready."""
        return bool(self._compiling) and not self._waiting

    # ------------------------------------------------------------ in

    def submit(self, request_id: int, generate: Generate, resumed: dict[str, Any] | None = None, files: tuple[bytes, ...] = ()) -> None:
        """Queue a request. A bad one gets its ERROR record; nothing is raised. `resumed`: see Submit. `files`: of its pictures."""
        try:
            if not self._context.memory or self._context.is_embedding:
                raise ModelCannot("this model cannot generate text: it is for /v1/embeddings or /v1/rerank")
            generate = self._with_defaults(generate)
            past = read_resumed(resumed, self._vocab.n_tokens) if resumed else None
            request = GenerateRequest(request_id, generate, self._read(generate, files), self._adapters.resolve(generate.lora), past)
            self._check_length(request)
            if generate.constraint is not None and not must_call(generate):
                request.grammar = self._grammars.compile(generate.constraint, generate.json_whitespace or self._options.json_whitespace)
            if request.reading is None:
                self._start_calls(request)
            if request.grammar is None and request.reading is None and not request.waits_for_calls:
                self._queue(request)
            else:
                self._compiling.append(request)
        except Exception as error:
            self._answers.refuse(request_id, error)

    def _start_calls(self, request: GenerateRequest) -> None:
        """Starts to compile the grammar of the calls that the answer must or may have. The prompt has been read, so the format is known."""
        found = self._chats.wish(request.generate)
        if found is not None and (found[1].is_required or found[1].answer):
            if request.grammar is not None:
                self._grammars.leave(request.grammar)
            request.grammar, request.grammar_at = self._grammars.compile_calls(*found), time.monotonic()
        elif found is not None and (begun := triggers(found[0])):
            request.calls = self._grammars.compile_calls(*found, after=begun[0], is_waited_for=False)

    def _with_defaults(self, generate: Generate) -> Generate:
        """Fills in what the request does not set."""
        options, changes = self._options, dict[str, Any]()
        if options.constraint is not None and generate.constraint is None and not generate.tools:
            changes["constraint"] = options.constraint
        if generate.prefill_is_implied and not options.prefill_assistant:
            changes |= {"add_generation_prompt": True, "continue_final_message": False}
        if options.stop and not generate.stop:
            changes["stop"] = options.stop
        if generate.messages is not None and not generate.chat_template and (end := self._prompts.fallback_stop):
            changes["stop"] = [*changes.get("stop", generate.stop), end]
        return replace(generate, **changes) if changes else generate

    def check_constraint(self) -> None:
        """Compiles the model's default constraint, and waits for that. Raises FastrouterError."""
        if self._options.constraint is not None and not self._options.embedding:
            found = self._grammars.compile(self._options.constraint, self._options.json_whitespace)
            try:
                found.result()
            finally:
                self._grammars.leave(found)

    def _read(self, generate: Generate, files: tuple[bytes, ...]) -> ReadPrompt | Job[ReadPrompt]:
        """The prompt, or the job that makes it."""
        if generate.infill is None:
            return self._prompts.read(generate, self._context.n_ctx_slot, files)
        num_chars = count_chars([generate.prompt, generate.infill], LONG_CHARS)
        if num_chars <= SHORT_CHARS:
            return self._build_infill(generate)
        return self._prompts.jobs.start(lambda: self._build_infill(generate), num_chars)

    def _build_infill(self, generate: Generate) -> ReadPrompt:
        return ReadPrompt(build_infill(self._vocab, generate, self._options, self._context.n_ctx_slot))

    def _check_length(self, request: GenerateRequest) -> None:
        if len(request.prompt) >= self._context.n_ctx_slot:
            raise context_exceeded(len(request.prompt), self._context.n_ctx_slot)
        if request.pictures and request.pictures[-1].end == len(request.prompt):
            raise InvalidRequest("the prompt ends with a picture, so no token can follow: add text after it, or a generation prompt")

    def _queue(self, request: GenerateRequest) -> None:
        """Its prompt and its grammar are ready. Raises the error of its grammar."""
        new = [choice for choice in request.open_choices() if choice not in request.resumed.choices]
        sequences = [self.choice(request, choice) for choice in (*sorted(request.resumed.choices), *new[:1])]
        if request.prompt:
            for sequence in sequences:
                self._waiting.add(sequence)
        else:
            self._answers.end_empty(request, sequences[0])

    def _queue_compiled(self) -> None:
        for request in self._compiling[:]:
            grammar = request.grammar
            is_late = time.monotonic() > request.grammar_at + COMPILE_DEADLINE_S
            late = grammar if is_late and grammar and not grammar.done() else None
            if is_late and request.waits_for_calls:
                request.calls = None  # its next calls follow no grammar
            if not (request.is_ready or late):
                continue
            try:
                if late is not None:
                    raise self._give_up(request, late)
                if not self._has_prompt(request):
                    continue
                self._queue(request)
            except Exception as error:
                self._answers.refuse(request.id, error)
            self._compiling.remove(request)
            self._let_go(request)

    def _has_prompt(self, request: GenerateRequest) -> bool:
        """Takes the prompt from the job that has read it. False: the grammar of its calls must be compiled first."""
        if request.reading is None:
            return True
        request.take_prompt()
        self._check_length(request)
        self._start_calls(request)
        return request.is_ready

    def _give_up(self, request: GenerateRequest, late: "Future[Matcher]") -> FastrouterError:
        constraint = request.generate.constraint
        if constraint is not None and not must_call(request.generate):
            return self._grammars.give_up(constraint["field"], len(constraint["text"]), late)
        return self._grammars.give_up("tools", count_chars(request.generate.tools, LONG_CHARS), late)

    def _let_go(self, request: GenerateRequest) -> None:
        """Its unfinished prompt and grammar are not needed any more."""
        if request.reading is not None:
            request.reading.cancel()
        if request.grammar is not None:
            self._grammars.leave(request.grammar)

    def choice(self, request: GenerateRequest, choice: int) -> Sequence:
        """One more sequence for this request. Raises FastrouterError."""
        generate = request.generate
        reading = self._chats.reading(generate, request.prompt_end, has_form=request.grammar is not None)
        pieces = reading.pieces if reading is not None and reading.is_parsed else self._pieces
        sampler = self._sampler(request, choice, reading)
        max_tokens = generate.max_tokens if generate.max_tokens >= 0 else self._options.n_predict
        message = reading.message() if reading is not None else None
        self._num_sequences += 1
        sequence = Sequence(request, choice, sampler, _detokenizer(pieces, generate), max_tokens, self._num_sequences, message)
        past = request.resumed.choices.get(choice)
        if past is None and choice == 0:
            self._prompt_log.write(generate, request.prompt.tolist())
        if past is not None:
            n_ctx, is_exact = self._context.n_ctx_slot, sampler.is_reproducible
            num_prefilled = past.num_prefilled(len(request.prompt), n_ctx, is_exact=is_exact, is_measured=generate.logprobs)
            sequence.resume(past, request.resumed.elapsed_ns, 0 if sequence.reads_prompt else num_prefilled)
        return sequence

    def _sampler(self, request: GenerateRequest, choice: int, reading: ChatReading | None) -> Sampler:
        asked = request.generate
        settings, defaults = asked.sampling, self.sampling
        options: dict[str, Any] = {"choice": choice, "chance": asked.chance, "has_probabilities": asked.logprobs}
        matcher = request.grammar.result().copy() if request.grammar is not None else None
        if reading is not None and reading.guidance is not None and reading.quiet is not None:
            calls, piece = partial(_copy_of, request.calls), reading.pieces.piece
            return GuidedSampler(self._vocab, settings, defaults, reading.guidance, matcher, piece, reading.quiet, calls, **options)
        if matcher is not None:
            return ConstrainedSampler(self._vocab, settings, defaults, matcher, **options)
        return Sampler(self._vocab, settings, defaults, **options)

    def put_first(self, sequences: list[Sequence]) -> None:
        """They come before all other waiting sequences of their request, in this order."""
        self._waiting.add_first(sequences)

    def forget(self, request_id: int) -> None:
        self._waiting.forget(request_id)
        for request in [request for request in self._compiling if request.id == request_id]:
            self._compiling.remove(request)
            self._let_go(request)

    # ------------------------------------------------------------ out

    def admit(self, is_busy: bool) -> list[Running]:
        """The sequences that get a slot now. `is_busy`: other sequences have one."""
        if self._compiling:
            self._queue_compiled()
        if not is_busy and not self._waiting.has_begun:
            self._num_fitting = 0
        if not self._waiting or self._is_crowded or (is_busy and not self._options.cont_batching):
            return []
        admitted = []
        while (running := self._next()) is not None:
            self._waiting.start(running.sequence)
            self._begin(running)
            admitted.append(running)
        return admitted

    def _next(self) -> Running | None:
        """Which sequence gets a slot now, and which slot."""
        if not self.slots.idle:
            return None
        for sequence in self._waiting.heads():
            request = sequence.request
            if not self._has_room(sequence):
                self._is_crowded = True
                return None
            slot = self.slots.choose(sequence.prefix, request.generate.id_slot, request.adapters)
            if slot is not None:
                return Running(sequence, slot)
        return None

    def _has_room(self, sequence: Sequence) -> bool:
        """An estimate: how many tokens fit depends on how many are shared, so this is learned when the cache is full."""
        busy = [slot for slot in self.slots.all if slot.is_busy]
        if not self._num_fitting or not busy:
            return True
        num_held = sum(len(slot.tokens) for slot in busy)
        return num_held + len(sequence.prefix) + NUM_SPARED * (len(busy) + 1) <= self._num_fitting

    def _begin(self, running: Running) -> None:
        sequence, slot = running.sequence, running.slot
        self.slots.take(slot)
        sequence.num_decodes_before += self._answers.num_decodes
        self._keep_prefix(sequence, slot)
        sequence.advance(Status.PREFILL)
        if sequence.request.generate.return_progress and not sequence.has_begun:
            self._answers.progress(running)

    def join(self, sibling: Sequence, first: Sequence, slot: Slot) -> Running:
        """It gets a slot that holds what its sibling has computed."""
        self._waiting.start(sibling, has_waited=False)
        self.slots.take(slot)
        sibling.started_ns, sibling.num_cached = first.started_ns, first.num_cached
        sibling.prompt_entries = first.prompt_entries
        sibling.num_decodes_before = self._answers.num_decodes
        return Running(sibling, slot)

    def _keep_prefix(self, sequence: Sequence, slot: Slot) -> None:
        generate, adapters, options = sequence.request.generate, sequence.request.adapters, self._options
        is_cached = options.cache_prompt if generate.cache_prompt is None else generate.cache_prompt
        if sequence.reads_prompt:
            self.prefixes.start_uncached(slot, adapters)
        elif sequence.has_begun and (is_cached or not sequence.is_catching_up):
            self.prefixes.keep(slot, sequence.prefix, adapters)  # at least its own start
        elif is_cached:
            min_chunk = options.cache_reuse if generate.n_cache_reuse is None else generate.n_cache_reuse
            min_chunk = 0 if sequence.request.pictures else min_chunk
            sequence.num_cached = self.prefixes.keep(slot, sequence.prompt, adapters, min_chunk)
        else:
            self.prefixes.start_uncached(slot, adapters)
        if options.cache_idle_slots:
            self.prefixes.put_idle_away()

    def retire(self, running: Running, *, keeps_kv: bool = True) -> None:
        """The end of a sequence: its slot is free again."""
        running.sequence.advance(Status.DONE)
        self._is_crowded = False
        self._leave(running)
        if not keeps_kv:
            self.prefixes.forget(running.slot)
        self._waiting.end(running.sequence)

    def postpone(self, running: Running) -> None:
        """The KV cache is full: the sequence gives its cells to older ones, and continues at the same place when there is room again."""
        sequence, slot = running.sequence, running.slot
        self._num_fitting = sum(len(slot.tokens) for slot in self.slots.all if slot.is_busy)
        self._is_crowded = True
        if sequence.status is Status.DECODE:
            sequence.prefix = slot.tokens[:]
            sequence.prefix.append(sequence.next_token)
        self.prefixes.purge(slot)
        self._leave(running)
        sequence.num_decodes_before -= self._answers.num_decodes
        sequence.advance(Status.WAITING)
        self._waiting.put_back(sequence)

    def _leave(self, running: Running) -> None:
        running.slot.last_task = running.sequence.task()
        self.slots.release(running.slot)


def _copy_of(compiled: "Future[Matcher] | None") -> Matcher | None:
    """None if it is not ready, or cannot be made: then calls do not follow a grammar."""
    is_ready = compiled is not None and compiled.done() and not compiled.cancelled() and compiled.exception() is None
    return compiled.result().copy() if compiled is not None and is_ready else None


def _detokenizer(pieces: PieceTable, generate: Generate) -> Detokenizer:
    if generate.n_indent or generate.t_max_predict_ms > 0:
        return BoundedDetokenizer(pieces, generate.stop, generate.n_indent, max(0, generate.t_max_predict_ms))
    return Detokenizer(pieces, generate.stop)
