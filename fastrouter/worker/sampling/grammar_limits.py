"""Counts and refuses what would take llguidance too long, or more stack than a thread has. Pure.

Raises ValueError with a text that continues the name of the field. The numbers are measured: each limit takes about a second on a slow
core. No schema or grammar that a person writes needs more.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from math import lcm
from typing import Any

import orjson

MAX_CHAIN = 250  # references in a chain; 1,400 end a process
MAX_EXPANDED = 200_000  # characters and classes of a grammar without recursion, where each rule is written out
MAX_OPTIONAL = 4_000  # properties that are not required: the time grows with the square of their number
MAX_PATTERNS = 150  # patternProperties: each is compared with each
MAX_JOINT_PATTERNS = 10  # that one text must follow together: the time is exponential in their number, 20 take a minute
MAX_MULTIPLE = 10_000  # significant digits of `multipleOf`, as a number: an automaton counts up to it

Children = Mapping[str, list[str]]


def longest_chain(children: Children, root: str) -> tuple[int, list[str], bool]:
    """(rules on the longest path down from the root, all rules that it reaches in an order where references come first, whether some
    refer to themselves)"""
    depth: dict[str, int] = {}
    on_the_way: dict[str, Iterator[str]] = {root: iter(children[root])}
    is_recursive = False
    longest = 1
    while on_the_way:
        name, rest = next(reversed(on_the_way.items()))
        child = next(rest, None)
        if child is None:
            del on_the_way[name]
            depth[name] = 1 + max((depth.get(other, 0) for other in children[name]), default=0)
        elif child in on_the_way:
            is_recursive = True
        elif child in children and child not in depth:
            on_the_way[child] = iter(children[child])
            longest = max(longest, len(on_the_way))
    return max(longest, depth[root]), list(depth), is_recursive


def check_rules(children: Children, num_leaves: Mapping[str, int], root: str) -> None:
    """Of a GBNF grammar: the rules that each rule refers to, once for each reference, and how much else it contains."""
    length, order, is_recursive = longest_chain(children, root)
    if length > MAX_CHAIN:
        raise ValueError(f"it has rules that refer to each other in a chain of more than {MAX_CHAIN}")
    if is_recursive:
        return
    expanded: dict[str, int] = {}
    for name in order:
        expanded[name] = num_leaves[name] + sum(expanded.get(child, 0) for child in children[name])
        if expanded[name] > MAX_EXPANDED:
            raise ValueError(f"it is too large: rule '{name}' written out has more than {MAX_EXPANDED:,} characters")


def check_schema(text: str) -> None:
    schema = orjson.loads(text)
    nodes = list(_nodes(schema))
    if sum(map(_num_optional, nodes)) > MAX_OPTIONAL:
        raise ValueError(
            f"it has more than {MAX_OPTIONAL:,} properties that are not required: list them under 'required', or leave some out"
        )
    if sum(len(node["patternProperties"]) for node in nodes if isinstance(node.get("patternProperties"), dict)) > MAX_PATTERNS:
        raise ValueError(f"it has more than {MAX_PATTERNS} patternProperties")
    _check_multiples(
        [node["multipleOf"] for node in nodes if "multipleOf" in node], are_joint=any("allOf" in node or "$ref" in node for node in nodes)
    )
    _check_joint_patterns(schema, [node for node in nodes if "allOf" in node])
    references = {node["$ref"] for node in nodes if isinstance(node.get("$ref"), str)}
    children = {name: [*_references(_target(schema, name))] for name in references} | {"#": list(references)}
    if longest_chain(children, "#")[0] > MAX_CHAIN:
        raise ValueError(f"it has $refs that refer to each other in a chain of more than {MAX_CHAIN}")


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """All objects in it."""
    waiting = [schema]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _check_joint_patterns(schema: Any, nodes: list[dict[str, Any]]) -> None:
    num_parts = 0
    for node in nodes:
        counts: Counter[tuple[str, ...]] = Counter()
        for path, part in _joint_parts(schema, node):
            num_parts += 1
            counts[path] += "pattern" in part or "format" in part
            if counts[path] > MAX_JOINT_PATTERNS:
                raise ValueError(f"it has an allOf where one text must follow more than {MAX_JOINT_PATTERNS} patterns")
            if num_parts > MAX_EXPANDED:
                raise ValueError("it has too many allOf and $ref")


def _joint_parts(schema: Any, node: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """What an allOf says about one text, and about each property: (path of the property, part). References below properties are not
    followed."""
    seen: set[str] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), node)]
    while waiting:
        path, part = waiting.pop()
        if not isinstance(part, dict):
            continue
        yield path, part
        waiting += [(path, member) for member in part.get("allOf") or () if isinstance(part["allOf"], list)]
        if isinstance(part.get("properties"), dict):
            waiting += [((*path, name), value) for name, value in part["properties"].items()]
        reference = part.get("$ref")
        if not path and isinstance(reference, str) and reference not in seen:
            seen.add(reference)
            waiting.append((path, _target(schema, reference)))


def _num_optional(node: dict[str, Any]) -> int:
    properties, required = node.get("properties"), node.get("required")
    if not isinstance(properties, dict):
        return 0
    needed = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    return len(properties.keys() - needed)


def _check_multiples(values: list[Any], *, are_joint: bool) -> None:
    counts = [_significant(value) for value in values if type(value) in (int, float) and value > 0]
    largest: Callable[[Iterable[int]], int] = (lambda found: lcm(*found)) if are_joint else (lambda found: max(found, default=1))
    if largest(counts) > MAX_MULTIPLE:
        raise ValueError(f"multipleOf is too large: without the zeros at its end, its digits may be at most {MAX_MULTIPLE:,}")


def _significant(value: float) -> int:
    """1500 and 0.015 -> 15"""
    digits = "".join(map(str, Decimal(repr(value)).as_tuple().digits)).rstrip("0")
    return int(digits or 1)


def _references(part: Any) -> set[str]:
    return {node["$ref"] for node in _nodes(part) if isinstance(node.get("$ref"), str)}


def _target(schema: Any, reference: str) -> Any:
    """The target of a local reference; None: there is none, which llguidance will report."""
    if not reference.startswith("#"):
        return None
    for step in reference[1:].split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list) and key.isdecimal() and int(key) < len(schema):
            schema = schema[int(key)]
        elif isinstance(schema, dict):
            schema = schema.get(key)
        else:
            return None
    return schema
