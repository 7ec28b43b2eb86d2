"""Items of the Responses API -> messages of a chat. Pure.

The output of a model in one turn (thoughts, text, calls) is one message. Invariant: errors name the item in the client's words. Items that
have no equivalent in a chat (searches, compactions ...) are left out, never refused.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from fastrouter.api.requests.checks import invalid, json_object, string
from fastrouter.api.requests.response_tools import LOCAL_SHELL, custom_arguments, flat_name

MAX_ITEMS = 1 << 16
_SEALED = "fastrouter-1:"  # before the text in an `encrypted_content`
_TEXTS = frozenset(("input_text", "output_text", "text", "summary_text", "reasoning_text"))
_OUTPUTS = frozenset(("function_call_output", "custom_tool_call_output", "local_shell_call_output", "mcp_tool_call_output"))

Message = dict[str, Any]


class Conversation:
    """The messages so far, and which item each began with."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.places: list[str] = []
        self._names: dict[str, str] = {}  # of functions, by the id of their call
        self._thoughts: list[str] = []  # wait for the message they belong to

    def add(self, place: str, message: Message) -> None:
        self._end_thought(place)
        self.messages.append(message)
        self.places.append(place)

    def think(self, text: str) -> None:
        if text:
            self._thoughts.append(text)

    def say(self, place: str, content: Any) -> None:
        """The assistant's text: it begins a message."""
        message: Message = {"role": "assistant", "content": content}
        self._take_thought(message)
        self.add(place, message)

    def call(self, place: str, call_id: str, name: str, arguments: str) -> None:
        """It belongs to the assistant's message before it, unless there is a new thought between them."""
        last = self.messages[-1] if self.messages else {}
        if last.get("role") != "assistant" or self._thoughts:
            last = {"role": "assistant", "content": None}
            self._take_thought(last)
            self.add(place, last)
        function = {"name": name, "arguments": arguments}
        last.setdefault("tool_calls", []).append({"id": call_id, "type": "function", "function": function})
        self._names[call_id] = name

    def answer(self, place: str, call_id: str, content: Any) -> None:
        named = {"name": self._names[call_id]} if call_id in self._names else {}
        self.add(place, {"role": "tool", "tool_call_id": call_id, **named, "content": content})

    def _take_thought(self, message: Message) -> None:
        if self._thoughts:
            message["reasoning_content"] = "\n".join(self._thoughts)
            self._thoughts.clear()

    def _end_thought(self, place: str) -> None:
        """A thought after which nothing was said: the answer was cut."""
        if self._thoughts:
            thought: Message = {"role": "assistant", "content": ""}
            self._take_thought(thought)
            self.messages.append(thought)
            self.places.append(place)


Placed = tuple[str, dict[str, Any]]  # its name in errors, an item


def read_input(instructions: Any, items: Iterable[Placed]) -> Conversation:
    """The messages, with at least one of a user: templates need one, and some clients test the server with an empty input."""
    talk = Conversation()
    if instructions is not None:
        _read_instructions(talk, instructions)
    for place, item in items:
        _read_item(talk, place, item)
    talk.add("input", {"role": "user", "content": ""})
    if any(message["role"] not in ("system", "developer") for message in talk.messages[:-1]):
        del talk.messages[-1], talk.places[-1]
    _join_leading_system(talk)
    return talk


def each_item(value: Any) -> Iterator[Placed]:
    """The items of a request's `input`."""
    if value is None:
        return
    if isinstance(value, str):
        yield "input", {"type": "message", "role": "user", "content": value}
        return
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise invalid("input", f"must be a string or a list of at most {MAX_ITEMS} items")
    for index, item in enumerate(value):
        yield f"input[{index}]", json_object(f"input[{index}]", item)


def _read_instructions(talk: Conversation, value: Any) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _read_item(talk, f"instructions[{index}]", json_object(f"instructions[{index}]", item))
    elif string("instructions", value):
        talk.add("instructions", {"role": "system", "content": value})


def kind_of(place: str, item: dict[str, Any]) -> str:
    given = item.get("type")
    return "message" if given is None else string(f"{place}.type", given) or "message"


