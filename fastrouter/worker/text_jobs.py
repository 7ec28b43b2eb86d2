"""Work on long texts, on threads of its own: the model's loop goes on meanwhile, and what nobody waits for any more ends early.

Owns the threads. Must never know tokens, templates or requests. Invariant: short work never waits for long work, nor for another process.
"""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

SHORT_CHARS = 4096  # are tokenized in a millisecond: not worth a job
LONG_CHARS = 1 << 18
WAITS = -1  # instead of a number of characters: for another process
_NUM_THREADS = {"texts": 2, "long-texts": 2, "waiting-texts": 8}

T = TypeVar("T")
_here = threading.local()  # `.job`: what this thread works on


class Job(Generic[T]):
    """Done one day, with a result or an error, or with CancelledError after `cancel`."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._future: Future[T] = Future()
        self.is_cancelled = False

    def __repr__(self) -> str:
        return f"<Job {'cancelled' if self.is_cancelled else 'done' if self.done() else 'open'}>"

    def run(self) -> None:
        """In its thread."""
        _here.job = self
        try:
            check()
            self._future.set_result(self._work())
        except BaseException as error:
            self._future.set_exception(error)
        finally:
            _here.job = None

    def done(self) -> bool:
        return self._future.done()

    def result(self) -> T:
        """Raises what the work raised."""
        return self._future.result()

    def cancel(self) -> None:
        """It ends at its next `check`."""
        self.is_cancelled = True


def count_chars(value: Any, most: int) -> int:
    """Characters and other values in a JSON value, about; counting ends beyond `most`."""
    count, stack = 0, [value]
    while stack and count <= most:
        item = stack.pop()
        if isinstance(item, str):
            count += len(item)
        elif isinstance(item, dict):
            count += sum(map(len, item))
            stack += item.values()
        elif isinstance(item, list | tuple) and item and type(item[0]) is not int:
            stack += item
        else:
            count += len(item) if isinstance(item, list) else 1
    return count


def check() -> None:
    """To be called now and then by what takes long. Raises CancelledError when this thread works for nobody; elsewhere it does nothing."""
    job: Job[object] | None = getattr(_here, "job", None)
    if job is not None and job.is_cancelled:
        raise CancelledError


class TextJobs:
    """Of one model. `wake` is called, in any thread, when a job is done."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        self.wake = wake
        self._threads: dict[str, ThreadPoolExecutor] = {}

    def start(self, work: Callable[[], T], num_chars: int) -> Job[T]:
        job = Job(work)
        lane = "waiting-texts" if num_chars == WAITS else "long-texts" if num_chars > LONG_CHARS else "texts"
        if lane not in self._threads:
            self._threads[lane] = ThreadPoolExecutor(_NUM_THREADS[lane], thread_name_prefix=lane)
        self._threads[lane].submit(self._run, job)
        return job

    def _run(self, job: Job[T]) -> None:
        job.run()
        self.wake()
