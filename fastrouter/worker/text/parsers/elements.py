"""Reads calls whose parameters are elements named after their keys, with the parts of objects and arrays as elements inside them.

Texts are bare; the schema tells their types. An element holds either a text or other elements.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from fastrouter.worker.text.parsers.calls import Desk, accept, read_name
from fastrouter.worker.text.parsers.format import Elements
from fastrouter.worker.text.parsers.markers import Marker, Markers
from fastrouter.worker.text.parsers.schema import part_of, to_json, types_in
from fastrouter.worker.text.parsers.source import SPACE, MalformedError, Reading, Source
from fastrouter.worker.text.parsers.values import DEEPEST, Write, escaped

_STRING = {"string"}
_EMPTY = {"object": "{}", "array": "[]", "null": "null"}  # what an element without content is, in the order of preference
_END_OF_TAG = Marker((">",), False, False)


@dataclass(slots=True)
class _Open:
    """An object or an array that is not complete."""

    schema: Any
    end: Marker
    write: Write
    is_array: bool | None  # None: the first part tells
    is_part_begun: bool = False  # the mark and the `<` of the first part have been read
    keys: set[str] = field(default_factory=set)
    num_parts: int = 0

    def begin(self, key: str, item: str) -> Write:
        """Writes what comes before a part. Returns where its value goes: nowhere if the model has written this key before."""
        if self.is_array is None:
            self.is_array = key == item
        if not self.is_array and key in self.keys:
            return _nothing
        self.write(", " if self.num_parts else "[" if self.is_array else "{")
        if not self.is_array:
            self.write(f'"{escaped(key)}": ')
        self.num_parts += 1
        self.keys.add(key)
        return self.write

    def close(self) -> None:
        opened, closed = "[]" if self.is_array else "{}"
        self.write(closed if self.num_parts else opened + closed)


class ElementsReader:
    """Reads the calls of one format."""

    __slots__ = ("_after_name", "_before_name", "_end", "_item", "_mark", "_tag")

    def __init__(self, syntax: Elements) -> None:
        self._before_name = Marker.of(syntax.before_name)
        self._after_name = (Marker.of(syntax.after_name),)
        self._end = Marker.of(syntax.end)
        self._mark = syntax.mark
        self._tag = syntax.mark + "<"
        self._item = syntax.item

    def read(self, desk: Desk) -> Reading[None]:
        """Read one call."""
        source = desk.source
        yield from source.skip_space()
        if not (yield from accept(source, self._before_name)):
            raise MalformedError
        name = (yield from read_name(source, self._after_name))[0].strip()
        desk.begin(name)
        yield from self._read_parts(source, _Open(desk.tools.get(name, {}), self._end, desk.writer.arguments, is_array=False))
        desk.end()

    def _read_parts(self, source: Source, parameters: _Open) -> Reading[None]:
        root, stack = parameters.schema, [parameters]
        while stack:
            inner = stack[-1]
            if not inner.is_part_begun:
                yield from source.skip_space()
                if (yield from accept(source, inner.end)):
                    stack.pop().close()
                    continue
                yield from source.expect(self._tag)
            inner.is_part_begun = False
            opened = yield from self._read_part(source, inner, root)
            if opened is not None:
                stack.append(opened)
            if len(stack) > DEEPEST:
                raise MalformedError

    def _read_part(self, source: Source, inner: _Open, root: Any) -> Reading[_Open | None]:
        """Read a text, or up to the first part of an object or an array, which is returned."""
        key = (yield from read_name(source, (_END_OF_TAG,), ""))[0]
        if key.startswith("/"):
            raise MalformedError
        write, end = inner.begin(key, self._item), f"{self._mark}</{key}>"
        schema = part_of(inner.schema, None if inner.is_array else key, root)
        types = types_in(schema, root)
        if types == _STRING:
            write('"')
            yield from _read_text(source, end, lambda text: write(escaped(text)))
            write('"')
            return None
        parts = [(yield from _read_space(source))]
        if not (yield from source.accept(self._tag)):
            yield from _read_text(source, end, parts.append)
        elif (yield from source.peek()) == "/":
            yield from source.expect(f"/{key}>")
        else:
            is_array = ("array" in types) if types & {"array", "object"} else None
            return _Open(schema, Marker.of(end), write, is_array, is_part_begun=True)
        write(_value("".join(parts), types))
        return None


def _value(text: str, types: set[str]) -> str:
    if not text.strip() and types and "string" not in types:
        return next((_EMPTY[kind] for kind in _EMPTY if kind in types), '""')
    return to_json(text, frozenset(types))


def _read_space(source: Source) -> Reading[str]:
    parts = []
    while (yield from source.peek()) in SPACE:
        parts.append(source.text[source.at])
        source.at += 1
    return "".join(parts)


def _read_text(source: Source, end: str, write: Write) -> Reading[None]:
    """Read a text and the end of its element."""
    stops = _stops(end)
    while True:
        free, hit = stops.find(source.text, source.at, source.ended)
        write(source.text[source.at : free])
        source.at = free
        if hit:
            source.at = hit.end
            return
        yield from source.more()


@lru_cache(maxsize=64)
def _stops(end: str) -> Markers:
    return Markers({"end": (end,)})


def _nothing(_: str) -> None:
    """Takes the value of a parameter that the model has written before, and drops it."""
