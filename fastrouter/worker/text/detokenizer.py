"""Tokens in, text out that may be sent: whole UTF-8 characters only, and never a part of a stop string.

Owns the pieces of a vocabulary (PieceTable, one per model) and what one sequence holds back (Detokenizer). Knows no llama.cpp, rings or
requests. Invariant: what was sent, what is held and the bytes of an unfinished character are together all the text so far; held text is
the longest end of the text that could still become a stop string, so a later match never begins in what was sent.
"""

import codecs
import re
from typing import Protocol

_decoder = codecs.getincrementaldecoder("utf-8")


class Pieces(Protocol):
    """The part of a vocabulary that is needed here."""

    n_tokens: int

    def token_to_piece(self, token: int, special: bool = True) -> bytes: ...


class PieceTable:
    """Token -> its bytes, asked for once. Control tokens are empty, as in llama-server's answers, unless `special` or among `shown`."""

    __slots__ = ("_pieces", "_shown", "_special", "_vocab", "whole")

    def __init__(self, vocab: Pieces, *, special: bool = False, shown: frozenset[int] = frozenset()) -> None:
        self._vocab = vocab
        self._special = special
        self._shown = shown
        self._pieces: list[bytes | None] = [None] * vocab.n_tokens
        # the piece if it is whole UTF-8, b"" if it is not (or is empty), None if not asked yet
        self.whole: list[bytes | None] = [None] * vocab.n_tokens

    def __repr__(self) -> str:
        return f"<PieceTable {len(self._pieces) - self._pieces.count(None)} of {len(self._pieces)}>"

    def piece(self, token: int) -> bytes:
        piece = self._pieces[token]
        if piece is None:
            piece = self._pieces[token] = self._vocab.token_to_piece(token, self._special or token in self._shown)
            self.whole[token] = piece if _is_utf8(piece) else b""
        return piece


class Detokenizer:
    """One sequence's text. `push` each token, then `finish` once."""

    __slots__ = ("_decoder", "_find_start", "_held", "_is_idle", "_stops", "_whole", "is_stopped", "pieces", "stop_type", "stopping_word")

    def __init__(self, pieces: PieceTable, stop: list[str]) -> None:
        self.pieces = pieces
        self._whole = pieces.whole
        self._decoder = _decoder("replace")
        self._stops = [(word, word.encode("utf-8", "surrogatepass")) for word in stop if word]
        starts = b"".join(re.escape(encoded[:1]) for _, encoded in self._stops)
        self._find_start = re.compile(b"[" + starts + b"]").search if starts else None
        self._held = b""
        self._is_idle = True  # nothing is held and the text continues
        self.is_stopped = False
        self.stop_type = "word"  # the reason, once `is_stopped` is set
        self.stopping_word = ""

    def __repr__(self) -> str:
        return f"<Detokenizer held {self._held!r} pending {self._decoder.getstate()[0]!r} stopped {self.stopping_word!r}>"

    def push(self, token: int) -> bytes:
        """The text that may be sent now; empty when it is held back, or after a stop string."""
        if self._is_idle:
            piece = self._whole[token]
            if piece is None:
                self.pieces.piece(token)
                piece = self._whole[token]
            if piece and (self._find_start is None or self._find_start(piece) is None):
                return piece
        elif self.is_stopped:
            return b""
        text = self._scan(self._decoder.decode(self.pieces.piece(token)).encode())
        self._is_idle = not (self._held or self.is_stopped or self._decoder.getstate()[0])
        return text

    def finish(self) -> bytes:
        """What is still held back; an unfinished character becomes U+FFFD."""
        if self.is_stopped:
            return b""
        text = self._scan(self._decoder.decode(b"", final=True).encode()) + self._held
        if self.is_stopped:  # by a stop string that ends in U+FFFD
            return text
        self._held = b""
        self._is_idle = True
        return text

    def count_from(self, begun_ns: int) -> None:
        """When its text began; a limit of time counts from there."""

    def end(self) -> None:
        """Later tokens do not belong to the text."""
        self.is_stopped, self.stop_type, self._held = True, "eos", b""

    def _scan(self, text: bytes) -> bytes:
        """The part of held + `text` that can go out. Sets `is_stopped` and drops the rest at a stop string."""
        if not self._stops:
            return text
        text = self._held + text
        end, held_from = len(text), len(text)
        for word, encoded in self._stops:
            found = text.find(encoded, 0, end + len(encoded) - 1)  # only a match that begins before the best one so far
            if found >= 0:
                end, self.stopping_word, self.is_stopped = found, word, True
            elif not self.is_stopped:
                held_from = _partial(text, encoded, held_from)
        if self.is_stopped:
            self._held = b""
            return text[:end]
        self._held = text[held_from:]
        return text[:held_from]


def _partial(text: bytes, stop: bytes, limit: int) -> int:
    """Where the longest end of `text` starts that is also a start of `stop`; `limit` if that is not before `limit`."""
    start = text.find(stop[:1], max(0, len(text) - len(stop) + 1), limit)
    while start >= 0:
        if stop.startswith(text[start:]):
            return start
        start = text.find(stop[:1], start + 1, limit)
    return limit


def _is_utf8(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True
