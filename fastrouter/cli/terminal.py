"""What a terminal can show (colours, marks, its width), and tables.

Invariant: a pipe or a file gets complete plain text: no colour, no mark, nothing shortened, no control character from other programs'
text.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

_COLOURS = {"good": "32", "busy": "33", "bad": "31", "faint": "2"}  # SGR
_LEAST_WIDTH = 20  # columns


@dataclass(frozen=True, slots=True)
class Look:
    """Abilities of one output stream."""

    is_terminal: bool = False
    can_erase: bool = False  # a line that is shown
    has_colour: bool = False
    has_unicode: bool = False
    width: int = 0  # columns; 0: nothing is shortened

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.has_colour and colour and text else text

    def shorten(self, text: str, width: int) -> str:
        """To `width` columns on a terminal."""
        if not self.width or len(text) <= width:
            return text
        end = "…" if self.has_unicode else "..."
        return text[: max(width, _LEAST_WIDTH) - len(end)].rstrip() + end


def look_of(stream: TextIO) -> Look:
    if not stream.isatty():
        return Look()
    is_dumb = os.environ.get("TERM") == "dumb"
    width = shutil.get_terminal_size((80, 24)).columns
    return Look(True, not is_dumb, not is_dumb and not os.environ.get("NO_COLOR"), _can_show("●○✗…", stream), width)


def _can_show(text: str, stream: TextIO) -> bool:
    try:
        text.encode(stream.encoding)
    except UnicodeEncodeError:
        return False
    return True


def plain(text: str) -> str:
    """Text from another program: on one line, without characters that would control the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def pad(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[list[str]]:
    """The cells, as wide as their columns; `right` names the columns with numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [cell.rjust(width) if at in right else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    for row in pad(rows):
        print("  ".join(row).rstrip())
