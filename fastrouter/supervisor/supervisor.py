"""What requests ask for: a lease on a model, a load, an unload, a preview. residency.py decides and performs what is in memory. Both share
the models, the queue and the memory, which are made here.

Invariant: a caller that is cancelled, or has waited too long, leaves the queue, and no other caller loses its place.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.errors import FastrouterError, InvalidRequest, ModelNotLoaded, ModelUnusable, Unavailable
from fastrouter.ipc.messages import Generate
from fastrouter.supervisor import snapshot
from fastrouter.supervisor.decide.state import PUBLIC, State
from fastrouter.supervisor.events import Event, Events
from fastrouter.supervisor.foresight import Find, Foresight
from fastrouter.supervisor.kept_order import KeptOrder
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.managed_model import UNLOADED, ManagedModel, ManagedModels, ModelStatus, Waiter, WaitPreview
from fastrouter.supervisor.memory.measurements import Measures
from fastrouter.supervisor.memory_ledger import Memory
from fastrouter.supervisor.parking import Parking
from fastrouter.supervisor.preview import look_ahead
from fastrouter.supervisor.queue import Queue
from fastrouter.supervisor.residency import Residency
from fastrouter.supervisor.timers import Timers
from fastrouter.supervisor.trace_writer import Facts, RequestTrace, Settings, TraceWriter
from fastrouter.supervisor.workers.fork_server import ForkServer
from fastrouter.supervisor.workers.spare import Spares
from fastrouter.supervisor.workers.worker import WorkerMaker
from fastrouter.supervisor.workers.worker_log import Logs

__all__ = ["Event", "ModelStatus", "Supervisor"]

MAX_QUEUED = 512


class Supervisor:
    """`start` starts it and `stop` ends it; in between everything runs in the thread of the event loop."""

    def __init__(
        self,
        config: Config,
        *,
        on_event: Callable[[Event], None] | None = None,
        maker: WorkerMaker | None = None,
        timers: Timers | None = None,
        measures: Measures | None = None,
        trace: TraceWriter | None = None,
        find: Find = lambda model_id: None,
        order: KeptOrder | None = None,
    ) -> None:
        """`maker` of workers; None: a fork server. `timers`; None: the monotonic clock and the running event loop. `measures`; None: those
        of earlier runs. `trace` gets all that happens; None: nothing is recorded. `find` a model in the catalog, for `order`: the order of
        models; None: that of earlier runs."""
        self._trace = trace
        self._queue_timeout_s = config.queue_timeout_s
        self._timers = timers or Timers()
        self._models = ManagedModels()
        self._queue = Queue()
        self._events = Events(on_event)
        self.logs = Logs()
        self.spares = Spares(maker or ForkServer(None, config.poll), self._timers)
        self.parking = Parking(config, self._timers, self._models.instances, self._events.parked)
        self._memory = Memory(config, self._models, lambda: self.spares.pid, self.parking, measures)
        self._foresight = Foresight(
            self._models,
            self._timers,
            order or KeptOrder(f"{_place(config.models_dir)} {_place(config.models_preset)}"),
            find,
            is_on=config.foresee,
            may_load=config.models_autoload,
            read_ahead_mib=config.read_ahead_mib,
        )
        self._residency = Residency(
            self._models,
            self._queue,
            self._memory,
            self.parking,
            self.spares,
            self._timers,
            self._events,
            self.logs,
            self._foresight,
            config.verbosity,
            is_confined=config.confine_workers,
            hang_timeout_s=config.worker_hang_timeout_s,
            on_gone=trace.gone if trace is not None else lambda model_id, took_s: None,
        )
        if trace is not None:
            self._events.subscribe(trace.on_event)
        self.subscribe = self._events.subscribe
        self.tell = self._events.tell
        self.instances = self._models.instances
        self.limits = self._memory.limits
        self.num_waiting = self._queue.num_waiting

    def __repr__(self) -> str:
        return f"<Supervisor {self._models} {self._queue}>"

    # ------------------------------------------------------------ start and stop

    async def start(self) -> None:
        if self._trace is not None:
            self._trace.begin(self._timers.now, self._settings, self._facts)
        self._residency.start()

    def _settings(self) -> Settings:
        limits = self.limits()
        return Settings(limits.models_max, limits.host_bytes, limits.all_devices_bytes, limits.patience_s, self._queue_timeout_s)

    def _facts(self, spec: ModelSpec) -> Facts:
        need = self._memory.measures.need(spec)
        return Facts(need.host_bytes, need.device_bytes, self._memory.measures.expected_load_s(spec))

    def refuse_waiting(self) -> None:
        """From now on no request gets a lease; those that have one keep it. Idempotent."""
        self._queue.close()

    async def stop(self, timeout_s: float) -> None:
        """Refuse waiting requests, give leases `timeout_s` to end, then end all processes."""
        self.refuse_waiting()
        await self._timers.until(lambda: not any(instance.num_leases for instance in self.instances()), timeout_s)
        await self._residency.stop()

    # ------------------------------------------------------------ leases

    def check(self, spec: ModelSpec, generates: Iterable[Generate]) -> None:
        """Raises KillsWorkers for a request that has killed two workers."""
        self._residency.condemned.check(spec.runner.id, generates)

    def note_turn(self, spec: ModelSpec, client: str) -> None:
        """A request for a model is about to acquire it: the order of the models of each client is learned from this."""
        self._foresight.note(client, self._models.of(spec))

    def expect(self, spec: ModelSpec) -> None:
        """A client will probably ask for this model soon: it is loaded if there is room that nothing else uses; otherwise its file is
        read ahead, and a spare may open it."""
        self._foresight.expect(self._models.of(spec))

    def acquire_now(self, spec: ModelSpec, client: str | None = None, priority: int = 0) -> Lease | None:
        """A lease without waiting, when the model is loaded and admits requests. `client` and `priority` are only recorded."""
        model = self._models.get(spec.runner.id)
        instance = model.instance if model is not None else None
        if instance is None or instance.state is not State.LOADED or model.waiters or self._queue.is_closed:  # type: ignore[union-attr]
            return None
        lease = self._residency.lend(instance)
        if self._trace is not None:
            self._trace.request(spec, client, priority, is_autoload=True).grant(lease)
        return lease

    async def acquire(self, spec: ModelSpec, autoload: bool, priority: int = 0, client: str | None = None) -> Lease:
        """A lease, after a load if one is needed. A caller that is cancelled leaves the queue. `client` is only recorded. Raises
        LoadFailed, ModelNotLoaded, DoesNotFit, Unavailable."""
        lease = self.acquire_now(spec, client, priority)
        if lease is not None:
            return lease
        waiting = self._acquire(spec, autoload, priority)
        if self._trace is None:
            return await waiting
        return await _traced(self._trace.request(spec, client, priority, is_autoload=autoload), waiting)

    async def _acquire(self, spec: ModelSpec, autoload: bool, priority: int) -> Lease:
        model = self._models.of(spec)
        if not (autoload or model.is_asleep) and (model.instance is None or model.instance.state is State.DYING):
            raise ModelNotLoaded(spec.id)
        waiter = Waiter(self._timers.future(), can_start=autoload or model.is_asleep, priority=priority)
        lease = await self._wait(model, waiter)
        assert lease is not None
        return lease

    async def _wait(self, model: ManagedModel, waiter: Waiter) -> Lease | None:
        assert waiter.future is not None
        self._may_wait(model)
        self._queue.add(model, waiter, self._timers.now())
        self._residency.rebalance()
        give_up = self._limit_wait(model, waiter) if self._queue_timeout_s else None
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self._leave(model, waiter, waiter.future)
            raise
        finally:
            if give_up is not None:
                give_up()

    def _may_wait(self, model: ManagedModel) -> None:
        """Raises the error of a request for which waiting would be useless."""
        is_ending = model.instance is not None and model.instance.state in (State.STOPPING, State.DYING)
        if not model.spec.can_be_tried and (model.instance is None or is_ending):
            raise ModelUnusable(model.spec.id, model.spec.error or "")
        self._queue.check_open()
        refusal = model.refusal(self._timers.now())
        if refusal is not None:
            raise refusal
        if self._queue.num_waiters >= MAX_QUEUED:
            raise Unavailable(f"{MAX_QUEUED} requests are already waiting for a model")

    def _limit_wait(self, model: ManagedModel, waiter: Waiter) -> Callable[[], None]:
        return self._timers.after(self._queue_timeout_s, lambda: self._end_wait(model, waiter))

    def _end_wait(self, model: ManagedModel, waiter: Waiter) -> None:
        """The time to wait for a place is over; but a load that has begun is awaited."""
        is_loading = model.instance is not None and model.instance.state is State.LOADING
        if not is_loading and self._queue.remove(model, waiter):
            waited = f"the request has waited {self._queue_timeout_s:g} s for its model"
            waiter.refuse(Unavailable(waited, model=model.spec.id))
            self._residency.rebalance()

    def _leave(self, model: ManagedModel, waiter: Waiter, future: "asyncio.Future[Lease | None]") -> None:
        """The client has left: others get what it was about to get."""
        if self._queue.remove(model, waiter):
            self._residency.rebalance()
        elif future.done() and not future.cancelled() and future.exception() is None:
            lease = future.result()
            if lease is not None:
                lease.release()

    # ------------------------------------------------------------ models

    async def load(self, spec: ModelSpec) -> None:
        """Returns as soon as the load has begun. Raises InvalidRequest when the model is already running, LoadFailed, Unavailable."""
        model = self._models.of(spec)
        self._note_ask("load", spec)
        if self._residency.ahead.claim(model):
            return
        if model.is_asleep or (model.instance is not None and model.instance.state is not State.DYING):
            raise InvalidRequest("model is already running", model=spec.id)
        await self._wait(model, Waiter(self._timers.future(), wants_lease=False))

    def unload(self, model_id: str) -> None:
        """Admit no more, let running requests finish (at most the model's stop-timeout), end. Raises InvalidRequest when the model does not
        run."""
        model = self._models.get(model_id)
        if model is not None:
            self._note_ask("unload", model.spec)
        if model is None or not self._residency.end(model, "unload"):
            raise InvalidRequest("model is not running", model=model_id)
        model.is_sent_away = True

    def pin(self, spec: ModelSpec, is_pinned: bool) -> None:
        """From now on it is never evicted, or may be evicted again, whatever its preset says."""
        self._models.of(spec).pin = is_pinned
        self._note_ask("pin" if is_pinned else "unpin", spec)
        self._residency.reconsider()

    def reload(self, changed: Iterable[str], find: Callable[[str], ModelSpec | None] = lambda model_id: None) -> None:
        """The sources of these models have changed or vanished: their instances end, what waits gets the next ones (see succession.py), and
        old failures are forgotten. `find` returns the catalog's present data: all other models go on with it, for example with other times
        or another pin."""
        for model_id in changed:
            model = self._models.get(model_id)
            if model is not None:
                model.forget_failures()
                self._note_ask("unload", model.spec)
                self._residency.replace(model, find(model_id))
        self._models.renew(find)
        self._residency.reconsider()
        self._events.reloaded()

    def _note_ask(self, what: str, spec: ModelSpec) -> None:
        if self._trace is not None:
            self._trace.ask(what, spec)

    # ------------------------------------------------------------ reading

    def preview(self, spec: ModelSpec) -> dict[str, Any]:
        """What a request for the model would cause now; changes nothing, see preview.py."""
        measures, now = self._memory.measures, self._timers.now()
        waiting, residents = snapshot.waiting(self._queue, measures, now), snapshot.residents(self._models, measures)
        return look_ahead(spec.runner, waiting, residents, self.limits(), measures, now)

    async def peek(self, model_id: str, method: str) -> Any:
        """The answer of a loaded model's worker; None: the model is not loaded. It has no other effect: no lease, no load, no change to the
        order of eviction. Raises Unavailable when no answer comes in time."""
        model = self._models.get(model_id)
        instance = model.instance if model is not None else None
        if instance is None or PUBLIC[instance.state] != "loaded":
            return None
        return await instance.peeks.ask(method)

    def wait_preview(self, spec: ModelSpec) -> WaitPreview:
        """For a request that waits for this model, or has waited."""
        model = self._models.get(spec.runner.id)
        if model is None:
            return WaitPreview()
        return model.wait_preview(self._residency.position(model), self._memory.measures.load_s(model.spec), self._timers.now())

    def status(self, model_id: str) -> ModelStatus:
        model = self._models.get(model_id)
        return model.status(self._timers.now()) if model is not None else UNLOADED

    def sleeping(self) -> list[str]:
        return [model.spec.id for model in self._models if model.is_asleep]


async def _traced(request: RequestTrace, waiting: Awaitable[Lease]) -> Lease:
    try:
        lease = await waiting
    except asyncio.CancelledError:
        request.leave()
        raise
    except FastrouterError as error:
        request.refuse(error)
        raise
    request.grant(lease)
    return lease


def _place(path: Path | None) -> Path | None:
    return path and path.absolute()
