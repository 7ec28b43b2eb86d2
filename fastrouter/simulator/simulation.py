"""One trace under one setting: the real supervisor on a simulated clock, with workers that take the times of the trace.

The n-th load of a model takes as long as its n-th load in the trace, a later one as long as the median of its loads but the first, which
often reads from disk. A request takes as long as it did in the trace, once its model is there. Invariant: the same trace and setting give
the same outcome, and nothing outside this process is touched.
"""

import asyncio
import math
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.errors import ConfigError, FastrouterError
from fastrouter.ipc.messages import Failed, Ready
from fastrouter.options.load import LoadOptions
from fastrouter.simulator.loop import SimulatedLoop
from fastrouter.simulator.trace import Ask, Trace, TracedLoad, TracedModel, TracedRequest
from fastrouter.simulator.workers import SimulatedMaker
from fastrouter.supervisor.changes import LOADED, Changes, Departure, EndedLoad
from fastrouter.supervisor.decide.model_order import MAX_CLIENTS
from fastrouter.supervisor.kept_order import KeptOrder
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.memory.measurements import MAX_ENTRIES, Measures
from fastrouter.supervisor.supervisor import Event, Supervisor
from fastrouter.supervisor.timers import Timers
from fastrouter.system.fact_file import FactFile
from fastrouter.system.near_names import did_you_mean

MAX_S = 7 * 86400.0  # when a request has not ended this long after the last one came, it never will
EVICTED = ("count", "memory")  # reasons: it left because another model needed its place or its memory


@dataclass(frozen=True, slots=True)
class Setting:
    """What may differ from the recorded router. None: as recorded."""

    models_max: int | None = None
    memory_mib: int | None = None  # 0: no limit
    device_mib: int | None = None
    queue_patience_s: float | None = None
    queue_timeout_s: float | None = None
    ttl_s: float | None = None  # of all models; -1: never
    min_resident_s: float | None = None  # of all models
    pinned: tuple[str, ...] = ()  # in addition


RECORDED = Setting()


@dataclass(slots=True)
class Outcome:
    """What happened, recorded or simulated."""

    waits: list[float] = field(default_factory=list)  # of the requests that got their model, by arrival
    loads: Counter[str] = field(default_factory=Counter)  # by model
    reload_s: float = 0.0  # of all loads
    departures: Counter[tuple[str, str]] = field(default_factory=Counter)  # by (model, reason)
    refused: Counter[str] = field(default_factory=Counter)  # requests by the kind of error
    num_left: int = 0  # clients that left while they waited

    @property
    def num_loads(self) -> int:
        return self.loads.total()

    @property
    def num_evictions(self) -> int:
        return sum(count for (_, reason), count in self.departures.items() if reason in EVICTED)

    @property
    def num_refused(self) -> int:
        return self.refused.total()

    def wait(self, share: float) -> float:
        """The wait that this share of the requests does not exceed."""
        ordered = sorted(self.waits) or [0.0]
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def recorded(trace: Trace) -> Outcome:
    """What happened in the recorded run."""
    outcome = Outcome(departures=Counter(trace.departures))
    for load in trace.loads:
        outcome.loads[load.model_id] += 1
        outcome.reload_s += load.took_s
    for request in trace.requests:
        if request.run_s is not None and request.wait_s is not None:
            outcome.waits.append(request.wait_s)
        elif request.outcome == "refused":
            outcome.refused[request.error] += 1
        elif request.outcome == "left":
            outcome.num_left += 1
    return outcome


def with_load_times(trace: Trace, load_times: dict[str, float]) -> Trace:
    """With the seconds that a user knows for models that the trace never loaded. Raises ConfigError."""
    for model_id in load_times:
        if model_id not in trace.models:
            raise ConfigError(f"--load-time {model_id}: the trace has no such model{did_you_mean(model_id, trace.models)}")
    missing = [trace.models[model_id] for model_id in trace.without_load() if model_id not in load_times]
    if missing:
        times = " ".join(f"--load-time '{model.id}={model.expected_load_s:.1f}'" for model in missing)
        names = ", ".join(model.id for model in missing)
        raise ConfigError(f"the trace has requests for {names} but no load, so their load time is unknown: give it, for example {times}")
    made = [_load_of(trace.models[model_id], load_s) for model_id, load_s in load_times.items()]
    return replace(trace, loads=[*(load for load in trace.loads if load.model_id not in load_times), *made])


