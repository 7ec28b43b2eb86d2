"""Tools of the Responses API -> functions of a chat, and calls of these functions -> items of the Responses API. Pure.

A model only knows functions with JSON arguments. A custom tool becomes a function with one string. The functions of a namespace get its
name as a prefix. Tools that only OpenAI's servers can run (web_search, image_generation ...) are left out. Invariant: each name that the
model calls means one tool. A call of a tool that the client did not define becomes a function call.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from fastrouter.api.requests.checks import invalid, json_object, string

MAX_TOOLS = 1024
LOCAL_SHELL = "local_shell"
_INPUT = "input"  # the argument of a custom tool's function
_LOCAL_SHELL: dict[str, Any] = {
    "description": "Runs a command on the user's machine and returns its output.",
    "parameters": {
        "type": "object",
        "properties": {
            "command": {"type": "array", "items": {"type": "string"}, "description": "The program and its arguments."},
            "working_directory": {"type": "string"},
            "timeout_ms": {"type": "integer"},
            "env": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["command"],
    },
}


@dataclass(frozen=True, slots=True)
class Tool:
    """The tool that a name in a call means."""

    kind: str  # function | custom | local_shell
    name: str
    namespace: str | None = None


@dataclass(slots=True)
class Toolbox:
    """The tools of one request, by the names under which the model knows them."""

    tools: dict[str, Tool] = field(default_factory=dict)
    functions: list[dict[str, Any]] = field(default_factory=list)  # in the form of a chat

    def add(self, tool: Tool, function: dict[str, Any]) -> None:
        """If two tools have the same name, the first is used."""
        name = flat_name(tool.namespace, tool.name)
        if name not in self.tools:
            self.tools[name] = tool
            self.functions.append({"type": "function", "function": {"name": name, **function}})

    def find(self, name: str) -> Tool:
        return self.tools.get(name) or Tool("function", name)


def flat_name(namespace: str | None, name: str) -> str:
    """The name of a namespace's function for the model."""
    if not namespace:
        return name
    return namespace + name if namespace.endswith("__") else f"{namespace}__{name}"


# ---------------------------------------------------------------- tools


def read_tools(value: Any) -> Toolbox:
    box = Toolbox()
    for name, tool in _each(value, "tools"):
        _read_tool(box, name, tool)
    return box


def _each(value: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if value is None:
        return
    if not isinstance(value, list) or len(value) > MAX_TOOLS:
        raise invalid(name, f"must be a list of at most {MAX_TOOLS} tools")
    for index, tool in enumerate(value):
        yield f"{name}[{index}]", json_object(f"{name}[{index}]", tool)


def _read_tool(box: Toolbox, name: str, tool: dict[str, Any]) -> None:
    kind = string(f"{name}.type", tool.get("type"))
    if kind == "namespace":
        namespace = string(f"{name}.name", tool.get("name"))
        for inner_name, inner in _each(tool.get("tools"), f"{name}.tools"):
            _read_named(box, inner_name, {"description": tool.get("description"), **inner}, namespace)
    elif kind == LOCAL_SHELL:
        box.add(Tool(LOCAL_SHELL, LOCAL_SHELL), _LOCAL_SHELL)
    else:
        _read_named(box, name, tool, None)


def _read_named(box: Toolbox, name: str, tool: dict[str, Any], namespace: str | None) -> None:
    """Other kinds cannot be used in a chat."""
    if tool.get("type") == "function":
        inner = tool.get("function")
        known = inner if isinstance(inner, dict) else tool  # a chat's shape, which many clients send
        function = {key: known[key] for key in ("description", "parameters", "strict") if known.get(key) is not None}
        box.add(Tool("function", string(f"{name}.name", known.get("name")), namespace), function)
    elif tool.get("type") == "custom":
        description = _custom_description(name, tool)
        parameters = {"type": "object", "properties": {_INPUT: {"type": "string"}}, "required": [_INPUT], "additionalProperties": False}
        custom = Tool("custom", string(f"{name}.name", tool.get("name")), namespace)
        box.add(custom, {"description": description, "parameters": parameters})


def _custom_description(name: str, tool: dict[str, Any]) -> str:
    """The description includes the format of the input. The format is not enforced."""
    description = string(f"{name}.description", tool["description"]) if tool.get("description") is not None else ""
    form = json_object(f"{name}.format", tool["format"]) if tool.get("format") is not None else {}
    about = f"`{_INPUT}` is the whole text for this tool, as it is."
    if form.get("type") == "grammar":
        syntax = "regular expression" if form.get("syntax") == "regex" else "Lark grammar"
        about += f" It must match this {syntax}:\n{string(f'{name}.format.definition', form.get('definition'))}"
    return f"{description}\n\n{about}" if description else about


# ---------------------------------------------------------------- tool_choice


def read_tool_choice(value: Any, box: Toolbox) -> Any:
    """The choice in the form of a chat. A tool that was left out becomes "auto". Allowed tools that are left out are ignored."""
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        value = _allowed(value, box)
    elif isinstance(value, dict):
        name = _chosen_name(value)
        value = {"type": "function", "function": {"name": name}} if name in box.tools else "auto"
    elif value not in (None, "auto", "none", "required"):
        raise invalid("tool_choice", 'must be "auto", "none", "required" or an object')
    return value if box.functions else None


def _allowed(value: dict[str, Any], box: Toolbox) -> Any:
    names = [_chosen_name(tool) for _, tool in _each(value.get("tools"), "tool_choice.tools")]
    tools = [{"type": "function", "name": name} for name in names if name in box.tools]
    return {"type": "allowed_tools", "mode": value.get("mode", "auto"), "tools": tools} if tools else "none"


def _chosen_name(tool: dict[str, Any]) -> str:
    function = tool.get("function")
    name = tool.get("name") or (function.get("name") if isinstance(function, dict) else None)
    if not isinstance(name, str):
        return str(tool.get("type"))
    namespace = tool.get("namespace")
    return flat_name(None if namespace is None else string("tool_choice.namespace", namespace), name)


# ---------------------------------------------------------------- calls


def call_item(tool: Tool, ids: dict[str, str], arguments: str, status: str) -> dict[str, Any]:
    """The item of a call. `ids`: its `id` and `call_id`."""
    if tool.kind == LOCAL_SHELL:
        return {"type": "local_shell_call", **ids, "action": _shell_action(arguments), "status": status}
    namespace = {"namespace": tool.namespace} if tool.namespace else {}
    if tool.kind == "custom":
        return {"type": "custom_tool_call", **ids, "name": tool.name, **namespace, "input": custom_input(arguments), "status": status}
    return {"type": "function_call", **ids, "name": tool.name, **namespace, "arguments": arguments, "status": status}


def custom_input(arguments: str) -> str:
    """The text in the arguments of a custom tool's function; arguments that are not JSON are used as the text."""
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    found = value.get(_INPUT) if isinstance(value, dict) else None
    return found if isinstance(found, str) else arguments


def custom_arguments(text: str) -> str:
    return orjson.dumps({_INPUT: text}).decode()


def _shell_action(arguments: str) -> dict[str, Any]:
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        value = None
    given = value if isinstance(value, dict) else {}
    command = given.get("command")
    words = [command] if isinstance(command, str) else [str(word) for word in command] if isinstance(command, list) else []
    environment = given.get("env") if isinstance(given.get("env"), dict) else {}
    more = {name: given[name] for name in ("working_directory", "timeout_ms") if given.get(name) is not None}
    return {"type": "exec", "command": words, "env": environment, **more}
