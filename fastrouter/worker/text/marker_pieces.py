"""How the tokens of a format's markers are shown. One object per model.

Knows the vocabulary, but no request, sampler or slot. Invariant: a marker is text for the parser, even if it is a control token; all
other control tokens stay hidden.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any

from fastrouter.worker.llama.vocab import Vocab
from fastrouter.worker.text.detokenizer import PieceTable
from fastrouter.worker.text.parsers.format import Channels, Format, Recipients

_NUM_KEPT = 16


class MarkerPieces:
    """Of one model."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self.of = lru_cache(_NUM_KEPT)(self._of)

    def _of(self, format: Format, is_special: bool) -> PieceTable:
        """`is_special`: all control tokens are shown."""
        return PieceTable(self._vocab, special=is_special, shown=self._tokens_of(format))

    def _tokens_of(self, format: Format) -> frozenset[int]:
        """The control tokens in its markers."""
        found: set[int] = set()
        for text in texts_of(format):
            found.update(self._vocab.tokenize(text, add_special=False, parse_special=True))
        return frozenset(token for token in found if not self._vocab.token_to_piece(token, special=False))


def is_always_parsed(format: Format) -> bool:
    """Whether even a plain answer has markers."""
    return bool(format.drop) or isinstance(format.calls and format.calls.syntax, Channels | Recipients)


def texts_of(value: Any) -> Iterator[str]:
    """All texts in a format."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from texts_of(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from texts_of(getattr(value, field.name))
