"""What a model's chat template tells about the model's output: known messages are rendered and compared.

The template shows earlier answers as the model has written them. The difference between a conversation that ends with a question and one
that continues with an answer is that answer, with the markers of its thought and of its calls. Pure except for `render`. Invariant: if a
template refuses probes, only what they would tell is missing; there is no error.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from fastrouter.worker.text.parsers.derive_calls import ARGUMENTS, IDS, KEYS, NAMES, NUMBER, VALUES, Written, derive_calls
from fastrouter.worker.text.parsers.derive_text import NEEDLE, common_prefix, common_suffix, first_marker, is_marker, mirrored, tokens_of
from fastrouter.worker.text.parsers.format import Calls, Format, Thought

Message = dict[str, Any]
# messages, tools, add_generation_prompt -> the text; None: the template refuses them
Render = Callable[[list[Message], list[dict[str, Any]], bool], str | None]

USUAL = Thought(calls_close=True)
MAX_SHOWN = 1 << 14  # characters that a template may make of a probe
QUESTION, ANSWER, THOUGHT = "ZQXQUESTION1", "ZQXANSWER1", "ZQXTHOUGHT1"
USER: Message = {"role": "user", "content": QUESTION}
_PROPERTIES = {key: {"type": ["string", "integer"], "description": key} for key in KEYS}
_PARAMETERS = {"type": "object", "properties": _PROPERTIES, "required": []}
TOOLS = [{"type": "function", "function": {"name": name, "description": name, "parameters": _PARAMETERS}} for name in NAMES]


def assistant(content: str | None = "", reasoning: str = "", calls: tuple[dict[str, Any], ...] = ()) -> Message:
    """An answer; `calls`: the arguments for each of NAMES in order."""
    message: Message = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        named = zip(IDS, NAMES, calls, strict=False)
        message["tool_calls"] = [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for id_, name, arguments in named
        ]
    return message


@dataclass(frozen=True, slots=True)
class Probes:
    """The text after the question. `prompt`: the start that the template gives an answer; the others are answers."""

    prompt: str
    text: str
    thought: str
    call: str
    thought_call: str
    text_call: str
    two: str
    bare: str
    number: str

    @classmethod
    def of(cls, render: Render) -> "Probes | None":
        """None: the template does not even show a plain answer."""

        def shown(*messages: Message, prompt: bool = False) -> str:
            text = render([USER, *messages], TOOLS, prompt) or ""
            rest = text.rpartition(QUESTION)[2] if QUESTION in text else ""
            return rest if len(rest) <= MAX_SHOWN else ""

        def having(text: str, *needles: str) -> str:
            return text if all(needle in text for needle in needles) else ""

        text = having(shown(assistant(ANSWER)), ANSWER)
        if not text:
            return None
        call = having(shown(assistant(calls=(ARGUMENTS,))), NAMES[0])
        calls = ("", "", "", "", "")
        if call:
            calls = (
                having(shown(assistant(reasoning=THOUGHT, calls=(ARGUMENTS,))), NAMES[0], THOUGHT),
                having(shown(assistant(ANSWER, calls=(ARGUMENTS,))), NAMES[0], ANSWER),
                having(shown(assistant(calls=(ARGUMENTS, ARGUMENTS))), *NAMES),
                having(shown(assistant(calls=({},))), NAMES[0]),
                having(shown(assistant(calls=({KEYS[0]: NUMBER, KEYS[1]: VALUES[1]},))), NAMES[0], str(NUMBER)),
            )
        thought = having(shown(assistant(ANSWER, THOUGHT)), ANSWER, THOUGHT)
        return cls(shown(prompt=True), text, thought, call, *calls)

    @property
    def header(self) -> str:
        """The text before every answer: the model writes nothing of it, unless the template opens a thought."""
        return common_prefix(*filter(None, (self.prompt, self.text, self.thought, self.call, self.thought_call)))

    def without(self, header: str) -> "Probes":
        return Probes(*(getattr(self, each.name).removeprefix(header) for each in fields(self)))


def derive(render: Render) -> Format:
    """A format without calls, or without thoughts, if the template tells nothing about them."""
    probes = Probes.of(render)
    if probes is None:
        return Format("derived")
    probes = probes.without(_written_by_others(probes))
    thought = _thought(probes)
    before_text, _, after_text = probes.text.partition(ANSWER)
    before_text = _without_thought(before_text, thought or USUAL)
    closing = mirrored(before_text, after_text)
    end = after_text.removeprefix(closing) if closing else _turn_end(after_text, probes.call, bool(before_text.strip()))
    drop = tuple(text for text in (before_text, after_text.removesuffix(end)) if text.strip())
    return _with_calls(Format("derived", thought, None, drop, _marker_of(end)), probes, end)


def _with_calls(format: Format, probes: Probes, end: str) -> Format:
    texts = (probes.call, probes.two, probes.bare, probes.number)
    parts = (_call_only(text, end, format) for text in texts)
    calls = derive_calls(Written(*parts)) if probes.call else None
    if calls is None:
        return format
    calls, more = _without_end(calls, format.ends)
    gap = _space_after_text(probes.text_call.partition(ANSWER)[2].removeprefix("".join(format.drop[1:])))
    return replace(format, calls=_with_space(calls, gap), ends=tuple(dict.fromkeys(format.ends + more)))


def _with_space(calls: Calls, gap: str) -> Calls:
    """Puts the white space into the first marker: that of the section, or that of each call."""
    if calls.section_open:
        return replace(calls, section_open=tuple(gap + text.lstrip() for text in calls.section_open))
    return replace(calls, open=tuple(gap + text.lstrip() for text in calls.open))


def _space_after_text(rest: str) -> str:
    return rest[: len(rest) - len(rest.lstrip())]


def _call_only(text: str, end: str, format: Format) -> str:
    """Removes what is before any answer, and what ends it."""
    return _without_thought(text.removesuffix(end), format.thought or USUAL).removeprefix("".join(format.drop[:1]))


def _marker_of(end: str) -> tuple[str, ...]:
    """The first marker of the text that ends a turn; empty if it may be text."""
    first = first_marker(end) if is_marker(end.lstrip()) else end.strip()
    return (first,) if re.search(r"[^\w\s]", first) else ()


def _without_end(calls: Calls, ends: tuple[str, ...]) -> tuple[Calls, tuple[str, ...]]:
    """(the calls without the end of the turn, the end of the turn)."""
    close = calls.section_close
    if not calls.section_open:
        return replace(calls, section_close=""), _marker_of(close)
    at = min((close.index(end) for end in ends if end in close), default=len(close))
    matching = mirrored(calls.section_open[0], close[:at])
    kept = matching.rstrip() if matching else close[:at]
    return replace(calls, section_close=kept), _marker_of(close[len(kept) :])


def _written_by_others(probes: Probes) -> str:
    """The header, without a marker that opens every thought."""
    header = probes.header
    shown = probes.thought or probes.thought_call
    rest = shown.partition(THOUGHT)[2].lstrip()
    tokens = tokens_of(header)
    for number in range(len(tokens) - 1, max(-1, len(tokens) - 6), -1):
        if mirrored("".join(tokens[number:]), rest):
            return "".join(tokens[:number])
    return header


def _turn_end(after_text: str, call: str, is_opened: bool) -> str:
    """What ends every kind of answer. `is_opened`: the text has a marker before it, so it may have one after it too."""
    return common_suffix(after_text, call) if call and is_opened else after_text


# ---------------------------------------------------------------- thoughts


def _thought(probes: Probes) -> Thought | None:
    if probes.thought:
        opening, _, rest = probes.thought.partition(THOUGHT)
        return _between(opening if opening.strip() else probes.prompt, rest, probes.text, rest.partition(ANSWER)[0])
    if probes.thought_call:
        opening, _, rest = probes.thought_call.partition(THOUGHT)
        return _between(opening if opening.strip() else probes.prompt, rest, probes.call, "")
    return None


def _between(opening: str, rest: str, plain: str, all_of_it: str) -> Thought | None:
    """`rest`: the text after the thought; `plain`: the same answer without a thought, which may show an empty one."""
    close = mirrored(opening, rest)
    plain = plain.removeprefix(opening.rstrip()) if opening.strip() else plain
    if not close and plain and rest.endswith(plain):
        close = rest.removesuffix(plain)
    if not close.strip():
        close = all_of_it
    is_told = opening.strip() and close.strip() and not re.search(NEEDLE, opening + close)
    return Thought((opening,), (close,), calls_close=True) if is_told else None


def _without_thought(text: str, thought: Thought) -> str:
    """Removes the empty thought that some templates show for an answer without one."""
    rest = text.lstrip().removeprefix(thought.open[0].strip()).lstrip()
    close = thought.close[0].strip()
    return rest.removeprefix(close).removeprefix(thought.close[0][len(thought.close[0].rstrip()) :]) if rest.startswith(close) else text
