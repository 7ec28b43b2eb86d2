"""Whether a template may be rendered in the worker's own loop: each of its steps must be short, as in most templates.

Pure; looks at the syntax only. Invariant: a tame template cannot put a list or an object into another one, so none of its values is
larger, seen as a tree, than what it was given; the sandbox limits loops and sizes. Other templates are rendered in another process.
"""

from typing import Any

from jinja2 import nodes

MAX_CHARS = 1 << 16
_NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign, nodes.AssignBlock, nodes.Macro, nodes.Scope),
    *(nodes.Break, nodes.Continue, nodes.Const, nodes.Name, nodes.NSRef, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Keyword),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.CondExpr, nodes.Test, nodes.Concat),
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Filter, nodes.Call, nodes.List, nodes.Tuple, nodes.Dict),
    nodes.Pair,
)
_OF_ITEMS = {"capitalize", "float", "int", "length", "lower", "string", "title", "tojson", "trim", "upper"}
_FILTERS = {
    *_OF_ITEMS,
    *("abs", "count", "d", "default", "dictsort", "e", "escape", "first", "indent", "items", "join", "last", "list", "max", "min", "map"),
    *("reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "sort", "unique"),
}
_METHODS = {
    *("capitalize", "count", "endswith", "find", "get", "index", "isdigit", "items", "join", "keys", "lower", "lstrip", "replace", "rfind"),
    *("rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper", "values"),
}
_FUNCTIONS = {"namespace", "raise_exception", "range", "strftime_now"}
_NO_NAMES = {"caller", "cycler", "dict", "joiner", "kwargs", "self", "varargs"}


def is_tame(tree: nodes.Template) -> bool:
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}
    stack: list[nodes.Node] = [tree]
    while stack:
        node = stack.pop()
        if not isinstance(node, _NODES) or not _is_tame(node, macros):
            return False
        stack.extend(node.iter_child_nodes())
    return True


def _is_tame(node: Any, macros: set[str]) -> bool:
    if isinstance(node, nodes.Call):
        return _is_tame_call(node, macros)
    if isinstance(node, nodes.Filter):
        return node.name in _FILTERS and node.dyn_args is None and node.dyn_kwargs is None and (node.name != "map" or _is_tame_map(node))
    if isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return all(isinstance(part, nodes.Const | nodes.Pair) for part in node.iter_child_nodes())
    if isinstance(node, nodes.Pair):
        return isinstance(node.key, nodes.Const) and isinstance(node.value, nodes.Const)
    if isinstance(node, nodes.For):
        return not node.recursive
    return not (isinstance(node, nodes.Name) and node.name in _NO_NAMES)


def _is_tame_call(node: nodes.Call, macros: set[str]) -> bool:
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        return False
    if isinstance(node.node, nodes.Getattr):
        return node.node.attr in _METHODS
    return isinstance(node.node, nodes.Name) and node.node.name in _FUNCTIONS | macros


def _is_tame_map(node: nodes.Filter) -> bool:
    if node.args:
        return len(node.args) == 1 and isinstance(node.args[0], nodes.Const) and node.args[0].value in _OF_ITEMS
    return all(keyword.key in ("attribute", "default") for keyword in node.kwargs)
