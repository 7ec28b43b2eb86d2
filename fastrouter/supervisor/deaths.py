"""A worker has ended by itself: what follows for its model, for its requests, for the log, and for clients that watch events.

The model is the cause when its worker says why it cannot load it, or when two workers in a row end while they load it. When a worker ends
before the load has begun (its fork server was killed, or the spare itself), the model is not the cause. Never imports:
supervisor.decide.planner.
Invariant: every request of the worker gets an error, or waits in the queue for a new worker.
"""

import logging
import signal
from collections.abc import Sequence

from fastrouter import metrics
from fastrouter.errors import KillsWorkers, LoadPostponed, Unavailable, WorkerDied
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.events import Events
from fastrouter.supervisor.managed_model import ManagedModel, Waiter
from fastrouter.supervisor.queue import Queue
from fastrouter.supervisor.remedies import Remedies, Remedy
from fastrouter.supervisor.resume import MEMORY_S, NUM_STUCK, NUM_STUCK_OUTSIDE, Condemned, Resumption, Verdict, judge
from fastrouter.supervisor.succession import wait_again
from fastrouter.supervisor.timers import Timers
from fastrouter.supervisor.workers.instance import Instance, fail_sink
from fastrouter.supervisor.workers.process import describe_exit
from fastrouter.supervisor.workers.stream import WorkerStream

log = logging.getLogger("fastrouter.supervisor")

NUM_LINES = 5  # lines of the worker that go into our log
_CPU_FAULTS = {-signal.SIGILL, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGFPE}  # not SIGABRT: then llama.cpp has found an error itself
_FROM_OUTSIDE = {
    -signal.SIGKILL,
    -signal.SIGTERM,
    -signal.SIGINT,
    -signal.SIGHUP,
    -signal.SIGQUIT,
}  # a user, or the kernel when memory runs out


