"""The bodies of Ollama's chat and generate -> the bodies of our other APIs, which the same code checks for all APIs.

Invariant: translated fields are checked here, so that an error names the field that the client has sent. Options for the load of a model
(num_ctx, num_gpu, ...) have no effect: flags and presets control how a model is loaded.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import orjson

from fastrouter._core import scan_json
from fastrouter.api.requests.bodies import MAX_DEPTH, MAX_VALUES
from fastrouter.api.requests.checks import boolean, integer, invalid, json_object, string
from fastrouter.api.requests.fields import Ask, read_chat, read_completion
from fastrouter.api.requests.infill import read_infill
from fastrouter.errors import InvalidRequest
from fastrouter.options.sampling import SAMPLING

Message = dict[str, Any]

_RENAMED = {"num_predict": "n_predict", "num_keep": "n_keep"}
OPTIONS = {**{field.name: field.name for field in SAMPLING if field.name != "n_probs"}, **_RENAMED, "stop": "stop"}
# Our names -> the client's, for fields that are checked after the translation.
NAMES = {
    **{ours: f"options.{theirs}" for theirs, ours in OPTIONS.items()},
    "response_format": "format",
    "response_format.json_schema": "format",
    "input_suffix": "suffix",
    "input_prefix": "prompt",
    "reasoning_effort": "think",
}
_MAX_CONTEXT_BYTES = 1 << 20  # of text
_WORD = 3  # bytes in one number of a context
_top_logprobs = integer(0, 100)


# ---------------------------------------------------------------- chat


def read_ollama_chat(body: dict[str, Any]) -> Ask:
    """Raises InvalidRequest."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise invalid("messages", "must be a list")
    return read_chat({**_common(body), **_chat_fields(body), "messages": _messages(messages), **_tools(body.get("tools"))})


def is_load(body: dict[str, Any]) -> bool:
    """The request asks for no text: the model is loaded or, with `keep_alive` 0, unloaded."""
    return not (body.get("messages") or body.get("prompt") or body.get("suffix"))


def _messages(values: list[Any]) -> list[Message]:
    open_calls = _OpenCalls()
    found = []
    for index, value in enumerate(values):
        name = f"messages[{index}]"
        message = json_object(name, value)
        content = message.get("content")
        read: Message = {"role": string(f"{name}.role", message.get("role"))}
        text = "" if content is None else string(f"{name}.content", content)
        read["content"] = _with_images(f"{name}.images", message.get("images"), text)
        if message.get("thinking"):
            read["reasoning_content"] = string(f"{name}.thinking", message["thinking"])
        if message.get("tool_calls"):
            read["tool_calls"] = _calls(f"{name}.tool_calls", message["tool_calls"], index)
            open_calls = _OpenCalls([(call["id"], call["function"]["name"]) for call in read["tool_calls"]])
        if read["role"] == "tool":
            read.update(_result_of(message, open_calls))
        found.append(read)
    return found


def _with_images(name: str, values: Any, text: str) -> str | list[dict[str, Any]]:
    """The content of a message, with its pictures before the text, as in Ollama."""
    if not values:
        return text
    parts = [
        {"type": "image_url", "image_url": string(f"{name}[{index}]", value), "field": f"{name}[{index}]"}
        for index, value in enumerate(values if isinstance(values, list) else [values])
    ]
    return [*parts, {"type": "text", "text": text}]


def _calls(name: str, values: Any, message: int) -> list[dict[str, Any]]:
    if not isinstance(values, list):
        raise invalid(name, "must be a list")
    found = []
    for index, value in enumerate(values):
        call = json_object(f"{name}[{index}]", value)
        function = json_object(f"{name}[{index}].function", call.get("function"))
        arguments = json_object(f"{name}[{index}].function.arguments", function.get("arguments") or {})
        named = {"name": string(f"{name}[{index}].function.name", function.get("name")), "arguments": orjson.dumps(arguments).decode()}
        call_id = call["id"] if isinstance(call.get("id"), str) else f"call_{message}_{index}"
        found.append({"id": call_id, "type": "function", "function": named})
    return found


class _OpenCalls:
    """Calls without a result. Each look-up takes the same short time, however many calls there are."""

    def __init__(self, calls: Sequence[tuple[str, str]] = ()) -> None:
        """`calls`: their ids and names."""
        self._calls = dict(enumerate(calls))
        self._waiting: dict[tuple[str, str | None], list[int]] = {("all", None): []}  # the next one last
        for number in reversed(self._calls):
            call_id, name = calls[number]
            for key in (("all", None), ("id", call_id), ("name", name)):
                self._waiting.setdefault(key, []).append(number)

    def take(self, call_id: Any, tool: Any) -> tuple[str, str] | None:
        """The one with this id; without an id, the next one of this tool, or of any."""
        wanted = call_id if call_id is not None else tool
        if not isinstance(wanted, str | None):
            return None
        waiting = self._waiting.get(("all" if wanted is None else "name" if call_id is None else "id", wanted), [])
        while waiting:
            call = self._calls.pop(waiting.pop(), None)
            if call is not None:
                return call
        return None


