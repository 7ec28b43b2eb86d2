"""The worker's loop: load the model, say Ready, then read control messages and step the engine until told to stop.

Owns the wire and the model's life. One thread. Control is polled between steps and waited for when there is nothing to do.
"""

import contextlib
import os
import select
import signal
import sys
import time
import traceback
from typing import Any

from fastrouter._core import TokenRing
from fastrouter.errors import FastrouterError, InvalidRequest, Unavailable
from fastrouter.ipc.messages import (
    DECODING_CALLS,
    SLOT_CALLS,
    Abort,
    Call,
    Failed,
    Forget,
    Generate,
    Hello,
    Load,
    Message,
    Notice,
    Progress,
    PromptCacheSize,
    Ready,
    Reply,
    Share,
    Shrink,
    Snapshot,
    Stop,
)
from fastrouter.ipc.wire import BlockingWire
from fastrouter.worker.calls import describe
from fastrouter.worker.calls.slot_files import SlotFiles
from fastrouter.worker.calls.text_calls import TEXT_CALLS, TextCalls
from fastrouter.worker.engine.adapters import Adapters
from fastrouter.worker.engine.embedder import Embedder
from fastrouter.worker.engine.engine import Engine
from fastrouter.worker.engine.outbox import Outbox
from fastrouter.worker.llama.binding import Scarcity, log
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model
from fastrouter.worker.process.footprint import Footprint
from fastrouter.worker.process.spare import Spare
from fastrouter.worker.speculation.draft_model import Draft
from fastrouter.worker.speculation.speculation import Speculation
from fastrouter.worker.text.prompts import Prompts
from fastrouter.worker.text_jobs import TextJobs

_PROGRESS_INTERVAL_S = 0.05
_SHORT_WAIT_S = 0.0002  # for room in the ring, or for a grammar
_PROMPT_CACHE_STEP_BYTES = 16 << 20  # the router need not know more exactly
_QUIET_MS = 2000  # without a request, before the worker tidies up
_NO_SHIFT_NOTICE = "--context-shift is off: this model's memory cannot move what it holds, so an answer ends when the context is full"


