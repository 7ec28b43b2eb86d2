"""Puts the pieces of a parsed message together, as a client does."""

from collections.abc import Iterable
from typing import NamedTuple

from fastrouter.worker.text.parsers.parser import MessageParser
from fastrouter.worker.text.parsers.pieces import Kind, Piece


class Message(NamedTuple):
    """A message that has come whole."""

    text: str
    reasoning: str
    calls: tuple[tuple[str, str], ...]


def together(pieces: Iterable[Piece]) -> Message:
    """The message that these pieces make. Calls come in order, and a call's arguments after its name."""
    texts = {Kind.TEXT: "", Kind.REASONING: ""}
    calls: list[list[str]] = []
    for piece in pieces:
        assert piece.text
        if piece.kind is Kind.CALL:
            assert piece.index == len(calls)
            calls.append([piece.text, ""])
        elif piece.kind is Kind.ARGUMENTS:
            assert piece.index == len(calls) - 1
            calls[-1][1] += piece.text
        else:
            assert piece.index == 0
            texts[piece.kind] += piece.text
    return Message(texts[Kind.TEXT], texts[Kind.REASONING], tuple((name, arguments) for name, arguments in calls))


def read(parser: MessageParser, chunks: Iterable[str], cut: bool = False) -> Message:
    """What a parser makes of a text that comes in these chunks."""
    pieces: list[Piece] = []
    for chunk in chunks:
        pieces += parser.push(chunk)
    return together(pieces + parser.finish(cut))
