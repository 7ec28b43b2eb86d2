"""Texts that say which form an answer must have: JSON schemas, GBNF, regular expressions -> what a worker compiles, or a ValueError.
Pure.

Invariant: a text that passes is small and flat enough for every recursive reader after it.
"""

import re
from collections.abc import Iterator
from typing import Any

import orjson

MAX_SCHEMA_BYTES = 256 << 10
MAX_SCHEMA_DEPTH = 64  # levels of JSON, two for each level of objects
MAX_SCHEMA_NODES = 20_000
MAX_GRAMMAR_BYTES = 64 << 10
MAX_GRAMMAR_RULES = 2_000
MAX_REGEX_BYTES = 16 << 10
MAX_NESTING = 64  # of parentheses, in grammars and regular expressions

# Any other format is only a note to the reader, as in JSON Schema.
_CHECKED_FORMATS = {"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"}
_VALUES = {"const", "enum", "default", "examples"}  # keywords with plain values, not schemas
_NAMED = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}  # keywords with schemas under free names
_OPENING = {"additionalProperties", "unevaluatedProperties", "patternProperties"}  # keywords that say which other properties are allowed
_JOINING = {"$ref", "anyOf", "oneOf", "if", "not"}  # next to `properties`: they describe the same object
_GBNF_TEXT = re.compile(r'"(?:\\.|[^"\\\n])*"|\[(?:\\.|[^\]\\\n])*\]|#[^\n]*')
_REGEX_TEXT = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]", re.DOTALL)


def schema_text(schema: dict[str, Any]) -> str:
    """Without notes; an empty schema means any object, as in llama-server."""
    _check_size(schema)
    text = orjson.dumps(_closed(_without_notes(schema)) or {"type": "object"})
    if len(text) > MAX_SCHEMA_BYTES:
        raise ValueError(f"is larger than {MAX_SCHEMA_BYTES >> 10} KiB")
    return text.decode()


def check_grammar(text: str) -> None:
    """Checks GBNF."""
    _check_bytes(text, MAX_GRAMMAR_BYTES)
    bare = _GBNF_TEXT.sub("", text)
    if bare.count("::=") > MAX_GRAMMAR_RULES:
        raise ValueError(f"has more than {MAX_GRAMMAR_RULES} rules")
    _check_nesting(bare)


def check_regex(text: str) -> None:
    _check_bytes(text, MAX_REGEX_BYTES)
    _check_nesting(_REGEX_TEXT.sub("", text))


def _check_size(schema: dict[str, Any]) -> None:
    """Level by level, so that a deep input does not need a deep stack."""
    level: list[Any] = [schema]
    num_nodes = 0
    for _ in range(MAX_SCHEMA_DEPTH):
        num_nodes += len(level)
        if num_nodes > MAX_SCHEMA_NODES:
            raise ValueError(f"has more than {MAX_SCHEMA_NODES} values")
        level = [child for item in level if isinstance(item, dict | list) for child in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return
    raise ValueError(f"is nested deeper than {MAX_SCHEMA_DEPTH} levels")


def _without_notes(schema: Any) -> Any:
    """A schema, or a list of them, without formats that are not checked."""
    if isinstance(schema, list):
        return [_without_notes(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "format" and isinstance(value, str) and value not in _CHECKED_FORMATS:
            continue
        if key in _NAMED and isinstance(value, dict):
            kept[key] = {name: _without_notes(item) for name, item in value.items()}
        else:
            kept[key] = value if key in _VALUES else _without_notes(value)
    return kept


def _closed(schema: Any) -> Any:
    """A schema whose objects hold only the properties that it lists, unless it mentions others: as in llama-server. Otherwise small
    models would not stop. When several schemas describe one object together, all stay open."""
    return _close(schema) if not any(map(_is_joint, _nodes(schema))) else schema


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """All objects in it. Its depth has been checked."""
    if isinstance(schema, dict):
        yield schema
    for child in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _nodes(child)


def _is_joint(node: dict[str, Any]) -> bool:
    return "allOf" in node or ("properties" in node and not _JOINING.isdisjoint(node))


def _close(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_close(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, dict):
            closed[key] = {name: _close(item) for name, item in value.items()}
        else:
            closed[key] = value if key in _VALUES else _close(value)
    if "properties" in schema and _OPENING.isdisjoint(schema):
        closed["additionalProperties"] = False
    return closed


def _check_bytes(text: str, limit: int) -> None:
    if len(text.encode("utf-8", "surrogatepass")) > limit:
        raise ValueError(f"is larger than {limit >> 10} KiB")


def _check_nesting(bare: str) -> None:
    depth = 0
    for bracket in re.findall(r"[()]", bare):
        depth += 1 if bracket == "(" else -1
        if depth > MAX_NESTING:
            raise ValueError(f"has parentheses nested deeper than {MAX_NESTING} levels")
