"""What the supervisor needs from a worker and from a maker of workers: process.py and fork_server.py implement it; tests and the simulator
pass in others.

Invariant: after `on_exit` of a worker nothing comes from it any more, and `is_closed` is true.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fastrouter._core import TokenRing
from fastrouter.ipc.descriptors import Descriptors
from fastrouter.supervisor.decide.hang import Look


class Worker(Protocol):
    """One worker. Its owner sets the callbacks."""

    on_message: Callable[[Any], None]
    on_exit: Callable[[], None]  # all its messages have been delivered before

    @property
    def pid(self) -> int | None: ...  # None: it is still starting
    @property
    def exit_code(self) -> int | None: ...  # negative: the signal; None: it runs, or it was never ready
    @property
    def is_closed(self) -> bool: ...
    @property
    def broke_protocol(self) -> str | None: ...
    @property
    def lines(self) -> Sequence[str]: ...  # what it wrote last on its standard error
    @property
    def ring(self) -> TokenRing: ...
    @property
    def descriptors(self) -> Descriptors: ...

    def send(self, message: Any) -> None: ...

    def tell(self, on_line: Callable[[str], None]) -> None:
        """From here on its lines belong to a model."""

    def kill(self) -> None:
        """`on_exit` follows. Idempotent."""

    def give_up(self) -> None:
        """Like `kill`, for a worker that hangs, also when the process that should start it hangs."""

    @property
    def is_stopped(self) -> bool:
        """Its process, or the one that should start it, was stopped by a signal."""

    def look(self) -> Look | None:
        """Its process as the system sees it, or the process that should start it; None: unknown."""

    def close(self) -> None:
        """Stop watching one that does not end."""


class WorkerMaker(Protocol):
    on_end: Callable[[], None]  # it has ended, and does not start again by itself

    @property
    def pid(self) -> int | None: ...

    def start(self) -> None:
        """Also again after `on_end`. Raises FastrouterError, OSError."""

    def spawn(self) -> Worker:
        """A worker that is still starting. Raises FastrouterError, OSError."""

    def note_worker(self) -> None:
        """One of its workers is ready."""

    def reap(self, known_pids: set[int]) -> bool:
        """Collect processes that ended before they reported who they are. False: no process is left."""

    def close(self) -> None:
        """Workers without a model end with it. Idempotent."""
