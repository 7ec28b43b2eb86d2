"""llama.cpp's GBNF -> the Lark dialect of llguidance, by llguidance's converter and some corrections. Pure.

Every grammar keeps its exact meaning: a grammar without recursion becomes one regular expression. In one with recursion each lexeme is a
single character, because a longer one would match as much text as possible, even when the rest of a rule needs it.
"""

import re
from collections.abc import Iterator

from llguidance.gbnf_to_lark import (
    AlternativeNode,
    ASTNode,
    GrammarParser,
    LiteralNode,
    RegexNode,
    RepetitionNode,
    RuleNode,
    RuleRefNode,
    SequenceNode,
    resolve,
)

from fastrouter.worker.sampling.grammar_limits import check_rules

_INNER = "gbnf-root"
_CHARACTER = re.compile(r"\\x[0-9a-fA-F]{2}|\\.|.", re.DOTALL)  # of a literal, as it is written
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)


class _Group(ASTNode):
    """Parentheses that must stay: `("a"+)?` is not `"a"+?`."""

    def __init__(self, node: ASTNode) -> None:
        self._node = node

    def __str__(self) -> str:
        return f"({self._node})"

    def children(self) -> list[ASTNode]:
        return [self._node]


def to_lark(text: str) -> tuple[str, bool]:
    """(the same grammar, whether it has recursion: then a mask takes longer). Raises plain Exceptions."""
    rules = GrammarParser().parse(_ESCAPE.sub(_plain, text))
    root = _wrap_root(rules)
    _check(rules)
    resolve(rules)
    for node in _nodes(rules):
        if isinstance(node, RepetitionNode) and isinstance(node.node, RepetitionNode):
            node.node = _Group(node.node)
        elif isinstance(node, RegexNode) and node.rx == ".":
            node.rx = "(?s:.)"  # also the end of a line
    is_recursive = not root.rule_is_terminal
    if is_recursive:
        _rename(rules)
    lines = [f"{rule.name}: {_by_character(rule.alternatives)}" if is_recursive else str(rule) for rule in rules.values()]
    return "%llguidance {}\n\n" + "".join(f"{line}\n\n" for line in lines), is_recursive


def _check(rules: dict[str, RuleNode]) -> None:
    """Before any recursive or slow code walks through it."""
    parts = {name: list(_nodes({name: rule})) for name, rule in rules.items()}
    children = {name: [node.name for node in nodes if isinstance(node, RuleRefNode)] for name, nodes in parts.items()}
    num_leaves = {name: sum(map(_num_leaves, nodes)) for name, nodes in parts.items()}
    check_rules(children, num_leaves, _INNER)


def _num_leaves(node: ASTNode) -> int:
    return len(node.value) if isinstance(node, LiteralNode) else int(isinstance(node, RegexNode))


def _rename(rules: dict[str, RuleNode]) -> None:
    """To names of rules: the converter has given some of them names of lexemes."""
    for number, rule in enumerate(rules.values()):
        if rule.name != "start":
            rule.name = f"rule_{number}"


def _by_character(node: ASTNode) -> str:
    if isinstance(node, LiteralNode):
        return "(" + " ".join(f'"{character}"' for character in _CHARACTER.findall(node.value)) + ")" if node.value else '""'
    if isinstance(node, SequenceNode):
        return "(" + " ".join(map(_by_character, node.nodes)) + ")" if node.nodes else '""'
    if isinstance(node, AlternativeNode):
        return "(" + " | ".join(map(_by_character, node.alternatives)) + ")"
    if isinstance(node, RepetitionNode):
        most = "" if node.max_times is None else node.max_times
        return f"({_by_character(node.node)}){{{node.min_times},{most}}}"
    return _by_character(node.children()[0]) if isinstance(node, _Group) else str(node)


def _plain(escape: re.Match[str]) -> str:
    """Code points as characters, because the converter drops their zeros; escapes that it does not know by their number."""
    what = escape[1]
    if len(what) == 1:
        return f"\\x{ord(what):02x}" if what in "-^/'" else escape[0]
    code = int(what[1:], 16)
    return f"\\x{code:02x}" if code < 0x80 else chr(code)


def _wrap_root(rules: dict[str, RuleNode]) -> RuleNode:
    """The converter makes a lexeme only of what the root refers to, not of the root itself. Returns what the root was."""
    root = rules.get("root")
    if root is None:
        raise ValueError("there is no rule 'root'")
    for node in _nodes(rules):
        if isinstance(node, RuleRefNode) and node.name == "root":
            node.name = _INNER
    rules["root"] = RuleNode("root", RuleRefNode(_INNER), "")
    inner = rules[_INNER] = RuleNode(_INNER, root.alternatives, "")
    return inner


def _nodes(rules: dict[str, RuleNode]) -> Iterator[ASTNode]:
    waiting: list[ASTNode] = list(rules.values())
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.children()
