"""Reads the calls of a format: finds the reader for its syntax, and knows which markers begin and end them."""

from collections.abc import Callable

from fastrouter.worker.text.parsers.calls import BracesReader, Desk, NameReader, read_json_calls, read_pythonic
from fastrouter.worker.text.parsers.elements import ElementsReader
from fastrouter.worker.text.parsers.format import Braces, Calls, Elements, JsonObject, NameThenJson, Pythonic, Tagged
from fastrouter.worker.text.parsers.markers import Markers
from fastrouter.worker.text.parsers.source import MalformedError, Reading
from fastrouter.worker.text.parsers.tagged import TaggedReader

_JSON = JsonObject()
LONGEST_NOISE = 256  # characters in a section of calls that do not belong to a call


class CallReader:
    """The calls of one format."""

    __slots__ = ("_desk", "_may_be_json", "_read_one", "_section", "after", "bare", "starts")

    def __init__(self, desk: Desk, calls: Calls) -> None:
        self._desk = desk
        names = _names(calls)
        self.starts = {"section": calls.section_open, "call": calls.open, "name": names}
        self.after = tuple(text for text in (calls.close, calls.section_close, calls.between) if text.strip())
        self.bare = _first_of(calls) if calls.bare else ""  # the character that begins a call without a marker
        inner = {"call": calls.open, "name": names, "close": (calls.section_close,) if calls.section_close else ()}
        self._section = Markers(inner) if calls.open or names else None
        self._read_one = _reader(desk, calls)
        self._may_be_json = isinstance(calls.syntax, NameThenJson | Tagged | Elements)

    def read(self, start: str) -> Reading[None]:
        """Read what follows one of the starts."""
        if start == "section" and self._section and not (yield from self._read_to_call(self._section)):
            return
        if self._may_be_json and (yield from self._desk.source.skip_space()) in ("{", "["):
            yield from read_json_calls(self._desk, _JSON, False)  # models confuse the two syntaxes
            return
        yield from self._read_one(start == "bare")
        while start == "section" and not self._section and (yield from self._desk.source.skip_space()) == "{":
            yield from self._read_one(False)  # one object after the other, with nothing between them

    def _read_to_call(self, markers: Markers) -> Reading[bool]:
        """In a section of calls: skip what is before the first call. False if the section is empty."""
        source = self._desk.source
        noise = ""
        while True:
            free, hit = markers.find(source.text, source.at, source.ended)
            noise = (noise + source.text[source.at : free]).lstrip()
            source.at = free - max(0, len(noise) - LONGEST_NOISE)
            if source.at < free or (hit and hit.meaning == "close" and noise):
                raise MalformedError
            if hit:
                source.at = hit.start if hit.meaning == "name" else hit.end
                return hit.meaning != "close"
            yield from source.more()


def _names(calls: Calls) -> tuple[str, ...]:
    """The text before the name of a call; if the model forgot the marker, this text begins the call."""
    before = calls.syntax.before_name if isinstance(calls.syntax, Tagged | Elements) else ""
    leads = any(text[0].isspace() for text in calls.open if text)
    return (("\n" if leads else "") + before,) if before.strip() else ()


def _first_of(calls: Calls) -> str:
    return "[" if isinstance(calls.syntax, Pythonic) or (isinstance(calls.syntax, JsonObject) and calls.syntax.array) else "{"


def _reader(desk: Desk, calls: Calls) -> Callable[[bool], Reading[None]]:
    syntax = calls.syntax
    if isinstance(syntax, JsonObject):
        return lambda bare: read_json_calls(desk, syntax, bare)
    if isinstance(syntax, Pythonic):
        return lambda bare: read_pythonic(desk, syntax, bare)
    if isinstance(syntax, NameThenJson):
        named = NameReader(syntax)
        return lambda bare: named.read(desk)
    if isinstance(syntax, Braces):
        braces = BracesReader(syntax)
        return lambda bare: braces.read(desk)
    if isinstance(syntax, Tagged):
        tagged = TaggedReader(syntax, calls.open, calls.close)
        return lambda bare: tagged.read(desk)
    if isinstance(syntax, Elements):
        elements = ElementsReader(syntax)
        return lambda bare: elements.read(desk)
    raise TypeError(f"{type(syntax).__name__} has a separate reader")
