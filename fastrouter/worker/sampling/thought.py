"""Whether a model is in its thought or its answer, found in the raw pieces of its tokens. Pure: bytes in, states out.

Separate from the parser, because the next token's sampler must know it while stop strings still hold back the text. Invariant: only
white space is allowed before a marker that opens a thought; a marker inside the answer is text.
"""

import re
from collections.abc import Sequence
from enum import Enum


class Place(Enum):
    """Where the next token belongs."""

    START = "start"  # a thought may be opened here, or the answer begins
    THOUGHT = "thought"
    ANSWER = "answer"


class ThoughtWatch:
    __slots__ = ("_closes", "_head", "_opens", "place", "rest")

    def __init__(self, opens: Sequence[str], closes: Sequence[str], *, is_open: bool) -> None:
        """`is_open`: the prompt has opened the thought."""
        self._opens = _cores(opens)
        self._closes = MarkerWatch(closes)
        self._head = b""  # the text at the start, while it may become a marker
        self.place = Place.THOUGHT if is_open else Place.START
        self.rest = b""  # the text after a marker that has closed a thought, in the same piece

    def __repr__(self) -> str:
        return f"<ThoughtWatch {self.place.value} {self._head!r} {self._closes!r}>"

    @property
    def is_quiet(self) -> bool:
        """A piece changes nothing unless a marker may begin in it."""
        return self.place is Place.ANSWER or (self.place is Place.THOUGHT and self._closes.is_quiet)

    def push(self, piece: bytes) -> bool:
        """True if this piece has closed the thought."""
        if self.place is Place.START:
            piece = self._open(self._head + piece)
            self._head = piece if self.place is Place.START else b""
        rest = self._closes.push(piece) if self.place is Place.THOUGHT else None
        if rest is None:
            return False
        self.place, self.rest = Place.START, rest
        return True

    def _open(self, text: bytes) -> bytes:
        """The text after the marker, if there is one."""
        begun = text.lstrip()
        for marker in self._opens:
            if begun.startswith(marker):
                self.place = Place.THOUGHT
                return begun[len(marker) :]
        if begun and not any(marker.startswith(begun) for marker in self._opens):
            self.place = Place.ANSWER
        return begun


class MarkerWatch:
    """Looks for markers in the pieces of tokens."""

    __slots__ = ("_begin", "_markers", "_num_kept", "_tail")

    def __init__(self, markers: Sequence[str]) -> None:
        self._markers = _cores(markers)
        self._num_kept = max(map(len, self._markers), default=1) - 1
        firsts = b"".join(re.escape(marker[:1]) for marker in self._markers)
        self._begin = re.compile(b"[" + firsts + b"]" if firsts else b"(?!)").search  # where a marker may begin
        self._tail = b""  # the end of the text, from there on

    def __repr__(self) -> str:
        return f"<MarkerWatch {self._tail!r}>"

    @property
    def is_quiet(self) -> bool:
        """No marker may have begun."""
        return not self._tail

    def push(self, piece: bytes) -> bytes | None:
        """The text after a marker that this piece has completed; None: it has completed none."""
        if not self._tail and self._begin(piece) is None:
            return None
        text = self._tail + piece
        end = min((at + len(marker) for marker in self._markers if (at := text.find(marker)) >= 0), default=-1)
        kept = text[-self._num_kept :] if end < 0 and self._num_kept else b""
        begun = self._begin(kept)
        self._tail = kept[begun.start() :] if begun else b""
        return text[end:] if end >= 0 else None


def _cores(markers: Sequence[str]) -> list[bytes]:
    return [core.encode() for marker in markers if (core := marker.strip())]
