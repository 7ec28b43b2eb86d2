"""Threads that compile grammars. Small grammars have separate threads, so that none waits for a large one.

Never imports: worker.sampling.grammar. Invariant: nothing here keeps the process alive. When a job does not end, another thread is
started in place of the one that it blocks.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Generic, TypeVar

STACK_BYTES = 64 << 20  # only the part that is used takes memory; the compiler's recursion is as deep as the grammar
NUM_THREADS = {"small": 2, "large": 1}
MAX_SMALL = 8 << 10  # characters
MAX_STARTED = 8  # threads of all kinds

Result = TypeVar("Result")


class Compilers(Generic[Result]):
    def __init__(self) -> None:
        self._queues: dict[str, SimpleQueue[tuple[Future[Result], Callable[[], Result]]]] = {kind: SimpleQueue() for kind in NUM_THREADS}
        self._num_started = 0
        self._open: set[Future[Result]] = set()  # jobs that are not done

    def __repr__(self) -> str:
        return f"<Compilers {self._num_started} threads {[queue.qsize() for queue in self._queues.values()]} waiting>"

    def submit(self, job: Callable[[], Result], num_characters: int) -> Future[Result]:
        """Cancelled futures are not started."""
        if not self._num_started:
            for kind, count in NUM_THREADS.items():
                for _ in range(count):
                    self._start(kind)
        future: Future[Result] = Future()
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        self._queues[_kind_of(num_characters)].put((future, job))
        return future

    def close(self) -> None:
        """Waits for the jobs that run, and cancels the others."""
        wait([future for future in list(self._open) if not future.cancel()])

    def replace(self, num_characters: int) -> None:
        """Call it if a job of this size does not end."""
        if self._num_started < MAX_STARTED:
            self._start(_kind_of(num_characters))

    def _start(self, kind: str) -> None:
        usual = threading.stack_size(STACK_BYTES)
        try:
            threading.Thread(target=self._run, args=(self._queues[kind],), name=f"grammars-{kind}", daemon=True).start()
        finally:
            threading.stack_size(usual)
        self._num_started += 1

    def _run(self, queue: "SimpleQueue[tuple[Future[Result], Callable[[], Result]]]") -> None:
        while True:
            future, job = queue.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = job()
            except BaseException as error:  # the caller that waits for it gets this error
                future.set_exception(error)
            else:
                future.set_result(result)


def _kind_of(num_characters: int) -> str:
    return "small" if num_characters <= MAX_SMALL else "large"
