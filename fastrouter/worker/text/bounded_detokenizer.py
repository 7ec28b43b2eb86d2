"""Limits that end an answer by its text or by the clock: `n_indent` and `t_max_predict_ms`, by llama-server's rules.

Knows no sequence. Invariant: text after the limit is never sent, and a sequence without limits has a plain Detokenizer.
"""

import time
from collections.abc import Callable

from fastrouter.worker.text.detokenizer import Detokenizer, PieceTable


class BoundedDetokenizer(Detokenizer):
    """Ends the text before a line that is indented less, or after a line end that comes after the time limit."""

    __slots__ = ("_clock_ns", "_end_ns", "_indent", "_least_indent", "_limit_ns")

    def __init__(
        self, pieces: PieceTable, stop: list[str], n_indent: int, limit_ms: int, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """`n_indent`: blanks and tabs that every line but the first begins with. `limit_ms`: counted from the first token. 0: no limit."""
        super().__init__(pieces, stop)
        self._least_indent = n_indent
        self._indent = -1  # of the line that begins; -1: inside a line
        self._clock_ns = clock_ns
        self._limit_ns = limit_ms * 1_000_000
        self._end_ns = 0  # 0: no token yet

    def count_from(self, begun_ns: int) -> None:
        self._end_ns = begun_ns + self._limit_ns

    def push(self, token: int) -> bytes:
        text = super().push(token)
        if self._least_indent:
            text = self._cut(text)
        if self._limit_ns:
            if not self._end_ns:
                self._end_ns = self._clock_ns() + self._limit_ns
            elif b"\n" in text and not self.is_stopped and self._clock_ns() > self._end_ns:
                text += self.finish()
                self._stop()
        return text

    def finish(self) -> bytes:
        return self._cut(super().finish()) if self._least_indent else super().finish()

    def _cut(self, text: bytes) -> bytes:
        """The text up to the first character that is indented too little."""
        for position, byte in enumerate(text):
            if byte == 10 and self._indent < 0:
                self._indent = 0
            elif self._indent >= 0 and byte in b" \t":
                self._indent += 1
            elif self._indent >= 0:
                if self._indent < self._least_indent:
                    self._stop()
                    return text[:position]
                self._indent = 0 if byte == 10 else -1
        return text

    def _stop(self) -> None:
        self.is_stopped, self.stop_type, self.stopping_word = True, "limit", ""