class Deaths:
    """A rebalance follows each call."""

    def __init__(
        self, queue: Queue, events: Events, remedies: Remedies, timers: Timers, resumption: Resumption, condemned: Condemned
    ) -> None:
        self._resumption = resumption
        self._condemned = condemned
        self._queue = queue
        self._events = events
        self._remedies = remedies
        self._timers = timers

    def __repr__(self) -> str:
        return f"<Deaths {self._remedies!r}>"

    def take(self, model: ManagedModel, instance: Instance, was: State, stderr_tail: Sequence[str]) -> None:
        """`was`: the state before its end."""
        if was is State.LOADING:
            self._take_load(model, instance, stderr_tail)
        else:
            self._take_server(model, instance, was, stderr_tail)

    def note_answer(self, model: ManagedModel, instance: Instance) -> bool:
        """A request has ended. True: it ended well after a remedy for a crash, and this remedy is new for all models."""
        if instance.has_answered and not instance.has_retries:
            model.num_deaths = 0
        code = model.crash_code
        if code is None or not instance.has_answered or instance.remedy != model.remedy or instance.has_retries:
            return False
        model.crash_code = None
        cause = f"model {model.spec.id}: its worker {describe_exit(code)}"
        return code in _CPU_FAULTS and self._remedies.learn(model.remedy, cause, is_certain=code == -signal.SIGILL)

    # ------------------------------------------------------------ while it loaded

    def _take_load(self, model: ManagedModel, instance: Instance, stderr_tail: Sequence[str]) -> None:
        spec, cause, exit_code = instance.spec, instance.cause_of_death, instance.process.exit_code
        has_said_why = instance.failure is not None or instance.process.broke_protocol is not None
        if not has_said_why and model.note_sudden_end(instance.has_begun):
            remedy = self._try_remedy(model, instance) if exit_code == -signal.SIGILL else None
            self._tell_of_retry(spec.id, cause, "another worker loads it", remedy)
            if not model.is_wanted and not self._queue.is_closed:  # a load without a request, see Waiter.wants_lease
                self._queue.add(model, Waiter(wants_lease=False), self._timers.now())
        elif has_said_why or instance.has_begun:
            self._tell(model, instance, stderr_tail)
            model.note_failed_load(self._timers.now())
            is_killed = exit_code in _FROM_OUTSIDE and not has_said_why
            model.failure_kind = LoadPostponed if is_killed else instance.failure_kind
            metrics.load_failed(spec.id)
            self._queue.refuse_all(model, model.failure_kind(spec.id, cause, exit_code, stderr_tail))
            self._events.failed(spec.id, exit_code, cause, stderr_tail)
        else:
            log.error("%s: no worker could be started for it: %s", spec.id, cause, extra={"model": spec.id, "event": "no_worker"})
            error = Unavailable(f"no worker could be started for model '{spec.id}' ({cause}); try again", model=spec.id)
            self._queue.refuse_all(model, error)
            self._events.unloaded(spec.id, "crash")

    # ------------------------------------------------------------ after the load

    def _take_server(self, model: ManagedModel, instance: Instance, was: State, stderr_tail: Sequence[str]) -> None:
        spec, cause, exit_code = instance.spec, instance.cause_of_death, instance.process.exit_code
        metrics.died(spec.id)
        metrics.evicted(spec.id, "crash")
        is_first_decode = instance.is_killed_by_first_decode()
        remedy = self._try_remedy(model, instance) if is_first_decode else None
        verdict = self._judge(instance, was, remedy)
        is_unseen = not (verdict.lost or verdict.guilty) and (remedy is not None or bool(verdict.again and not instance.has_calls))
        if is_unseen:
            self._tell_of_retry(spec.id, cause, "its requests continue on another worker", remedy)
        else:
            self._tell(model, instance, stderr_tail)
            if is_first_decode:
                model.note_no_cure(remedy)
        self._continue(model, verdict.again, is_unseen=remedy is not None)
        for stream in verdict.lost:
            fail_sink(stream.sink, WorkerDied(f"model {spec.id} has crashed: {cause}", stderr_tail))
        for stream in verdict.guilty:
            self._condemned.add(spec.id, stream.generate)
            error = WorkerDied(f"model {spec.id} has crashed: {cause}", stderr_tail)
            fail_sink(stream.sink, error if is_first_decode else KillsWorkers(spec.id, cause, stderr_tail))
        if is_unseen:
            self._events.unloaded(spec.id, "crash")
        else:
            self._events.failed(spec.id, exit_code, cause, stderr_tail)

    def _judge(self, instance: Instance, was: State, remedy: Remedy | None) -> Verdict:
        process = instance.process
        is_outside = process.exit_code in _FROM_OUTSIDE or instance.has_lost_server
        is_fault = not is_outside or process.broke_protocol is not None or instance.failure is not None
        num_stuck = NUM_STUCK + 1 if remedy is not None else NUM_STUCK if is_fault else NUM_STUCK_OUTSIDE
        may_continue = (was is not State.STOPPING or instance.has_successor) and not self._queue.is_closed
        works = instance.works
        unharmed, latest = self._resumption.take(instance)
        streams, now = instance.take_streams(), self._timers.now()
        verdict = judge(streams, now, num_stuck=num_stuck, is_fault=is_fault, may_continue=may_continue, latest=latest)
        (verdict.again if may_continue else verdict.lost).extend(unharmed)
        for stream in verdict.again:
            stream.has_worked |= works
            stream.is_suspect &= remedy is None  # otherwise the CPU is the suspect
        return verdict

    def _continue(self, model: ManagedModel, streams: list[WorkerStream], *, is_unseen: bool) -> None:
        """On the next worker. `is_unseen`: another cause than the requests has been found, so there is no pause."""
        now = self._timers.now()
        wait_again(self._queue, model, streams, now)
        if not is_unseen:
            model.note_death(now, MEMORY_S)

    # ------------------------------------------------------------ both

    def _try_remedy(self, model: ManagedModel, instance: Instance) -> Remedy | None:
        """Choose what the next load does differently. None: all remedies have been tried."""
        remedy = instance.remedy.next()
        if remedy is not None:
            model.remedy, model.crash_code = remedy, instance.process.exit_code
        return remedy

    def _tell_of_retry(self, model_id: str, cause: str, what: str, remedy: Remedy | None) -> None:
        """No client has noticed the crash so far."""
        how = f"the next try is {remedy}" if remedy is not None else what
        log.warning("%s: %s; %s", model_id, cause, how, extra={"model": model_id, "event": "retry"})

    def _tell(self, model: ManagedModel, instance: Instance, stderr_tail: Sequence[str]) -> None:
        """Write it to the log and to the model's status."""
        model_id, cause, exit_code = instance.spec.id, instance.cause_of_death, instance.process.exit_code
        log.error("%s: %s", model_id, cause, extra={"model": model_id, "event": "failed", "exit_code": exit_code})
        for line in stderr_tail[-NUM_LINES:]:
            if line not in cause and cause not in line:
                log.info("%s: | %s", model_id, line, extra={"model": model_id, "event": "worker_line"})
        model.note_end(cause, exit_code, stderr_tail)