def _load_of(model: TracedModel, load_s: float) -> TracedLoad:
    return TracedLoad(model.id, LOADED, load_s, load_s, model.host_bytes, model.device_bytes)


class TracedTimes:
    """How workers behave: as in the trace."""

    def __init__(self, trace: Trace) -> None:
        self._loads = {model_id: trace.loads_of(model_id) for model_id in trace.models}
        self._num_loads: Counter[str] = Counter()
        self._exits = {model_id: statistics.median(times) for model_id, times in trace.exits.items()}
        self._usual_exit_s = statistics.median(self._exits.values()) if self._exits else 0.0

    def load(self, model_id: str) -> tuple[float, Ready | Failed] | None:
        loads, number = self._loads[model_id], self._num_loads[model_id]
        self._num_loads[model_id] += 1
        load = loads[number] if number < len(loads) else _later(loads)
        if load.outcome != LOADED:
            return load.took_s, Failed("as in the recording", may_work_later=True)
        memory = {"host_bytes": load.host_bytes, "device_bytes": load.device_bytes}
        return load.took_s, Ready({"memory": memory, "load_ms": load.usual_s * 1e3})

    def exit_s(self, model_id: str) -> float:
        return self._exits.get(model_id, self._usual_exit_s)


def _later(loads: list[TracedLoad]) -> TracedLoad:
    """A load after all that the trace has."""
    good = [load for load in loads if load.outcome == LOADED]
    took_s = statistics.median(load.took_s for load in good[1:] or good)
    return replace(good[-1], took_s=took_s)


class Simulation:
    def __init__(
        self,
        trace: Trace,
        setting: Setting = RECORDED,
        on_line: Callable[[float, str], None] | None = None,
        *,
        is_in_turn: bool = False,
    ) -> None:
        """`on_line` gets each change of a model with its time. `is_in_turn`: a client asks as long after its last answer as in the
        recording, not at the recorded time."""
        self.outcome = Outcome()
        self._trace = trace
        self._on_line = on_line
        self._loop = SimulatedLoop()  # type: ignore[abstract]  # it has what tasks and timers need
        self._began = self._loop.now
        self._changes = Changes()
        self._waits: dict[int, float] = {}  # by the number of the request
        self._usual_run_s = trace.usual_run_s()
        self._ends = [self._loop.create_future() for _ in trace.requests]
        self._turns = trace.turns() if is_in_turn else [None] * len(trace.requests)
        self._specs = {model.id: _spec(model, setting) for model in trace.models.values()}
        maker = SimulatedMaker(self._loop, TracedTimes(trace))
        timers = Timers(self._loop.time, self._loop)
        config = _config(trace, setting)
        order = KeptOrder("", FactFile("simulated order", 1, MAX_CLIENTS, environ={}))
        self._supervisor = Supervisor(
            config, on_event=self._note, maker=maker, timers=timers, measures=self._measures(), find=self._specs.get, order=order
        )

    def __repr__(self) -> str:
        return f"<Simulation at {self._loop.now - self._began:.1f} s>"

    def _measures(self) -> Measures:
        """The router knows about each model what it knew in the recording."""
        measures = Measures(FactFile("simulated loads", 1, MAX_ENTRIES, environ={}))
        for model in self._trace.models.values():
            memory = {"host_bytes": model.host_bytes, "device_bytes": model.device_bytes}
            measures.note(self._specs[model.id], {"memory": memory}, model.expected_load_s)
        return measures

    def run(self) -> Outcome:
        loop, trace = self._loop, self._trace
        loop.create_task(self._supervisor.start())
        tasks = [loop.create_task(self._request(number, request)) for number, request in enumerate(trace.requests)]
        tasks += [loop.create_task(self._ask(ask)) for ask in trace.asks]
        end = self._began + max(request.at for request in trace.requests) + MAX_S
        for task in tasks:
            loop.run_until(task.done, end)
        loop.advance(max(0.0, self._began + trace.ended_at - loop.now))  # idle models may leave
        stopping = loop.create_task(self._supervisor.stop(0.0))
        loop.run_until(stopping.done)
        for task in tasks:  # requests that still waited have been refused
            loop.run_until(task.done)
            task.result()
        self.outcome.waits = [self._waits[number] for number in sorted(self._waits)]
        return self.outcome

    # ------------------------------------------------------------ what comes from outside

    async def _request(self, number: int, request: TracedRequest) -> None:
        turn = self._turns[number]
        if turn is None:
            await self._sleep(request.at)
        else:
            last, gap_s = turn
            await self._ends[last]
            await self._sleep(gap_s)
        try:
            await self._answer(number, request)
        finally:
            self._ends[number].set_result(None)

    async def _answer(self, number: int, request: TracedRequest) -> None:
        spec = self._specs[request.model_id]
        if request.client is not None:
            self._supervisor.note_turn(spec, str(request.client))
        arrived = self._loop.now
        waiting = self._loop.create_task(self._supervisor.acquire(spec, request.is_autoload, request.priority))
        if request.outcome == "left" and request.wait_s is not None:
            self._loop.call_later(request.wait_s, waiting.cancel)
        try:
            lease = await waiting
        except asyncio.CancelledError:
            self.outcome.num_left += 1
        except FastrouterError as error:
            self.outcome.refused[type(error).__name__] += 1
        else:
            self._waits[number] = self._loop.now - arrived
            await self._use(lease, request)

    async def _use(self, lease: Lease, request: TracedRequest) -> None:
        with lease:
            if request.keep_alive_s is not None:
                lease.keep_alive(request.keep_alive_s if request.keep_alive_s >= 0 else math.inf)
            run_s = request.run_s if request.run_s is not None else self._usual_run_s[request.model_id]
            await self._sleep(run_s)

    async def _ask(self, ask: Ask) -> None:
        await self._sleep(ask.at)
        spec = self._specs[ask.model_id]
        try:
            if ask.what == "load":
                await self._supervisor.load(spec)
            elif ask.what == "unload":
                self._supervisor.unload(spec.id)
            else:
                self._supervisor.pin(spec, ask.what == "pin")
        except FastrouterError:  # for example, it is loaded already
            return

    async def _sleep(self, seconds: float) -> None:
        over = self._loop.create_future()
        self._loop.call_later(seconds, over.set_result, None)
        await over

    # ------------------------------------------------------------ what happens

    def _note(self, event: Event) -> None:
        change = self._changes.take(event, self._loop.now)
        if isinstance(change, EndedLoad):
            self.outcome.loads[change.model_id] += 1
            self.outcome.reload_s += self._loop.now - change.began
            self._tell(f"{change.model_id}: {change.outcome} in {self._loop.now - change.began:.2f} s")
        elif isinstance(change, Departure):
            self.outcome.departures[change.model_id, change.reason] += 1
            self._tell(f"{change.model_id}: leaves ({change.reason})")

    def _tell(self, text: str) -> None:
        if self._on_line is not None:
            self._on_line(self._loop.now - self._began, text)


