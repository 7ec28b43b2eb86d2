"""The source of a model has changed, or has vanished, while requests use it or wait for it: which of them the next worker gets.

Requests that wait for a load stay in the queue and get the next one. Requests that run have the model's stop-timeout to end. What is not
over then goes on with the next worker if the files of the model are the same as before (it has another context size, for example);
otherwise it gets an error, because the rest would come from another model. Never imports: supervisor.decide.planner.
Invariant: changes end at most MAX_CHANGES loads of a model in a row, with growing pauses; then what waits gets an error.
"""

import logging

from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import ModelNotFound, ModelUnusable, Unavailable
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.managed_model import BACK_OFF_S, ManagedModel, Waiter
from fastrouter.supervisor.queue import Queue
from fastrouter.supervisor.resume import Resumption
from fastrouter.supervisor.timers import Timers
from fastrouter.supervisor.workers.instance import Instance, fail_sink
from fastrouter.supervisor.workers.stream import WorkerStream

log = logging.getLogger("fastrouter.supervisor")

MAX_CHANGES = len(BACK_OFF_S)  # with their pauses about a minute


class Succession:
    """A rebalance follows `prepare` and `end_streams`."""

    def __init__(self, queue: Queue, timers: Timers, resumption: Resumption) -> None:
        self._queue = queue
        self._timers = timers
        self._resumption = resumption

    def __repr__(self) -> str:
        return f"<Succession {self._queue!r}>"

    def prepare(self, model: ManagedModel, spec: ModelSpec | None) -> None:
        """The source of the model is now this; None: it has vanished. Its instance is told to stop after this."""
        instance = model.instance
        if instance is not None:
            is_running = instance.has_successor or instance.state in (State.LOADED, State.DRAINING)
            instance.has_successor = is_running and spec is not None and spec.can_be_tried and _files(spec) == _files(instance.spec)
        if spec is None:
            self._queue.refuse_all(model, ModelNotFound(model.spec.id))
        elif not spec.can_be_tried:
            self._queue.refuse_all(model, ModelUnusable(spec.id, spec.error or ""))
        elif instance is not None and instance.state is State.LOADING:
            self._load_again(model)

    def _load_again(self, model: ManagedModel) -> None:
        model.num_changes += 1
        if model.num_changes > MAX_CHANGES:
            model.num_changes = 0
            cause = f"model '{model.spec.id}' has changed on disk {MAX_CHANGES} times while it was loading; try again when it is complete"
            log.error("%s", cause, extra={"model": model.spec.id, "event": "changes"})
            self._queue.refuse_all(model, Unavailable(cause, model=model.spec.id))
            return
        now = self._timers.now()
        if not model.is_wanted and not self._queue.is_closed:  # a load without a request, see Waiter.wants_lease
            self._queue.add(model, Waiter(wants_lease=False), now)
        model.start_at = now + BACK_OFF_S[model.num_changes - 1]

    def end_streams(self, model: ManagedModel, instance: Instance, why: str) -> None:
        """The instance gets no more time. The next one continues what it can; the rest gets an error."""
        streams = [*instance.take_streams(), *self._resumption.take(instance)[0]]
        going_on: list[WorkerStream] = []
        if instance.has_successor and not self._queue.is_closed:
            going_on = [stream for stream in streams if not stream.owner.is_released and stream.can_continue()]
            wait_again(self._queue, model, going_on, self._timers.now())
        for stream in streams:
            if stream not in going_on:
                fail_sink(stream.sink, Unavailable(why))


def wait_again(queue: Queue, model: ManagedModel, streams: list[WorkerStream], now: float) -> None:
    """These streams wait for the model's next worker."""
    for stream in streams:
        lease = stream.owner
        if stream not in lease.resumed:
            lease.resumed.append(stream)
        stream.sink.suspend()
    for lease in dict.fromkeys(stream.owner for stream in streams):  # keeps the order
        if not lease.is_released:
            queue.add(model, Waiter(lease=lease), now)


def _files(spec: ModelSpec) -> tuple[object, ...]:
    return spec.files, spec.states
