"""Tokens in which no marker can begin. Nearly all tokens of an answer are such, so they are known by their number."""

from collections.abc import Sequence

from fastrouter.worker.text.detokenizer import PieceTable

QUIET, _LOUD = 1, 2


class QuietTokens:
    """Of one vocabulary and some markers."""

    __slots__ = ("_firsts", "_pieces", "kinds")

    def __init__(self, pieces: PieceTable, markers: Sequence[str]) -> None:
        self._pieces = pieces
        self._firsts = frozenset(marker.strip().encode()[:1] for marker in markers) - {b""}
        self.kinds = bytearray(len(pieces.whole) + 1)  # QUIET: it is whole text in which no marker begins; 0: not known yet, use `look`
        self.kinds[-1] = _LOUD  # of -1, which is no token

    def look(self, token: int) -> int:
        """The kind of a token that is not known yet."""
        self._pieces.piece(token)
        whole = self._pieces.whole[token]
        is_loud = not whole or any(first in whole for first in self._firsts)
        self.kinds[token] = _LOUD if is_loud else QUIET
        return self.kinds[token]
