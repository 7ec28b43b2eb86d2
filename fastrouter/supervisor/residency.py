"""Performs the plan: asks `planner.plan` after every change, and does what it answers. Only this file starts and ends instances. The life
of a request is in supervisor.py.

Invariant: a model has at most one instance; a lease belongs to a live instance, or its holder gets an error. Only this file and the objects
that it owns change an instance.
"""

import logging
from collections.abc import Callable

from fastrouter import metrics
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import FastrouterError, ModelNotLoaded, Unavailable, WorkerDied
from fastrouter.ipc.messages import Notice
from fastrouter.supervisor import snapshot
from fastrouter.supervisor.ahead_loads import AheadLoads
from fastrouter.supervisor.deaths import Deaths
from fastrouter.supervisor.decide.planner import Limits, Plan, next_change, plan
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.departures import Departures
from fastrouter.supervisor.events import Events
from fastrouter.supervisor.foresight import Foresight
from fastrouter.supervisor.idle_watch import IdleWatch
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.managed_model import ManagedModel, ManagedModels, Waiter
from fastrouter.supervisor.memory_ledger import Memory
from fastrouter.supervisor.parking import Parking
from fastrouter.supervisor.queue import Queue
from fastrouter.supervisor.remedies import Remedies
from fastrouter.supervisor.resume import Condemned, Resumption
from fastrouter.supervisor.succession import Succession
from fastrouter.supervisor.timers import Timers
from fastrouter.supervisor.workers.hang_watch import HangWatch
from fastrouter.supervisor.workers.instance import Instance
from fastrouter.supervisor.workers.process import describe_exit
from fastrouter.supervisor.workers.spare import Spares
from fastrouter.supervisor.workers.stream import WorkerStream
from fastrouter.supervisor.workers.worker_log import Logs

log = logging.getLogger("fastrouter.supervisor")

END_TIMEOUT_S = 5.0
FAILED_GRACE_S = 2.0  # a worker that has reported why it cannot load ends by itself
SPARE_DELAY_S = 0.15  # the next spare starts this long after a load, because the first token is more important
SAVE_DELAY_S = 5.0  # results of a load are written this long after it


