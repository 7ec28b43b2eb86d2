"""All that the supervisor knows about one model: its instance, its waiting requests, the results of its loads. And the table of all models.

Invariant: `retry_at` is in the future only after a failed load.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import FastrouterError, LoadFailed, ModelUnusable
from fastrouter.supervisor.decide.need import NOTHING, Need
from fastrouter.supervisor.decide.state import PUBLIC, State
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.remedies import NONE, Remedy
from fastrouter.supervisor.workers.instance import Instance, fail_sink

NUM_SUDDEN_ENDS = 2  # when this many workers in a row end while they load a model, the model is the cause
BACK_OFF_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # after the first, second, ... failed load in a row


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model as users see it."""

    value: str = "unloaded"  # unloaded | loading | loaded | sleeping
    failed: bool = False
    exit_code: int | None = None
    error: str | None = None
    log: tuple[str, ...] = ()  # the last lines that its worker wrote, when it failed
    progress: float | None = None
    meta: dict[str, Any] | None = None
    need: Need = NOTHING  # the memory that it holds
    is_pinned: bool = False
    num_running: int = 0  # requests
    num_waiting: int = 0
    idle_s: float | None = None  # since its last request; None: it is in use or not in memory
    expires_in_s: float | None = None  # until it is unloaded when no request comes; None: never


UNLOADED = ModelStatus()


@dataclass(slots=True)
class LoadTimes:
    """One load of a model, in monotonic seconds."""

    began: float = 0.0
    ended: float = 0.0  # 0.0: not yet
    has_evicted: bool = False  # another model was evicted for it

    def seconds_between(self, since: float, until: float) -> float:
        """How much of that time the load took."""
        return max(0.0, min(self.ended or until, until) - max(self.began, since)) if self.began else 0.0


@dataclass(frozen=True, slots=True)
class WaitPreview:
    """What a waiting request can be told about its model."""

    load: LoadTimes = field(default_factory=LoadTimes)  # the last load
    position: int = 0  # see Residency.position
    is_loading: bool = False
    progress: float | None = None  # from 0.0 to 1.0
    remaining_s: float | None = None  # None: unknown


@dataclass(slots=True, eq=False)
class Waiter:
    """One request. It gets a Lease, or an error; when `wants_lease` is False, it gets None as soon as the load has begun."""

    future: "asyncio.Future[Lease | None] | None" = None  # None: no caller waits for it
    can_start: bool = True  # whether its model may be loaded for it
    wants_lease: bool = True
    priority: int = 0
    lease: Lease | None = None  # a lease that has lost its worker and moves to the next one

    @property
    def is_awaited(self) -> bool:
        return self.future is not None and not self.future.done()

    def resolve(self, lease: Lease | None) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(lease)

    def refuse(self, error: FastrouterError) -> None:
        if self.lease is not None:
            for stream in list(self.lease.resumed):
                fail_sink(stream.sink, error)
        elif self.future is not None and not self.future.done():
            self.future.set_exception(error)


