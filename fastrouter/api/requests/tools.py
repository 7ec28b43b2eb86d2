"""Which tools a model may call, in OpenAI's new and old fields -> plain data that is sent to the worker. Pure.

Invariant: each tool has a name. Its other fields are not checked: an unusual description or schema does not make a request fail.
"""

from itertools import islice
from typing import Any

from fastrouter.api.requests.checks import invalid, json_object, string
from fastrouter.errors import InvalidRequest

Tool = dict[str, Any]
Known = dict[str, None]  # names of tools, in their order
ToolChoice = str | dict[str, Any]  # "auto" | "none" | "required" | {"names": [...], "required": bool}

# Instead of an image in the result of a tool: an agent cannot take back such a result, so an error would end its conversation.
UNSEEN_IMAGE = "[An image. This model cannot see images.]"
_MAX_SHOWN, _MAX_SHOWN_CHARACTERS = 20, 64  # of tools and their names, in an error


def read_tools(body: dict[str, Any]) -> tuple[list[Tool], ToolChoice]:
    """The tools, and which of them the model may or must call. Without tools the choice is "none"."""
    has_old = body.get("tools") is None and body.get("functions") is not None
    tools = _old_tools(body["functions"]) if has_old else _check_tools(body.get("tools"))
    field = "function_call" if body.get("tool_choice") is None and body.get("function_call") is not None else "tool_choice"
    choice = _check_choice(field, body.get(field), dict.fromkeys(tool["function"]["name"] for tool in tools))
    return (tools, choice) if tools else ([], "none")


def _check_tools(value: Any) -> list[Tool]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid("tools", "must be a list")
    return [_check_tool(f"tools[{index}]", tool) for index, tool in enumerate(value)]


def _check_tool(name: str, value: Any) -> Tool:
    tool = json_object(name, value)
    if tool.get("type", "function") != "function":
        raise invalid(f"{name}.type", 'must be "function"')
    if not isinstance(tool.get("function"), dict):
        raise invalid(f"{name}.function", 'must be an object with the fields "name", "description" and "parameters"')
    _check_function(f"{name}.function", tool["function"])
    return tool


def _check_function(name: str, value: Any) -> dict[str, Any]:
    function = json_object(name, value)
    tool_name(f"{name}.name", function.get("name"))
    return function


def tool_name(name: str, value: Any) -> str:
    given = string(name, value)
    if not given:
        raise invalid(name, "must not be empty")
    return given


def _old_tools(value: Any) -> list[Tool]:
    """`functions`, which are older than tools."""
    if not isinstance(value, list):
        raise invalid("functions", "must be a list")
    return [{"type": "function", "function": _check_function(f"functions[{index}]", item)} for index, item in enumerate(value)]


def _check_choice(field: str, value: Any, known: Known) -> ToolChoice:
    if value is None:
        return "auto"
    if isinstance(value, str):
        return _check_word(field, value, known)
    if not isinstance(value, dict):
        raise _wrong(field)
    if value.get("type") == "allowed_tools":
        return _allowed(field, value, known)
    name = _name_in(value)
    if name is None or value.get("type", "function") != "function":
        raise _wrong(field)
    return {"names": [_check_name(field, name, known)], "required": True}


def _wrong(field: str) -> InvalidRequest:
    choices = '"auto", "none", "required", {"type": "function", "function": {"name": ...}} or {"type": "allowed_tools", ...}'
    return invalid(field, f"must be {choices}")


def _check_word(field: str, word: str, known: Known) -> ToolChoice:
    if word not in ("auto", "none", "required"):
        raise _wrong(field)
    if word == "required" and not known:
        raise invalid(field, 'is "required", but the request has no tools: add some in "tools"')
    return word


def _name_in(value: dict[str, Any]) -> str | None:
    """The name of the tool in an object. The newer form has no object inside."""
    inner = value.get("function", value)
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else None


def _allowed(field: str, value: dict[str, Any], known: Known) -> ToolChoice:
    """`{"type": "allowed_tools", "allowed_tools": {"mode", "tools"}}`, or `mode` and `tools` beside the type."""
    inner = value.get("allowed_tools", value)
    tools = inner.get("tools") if isinstance(inner, dict) else None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise invalid(f"{field}.allowed_tools.tools", "must be a list of objects")
    mode = inner.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise invalid(f"{field}.allowed_tools.mode", 'must be "auto" or "required"')
    names = [_check_name(field, _name_in(tool) or "", known) for tool in tools]
    return {"names": names, "required": mode == "required"}


def _check_name(field: str, name: str, known: Known) -> str:
    if name in known:
        return name
    shown = ", ".join(text[:_MAX_SHOWN_CHARACTERS] for text in islice(known, _MAX_SHOWN)) + (", ..." if len(known) > _MAX_SHOWN else "")
    there = f"the tools are: {shown}" if known else 'the request has no tools: add some in "tools"'
    raise invalid(field, f"names the tool {name[:_MAX_SHOWN_CHARACTERS]!r}, which is not there; {there}")
