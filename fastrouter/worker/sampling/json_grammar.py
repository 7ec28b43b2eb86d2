"""A JSON schema -> terms of a Lark grammar in which the properties of objects may come in any order. Pure.

llguidance's own grammar of a schema has one order of properties. It is used for each part of a schema in which no object has
a choice, or that this module does not know. Invariant: each text of these terms follows the schema.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from fastrouter.worker.sampling.grammar_rules import Rules, quoted
from fastrouter.worker.sampling.parameter_schema import Schema, properties_of, resolved, sub_schema

COMMA, COLON = ", ?", ": ?"
# Between the tokens of JSON. Compact: a blank where most texts have one, so that models can write what they usually saw.
# Free: enough to indent, but not without a limit.
SPACINGS: dict[str, dict[str, Any]] = {
    "compact": {"whitespace_flexible": False, "item_separator": COMMA, "key_separator": COLON},
    "free": {"whitespace_pattern": r"( |\n {0,20})?"},
}
_OF_CALLS = {**SPACINGS["compact"], "coerce_one_of": True}  # better than any object, where it is not known that only one case fits
_NOTES = {"title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions", "deprecated", "nullable"}
_OBJECT = {"type", "properties", "required", "additionalProperties"}
_ARRAY = {"type", "items", "minItems", "maxItems"}
_MOST_ITEMS = 100  # that a grammar counts
_MOST_REPEATED = 256 << 10  # characters of definitions that are written again for each reference


class JsonGrammar:
    """Of the values in one root schema."""

    def __init__(self, rules: Rules, root: Schema, *, keeps_order: bool = False) -> None:
        self._rules = rules
        self._root = root
        self._keeps_order = keeps_order or _is_one_piece(root)
        self._targets: dict[int, str] = {}  # the rule of each object that a reference has led to

    def value(self, schema: Any) -> str:
        """`schema`: the root or a part of it."""
        return self._with_a_choice(schema) or self._exact(schema)

    def _exact(self, schema: Any) -> str:
        return exact_value(self._rules, schema if schema is self._root else sub_schema(self._root, schema))

    def _with_a_choice(self, schema: Any) -> str:
        """Empty: there is none, or the schema says something that is not known here."""
        if self._keeps_order or not isinstance(schema, Mapping):
            return ""
        keys = schema.keys() - _NOTES
        if keys == {"$ref"}:
            return self._target(resolved(self._root, schema))
        if keys in ({"anyOf"}, {"oneOf"}):
            return self._any_of(schema[keys.pop()])
        kind = schema.get("type")
        if isinstance(kind, list) and {"object", "array"} & {*filter(_is_text, kind)}:
            return self._one_of_types(schema, kind)
        if kind == "object" and keys <= _OBJECT and schema.get("additionalProperties") is False and schema.get("properties"):
            return self._object(dict(schema))
        if kind == "array" and keys <= _ARRAY and self._may_have_one(schema.get("items")):
            return self._array(schema)
        return ""

    def _any_of(self, cases: Any) -> str:
        if isinstance(cases, list) and any(map(self._may_have_one, cases)):
            return self._rules.any_of(map(self.value, cases))
        return ""

    def _may_have_one(self, schema: Any) -> bool:
        found = resolved(self._root, schema)
        return isinstance(found, Mapping) and bool({"properties", "items", "anyOf", "oneOf"} & found.keys())

    def _target(self, schema: Any) -> str:
        """It may contain itself."""
        if not self._may_have_one(schema):
            return ""
        if id(schema) not in self._targets:
            name = self._targets[id(schema)] = self._rules.new_name()
            self._rules.define(name, self.value(schema))
        return self._targets[id(schema)]

    def _one_of_types(self, schema: Mapping[str, Any], kinds: list[Any]) -> str:
        found = [self._with_a_choice({**schema, "type": kind}) for kind in kinds]
        if not any(found):
            return ""
        return self._rules.any_of(one or self._exact({**schema, "type": kind}) for one, kind in zip(found, kinds, strict=True))

    def _object(self, schema: Schema) -> str:
        # The values are those in the schema, not what their references lead to: `value` follows these and remembers them.
        given = schema["properties"]
        parts = [
            (f"{quoted(quoted(key))} /{COLON}/ {self.value(given.get(key, {}))}", is_needed) for key, _, is_needed in properties_of(schema)
        ]
        return f'"{{" {self._rules.in_any_order(parts, f"/{COMMA}/")} "}}"'

    def _array(self, schema: Mapping[str, Any]) -> str:
        low, high = schema.get("minItems", 0), schema.get("maxItems", _MOST_ITEMS)
        if not (type(low) is int and type(high) is int and 0 <= low <= high and 0 < high <= _MOST_ITEMS):
            return ""
        item = self._rules.add(self.value(schema["items"]))
        most = high - 1 if "maxItems" in schema else ""
        items = f"{item} (/{COMMA}/ {item}){{{max(low - 1, 0)},{most}}}"
        return f'"[" {items} "]"' if low else f'"[" ({items})? "]"'


def exact_value(rules: Rules, schema: Any, options: Mapping[str, Any] = _OF_CALLS) -> str:
    """llguidance's own grammar of a schema."""
    if isinstance(schema, dict):
        schema = {"x-guidance": options, **schema}
    return rules.add(f"%json {orjson.dumps(schema).decode()}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_one_piece(root: Schema) -> bool:
    """Its parts cannot stand alone: they refer to more than definitions, or each would bring many of these."""
    text, definitions = orjson.dumps(root), orjson.dumps([root.get("$defs"), root.get("definitions")])
    num_references = text.count(b'"$ref"')
    is_free = num_references == text.count(b'"$ref":"#/$defs/') + text.count(b'"$ref":"#/definitions/')
    return not is_free or num_references * len(definitions) > _MOST_REPEATED
