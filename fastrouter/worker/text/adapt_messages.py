"""Messages changed for a chat template: what it would drop silently is moved to a place that it shows.

Pure: messages in, other messages out; the caller's messages do not change. remedies.py handles what a template refuses.
Invariant: no text of a message is lost.
"""

import json
from collections.abc import Callable
from typing import Any

from fastrouter.errors import InvalidRequest
from fastrouter.worker.text.parsers.format import Calls
from fastrouter.worker.text.template_abilities import END_TAG, PARTS, TAGS, Abilities
from fastrouter.worker.text.tool_prompt import describe_tools, write_calls, write_result

Message = dict[str, Any]

SYSTEM_FOLDED = "the system message is put before the first user message"
SYSTEM_LATER = "system messages that come later are shown as user messages"
TOOLS_DESCRIBED = "tools are described in the system message, because the template does not know tools"
CALLS_WRITTEN = "tool calls of earlier answers are written into their text"
RESULTS_WRITTEN = "results of tools are shown as user messages"
ONE_CALL_EACH = "several tool calls of one answer are shown one after the other"


def prepare(messages: list[Message], tools: Any, can: Abilities, note: Callable[[str], object]) -> tuple[list[Message], Any]:
    """Messages and tools. `note` gets a text about each change that is more than a change of form."""
    prepared = [dict(message) for message in messages]
    for message in prepared:
        if message.get("role") == "developer" and not can.takes_developer:
            message["role"] = "system"
    prepared = _with_shown_tools(prepared, tools, can, note)
    if tools and not can.takes_tools:
        note(TOOLS_DESCRIBED)
        prepared, tools = with_description(prepared, describe_tools(tools, can.call_example)), None
    prepared = _with_shown_system(prepared, can, note)
    for message in prepared:
        _adapt_fields(message, can)
    return prepared, tools


def _adapt_fields(message: Message, can: Abilities) -> None:
    message["content"] = _content(message.get("content"), can)
    if isinstance(message.get("tool_calls"), list) and can.takes_object_arguments:
        message["tool_calls"] = [_with_object_arguments(call) for call in message["tool_calls"]]
    thought = message.get("reasoning_content")
    if message.get("role") != "assistant":
        return
    if isinstance(thought, str) and thought:
        _carry_thought(message, thought, can.thought_key)
    elif isinstance(message["content"], str) and message["content"].strip() and can.thought_key == END_TAG:
        _carry_thought(message, "", END_TAG)  # the template opens a thought before every answer


def _content(content: Any, can: Abilities) -> Any:
    if isinstance(content, list):
        return content if can.takes_parts else joined(content)
    if isinstance(content, str):
        return content if can.takes_text else [{"type": "text", "text": content}]
    return "" if content is None and not can.takes_null else content


def _carry_thought(message: Message, thought: str, key: str) -> None:
    content = message["content"]
    if key == PARTS:
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
        message["content"] = [{"type": "thinking", "thinking": thought}, *parts]
    elif key in (TAGS, END_TAG) and not isinstance(content, list):
        start = "<think>\n" if key == TAGS else ""
        message["content"] = f"{start}{thought}\n</think>\n\n{content or ''}"
    elif key:
        message[key] = thought


# ---------------------------------------------------------------- system messages


def _with_shown_system(messages: list[Message], can: Abilities, note: Callable[[str], object]) -> list[Message]:
    is_later = [
        message.get("role") == "system" and any(m.get("role") != "system" for m in messages[:n]) for n, message in enumerate(messages)
    ]
    if any(is_later) and not can.takes_later_system:
        note(SYSTEM_LATER)
        messages = [{**message, "role": "user"} if later else message for message, later in zip(messages, is_later, strict=True)]
    if any(message.get("role") == "system" for message in messages) and not can.takes_system:
        note(SYSTEM_FOLDED)
        messages = _folded(messages)
    return messages


