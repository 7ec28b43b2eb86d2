"""The body of Anthropic's Messages API -> the body of an OpenAI chat, which the same code checks for all APIs.

Invariant: translated fields are checked here, so that an error names the field that the client has sent. Features of Anthropic's own
servers (caches, tools that they run, beta features) are accepted and have no effect. The same turns give the same messages, so that a
continued conversation begins with the same tokens.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from fastrouter.api.requests.checks import boolean, integer, invalid, json_object, not_supported_kind, string
from fastrouter.api.requests.tools import tool_name

# These names are translated, or mean something else in the bodies of OpenAI and llama-server.
NOT_PASSED = frozenset(
    (
        *("messages", "system", "tools", "tool_choice", "thinking", "stop_sequences", "output_config", "output_format", "stop"),
        *("response_format", "json_schema", "n", "n_cmpl", "logprobs", "top_logprobs", "metadata", "stream_options"),
        *("add_generation_prompt", "continue_final_message", "reasoning_effort", "parallel_tool_calls", "return_tokens"),
        *("functions", "function_call"),
    )
)
# Our names -> the client's, for fields that are checked after the translation.
NAMES = {
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "response_format.json_schema": "output_config.format",
    "reasoning_effort": "output_config.effort",
}
# The first line of Claude Code's system prompt. It has a number that changes with every request, and nothing for the model.
_BILLING = "x-anthropic-billing-header:"
_budget = integer(0)
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_TEXT_TYPES = '"text", "tool_result", "document", "search_result" or "tool_reference"'

Message = dict[str, Any]


class _Block(NamedTuple):
    name: str  # of the field
    type: str
    value: dict[str, Any]


def chat_of(body: dict[str, Any]) -> dict[str, Any]:
    """Raises InvalidRequest."""
    found = {name: value for name, value in body.items() if name not in NOT_PASSED}
    found["messages"] = _messages(body)
    found["stop"] = body.get("stop_sequences")
    found["return_progress"] = True  # the first record has the counts for the first event of a stream
    return {**found, **_tools(body), **_thinking(body), **_format(body)}


# ---------------------------------------------------------------- messages


def _messages(body: dict[str, Any]) -> list[Message]:
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise invalid("messages", "must be a list with at least one message")
    turns: list[tuple[str, list[_Block]]] = []
    for index, value in enumerate(given):
        name = f"messages[{index}]"
        message = json_object(name, value)
        role = message.get("role")
        if role not in ("user", "assistant", "system"):
            raise invalid(f"{name}.role", 'must be "user", "assistant" or "system"')
        blocks = _blocks(f"{name}.content", message.get("content"))
        if turns and turns[-1][0] == role:  # messages of one role are one turn
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    tool_names: dict[str, str] = {}  # by the id of the call
    found = _system(_blocks("system", body["system"])) if body.get("system") is not None else []
    for role, blocks in turns:
        if role == "system":
            found += _system(blocks)
        elif role == "assistant":
            found.append(_assistant(blocks, tool_names))
        else:
            found += _user(blocks, tool_names)
    return found


def _blocks(name: str, content: Any) -> list[_Block]:
    if isinstance(content, str):
        return [_Block(name, "text", {"text": content})]
    if not isinstance(content, list):
        raise invalid(name, "must be a string or a list of blocks")
    found = []
    for index, value in enumerate(content):
        block = json_object(f"{name}[{index}]", value)
        found.append(_Block(f"{name}[{index}]", string(f"{name}[{index}].type", block.get("type")), block))
    return found


def _system(blocks: Iterable[_Block]) -> list[Message]:
    text = "\n\n".join(filter(None, (_without_billing(_text(block)) for block in blocks)))
    return [{"role": "system", "content": text}] if text else []


def _without_billing(text: str) -> str:
    return text.partition("\n")[2].lstrip("\n") if text.startswith(_BILLING) else text


def _assistant(blocks: Iterable[_Block], tool_names: dict[str, str]) -> Message:
    """Blocks of tools that run on Anthropic's servers are left out."""
    texts, thoughts, calls = [], [], []
    for block in blocks:
        if block.type == "text":
            texts.append(_text(block))
        elif block.type == "thinking":
            thoughts.append(string(f"{block.name}.thinking", block.value.get("thinking")))
        elif block.type == "tool_use":
            call = _call(block)
            tool_names[call["id"]] = call["function"]["name"]
            calls.append(call)
    message: Message = {"role": "assistant", "content": "\n".join(filter(None, texts))}
    if any(thoughts):
        message["reasoning_content"] = "\n".join(filter(None, thoughts))
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: _Block) -> dict[str, Any]:
    arguments = json_object(f"{block.name}.input", block.value.get("input") or {})
    function = {"name": string(f"{block.name}.name", block.value.get("name")), "arguments": orjson.dumps(arguments).decode()}
    return {"id": string(f"{block.name}.id", block.value.get("id")), "type": "function", "function": function}


