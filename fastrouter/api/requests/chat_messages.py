"""Checks of chat messages and prefill as OpenAI's clients send them, before they are sent to the worker.

Invariant: the result is a list of objects with a text content (or parts of text). Pictures, audio and videos become marks in a text. For
other content that is not text, the error names the field.
"""

from typing import Any

from fastrouter.api.requests.checks import boolean, invalid, json_object, not_supported_kind, string
from fastrouter.api.requests.pictures import NOUNS, PARTS, Pictures, field_of
from fastrouter.api.requests.tools import UNSEEN_IMAGE
from fastrouter.errors import InvalidRequest

_NOT_SUPPORTED = frozenset({"input_image", "file"})


def check_messages(value: Any, pictures: Pictures | None = None) -> list[dict[str, Any]]:
    """`pictures` gets those in the messages; None: they are refused."""
    if value is None:
        raise InvalidRequest("'messages' is required")
    if not isinstance(value, list) or not value:
        raise invalid("messages", "must be a list with at least one message")
    for index, message in enumerate(value):
        _check_message(f"messages[{index}]", message)
    return [_without_pictures(f"messages[{index}]", message, pictures) for index, message in enumerate(value)]


def _without_pictures(name: str, message: dict[str, Any], pictures: Pictures | None) -> dict[str, Any]:
    """A content with files becomes a text, as in llama-server: a new line between texts, and nothing around a file."""
    parts = message.get("content")
    if not isinstance(parts, list) or not any(part["type"] in PARTS for part in parts):
        return message
    text, is_after_picture = "", False
    for index, part in enumerate(parts):
        place = f"{name}.content[{index}]"
        is_picture = part["type"] in PARTS
        is_optional = is_picture and part.get("is_optional") is True
        if is_picture and pictures is None and not is_optional:
            raise invalid(field_of(place, part), f"is {NOUNS[PARTS[part['type']][0]]}, and only generations take those: send text")
        more = part["text"] if not is_picture else pictures.add_part(place, part) if pictures is not None else UNSEEN_IMAGE
        is_alone = is_picture and not is_optional
        text += more if is_alone or is_after_picture or not text else f"\n{more}"
        is_after_picture = is_alone
    return {**message, "content": text}


def _check_message(name: str, value: Any) -> None:
    message = json_object(name, value)
    role = string(f"{name}.role", message.get("role"))
    content = message.get("content")
    if "content" not in message and not (role == "assistant" and (message.get("tool_calls") or message.get("function_call"))):
        raise invalid(f"{name}.content", "is missing")
    if content is not None and not isinstance(content, str):
        _check_parts(f"{name}.content", content)
    if message.get("tool_calls") is not None:
        _check_calls(f"{name}.tool_calls", message["tool_calls"])


def _check_calls(name: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(call, dict) for call in value):
        raise invalid(name, "must be a list of objects")
    for index, call in enumerate(value):
        function = call.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise invalid(f"{name}[{index}].function", 'must be an object with the fields "name" and "arguments"')


def _check_parts(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise invalid(name, "must be a string or a list of parts")
    for index, part in enumerate(value):
        kind = json_object(f"{name}[{index}]", part).get("type")
        if isinstance(kind, str) and kind in _NOT_SUPPORTED:
            raise not_supported_kind(f"{name}[{index}]", kind)
        if isinstance(kind, str) and kind in PARTS:
            continue
        if kind != "text":
            raise invalid(f"{name}[{index}].type", 'must be "text", "image_url", "input_audio" or "input_video"')
        string(f"{name}[{index}].text", part.get("text"))


def with_new_names(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`function_call` and the role `function`, which are older than tools, become tool calls and their results."""
    if not any(message["role"] == "function" or message.get("function_call") for message in messages):
        return messages
    renamed, call_id = [], ""
    for index, message in enumerate(messages):
        function = message.get("function_call")
        if isinstance(function, dict) and not message.get("tool_calls"):
            call_id = f"call{index:05}"
            calls = [{"id": call_id, "type": "function", "function": function}]
            message = {"content": None, **_without(message, "function_call"), "tool_calls": calls}
        elif message["role"] == "function":
            message = {**message, "role": "tool", "tool_call_id": call_id}
        renamed.append(message)
    return renamed


def _without(message: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key != name}


def prefill_of(body: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, bool]:
    """An assistant message at the end is continued, as with vLLM's `continue_final_message`, unless that is false."""
    given = body.get("add_generation_prompt")
    adds_prompt = True if given is None else boolean("add_generation_prompt", given)
    given = body.get("continue_final_message")
    continues = False if given is None else boolean("continue_final_message", given)
    last = messages[-1]
    if given is None and last["role"] == "assistant" and not last.get("tool_calls"):
        if len(messages) > 1 and messages[-2]["role"] == "assistant":
            raise InvalidRequest("Cannot have 2 or more assistant messages at the end of the list.")
        return {"add_generation_prompt": False, "continue_final_message": True, "prefill_is_implied": True}
    if continues and adds_prompt:
        raise InvalidRequest("Cannot set both add_generation_prompt and continue_final_message to true.")
    if continues and last["role"] == "assistant" and last.get("tool_calls"):
        raise InvalidRequest("Cannot continue an assistant message that contains tool calls.")
    return {"add_generation_prompt": adds_prompt, "continue_final_message": continues}
