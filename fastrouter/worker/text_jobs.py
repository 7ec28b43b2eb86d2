"""Work on long texts in separate threads: the model's loop continues meanwhile, and work that is not needed any more ends early.

Owns the threads. Never imports: worker.text, worker.llama, worker.kv. Invariant: short work never waits for long work, nor for another
process.
"""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

SHORT_CHARS = 4096  # a text of this length is tokenized in a millisecond: not worth a job
LONG_CHARS = 1 << 18
WAITS = -1  # instead of a number of characters: the job waits for another process
DECODES = -2  # the job decodes pictures
_LANES = {WAITS: "waiting-texts", DECODES: "pictures"}
_NUM_THREADS = {"texts": 2, "long-texts": 2, "waiting-texts": 8, "pictures": 2}

T = TypeVar("T")
_here = threading.local()  # `.job`: the work of this thread


class Job(Generic[T]):
    """Ends with a result or an error, or with CancelledError after `cancel`."""

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
        """Raises the error of the work."""
        return self._future.result()

    def cancel(self) -> None:
        """It ends at its next `check`."""
        self.is_cancelled = True


def count_chars(value: Any, most: int) -> int:
    """About how many characters and other values are in a JSON value; counting ends beyond `most`."""
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
    """Long work calls this now and then. Raises CancelledError when the job of this thread was cancelled; elsewhere it does nothing."""
    job: Job[object] | None = getattr(_here, "job", None)
    if job is not None and job.is_cancelled:
        raise CancelledError


class TextJobs:
    """The jobs of one model. `wake` is called, in any thread, when a job is done."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        self.wake = wake
        self._threads: dict[str, ThreadPoolExecutor] = {}

    def start(self, work: Callable[[], T], num_chars: int) -> Job[T]:
        job = Job(work)
        lane = _LANES.get(num_chars) or ("long-texts" if num_chars > LONG_CHARS else "texts")
        if lane not in self._threads:
            self._threads[lane] = ThreadPoolExecutor(_NUM_THREADS[lane], thread_name_prefix=lane)
        self._threads[lane].submit(self._run, job)
        return job

    def _run(self, job: Job[T]) -> None:
        job.run()
        self.wake()