def _result_of(message: Message, open_calls: _OpenCalls) -> dict[str, str]:
    """Which call it answers: the one that it names, else the next."""
    call_id, tool = message.get("tool_call_id"), message.get("tool_name") or message.get("name")
    call_id, tool = open_calls.take(call_id, tool) or (call_id, tool)
    return {name: value for name, value in (("tool_call_id", call_id), ("name", tool)) if isinstance(value, str)}


def _tools(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, list):
        raise invalid("tools", "must be a list")
    found = []
    for index, item in enumerate(value):
        tool = json_object(f"tools[{index}]", item)
        function = json_object(f"tools[{index}].function", tool.get("function"))
        parameters = function.get("parameters")
        schema = (
            {"type": "object", "properties": {}} if parameters is None else json_object(f"tools[{index}].function.parameters", parameters)
        )
        found.append({"type": "function", "function": {**function, "parameters": {"properties": {}, **schema}}})
    return {"tools": found}


# ---------------------------------------------------------------- generate


def read_generate(body: dict[str, Any]) -> Ask:
    """One prompt: as a turn of a chat, unchanged (`raw`), or with a `suffix` after a gap. Raises InvalidRequest."""
    if body.get("images") and (body.get("raw") or body.get("suffix")):
        raise invalid("images", "cannot be used together with 'raw' or 'suffix'")
    if body.get("template"):
        raise invalid("template", "is not supported: the model's own template is used. Use 'raw' for a prompt that is complete")
    prompt = string("prompt", body["prompt"]) if body.get("prompt") is not None else ""
    is_raw = boolean("raw", body["raw"]) if body.get("raw") is not None else False
    if body.get("context") and (is_raw or body.get("suffix")):
        raise invalid("context", "cannot be used together with 'raw' or 'suffix'")
    fields = _common(body)
    if body.get("suffix"):
        return read_infill({**fields, "input_prefix": prompt, "input_suffix": string("suffix", body["suffix"])})
    if is_raw:
        return read_completion(
            {**fields, "prompt": prompt, "logprobs": max(1, fields.get("top_logprobs", 0)) if body.get("logprobs") else 0}
        )
    return read_chat({**fields, **_chat_fields(body), "messages": _turns(body, prompt)})


def _turns(body: dict[str, Any], prompt: str) -> list[Message]:
    before = unpack("context", body["context"]) if body.get("context") else []
    if body.get("system"):
        system = {"role": "system", "content": string("system", body["system"])}
        before = [system, *(message for message in before if message["role"] != "system")]
    return [*before, {"role": "user", "content": _with_images("images", body.get("images"), prompt)}]


def pack(messages: list[Message]) -> list[int]:
    """`context`: the conversation as numbers. Ollama's are token ids, but clients only send them back. Empty: it is too long."""
    text = orjson.dumps([[message["role"], message["content"]] for message in messages])
    if len(text) > _MAX_CONTEXT_BYTES:
        return []
    packed = zlib.compress(text, 1)
    padded = packed + bytes(-len(packed) % _WORD)
    return [len(packed), *(int.from_bytes(padded[at : at + _WORD]) for at in range(0, len(padded), _WORD))]


def unpack(name: str, value: Any) -> list[Message]:
    """Raises InvalidRequest."""
    wrong = invalid(name, "is not the 'context' of an answer of this server")
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 1 << 8 * _WORD for item in value):
        raise wrong
    try:
        reader = zlib.decompressobj()
        text = reader.decompress(b"".join(item.to_bytes(_WORD) for item in value[1:])[: value[0]], _MAX_CONTEXT_BYTES)
        if not reader.eof:
            raise wrong
        scan_json(text, b"-\0\0", max_values=MAX_VALUES, max_depth=MAX_DEPTH)  # a few bytes may unpack to a million values
        turns = orjson.loads(text)
    except (zlib.error, orjson.JSONDecodeError, InvalidRequest):
        raise wrong from None
    if not isinstance(turns, list) or not all(_is_turn(turn) for turn in turns):
        raise wrong
    return [{"role": role, "content": content} for role, content in turns]


def _is_turn(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(item, str) for item in value)


# ---------------------------------------------------------------- fields of both


def _common(body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("options")
    options = json_object("options", given) if given is not None else {}
    found = {ours: options[theirs] for theirs, ours in OPTIONS.items() if theirs in options}
    if found.get("n_predict") == -2:  # until the context is full
        found["n_predict"] = -1
    stream = body.get("stream")
    found["stream"] = True if stream is None else boolean("stream", stream)
    found.update({name: body[name] for name in ("keep_alive", "priority", "verbose") if name in body})
    return {**found, **_format(body.get("format"))}


def _chat_fields(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if body.get("logprobs") is not None:
        top = body.get("top_logprobs")
        found = {
            "logprobs": boolean("logprobs", body["logprobs"]),
            "top_logprobs": 0 if top is None else _top_logprobs("top_logprobs", top),
        }
    think = body.get("think")
    match think:
        case None | "":
            return found
        case bool():
            return {**found, **({"chat_template_kwargs": {"enable_thinking": True}} if think else {"reasoning_effort": "none"})}
        case "low" | "medium" | "high":
            return {**found, "chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": think}
    raise invalid("think", 'must be true, false, "low", "medium" or "high"')


def _format(value: Any) -> dict[str, Any]:
    if value in (None, ""):
        return {}
    if value == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(value, dict):
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": value}}}
    raise invalid("format", 'must be "json" or a JSON schema')
