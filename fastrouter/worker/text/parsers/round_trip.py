"""A message goes through a template and back through the parser: the output must be the same message.

The template writes the message as the model would; the parser reads that. So a template tests its own format. Pure except for `render`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastrouter.worker.text.parsers.derive import MAX_SHOWN, QUESTION, TOOLS, USER, Message, Render, assistant
from fastrouter.worker.text.parsers.derive_calls import ARGUMENTS, KEYS
from fastrouter.worker.text.parsers.derive_text import common_prefix
from fastrouter.worker.text.parsers.format import Format, Thought
from fastrouter.worker.text.parsers.parser import MessageParser
from fastrouter.worker.text.parsers.pieces import Kind, Piece

_THOUGHT, _TEXT = "First I think.\nThen I answer.", "It is so: 1 < 2."
_MIXED = {KEYS[0]: 'a "b" \\ <c> & {d}\nä', KEYS[1]: -4711}
MESSAGES: dict[str, Message] = {
    "text": assistant(_TEXT),
    "thought": assistant(_TEXT, _THOUGHT),
    "call": assistant(calls=(ARGUMENTS,)),
    "call without arguments": assistant(calls=({},)),
    "call of odd values": assistant(calls=(_MIXED,)),
    "two calls": assistant(calls=(ARGUMENTS, _MIXED)),
    "text and call": assistant(_TEXT, calls=(ARGUMENTS,)),
    "thought and call": assistant("", _THOUGHT, (ARGUMENTS,)),
    "thought, text and calls": assistant(_TEXT, _THOUGHT, (ARGUMENTS, {})),
}


_MAX_PROMPT = 1 << 17  # characters of a question with tools


@dataclass(frozen=True, slots=True)
class Written:
    """An answer as a model writes it after a prompt."""

    text: str
    reasoning_open: bool  # the prompt has opened its thought


@dataclass(frozen=True, slots=True)
class Trip:
    """One message, and what came back."""

    sent: Message  # without the parts that the template does not show
    got: Message
    written: str

    @property
    def is_round(self) -> bool:
        return self.sent == self.got


def write(prompt: str, whole: str, thought: Thought | None) -> Written:
    """`prompt`: a question, and the start of an answer; `whole`: the question with an answer."""
    begun = prompt if whole.startswith(prompt) else common_prefix(prompt, whole)
    text = whole[len(begun) :]
    if thought is None:
        return Written(text, False)
    # Some prompts open a thought that is not shown with earlier answers.
    is_hidden = thought.is_open(prompt) and any(close.strip() in text for close in thought.close)
    return Written(text, thought.is_open(begun) or is_hidden)


def read(format: Format, pieces: Sequence[str], *, reasoning_open: bool = False, tools: Sequence[dict[str, Any]] = TOOLS) -> Message:
    """The message that comes in these pieces."""
    parser = MessageParser(format, tools, reasoning_open=reasoning_open)
    found = [piece for text in pieces for piece in parser.push(text)]
    return message_of([*found, *parser.finish()])


def message_of(pieces: Sequence[Piece]) -> Message:
    """The message that OpenAI's clients make from these pieces; arguments stay text."""
    content, reasoning, calls = "", "", dict[int, dict[str, str]]()
    for kind, text, index in pieces:
        if kind is Kind.TEXT:
            content += text
        elif kind is Kind.REASONING:
            reasoning += text
        elif kind is Kind.CALL:
            calls[index] = {"name": text, "arguments": ""}
        else:
            calls[index]["arguments"] += text
    return _message(content, reasoning, list(calls.values()))


def _message(content: str, reasoning: str, calls: list[dict[str, str]]) -> Message:
    message: Message = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return message


def trip(prompt: str, whole: str, format: Format, message: Message, size: int = 0, tools: Sequence[dict[str, Any]] = TOOLS) -> Trip:
    """`prompt`, `whole`: as for `write`. `size`: of the pieces of the text; 0: it comes whole."""
    written = write(prompt, whole, format.thought)
    size = size or len(written.text) or 1
    pieces = [written.text[at : at + size] for at in range(0, len(written.text), size)]
    got = read(format, pieces, reasoning_open=written.reasoning_open, tools=tools)
    return Trip(_comparable(_shown(message, written.text)), _comparable(got), written.text)


def _shown(message: Message, text: str) -> Message:
    """Without a thought or a text that the template does not show."""
    content, reasoning = message["content"], message.get("reasoning_content", "")
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return _message(
        content if content in text else "", reasoning if reasoning in text else "", [call for call in calls if call["name"] in text]
    )


def _comparable(message: Message) -> Message:
    """With arguments as values, and without white space around the text, which belongs to the template."""
    calls = [
        {"name": call["function"]["name"], "arguments": _value(call["function"]["arguments"])} for call in message.get("tool_calls", ())
    ]
    return {**message, "content": message["content"].strip(), "tool_calls": calls}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def rendered(render: Render, names: Iterable[str] = MESSAGES) -> dict[str, tuple[str, str]]:
    """Prompt and whole text for each of these MESSAGES that the template takes."""
    prompt = render([USER], TOOLS, True)
    if prompt is None or len(prompt) > _MAX_PROMPT:
        return {}
    texts = {name: render([USER, MESSAGES[name]], TOOLS, False) for name in names}
    return {name: (prompt, text) for name, text in texts.items() if text and QUESTION in text and len(text) - len(prompt) <= MAX_SHOWN}


def failures(texts: dict[str, tuple[str, str]], format: Format) -> dict[str, Trip]:
    """The messages that do not come back unchanged, by their names."""
    made = {name: trip(prompt, whole, format, MESSAGES[name]) for name, (prompt, whole) in texts.items()}
    return {name: one for name, one in made.items() if not one.is_round}
