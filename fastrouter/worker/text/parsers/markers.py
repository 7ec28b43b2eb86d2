"""Finding markers in a text that comes in pieces."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from fastrouter.worker.text.parsers.source import SPACE, WIDEST_GAP

NO = -1
MORE = -2  # the text so far may become this marker


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker without the white space around it. White space inside it is optional."""

    parts: tuple[str, ...]
    leads: bool  # white space before it belongs to it
    trails: bool  # white space after it belongs to it
    before: str = ""  # the exact white space before it
    after: str = ""  # the exact white space after it

    @classmethod
    def of(cls, text: str) -> "Marker":
        """The marker that a format spells."""
        core = text.strip(SPACE)
        begin = text.index(core) if core else len(text)
        before, after = text[:begin], text[begin + len(core) :]
        return cls(tuple(core.split()), bool(before), bool(after), before, after)

    def match(self, text: str, at: int, ended: bool) -> int:
        """Where it ends, if it is at this place; else NO or MORE."""
        for number, part in enumerate(self.parts):
            if number:
                at = skip_gap(text, at)
            if text.startswith(part, at):
                at += len(part)
            elif not ended and len(text) - at < len(part) and part.startswith(text[at:]):
                return MORE
            else:
                return NO
        return at


def skip_gap(text: str, at: int) -> int:
    """The end of the white space that may be inside a marker."""
    limit = min(len(text), at + WIDEST_GAP)
    while at < limit and text[at] in SPACE:
        at += 1
    return at


@dataclass(frozen=True, slots=True)
class Hit:
    """A marker that was found, and what it means."""

    start: int
    end: int
    marker: Marker
    meaning: str


class QuietTexts(dict[bytes, bool]):
    """Whether no marker may begin in a text and the text does not end with white space. Most texts are tokens, so each is looked at only
    one time."""

    __slots__ = ("_begin",)

    MOST = 1 << 15  # texts that are remembered
    LONGEST = 64

    def __init__(self, begin: re.Pattern[str]) -> None:
        self._begin = begin

    def __missing__(self, text: bytes) -> bool:
        shown = text.decode("utf-8", "surrogatepass")
        found = shown[-1:] not in SPACE and self._begin.search(shown) is None
        if len(text) <= self.LONGEST and len(self) < self.MOST:
            self[text] = found
        return found


@lru_cache(maxsize=8)  # a model has few formats
def _quiet_texts(begin: re.Pattern[str]) -> QuietTexts:
    return QuietTexts(begin)


class Markers:
    """Several markers that are looked for together."""

    __slots__ = ("_begins", "_firsts", "_found", "_longest", "_markers", "leads", "quiet")

    def __init__(self, meanings: dict[str, tuple[str, ...]]) -> None:
        """Takes the spellings of each meaning. Spellings of an earlier meaning win."""
        pairs = [(Marker.of(text), meaning) for meaning, texts in meanings.items() for text in texts]
        self._markers = [(marker, meaning) for marker, meaning in pairs if marker.parts]
        self._firsts = tuple(dict.fromkeys(marker.parts[0] for marker, _ in self._markers))
        self._found = re.compile("|".join(map(re.escape, sorted(self._firsts, key=len, reverse=True))) or r"(?!)")
        begins = "".join(map(re.escape, sorted({first[0] for first in self._firsts})))
        self._begins = re.compile(f"[{begins}]" if begins else r"(?!)")  # where in a text a marker may begin
        self.quiet = _quiet_texts(self._begins)
        self._longest = max(map(len, self._firsts), default=1)
        self.leads = any(marker.leads for marker, _ in self._markers)

    def find(self, text: str, at: int, ended: bool) -> tuple[int, Hit | None]:
        """(how far the text has no markers, the marker at that place if it is known)."""
        while found := self._found.search(text, at):
            start = found.start()
            hit, waits = self._at(text, start, ended)
            if waits:
                return start, None
            if hit:
                return start, hit
            at = start + 1
        return (len(text) if ended else self._free(text, at)), None

    def half(self, text: str, at: int, counts: Callable[[Hit], bool]) -> int:
        """Where the text ends in the first part of a marker that counts; the end of the text if it does not."""
        while found := self._begins.search(text, at):
            at = found.start()
            for marker, meaning in self._markers:
                if marker.match(text, at, False) == MORE and counts(Hit(at, len(text), marker, meaning)):
                    return at
            at += 1
        return len(text)

    def _at(self, text: str, start: int, ended: bool) -> tuple[Hit | None, bool]:
        """The longest marker at a place, and whether a longer one is still possible."""
        best: Hit | None = None
        for marker, meaning in self._markers:
            end = marker.match(text, start, ended)
            if end == MORE:
                return None, True
            if end != NO and (best is None or end > best.end):
                best = Hit(start, end, marker, meaning)
        return best, False

    def _free(self, text: str, at: int) -> int:
        """Where a marker may begin that is not complete yet."""
        at = max(at, len(text) - self._longest + 1)
        while found := self._begins.search(text, at):
            rest = text[found.start() :]
            if any(first.startswith(rest) for first in self._firsts):
                return found.start()
            at = found.start() + 1
        return len(text)
