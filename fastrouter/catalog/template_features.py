"""The features and faults of a chat template, found in its syntax. Imports Jinja, so it is imported only for templates that are new. Pure.

Never imports: catalog.spec. Invariant: a template is only parsed and translated, never run and never folded, so a hostile one costs only
time for its length.
"""

from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateError, TemplateSyntaxError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser

from fastrouter.catalog.capabilities import TemplateFeatures
from fastrouter.errors import InvalidRequest
from fastrouter.options.builtin_templates import MAX_SOURCE_CHARS, source_of

MAX_TEMPLATE_CHARS = 1 << 17  # limit for texts that are examined for features; the longest in use have about 30,000
MAX_KWARGS, MAX_NAME_CHARS = 64, 64
_TOOLS = ("tools", "functions", "available_tools", "custom_tools")
_THINKING = ("enable_thinking", "thinking", "thinking_budget", "reasoning_effort", "reasoning_strategy")
# What every renderer of chat templates provides; all other names can be set with `chat_template_kwargs`.
_GIVEN = {"messages", "tools", "functions", "documents", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token"}
_GIVEN |= {"raise_exception", "strftime_now", "date_string"}
_GIVEN |= {"range", "dict", "lipsum", "cycler", "joiner", "namespace", "loop", "self", "caller", "varargs", "kwargs"}  # names of Jinja


class _Generation(Extension):
    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        next(parser.stream)
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True))


@lru_cache(maxsize=32)  # the quants of one model have the same template
def template_features(text: str) -> TemplateFeatures:
    problem = problem_of(text)
    if problem is not None or len(text) > MAX_TEMPLATE_CHARS:
        return TemplateFeatures(is_understood=False, problem=problem)
    try:
        return _look_at(_environment().parse(text))
    except (TemplateError, RecursionError):
        return TemplateFeatures(is_understood=False)


def _environment() -> Environment:
    """Jinja folds nothing when each shown value needs the context."""
    extensions: list[str | type[Extension]] = ["jinja2.ext.loopcontrols", _Generation]
    return Environment(
        trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=extensions, finalize=pass_context(lambda _, value: value)
    )


@lru_cache(maxsize=32)
def problem_of(text: str) -> str | None:
    """Why this template, or built-in name, cannot be used: one sentence with the line. None: its syntax has no fault."""
    try:
        if len(text) > MAX_SOURCE_CHARS:
            raise InvalidRequest(f"chat template: longer than {MAX_SOURCE_CHARS} characters")
        _environment().compile(source_of(text), raw=True)
    except InvalidRequest as error:
        return error.message
    except TemplateSyntaxError as error:
        return f"chat template: line {error.lineno}: {error.message}"
    except RecursionError:
        return "chat template: nested too deeply"
    except Exception as error:  # the text is untrusted: Jinja's translator may raise anything
        return f"chat template: {type(error).__name__}: {error}"
    return None


def _look_at(tree: Any) -> TemplateFeatures:
    read: set[str] = set()
    _collect_reads(tree, {macro.name for macro in tree.find_all(nodes.Macro)}, read)
    words = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    words |= {node.attr for node in tree.find_all(nodes.Getattr)}
    shown = "".join(piece.data for piece in tree.find_all(nodes.TemplateData)) + " ".join(sorted(words))
    return TemplateFeatures(
        tools=not read.isdisjoint(_TOOLS),
        thinking=not read.isdisjoint(_THINKING) or "reasoning_content" in words or "<think>" in shown,
        system=not _refuses_system(tree),
        kwargs=tuple(sorted(name for name in read - _GIVEN if len(name) <= MAX_NAME_CHARS))[:MAX_KWARGS],
    )


def _collect_reads(node: Any, bound: set[str], read: set[str]) -> None:
    """Names that the template reads from outside, in the order of the text; a name that is set before it is read does not count.

    Not jinja2.meta: it folds constants, and `{{ 9**9**9 }}` is one.
    """

    def bind(targets: Any) -> None:
        bound.update(name.name for target in targets for name in (target, *target.find_all(nodes.Name)) if isinstance(name, nodes.Name))

    if isinstance(node, nodes.Name):
        if node.name not in bound:
            read.add(node.name)
        return
    first: list[nodes.Node] = []
    last: list[nodes.Node] = list(node.iter_child_nodes())
    if isinstance(node, nodes.Assign):
        first, last = [node.node], []
    elif isinstance(node, nodes.AssignBlock):
        first, last = node.body, []
    elif isinstance(node, nodes.For):
        first, last = [node.iter], [*([node.test] if node.test else ()), *node.body, *node.else_]
    elif isinstance(node, nodes.Macro | nodes.CallBlock):
        first, last = [*node.defaults, *([node.call] if isinstance(node, nodes.CallBlock) else ())], node.body
    elif isinstance(node, nodes.With):
        first, last = [*node.values], node.body
    for child in first:
        _collect_reads(child, bound, read)
    if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock | nodes.With):
        bound = set(bound)  # names that are set inside stay inside
    if isinstance(node, nodes.Assign | nodes.AssignBlock | nodes.For):
        bind([node.target])
    elif isinstance(node, nodes.Macro | nodes.CallBlock):
        bind(node.args)
    elif isinstance(node, nodes.With):
        bind(node.targets)
    for child in last:
        _collect_reads(child, bound, read)


def _refuses_system(tree: Any) -> bool:
    """Templates without a place for a system message say so with raise_exception("System role not supported")."""
    return any(
        isinstance(call.node, nodes.Name)
        and call.node.name == "raise_exception"
        and any("system role not supported" in str(word.value).lower() for word in call.find_all(nodes.Const))
        for call in tree.find_all(nodes.Call)
    )
