"""What the workers of each model have written, with the time: stored up to a limit, and sent to listeners. Never imports:
supervisor.workers.process.

Invariant: a stored line is printable and is one line, whatever a worker wrote; a model keeps at most MAX_LINES lines and MAX_BYTES bytes.
"""

import logging
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import merge

log = logging.getLogger("fastrouter.worker")

MAX_LINES = 1000
MAX_BYTES = 256 << 10
LAST_WORDS = 20  # lines that an error carries
MAX_LAST_WORD = 512  # characters of each

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_SPACES = re.compile(r"[\t\v\f\x1c-\x1f\x85\u2028\u2029]")  # where str.splitlines, and a reader, would see a new line


def clean_line(text: str) -> str:
    """Without escape codes and control characters. Where text overwrites itself on a terminal, only the last version stays."""
    text = text.rstrip()
    if text.isprintable():
        return text
    text = _ESCAPES.sub("", text).rstrip().rpartition("\r")[2]
    text = _SPACES.sub(" ", text)
    return "".join(character for character in text if character >= " " and not "\x7f" <= character <= "\x9f").rstrip()


@dataclass(frozen=True, slots=True)
class Line:
    time: float  # seconds since 1970
    model: str
    text: str


class ModelLog:
    """The lines of one model, from all its workers."""

    def __init__(self, model_id: str, tell: Callable[[Line], None]) -> None:
        self._model_id = model_id
        self._tell = tell
        self._lines: deque[Line] = deque()
        self._num_bytes = 0
        self._num_new = 0  # lines of the current worker, stored or not

    def __repr__(self) -> str:
        return f"<ModelLog {self._model_id} {len(self._lines)} lines>"

    def write(self, text: str) -> None:
        """Add a line from its worker, cleaned."""
        self._num_new += 1
        log.debug("%s | %s", self._model_id, text, extra={"model": self._model_id, "event": "worker_line"})
        self._keep(text)

    def begin(self, pid: int | None) -> Callable[[str], None]:
        """A worker loads the model (None: it is still starting). Returns where its lines go."""
        self._keep(f"--- {_name_of(pid)} loads the model ---")
        self._num_new = 0
        return self.write

    def end(self, pid: int | None, how: str | None) -> list[str]:
        """How it ended (None: as the router wanted). Returns its last lines, unless the router wanted the end."""
        stderr_tail = self._last_words() if how is not None else []
        self._keep(f"--- {_name_of(pid)} {how or 'was ended by the router'} ---")
        return stderr_tail

    def _keep(self, text: str) -> None:
        line = Line(time.time(), self._model_id, text)
        self._lines.append(line)
        self._num_bytes += len(text.encode())
        while len(self._lines) > MAX_LINES or self._num_bytes > MAX_BYTES:
            self._num_bytes -= len(self._lines.popleft().text.encode())
        self._tell(line)

    def lines(self) -> list[Line]:
        return list(self._lines)

    def _last_words(self) -> list[str]:
        count = min(LAST_WORDS, self._num_new, len(self._lines))
        return [self._lines[index].text[:MAX_LAST_WORD] for index in range(-count, 0)]


def _name_of(pid: int | None) -> str:
    return "a worker" if pid is None else f"worker {pid}"


class Logs:
    """The logs of all models, and their listeners."""

    def __init__(self) -> None:
        self._logs: dict[str, ModelLog] = {}
        self._listeners: list[Callable[[Line], None]] = []

    def __repr__(self) -> str:
        return f"<Logs of {len(self._logs)} models, {len(self._listeners)} listeners>"

    def of(self, model_id: str) -> ModelLog:
        found = self._logs.get(model_id)
        if found is None:
            found = self._logs[model_id] = ModelLog(model_id, self._tell)
        return found

    def lines(self, model_id: str | None) -> list[Line]:
        """The oldest first; None: of all models. Does not create a log."""
        if model_id is None:
            return list(merge(*(kept.lines() for kept in self._logs.values()), key=lambda line: line.time))
        return self._logs[model_id].lines() if model_id in self._logs else []

    def listen(self, listener: Callable[[Line], None]) -> Callable[[], None]:
        """Call `listener` for each line of each model, until the returned function is called."""
        self._listeners.append(listener)

        def leave() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return leave

    def _tell(self, line: Line) -> None:
        for listener in list(self._listeners):
            try:
                listener(line)
            except Exception:  # a mistake in one listener must not stop the others or the supervisor
                log.exception("a listener of the workers' lines failed")
