"""One model's worker as the router sees it: its state, its leases and its running requests. Never imports: supervisor.decide.planner.

Invariant: `streams` holds every request that has not ended. A request that has ended may stay there only while its lease is held.
"""

import asyncio
import logging
import secrets
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from fastrouter._core import Sink
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import FastrouterError, LoadFailed, LoadPostponed, ModelUnusable, ProtocolError, Unavailable, from_wire
from fastrouter.ipc.attached_files import AttachedFiles
from fastrouter.ipc.messages import (
    DECODING_CALLS,
    Abort,
    Call,
    Failed,
    Forget,
    Hurry,
    Load,
    Notice,
    Park,
    Parked,
    Progress,
    PromptCacheSize,
    Ready,
    Reply,
    Restoring,
    Share,
    Shrink,
    Snapshot,
    Submit,
    Unusable,
)
from fastrouter.ipc.wire import encode
from fastrouter.options.endpoints import LOST_SERVER
from fastrouter.supervisor.decide.need import Need
from fastrouter.supervisor.decide.state import State, check
from fastrouter.supervisor.remedies import NONE, Remedy
from fastrouter.supervisor.timers import Clock
from fastrouter.supervisor.workers.peeks import Peeks
from fastrouter.supervisor.workers.process import describe_exit
from fastrouter.supervisor.workers.stream import WorkerStream
from fastrouter.supervisor.workers.worker import Worker
from fastrouter.system.machine import total_bytes

log = logging.getLogger("fastrouter.supervisor")

FAULTS = {-signal.SIGSEGV, -signal.SIGILL, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGABRT}
_FILE_BITS = 52  # of the number of a descriptor: JSON's numbers
_WithFiles = TypeVar("_WithFiles", Submit, Call)


def fail_sink(sink: Sink, error: Exception) -> None:
    """A mistake in one client's answer must not stop the answers of others."""
    try:
        sink.fail(error)
    except Exception:  # a mistake of ours in one sink: logged with its traceback
        log.exception("a client could not be told that its answer has failed")


