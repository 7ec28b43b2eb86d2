"""The output of llama.cpp: which lines go to stderr, and which one is the cause of a failure. Never imports: worker.llama.binding,
worker.llama.model.

Invariant: a piece that continues a line goes to the same place.
"""

import re
import sys
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from fastrouter.options.load import QUIET

_DEBUG, _INFO, _WARN, _ERROR, _CONT = 1, 2, 3, 4, 5  # ggml's levels
_LEAST_BY_VERBOSITY = {QUIET: _WARN, QUIET + 1: _INFO}  # llama-server's verbosity; above: everything
_HARMLESS = re.compile(r"[Uu]sing special_pad_id instead|failed to find a memory slot")  # llama.cpp calls these errors, but continues
_UNSAID = re.compile(r"ffprobe|failed to decode buffer as")  # about a broken picture, whose request gets an error of ours
_BUFFER = re.compile(r": +(\S+) +(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")
_PREFIX = re.compile(r"(?:\w+: )?(?:error loading model: )?(?:\w+_\w+: )?")  # C++ functions, and words that the error contains anyway


class LlamaLog:
    def __init__(self) -> None:
        self._least = _WARN
        self._is_shown = False
        self.buffers: Counter[tuple[str, str]] = Counter()  # bytes of all that were allocated so far, by (kind, name of the buffer type)
        self._troubles: deque[tuple[int, str]] = deque(maxlen=8)  # (level, line) of the last warnings and errors

    def set_verbosity(self, verbosity: int) -> None:
        self._least = _LEAST_BY_VERBOSITY.get(max(verbosity, QUIET), _DEBUG)

    @contextmanager
    def errors_only(self) -> Iterator[None]:
        least, self._least = self._least, _ERROR
        try:
            yield
        finally:
            self._least = least

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Nothing is shown, and there is no cause."""
        least, self._least = self._least, _CONT + 1
        try:
            yield
        finally:
            self._least = least

    def take(self, level: int, text: bytes, _: int = 0) -> None:
        """llama.cpp's callback."""
        if b"buffer size" in text:
            self._note_buffer(text.decode("utf-8", "replace"))
        if level != _CONT:
            self._is_shown = level >= self._least and not _UNSAID.search(text.decode("utf-8", "replace"))
        if self._is_shown:
            line = text.decode("utf-8", "replace")
            sys.stderr.write(line)
            if _WARN <= level <= _ERROR and line.strip():
                self._troubles.append((_WARN if _HARMLESS.search(line) else level, line.strip()))

    def _note_buffer(self, line: str) -> None:
        """llama.cpp has no other way to tell a program in C how much is where."""
        if found := _BUFFER.search(line):
            name, kind, mib = found.groups()
            self.buffers[kind, name] += int(float(mib) * (1 << 20))

    def clear(self) -> None:
        self._troubles.clear()

    def cause(self) -> str:
        """In one line. llama.cpp reports from the inside out: its first error is the cause, the others are consequences."""
        first = next((line for level, line in self._troubles if level == _ERROR), self._troubles[-1][1] if self._troubles else "")
        return _PREFIX.sub("", first, count=1)