def _config(trace: Trace, setting: Setting) -> Config:
    """A router that only decides: nothing is parked, read ahead or looked for in processes."""
    return Config(
        models_max=trace.models_max if setting.models_max is None else setting.models_max,
        models_memory_mib=_mib(trace.host_bytes) if setting.memory_mib is None else setting.memory_mib,
        models_memory_device_mib=_mib(trace.device_bytes) if setting.device_mib is None else setting.device_mib,
        queue_patience_s=trace.queue_patience_s if setting.queue_patience_s is None else setting.queue_patience_s,
        queue_timeout_s=trace.queue_timeout_s if setting.queue_timeout_s is None else setting.queue_timeout_s,
        park_ram_mib=0,
        read_ahead_mib=0,
        worker_hang_timeout_s=0.0,
    )


def _mib(limit: int | None) -> int:
    """As a flag: 0 is no limit."""
    return 0 if limit is None else max(1, limit >> 20)


def _spec(model: TracedModel, setting: Setting) -> ModelSpec:
    ttl_s = model.ttl_s if setting.ttl_s is None else None if setting.ttl_s < 0 else setting.ttl_s
    return ModelSpec(
        id=model.id,
        aliases=(),
        tags=(),
        path=f"/simulated/{model.id}",
        mmproj=None,
        options=LoadOptions(),
        source="simulated",
        args=(),
        preset=None,
        created=0,
        can_remove=False,
        load_on_startup=False,
        stop_timeout_s=model.stop_timeout_s,
        size_bytes=model.host_bytes,
        header=None,
        error=None,
        fingerprint=(),
        is_pinned=model.is_pinned or model.id in setting.pinned,
        ttl_s=ttl_s,
        sleep_idle_s=model.sleep_idle_s,
        min_resident_s=model.min_resident_s if setting.min_resident_s is None else setting.min_resident_s,
        load_timeout_s=0.0,  # a load takes its time from the trace
    )