class Instance:
    """Made by the supervisor when a load starts; over when `on_exit` has been called."""

    def __init__(
        self,
        spec: ModelSpec,
        need: Need,
        process: Worker,
        clock: Clock,
        on_change: Callable[["Instance"], None],
        on_notice: Callable[["Instance", Notice], None],
        on_parking: Callable[["Instance", Parked | Restoring | Unusable], None] = lambda instance, message: None,
    ) -> None:
        self.spec = spec
        self.process = process
        self._now = clock
        self.state = State.LOADING
        self.num_leases = 0
        self.last_used = self._now()
        self.progress: float | None = None
        self.meta: dict[str, Any] | None = None
        self.failure: str | None = None  # why it cannot load, in the worker's words
        self.failure_kind: type[LoadFailed] = LoadFailed
        self.unmapped_bytes = 0  # of its weights: a repacked copy is in other memory
        self.remedy = NONE  # how it is loaded
        self.has_begun = False  # the worker has reported that it loads the model
        self.has_prompts = False  # it has got requests, so there may be something to park
        self.has_answered = False  # a first token or embedding came, so decoding works
        self.is_ahead = False  # it was foreseen, and no request has asked for it yet
        self.hurried_at: float | None = None  # when a request came while it loaded ahead
        self.need = need
        self.prompt_cache_bytes = 0  # in addition to its need; it can be given back, see `shrink`
        self.leave_reason = ""  # why it was told to stop
        self.has_successor = False  # it was told to stop, and the model's next worker continues what it does not finish
        self.hang: str | None = None  # how it hung, so that it was killed
        self.on_work: Callable[[], None] = lambda: None  # it has got a request or a call
        self.started_at = self._now()
        self.ready_at = 0.0  # 0: not ready yet
        self.streams: dict[int, WorkerStream] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._num_calls = 0
        self._decoding_ids: set[int] = set()  # ids of calls that the model computes
        self.peeks = Peeks(spec.id, clock, self.call)  # calls without a lease
        self._num_busy = 1  # as the worker knows it
        self._on_change = on_change
        self._on_notice = on_notice
        self._on_parking = on_parking
        process.on_message = self._receive
        process.ring.on_sink_error = self._sink_failed

    def __repr__(self) -> str:
        return f"<Instance {self.spec.id} {self.state.value} {self.num_leases} leases {len(self.streams)} streams>"

    @property
    def heap_bytes(self) -> int:
        """The part of its need on the host that is not a mapped file."""
        weights = self.spec.header.size_bytes if self.spec.header is not None and self.spec.options.mmap else 0
        return max(0, self.need.host_bytes - max(0, weights - self.need.device_bytes) + self.unmapped_bytes)

    @property
    def load_s(self) -> float:
        """How long its load took, without the start of a process, because other loads will find a process that has started."""
        reported = (self.meta or {}).get("load_ms")
        took = self.ready_at - self.started_at
        return min(took, reported / 1e3) if isinstance(reported, int | float) and reported >= 0 else took

    def give_up_load(self, cause: str) -> None:
        """The load takes too long; `cause` becomes the reason of its end."""
        self.failure = cause
        self.process.kill()

    def end_hung(self, how: str) -> None:
        """Kill it because it hangs: an end by itself, as after a crash."""
        self.hang = how
        self.process.give_up()

    def load(self, remedy: Remedy, verbosity: int, *, is_confined: bool = False, host_limit_bytes: int = 0) -> None:
        self.remedy = remedy
        safe_mode, num_dropped = remedy.safe_mode, remedy.num_dropped
        files = [path for path in self.spec.files if path.isprintable()]  # one with another name cannot be loaded
        options, is_ahead = self.spec.options, self.is_ahead
        load = Load(
            self.spec.id, self.spec.path, options, safe_mode, verbosity, num_dropped, files, is_confined, host_limit_bytes, is_ahead
        )
        self.process.send(load)

    def hurry(self) -> None:
        """A request waits for its load now."""
        self.is_ahead = False
        self.hurried_at = self._now()
        self.process.send(Hurry())

    @property
    def saved_s(self) -> float:
        """How much of its load was done before a request came."""
        return self.load_s if self.hurried_at is None else max(0.0, self.load_s - (self.ready_at - self.hurried_at))

    def advance(self, state: State) -> None:
        check(self.state, state)
        self.state = state

    def kill(self) -> None:
        """Immediately. Its end is reported like any other. Idempotent."""
        if self.state is not State.DYING:
            self.advance(State.DYING)
        self.process.kill()

    @property
    def can_park(self) -> bool:
        """It has no request now, and may have prompts of earlier ones."""
        return self.has_prompts and not self.streams and self.state not in (State.LOADING, State.DYING)

    def park(self, max_bytes: int, max_ms: int) -> None:
        """Let it park its prompts and end."""
        self.advance(State.DYING)
        self.process.send(Park(max_bytes, max_ms))

    # ------------------------------------------------------------ requests

    def lend(self) -> None:
        self.num_leases += 1
        self.last_used = self._now()

    def take_back(self) -> None:
        self.num_leases -= 1
        self.last_used = self._now()

    def share_cores(self, num_busy: int) -> None:
        """Tell the worker how many models have requests, when that number has changed."""
        if num_busy != self._num_busy:
            self._num_busy = num_busy
            self.process.send(Share(num_busy))

    def shrink(self, num_bytes: int) -> int:
        """Make its prompt cache give back this much, or all of it. Returns how much that will be."""
        given = min(num_bytes, self.prompt_cache_bytes)
        self.prompt_cache_bytes -= given
        self.process.send(Shrink(self.prompt_cache_bytes))
        return given

    def submit(self, stream: WorkerStream) -> int:
        """Returns the request id. Raises Unavailable when the worker cannot take more."""
        request_id = self.process.ring.attach(stream.sink)
        try:
            self.process.send(self._with_files(Submit(request_id, stream.generate, stream.begin()), stream.files))
        except BaseException:  # the request cannot be written as a message
            self.process.ring.detach(request_id)
            raise
        self.streams[request_id] = stream
        self.has_prompts = True
        self.on_work()
        return request_id

    def _with_files(self, message: _WithFiles, files: AttachedFiles | None) -> _WithFiles:
        """Sends their descriptor. Raises Unavailable."""
        if files is None:
            return message
        number = secrets.randbits(_FILE_BITS)
        message = replace(message, files=[number, files.sizes])
        encode(message)  # it fails before its descriptor is sent, which would stay there without a message
        if not self.process.descriptors.send(number, files.fd):
            raise Unavailable(f"model {self.spec.id} has too many requests with pictures now; try again later", model=self.spec.id)
        return message

    def abort(self, request_id: int) -> None:
        """Forget a request, and stop it if it has not ended. Idempotent."""
        stream = self.streams.pop(request_id, None)
        if stream is None:
            return
        self.has_answered = self.has_answered or stream.has_progress
        if stream.sink.request_id == request_id:  # the ring releases a sink with its last record
            self.process.ring.detach(request_id)
            self.process.ring.cancel(request_id)
            self.process.send(Abort(request_id))

    def take_streams(self) -> list[WorkerStream]:
        """Takes all requests that have not ended away from the instance; they get no more records from it."""
        running = {key: stream for key, stream in self.streams.items() if stream.sink.request_id == key}
        self.streams.clear()
        for request_id in running:
            self.process.ring.detach(request_id)
        return list(running.values())

    def running_sinks(self) -> Iterator[Sink]:
        """Sinks of requests that have not ended."""
        return (stream.sink for key, stream in self.streams.items() if stream.sink.request_id == key)

    async def call(self, method: str, params: dict[str, Any], files: AttachedFiles | None = None) -> Any:
        """Raises what the worker raised, WorkerDied or Unavailable."""
        self._num_calls += 1
        call = self._with_files(Call(self._num_calls, method, params), files)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[call.request_id] = future
        if method in DECODING_CALLS:
            self._decoding_ids.add(call.request_id)
        self.process.send(call)
        self.on_work()
        try:
            return await future
        except asyncio.CancelledError:
            self.process.send(Forget(call.request_id))
            raise
        finally:
            self._calls.pop(call.request_id, None)
            self._decoding_ids.discard(call.request_id)

    # ------------------------------------------------------------ messages of the worker

    def _receive(self, message: Any) -> None:
        if isinstance(message, Reply):
            future = self._calls.get(message.request_id)
            if future is not None and not future.done():
                if message.error is None:
                    self.has_answered = self.has_answered or message.request_id in self._decoding_ids
                    future.set_result(message.result)
                else:
                    future.set_exception(_read_error(message.error))
        elif isinstance(message, Progress):
            self.has_begun = True
            if self.state is State.LOADING and message.value != (self.progress or 0.0):
                self.progress = message.value
                self._on_change(self)
        elif isinstance(message, Ready):
            if self.state is State.LOADING:
                self.meta = message.meta
                self.ready_at = self._now()
                self.advance(State.LOADED)
                self.last_used = self._now()  # the time of a long load is not idle time
                self._on_change(self)
        elif isinstance(message, Failed):
            if self.state is State.LOADING:
                self.failure = message.error
                can_fit = not 0 < total_bytes() <= self.need.host_bytes
                self.failure_kind = LoadPostponed if message.may_work_later and can_fit else ModelUnusable
                self._on_change(self)
        elif isinstance(message, PromptCacheSize):
            self.prompt_cache_bytes = max(0, message.num_bytes)
        elif isinstance(message, Parked | Restoring | Unusable):
            self._on_parking(self, message)
        elif isinstance(message, Snapshot):
            self.peeks.note(message.method, message.result)
        elif isinstance(message, Notice):
            self._on_notice(self, message)

    def _sink_failed(self, sink: Sink, error: BaseException) -> None:
        """A mistake of ours: the ring has released the sink."""
        log.error("%s: an answer failed: %s: %s", self.spec.id, type(error).__name__, error)
        for request_id in [key for key, stream in self.streams.items() if stream.sink is sink]:
            del self.streams[request_id]
            self.process.send(Abort(request_id))
        fail_sink(sink, FastrouterError(f"{type(error).__name__}: {error}"))

    # ------------------------------------------------------------ its end

    @property
    def is_gone(self) -> bool:
        return self.process.is_closed

    @property
    def is_followed(self) -> bool:
        """It is gone, and the model's next worker continues its requests: it ended by itself, or has a successor."""
        return self.is_gone and (self.has_successor or self.state in (State.LOADED, State.DRAINING))

    @property
    def cause_of_death(self) -> str:
        """For a user: the worker's own reason, otherwise how it ended and its last line."""
        process = self.process
        if self.failure is not None:
            return self.failure
        if self.hang is not None:
            return f"its worker hung and was killed: {self.hang}"
        if process.broke_protocol is not None:
            return f"its worker broke the protocol: {process.broke_protocol}"
        if self.has_lost_server:
            servers = ", ".join(self.spec.options.rpc)
            return f"its worker has lost an RPC server: one of {servers} has ended, or cannot be reached"
        last_line = f"; its last line: {process.lines[-1]}" if process.lines else ""
        return f"its worker {describe_exit(process.exit_code)}{last_line}"

    @property
    def has_lost_server(self) -> bool:
        """It has ended because an RPC server did; neither its code nor its requests are the cause."""
        return bool(self.spec.options.rpc) and any(LOST_SERVER in line for line in self.process.lines)

    def is_killed_by_first_decode(self) -> bool:
        """It died by a fault in its code while it had requests, and no request got a token: see Load.safe_mode."""
        if self.has_lost_server:
            return False
        code = self.process.exit_code
        has_worked = any(stream.has_worked for stream in self.streams.values())
        return code in FAULTS and bool(self.streams or self._decoding_ids) and not (self.works or has_worked)

    @property
    def works(self) -> bool:
        """A token or an embedding has come."""
        return self.has_answered or any(stream.has_progress for stream in self.streams.values())

    @property
    def has_retries(self) -> bool:
        """It has requests that may have crashed a worker before."""
        return self.has_calls or any(stream.num_deaths for stream in self.streams.values())

    @property
    def has_work(self) -> bool:
        """It should be doing something now."""
        is_asked = any(stream.sink.request_id == key for key, stream in self.streams.items())
        return self.state is not State.DYING and (self.state is State.LOADING or is_asked or self.has_calls)

    @property
    def has_calls(self) -> bool:
        """A caller waits for an answer."""
        return any(not future.done() for future in self._calls.values())

    def fail_calls(self, error: Exception) -> None:
        for future in self._calls.values():
            if not future.done():
                future.set_exception(error)


def _read_error(error: dict[str, Any]) -> FastrouterError:
    try:
        return from_wire(error)
    except TypeError:  # its extra fields are not fields of an error
        raise ProtocolError("a worker sent a broken error") from None
