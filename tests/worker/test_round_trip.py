"""Messages through every chat template that llama.cpp ships and back through the parser, whole and in pieces of every size.

The templates are in build/llama-templates (packaging/llama_templates.py). NOT_ROUND lists what does not come back, and why.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from fastrouter.errors import InvalidRequest
from fastrouter.worker.text.chat_template import ChatTemplate
from fastrouter.worker.text.parsers.round_trip import Trip, trip
from fastrouter.worker.text.template_format import TemplateFormat, format_of

FOLDER = Path(__file__).parent.parent.parent / "build" / "llama-templates"
TEMPLATES = sorted(path.name for path in FOLDER.glob("*.jinja"))
pytestmark = pytest.mark.skipif(not TEMPLATES, reason="no templates: run python packaging/llama_templates.py build/llama-templates")

USER = {"role": "user", "content": "What is the weather?"}
TYPES = {
    "city": {"type": "string"},
    "days": {"type": "integer"},
    "exact": {"type": "boolean"},
    "limit": {"type": ["number", "null"]},
    "where": {"type": "object", "properties": {"lat": {"type": "number"}, "names": {"type": "array", "items": {"type": "string"}}}},
    "tags": {"type": "array", "items": {"type": "string"}},
}
PARAMETERS = {
    "type": "object",
    "properties": {name: {**kind, "description": name} for name, kind in TYPES.items()},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "The weather.", "parameters": PARAMETERS}}
    for name in ("get_weather", "get-forecast_2")
]
SIMPLE: dict[str, Any] = {"city": "Zürich"}
FULL: dict[str, Any] = {
    "city": 'Say "hi" to\n  {x} \\n & <y> 日本 🙂',
    "days": -3,
    "exact": True,
    "limit": 0.5,
    "where": {"lat": 47.4, "names": ["a b", "ü"]},
    "tags": ["one", "two, three"],
}
EMPTY: dict[str, Any] = {"city": "", "exact": False, "where": {}, "tags": []}
CODE = "def f(x):\n    return x < 1 and x > [0]\n"
THOUGHT = "The user asks.\n\n1. Look it up.\n2. Say it: <b>so</b>."
ANSWER = "It is *fine*: 20 °C.\n\n| a | b |\n- <1 mm [sic]"


def called(*calls: tuple[str, dict[str, Any]], content: str = "", thought: str = "") -> dict[str, Any]:
    functions = [{"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)} for name, arguments in calls]
    tool_calls = [{"id": f"call{number:05}", "type": "function", "function": function} for number, function in enumerate(functions)]
    return {"role": "assistant", "content": content, "reasoning_content": thought, "tool_calls": tool_calls}


MESSAGES: dict[str, dict[str, Any]] = {
    "text": {"role": "assistant", "content": ANSWER},
    "thought": {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT},
    "call": called(("get_weather", SIMPLE)),
    "no arguments": called(("get-forecast_2", {})),
    "all types": called(("get_weather", FULL)),
    "empty values": called(("get_weather", EMPTY)),
    "code": called(("get_weather", {"city": CODE})),
    "three calls": called(("get_weather", SIMPLE), ("get-forecast_2", FULL), ("get_weather", {})),
    "text and call": called(("get_weather", SIMPLE), content=ANSWER),
    "thought and call": called(("get_weather", SIMPLE), thought=THOUGHT),
    "thought, text and calls": called(("get_weather", FULL), ("get-forecast_2", {}), content=ANSWER, thought=THOUGHT),
}
NOT_ROUND: dict[str, dict[str, str]] = {}


class Shown:
    """What a template makes of the messages, and how it is read."""

    def __init__(self, name: str) -> None:
        source = (FOLDER / name).read_text()
        self._template = ChatTemplate(source, bos_token="<BOS>", eos_token="<EOS>")
        self.found: TemplateFormat = format_of(source, self.render)
        self.prompt = self.render([USER], TOOLS, True)
        shown = {key: self.render([USER, message], TOOLS, False) for key, message in MESSAGES.items()}
        self.wholes = {key: text for key, text in shown.items() if text is not None}

    def render(self, messages: list[Any], tools: Any, add_generation_prompt: bool) -> str | None:
        try:
            return self._template.render(messages, tools, add_generation_prompt, False)
        except InvalidRequest:
            return None

    def trip(self, key: str, size: int = 0) -> Trip:
        assert self.prompt is not None
        return trip(self.prompt, self.wholes[key], self.found.format, MESSAGES[key], size, TOOLS)


shown_by = lru_cache(maxsize=None)(Shown)


@pytest.mark.parametrize("name", TEMPLATES)
def test_whole(name: str) -> None:
    shown = shown_by(name)
    trips = {key: shown.trip(key) for key in shown.wholes}
    wrong = {key: one for key, one in trips.items() if not one.is_round}
    assert set(wrong) == set(NOT_ROUND.get(name, ())), {key: (one.written, one.sent, one.got) for key, one in wrong.items()}
