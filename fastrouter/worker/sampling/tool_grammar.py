"""Tools and the format of a model -> the Lark grammar of its tool calls, for llguidance. Pure.

The grammar writes markers and white space as the model usually does, so the model can follow it without effort. Arguments follow the schema
of the tool's parameters. Knows no sampler: its user decides where in the answer the grammar begins.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson

from fastrouter.worker.sampling.grammar_rules import Part, Rules, quoted
from fastrouter.worker.sampling.json_grammar import SPACINGS, JsonGrammar, exact_value
from fastrouter.worker.sampling.parameter_schema import (
    enum_texts,
    is_text,
    properties_of,
    sub_schema,
)
from fastrouter.worker.sampling.tool_wish import Tool, Wish, cleaned, name_of
from fastrouter.worker.text.parsers.format import (
    Braces,
    Calls,
    Channels,
    Elements,
    Format,
    JsonObject,
    NameThenJson,
    Pythonic,
    Recipients,
    Syntax,
    Tagged,
)
from fastrouter.worker.text.parsers.schema import types_in

Named = list[tuple[str, Any]]
Segments = Callable[[str], Iterable[str | int]]  # a marker's plain texts, and the ids of its special tokens

_MAX_DEPTH = 6  # of values that are written part by part
_COUNTED = {"minItems", "maxItems", "uniqueItems", "prefixItems", "minProperties", "maxProperties", "patternProperties"}
_ANY_TEXT = "/(?s:.*)/"


def triggers(format: Format) -> tuple[str, ...]:
    """Texts after which a call must follow: there the grammar of an optional call begins. Without white space at the
    ends. Empty: calls of this format begin without a marker, so only required calls can follow a grammar."""
    calls = format.calls
    if calls is None or isinstance(calls.syntax, Recipients):
        return ()
    if isinstance(calls.syntax, Channels):
        body = calls.syntax.body
        return (body.section_open[0].strip() if body else calls.syntax.recipient + calls.syntax.namespace,)
    return tuple(marker.strip() for marker in calls.section_open or calls.open if marker.strip())


def call_grammar(format: Format, wish: Wish, segments: Segments, *, after: str | None = None) -> str:
    """`after`: the trigger that has been written already, None: the grammar begins where the answer does. Raises ValueError for a format
    without calls, and where the grammar is too large."""
    if format.calls is None:
        raise ValueError(f"the format {format.name} has no tool calls")
    return _Builder(format.calls, wish, segments).build(after)


class _Builder:
    def __init__(self, calls: Calls, wish: Wish, segments: Segments) -> None:
        self._calls = calls
        self._wish = wish
        self._segments = segments
        self._rules = Rules()
        self._json_of: dict[int, JsonGrammar] = {}  # by the identity of the root, which it keeps

    def build(self, after: str | None) -> str:
        syntax = self._calls.syntax
        if isinstance(syntax, Channels):
            start = self._channels(syntax, is_begun=after is not None)
        elif isinstance(syntax, Recipients):
            start = self._parts(syntax)
        else:
            start = self._marked(after)
        return self._rules.text(start)

    # ------------------------------------------------------------ pieces of a grammar

    def _text(self, text: str) -> str:
        """Terms for a marker: plain text as a string, a special token by its id."""
        return self._terms(self._segments(text))

    def _terms(self, parts: Iterable[str | int]) -> str:
        return " ".join(f"<[{part}]>" if isinstance(part, int) else quoted(part) for part in parts if part != "")

    def _until(self, marker: str) -> str:
        """Any text, then this marker. White space before a special token may be missing."""
        parts = list(self._segments(marker))
        special = next((number for number, part in enumerate(parts) if isinstance(part, int)), None)
        if special is not None:
            return f"{self._rules.add(_ANY_TEXT)} {self._terms(parts[special:])}"
        return f"{self._rules.add(_ANY_TEXT, f'[suffix={quoted(marker)}]')}"

    def _json(self, root: dict[str, Any], value: Any) -> str:
        """`value`: a part of the root's schema, or the root."""
        found = self._json_of.get(id(root))
        if found is None:
            found = self._json_of[id(root)] = JsonGrammar(self._rules, root, keeps_order=self._wish.keeps_order)
        return found.value(value)

    def _arguments(self, tool: Tool) -> str:
        schema = self._schema(tool, name_of(tool))
        return self._json(schema, schema)

    def _in_any_order(self, parts: list[Part], comma: str = "") -> str:
        return self._rules.in_any_order(parts, quoted(comma) if comma else "", keeps_order=self._wish.keeps_order)

    def _schema(self, tool: Tool, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "object"} if name in self._wish.loose else cleaned(tool)
        return found

    def _repeated(self, item: str, between: str, *, is_parallel: bool) -> str:
        if not is_parallel:
            return item
        return f"{item} ({self._text(between)} {item})*"

    # ------------------------------------------------------------ the calls of an answer

    def _marked(self, after: str | None) -> str:
        """Calls between markers."""
        calls, syntax = self._calls, self._calls.syntax
        call = self._rules.any_of(self._call(syntax, tool) for tool in self._wish.tools)
        usual_open = self._text(calls.open[0]) if calls.open else ""
        close = self._text(calls.close)
        is_array = isinstance(syntax, JsonObject) and syntax.array
        if is_array or isinstance(syntax, Pythonic):
            items = self._repeated(call, ", ", is_parallel=self._wish.is_parallel)
            opened, closed = (syntax.open, syntax.close) if isinstance(syntax, Pythonic) else ("[", "]")
            call, one = f"{self._text(opened)} {items} {self._text(closed)}", True
        else:
            one = not self._wish.is_parallel
        single = f"{usual_open} {call} {close}"
        is_apart = calls.open and calls.open[0].startswith(calls.between)  # the marker has the white space between two calls
        more = "" if one else f"({'' if is_apart else self._text(calls.between)} {single})*"
        section_close = self._text(calls.section_close)
        if after is None and calls.section_open:
            return f"{self._text(calls.section_open[0].lstrip())} {single} {more} {section_close}"
        if after is None:
            first_open = self._text(calls.open[0].lstrip()) if calls.open else ""
            return f"{first_open} {call} {close} {more} {section_close}"
        if calls.section_open:
            return f"{self._rest_of(calls.section_open, after)} {single} {more} {section_close}"
        return f"{self._rest_of(calls.open, after)} {call} {close} {more} {section_close}"

    def _rest_of(self, markers: Sequence[str], trigger: str) -> str:
        """The white space that ends the marker whose visible part has been written."""
        marker = next(marker for marker in markers if marker.strip() == trigger)
        return self._text(marker[len(marker.rstrip()) :])

    def _call(self, syntax: Syntax, tool: Tool) -> str:
        name = str(tool["function"]["name"])
        schema = self._schema(tool, name)
        if isinstance(syntax, JsonObject):
            return self._json_object(syntax, name, schema)
        if isinstance(syntax, NameThenJson):
            return self._name_then_json(syntax, name, schema)
        if isinstance(syntax, Tagged):
            return self._tagged(syntax, name, schema)
        if isinstance(syntax, Elements):
            parts = self._elements(syntax, schema, schema)
            return f"{self._text(syntax.before_name + name + syntax.after_name)} {parts} {self._text(syntax.end)}"
        if isinstance(syntax, Pythonic):
            return self._pythonic(name, schema)
        if isinstance(syntax, Braces):
            return f"{self._text(syntax.before_name + name)} {self._braces(syntax, schema)}"
        raise AssertionError(f"no grammar for {syntax}")

    # ------------------------------------------------------------ syntaxes

    def _json_object(self, syntax: JsonObject, name: str, schema: dict[str, Any]) -> str:
        arguments = self._json(schema, schema)
        if syntax.name_is_key:
            return f"{quoted('{' + quoted(name) + ': ')} {arguments} {quoted('}')}"
        identity = f'{quoted(f"{quoted(syntax.id_key)}: ")} /"[0-9A-Za-z_-]{{1,40}}"/ {quoted(", ")}' if syntax.id_key else ""
        opened = f"{quoted(syntax.name_keys[0])}: {quoted(name)}, {quoted(syntax.arguments_keys[0])}: "
        is_wrapped = syntax.function_key and not self._calls.bare  # most models leave it out if the answer is a call without markers
        if is_wrapped:
            opened = f"{quoted(syntax.function_key)}: {{{opened}"
        closed = "}}" if is_wrapped else "}"
        return f"{quoted('{')} {identity} {quoted(opened)} {arguments} {quoted(closed)}"

    def _name_then_json(self, syntax: NameThenJson, name: str, schema: dict[str, Any]) -> str:
        numbered = '":" /[0-9]{1,4}/' if syntax.numbered else ""
        identity = f"({self._text(syntax.before_id)} /[0-9A-Za-z_-]{{1,40}}/)?" if syntax.before_id else ""
        first = f"/[0-9A-Za-z_-]{{1,40}}/ {self._text(syntax.after_id)}" if syntax.after_id else ""
        before, after = self._text(syntax.before_name + name), self._text(syntax.after_name)
        return f"{first} {before} {numbered} {identity} {after} {self._json(schema, schema)} {self._text(syntax.after_arguments)}"

    def _tagged(self, syntax: Tagged, name: str, schema: dict[str, Any]) -> str:
        parameters = []
        for key, value, is_needed in properties_of(schema):
            types = types_in(value, schema)
            is_string = is_text(types)
            kind = ""
            if syntax.after_type:
                kind = (syntax.string_types or ("true",))[0] if is_string else _type_word(types, syntax.string_types)
            opened = self._text(
                syntax.before_key + (_escaped(key) if syntax.entities else key) + syntax.after_key + kind + syntax.after_type
            )
            parameter = f"{opened} {self._tagged_value(syntax, schema, value, is_string=is_string)}"
            parameters.append((parameter, is_needed))
        written = _escaped(name) if syntax.entities else name
        number = f"/[0-9]{{1,4}}/ {self._text(syntax.after_number)}" if syntax.after_number else ""
        opened = self._text(syntax.before_name + written + syntax.after_name)
        return f"{opened} {number} {self._in_any_order(parameters)} {self._text(syntax.end)}"

    def _tagged_value(self, syntax: Tagged, schema: dict[str, Any], value: Any, *, is_string: bool) -> str:
        if not is_string:
            return f"{self._json(schema, value)} {self._text(syntax.after_value)}"
        texts = enum_texts(value)
        if texts:
            return f"({' | '.join(map(quoted, texts))}) {self._text(syntax.after_value)}"
        return self._until(syntax.after_value)

    def _elements(self, syntax: Elements, root: dict[str, Any], schema: dict[str, Any], depth: int = 0) -> str:
        found = properties_of(schema)
        return self._in_any_order([(self._element(syntax, root, key, value, depth), is_needed) for key, value, is_needed in found])

    def _element(self, syntax: Elements, root: dict[str, Any], key: str, value: Any, depth: int) -> str:
        types = types_in(value, root)
        opened, closed = f"{syntax.mark}<{key}>", f"{syntax.mark}</{key}>"
        if is_text(types):
            texts = " | ".join(map(quoted, enum_texts(value)))
            return f"{self._text(opened)} {f'({texts}) {self._text(closed)}' if texts else self._until(closed)}"
        if types == {"object"} and _is_plain(value, "properties", depth):
            inner = self._rules.add(self._elements(syntax, root, sub_schema(root, value), depth + 1))
        elif types == {"array"} and _is_plain(value, "items", depth):
            inner = f"({self._rules.add(self._element(syntax, root, syntax.item, value['items'], depth + 1))})*"
        else:
            inner = self._json(root, value)
        return f"{self._text(opened)} {inner} {self._text(closed)}"

    def _pythonic(self, name: str, schema: dict[str, Any]) -> str:
        keywords = [(self._keyword(schema, key, value), is_needed) for key, value, is_needed in properties_of(schema)]
        return f"{quoted(name + '(')} {self._in_any_order(keywords, ', ')} {quoted(')')}"

    def _keyword(self, schema: dict[str, Any], key: str, value: Any) -> str:
        types = types_in(value, schema)
        if types and types <= {"boolean", "null"}:
            words = ["True", "False"] * ("boolean" in types) + ["None"] * ("null" in types)
            return f"{quoted(key + '=')} ({' | '.join(map(quoted, words))})"
        return f"{quoted(key + '=')} {self._json(schema, value)}"

    def _braces(self, syntax: Braces, schema: dict[str, Any], depth: int = 0) -> str:
        pairs = [
            (f"{quoted(key + ':')} {self._braced_value(syntax, schema, value, depth)}", is_needed)
            for key, value, is_needed in properties_of(schema)
        ]
        return f"{quoted('{')} {self._in_any_order(pairs, ',')} {quoted('}')}"

    def _braced_value(self, syntax: Braces, root: dict[str, Any], value: Any, depth: int) -> str:
        types = types_in(value, root)
        if is_text(types):
            texts = enum_texts(value)
            inner = f"({' | '.join(map(quoted, texts))}) {self._text(syntax.quote)}" if texts else self._until(syntax.quote)
            return f"{self._text(syntax.quote)} {inner}"
        if types == {"object"} and _is_plain(value, "properties", depth):
            return self._braces(syntax, sub_schema(root, value), depth + 1)
        if types == {"array"} and _is_plain(value, "items", depth):
            item = self._rules.add(self._braced_value(syntax, root, value["items"], depth + 1))
            return f'"[" ({item} ("," {item})*)? "]"'
        return self._json(root, value)

    # ------------------------------------------------------------ formats with more than calls

    def _channels(self, syntax: Channels, *, is_begun: bool) -> str:
        """One call: after it, the turn is over. Or the answer, if it has a form."""
        call = self._rules.any_of(self._channel_call(syntax, tool, is_begun=is_begun) for tool in self._wish.tools)
        if is_begun:
            return f"{self._rest_of(syntax.body.section_open, syntax.body.section_open[0].strip())} {call}" if syntax.body else call
        thought = f"{self._text(syntax.header(syntax.thought))} {self._until(syntax.ends[0])}"
        channel = f"{syntax.channel}commentary " if syntax.channel else " "
        turns = [f"{self._text(channel + syntax.recipient + syntax.namespace)} {call}"]
        if self._wish.answer:
            turns.append(f"{self._text(syntax.header(syntax.answer))} {self._answer()}")
        return f"({thought} {self._text(syntax.start + 'assistant')})? {self._rules.any_of(turns)}"

    def _answer(self) -> str:
        """In the schema's order, as every answer that a schema binds."""
        return exact_value(self._rules, orjson.loads(self._wish.answer), SPACINGS[self._wish.answer_whitespace])

    def _channel_call(self, syntax: Channels, tool: Tool, *, is_begun: bool) -> str:
        """From the name in its header on; if the message has begun already, what is in the message."""
        name, body = str(tool["function"]["name"]), syntax.body
        if body is not None:
            opened = "" if is_begun else self._text(name + syntax.message + body.section_open[0])
            return f"{opened} {self._call(body.syntax, tool)} {self._text(body.section_close)}"
        header = f'({self._text(" " + syntax.constrain)} "json" | " json")?'
        return f"{quoted(name)} {header} {self._text(syntax.message)} {self._arguments(tool)}"

    def _parts(self, syntax: Recipients) -> str:
        """The prompt ends with the marker that opens the first part."""
        calls = []
        for tool in self._wish.tools:
            calls.append(f"{quoted(name_of(tool) + chr(10))} {self._arguments(tool)}")
        return self._repeated(self._rules.any_of(calls), syntax.open, is_parallel=self._wish.is_parallel)


def _is_plain(value: Any, parts: str, depth: int) -> bool:
    """Whether a value is written part by part, and not as JSON: nothing else is required of it, and it does not contain itself."""
    return isinstance(value, dict) and isinstance(value.get(parts), dict) and depth < _MAX_DEPTH and not _COUNTED & value.keys()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;")


def _type_word(types: set[str], string_types: tuple[str, ...]) -> str:
    """For a format that writes types: how it writes a type other than string."""
    if set(string_types) <= {"true"}:
        return "false"
    return next(iter(sorted(types)), "object")
