"""Values that a model writes as bare text become JSON by the schema of the parameter."""

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastrouter.worker.text.parsers.values import LONGEST_ATOM, NUMBER, escaped

_DEEPEST = 8  # references inside each other
_MOST_CHOICES = 32  # parts of a schema that are looked at
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}


def parameters_of(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The schema of each tool's parameters. Tools have the form of the OpenAI API, or are only their functions."""
    found: dict[str, Mapping[str, Any]] = {}
    for tool in tools:
        function = tool.get("function") if isinstance(tool.get("function"), Mapping) else tool
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str):
            schema = function.get("parameters") or function.get("input_schema")  # type: ignore[union-attr]
            found[name] = schema if isinstance(schema, Mapping) else {}
    return found


def types_of(parameters: Mapping[str, Any], key: str) -> frozenset[str]:
    """The JSON types that a parameter may have; none if the schema does not say."""
    properties = parameters.get("properties")
    schema = properties.get(key) if isinstance(properties, Mapping) else None
    if schema is None:
        schema = parameters.get("additionalProperties")
    return frozenset(types_in(schema, parameters))


def types_in(schema: Any, root: Mapping[str, Any], depth: int = 0) -> set[str]:
    """The JSON types that a value of this schema may have; none if the schema does not say. `root`: what its references point into."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return set()
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return types_in(_resolve(reference, root), root, depth + 1)
    declared = schema.get("type")
    if isinstance(declared, str):
        return {declared}
    if isinstance(declared, Sequence):
        return {each for each in declared if isinstance(each, str)}
    for word in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(word)
        if isinstance(choices, Sequence) and not isinstance(choices, str):
            found = [types_in(choice, root, depth + 1) for choice in choices]
            return set().union(*found) if word == "allOf" or all(found) else set()
    return _types_of_values(schema)


def part_of(schema: Any, key: str | None, root: Mapping[str, Any]) -> Any:
    """The schema of a property of an object; without `key`, of the items of an array. None: it does not say."""
    waiting = [schema]
    for _ in range(_MOST_CHOICES):
        found = waiting.pop(0) if waiting else None
        if isinstance(found, Mapping) and isinstance(found.get("$ref"), str):
            found = _resolve(found["$ref"], root)
        if not isinstance(found, Mapping):
            continue
        properties = found.get("properties")
        part = found.get("items") if key is None else properties.get(key) if isinstance(properties, Mapping) else None
        if part is None and key is not None:
            part = found.get("additionalProperties")
        if isinstance(part, Mapping):
            return part
        waiting += [choice for word in ("anyOf", "oneOf", "allOf") if isinstance(found.get(word), list) for choice in found[word]]
    return None


def _types_of_values(schema: Mapping[str, Any]) -> set[str]:
    values = schema.get("enum")
    if isinstance(values, Sequence) and not isinstance(values, str):
        return {_type_of(value) for value in values}
    if "const" in schema:
        return {_type_of(schema["const"])}
    if "properties" in schema:
        return {"object"}
    return {"array"} if "items" in schema else set()


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _type_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", dict: "object", list: "array", type(None): "null"}
    return names.get(type(value), "string")


def to_json(text: str, types: frozenset[str]) -> str:
    """JSON text of a value that a model has written as bare text."""
    bare = text.strip()
    found = _as_json(bare, bool(types))
    if found is not None and (not types or _fits(found[0], types)):
        return found[1]
    return '"' + escaped(text) + '"'


def _fits(kind: str, types: frozenset[str]) -> bool:
    """Whether a value other than a string is allowed. A type that the schema does not name counts only if a string is not allowed."""
    return kind in types or (kind in ("integer", "number") and bool(types & {"integer", "number"})) or "string" not in types


def _as_json(bare: str, python: bool) -> tuple[str, str] | None:
    """(its type, its JSON text) if the value is not a string."""
    if len(bare) <= LONGEST_ATOM and NUMBER.fullmatch(bare):
        return ("number" if set(bare) & set(".eE") else "integer"), bare
    words = _PYTHON_WORDS if python else ("true", "false", "null")
    if bare in words:
        word = _PYTHON_WORDS[bare]
        return ("null" if word == "null" else "boolean"), word
    if bare[:1] not in ("{", "["):
        return None
    kind = "object" if bare[0] == "{" else "array"
    try:
        json.loads(bare, parse_constant=_refuse)
        return kind, bare
    except (ValueError, RecursionError):
        return _python_literal(kind, bare) if python else None


def _refuse(name: str) -> None:
    raise ValueError(name)


def _python_literal(kind: str, bare: str) -> tuple[str, str] | None:
    """`{'a': True}`: some templates show values as Python writes them."""
    if len(bare) > 10_000:
        return None
    try:
        return kind, json.dumps(ast.literal_eval(bare), ensure_ascii=False, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
