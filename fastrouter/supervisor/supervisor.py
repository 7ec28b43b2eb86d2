"""What requests ask for: a lease on a model, a load, an unload, a look at what would happen. Knows no HTTP; who is resident is decided and
done in residency.py.

Invariant: a caller that is cancelled, or has waited too long, leaves the queue and costs nobody a place.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.errors import InvalidRequest, ModelNotLoaded, ModelUnusable, Unavailable
from fastrouter.supervisor import snapshot
from fastrouter.supervisor.decide.state import PUBLIC, State
from fastrouter.supervisor.events import Event
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.managed_model import UNLOADED, ManagedModel, Status, Waiter, WaitPreview
from fastrouter.supervisor.preview import look_ahead
from fastrouter.supervisor.residency import Residency

__all__ = ["Event", "Status", "Supervisor"]

MAX_QUEUED = 512


class Supervisor:
    """Starts with `start`, ends with `stop`; in between everything runs in the event loop's thread."""

    def __init__(
        self, config: Config, *, fork_server_command: list[str] | None = None, on_event: Callable[[Event], None] | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue_timeout_s = config.queue_timeout_s
        self._residency = Residency(config, fork_server_command, on_event)
        self._entries = self._residency.entries
        self._queue = self._residency.queue
        self.subscribe = self._residency.feed.subscribe
        self.tell = self._residency.feed.tell
        self.logs = self._residency.logs
        self.instances = self._residency.instances
        self.limits = self._residency.limits
        self.num_waiting = self._queue.num_waiting

    def __repr__(self) -> str:
        return f"<Supervisor {self.instances()} {self._queue}>"

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        self._residency.start()

    def refuse_waiting(self) -> None:
        """From now on nobody gets a lease; who has one keeps it. Idempotent."""
        self._residency.is_stopping = True
        for entry in self._queue.entries():
            self._residency.refuse_waiters(entry, Unavailable("the server is stopping"))

    async def stop(self, timeout_s: float) -> None:
        """Refuse what waits, let leases end for `timeout_s`, then end all processes."""
        self.refuse_waiting()
        deadline = self._loop.time() + timeout_s
        while any(instance.num_leases for instance in self.instances()) and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
        await self._residency.stop()

    # ------------------------------------------------------------ leases

    def acquire_now(self, spec: ModelSpec) -> Lease | None:
        """A lease without waiting, where the model is loaded and admits."""
        entry = self._entries.get(spec.runner.id)
        instance = entry.instance if entry is not None else None
        if instance is None or instance.state is not State.LOADED or entry.waiters or self._residency.is_stopping:  # type: ignore[union-attr]
            return None
        return self._residency.lend(instance)

    async def acquire(self, spec: ModelSpec, autoload: bool, priority: int = 0) -> Lease:
        """A lease, after a load if need be. A caller that is cancelled leaves the queue. Raises LoadFailed, ModelNotLoaded, DoesNotFit,
        Unavailable."""
        lease = self.acquire_now(spec)
        if lease is not None:
            return lease
        entry = self._residency.entry(spec)
        if not (autoload or entry.is_asleep) and (entry.instance is None or entry.instance.state is State.DYING):
            raise ModelNotLoaded(spec.id)
        waiter = Waiter(self._loop.create_future(), can_start=autoload or entry.is_asleep, priority=priority)
        lease = await self._wait(entry, waiter)
        assert lease is not None
        return lease

    async def _wait(self, entry: ManagedModel, waiter: Waiter) -> Lease | None:
        is_ending = entry.instance is not None and entry.instance.state in (State.STOPPING, State.DYING)
        if not entry.spec.can_be_tried and (entry.instance is None or is_ending):
            raise ModelUnusable(entry.spec.id, entry.spec.error or "")
        if self._residency.is_stopping:
            raise Unavailable("the server is stopping")
        refusal = entry.refusal(time.monotonic())
        if refusal is not None:
            raise refusal
        if self._queue.num_waiters >= MAX_QUEUED:
            raise Unavailable(f"{MAX_QUEUED} requests are waiting for a model already")
        self._residency.enqueue(entry, waiter)
        self._residency.rebalance()
        give_up = self._limit_wait(entry, waiter) if self._queue_timeout_s else None
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self._leave(entry, waiter)
            raise
        finally:
            if give_up is not None:
                give_up()

    def _limit_wait(self, entry: ManagedModel, waiter: Waiter) -> Callable[[], None]:
        return self._residency.timers.after(self._queue_timeout_s, lambda: self._end_wait(entry, waiter))

    def _end_wait(self, entry: ManagedModel, waiter: Waiter) -> None:
        """The time to wait for a place is over; a load that has begun is awaited."""
        is_loading = entry.instance is not None and entry.instance.state is State.LOADING
        if not is_loading and self._queue.remove(entry, waiter):
            waited = f"the request has waited {self._queue_timeout_s:g} s for its model"
            self._residency.refuse(waiter, Unavailable(waited, model=entry.spec.id))
            self._residency.rebalance()

    def _leave(self, entry: ManagedModel, waiter: Waiter) -> None:
        """The client is gone: whatever it was about to get goes to others."""
        if self._queue.remove(entry, waiter):
            self._residency.rebalance()
        elif waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
            lease = waiter.future.result()
            if lease is not None:
                lease.release()

    # ------------------------------------------------------------ models

    async def load(self, spec: ModelSpec) -> None:
        """Returns once the load has begun. Raises InvalidRequest when the model runs already, LoadFailed, Unavailable."""
        entry = self._residency.entry(spec)
        if entry.is_asleep or (entry.instance is not None and entry.instance.state is not State.DYING):
            raise InvalidRequest("model is already running", model=spec.id)
        await self._wait(entry, Waiter(self._loop.create_future(), can_start=True, wants_lease=False))

    def unload(self, model_id: str) -> None:
        """Stop admitting, finish what runs (at most the model's stop-timeout), end. Raises InvalidRequest when it does not run."""
        entry = self._entries.get(model_id)
        if entry is None or not self._residency.end(entry, "unload"):
            raise InvalidRequest("model is not running", model=model_id)

    def pin(self, spec: ModelSpec, is_pinned: bool) -> None:
        """From now on it is never evicted, or may be again, whatever its preset says."""
        entry = self._residency.entry(spec)
        entry.pin = is_pinned
        self._residency.may_be_idle(entry)
        self._residency.rebalance()

    def reload(self, changed: Iterable[str], find: Callable[[str], ModelSpec | None] = lambda model_id: None) -> None:
        """These models' sources have changed or vanished: what runs of them ends, and old failures are forgotten. `find` says what the
        catalog has now: the others go on with other times, or another pin."""
        for model_id in changed:
            entry = self._entries.get(model_id)
            if entry is None:
                continue
            entry.forget_failures()
            self._residency.end(entry, "reload")
        self._residency.renew(find)
        self._residency.feed.reloaded()

    def preview(self, spec: ModelSpec) -> dict[str, Any]:
        """What a request for the model would lead to now, with no effect: see outlook.py."""
        memory, entries = self._residency.memory, self._entries.values()
        waiting, residents = snapshot.waiting(self._queue, memory.measures), snapshot.residents(entries, memory.measures)
        return look_ahead(spec.runner, waiting, residents, self._residency.limits(), memory.measures, time.monotonic())

    async def peek(self, model_id: str, method: str) -> Any:
        """What a loaded model's worker answers; None: it is not loaded. Leaves no trace: no lease, no load, no change to the order of
        eviction. Raises Unavailable when there is no answer in time."""
        entry = self._entries.get(model_id)
        instance = entry.instance if entry is not None else None
        if instance is None or PUBLIC[instance.state] != "loaded":
            return None
        return await instance.peek(method)

    def wait_preview(self, spec: ModelSpec) -> WaitPreview:
        """For a request that waits for this model, or has waited."""
        entry = self._entries.get(spec.runner.id)
        if entry is None:
            return WaitPreview()
        return entry.wait_preview(self._queue.position(entry), self._residency.memory.measures.load_s(entry.spec))

    def status(self, model_id: str) -> Status:
        entry = self._entries.get(model_id)
        return entry.status(time.monotonic()) if entry is not None else UNLOADED

    def sleeping(self) -> list[str]:
        return [model_id for model_id, entry in self._entries.items() if entry.is_asleep]
