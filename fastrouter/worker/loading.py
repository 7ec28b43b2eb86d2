"""From a Load to a complete model: opened, with its context, its engine and all that answers calls. Reports the progress to the router.

Owns nothing afterwards. Invariant: a LoadedModel is complete, or there is none and an error says why.
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from fastrouter.errors import InvalidRequest
from fastrouter.ipc.messages import Load, Notice, Progress, Ready
from fastrouter.ipc.wire import BlockingWire
from fastrouter.options.limits import KEPT_PICTURES_BYTES
from fastrouter.system.read_ahead import reading_ahead
from fastrouter.worker.calls import describe
from fastrouter.worker.calls.slot_files import SlotFiles
from fastrouter.worker.calls.text_calls import TextCalls
from fastrouter.worker.engine.adapters import Adapters
from fastrouter.worker.engine.embedder import Embedder
from fastrouter.worker.engine.engine import Engine
from fastrouter.worker.engine.outbox import Outbox
from fastrouter.worker.llama import fitted, rpc
from fastrouter.worker.llama.binding import has_device_backend, log
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model
from fastrouter.worker.llama.projector import Projector
from fastrouter.worker.media.pictures import Pictures
from fastrouter.worker.process.confine import confine
from fastrouter.worker.process.courtesy import Courtesy
from fastrouter.worker.process.footprint import Footprint
from fastrouter.worker.process.spare import Spare
from fastrouter.worker.process.warm_heap import return_large_blocks
from fastrouter.worker.speculation.draft_model import Draft
from fastrouter.worker.speculation.speculation import Speculation
from fastrouter.worker.text.prompts import Prompts
from fastrouter.worker.text_jobs import TextJobs

_PROGRESS_INTERVAL_S = 0.05
_WAIT_S = 1.0  # for the projector, between two signs of life
_NO_SHIFT_NOTICE = "--context-shift is off: the KV cache of this model cannot be shifted, so an answer ends when the context is full"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """All that the process of one model works with."""

    load: Load
    model: Model
    context: Context
    engine: Engine
    text_calls: TextCalls
    embedder: Embedder
    slot_files: SlotFiles

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        """The answer to a call that is answered between two steps. Raises InvalidRequest."""
        match method:
            case "props":
                return describe.props(self.model, self.context, self.engine, self.load)
            case "slots":
                return describe.slots(self.context, self.engine)
            case "lora_adapters":
                return self.engine.adapters.call_list()
            case "set_lora":
                return self.engine.adapters.call_set(params)
            case "end_thought":
                return self.engine.end_thought(params["request_id"])
        raise InvalidRequest(f"unknown call {method!r}")


class ProgressReport:
    """llama.cpp calls this while it loads; it tells the router, but not too often. False stops the load."""

    def __init__(self, wire: BlockingWire, note: Callable[[], None], courtesy: Courtesy) -> None:
        self._wire = wire
        self._note = note
        self._courtesy = courtesy
        self._next = time.perf_counter() + _PROGRESS_INTERVAL_S
        wire.send(Progress(0.0))  # from here on, the end of this process concerns the model

    def __call__(self, value: float) -> bool:
        self._note()
        self._courtesy()
        now = time.perf_counter()
        if now >= self._next:
            self._next = now + _PROGRESS_INTERVAL_S
            try:
                self._wire.send(Progress(round(value, 3)))
            except OSError:
                return False  # the router has ended
        return True


class Loader:
    """One load. `wake` ends the loop's wait for messages, in any thread. `watch_router`: see loop.py."""

    def __init__(
        self,
        load: Load,
        wire: BlockingWire,
        outbox: Outbox,
        wake: Callable[[], None],
        courtesy: Courtesy,
        watch_router: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load
        self._wire = wire
        self._outbox = outbox
        self._wake = wake
        self._courtesy = courtesy
        self._watch_router = watch_router
        self._phases_ms: dict[str, float] = {}
        self._phase_began = time.perf_counter()
        self._waited_s = 0.0  # until the phase began

    def run(self, spare: Spare) -> LoadedModel:
        """Raises FastrouterError."""
        load = self._load
        log.set_verbosity(load.verbosity)
        on_progress = ProgressReport(self._wire, self._outbox.note_progress, self._courtesy)
        self._courtesy()
        gone = self._enter()
        self._watch_router()
        spare.drop_variants(load.num_dropped)
        uses_devices = has_device_backend() or bool(load.options.rpc)
        if uses_devices:
            self._fit()  # which layers go where must be known before the file is read
        taken = spare.take_model(load)
        footprint = Footprint(spare.taken_bytes)
        model = taken or self._open(on_progress)
        if not uses_devices and not fitted.surely_fits(model, load.options, load.host_limit_bytes):
            self._fit()
        self._end_phase("model")
        loaded = self._complete(model, on_progress)
        self._end_phase("engine")
        self._say_ready(loaded, footprint, gone)
        return loaded

    def _enter(self) -> list[str]:
        """Connect, and give up rights. Returns which are gone."""
        if self._load.is_confined:
            return confine(self._load, self._connect)
        self._connect()
        return []

    def _connect(self) -> None:
        """To the RPC servers that it uses. Raises LlamaError."""
        if not self._load.options.rpc:
            return
        rpc.servers.connect(self._load.options.rpc)
        for endpoint, why in rpc.servers.missing.items():
            self._wire.send(Notice("warning", f"--rpc {endpoint}: it is left out of this load: {why}"))

    def _open(self, on_progress: ProgressReport) -> Model:
        """llama.cpp maps the file and reads it in one thread, a little at a time; the disk can do more."""
        load = self._load
        with reading_ahead([] if load.options.direct_io else load.files or [load.path]):
            return Model(load.path, load.options, safe_mode=load.safe_mode, on_progress=on_progress)

    def _fit(self) -> None:
        load = self._load
        if load.options.fit == "off":
            return
        choice = fitted.choose(load.path, load.options, safe_mode=load.safe_mode, host_limit_bytes=load.host_limit_bytes)
        self._load = replace(load, options=choice.options)
        if choice.notice:
            self._wire.send(Notice(choice.level, choice.notice))

    def _complete(self, model: Model, on_progress: ProgressReport) -> LoadedModel:
        options = self._load.options
        prompts = Prompts(model, options, TextJobs(self._wake))
        self._courtesy()
        coming = self._start_projector(model)
        try:
            return self._complete_beside(coming, model, prompts, on_progress)
        finally:
            if coming is not None:
                wait([coming])  # it uses the model, which ends with a load that fails

    def _complete_beside(
        self, coming: "Future[Projector] | None", model: Model, prompts: Prompts, on_progress: ProgressReport
    ) -> LoadedModel:
        """While the projector is opened."""
        options = self._load.options
        prompts.start_compiling()
        adapters = Adapters(model, options)
        self._courtesy()
        context = Context(model, options)
        self._end_phase("context")
        self._courtesy()
        if options.warmup and context.memory:
            context.warm_up()
        speculation = Speculation(context, options, self._open_draft(context, on_progress))
        engine = Engine(model, context, self._outbox, options, prompts, adapters, speculation)
        engine.check_constraint()
        projector = self._take_projector(coming) if coming is not None else None
        if projector is not None:
            pictures = prompts.pictures = Pictures(projector, context.n_batch, self._wake)
            if not context.is_embedding:
                engine.see(pictures)
            return_large_blocks()
        return LoadedModel(
            self._load,
            model,
            context,
            engine,
            TextCalls(model.vocab, prompts, self._wire.send_frame),
            Embedder(model, context, prompts, adapters, options, self._wire.send),
            SlotFiles(context, engine, self._load, self._wire.send),
        )

    def _start_projector(self, model: Model) -> "Future[Projector] | None":
        """In a thread: libmtmd needs the model, but not the context that is made meanwhile."""
        options = self._load.options
        if options.mmproj is None:
            return None
        thread = ThreadPoolExecutor(1, thread_name_prefix="projector")
        coming = thread.submit(Projector, model, options.mmproj, options)
        thread.shutdown(wait=False)
        return coming

    def _take_projector(self, coming: "Future[Projector]") -> Projector | None:
        """None: its requests cannot have pictures."""
        options = self._load.options
        while not coming.done():
            wait([coming], _WAIT_S)
            self._outbox.note_progress()
        projector = coming.result()
        self._end_phase("projector")
        if projector.sees or projector.hears:
            return projector
        projector.close()
        self._wire.send(Notice("warning", f"the projector {options.mmproj} is not used: it is neither for pictures nor for audio"))
        return None

    def _open_draft(self, context: Context, on_progress: ProgressReport) -> Draft | None:
        options = self._load.options
        if "draft_model" not in options.speculation or context.is_embedding or not context.can_cut:
            return None
        return Draft(context, options, safe_mode=self._load.safe_mode, on_progress=lambda _: on_progress(1.0))

    def _end_phase(self, name: str) -> None:
        self._outbox.note_progress()
        began, self._phase_began = self._phase_began, time.perf_counter()
        waited_s, self._waited_s = self._courtesy.waited_s - self._waited_s, self._courtesy.waited_s
        self._phases_ms[name] = 1e3 * (self._phase_began - began - waited_s)

    def _say_ready(self, loaded: LoadedModel, footprint: Footprint, gone: list[str]) -> None:
        engine, context, options = loaded.engine, loaded.context, self._load.options
        no_shift = _NO_SHIFT_NOTICE if options.context_shift and not engine.shifts.is_on else None
        for notice in filter(None, (no_shift, context.notice, engine.speculation.notice)):
            self._wire.send(Notice("warning", notice))
        draft = engine.speculation.draft
        later_bytes = KEPT_PICTURES_BYTES if engine.prompts.pictures is not None else 0
        taken = footprint.taken([loaded.model, *([draft.model] if draft else [])], options, later_bytes)
        cpu = describe.cpu(is_repacking=not self._load.safe_mode)
        self._wire.send(Ready({**describe.meta(loaded.model, context, engine, self._phases_ms), **taken, "cpu": cpu}))
        parts = ", ".join(f"{phase} {ms:.1f} ms" for phase, ms in self._phases_ms.items())
        confined = f", no access to other {' and '.join(gone)}" if gone else ""
        took = f"loaded in {sum(self._phases_ms.values()):.0f} ms ({parts})"
        sys.stderr.write(f"{took}: {describe.context_in_words(context)}, CPU variant {cpu['variant']}{confined}\n")
