"""A worker from Hello to its end: it waits for a load, sends Ready, then handles messages of the router and steps the engine.

Owns the wire and the model. One thread. Messages are polled between steps, and waited for when there is no work. It ends after Park; the
router may also end it by SIGKILL.
"""

import contextlib
import os
import select
import sys
import time
import traceback
from collections.abc import Callable

from fastrouter._core import TokenRing
from fastrouter.errors import FastrouterError
from fastrouter.ipc.attached_files import read_attached
from fastrouter.ipc.descriptors import Descriptors
from fastrouter.ipc.messages import (
    DECODING_CALLS,
    SLOT_CALLS,
    Abort,
    Call,
    Drop,
    Failed,
    Forget,
    Hello,
    Hurry,
    Lend,
    Message,
    Notice,
    Park,
    PromptCacheSize,
    Reply,
    Share,
    Shrink,
    Snapshot,
    Submit,
)
from fastrouter.ipc.wire import BlockingWire
from fastrouter.worker.calls.park import Parker, kind_of
from fastrouter.worker.calls.text_calls import TEXT_CALLS
from fastrouter.worker.engine.outbox import Outbox
from fastrouter.worker.llama.binding import Scarcity
from fastrouter.worker.loading import LoadedModel, Loader
from fastrouter.worker.process.courtesy import Courtesy
from fastrouter.worker.process.spare import Spare

_SHORT_WAIT_S = 0.0002  # until there is room in the ring, or a grammar is ready
_PROMPT_CACHE_STEP_BYTES = 16 << 20  # the router need not know it more exactly
_QUIET_MS = 2000  # without a request, before the worker frees memory
_PICTURE_MS = 5  # at most between two looks at new requests while only pictures are computed
_SIGN_MS = 1000  # at most between two signs of life while other threads work


def run_worker(wire: BlockingWire, ring: TokenRing, descriptors: Descriptors, watch_router: Callable[[], None]) -> int:
    """Returns the exit code. Raises EOFError when the router has ended. `watch_router` starts a thread that ends this process with the
    router; it starts late, because a thread keeps the rights that it began with."""
    wire.send(Hello(os.getpid()))
    mailbox = Mailbox(wire)
    spare = Spare(mailbox.wait)
    load, more = spare.await_load()
    outbox = Outbox(ring)
    courtesy = Courtesy(mailbox.wait, outbox.note_progress, is_on=load.is_ahead)
    courtesy.take(more)
    try:
        loaded = Loader(load, wire, outbox, mailbox.wake, courtesy, watch_router).run(spare)
    except FastrouterError as error:
        wire.send(Failed(error.message, may_work_later=isinstance(error, Scarcity)))
        return 1
    Loop(loaded, wire, outbox, mailbox.wait, descriptors).run(spare, courtesy.kept)
    return 0


