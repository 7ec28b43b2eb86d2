"""The required form of an answer: `response_format`, `json_schema`, `grammar`, `regex` -> Generate.constraint, or a 400. Pure.

Nothing is compiled here: the worker compiles the constraint and decides whether it can follow it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastrouter.api.requests.checks import invalid, json_object, string
from fastrouter.config.model_flags import JSON_WHITESPACE
from fastrouter.options.constraint_text import check_grammar, check_regex, schema_text

Constraint = dict[str, str]


def response_format(name: str, value: Any) -> Constraint | None:
    """OpenAI's field, with llama-server's `schema` in addition to "json_object"."""
    given = json_object(name, value)
    kind = given.get("type")
    if kind in (None, "", "text"):
        return None
    if kind == "json_object":
        return json_schema(f"{name}.schema", given.get("schema"))
    if kind == "json_schema":
        wrapper = given.get("json_schema")
        schema = json_object(f"{name}.json_schema", {} if wrapper is None else wrapper).get("schema")
        return json_schema(f"{name}.json_schema.schema", schema)
    raise invalid(f"{name}.type", 'must be "text", "json_object" or "json_schema"')


def json_schema(name: str, value: Any) -> Constraint:
    """An absent schema means any object, as in llama-server."""
    schema = {} if value is None else json_object(name, value)
    with _naming(name):
        return {"kind": "json_schema", "field": name, "text": schema_text(schema)}


def grammar(name: str, value: Any) -> Constraint | None:
    """GBNF."""
    text = string(name, value)
    if not text.strip():
        return None
    with _naming(name):
        check_grammar(text)
    return {"kind": "gbnf", "field": name, "text": text}


def regex(name: str, value: Any) -> Constraint | None:
    """The whole answer must match the regex."""
    text = string(name, value)
    if not text:
        return None
    with _naming(name):
        check_regex(text)
    return {"kind": "regex", "field": name, "text": text}


def whitespace(name: str, value: Any) -> str:
    """The whitespace between the tokens of JSON that follows a schema."""
    text = string(name, value)
    if text not in JSON_WHITESPACE:
        raise invalid(name, f"must be one of {', '.join(JSON_WHITESPACE)}")
    return text


def only_one(given: dict[str, Constraint | None], *, has_tools: bool) -> Constraint | None:
    """The constraint from all fields of a request."""
    names = sorted(name for name, constraint in given.items() if constraint is not None)
    if not names:
        return None
    if len(names) > 1:
        raise invalid(names[1], f"cannot be used together with '{names[0]}'")
    if has_tools and names[0] in ("grammar", "regex"):
        raise invalid(names[0], "cannot be used together with 'tools': use 'response_format', or set 'tool_choice' to \"none\"")
    return given[names[0]]


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as problem:
        raise invalid(name, str(problem)) from None
