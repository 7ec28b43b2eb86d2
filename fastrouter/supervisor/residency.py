"""Who is resident: queue, leases, loads, evictions, crashes. Everything that changes asks `planner.plan` and performs its answer here: the
one place where instances start and end. Knows no request's life, see supervisor.py.

Invariant: one entry per model; a model has at most one instance; a lease always belongs to a live one, or its holder is told.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from fastrouter import metrics
from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.errors import FastrouterError, ModelNotLoaded, Unavailable, WorkerDied
from fastrouter.ipc.messages import Notice
from fastrouter.supervisor import snapshot
from fastrouter.supervisor.deaths import Deaths
from fastrouter.supervisor.decide.planner import Limits, next_change, plan
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.events import Event, Events
from fastrouter.supervisor.idle_watch import IdleWatch
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.managed_model import ManagedModel, Waiter
from fastrouter.supervisor.memory_ledger import Memory
from fastrouter.supervisor.next_model import next_model
from fastrouter.supervisor.queue import Queue
from fastrouter.supervisor.remedies import Remedies
from fastrouter.supervisor.timers import Timers
from fastrouter.supervisor.workers.fork_server import ForkServer
from fastrouter.supervisor.workers.instance import Instance, fail_sink
from fastrouter.supervisor.workers.process import adopt_orphans, describe_exit, reap_unknown
from fastrouter.supervisor.workers.spare import Spares
from fastrouter.supervisor.workers.worker_log import Logs
from fastrouter.system.machine import available_bytes

log = logging.getLogger("fastrouter.supervisor")

END_TIMEOUT_S = 5.0
REAP_DELAY_S = 0.2  # a process that was never up may outlive its wire by a moment
SPARE_DELAY_S = 0.15  # the next spare starts this long after a load: the first token comes first
SAVE_DELAY_S = 5.0  # what loads have shown is written this long after one


class Residency:
    def __init__(self, config: Config, fork_server_command: list[str] | None, on_event: Callable[[Event], None] | None) -> None:
        self._loop = asyncio.get_running_loop()
        self.memory = Memory(config)
        self.entries: dict[str, ManagedModel] = {}
        self.queue = Queue()
        self.feed = Events(on_event)
        self.logs = Logs()
        self._verbosity = config.verbosity
        self.timers = Timers()
        self.is_stopping = False
        self.remedies = Remedies()
        self._deaths = Deaths(self, self.remedies)
        self._is_rebalancing = False
        self._evicted_at = -1.0  # the last time that a model had to leave for another
        self._spares = Spares(ForkServer(fork_server_command, config.poll), self._reap_ended)
        self._idle = IdleWatch(self.timers, lambda: snapshot.idle(self.entries.values()), self._end_idle, self._put_to_sleep)

    def __repr__(self) -> str:
        return f"<Residency {self.instances()} {self.queue}>"

    # ------------------------------------------------------------ life

    def start(self) -> None:
        adopt_orphans()
        self.memory.measures.use(self.remedies.known)
        self._spares.start()
        self._prime()

    async def stop(self) -> None:
        """End all processes at once."""
        for instance in self.instances():
            instance.kill()
        self._spares.stop()
        deadline = self._loop.time() + END_TIMEOUT_S
        while (self.instances() or not self._spares.is_empty) and self._loop.time() < deadline:
            await asyncio.sleep(0.005)
        self._spares.close()
        for instance in self.instances():
            instance.process.close()
        deadline = self._loop.time() + REAP_DELAY_S
        while reap_unknown(set()) and self._loop.time() < deadline:
            await asyncio.sleep(0.005)
        self.timers.close()
        self._save()

    def instances(self) -> list[Instance]:
        return [entry.instance for entry in self.entries.values() if entry.instance is not None]

    def entry(self, spec: ModelSpec) -> ManagedModel:
        spec = spec.runner
        entry = self.entries.get(spec.id)
        if entry is None:
            entry = self.entries[spec.id] = ManagedModel(spec)
        entry.spec = spec
        return entry

    def renew(self, find: Callable[[str], ModelSpec | None]) -> None:
        """What is known here follows the catalog."""
        for entry in self.entries.values():
            entry.spec = find(entry.spec.id) or entry.spec
            self.may_be_idle(entry)
        self.rebalance()

    # ------------------------------------------------------------ queue

    def enqueue(self, entry: ManagedModel, waiter: Waiter) -> None:
        """Followed by a rebalance."""
        self.queue.add(entry, waiter, time.monotonic())

    def refuse_waiters(self, entry: ManagedModel, error: FastrouterError) -> None:
        for waiter in self.queue.take_all(entry):
            self.refuse(waiter, error)

    def refuse(self, waiter: Waiter, error: FastrouterError) -> None:
        if waiter.lease is not None:
            for stream in list(waiter.lease.resubmitted):
                fail_sink(stream.sink, error)
        elif not waiter.future.done():
            waiter.future.set_exception(error)

    # ------------------------------------------------------------ the one performer

    def rebalance(self) -> None:
        if self._is_rebalancing or self.is_stopping:
            return
        self._is_rebalancing = True
        try:
            self._perform()
        finally:
            self._is_rebalancing = False

    def _perform(self) -> None:
        """Until a plan has nothing left to do: what it grants or refuses may change the next one."""
        while self.queue:
            waiting = snapshot.waiting(self.queue, self.memory.measures)
            residents = snapshot.residents(self.entries.values(), self.memory.measures)
            limits, now = self.limits(), time.monotonic()
            decided = plan(waiting, residents, limits, now)
            for model_id, why in decided.refuse.items():
                self.refuse_waiters(self.entries[model_id], self.memory.refusal(self.entries[model_id].spec, why, limits))
            for model_id, scarce in decided.evict.items():
                self._evict(self.entries[model_id], scarce)
            for model_id in decided.start:
                self._start(self.entries[model_id])
            for model_id in decided.grant:
                self._grant(self.entries[model_id])
            self._set_draining(decided.drain)
            if not (decided.evict or decided.start or decided.grant or decided.refuse):
                self.timers.at("plan", next_change(waiting, residents, limits, now), self.rebalance)
                return
        self._set_draining([])

    def limits(self) -> Limits:
        """What all models may take at this moment."""
        return self.memory.limits(self.entries.values(), self._spares.pid)

    def _running(self, model_id: str) -> Instance:
        instance = self.entries[model_id].instance
        assert instance is not None
        return instance

    def _set_draining(self, model_ids: list[str]) -> None:
        for instance in self.instances():
            if instance.state is State.LOADED and instance.spec.id in model_ids:
                instance.advance(State.DRAINING)
            elif instance.state is State.DRAINING and instance.spec.id not in model_ids:
                instance.advance(State.LOADED)

    def _grant(self, entry: ManagedModel) -> None:
        instance = self._running(entry.spec.id)
        for waiter in self.queue.take_all(entry):
            if waiter.lease is not None:
                if not waiter.lease.is_released:
                    self._use(instance)
                    waiter.lease.move_to(instance)
            elif not waiter.future.done():
                waiter.future.set_result(self.lend(instance) if waiter.wants_lease else None)

    def lend(self, instance: Instance) -> Lease:
        self._use(instance)
        return Lease(self, instance)

    def _use(self, instance: Instance) -> None:
        instance.lend()
        if instance.num_leases == 1:
            self._share_cores()

    def _share_cores(self) -> None:
        busy = [instance for instance in self.instances() if instance.num_leases]
        for instance in busy:
            instance.share_cores(len(busy))

    def take_back(self, instance: Instance) -> None:
        """A lease's release."""
        instance.take_back()
        if self._deaths.note_answer(self.entries[instance.spec.id], instance):
            self.memory.measures.use(self.remedies.known)
            self._save_later()
        if not instance.num_leases:
            self._share_cores()
            self._loop.call_soon(self._spares.make)  # nothing is slowed down by it now
            self.may_be_idle(self.entries[instance.spec.id])
        if instance.state is State.STOPPING and not instance.num_leases:
            self._kill(instance)
        if self.queue:
            self._loop.call_soon(self.rebalance)  # not now: the caller is in the middle of its answer

    def forget(self, lease: Lease) -> None:
        """A lease that was released while it waited for a fresh worker."""
        self.queue.remove_lease(lease)

    # ------------------------------------------------------------ idle models

    def keep_alive(self, instance: Instance, seconds: float) -> None:
        """What a request says, until the instance ends."""
        self.entries[instance.spec.id].keep_alive_s = seconds

    def may_be_idle(self, entry: ManagedModel) -> None:
        """It serves nobody now, or sleeps."""
        if snapshot.has_idle_rule(entry):
            self._idle.watch()

    def _end_idle(self, model_id: str) -> None:
        self.entries[model_id].has_expired = True
        self.end(self.entries[model_id], "ttl")

    def _put_to_sleep(self, model_id: str) -> None:
        """Its process ends, its memory is free; the model keeps its place."""
        entry, instance = self.entries[model_id], self._running(model_id)
        entry.is_asleep, entry.has_expired, entry.meta = True, True, instance.meta
        instance.kill()
        self.feed.sleeping(model_id)
        metrics.evicted(model_id, "sleep")

    def _forget_sleeper(self, entry: ManagedModel, reason: str) -> None:
        entry.is_asleep = False
        self.feed.unloaded(entry.spec.id, reason)  # not in the memory since it sleeps, so there is nothing to count

    # ------------------------------------------------------------ loads

    def _start(self, entry: ManagedModel) -> None:
        """Give the model to the spare."""
        try:
            process = self._spares.take()
        except (FastrouterError, OSError) as error:  # no descriptors, no fork server: nothing of the model's
            self.refuse_waiters(entry, Unavailable(f"model '{entry.spec.id}' cannot be loaded now: {error}", model=entry.spec.id))
            return
        entry.forget_end()
        entry.is_asleep = entry.has_expired = False
        entry.begin_load(has_evicted=self._evicted_at >= entry.since)
        instance = entry.instance = Instance(entry.spec, self.memory.measures.need(entry.spec), process, self._changed, self._noticed)
        instance.unmapped_bytes = self.memory.measures.unmapped_bytes(entry.spec)
        process.on_exit = lambda: self._ended_instance(entry, instance)
        process.tell(self.logs.of(entry.spec.id).begin(process.pid))
        self.memory.make_way(self.instances(), self.limits())
        instance.load(self.remedies.known.joined(entry.remedy), self._verbosity)
        for waiter in self.queue.take_where(entry, wants_lease=False):
            if not waiter.future.done():
                waiter.future.set_result(None)
        ends_at = time.monotonic() + entry.spec.load_timeout_s if entry.spec.load_timeout_s else None
        self.timers.at(entry.load_timer, ends_at, lambda: self._end_load(instance))
        self.feed.loading(entry.spec.id, 0.0)

    def _end_load(self, instance: Instance) -> None:
        if instance.state is State.LOADING:
            instance.give_up_load(f"it was not ready after {instance.spec.load_timeout_s:g} s (load-timeout)")

    def _changed(self, instance: Instance) -> None:
        """Progress, or Ready."""
        model_id = instance.spec.id
        if instance.state is State.LOADING:
            self.feed.loading(model_id, instance.progress or 0.0)
            return
        entry = self.entries[model_id]
        self.timers.cancel(entry.load_timer)
        entry.note_load()
        metrics.loaded(model_id, entry.end_load())
        self.memory.learn(instance, self.instances())
        self._save_later()
        self.rebalance()
        self.feed.loaded(model_id, instance.meta)
        self._prime()
        self.timers.after(SPARE_DELAY_S, self._spares.make)
        self.may_be_idle(entry)

    def _save_later(self) -> None:
        self.timers.at("save", time.monotonic() + SAVE_DELAY_S, self._save_aside)

    def _save_aside(self) -> None:
        """In a thread: the disk may be slow."""
        self._loop.run_in_executor(None, self._save)

    def _save(self) -> None:
        """Blocks for as long as the disk does."""
        self.memory.save()
        self.remedies.save()

    def _noticed(self, instance: Instance, notice: Notice) -> None:
        log.warning("%s: %s", instance.spec.id, notice.text, extra={"model": instance.spec.id, "event": "notice"})

    # ------------------------------------------------------------ ends

    def end(self, entry: ManagedModel, reason: str) -> bool:
        """False when there is nothing to end."""
        if entry.is_asleep:
            self._forget_sleeper(entry, reason)
            return True
        if entry.instance is None or entry.instance.state is State.DYING:
            return False
        self._stop_instance(entry.instance, reason)
        return True

    def _evict(self, entry: ManagedModel, scarce: str) -> None:
        self._evicted_at = time.monotonic()
        if entry.is_asleep:
            self._forget_sleeper(entry, scarce)
        elif entry.instance is not None:
            self._kill(entry.instance, scarce)

    def _stop_instance(self, instance: Instance, reason: str) -> None:
        if instance.state is State.STOPPING:
            return
        instance.leave_reason = reason
        if instance.state is State.LOADING:
            self.refuse_waiters(self.entries[instance.spec.id], Unavailable("the model was unloaded while it was loading"))
        if instance.state is State.LOADING or not instance.num_leases:
            self._kill(instance)
            return
        instance.advance(State.STOPPING)
        self.timers.after(instance.spec.stop_timeout_s, lambda: self._stop_now(instance))

    def _stop_now(self, instance: Instance) -> None:
        """The time to finish is over."""
        if instance.state is State.STOPPING:
            for stream in instance.take_streams():
                fail_sink(stream.sink, Unavailable("the model is being unloaded"))
            if instance.state is State.STOPPING:
                self._kill(instance)

    def _kill(self, instance: Instance, reason: str | None = None) -> None:
        """A worker keeps nothing worth saving once its leases are gone, so it gets no chance to linger."""
        instance.kill()
        reason = reason or instance.leave_reason
        self.feed.unloaded(instance.spec.id, reason)
        metrics.evicted(instance.spec.id, reason)

    def _ended_instance(self, entry: ManagedModel, instance: Instance) -> None:
        """The process is reaped and everything it said has been delivered."""
        self._reap_ended()
        self.timers.cancel(entry.load_timer)
        entry.instance = None
        entry.end_load()
        entry.keep_alive_s = None
        was = instance.state
        how = None if was is State.DYING else describe_exit(instance.process.exit_code)
        stderr_tail = self.logs.of(entry.spec.id).end(instance.process.pid, how)
        if was is not State.DYING:
            self._deaths.take(entry, instance, was, stderr_tail)
        for stream in instance.take_streams():
            fail_sink(stream.sink, Unavailable("the model was unloaded"))
        for waiter in self.queue.take_where(entry, can_start=False) if not entry.is_wanted else ():
            self.refuse(waiter, ModelNotLoaded(entry.spec.id))
        instance.fail_calls(WorkerDied(f"the model {instance.spec.id} is gone: {instance.cause_of_death}", stderr_tail))
        self.timers.after(SPARE_DELAY_S, self._spares.make)
        entry.last_used = instance.last_used
        self.may_be_idle(entry)
        self._prime()
        self.rebalance()

    def _prime(self) -> None:
        self._spares.prime(next_model(self.entries.values(), available_bytes(), self.remedies.known))

    def _reap_ended(self) -> None:
        """A process has ended, or is about to."""
        self._reap()
        self.timers.after(REAP_DELAY_S, self._reap)

    def _reap(self) -> None:
        pids = [*self._spares.pids, *(instance.process.pid for instance in self.instances())]
        reap_unknown({pid for pid in pids if pid is not None})
