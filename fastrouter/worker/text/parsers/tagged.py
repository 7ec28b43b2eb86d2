"""Reads calls whose parameters are between tags. Values are bare text; the schema tells their types."""

from collections.abc import Mapping
from typing import Any

from fastrouter.worker.text.parsers.calls import Desk, accept, read_name
from fastrouter.worker.text.parsers.format import Tagged
from fastrouter.worker.text.parsers.markers import MORE, NO, Hit, Marker, Markers, skip_gap
from fastrouter.worker.text.parsers.schema import to_json, types_of
from fastrouter.worker.text.parsers.source import MalformedError, Reading, Source
from fastrouter.worker.text.parsers.values import Write, escaped

_STRING = frozenset(("string",))
_NO_STRING = frozenset(("object", "array", "number", "integer", "boolean", "null"))
_ENTITIES = (("&quot;", '"'), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))


class TaggedReader:
    """Reads the calls of one format."""

    __slots__ = (
        "_after_key",
        "_before_key",
        "_before_name",
        "_closes",
        "_ends",
        "_followers",
        "_name_ends",
        "_number_end",
        "_parameter",
        "_quoted",
        "_stops",
        "_syntax",
        "_type_end",
        "_value",
    )

    def __init__(self, syntax: Tagged, opens: tuple[str, ...], close: str) -> None:
        self._syntax = syntax
        self._before_name = Marker.of(syntax.before_name)
        self._before_key = Marker.of(syntax.before_key)
        self._after_key = Marker.of(syntax.after_key)
        self._value = Marker.of(syntax.after_value)
        self._number_end = Marker.of(syntax.after_number)
        self._type_end = Marker.of(syntax.after_type)
        end, closing = Marker.of(syntax.end), Marker.of(close)
        self._ends = (end,) if end.parts else ()  # these end the parameters, and are read too
        self._closes = (closing,) if closing.parts else ()  # these end them too, but stay unread
        after_name = Marker.of(syntax.after_name)
        self._name_ends = (after_name,) if after_name.parts else (self._before_key, *self._ends, *self._closes)
        if syntax.empty:
            self._name_ends += (Marker.of(syntax.empty),)
        self._parameter = (self._before_key, *self._ends, *self._closes)
        self._followers = {"value": self._parameter, "end": self._closes, "close": tuple(map(Marker.of, opens))}
        self._stops = Markers(self._what_ends_a_value(syntax, close))
        self._quoted = Markers({"value": (syntax.quotes[1] + syntax.after_value,)})

    def _what_ends_a_value(self, syntax: Tagged, close: str) -> dict[str, tuple[str, ...]]:
        """Its closing tag; if the model forgot it, what comes after the value."""
        stops: dict[str, tuple[str, ...]] = {"value": (syntax.after_value,)}
        if self._value.before:
            stops["key"] = (syntax.before_key,)
        if self._ends and self._closes:
            stops["end"] = (syntax.end,)
        if not self._ends and self._closes:
            stops["close"] = (close,)
        return stops

    def read(self, desk: Desk) -> Reading[None]:
        """Read one call."""
        source = desk.source
        yield from source.skip_space()
        if not (yield from accept(source, self._before_name)):
            raise MalformedError
        stays = not self._syntax.after_name.strip()
        name, which = yield from read_name(source, self._name_ends, stays=stays)
        name = self._plain(name.strip())
        if self._number_end.parts:
            yield from read_name(source, (self._number_end,))
        desk.begin(name)
        if not (self._syntax.empty and which == len(self._name_ends) - 1):
            yield from self._read_parameters(desk, desk.tools.get(name, {}))
        else:
            desk.writer.arguments("{}")
        desk.end()

    def _plain(self, text: str) -> str:
        if self._syntax.entities:
            for entity, character in _ENTITIES:
                text = text.replace(entity, character)
        return text

    def _read_parameters(self, desk: Desk, parameters: Mapping[str, Any]) -> Reading[None]:
        source, write = desk.source, desk.writer.arguments
        seen: set[str] = set()
        while True:
            yield from source.skip_space()
            if (yield from self._at_end(source)):
                break
            if not (yield from accept(source, self._before_key)):
                raise MalformedError
            key = self._plain((yield from read_name(source, (self._after_key,), ""))[0])
            types = yield from self._types(source, parameters, key)
            if self._after_key.after:
                yield from source.accept(self._after_key.after)
            if key in seen:
                yield from self._read_text(source, _nothing)
                continue
            write(f'{", " if seen else "{"}"{escaped(key)}": ')
            seen.add(key)
            yield from self._read_value(source, write, types)
        write("}" if seen else "{}")

    def _at_end(self, source: Source) -> Reading[bool]:
        for marker in self._ends:
            if (yield from accept(source, marker)):
                return True
        for marker in self._closes:
            while (end := marker.match(source.text, source.at, source.ended)) == MORE:
                yield
            if end != NO:
                return True
        return False

    def _types(self, source: Source, parameters: Mapping[str, Any], key: str) -> Reading[frozenset[str]]:
        """The types that a value may have, according to the model or the schema."""
        if not self._type_end.parts:
            return types_of(parameters, key)
        said, _ = yield from read_name(source, (self._type_end,))
        return _STRING if said in self._syntax.string_types else _NO_STRING

    def _read_value(self, source: Source, write: Write, types: frozenset[str]) -> Reading[None]:
        if types == _STRING:
            write('"')
            yield from self._read_text(source, lambda text: write(escaped(text)))
            write('"')
            return
        parts: list[str] = []
        yield from self._read_text(source, parts.append)
        write(to_json("".join(parts), types))

    def _read_text(self, source: Source, write: Write) -> Reading[None]:
        """Read a value and its end."""
        quote, skip = self._syntax.quotes[0], 0
        stops = self._quoted if quote and (yield from source.accept(quote)) else self._stops
        while True:
            text = source.text
            free, hit = stops.find(text, source.at + skip, source.ended)
            if hit:
                after = self._after(text, hit, source.ended)
                if after == NO:
                    skip = hit.start + 1 - source.at
                    continue
                if after != MORE:
                    write(text[source.at : self._without_before(text, source.at, hit.start)])
                    source.at = after
                    return
                free = hit.start
            kept = self._may_be_before(text, source.at, free)
            write(text[source.at : kept])
            skip, source.at = free - kept, kept
            yield from source.more()

    def _after(self, text: str, hit: Hit, ended: bool) -> int:
        """Where reading continues if a value ends here. An end that is not followed by what must follow is text."""
        if hit.meaning == "key":
            return hit.start if text.endswith(self._value.before, 0, hit.start) else NO
        resume = hit.end if hit.meaning == "value" else hit.start
        following = skip_gap(text, hit.end)
        if following == len(text):
            return resume if ended else MORE
        found = [follower.match(text, following, ended) for follower in self._followers[hit.meaning]]
        if any(place >= 0 for place in found):
            return resume
        return MORE if MORE in found else NO

    def _without_before(self, text: str, begin: int, end: int) -> int:
        """The end of a value, without the white space that belongs to the tag after it."""
        before = self._value.before
        return end - len(before) if before and end - begin >= len(before) and text.endswith(before, begin, end) else end

    def _may_be_before(self, text: str, begin: int, end: int) -> int:
        """The start of the white space that may belong to the tag after it."""
        before = self._value.before
        for length in range(min(len(before), end - begin), 0, -1):
            if text.endswith(before[:length], begin, end):
                return end - length
        return end


def _nothing(_: str) -> None:
    """Takes the value of a parameter that the model has written before, and drops it."""