@dataclass(slots=True, eq=False)
class ManagedModel:
    spec: ModelSpec
    instance: Instance | None = None
    waiters: deque[Waiter] = field(default_factory=deque)
    since: float = 0.0  # when the first waiter came
    last_used: float = 0.0  # when its last instance was used last
    num_failures: int = 0  # failed loads in a row
    retry_at: float = 0.0
    num_deaths: int = 0  # workers in a row that died after their load, while no request ended well
    died_at: float = 0.0  # the last of them
    num_changes: int = 0  # loads in a row that a change of its source has ended
    start_at: float = 0.0  # not before this time, because of these deaths or changes
    error: str | None = None
    exit_code: int | None = None
    stderr_tail: tuple[str, ...] = ()  # of the worker that failed
    failure_kind: type[LoadFailed] = LoadFailed  # of the last failed load
    num_sudden_ends: int = 0  # workers in a row that ended while they loaded it, without a reason
    num_lost_workers: int = 0  # workers in a row that ended before they began to load it
    remedy: Remedy = NONE  # what its loads do differently because a worker died in its first decode
    crash_code: int | None = None  # the exit code of that worker; None: the remedy has been judged
    is_asleep: bool = False  # idle and without a process; it keeps its place, and the next request loads it
    has_expired: bool = False  # it left because it was idle for too long: its memory is needed elsewhere, so nothing is prepared for it
    is_sent_away: bool = False  # a client has unloaded it: it is not loaded again before a request asks for it
    keep_alive_s: float | None = None  # set by a request, until the instance ends; inf: no limit
    pin: bool | None = None  # set by a user while the router runs; None: as configured
    meta: dict[str, Any] | None = None  # what its last worker reported about it
    load: LoadTimes = field(default_factory=LoadTimes)  # the last load

    @property
    def is_pinned(self) -> bool:
        """It is never evicted, and it is kept when idle."""
        return self.spec.is_pinned if self.pin is None else self.pin

    @property
    def is_wanted(self) -> bool:
        """A request that may start it waits for it."""
        return any(waiter.can_start for waiter in self.waiters)

    @property
    def load_timer(self) -> str:
        """The name of the timer that ends a load that takes too long: a model has one instance at a time."""
        return f"load {self.spec.id}"

    @property
    def ttl_s(self) -> float | None:
        """Idle seconds until it is unloaded; None: never. The value of a request comes first."""
        seconds = self.keep_alive_s if self.keep_alive_s is not None else self.spec.ttl_s
        return None if seconds is None or seconds == math.inf or self.is_pinned else seconds

    def status(self, now: float) -> ModelStatus:
        instance, is_pinned, num_waiting = self.instance, self.is_pinned, len(self.waiters)
        if self.is_asleep and (instance is None or instance.state is State.DYING):
            return ModelStatus("sleeping", meta=self.meta, is_pinned=is_pinned, num_waiting=num_waiting)
        value = PUBLIC[instance.state] if instance is not None else "unloaded"
        if instance is None or value == "unloaded":
            failed: dict[str, Any] = {"failed": self.error is not None, "exit_code": self.exit_code, "error": self.error}
            return ModelStatus(**failed, log=self.stderr_tail, is_pinned=is_pinned, num_waiting=num_waiting)
        idle_s = None if instance.num_leases or instance.state is State.LOADING else now - instance.last_used
        return ModelStatus(
            value,
            progress=instance.progress,
            meta=instance.meta,
            need=instance.need,
            is_pinned=is_pinned,
            num_running=instance.num_leases,
            num_waiting=num_waiting,
            idle_s=idle_s,
            expires_in_s=max(0.0, self.ttl_s - idle_s) if self.ttl_s is not None and idle_s is not None else None,
        )

    def wait_preview(self, position: int, usual_load_s: float | None, now: float) -> WaitPreview:
        """`usual_load_s`: how long its last good load took."""
        instance = self.instance
        if instance is None or instance.state is not State.LOADING:
            return WaitPreview(self.load, position)
        remaining = self.load.began + (usual_load_s or 0.0) - now
        return WaitPreview(self.load, 0, True, instance.progress, remaining if remaining > 0 else None)

    def begin_load(self, now: float, *, has_evicted: bool) -> None:
        self.load = LoadTimes(now, 0.0, has_evicted)

    def end_load(self, now: float) -> float:
        """The load is over, with whatever result. Returns how long it took. Idempotent."""
        self.load.ended = self.load.ended or now
        return self.load.ended - self.load.began

    def note_failed_load(self, now: float) -> None:
        self.num_failures += 1
        self.num_changes = 0
        self.retry_at = now + BACK_OFF_S[min(self.num_failures, len(BACK_OFF_S)) - 1]

    def note_death(self, now: float, memory_s: float) -> float:
        """Its worker died while it had requests. Returns when the next one may start. A death that is `memory_s` old does not count."""
        self.num_deaths = self.num_deaths + 1 if now - self.died_at <= memory_s else 1
        self.died_at = now
        self.start_at = now + BACK_OFF_S[min(self.num_deaths, len(BACK_OFF_S)) - 1]
        return self.start_at

    def note_load(self) -> None:
        self.num_failures, self.retry_at = 0, 0.0
        self.num_sudden_ends = self.num_lost_workers = 0

    def note_sudden_end(self, has_begun: bool) -> bool:
        """Its worker ended while it loaded, without a reason. True: another worker may succeed."""
        if has_begun:
            self.num_sudden_ends = (self.num_sudden_ends + 1) % NUM_SUDDEN_ENDS
            return self.num_sudden_ends > 0
        self.num_lost_workers = (self.num_lost_workers + 1) % NUM_SUDDEN_ENDS
        return self.num_lost_workers > 0

    def forget_failures(self) -> None:
        self.note_load()
        self.forget_end()
        self.num_deaths, self.start_at = 0, self.start_at if self.num_changes else 0.0
        self.remedy, self.crash_code = NONE, None

    def note_no_cure(self, remedy: Remedy | None) -> None:
        """The request that crashed is given up. `remedy`: what is left to try for the next request."""
        self.crash_code = None
        self.remedy = self.remedy if remedy is not None else NONE

    def note_end(self, cause: str, exit_code: int | None, stderr_tail: Sequence[str]) -> None:
        """Its worker ended by itself."""
        self.error, self.exit_code, self.stderr_tail = cause, exit_code, tuple(stderr_tail)

    def forget_end(self) -> None:
        self.error, self.exit_code, self.stderr_tail = None, None, ()

    def refusal(self, now: float) -> LoadFailed | None:
        """The error for a request that comes too soon after a failed load."""
        if self.instance is not None or now >= self.retry_at:
            return None
        error = self.failure_kind(self.spec.id, self.error or "", self.exit_code, self.stderr_tail)
        if self.failure_kind is not ModelUnusable:
            error.retry_after_s = max(1, round(self.retry_at - now))
        return error


class ManagedModels:
    """The models that have been asked for at least once."""

    def __init__(self) -> None:
        self._models: dict[str, ManagedModel] = {}

    def __repr__(self) -> str:
        return f"{self.instances()}"

    def __iter__(self) -> Iterator[ManagedModel]:
        return iter(self._models.values())

    def __getitem__(self, model_id: str) -> ManagedModel:
        return self._models[model_id]

    def get(self, model_id: str) -> ManagedModel | None:
        return self._models.get(model_id)

    def of(self, spec: ModelSpec) -> ManagedModel:
        """With the catalog's present data. The model of a variant is the one of its runner."""
        spec = spec.runner
        model = self._models.get(spec.id)
        if model is None:
            model = self._models[spec.id] = ManagedModel(spec)
        model.spec = spec
        return model

    def renew(self, find: Callable[[str], ModelSpec | None]) -> None:
        """The catalog has changed; models that are no longer in it stay as they were."""
        for model in self:
            model.spec = find(model.spec.id) or model.spec

    def instances(self) -> list[Instance]:
        return [model.instance for model in self if model.instance is not None]