def _folded(messages: list[Message]) -> list[Message]:
    """Puts system messages before the first user message's text; without a user message they become the first one."""
    system = "\n".join(text_of(message.get("content")) for message in messages if message.get("role") == "system")
    others = [message for message in messages if message.get("role") != "system"]
    for number, message in enumerate(others):
        if message.get("role") == "user":
            content = message.get("content")
            new = [{"type": "text", "text": system}, *content] if isinstance(content, list) else f"{system}\n{text_of(content)}"
            return [*others[:number], {**message, "content": new}, *others[number + 1 :]]
    return [{"role": "user", "content": system}, *others]


# ---------------------------------------------------------------- tools


def with_description(messages: list[Message], text: str) -> list[Message]:
    """The text is put at the end of the first system message, or in a new one."""
    first = messages[0] if messages else {}
    if first.get("role") != "system":
        return [{"role": "system", "content": text}, *messages]
    return [{**first, "content": f"{text_of(first.get('content'))}\n\n{text}"}, *messages[1:]]


def _with_shown_tools(messages: list[Message], tools: Any, can: Abilities, note: Callable[[str], object]) -> list[Message]:
    has_calls = any(message.get("tool_calls") for message in messages)
    has_results = any(message.get("role") == "tool" for message in messages)
    writes_calls = has_calls and not can.shows_calls
    writes_results = has_results and not (can.shows_calls and can.shows_results)
    if writes_calls:
        note(CALLS_WRITTEN)
        messages = [_with_written_calls(message, can.call_style) for message in messages]
    if writes_results:
        note(RESULTS_WRITTEN)
        messages = with_written_results(messages)
    if not writes_calls and any(_num_calls(message) > 1 for message in messages) and not can.shows_all_calls:
        note(ONE_CALL_EACH)
        messages = with_one_call_each(messages)
    return messages


def _num_calls(message: Message) -> int:
    calls = message.get("tool_calls")
    return len(calls) if isinstance(calls, list) else 0


def _with_written_calls(message: Message, style: Calls | None) -> Message:
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        return message
    functions = [call.get("function") if isinstance(call, dict) else None for call in calls]
    named = [(str(function.get("name")), function.get("arguments")) for function in functions if isinstance(function, dict)]
    text = text_of(message.get("content"))
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join(filter(None, (text, write_calls(named, style))))}


def with_one_call_each(messages: list[Message]) -> list[Message]:
    """An answer with several calls becomes several answers, each followed by its result."""
    changed: list[Message] = []
    waiting: list[Message] = []  # answers that come after the results of those before them
    for message in messages:
        calls = message.get("tool_calls")
        if message.get("role") == "tool":
            number = next((n for n, one in enumerate(waiting) if one["tool_calls"][0].get("id") == message.get("tool_call_id")), -1)
            if number >= 0:
                changed += [waiting.pop(number)]
            changed.append(message)
            continue
        changed += waiting
        waiting = []
        if not isinstance(calls, list) or len(calls) < 2 or not all(isinstance(call, dict) for call in calls):
            changed.append(message)
            continue
        changed.append({**message, "tool_calls": calls[:1]})
        waiting = [{"role": "assistant", "content": "", "tool_calls": [call]} for call in calls[1:]]
    return changed + waiting


def with_written_results(messages: list[Message]) -> list[Message]:
    """Several results in a row become one user message."""
    shown: list[Message] = []
    follows = False
    for message in messages:
        if message.get("role") != "tool":
            shown.append(message)
            follows = False
            continue
        text = write_result(text_of(message.get("content")))
        if follows:
            shown[-1]["content"] += "\n" + text
        else:
            shown.append({"role": "user", "content": text})
        follows = True
    return shown


def _with_object_arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(arguments, str):
        return call
    try:
        parsed = json.loads(arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"a tool call's arguments are not JSON: {error}") from error
    return {**call, "function": {**function, "arguments": parsed}} if isinstance(parsed, dict) else call


# ---------------------------------------------------------------- texts


def joined(parts: list[Any]) -> str:
    """The text of a content's parts. Raises InvalidRequest for what is not text."""
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else part
            raise InvalidRequest(f"this model's chat template takes text only, not content of type {str(kind)[:100]!r}")
        texts.append(part["text"])
    return "\n".join(texts)


def text_of(content: Any) -> str:
    return joined(content) if isinstance(content, list) else str(content or "")
