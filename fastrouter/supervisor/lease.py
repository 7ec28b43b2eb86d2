"""The right of a request to use a loaded instance, from the queue to the last byte. The instance is not evicted while it is held.

Never imports: supervisor.decide. Invariant: `release` gives the lease back exactly once, whatever has happened before.
"""

from typing import Any, Protocol

from fastrouter._core import Sink
from fastrouter.errors import WorkerDied
from fastrouter.ipc.attached_files import AttachedFiles
from fastrouter.ipc.messages import Generate
from fastrouter.supervisor.workers.instance import Instance
from fastrouter.supervisor.workers.stream import WorkerStream


class Lender(Protocol):
    """The object that gives leases."""

    def take_back(self, instance: Instance) -> None: ...
    def forget(self, lease: "Lease") -> None: ...
    def queue(self, lease: "Lease", model_id: str) -> None: ...
    def keep_alive(self, instance: Instance, seconds: float) -> None: ...


class Watcher(Protocol):
    """An object that learns what happens with a lease."""

    def submitted(self, generate: Generate, sink: Sink) -> None: ...
    def counted(self, prompt_tokens: int, cached_tokens: int) -> None: ...
    def kept_alive(self, seconds: float) -> None: ...
    def released(self) -> None: ...


class Lease:
    def __init__(self, lender: Lender, instance: Instance) -> None:
        self._lender = lender
        self._instance = instance
        self._request_ids: list[int] = []  # ids inside that instance
        self._is_released = False
        self.resumed: list[WorkerStream] = []  # streams that wait for a new worker
        self.watcher: Watcher | None = None

    def __repr__(self) -> str:
        return f"<Lease {'released' if self._is_released else self._instance}>"

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def is_released(self) -> bool:
        return self._is_released

    def submit(self, generate: Generate, sink: Sink, files: AttachedFiles | None = None) -> None:
        """Records go to `sink`; this sets its request id. `files`: of its pictures. If the worker is gone, the next one gets the request.
        Raises Unavailable, WorkerDied."""
        sink.drop_trail()
        if self.watcher is not None:
            self.watcher.submitted(generate, sink)
        stream = WorkerStream(generate, sink, self, files)
        if not self._instance.is_followed:
            self._submit(stream)
            return
        self.resumed.append(stream)
        if len(self.resumed) == 1:
            self._lender.queue(self, self._instance.spec.id)

    def _submit(self, stream: WorkerStream) -> None:
        self._request_ids.append(self._live_instance().submit(stream))

    def keep_alive(self, seconds: float) -> None:
        """How long the model stays in memory when it is idle, from now on; inf: no limit, 0: it leaves immediately."""
        self._lender.keep_alive(self._instance, seconds)
        if self.watcher is not None:
            self.watcher.kept_alive(seconds)

    def count_prompt(self, prompt_tokens: int, cached_tokens: int) -> None:
        """The worker has reported the size of a prompt."""
        if self.watcher is not None:
            self.watcher.counted(prompt_tokens, cached_tokens)

    def abort(self, request_id: int) -> None:
        """The client does not want this answer any more. Idempotent."""
        self._instance.abort(request_id)

    async def call(self, method: str, params: dict[str, Any], files: AttachedFiles | None = None) -> Any:
        """Ask the worker. `files`: of the pictures in `params`. Raises what the worker raised, WorkerDied or Unavailable."""
        return await self._live_instance().call(method, params, files)

    async def end_thoughts(self) -> bool:
        """The answers begin now. False when none is in a thought that can be ended."""
        return any([await self.call("end_thought", {"request_id": request_id}) for request_id in self._request_ids])

    def _live_instance(self) -> Instance:
        if self._instance.is_gone:
            raise WorkerDied(f"model {self._instance.spec.id} has crashed: {self._instance.cause_of_death}")
        return self._instance

    def release(self) -> None:
        """Aborts the requests that still run. Idempotent."""
        if self._is_released:
            return
        self._is_released = True
        for request_id in self._request_ids:
            self._instance.abort(request_id)
        if self.resumed:
            self.resumed.clear()
            self._lender.forget(self)
        if not self._instance.is_gone:
            self._lender.take_back(self._instance)
        if self.watcher is not None:
            self.watcher.released()

    def move_to(self, instance: Instance) -> None:
        """A new worker. Its streams follow by `resubmit`."""
        self._instance = instance
        self._request_ids.clear()

    def resubmit(self, stream: WorkerStream) -> None:
        """The new worker continues this stream. Raises Unavailable, WorkerDied."""
        self.resumed.remove(stream)
        self._submit(stream)
