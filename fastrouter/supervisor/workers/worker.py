"""What the supervisor needs of a worker and of what makes workers: process.py and fork_server.py have it, and what tests and the simulator
hand in instead. Plain faces.

Invariant: after `on_exit` of a worker nothing comes from it any more, and `is_closed` is true.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fastrouter._core import TokenRing


class Worker(Protocol):
    """One worker. Its owner sets the callbacks."""

    on_message: Callable[[Any], None]
    on_exit: Callable[[], None]  # everything it said before has been delivered

    @property
    def pid(self) -> int | None: ...  # None: it is not up yet
    @property
    def exit_code(self) -> int | None: ...  # negative: the signal; None: it runs, or it never came up
    @property
    def is_closed(self) -> bool: ...
    @property
    def broke_protocol(self) -> str | None: ...
    @property
    def lines(self) -> Sequence[str]: ...  # what it wrote last on its standard error
    @property
    def ring(self) -> TokenRing: ...

    def send(self, message: Any) -> None: ...

    def tell(self, on_line: Callable[[str], None]) -> None:
        """From here on its lines are a model's."""

    def kill(self) -> None:
        """`on_exit` follows. Idempotent."""

    def close(self) -> None:
        """Give up one that does not end."""


class WorkerMaker(Protocol):
    on_end: Callable[[], None]  # it has died, and is not started again by itself

    @property
    def pid(self) -> int | None: ...

    def start(self) -> None:
        """Also again after `on_end`. Raises FastrouterError, OSError."""

    def spawn(self) -> Worker:
        """One that is on its way up. Raises FastrouterError, OSError."""

    def note_worker(self) -> None:
        """One that it made is up."""

    def reap(self, known_pids: set[int]) -> bool:
        """Collect processes that ended before they could say who they are. False: no process is left at all."""

    def close(self) -> None:
        """Workers without a model end with it. Idempotent."""
