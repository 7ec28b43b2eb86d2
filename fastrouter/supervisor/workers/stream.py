"""One request in a worker: what was asked and what came. A new worker needs no more than this to continue it.

Invariant: what came is counted and kept by the sink while it comes, so nothing has to be saved when the worker dies.
"""

import time
from array import array
from dataclasses import dataclass
from typing import Any

from fastrouter._core import Sink
from fastrouter.ipc.attached_files import AttachedFiles
from fastrouter.ipc.messages import Generate


@dataclass(slots=True, eq=False)
class WorkerStream:
    generate: Generate
    sink: Sink
    owner: Any  # the lease
    files: AttachedFiles | None = None  # of its pictures
    num_deaths: int = 0  # workers that died while they had it
    num_stuck: int = 0  # of these, the last ones in a row between which nothing came
    died_at: float = 0.0  # the last of them
    is_suspect: bool = False  # it may have killed the last worker, and so may others
    has_worked: bool = False  # a worker that died with it had answered before, so decoding works on this CPU
    _num_before: int = 0  # tokens that came from earlier workers

    @property
    def has_progress(self) -> bool:
        """This worker has sent something of its answer."""
        return self.sink.num_tokens > self._num_before

    @property
    def is_over(self) -> bool:
        """It needs no worker any more."""
        return self.owner.is_released or not self.sink.request_id

    def begin(self) -> dict[str, Any] | None:
        """For the next worker, what came from earlier ones; None: nothing. From here on progress counts for the next one."""
        self._num_before = self.sink.num_tokens
        trail = self.sink.trail()
        if not trail:
            return None
        elapsed_ms = (time.monotonic_ns() - self.sink.trail_ns) // 1_000_000 if self.sink.trail_ns else 0
        choices = [(array("i", words).tolist(), num_records, is_over) for words, num_records, is_over in trail]
        return {"elapsed_ms": elapsed_ms, "choices": choices}

    def note_death(self, now: float, memory_s: float) -> None:
        """Its worker has died."""
        is_stuck = self.num_deaths and not self.has_progress and now - self.died_at <= memory_s
        self.num_deaths += 1
        self.num_stuck = self.num_stuck + 1 if is_stuck else 1
        self.died_at = now

    def can_continue(self) -> bool:
        """Whether another worker can continue it, or begin it again without a trace."""
        return self.sink.trail() is not None or self.sink.restart()
