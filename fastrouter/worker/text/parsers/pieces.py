"""The output of a parser of a model's text: one piece after the other, each of one kind."""

from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What a piece belongs to."""

    TEXT = "text"  # the answer
    REASONING = "reasoning"  # the thought before it
    CALL = "call"  # a tool call begins; the text is the function's name
    ARGUMENTS = "arguments"  # a part of that call's arguments, which are JSON text


class Piece(NamedTuple):
    """A part of a message. Consecutive pieces of one kind (and one call) are one text."""

    kind: Kind
    text: str = ""
    index: int = 0  # type: ignore[assignment]  # the call's number among the calls of the message; 0 for TEXT and REASONING
