"""Which format a template's models write: one from the table, one derived from the template, or the generic one.

Pure but for `render`. Invariant: there is always one. The template's output for probes decides, not its name.
"""

from dataclasses import dataclass, replace

from fastrouter.worker.text.parsers.derive import TOOLS, USER, USUAL, Render, assistant, derive
from fastrouter.worker.text.parsers.derive_calls import ARGUMENTS, NAMES
from fastrouter.worker.text.parsers.format import Format
from fastrouter.worker.text.parsers.round_trip import failures, rendered
from fastrouter.worker.text.parsers.table import GENERIC, find_format
from fastrouter.worker.text.tool_prompt import write_calls

TABLE, DERIVED, GENERIC_WAY = "table", "derived", "generic"
_WORDS = ("tool", "Tool", "TOOL", "function", "think", "THINK", "thought", "reason", "channel")
_TRIED = ("text", "call of odd values", "two calls", "thought, text and calls")  # of the round trip's messages: enough to choose


@dataclass(frozen=True, slots=True)
class TemplateFormat:
    format: Format
    origin: str  # TABLE, DERIVED or GENERIC_WAY


def is_plain(source: str) -> bool:
    """The template shows no tools and no thoughts. Then only chats with tools need a format; probing it takes longer than a small model
    takes to load."""
    return not any(word in source for word in _WORDS)


def generic_format() -> TemplateFormat:
    """For a template that tells nothing."""
    return TemplateFormat(replace(GENERIC, thought=None), GENERIC_WAY)


def format_of(source: str, render: Render) -> TemplateFormat:
    """The first format that can read the template's own messages; else the first."""
    derived, known = _with_thought(derive(render), source), find_format(source)
    is_generic = _writes_calls_for(render)
    found: list[TemplateFormat] = []
    if known is not None:
        found.append(TemplateFormat(_with_ends(known, derived), TABLE))
    if derived.calls is not None:
        found.append(TemplateFormat(replace(derived, name=GENERIC.name), GENERIC_WAY) if is_generic else TemplateFormat(derived, DERIVED))
    found.append(TemplateFormat(_with_ends(replace(GENERIC, thought=derived.thought, drop=derived.drop), derived), GENERIC_WAY))
    texts = rendered(render, _TRIED)
    return next((one for one in found if not failures(texts, one.format)), found[0])


def _with_thought(derived: Format, source: str) -> Format:
    """Some templates do not show the thoughts of earlier answers, but know their markers."""
    knows = any(marker.strip() in source for marker in (*USUAL.open, *USUAL.close))
    return replace(derived, thought=USUAL) if derived.thought is None and knows else derived


def _with_ends(known: Format, derived: Format) -> Format:
    return replace(known, ends=tuple(dict.fromkeys(known.ends + derived.ends)))


def _writes_calls_for(render: Render) -> bool:
    """The template shows no calls, so fastrouter writes them into the text."""
    shown = render([USER, assistant(calls=(ARGUMENTS,))], TOOLS, False) or ""
    return write_calls([(NAMES[0], ARGUMENTS)]) in shown
