"""A marker of a format cut into what a grammar needs: plain texts, and special tokens by their ids. Pure."""

from typing import Protocol


class MarkerVocab(Protocol):
    """The part of a vocabulary that is needed here."""

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]: ...
    def is_special(self, token: int) -> bool: ...
    def token_to_piece(self, token: int, special: bool = True) -> bytes: ...


def segments_of(vocab: MarkerVocab, marker: str) -> list[str | int]:
    """A marker's plain texts, and the ids of its special tokens."""
    found: list[str | int] = []
    rest = marker
    for token in vocab.tokenize(marker, False, True) if marker else ():
        piece = vocab.token_to_piece(token).decode("utf-8", "replace") if vocab.is_special(token) else ""
        before, is_there, after = rest.partition(piece) if piece else (rest, "", rest)
        if is_there:
            found += [before, token] if before else [token]
            rest = after
    return [*found, rest] if rest else found
