"""What a chat template can do, for people who write or report one: its format, its output for all kinds of messages, round trips.

Knows no command line. Invariant: whatever the template does, there is a report; only a template that cannot be compiled raises.
"""

from dataclasses import asdict, dataclass
from typing import Any

from fastrouter.errors import InvalidRequest
from fastrouter.worker.text.parsers.derive import TOOLS, Message
from fastrouter.worker.text.parsers.derive_calls import NAMES
from fastrouter.worker.text.parsers.round_trip import MESSAGES, failures, rendered
from fastrouter.worker.text.rendering import Chat, Renderer
from fastrouter.worker.text.template_format import TemplateFormat

_THOUGHT = "thought-4711"
_SYSTEM: Message = {"role": "system", "content": "Be brief."}
_USER: Message = {"role": "user", "content": "Hello"}
_ANSWER: Message = {"role": "assistant", "content": "Hi"}


def _called(*ids: str) -> Message:
    calls = [{"id": id_, "type": "function", "function": {"name": NAMES[0], "arguments": "{}"}} for id_ in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _result(id_: str) -> Message:
    return {"role": "tool", "tool_call_id": id_, "content": "done"}


_ID, _OTHER_ID = "call_of_any_length_1", "call_of_any_length_2"
CONVERSATIONS: dict[str, tuple[list[Message], bool]] = {  # messages, and whether there are tools
    "question": ([_USER], False),
    "system message": ([_SYSTEM, _USER], False),
    "later system message": ([_USER, _ANSWER, _SYSTEM, _USER], False),
    "content in parts": ([{"role": "user", "content": [{"type": "text", "text": "Hello"}]}], False),
    "two questions in a row": ([_USER, _USER], False),
    "answer first": ([_ANSWER, _USER], False),
    "tools": ([_USER], True),
    "tool call and result": ([_USER, _called(_ID), _result(_ID)], True),
    "two calls and results": ([_USER, _called(_ID, _OTHER_ID), _result(_ID), _result(_OTHER_ID)], True),
    "question after a result": ([_USER, _called(_ID), _result(_ID), _USER], True),
    "result without a call": ([_USER, _result(_ID)], True),
}
AS_IT_IS, REFUSED = "accepted unchanged", "refused: "


@dataclass(frozen=True, slots=True)
class Report:
    format: TemplateFormat
    opens_thought: bool  # whether the prompt opens it
    opens_thought_if: dict[str, bool]  # with `enable_thinking` true and false
    keeps_thoughts: bool  # of the last answer
    keeps_earlier_thoughts: bool  # of answers before it
    conversations: dict[str, str]  # what is changed in each of CONVERSATIONS, in words; or the template's refusal
    round_trips: dict[str, str]  # of each message: "ok", "refused" or what was different

    @property
    def is_good(self) -> bool:
        is_refused = self.conversations["question"].startswith(REFUSED)
        return not is_refused and all(text in ("ok", "refused") for text in self.round_trips.values())

    def to_json(self) -> dict[str, Any]:
        found = self.format
        return {**asdict(self), "format": {"origin": found.origin, "syntax": _syntax_of(found), **asdict(found.format)}}


def _syntax_of(found: TemplateFormat) -> str | None:
    return type(found.format.calls.syntax).__name__ if found.format.calls is not None else None


def report(renderer: Renderer) -> Report:
    """For the renderer's template. Raises InvalidRequest when it cannot be compiled."""
    renderer.check()
    found = renderer.format_now(None) or renderer.find_format(None)
    thought = found.format.thought

    def opens(**kwargs: Any) -> bool:
        return thought is not None and thought.is_open(_shown(renderer, [_USER], prompt=True, **kwargs))

    answer = {**_ANSWER, "reasoning_content": _THOUGHT}
    return Report(
        format=found,
        opens_thought=opens(),
        opens_thought_if={str(value).lower(): opens(enable_thinking=value) for value in (True, False)},
        keeps_thoughts=_THOUGHT in _shown(renderer, [_USER, answer]),
        keeps_earlier_thoughts=_THOUGHT in _shown(renderer, [_USER, answer, _USER]),
        conversations={name: _taken(renderer, *conversation) for name, conversation in CONVERSATIONS.items()},
        round_trips=_round_trips(renderer, found),
    )


def _shown(renderer: Renderer, messages: list[Message], *, prompt: bool = False, **kwargs: Any) -> str:
    """Empty if the template refuses the messages."""
    try:
        return renderer.show(Chat(None, (messages, None, prompt, False), kwargs)).text
    except InvalidRequest:
        return ""


def _taken(renderer: Renderer, messages: list[Message], has_tools: bool) -> str:
    try:
        shown = renderer.show(Chat(None, (messages, TOOLS if has_tools else None, True, False), {}))
    except InvalidRequest as error:
        return f"{REFUSED}{error.message}"
    return "; ".join(shown.adaptations) or AS_IT_IS


def _round_trips(renderer: Renderer, found: TemplateFormat) -> dict[str, str]:
    def render(messages: list[Message], tools: list[dict[str, Any]], add_generation_prompt: bool) -> str | None:
        try:
            return renderer.show(Chat(None, (messages, tools, add_generation_prompt, False), {})).text
        except InvalidRequest:
            return None

    texts = rendered(render)
    wrong = failures(texts, found.format)
    told = {name: f"{one.written!r} is read as {one.got}" for name, one in wrong.items()}
    return {name: told.get(name, "ok" if name in texts else "refused") for name in MESSAGES}