class Worker:
    """One model's process, from Hello to exit."""

    def __init__(self, wire: BlockingWire, ring: TokenRing) -> None:
        self._wire = wire
        self._outbox = Outbox(ring)
        self._inbox: list[Message] = []  # arrived while loading
        self._is_stopping = False
        self._prompt_cache_bytes = 0  # as the router knows it
        self._wakeup, self._wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)  # a signal ends the wait for messages
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._waiter = select.poll()
        self._waiter.register(wire.fileno(), select.POLLIN)
        self._waiter.register(self._wakeup, select.POLLIN)

    def _on_sigterm(self, *_: object) -> None:
        self._is_stopping = True

    def _wake(self) -> None:
        """End the wait for messages. In any thread."""
        with contextlib.suppress(BlockingIOError):  # it is full: the wait has ended already
            os.write(self._wakeup_write, b"\0")

    def run(self) -> int:
        """The exit code. Raises EOFError when the router is gone."""
        self._wire.send(Hello(os.getpid()))
        spare = Spare(self._wait)
        found = spare.await_load(lambda: self._is_stopping)
        if found is None:
            return 0
        load, self._inbox = found
        try:
            self._load(load, spare)
        except FastrouterError as error:
            if self._is_stopping:
                return 0  # asked to, while loading
            self._wire.send(Failed(error.message, may_work_later=isinstance(error, Scarcity)))
            return 1
        self._serve(spare)
        return 0

    def _wait(self, timeout_ms: int | None = None) -> list[Message]:
        """Block until a message or a signal comes, or the time is over."""
        self._waiter.poll(timeout_ms)
        try:
            os.read(self._wakeup, 64)
        except BlockingIOError:
            return self._wire.poll(0)
        return self._wire.poll(0)

    # ------------------------------------------------------------ load

    def _load(self, load: Load, spare: Spare) -> None:
        clock = time.perf_counter
        begun = clock()
        log.set_verbosity(load.verbosity)
        self._wire.send(Progress(0.0))  # from here on, its end is the model's
        spare.drop_variants(load.num_dropped)
        self._next_progress = begun + _PROGRESS_INTERVAL_S
        self._load_options = load
        model = spare.take_model(load)
        footprint = Footprint(spare.taken_bytes)
        self._model = model or self._open(load)
        loaded = clock()
        prompts = Prompts(self._model, load.options, TextJobs(self._wake))
        prompts.start_compiling()
        adapters = Adapters(self._model, load.options)
        self._context = Context(self._model, load.options)
        created = clock()
        if load.options.warmup and self._context.memory:
            self._context.warm_up()
        speculation = Speculation(self._context, load.options, self._open_draft(load))
        self._engine = Engine(self._model, self._context, self._outbox, load.options, prompts, adapters, speculation)
        self._engine.prefixes.prompt_cache.on_change = self._tell_prompt_cache_size
        self._engine.check_constraint()
        if load.options.context_shift and not self._engine.shifts.is_on:
            self._wire.send(Notice("warning", _NO_SHIFT_NOTICE))
        for notice in filter(None, (self._context.notice, speculation.notice)):
            self._wire.send(Notice("warning", notice))
        self._text_calls = TextCalls(self._model.vocab, prompts, self._wire.send_frame)
        self._embedder = Embedder(self._model, self._context, prompts, adapters, load.options, self._wire.send)
        self._slot_files = SlotFiles(self._context, self._engine, load, self._wire.send)
        phases = {"model": 1e3 * (loaded - begun), "context": 1e3 * (created - loaded), "engine": 1e3 * (clock() - created)}
        models = [self._model, *([speculation.draft.model] if speculation.draft else [])]
        taken = footprint.taken(models, load.options)
        cpu = describe.cpu(is_repacking=not load.safe_mode)
        self._wire.send(Ready({**describe.meta(self._model, self._context, self._engine, phases), **taken, "cpu": cpu}))
        self._publish("props", "lora_adapters")
        self._engine.before_long_step = self._embedder.before_long_step = lambda: self._publish("slots")
        parts = ", ".join(f"{phase} {ms:.1f} ms" for phase, ms in phases.items())
        context = describe.context_in_words(self._context)
        sys.stderr.write(f"loaded in {sum(phases.values()):.0f} ms ({parts}): {context}, CPU variant {cpu['variant']}\n")

    def _publish(self, *methods: str) -> None:
        """So that the router can answer while this process computes."""
        for method in methods:
            self._wire.send(Snapshot(method, self._call(method, {})))

    def _open(self, load: Load) -> Model:
        return Model(load.path, load.options, safe_mode=load.safe_mode, on_progress=self._on_progress)

    def _open_draft(self, load: Load) -> Draft | None:
        if "draft_model" not in load.options.speculation or self._context.is_embedding or not self._context.can_cut:
            return None
        return Draft(self._context, load.options, safe_mode=load.safe_mode, on_progress=lambda _: self._on_progress(1.0))

    def _tell_prompt_cache_size(self, num_bytes: int) -> None:
        if abs(num_bytes - self._prompt_cache_bytes) >= _PROMPT_CACHE_STEP_BYTES:
            self._prompt_cache_bytes = num_bytes
            self._wire.send(PromptCacheSize(num_bytes))

    def _on_progress(self, value: float) -> bool:
        """Called by llama.cpp while it loads; False gives up."""
        now = time.perf_counter()
        if now >= self._next_progress:
            self._next_progress = now + _PROGRESS_INTERVAL_S
            try:
                self._wire.send(Progress(round(value, 3)))
                self._inbox += self._wire.poll(0)
            except (EOFError, OSError):
                self._is_stopping = True  # the router is gone
            if any(isinstance(message, Stop) for message in self._inbox):
                self._is_stopping = True
        return not self._is_stopping

    # ------------------------------------------------------------ serve

    def _serve(self, spare: Spare) -> None:
        engine, embedder, slot_files, poll = self._engine, self._embedder, self._slot_files, self._wire.poll
        text_calls = self._text_calls
        for message in self._inbox:
            self._handle(message)
        while True:
            if not engine.has_work and not embedder.has_work:
                if self._is_stopping and not text_calls.has_work and not embedder.is_reading:
                    return
                messages = self._wait(_QUIET_MS if spare.has_leftovers else None)
                if not messages:
                    spare.tidy_up()
            else:
                messages = poll(0)
            for message in messages:
                self._handle(message)
            if text_calls.has_work:
                text_calls.step()
            engine.step()
            embedder.step()
            if slot_files.has_work:
                slot_files.step()
            if engine.is_blocked or (engine.is_compiling and not embedder.has_work):
                time.sleep(_SHORT_WAIT_S)

    def _handle(self, message: Message) -> None:
        if isinstance(message, Generate):
            if self._is_stopping:
                self._outbox.error(message.request_id, Unavailable("the model is being unloaded"))
                self._outbox.ring_doorbell()
            else:
                self._engine.submit(message)
        elif isinstance(message, Abort):
            self._engine.abort(message.request_id)
        elif isinstance(message, Call):
            self._take_call(message)
        elif isinstance(message, Forget):
            self._text_calls.forget(message.request_id)
            self._embedder.forget(message.request_id)
            self._slot_files.forget(message.request_id)
        elif isinstance(message, Share):
            self._context.share_cores(message.num_busy)
            self._engine.speculation.share_cores(message.num_busy)
        elif isinstance(message, Shrink):
            self._engine.prefixes.prompt_cache.shrink(message.num_bytes)
        elif isinstance(message, Stop):
            self._is_stopping = True
        else:
            sys.stderr.write(f"unexpected {type(message).__name__} from the router\n")

    def _take_call(self, call: Call) -> None:
        if call.method in TEXT_CALLS:
            self._text_calls.submit(call)
        elif call.method in SLOT_CALLS:
            self._slot_files.submit(call)
        elif call.method not in DECODING_CALLS:
            self._wire.send(self._answer(call))
            if call.method == "set_lora":
                self._publish("lora_adapters")
        elif self._is_stopping:
            self._wire.send(Reply(call.request_id, error=Unavailable("the model is being unloaded").to_wire()))
        else:
            self._embedder.submit(call)

    def _answer(self, call: Call) -> Reply:
        try:
            return Reply(call.request_id, result=self._call(call.method, call.params))
        except FastrouterError as error:
            return Reply(call.request_id, error=error.to_wire())
        except Exception as error:  # a bug in one answer must not end the model's streams
            traceback.print_exc(file=sys.stderr)
            return Reply(call.request_id, error=FastrouterError(f"{type(error).__name__}: {error}").to_wire())

    def _call(self, method: str, params: dict[str, Any]) -> Any:
        match method:
            case "props":
                return describe.props(self._model, self._context, self._engine, self._load_options)
            case "slots":
                return describe.slots(self._context, self._engine)
            case "lora_adapters":
                return self._engine.adapters.call_list()
            case "set_lora":
                return self._engine.adapters.call_set(params)
        raise InvalidRequest(f"unknown call {method!r}")