def _user(blocks: Iterable[_Block], tool_names: dict[str, str]) -> list[Message]:
    """The results of tools come directly after the calls, before any text of the same turn."""
    results, texts = [], []
    for block in blocks:
        if block.type == "tool_result":
            results.append(_result(block, tool_names))
        else:
            texts.append(_part(block))
    content = _content(texts)
    return [*results, {"role": "user", "content": content}] if content or not results else results


def _part(block: _Block, *, is_optional: bool = False) -> str | dict[str, Any]:
    """A text, or a picture as a part of an OpenAI chat."""
    if block.type != "image":
        return _text(block)
    name = f"{block.name}.source"
    source = json_object(name, block.value.get("source"))
    if source.get("type") == "url":
        url = string(f"{name}.url", source.get("url"))
    elif source.get("type") == "base64":
        kind = string(f"{name}.media_type", source.get("media_type"))
        url = f"data:{kind};base64,{string(f'{name}.data', source.get('data'))}"
    else:
        raise invalid(f"{name}.type", 'must be "base64" or "url"')
    return {"type": "image_url", "image_url": {"url": url}, "field": name, "is_optional": is_optional}


def _content(parts: list[str | dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A text, or parts if there are pictures."""
    if not any(isinstance(part, dict) for part in parts):
        return "\n".join(part for part in parts if isinstance(part, str) and part)
    return [part if isinstance(part, dict) else {"type": "text", "text": part} for part in parts if part]


def _result(block: _Block, tool_names: dict[str, str]) -> Message:
    call_id = string(f"{block.name}.tool_use_id", block.value.get("tool_use_id"))
    content = block.value.get("content")
    parts = _blocks(f"{block.name}.content", content) if content is not None else []
    found = [_part(part, is_optional=True) for part in parts]
    content = _content(found) if any(isinstance(part, dict) for part in found) else "\n".join(map(str, found))
    if block.value.get("is_error") is True:
        content = _as_error(content)
    named = {"name": tool_names[call_id]} if call_id in tool_names else {}
    return {"role": "tool", "tool_call_id": call_id, **named, "content": content}


def _as_error(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    if isinstance(content, list):
        return [{"type": "text", "text": "Error:"}, *content]
    says_it = content.lstrip("<").lower().startswith(("error", "tool_use_error"))
    return content if says_it else f"Error: {content}"


def _text(block: _Block) -> str:
    """The text of a block that a model can read."""
    name, value = block.name, block.value
    match block.type:
        case "text":
            return string(f"{name}.text", value.get("text"))
        case "tool_reference":
            return string(f"{name}.tool_name", value.get("tool_name"))
        case "search_result":
            heads = [value[field] for field in ("title", "source") if isinstance(value.get(field), str)]
            return "\n".join((*heads, *(_text(part) for part in _blocks(f"{name}.content", value.get("content")))))
        case "document":
            title = [value["title"]] if isinstance(value.get("title"), str) else []
            return "\n".join((*title, _document(f"{name}.source", value.get("source"))))
        case "container_upload" | "image":
            raise not_supported_kind(name, block.type)
    raise invalid(f"{name}.type", f"must be {_TEXT_TYPES}")


def _document(name: str, value: Any) -> str:
    source = json_object(name, value)
    if source.get("type") == "text":
        return string(f"{name}.data", source.get("data"))
    if source.get("type") == "content":
        return "\n".join(_text(part) for part in _blocks(f"{name}.content", source.get("content")))
    raise not_supported_kind(name, source.get("type"))


# ---------------------------------------------------------------- tools


def _tools(body: dict[str, Any]) -> dict[str, Any]:
    """Tools without a schema are Anthropic's own. The models here do not know them, so they are left out."""
    given = body.get("tools")
    if not isinstance(given, list | None):
        raise invalid("tools", "must be a list")
    tools = [_tool(f"tools[{index}]", json_object(f"tools[{index}]", tool)) for index, tool in enumerate(given or [])]
    found: dict[str, Any] = {"tools": [tool for tool in tools if tool is not None]}
    choice = body.get("tool_choice")
    if not found["tools"] or choice is None:
        return found
    names = [tool["function"]["name"] for tool in found["tools"]]
    return {**found, **_tool_choice(json_object("tool_choice", choice), names)}


def _tool(name: str, tool: dict[str, Any]) -> dict[str, Any] | None:
    kind = tool.get("type")
    if "input_schema" not in tool and kind not in (None, "custom"):
        return None
    schema = json_object(f"{name}.input_schema", tool.get("input_schema"))
    if schema.get("type", "object") == "object" and "properties" not in schema:
        schema = {**schema, "type": "object", "properties": {}}  # templates read inside them
    function = {"name": tool_name(f"{name}.name", tool.get("name")), "parameters": schema}
    if tool.get("description") is not None:
        function["description"] = string(f"{name}.description", tool["description"])
    return {"type": "function", "function": function}


def _tool_choice(choice: dict[str, Any], names: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if choice.get("disable_parallel_tool_use") is not None:
        name = "tool_choice.disable_parallel_tool_use"
        found["parallel_tool_calls"] = not boolean(name, choice["disable_parallel_tool_use"])
    match choice.get("type"):
        case "auto" | "none" as kind:
            return {**found, "tool_choice": kind}
        case "any":
            return {**found, "tool_choice": "required"}
        case "tool":
            wanted = string("tool_choice.name", choice.get("name"))
            if wanted not in names:
                raise invalid("tool_choice.name", f"must be the name of a tool in 'tools', but is {wanted!r}")
            return {**found, "tool_choice": {"type": "function", "function": {"name": wanted}}}
    raise invalid("tool_choice.type", 'must be "auto", "any", "tool" or "none"')


# ---------------------------------------------------------------- thinking, format


def _thinking(body: dict[str, Any]) -> dict[str, Any]:
    """Without the field, the model's own default is used."""
    found: dict[str, Any] = {}
    effort = _output_config(body).get("effort")
    if effort is not None:
        found["reasoning_effort"] = _EFFORTS.get(string("output_config.effort", effort))
    given = body.get("thinking")
    if given is None:
        return found
    thinking = json_object("thinking", given)
    match thinking.get("type"):
        case "disabled":
            return {"reasoning_effort": "none"}
        case "enabled" | "adaptive":
            if thinking.get("budget_tokens") is not None:
                found["reasoning_budget_tokens"] = _budget("thinking.budget_tokens", thinking["budget_tokens"])
            kwargs = body.get("chat_template_kwargs")
            own = json_object("chat_template_kwargs", kwargs) if kwargs is not None else {}
            return {**found, "chat_template_kwargs": {"enable_thinking": True, **own}}
    raise invalid("thinking.type", 'must be "enabled", "adaptive" or "disabled"')


def _format(body: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema that the answer must follow; `output_format` is its old name."""
    name = "output_config.format"
    given = _output_config(body).get("format")
    if given is None:
        name, given = "output_format", body.get("output_format")
    if given is None:
        return {}
    if json_object(name, given).get("type") != "json_schema":
        raise invalid(f"{name}.type", 'must be "json_schema"')
    schema = json_object(f"{name}.schema", given.get("schema"))
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def _output_config(body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("output_config")
    return json_object("output_config", given) if given is not None else {}
