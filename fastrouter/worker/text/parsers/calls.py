"""Reads one tool call, or a list of them, in each syntax without tags."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fastrouter.worker.text.parsers.format import Braces, JsonObject, NameThenJson, Pythonic
from fastrouter.worker.text.parsers.markers import MORE, NO, Marker
from fastrouter.worker.text.parsers.source import MalformedError, Reading, Source
from fastrouter.worker.text.parsers.values import JSON, PYTHON, Dialect, Write, braces, escaped, read_string, read_value
from fastrouter.worker.text.parsers.writer import Writer

LONGEST_NAME = 256
LONGEST_TEXT = 2048  # of a name or a key as it is written, with escapes; a longer one cannot be known
NAME_CHARACTERS = r"\w.:/@$ \t\r\n-"
_NAME = re.compile(r"[\w.:/@$-]+")
_NUMBERED = re.compile(r":\d+\Z")


@dataclass(frozen=True, slots=True)
class Desk:
    """What a reader of calls works with."""

    source: Source
    writer: Writer
    tools: Mapping[str, Mapping[str, Any]]  # the schema of each tool's parameters

    def begin(self, name: str, bare: bool = False) -> None:
        """Called when the name of a call is known. A call without a marker must name one of the tools."""
        if len(name) > LONGEST_NAME or not _NAME.fullmatch(name) or (bare and self.tools and name not in self.tools):
            raise MalformedError
        self.writer.call(name)

    def end(self) -> None:
        """Called when the call is complete; the text after it does not belong to it."""
        self.writer.end_call()
        if not self.writer.whole:
            self.source.keep()


def read_name(source: Source, ends: tuple[Marker, ...], allowed: str = NAME_CHARACTERS, stays: bool = False) -> Reading[tuple[str, int]]:
    """Read up to one of these markers: (the text before it, which marker it is). The marker is read too unless `stays` is set."""
    seen = 0
    wrong = _none_of(allowed)
    while True:
        text, at = source.text, source.at + seen
        while at < len(text):
            found = [marker.match(text, at, source.ended) for marker in ends]
            if MORE in found:
                break
            best = max(range(len(ends)), key=lambda which: found[which])
            if found[best] != NO:
                name, source.at = text[source.at : at], at if stays else found[best]
                return name, best
            if at - source.at >= LONGEST_NAME or wrong.match(text, at):
                raise MalformedError
            at += 1
        seen = at - source.at
        yield from source.more()


@lru_cache(maxsize=8)
def _none_of(characters: str) -> re.Pattern[str]:
    return re.compile(f"[^{characters}]" if characters else r"(?!)")


# --- {"name": ..., "arguments": {...}} ----------------------------------------------------------
def read_json_calls(desk: Desk, syntax: JsonObject, bare: bool) -> Reading[None]:
    """Read an object, or an array of them."""
    source = desk.source
    if (yield from source.skip_space()) != "[" or (bare and not syntax.array):
        yield from _read_object(desk, syntax, bare)
        desk.end()
        return
    source.at += 1
    while True:
        yield from source.skip_space()
        yield from _read_object(desk, syntax, bare)
        desk.end()
        following = yield from source.skip_space()
        if following not in (",", "]"):
            raise MalformedError
        source.at += 1
        if following == "]":
            return


class _Call:
    """What is known so far of a call that is written as an object."""

    __slots__ = ("arguments", "begun", "done", "name")

    def __init__(self) -> None:
        self.name = ""
        self.begun = False
        self.done = False  # the arguments have been read
        self.arguments: list[str] = []  # read before the name was known


def _read_object(desk: Desk, syntax: JsonObject, bare: bool) -> Reading[None]:
    call = _Call()
    yield from _read_members(desk, syntax, call, bare)
    if not call.begun or (bare and not call.done):
        raise MalformedError
    if not call.done:
        desk.writer.arguments("{}")


def _read_members(desk: Desk, syntax: JsonObject, call: _Call, bare: bool) -> Reading[None]:
    source = desk.source
    yield from source.expect("{")
    if (yield from source.skip_space()) == "}":
        source.at += 1
        return
    while True:
        key = yield from _read_text(source)
        if (yield from source.skip_space()) != ":":
            raise MalformedError
        source.at += 1
        yield from _read_member(desk, syntax, call, key, bare)
        following = yield from source.skip_space()
        if following not in (",", "}"):
            raise MalformedError
        source.at += 1
        if following == "}":
            return
        yield from source.skip_space()


def _read_member(desk: Desk, syntax: JsonObject, call: _Call, key: str, bare: bool) -> Reading[None]:
    source = desk.source
    following = yield from source.skip_space()
    if syntax.name_is_key and not call.begun:
        _named(desk, call, key, bare)
        yield from _read_arguments(desk, call)
    elif key in (syntax.function_key, "function") and following == "{":
        yield from _read_members(desk, syntax, call, bare)
    elif key in syntax.name_keys and following == '"' and not call.begun:
        _named(desk, call, (yield from _read_text(source)), bare)
    elif key in syntax.arguments_keys and not call.done:
        yield from _read_arguments(desk, call)
    else:
        yield from read_value(source, _nothing, JSON)


def _named(desk: Desk, call: _Call, name: str, bare: bool) -> None:
    desk.begin(name, bare)
    call.begun = True
    for text in call.arguments:
        desk.writer.arguments(text)


def _read_arguments(desk: Desk, call: _Call) -> Reading[None]:
    write: Write = desk.writer.arguments if call.begun else call.arguments.append
    yield from read_arguments(desk.source, write)
    call.done = True


def read_arguments(source: Source, write: Write) -> Reading[None]:
    """Read an object. Some models write it as a string that holds JSON, or null if it is empty."""
    following = yield from source.skip_space()
    if following == "{":
        yield from read_value(source, write, JSON)
        return
    parts: list[str] = []
    yield from read_value(source, parts.append, JSON)
    write(_object_in("".join(parts)))


def _object_in(text: str) -> str:
    try:
        value = json.loads(text)
        if value is None:
            return "{}"
        inner = value.strip() if isinstance(value, str) else ""
        if inner and isinstance(json.loads(inner), dict):
            return inner
    except (ValueError, RecursionError):
        pass
    raise MalformedError


def _nothing(_: str) -> None:
    """For values that do not matter."""


def _read_text(source: Source) -> Reading[str]:
    """Read a short string."""
    yield from source.expect('"')
    parts: list[str] = []
    length = 0

    def write(text: str) -> None:
        nonlocal length
        length += len(text)
        if length <= LONGEST_TEXT:
            parts.append(text)

    yield from read_string(source, write, '"', JSON)
    try:
        return str(json.loads('"' + "".join(parts) + '"')) if length <= LONGEST_TEXT else ""
    except ValueError:
        raise MalformedError from None


# --- the name, then JSON ------------------------------------------------------------------------
class NameReader:
    """Reads the name of a call, and the JSON after it."""

    __slots__ = ("_after_arguments", "_after_id", "_before", "_before_json", "_ends", "_numbered")

    def __init__(self, syntax: NameThenJson) -> None:
        self._numbered = syntax.numbered
        self._after_id = (Marker.of(syntax.after_id),) if syntax.after_id else ()
        self._before = Marker.of(syntax.before_name)
        self._before_json = Marker.of(syntax.after_name) if syntax.after_name.strip() else None
        ids = (Marker.of(syntax.before_id),) if syntax.before_id else ()
        self._ends = (self._before_json or Marker(("{",), False, False), *ids)
        self._after_arguments = Marker.of(syntax.after_arguments)

    def read(self, desk: Desk) -> Reading[None]:
        """Read one call."""
        source = desk.source
        yield from source.skip_space()
        if self._after_id:
            yield from read_name(source, self._after_id)
        yield from accept(source, self._before)
        name, which = yield from read_name(source, self._ends)
        if which:  # an id follows
            yield from read_name(source, self._ends[:1])
        if self._before_json is None:
            source.at -= 1
        desk.begin(self._clean(name.strip()))
        yield from read_arguments(source, desk.writer.arguments)
        yield from source.skip_space()
        yield from accept(source, self._after_arguments)
        desk.end()

    def _clean(self, name: str) -> str:
        return _NUMBERED.sub("", name) if self._numbered else name


def accept(source: Source, marker: Marker) -> Reading[bool]:
    """Read a marker if it comes next."""
    while (end := marker.match(source.text, source.at, source.ended)) == MORE:
        yield
    if end == NO:
        return False
    source.at = end
    return True


# --- [f(a=1), g()] ------------------------------------------------------------------------------
_IDENTIFIER = re.compile(r"[^\W\d][\w.-]*")


def read_pythonic(desk: Desk, syntax: Pythonic, bare: bool) -> Reading[None]:
    """Read a list of calls as Python writes them."""
    source = desk.source
    yield from source.skip_space()
    yield from source.expect(syntax.open)
    while True:
        yield from source.skip_space()
        name, _ = yield from read_name(source, (_PAREN,))
        if not _IDENTIFIER.fullmatch(name.strip()):
            raise MalformedError
        desk.begin(name.strip(), bare)
        yield from _read_keywords(desk)
        desk.end()
        following = yield from source.skip_space()
        if following not in (",", syntax.close):
            raise MalformedError
        source.at += 1
        if following == syntax.close:
            return


_PAREN = Marker(("(",), False, False)
_EQUALS = Marker(("=",), False, False)


def _read_keywords(desk: Desk) -> Reading[None]:
    """Read `a=1, b="x")`."""
    source, write = desk.source, desk.writer.arguments
    separator = "{"
    seen: set[str] = set()
    while (yield from source.skip_space()) != ")":
        name, _ = yield from read_name(source, (_EQUALS,))
        key = name.strip()
        if not _IDENTIFIER.fullmatch(key) or key in seen:
            raise MalformedError
        seen.add(key)
        write(separator + '"' + escaped(key) + '": ')
        separator = ", "
        yield from source.skip_space()
        yield from read_value(source, write, PYTHON)
        following = yield from source.skip_space()
        if following not in (",", ")"):
            raise MalformedError
        source.at += following == ","
    source.at += 1
    write("{}" if separator == "{" else "}")


# --- call:f{a:1} --------------------------------------------------------------------------------
class BracesReader:
    """Reads Gemma's calls."""

    __slots__ = ("_before", "_dialect")

    def __init__(self, syntax: Braces) -> None:
        self._before = Marker.of(syntax.before_name)
        self._dialect: Dialect = braces(syntax.quote)

    def read(self, desk: Desk) -> Reading[None]:
        """Read one call."""
        source = desk.source
        yield from source.skip_space()
        yield from accept(source, self._before)
        name, _ = yield from read_name(source, (_BRACE,))
        source.at -= 1
        desk.begin(name.strip())
        yield from read_value(source, desk.writer.arguments, self._dialect)
        desk.end()


_BRACE = Marker(("{",), False, False)