class Residency:
    def __init__(
        self,
        models: ManagedModels,
        queue: Queue,
        memory: Memory,
        parking: Parking,
        spares: Spares,
        timers: Timers,
        events: Events,
        logs: Logs,
        foresight: Foresight,
        verbosity: int,
        *,
        is_confined: bool,
        hang_timeout_s: float,
        on_gone: Callable[[str, float], None] = lambda model_id, took_s: None,
    ) -> None:
        """`on_gone` is called when the process of a model that has left has ended, with the time that this took."""
        self._models = models
        self._queue = queue
        self._memory = memory
        self._parking = parking
        self._spares = spares
        self._timers = timers
        self._events = events
        self._logs = logs
        self._foresight = foresight
        self._foresight.on_change = self._prime
        self._verbosity = verbosity
        self._is_confined = is_confined
        self.ahead = AheadLoads(models, queue, memory, spares, timers, foresight, self._start, self._limit_load)
        self._departures = Departures(queue, memory, parking, timers, on_gone)
        self._remedies = Remedies()
        self._resumption = Resumption(timers)
        self.condemned = Condemned(timers)
        self._deaths = Deaths(queue, events, self._remedies, timers, self._resumption, self.condemned)
        self._succession = Succession(queue, timers, self._resumption)
        self._idle = IdleWatch(timers, lambda: snapshot.idle(models), self._end_idle, self._put_to_sleep)
        self._hangs = HangWatch(timers, hang_timeout_s, models.instances)
        self._plan = Plan()  # the latest plan
        self._is_rebalancing = False
        self._evicted_at = -1.0  # the last time that one model was evicted for another

    def __repr__(self) -> str:
        return f"<Residency {self._models} {self._queue}>"

    # ------------------------------------------------------------ start and stop

    def start(self) -> None:
        self._memory.measures.use(self._remedies.known)
        self._parking.start()
        self._spares.start()
        self._prime()

    async def stop(self) -> None:
        """End all processes, even busy ones."""
        await self._departures.write_all(self._models.instances())
        for instance in self._models.instances():
            instance.kill()
        self._foresight.stop()
        await self._spares.stop(END_TIMEOUT_S)
        self._timers.close()
        self._parking.close()
        self._save()

    # ------------------------------------------------------------ performing the plan

    def rebalance(self) -> None:
        """The queue or the set of loaded models has changed."""
        if self._is_rebalancing or self._queue.is_closed:
            return
        self.ahead.claim_wanted()
        self._is_rebalancing = True
        try:
            self._perform()
        finally:
            self._is_rebalancing = False

    def reconsider(self) -> None:
        """The rules for models have changed: pins, times, sizes."""
        self._idle.watch()
        self.rebalance()

    def position(self, model: ManagedModel) -> int:
        """The place of a model among those that wait, in the order in which they start, from 1; 0: it does not wait."""
        order = self._plan.order
        return order.index(model.spec.id) + 1 if model.spec.id in order else 0

    def _perform(self) -> None:
        """Repeat until a plan has nothing more to do: what it grants or refuses may change the next plan."""
        limits, now = self._memory.limits(), self._timers.now()
        while self._queue:
            waiting = snapshot.waiting(self._queue, self._memory.measures, now)
            residents = snapshot.residents(self._models, self._memory.measures)
            decided = self._plan = plan(waiting, residents, limits, now)
            self._do(decided, limits)
            if not (decided.evict or decided.start or decided.grant or decided.refuse):
                self._timers.at("plan", next_change(waiting, residents, limits, now), self.rebalance)
                return
        self._plan = Plan()
        self._set_draining([])

    def _do(self, decided: Plan, limits: Limits) -> None:
        models = self._models
        for model_id, why in decided.refuse.items():
            self._queue.refuse_all(models[model_id], self._memory.refusal(models[model_id].spec, why, limits))
        for model_id, scarce in decided.evict.items():
            self._evict(models[model_id], scarce)
        for model_id in decided.start:
            self._start(models[model_id])
        for model_id in decided.grant:
            self._grant(models[model_id])
        self._set_draining(decided.drain)

    def _set_draining(self, model_ids: list[str]) -> None:
        for instance in self._models.instances():
            if instance.state is State.LOADED and instance.spec.id in model_ids:
                instance.advance(State.DRAINING)
            elif instance.state is State.DRAINING and instance.spec.id not in model_ids:
                instance.advance(State.LOADED)

    def _grant(self, model: ManagedModel) -> None:
        instance = _instance_of(model)
        resumed: list[WorkerStream] = []
        for waiter in self._queue.take_all(model):
            if waiter.lease is not None:
                if not waiter.lease.is_released:
                    self._use(instance)
                    waiter.lease.move_to(instance)
                    resumed += waiter.lease.resumed
            elif waiter.is_awaited:
                waiter.resolve(self.lend(instance) if waiter.wants_lease else None)
        if resumed:
            self._resumption.start(instance, resumed)

    # ------------------------------------------------------------ leases

    def lend(self, instance: Instance) -> Lease:
        self._use(instance)
        return Lease(self, instance)

    def _use(self, instance: Instance) -> None:
        self.ahead.note_use(instance)
        instance.lend()
        if instance.num_leases == 1:
            self._share_cores()

    def _share_cores(self) -> None:
        busy = [instance for instance in self._models.instances() if instance.num_leases]
        for instance in busy:
            instance.share_cores(len(busy))

    def take_back(self, instance: Instance) -> None:
        """For the release of a lease."""
        instance.take_back()
        self._resumption.note_release(instance)
        model = self._models[instance.spec.id]
        if self._deaths.note_answer(model, instance):
            self._memory.measures.use(self._remedies.known)
            self._save_later()
        if not instance.num_leases:
            self._share_cores()
            self._timers.soon(self._spares.make)  # no request is slowed down by it now
            self.ahead.look_later()
            self._may_be_idle(model)
        if instance.state is State.STOPPING and not instance.num_leases:
            self._kill(instance)
        if self._queue:
            self._timers.soon(self.rebalance)  # not now: the caller is still busy with its answer

    def queue(self, lease: Lease, model_id: str) -> None:
        """The lease needs a new worker. Raises Unavailable."""
        self._queue.check_open()
        self._queue.add(self._models[model_id], Waiter(lease=lease), self._timers.now())
        self._timers.soon(self.rebalance)

    def forget(self, lease: Lease) -> None:
        """The lease was released while it waited for a new worker."""
        self._queue.remove_lease(lease)
        self._timers.soon(self.rebalance)

    def keep_alive(self, instance: Instance, seconds: float) -> None:
        """Set by a request, until the instance ends."""
        self._models[instance.spec.id].keep_alive_s = seconds

    # ------------------------------------------------------------ idle models

    def _may_be_idle(self, model: ManagedModel) -> None:
        """The model has no request now, or sleeps."""
        if snapshot.has_idle_rule(model):
            self._idle.watch()

    def _end_idle(self, model_id: str) -> None:
        self._models[model_id].has_expired = True
        self.end(self._models[model_id], "ttl")

    def _put_to_sleep(self, model_id: str) -> None:
        """The process ends and its memory is free; the model keeps its place."""
        model = self._models[model_id]
        instance = _instance_of(model)
        model.is_asleep, model.has_expired, model.meta = True, True, instance.meta
        self._departures.leave(instance)
        self._events.sleeping(model_id)
        metrics.evicted(model_id, "sleep")

    def _forget_sleeper(self, model: ManagedModel, reason: str) -> None:
        model.is_asleep = False
        self._events.unloaded(model.spec.id, reason)  # it was asleep, so this is not counted as an eviction

    # ------------------------------------------------------------ loads

    def _start(self, model: ManagedModel, *, is_ahead: bool = False) -> None:
        """Give the model to the spare."""
        try:
            process = self._spares.take()
        except (FastrouterError, OSError) as error:  # no descriptors or no fork server: the model is not the cause
            cause = f"model '{model.spec.id}' cannot be loaded now: {error}"
            self._queue.refuse_all(model, Unavailable(cause, model=model.spec.id))
            return
        now, spec, measures = self._timers.now(), model.spec, self._memory.measures
        model.forget_end()
        model.is_asleep = model.has_expired = model.is_sent_away = False
        model.begin_load(now, has_evicted=self._evicted_at >= model.since)
        need, clock = measures.need(spec), self._timers.now
        instance = Instance(spec, need, process, clock, self._changed, self._noticed, self._parking.take)
        model.instance = instance
        instance.is_ahead = is_ahead
        instance.unmapped_bytes = measures.unmapped_bytes(spec)
        instance.on_work = self._hangs.watch
        process.on_exit = lambda: self._ended_instance(model, instance)
        process.tell(self._logs.of(spec.id).begin(process.pid))
        if not is_ahead:
            self._memory.make_way()
            self._limit_load(model, instance)
        remedy, limit = self._remedies.known.joined(model.remedy), self._memory.host_limit_bytes
        instance.load(remedy, self._verbosity, is_confined=self._is_confined, host_limit_bytes=limit)
        self._timers.soon(lambda: self._parking.lend(instance))  # not now: it must not delay the load
        for waiter in self._queue.take_where(model, wants_lease=False):
            waiter.resolve(None)
        self._hangs.watch()
        self._events.loading(spec.id, 0.0)

    def _limit_load(self, model: ManagedModel, instance: Instance) -> None:
        limit_s = instance.spec.load_timeout_s
        self._timers.at(model.load_timer, self._timers.now() + limit_s if limit_s else None, lambda: self._end_load(instance))

    def _end_load(self, instance: Instance) -> None:
        if instance.state is State.LOADING:
            instance.give_up_load(f"it was not ready after {instance.spec.load_timeout_s:g} s (load-timeout)")

    def _changed(self, instance: Instance) -> None:
        """The load has made progress, or has ended."""
        if instance.state is not State.LOADING:
            self._loaded(instance)
        elif instance.failure is not None:
            self._timers.after(FAILED_GRACE_S, instance.process.kill)
        else:
            self._events.loading(instance.spec.id, instance.progress or 0.0)

    def _loaded(self, instance: Instance) -> None:
        model = self._models[instance.spec.id]
        self._timers.cancel(model.load_timer)
        model.note_load()
        metrics.loaded(model.spec.id, self.ahead.note_load(instance, model.end_load(self._timers.now())))
        model.num_changes = 0
        self._memory.learn(instance)
        self._save_later()
        self.rebalance()
        self._events.loaded(model.spec.id, instance.meta)
        self._timers.soon(self._prime)  # the requests that waited go first
        self._timers.after(SPARE_DELAY_S, self._spares.make)
        self._may_be_idle(model)

    def _save_later(self) -> None:
        self._timers.at("save", self._timers.now() + SAVE_DELAY_S, lambda: self._timers.aside(self._save))

    def _save(self) -> None:
        """Blocks until it is written to disk."""
        self._memory.save()
        self._remedies.save()

    def _noticed(self, instance: Instance, notice: Notice) -> None:
        level = logging.INFO if notice.level == "info" else logging.WARNING
        log.log(level, "%s: %s", instance.spec.id, notice.text, extra={"model": instance.spec.id, "event": "notice"})

    def _prime(self) -> None:
        self.ahead.look_later()
        self._spares.prime(self._foresight.prepare(self._remedies.known))

    # ------------------------------------------------------------ ends

    def end(self, model: ManagedModel, reason: str) -> bool:
        """False: there was nothing to end."""
        if model.is_asleep:
            self._forget_sleeper(model, reason)
            return True
        if model.instance is None or model.instance.state is State.DYING:
            return False
        self._stop_instance(model.instance, reason)
        return True

    def replace(self, model: ManagedModel, spec: ModelSpec | None) -> None:
        """Its source is now this; None: it has vanished. A rebalance follows."""
        self._succession.prepare(model, spec)
        self.end(model, "reload")

    def _evict(self, model: ManagedModel, scarce: str) -> None:
        self._evicted_at = self._timers.now()
        if model.is_asleep:
            self._forget_sleeper(model, scarce)
        else:
            self._kill(_instance_of(model), scarce)

    def _stop_instance(self, instance: Instance, reason: str) -> None:
        instance.has_successor &= reason == "reload"
        if instance.state is State.STOPPING:
            return
        instance.leave_reason = reason
        if instance.state is State.LOADING and reason == "unload":
            self._queue.refuse_all(self._models[instance.spec.id], Unavailable("the model was unloaded while it was loading"))
        if instance.state is State.LOADING or not instance.num_leases:
            self._kill(instance)
            return
        instance.advance(State.STOPPING)
        self._timers.after(instance.spec.stop_timeout_s, lambda: self._stop_now(instance))

    def _stop_now(self, instance: Instance) -> None:
        """The time to finish is over."""
        if instance.state is State.STOPPING:
            self._succession.end_streams(self._models[instance.spec.id], instance, "the model is being unloaded")
            if instance.state is State.STOPPING:
                self._kill(instance)

    def _kill(self, instance: Instance, reason: str | None = None) -> None:
        self._departures.leave(instance, frees_first=reason == "memory")
        reason = reason or instance.leave_reason
        self._events.unloaded(instance.spec.id, reason)
        metrics.evicted(instance.spec.id, reason)

    def _ended_instance(self, model: ManagedModel, instance: Instance) -> None:
        """The process has ended, and all its messages have been delivered."""
        self.ahead.note_end(instance)
        self._spares.reap()
        self._timers.cancel(model.load_timer)
        self._departures.note_end(instance)
        model.instance = None
        model.end_load(self._timers.now())
        model.keep_alive_s = None
        was = instance.state
        how = None if was is State.DYING else describe_exit(instance.process.exit_code)
        stderr_tail = self._logs.of(model.spec.id).end(instance.process.pid, how)
        if was is not State.DYING:
            self._deaths.take(model, instance, was, stderr_tail)
        self._succession.end_streams(model, instance, "the model was unloaded")
        self._timers.at(f"start {model.spec.id}", model.start_at or None, self.rebalance)
        for waiter in self._queue.take_where(model, can_start=False) if not model.is_wanted else ():
            waiter.refuse(ModelNotLoaded(model.spec.id))
        instance.fail_calls(WorkerDied(f"the worker of model {instance.spec.id} has ended: {instance.cause_of_death}", stderr_tail))
        self._timers.after(SPARE_DELAY_S, self._spares.make)
        model.last_used = instance.last_used
        self._may_be_idle(model)
        self.rebalance()
        self._timers.soon(self._prime)


def _instance_of(model: ManagedModel) -> Instance:
    assert model.instance is not None
    return model.instance
