"""What the JSON schema of a tool's parameters says about each parameter. Pure; takes any JSON and never raises.

Schemas come from clients as they are: without type, without properties, with references. A part that is not understood allows any value.
"""

from collections.abc import Mapping
from typing import Any

import orjson

MAX_REFERENCES = 32  # references that are followed one after the other

Schema = dict[str, Any]
_ENDLESS: Schema = {}


def parameters_of(tool: Mapping[str, Any]) -> Schema:
    """A schema of an object. If the tool names its parameters and says no more, others are not allowed."""
    function = tool.get("function")
    given = function.get("parameters") if isinstance(function, Mapping) else None
    schema: Schema = dict(given) if isinstance(given, Mapping) else {}
    schema["type"] = "object"  # also if a client calls it "dict"
    if isinstance(schema.get("properties"), Mapping) and schema["properties"] and "additionalProperties" not in schema:
        schema["additionalProperties"] = any(name in schema for name in ("patternProperties", "allOf", "anyOf", "oneOf", "$ref"))
    return schema


def properties_of(schema: Schema) -> list[tuple[str, Any, bool]]:
    """(name, schema, whether it is required) of each parameter. A required one without a schema takes any value."""
    properties = schema.get("properties")
    known = dict(properties) if isinstance(properties, Mapping) else {}
    required = schema.get("required")
    needed = dict.fromkeys(name for name in required if isinstance(name, str)) if isinstance(required, list) else {}
    known.update({name: {} for name in needed if name not in known})
    return [(name, resolved(schema, value), name in needed) for name, value in known.items()]


def is_text(types: set[str]) -> bool:
    """A value of these types may be a string, so it is read as one if strings have no quotes. No types: any type."""
    return not types or "string" in types


def enum_texts(value: Any) -> list[str]:
    """The allowed texts, if no others are allowed."""
    if not isinstance(value, Mapping):
        return []
    found = value["enum"] if isinstance(value.get("enum"), list) else [value["const"]] if "const" in value else []
    return [text for text in found if isinstance(text, str)] if all(isinstance(text, str) and text for text in found) else []


def sub_schema(root: Schema, value: Any) -> Schema:
    """A parameter's schema alone, with the definitions if it has references."""
    if not isinstance(value, Mapping):
        return {}
    if b'"$ref"' not in orjson.dumps(value):
        return dict(value)
    return {**{name: root[name] for name in ("$defs", "definitions") if name in root}, **value}


def has_endless_reference(schema: Schema) -> bool:
    """Whether a reference leads back to itself before any text was written, so that no value can follow it."""
    waiting: list[Any] = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            if "$ref" in part and resolved(schema, part) is _ENDLESS:
                return True
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return False


def is_endless(schema: Schema) -> bool:
    """Whether each value of it contains itself, as when a node requires a node."""
    return _contains_itself(schema, schema, {})


def _contains_itself(root: Schema, value: Any, known: dict[int, bool]) -> bool:
    """`known`: by the identity of a part. A part whose own parts are looked at counts as one that contains itself."""
    value = resolved(root, value)
    if not isinstance(value, Mapping):
        return False
    if id(value) not in known:
        known[id(value)] = True
        choices = value.get("anyOf", value.get("oneOf"))
        is_found = any(_contains_itself(root, part, known) for part in _needed_parts(value))
        if not is_found and isinstance(choices, list) and choices:
            is_found = all(_contains_itself(root, choice, known) for choice in choices)
        known[id(value)] = is_found
    return known[id(value)]


def _needed_parts(value: Mapping[str, Any]) -> list[Any]:
    """The schemas of what every object or array of this schema has."""
    properties, required = value.get("properties"), value.get("required")
    if value.get("type") == "object" and isinstance(properties, Mapping) and isinstance(required, list):
        return [properties[name] for name in required if isinstance(name, str) and name in properties]
    is_filled = value.get("type") == "array" and isinstance(value.get("minItems"), int) and value["minItems"] > 0
    return [value.get("items")] if is_filled else []


def resolved(root: Schema, value: Any) -> Any:
    """What its reference leads to, so that the type is known; the value itself if it has none."""
    for _ in range(MAX_REFERENCES):
        reference = value.get("$ref") if isinstance(value, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return value
        found: Any = root
        for step in reference[2:].split("/"):
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            return {}
        value = found
    return _ENDLESS
