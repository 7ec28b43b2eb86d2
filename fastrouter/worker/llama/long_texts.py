"""Long texts to tokens: in pieces, where a cut changes nothing; and a lower bound for their number before any work is done.

Knows only one vocabulary. Never imports: worker.llama.context. Invariant: the tokens of the pieces are exactly the tokens of the whole
text.

llama.cpp's SentencePiece tokenizer takes time that grows with the square of the number of characters that the vocabulary does not know:
it allocates memory again for each of them. No token contains such a character, so nothing is merged across it, and a text may be cut
before it:

    known words of the text ... | 🙂 and so on ... | 🙂🙂🙂 ...

Two rules look at more than one character. The text after a special token gets a space in front and may lose its own, so there is no cut
between a special token and the next character that is not a space. And the text of each call gets a space in front, so each later piece
is read after a character that is unknown too, and the tokens of that character are then dropped.
"""

import re
from collections.abc import Callable, Iterator

from fastrouter.worker.text_jobs import check

PIECE_CHARS = 4096
_WHITE_SPACE = b" \t\n\v\f\r"
_ESCAPED_SPACE = "\u2581"  # SentencePiece's character for a space
_find_ink = re.compile(r"\S").search

Tokenize = Callable[[str, bool, bool], list[int]]


class Cutter:
    """For a SentencePiece vocabulary."""

    def __init__(self, texts: list[bytes], special: list[bytes], tokenize: Tokenize) -> None:
        """`texts`: those of all tokens except single bytes; `special`: those of tokens that are found in a text before all others."""
        self._tokenize = tokenize
        self._known = {_ESCAPED_SPACE}.union(*(text.decode("utf-8", "replace") for text in texts))
        found_first = [text.decode("utf-8", "replace") for text in special]
        self._special_starts = {text[:1] for text in found_first}
        self._special_ends = {text[-1:] for text in found_first}
        self._unknown = next((char for char in map(chr, range(0xE000, 0xF8FF)) if char not in self._known), None)  # of private use

    def tokenize(self, text: str, parse_special: bool, piece_chars: int = PIECE_CHARS) -> list[int]:
        """Without the tokens that a vocabulary adds at the ends."""
        if self._unknown is None:
            return self._tokenize(text, False, parse_special)
        num_dropped = len(self._tokenize(self._unknown, False, parse_special))
        tokens: list[int] = []
        for index, piece in enumerate(self.cut(text, piece_chars)):
            check()
            if index:
                tokens += self._tokenize(self._unknown + piece, False, parse_special)[num_dropped:]
            else:
                tokens += self._tokenize(piece, False, parse_special)
        return tokens

    def cut(self, text: str, piece_chars: int = PIECE_CHARS) -> Iterator[str]:
        """Pieces of at least this many characters; longer ones if there is no safe place."""
        start = 0
        unknown = set(text) - self._known
        if unknown:
            for end in self._ends(text, piece_chars, re.compile("[" + "".join(map(re.escape, unknown)) + "]").search):
                yield text[start:end]
                start = end
        yield text[start:]

    def _ends(self, text: str, piece_chars: int, find: Callable[[str, int], "re.Match[str] | None"]) -> Iterator[int]:
        """Where a piece ends: before an unknown character."""
        seen, last = 0, ""  # the last character before `seen` that is not white space
        ink = _find_ink(text)  # the first character from `end` on that is not white space; None: there is none
        found = find(text, piece_chars)
        while found is not None:
            end = found.start()
            last = text[seen:end].rstrip()[-1:] or last
            seen = end
            if ink is not None and ink.start() < end:
                ink = _find_ink(text, end)
            if last in self._special_ends or (ink is not None and ink.group() in self._special_starts):
                found = find(text, max(end + 1, ink.start() if ink is not None else len(text)))
            else:
                yield end
                found = find(text, end + piece_chars)


class Bound:
    """How few tokens can hold a text, at least."""

    def __init__(self, pieces: list[bytes], *, may_drop_bytes: bool, may_swallow_space: bool) -> None:
        """`may_drop_bytes`: bytes that are not tokens may vanish; `may_swallow_space`: special tokens remove spaces around them."""
        self._longest = max(map(len, pieces), default=1) or 1
        single = {piece[0] for piece in pieces if len(piece) == 1}
        self._uncounted = bytes(byte for byte in range(256) if byte not in single) if may_drop_bytes else b""
        self._uncounted += _WHITE_SPACE if may_swallow_space else b""

    def least_tokens(self, text: str) -> int:
        data = text.encode("utf-8", "replace")
        if self._uncounted:
            data = data.translate(None, self._uncounted)
        return -(-len(data) // self._longest)
