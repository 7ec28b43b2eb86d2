"""Tools for templates that do not show them: a description for the system message; calls and results as text. That text is only here.

The generic style is that of Hermes, which most models have seen. If the table knows how a template's models write calls, that is used.
Pure.
"""

import json
from collections.abc import Sequence
from typing import Any

from fastrouter.worker.text.parsers.format import Calls, JsonObject, Pythonic
from fastrouter.worker.text.parsers.table import GENERIC

EXAMPLE_NAME = "name_of_the_function"
EXAMPLE_ARGUMENTS = {"name_of_an_argument": "its value"}
_RESULTS = "The results come back inside <tool_response></tool_response>."


def describe_tools(tools: Sequence[Any], example: str = "") -> str:
    """What a system message says about them. `example`: a call as the template shows it; empty: the generic style."""
    lines = [json.dumps(tool, ensure_ascii=False) for tool in tools]
    return "\n".join(
        [
            "# Tools",
            "",
            "You can call these functions. Each line describes one, with a JSON schema for its arguments:",
            "<tools>",
            *lines,
            "</tools>",
            "",
            "To call a function, write its name and its arguments like this, once for each call:",
            example or write_calls([(EXAMPLE_NAME, EXAMPLE_ARGUMENTS)]),
            *([] if example else [_RESULTS]),
            "If no function is needed, answer without a call.",
        ]
    )


def write_calls(calls: Sequence[tuple[str, Any]], style: Calls | None = None) -> str:
    """Names and arguments, which are JSON text or its value. `style`: how the model writes calls, if that is known."""
    if style is None or not isinstance(style.syntax, JsonObject | Pythonic):
        style = GENERIC.calls
    assert style is not None
    opening, start = (style.open or ("",))[0], (style.section_open or ("",))[0]
    if isinstance(style.syntax, JsonObject):
        texts = [_as_object(style.syntax, name, arguments) for name, arguments in calls]
        is_list = style.syntax.array
    else:
        texts = [_as_python(name, arguments) for name, arguments in calls]
        is_list = True
    if is_list:
        return f"{start or opening}[{', '.join(texts)}]{style.section_close or style.close}".strip()
    return f"{start}{style.between.join(f'{opening.lstrip()}{text}{style.close}' for text in texts)}{style.section_close}".strip()


def _as_object(syntax: JsonObject, name: str, arguments: Any) -> str:
    named, shown = json.dumps(name, ensure_ascii=False), _json_of(arguments)
    if syntax.name_is_key:
        return f"{{{named}: {shown}}}"
    inner = f'{{"{syntax.name_keys[0]}": {named}, "{syntax.arguments_keys[0]}": {shown}}}'
    return f'{{"{syntax.function_key}": {inner}}}' if syntax.function_key else inner


def _json_of(arguments: Any) -> str:
    return (arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)) or "{}"


def _as_python(name: str, arguments: Any) -> str:
    try:
        values = json.loads(_json_of(arguments))
    except (ValueError, RecursionError):
        values = None
    pairs = values.items() if isinstance(values, dict) else ()
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in pairs)})"


def write_result(text: str) -> str:
    return f"<tool_response>\n{text}\n</tool_response>"
