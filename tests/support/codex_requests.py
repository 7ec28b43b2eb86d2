"""What Codex CLI 0.171 sends to /v1/responses, recorded from `codex exec`: the shape, without its words."""

from typing import Any

Item = dict[str, Any]


def _function(name: str) -> Item:
    parameters = {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"], "additionalProperties": False}
    return {"type": "function", "name": name, "description": f"Does {name}", "strict": False, "parameters": parameters}


TOOLS: list[Item] = [
    *map(_function, ("exec_command", "write_stdin", "request_user_input", "view_image")),
    {
        "type": "namespace",
        "name": "multi_agent_v1",
        "description": "Other agents",
        "tools": [*map(_function, ("close_agent", "spawn_agent"))],
    },
    {
        "type": "custom",
        "name": "apply_patch",
        "description": "Edits",
        "format": {"type": "grammar", "syntax": "lark", "definition": "s: /x/"},
    },
    {"type": "web_search", "external_web_access": False},
    {"type": "image_generation", "output_format": "png"},
]


def _message(number: int, role: str, *texts: str) -> Item:
    content = [{"type": "input_text", "text": text} for text in texts]
    return {"type": "message", "id": f"msg_{number}", "role": role, "content": content}


def request(question: str, *later: Item) -> Item:
    """A turn; `later`: items after the question."""
    return {
        "model": "a",
        "stream": True,
        "input": [
            _message(1, "developer", "You are an agent.", "Permissions."),
            _message(2, "developer", "Skills."),
            _message(3, "user", "<environment_context>", "</environment_context>"),
            _message(4, "user", question),
            *later,
        ],
        "tools": TOOLS,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "01a2",
        "client_metadata": {"x-codex-installation-id": "b8ac"},
    }


def returned(items: list[Item]) -> list[Item]:
    """How Codex sends items of an answer back."""
    return [{**item, "content": None} if item["type"] == "reasoning" else item for item in items]


def output_of(call_id: str, text: str) -> Item:
    return {"type": "function_call_output", "id": "fco_1", "call_id": call_id, "output": text}
