"""The text of a model while it comes: the part that is not read yet, and where a call began.

A reader is a generator: it yields when it needs more text. Text that is read is dropped, so the text here stays short.
"""

from collections.abc import Generator
from typing import TypeVar

_T = TypeVar("_T")
Reading = Generator[None, None, _T]

SPACE = " \t\r\n"
WIDEST_GAP = 64  # white space between the parts of a marker


class MalformedError(Exception):
    """What was read is not a call."""


class Source:
    """The text that has come and is not read yet."""

    __slots__ = ("_kept", "_kept_from", "at", "ended", "text")

    def __init__(self) -> None:
        self.text = ""
        self.at = 0  # everything before it is read
        self.ended = False
        self._kept: list[str] | None = None
        self._kept_from = 0

    def add(self, text: str) -> None:
        """More text has come."""
        if self._kept is not None:
            self._kept.append(self.text[self._kept_from : self.at])
            self._kept_from = 0
        self.text = self.text[self.at :] + text if self.at < len(self.text) else text
        self.at = 0

    def keep(self) -> None:
        """Keep all text that is read from here on, for the case that it is not a call."""
        self._kept, self._kept_from = [], self.at

    def take_kept(self) -> str:
        """The text that was read since `keep`; it is not kept any more."""
        kept = [*(self._kept or ()), self.text[self._kept_from : self.at]] if self._kept is not None else []
        self._kept = None
        return "".join(kept)

    def more(self) -> Reading[None]:
        """Wait for more text."""
        if self.ended:
            raise MalformedError
        yield

    def peek(self) -> Reading[str]:
        """The next character, which stays unread."""
        while self.at == len(self.text):
            yield from self.more()
        return self.text[self.at]

    def skip_space(self) -> Reading[str]:
        """Read white space; the character after it stays unread. "" if the text ends."""
        while True:
            text, at = self.text, self.at
            while at < len(text) and text[at] in SPACE:
                at += 1
            self.at = at
            if at < len(text):
                return text[at]
            if self.ended:
                return ""
            yield

    def accept(self, expected: str) -> Reading[bool]:
        """Read this text if it comes next."""
        while True:
            have = self.text[self.at : self.at + len(expected)]
            if have == expected:
                self.at += len(expected)
                return True
            if self.ended or not expected.startswith(have):
                return False
            yield

    def expect(self, expected: str) -> Reading[None]:
        """Read this text, which has to come next."""
        if not (yield from self.accept(expected)):
            raise MalformedError