def _read_item(talk: Conversation, place: str, item: dict[str, Any]) -> None:
    kind = kind_of(place, item)
    if kind == "message":
        _read_message(talk, place, item)
    elif kind == "reasoning":
        talk.think(_thought_in(place, item))
    elif kind == "function_call":
        arguments = string(f"{place}.arguments", item.get("arguments"))
        talk.call(place, _call_id(place, item), _call_name(place, item), arguments)
    elif kind == "custom_tool_call":
        arguments = custom_arguments(string(f"{place}.input", item.get("input")))
        talk.call(place, _call_id(place, item), _call_name(place, item), arguments)
    elif kind == "local_shell_call":
        action = json_object(f"{place}.action", item.get("action"))
        arguments = orjson.dumps({name: value for name, value in action.items() if name != "type" and value}).decode()
        talk.call(place, _call_id(place, item), LOCAL_SHELL, arguments)
    elif kind in _OUTPUTS:
        talk.answer(place, _call_id(place, item), _content(f"{place}.output", item.get("output"), is_result=True))


def _read_message(talk: Conversation, place: str, item: dict[str, Any]) -> None:
    role = string(f"{place}.role", item.get("role"))
    content = _content(f"{place}.content", item.get("content"))
    if role == "assistant":
        talk.say(place, content)
    else:
        talk.add(place, {"role": "system" if role == "developer" else role, "content": content})


def _call_id(place: str, item: dict[str, Any]) -> str:
    """Old shell calls of Codex have only an `id`."""
    return string(f"{place}.call_id", item.get("call_id") or item.get("id"))


def _call_name(place: str, item: dict[str, Any]) -> str:
    namespace = item.get("namespace")
    return flat_name(None if namespace is None else string(f"{place}.namespace", namespace), string(f"{place}.name", item.get("name")))


# ---------------------------------------------------------------- content


def _content(name: str, value: Any, *, is_result: bool = False) -> Any:
    """A text, or parts if one of them is not text. `is_result`: of a tool."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise invalid(name, "must be a string or a list of parts")
    parts = [part for index, given in enumerate(value) for part in _part(f"{name}[{index}]", given)]
    if is_result:
        parts = [{**part, "is_optional": True} if part["type"] == "image_url" else part for part in parts]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(name: str, value: Any) -> Iterator[dict[str, Any]]:
    part = json_object(name, value)
    kind = string(f"{name}.type", part.get("type"))
    if kind in _TEXTS:
        yield {"type": "text", "text": string(f"{name}.text", part.get("text"))}
    elif kind == "refusal":
        yield {"type": "text", "text": string(f"{name}.refusal", part.get("refusal"))}
    elif kind == "input_image":
        url = part.get("image_url")
        if url is None:
            raise invalid(name, "needs an `image_url`: this server does not store files, so a `file_id` cannot be used")
        detail = {"detail": part["detail"]} if part.get("detail") is not None else {}
        yield {"type": "image_url", "image_url": {"url": string(f"{name}.image_url", url), **detail}, "field": f"{name}.image_url"}
    elif kind == "input_audio":
        yield {"type": "input_audio", "input_audio": part.get("input_audio"), "field": f"{name}.input_audio"}
    elif kind == "input_file":
        yield {"type": "file", "file": {key: part[key] for key in ("filename", "file_data", "file_url", "file_id") if key in part}}
    else:
        raise invalid(f"{name}.type", 'must be "input_text", "output_text", "input_image", "input_audio", "input_file" or "refusal"')


def _thought_in(place: str, item: dict[str, Any]) -> str:
    """The whole thought if it is there, otherwise the text that we put into `encrypted_content`, otherwise the summary."""
    for name in ("content", "encrypted_content", "summary"):
        text = _content(f"{place}.{name}", item.get(name))
        if name == "encrypted_content":
            text = unseal(text) if isinstance(text, str) else ""
        if isinstance(text, str) and text:
            return text
    return ""


def seal(text: str) -> str:
    """An `encrypted_content`. It is not really encrypted: with it we get a thought back from clients that keep only this field."""
    return base64.b64encode((_SEALED + text).encode()).decode()


def unseal(value: str) -> str:
    """Empty if it comes from another server."""
    try:
        text = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return text.removeprefix(_SEALED) if text.startswith(_SEALED) else ""


def _join_leading_system(talk: Conversation) -> None:
    """Instructions and the system messages directly after them become one message: many templates accept only one."""
    count = 0
    while count < len(talk.messages) and talk.messages[count]["role"] == "system" and isinstance(talk.messages[count]["content"], str):
        count += 1
    if count > 1:
        content = "\n\n".join(message["content"] for message in talk.messages[:count] if message["content"])
        talk.messages[:count] = [{"role": "system", "content": content}]
        talk.places[:count] = talk.places[:1]
