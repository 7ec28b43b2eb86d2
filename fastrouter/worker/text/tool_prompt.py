"""Tools for templates that know none: described in a system message; calls and results are text. The one place where that text lives.

The style is that of Hermes, which most models have seen. Pure.
"""

import json
from typing import Any


def describe_tools(tools: list[Any]) -> str:
    """What a system message says about them."""
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
            "To call a function, write a JSON object with its name and its arguments inside <tool_call></tool_call>:",
            "<tool_call>",
            '{"name": "<name of the function>", "arguments": {<its arguments>}}',
            "</tool_call>",
            "Write one such block for each call. The results come back inside <tool_response></tool_response>.",
            "If no function is needed, answer without a call.",
        ]
    )


def write_call(name: str, arguments: Any) -> str:
    """`arguments`: JSON text, or what it stands for."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {text or "{}"}}}\n</tool_call>'


def write_result(text: str) -> str:
    return f"<tool_response>\n{text}\n</tool_response>"
