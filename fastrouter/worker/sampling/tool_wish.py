"""What a request wants of tool calls, and which schemas of its tools can be followed. Pure.

Knows no grammar: its user says whether the compiler takes one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from fastrouter.options.constraint_text import schema_text
from fastrouter.worker.sampling.grammar_limits import check_schema
from fastrouter.worker.sampling.parameter_schema import has_endless_reference, is_endless, parameters_of

Tool = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request says about its tool calls."""

    tools: Sequence[Tool]  # tools that may be called
    is_required: bool  # there is at least one call
    is_parallel: bool = True  # there may be more than one
    answer: str = ""  # the JSON schema of an answer without calls; only for formats in which a grammar must cover the whole answer
    answer_whitespace: str = "compact"  # of `answer`: compact | free
    keeps_order: bool = False  # arguments come in the order of the schema, not in any order
    loose: frozenset[str] = frozenset()  # names of tools whose schema cannot be followed: their arguments are any object


def loosened(wish: Wish, is_followed: Callable[[Wish], bool]) -> Wish:
    """The same, with any object as the arguments of the tools whose schema the grammar's compiler does not take. One unusual tool must not
    make a request fail."""
    is_hopeless = [_is_hopeless(tool) for tool in wish.tools]
    hopeless = frozenset(name_of(tool) for tool, is_so in zip(wish.tools, is_hopeless, strict=True) if is_so)
    others = replace(wish, tools=[tool for tool, is_so in zip(wish.tools, is_hopeless, strict=True) if not is_so])
    refused = _refused(others, is_followed)
    if not hopeless and not refused:
        return wish
    found = replace(wish, loose=hopeless | refused)
    return found if is_followed(found) else replace(wish, loose=frozenset(map(name_of, wish.tools)))


def _refused(wish: Wish, is_followed: Callable[[Wish], bool]) -> frozenset[str]:
    """The names of the tools that the compiler does not take, or of all if it takes each half but not the whole. It gets many tools
    together, because few of them are refused."""
    if not wish.tools or is_followed(wish):
        return frozenset()
    half = len(wish.tools) // 2
    parts = [replace(wish, tools=part) for part in (wish.tools[:half], wish.tools[half:])] if half else []
    return frozenset().union(*(_refused(part, is_followed) for part in parts)) or frozenset(map(name_of, wish.tools))


def name_of(tool: Tool) -> str:
    return str(tool["function"]["name"])


def _is_hopeless(tool: Tool) -> bool:
    """The compiler would take too long, or the grammar could never end."""
    try:
        schema = cleaned(tool)
        if has_endless_reference(schema) or is_endless(schema):
            return True
        check_schema(orjson.dumps(schema).decode())
    except (ValueError, TypeError, RecursionError):
        return True
    return False


def cleaned(tool: Tool) -> dict[str, Any]:
    """The schema of its parameters, without the parts that the compiler refuses and does not need. Raises ValueError."""
    found: dict[str, Any] = orjson.loads(schema_text(parameters_of(tool)))
    return found
