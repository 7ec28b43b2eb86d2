"""llama.cpp's GBNF -> the Lark dialect of llguidance, with llguidance's own converter and three repairs to it. Pure.

A grammar without recursion becomes one regular expression and keeps its exact meaning. In one with recursion each rule that has none is a
lexeme: it takes as much text as it can, as in any parser with a lexer.
"""

import re
from collections.abc import Iterator

from llguidance.gbnf_to_lark import ASTNode, GrammarParser, RepetitionNode, RuleNode, RuleRefNode, resolve

_INNER = "gbnf-root"
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)


class _Group(ASTNode):
    """Parentheses that must not be left out: `("a"+)?` is no `"a"+?`."""

    def __init__(self, node: ASTNode) -> None:
        self._node = node

    def __str__(self) -> str:
        return f"({self._node})"

    def children(self) -> list[ASTNode]:
        return [self._node]


def to_lark(text: str) -> str:
    """Raises plain Exceptions."""
    rules = GrammarParser().parse(_ESCAPE.sub(_plain, text))
    _wrap_root(rules)
    resolve(rules)
    for node in _nodes(rules):
        if isinstance(node, RepetitionNode) and isinstance(node.node, RepetitionNode):
            node.node = _Group(node.node)
    return "%llguidance {}\n\n" + "".join(f"{rule}\n\n" for rule in rules.values())


def _plain(escape: re.Match[str]) -> str:
    """Code points as characters, since the converter drops their zeros; escapes it does not know by their number."""
    what = escape[1]
    if len(what) == 1:
        return f"\\x{ord(what):02x}" if what in "-^/'" else escape[0]
    code = int(what[1:], 16)
    return f"\\x{code:02x}" if code < 0x80 else chr(code)


def _wrap_root(rules: dict[str, RuleNode]) -> None:
    """The converter makes no lexeme of the root itself, only of what it refers to."""
    root = rules.get("root")
    if root is None:
        raise ValueError("there is no rule 'root'")
    for node in _nodes(rules):
        if isinstance(node, RuleRefNode) and node.name == "root":
            node.name = _INNER
    rules["root"] = RuleNode("root", RuleRefNode(_INNER), "")
    rules[_INNER] = RuleNode(_INNER, root.alternatives, "")


def _nodes(rules: dict[str, RuleNode]) -> Iterator[ASTNode]:
    waiting: list[ASTNode] = list(rules.values())
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.children()
