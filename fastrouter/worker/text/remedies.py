"""Changes to messages and tools that a chat template has refused: the smallest change first.

Pure: each remedy gives other messages and tools, or the same if there is nothing to change. Invariant: no text of a message is lost.
"""

import re
import zlib
from collections.abc import Callable
from typing import Any

from fastrouter.errors import InvalidRequest
from fastrouter.worker.text.adapt_messages import ONE_CALL_EACH, Message, with_description, with_one_call_each, with_written_results
from fastrouter.worker.text.tool_prompt import describe_tools


def _one_thought(messages: list[Message]) -> list[Message]:
    """gpt-oss accepts either a thought or a text with tool calls, not both."""
    changed = []
    for message in messages:
        thought, content = message.get("thinking"), message.get("content")
        if message.get("tool_calls") and isinstance(thought, str) and isinstance(content, str) and thought and content:
            message = {**message, "thinking": f"{thought}\n\n{content}", "content": ""}
        changed.append(message)
    return changed


def _short_ids(messages: list[Message]) -> list[Message]:
    """Nine letters and digits: the same id always gives the same result."""
    changed = []
    for message in messages:
        if isinstance(message.get("tool_call_id"), str):
            message = {**message, "tool_call_id": _short_id(message["tool_call_id"])}
        if isinstance(calls := message.get("tool_calls"), list):
            short = [{**call, "id": _short_id(str(call.get("id")))} if isinstance(call, dict) else call for call in calls]
            message = {**message, "tool_calls": short}
        changed.append(message)
    return changed


def _short_id(text: str) -> str:
    return text if re.fullmatch(r"[a-zA-Z0-9]{9}", text) else f"{zlib.crc32(text.encode(errors='replace')):09x}"


def _orphans_shown(messages: list[Message]) -> list[Message]:
    """Results without a call before them become user messages."""
    changed: list[Message] = []
    has_calls = False
    for message in messages:
        if message.get("role") == "tool" and not has_calls:
            changed += with_written_results([message])
            continue
        has_calls = has_calls or bool(message.get("tool_calls"))
        changed.append(message)
    return changed


def _merged(messages: list[Message]) -> list[Message]:
    """Several messages of one role in a row become one."""
    changed: list[Message] = []
    for message in messages:
        last = changed[-1] if changed else {}
        if message.get("role") != last.get("role") or message.get("role") not in ("user", "assistant", "system"):
            changed.append(message)
            continue
        both = {**last, **message, "content": _together(last.get("content"), message.get("content"))}
        calls = [*(last.get("tool_calls") or []), *(message.get("tool_calls") or [])]
        changed[-1] = {**both, "tool_calls": calls} if calls else both
    return changed


def _user_first(messages: list[Message]) -> list[Message]:
    """Puts an empty question before an answer that comes first."""
    at = next((number for number, message in enumerate(messages) if message.get("role") != "system"), len(messages))
    if not messages or (at < len(messages) and messages[at].get("role") == "user"):
        return messages
    return [*messages[:at], {"role": "user", "content": ""}, *messages[at:]]


def _answer_between(messages: list[Message]) -> list[Message]:
    """Puts an empty answer between the result of a tool and a question."""
    changed: list[Message] = []
    for message in messages:
        if changed and changed[-1].get("role") == "tool" and message.get("role") == "user":
            changed.append({"role": "assistant", "content": ""})
        changed.append(message)
    return changed


def _space_in_empty_answers(messages: list[Message]) -> list[Message]:
    """Where neither text nor calls are, some templates refuse the answer."""
    is_empty = [message.get("role") == "assistant" and not message.get("content") and not message.get("tool_calls") for message in messages]
    return [{**message, "content": " "} if empty else message for message, empty in zip(messages, is_empty, strict=True)]


def _together(first: Any, second: Any) -> Any:
    """Joins two contents."""
    if isinstance(first, list) or isinstance(second, list):
        return [*_parts(first), *_parts(second)]
    return "\n\n".join(text for text in (first, second) if text)


def _parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []


# ---------------------------------------------------------------- tools


def _plain_schema(schema: Any) -> Any:
    """Removes what only newer templates know: several types at the same time, and a boolean `additionalProperties`."""
    if isinstance(schema, list):
        return [_plain_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain_schema(value) for key, value in schema.items() if not (key == "additionalProperties" and isinstance(value, bool))}
    for key in ("anyOf", "oneOf"):
        if isinstance(plain.get(key), list) and plain[key] and "type" not in plain:
            chosen = next((one for one in plain[key] if isinstance(one, dict) and one.get("type") != "null"), {})
            plain = {**{name: value for name, value in plain.items() if name != key}, **chosen}
    if isinstance(plain.get("type"), list):
        plain["type"] = next((kind for kind in plain["type"] if kind != "null"), "string")
    return plain


Remedy = Callable[[list[Message], Any], tuple[list[Message], Any]]


def _of_messages(change: Callable[[list[Message]], list[Message]]) -> Remedy:
    return lambda messages, tools: (change(messages), tools)


def _plain_tools(messages: list[Message], tools: Any) -> tuple[list[Message], Any]:
    return messages, _plain_schema(tools)


def _described_tools(messages: list[Message], tools: Any) -> tuple[list[Message], Any]:
    return (with_description(messages, describe_tools(tools)), None) if tools else (messages, tools)


def _empty_tools(messages: list[Message], tools: Any) -> tuple[list[Message], Any]:
    """Some templates need a list."""
    return messages, [] if tools is None else tools


REMEDIES: tuple[tuple[str, Remedy], ...] = (
    ("a text beside a thought and tool calls is put after the thought", _of_messages(_one_thought)),
    ("ids of tool calls are replaced by nine letters and digits", _of_messages(_short_ids)),
    (ONE_CALL_EACH, _of_messages(with_one_call_each)),
    ("results of tools that belong to no call are shown as user messages", _of_messages(_orphans_shown)),
    ("messages of one role in a row are joined", _of_messages(_merged)),
    ("an empty user message is put before an answer that comes first", _of_messages(_user_first)),
    ("an empty answer is put between the result of a tool and a user message", _of_messages(_answer_between)),
    ("a space is put into answers without text", _of_messages(_space_in_empty_answers)),
    ("parameters of tools are shown with simpler types", _plain_tools),
    ("tools are described in the system message, because the template refuses them", _described_tools),
    ("an empty list of tools is shown if there are none", _empty_tools),
)


def with_remedies(
    messages: list[Message], tools: Any, run: Callable[[list[Message], Any], str], refusal: InvalidRequest, *, keeps_all: bool
) -> tuple[str, list[str]] | None:
    """The text, and the remedies that it took. They are tried one after the other; one that does not change the template's error is
    removed again, unless `keeps_all`. None: it refuses all."""
    names: list[str] = []
    for name, remedy in REMEDIES:
        changed = remedy(messages, tools)
        if changed == (messages, tools):
            continue
        try:
            return run(*changed), [*names, name]
        except InvalidRequest as error:
            if keeps_all or error.message != refusal.message:
                (messages, tools), names, refusal = changed, [*names, name], error
    return None
