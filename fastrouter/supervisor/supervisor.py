"""Keeps instances alive and decides who is resident: queue, leases, loads, evictions, crashes. Knows no HTTP.

Everything that changes calls `_rebalance`, which asks `planner.plan` and performs the answer: the one place where instances start and
end. Invariant: one entry per model; a model has at most one instance; a lease always belongs to a live one, or its holder is told.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from fastrouter.catalog import ModelSpec
from fastrouter.config import Config
from fastrouter.errors import FastrouterError, InvalidRequest, LoadFailed, ModelNotLoaded, Unavailable, WorkerDied
from fastrouter.machine import available_bytes
from fastrouter.messages import Notice
from fastrouter.supervisor.entry import Entry, Status, Waiter
from fastrouter.supervisor.feed import Event, Feed
from fastrouter.supervisor.forecast import forecast
from fastrouter.supervisor.instance import Instance, fail_sink
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.planner import PATIENCE_S, Resident, plan
from fastrouter.supervisor.process import Nursery, adopt_orphans, reap_unknown
from fastrouter.supervisor.queue import Queue
from fastrouter.supervisor.spares import Spares
from fastrouter.supervisor.state import State

__all__ = ["Event", "Status", "Supervisor"]

log = logging.getLogger("fastrouter.supervisor")

MAX_QUEUED = 512
END_TIMEOUT_S = 5.0
REAP_DELAY_S = 0.2  # a process that was never up may outlive its wire by a moment
SPARE_DELAY_S = 0.15  # the next spare starts this long after a load: the first token comes first


class Supervisor:
    """Starts with `start`, ends with `stop`; in between everything runs in the event loop's thread."""

    def __init__(
        self, config: Config, *, nursery_command: list[str] | None = None, on_event: Callable[[Event], None] | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._models_max = config.models_max
        self._spares = Spares(Nursery(nursery_command), self._reap)
        self._entries: dict[str, Entry] = {}
        self._queue = Queue()
        self._feed = Feed(on_event)
        self.subscribe = self._feed.subscribe
        self._is_rebalancing = False
        self._is_stopping = False
        self._timers: set[asyncio.TimerHandle] = set()

    def __repr__(self) -> str:
        return f"<Supervisor {self.instances()} {self._queue}>"

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        adopt_orphans()
        self._spares.start()
        self._prime()

    async def stop(self, timeout_s: float) -> None:
        """Refuse what waits, let leases end for `timeout_s`, then end all processes."""
        self._is_stopping = True
        for entry in self._queue.entries():
            self._refuse_waiters(entry, Unavailable("the server is stopping"))
        deadline = self._loop.time() + timeout_s
        while any(instance.num_leases for instance in self.instances()) and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
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
        for timer in self._timers:
            timer.cancel()

    def instances(self) -> list[Instance]:
        return [entry.instance for entry in self._entries.values() if entry.instance is not None]

    # ------------------------------------------------------------ what requests ask for

    def acquire_now(self, spec: ModelSpec) -> Lease | None:
        """A lease without waiting, where the model is loaded and admits."""
        entry = self._entries.get(spec.id)
        if entry is None or entry.instance is None or entry.instance.state is not State.LOADED or entry.waiters or self._is_stopping:
            return None
        return self._lend(entry.instance)

    async def acquire(self, spec: ModelSpec, autoload: bool) -> Lease:
        """A lease, after a load if need be. A caller that is cancelled leaves the queue. Raises LoadFailed, ModelNotLoaded, Unavailable."""
        lease = self.acquire_now(spec)
        if lease is not None:
            return lease
        entry = self._entry(spec)
        if not autoload and (entry.instance is None or entry.instance.state is State.DYING):
            raise ModelNotLoaded(spec.id)
        lease = await self._wait(entry, Waiter(self._loop.create_future(), can_start=autoload))
        assert lease is not None
        return lease

    async def load(self, spec: ModelSpec) -> None:
        """Returns once the load has begun. Raises InvalidRequest when the model runs already, LoadFailed, Unavailable."""
        entry = self._entry(spec)
        if entry.instance is not None and entry.instance.state is not State.DYING:
            raise InvalidRequest("model is already running", model=spec.id)
        await self._wait(entry, Waiter(self._loop.create_future(), can_start=True, wants_lease=False))

    def unload(self, model_id: str) -> None:
        """Stop admitting, finish what runs (at most the model's stop-timeout), end. Raises InvalidRequest when it does not run."""
        entry = self._entries.get(model_id)
        instance = entry.instance if entry else None
        if entry is None or instance is None or instance.state is State.DYING:
            raise InvalidRequest("model is not running", model=model_id)
        self._stop_instance(instance)

    def reload(self, changed: Iterable[str]) -> None:
        """These models' sources have changed or vanished: what runs of them ends, and old failures are forgotten."""
        for model_id in changed:
            entry = self._entries.get(model_id)
            if entry is None:
                continue
            entry.forget_failures()
            if entry.instance is not None and entry.instance.state is not State.DYING:
                self._stop_instance(entry.instance)

    def status(self, model_id: str) -> Status:
        entry = self._entries.get(model_id)
        return entry.status() if entry is not None else Status()

    # ------------------------------------------------------------ queue

    def _entry(self, spec: ModelSpec) -> Entry:
        entry = self._entries.get(spec.id)
        if entry is None:
            entry = self._entries[spec.id] = Entry(spec)
        entry.spec = spec
        return entry

    async def _wait(self, entry: Entry, waiter: Waiter) -> Lease | None:
        if self._is_stopping:
            raise Unavailable("the server is stopping")
        refusal = entry.refusal(self._loop.time())
        if refusal is not None:
            raise refusal
        if self._queue.num_waiters >= MAX_QUEUED:
            raise Unavailable(f"{MAX_QUEUED} requests are waiting for a model already")
        self._enqueue(entry, waiter)
        self._rebalance()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self._leave(entry, waiter)
            raise

    def _enqueue(self, entry: Entry, waiter: Waiter) -> None:
        """Followed by a rebalance."""
        if not entry.waiters:
            self._after(PATIENCE_S + 0.01, self._rebalance)
        self._queue.add(entry, waiter, self._loop.time())

    def _leave(self, entry: Entry, waiter: Waiter) -> None:
        """The client is gone: whatever it was about to get goes to others."""
        if self._queue.remove(entry, waiter):
            self._rebalance()
        elif waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
            lease = waiter.future.result()
            if lease is not None:
                lease.release()

    def _refuse_waiters(self, entry: Entry, error: FastrouterError) -> None:
        for waiter in self._queue.take_all(entry):
            self._refuse(waiter, error)

    def _refuse(self, waiter: Waiter, error: FastrouterError) -> None:
        if waiter.lease is not None:
            for stream in list(waiter.lease.resubmitted):
                fail_sink(stream.sink, error)
        elif not waiter.future.done():
            waiter.future.set_exception(error)

    # ------------------------------------------------------------ the one performer

    def _rebalance(self) -> None:
        if self._is_rebalancing or self._is_stopping:
            return
        self._is_rebalancing = True
        try:
            self._perform()
        finally:
            self._is_rebalancing = False

    def _perform(self) -> None:
        """Until a plan has nothing left to do: what it grants or refuses may change the next one."""
        while self._queue:
            residents = [Resident(i.spec.id, i.state, i.num_leases, i.last_used) for i in self.instances()]
            is_scarce = any(resident.state is State.DYING for resident in residents) or 0 < self._models_max <= len(residents)
            free = available_bytes() if is_scarce else 0
            decided = plan(self._queue.waiting(), residents, self._models_max, free, self._loop.time())
            for model_id in decided.evict:
                self._kill(self._running(model_id))
            for model_id in decided.start:
                self._start(self._entries[model_id])
            for model_id in decided.grant:
                self._grant(self._entries[model_id])
            self._set_draining(decided.drain)
            if not (decided.evict or decided.start or decided.grant):
                return
        self._set_draining([])

    def _running(self, model_id: str) -> Instance:
        instance = self._entries[model_id].instance
        assert instance is not None
        return instance

    def _set_draining(self, model_ids: list[str]) -> None:
        for instance in self.instances():
            if instance.state is State.LOADED and instance.spec.id in model_ids:
                instance.advance(State.DRAINING)
            elif instance.state is State.DRAINING and instance.spec.id not in model_ids:
                instance.advance(State.LOADED)

    def _grant(self, entry: Entry) -> None:
        instance = self._running(entry.spec.id)
        for waiter in self._queue.take_all(entry):
            if waiter.lease is not None:
                if not waiter.lease.is_released:
                    self._use(instance)
                    waiter.lease.move_to(instance)
            elif not waiter.future.done():
                waiter.future.set_result(self._lend(instance) if waiter.wants_lease else None)

    def _lend(self, instance: Instance) -> Lease:
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
        if not instance.num_leases:
            self._share_cores()
            self._loop.call_soon(self._spares.make)  # nothing is slowed down by it now
        if instance.state is State.STOPPING and not instance.num_leases:
            self._kill(instance)
        if self._queue:
            self._loop.call_soon(self._rebalance)  # not now: the caller is in the middle of its answer

    def forget(self, lease: Lease) -> None:
        """A lease that was released while it waited for a fresh worker."""
        self._queue.remove_lease(lease)

    # ------------------------------------------------------------ loads

    def _start(self, entry: Entry) -> None:
        """Give the model to the spare."""
        try:
            process = self._spares.take()
        except (FastrouterError, OSError) as error:
            self._refuse_waiters(entry, LoadFailed(entry.spec.id, str(error)))
            return
        entry.error = entry.exit_code = None
        instance = entry.instance = Instance(entry.spec, process, self._changed, self._noticed)
        process.on_exit = lambda: self._ended_instance(entry, instance)
        instance.load(safe_mode=entry.needs_safe_mode)
        for waiter in self._queue.take_where(entry, wants_lease=False):
            if not waiter.future.done():
                waiter.future.set_result(None)
        self._feed.loading(entry.spec.id, 0.0)

    def _changed(self, instance: Instance) -> None:
        """Progress, or Ready."""
        model_id = instance.spec.id
        if instance.state is State.LOADING:
            self._feed.loading(model_id, instance.progress or 0.0)
            return
        self._entries[model_id].note_load()
        self._rebalance()
        self._feed.loaded(model_id, instance.meta)
        self._prime()
        self._after(SPARE_DELAY_S, self._spares.make)

    def _noticed(self, instance: Instance, notice: Notice) -> None:
        log.warning("%s: %s", instance.spec.id, notice.text)

    # ------------------------------------------------------------ ends

    def _stop_instance(self, instance: Instance) -> None:
        if instance.state is State.STOPPING:
            return
        if instance.state is State.LOADING:
            self._refuse_waiters(self._entries[instance.spec.id], Unavailable("the model was unloaded while it was loading"))
        if instance.state is State.LOADING or not instance.num_leases:
            self._kill(instance)
            return
        instance.advance(State.STOPPING)
        self._after(instance.spec.stop_timeout_s, lambda: self._stop_now(instance))

    def _stop_now(self, instance: Instance) -> None:
        """The time to finish is over."""
        if instance.state is State.STOPPING:
            for stream in instance.take_streams():
                fail_sink(stream.sink, Unavailable("the model is being unloaded"))
            if instance.state is State.STOPPING:
                self._kill(instance)

    def _kill(self, instance: Instance) -> None:
        """A worker keeps nothing worth saving once its leases are gone, so it gets no chance to linger."""
        instance.kill()
        self._feed.unloaded(instance.spec.id)

    def _ended_instance(self, entry: Entry, instance: Instance) -> None:
        """The process is reaped and everything it said has been delivered."""
        self._reap()
        self._after(REAP_DELAY_S, self._reap)
        entry.instance = None
        was = instance.state
        if was is not State.DYING:
            self._crashed(entry, instance, was)
        for stream in instance.take_streams():
            fail_sink(stream.sink, Unavailable("the model was unloaded"))
        for waiter in self._queue.take_where(entry, can_start=False):
            self._refuse(waiter, ModelNotLoaded(entry.spec.id))
        instance.fail_calls(WorkerDied(f"the model {instance.spec.id} is gone: {instance.cause_of_death}"))
        self._after(SPARE_DELAY_S, self._spares.make)
        entry.last_used = instance.last_used
        self._prime()
        self._rebalance()

    def _prime(self) -> None:
        self._spares.prime(forecast(self._entries.values(), available_bytes()))

    def _reap(self) -> None:
        pids = [*self._spares.pids, *(instance.process.pid for instance in self.instances())]
        reap_unknown({pid for pid in pids if pid is not None})

    def _crashed(self, entry: Entry, instance: Instance, was: State) -> None:
        spec, cause, exit_code = instance.spec, instance.cause_of_death, instance.process.exit_code
        log.error("%s: %s", spec.id, cause)
        for line in list(instance.process.lines)[-5:]:
            log.error("%s: | %s", spec.id, line)
        entry.error, entry.exit_code = cause, exit_code
        if was is State.LOADING:
            entry.note_failed_load(self._loop.time())
            if instance.process.is_up or entry.num_failures > 1:  # else it was never told to load, and another worker may be
                self._refuse_waiters(entry, LoadFailed(spec.id, cause, exit_code))
        else:
            if instance.is_killed_by_first_decode() and not entry.needs_safe_mode:
                entry.needs_safe_mode = True
                log.warning("%s: its first decode killed its worker; it is tried once more in the safe mode", spec.id)
            self._retry_or_fail(entry, instance, was, WorkerDied(f"model {spec.id} has crashed: {cause}"))
        self._feed.failed(spec.id, exit_code, cause)

    def _retry_or_fail(self, entry: Entry, instance: Instance, was: State, error: WorkerDied) -> None:
        """A stream of which the client has seen nothing starts again on a fresh worker, once; the others are told."""
        leases: list[Lease] = []
        for stream in instance.take_streams():
            lease: Lease = stream.owner
            stream.num_deaths += 1
            if lease.is_released:
                continue  # the end of a sibling ended it
            if stream.num_deaths == 1 and was is not State.STOPPING and not self._is_stopping and stream.sink.restart():
                if not lease.resubmitted:
                    leases.append(lease)
                lease.resubmitted.append(stream)
            else:
                fail_sink(stream.sink, error)
        for lease in leases:
            if not lease.is_released:
                self._enqueue(entry, Waiter(self._loop.create_future(), can_start=True, lease=lease))

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            action()

        timer = self._loop.call_later(delay_s, run)
        self._timers.add(timer)