class Mailbox:
    """The router's messages, and a pipe that ends the wait for them."""

    def __init__(self, wire: BlockingWire) -> None:
        self._wire = wire
        self._wakeup, self._wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._waiter = select.poll()
        self._waiter.register(wire.fileno(), select.POLLIN)
        self._waiter.register(self._wakeup, select.POLLIN)

    def wake(self) -> None:
        """In any thread."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full: the wait has ended already
            os.write(self._wakeup_write, b"\0")

    def wait(self, timeout_ms: int | None = None) -> list[Message]:
        """Block until a message comes, `wake` is called, or the time is over."""
        self._waiter.poll(timeout_ms)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, 64)
        return self._wire.poll(0)


class Loop:
    """A loaded model at work."""

    def __init__(
        self,
        loaded: LoadedModel,
        wire: BlockingWire,
        outbox: Outbox,
        wait: Callable[[int | None], list[Message]],
        descriptors: Descriptors,
    ) -> None:
        self._loaded = loaded
        self._wire = wire
        self._outbox = outbox
        self._wait = wait
        self._descriptors = descriptors
        self._engine = loaded.engine
        self._text_calls = loaded.text_calls
        self._embedder = loaded.embedder
        self._slot_files = loaded.slot_files
        has_text = bool(loaded.context.memory) and not loaded.context.is_embedding
        kind = kind_of(loaded.model, loaded.context) if has_text else None
        self._parker = Parker(loaded.engine.prefixes, descriptors, wire.send, kind)
        self._is_over = False  # everything is parked
        self._prompt_cache_bytes = 0  # as the router knows it
        self._engine.prefixes.prompt_cache.on_change = self._tell_prompt_cache_size
        self._engine.before_long_step = self._embedder.before_long_step = lambda: self._publish("slots")
        self._publish("props", "lora_adapters")

    def run(self, spare: Spare, messages: list[Message]) -> None:
        """Until it has parked everything. Raises EOFError when the router has ended."""
        engine, embedder, slot_files, text_calls = self._engine, self._embedder, self._slot_files, self._text_calls
        parker = self._parker
        while True:
            self._note_life()
            for message in messages:
                self._handle(message)
            if self._is_over:
                return
            if text_calls.has_work:
                text_calls.step()
            engine.step()
            embedder.step()
            if slot_files.has_work:
                slot_files.step()
            for notice in engine.prompts.take_notices():
                self._wire.send(Notice("warning", notice))
            if engine.is_blocked or (engine.is_compiling and not embedder.has_work):
                time.sleep(_SHORT_WAIT_S)
            if engine.has_work or embedder.has_work:
                parker.note_work()
                if engine.waits_for_picture and not embedder.has_work and not text_calls.has_work:
                    messages = self._wait(_PICTURE_MS)
                    continue
                messages = self._wire.poll(0)
                continue
            quiet_ms = _sooner(_QUIET_MS if spare.has_leftovers else None, parker.wait_ms())
            messages = self._wait(_SIGN_MS if self._has_helpers else quiet_ms)
            if not messages and not self._has_helpers:
                spare.tidy_up()
                parker.step()

    @property
    def _has_helpers(self) -> bool:
        """Other threads read texts, compile grammars or compute pictures."""
        engine = self._engine
        return self._text_calls.has_work or self._embedder.is_reading or engine.is_compiling or engine.is_encoding

    def _note_life(self) -> None:
        """For the router, which ends a worker that hangs. Other threads have time limits, and a step of the embedder has an end."""
        self._outbox.note_alive()
        if self._has_helpers or self._embedder.has_work:
            self._outbox.note_progress()

    def _publish(self, *methods: str) -> None:
        """So that the router can answer while this process computes."""
        for method in methods:
            self._wire.send(Snapshot(method, self._loaded.ask(method, {})))

    def _tell_prompt_cache_size(self, num_bytes: int) -> None:
        if abs(num_bytes - self._prompt_cache_bytes) >= _PROMPT_CACHE_STEP_BYTES:
            self._prompt_cache_bytes = num_bytes
            self._wire.send(PromptCacheSize(num_bytes))

    # ------------------------------------------------------------ messages

    def _handle(self, message: Message) -> None:
        if isinstance(message, Submit):
            self._engine.submit(message.request_id, message.generate, message.resumed, self._files_of(message))
        elif isinstance(message, Abort):
            self._engine.abort(message.request_id)
        elif isinstance(message, Call):
            self._take_call(message)
        elif isinstance(message, Forget):
            self._text_calls.forget(message.request_id)
            self._embedder.forget(message.request_id)
            self._slot_files.forget(message.request_id)
        elif isinstance(message, Share):
            self._loaded.context.share_cores(message.num_busy)
            self._engine.speculation.share_cores(message.num_busy)
        elif isinstance(message, Shrink):
            self._engine.prefixes.prompt_cache.shrink(message.num_bytes)
        elif isinstance(message, Lend):
            self._parker.take(message)
        elif isinstance(message, Drop):
            self._parker.drop(message)
        elif isinstance(message, Park):
            self._parker.park_all(message)
            self._is_over = True
        elif isinstance(message, Hurry):
            pass  # its load is over
        else:
            sys.stderr.write(f"unexpected {type(message).__name__} from the router\n")

    def _files_of(self, message: Submit | Call) -> tuple[bytes, ...]:
        """Raises ProtocolError when their descriptor is missing."""
        if message.files is None:
            return ()
        number, sizes = message.files
        first, end = 0, len(sizes)
        if isinstance(message, Submit):
            first, end = message.generate.first_picture, message.generate.first_picture + len(message.generate.pictures)
        fd = self._descriptors.take(number)
        try:
            return read_attached(fd, sizes, first, end)
        finally:
            os.close(fd)

    def _take_call(self, call: Call) -> None:
        files = self._files_of(call)
        if call.method in TEXT_CALLS:
            self._text_calls.submit(call, files)
        elif call.method in SLOT_CALLS:
            self._slot_files.submit(call)
        elif call.method in DECODING_CALLS:
            self._embedder.submit(call, files)
        else:
            self._wire.send(self._answer(call))
            if call.method == "set_lora":
                self._publish("lora_adapters")

    def _answer(self, call: Call) -> Reply:
        try:
            return Reply(call.request_id, result=self._loaded.ask(call.method, call.params))
        except FastrouterError as error:
            return Reply(call.request_id, error=error.to_wire())
        except Exception as error:  # a mistake in one answer must not end the model's streams
            traceback.print_exc(file=sys.stderr)
            return Reply(call.request_id, error=FastrouterError(f"{type(error).__name__}: {error}").to_wire())


def _sooner(one_ms: int | None, other_ms: int | None) -> int | None:
    """None: never."""
    return min((time_ms for time_ms in (one_ms, other_ms) if time_ms is not None), default=None)
