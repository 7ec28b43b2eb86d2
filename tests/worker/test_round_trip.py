"""Messages through every chat template that llama.cpp ships and back through the parser, whole and in pieces of every size.

The templates are in build/llama-templates (packaging/llama_templates.py). NOT_ROUND lists what does not come back unchanged, and why.
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
# Why a message does not come back unchanged. Each reason is tested below.
_OTHER_TURN = "the template ends the turn inside the message, so no answer of the model can look like this"
_AS_THOUGHT = "the template shows the text beside a call as a thought, so it comes back as one"
_ESCAPES = "the template escapes neither quotes nor backslashes, so its output may stand for several messages"
_TEXT_AND_CALLS = ("text and call", "thought, text and calls")
NOT_ROUND: dict[str, dict[str, str]] = {
    "LFM2.5-8B-A1B.jinja": dict.fromkeys(("all types", "three calls", "thought, text and calls"), _ESCAPES),
    "NVIDIA-Nemotron-Nano-v2.jinja": dict.fromkeys((*_TEXT_AND_CALLS, "thought and call"), _OTHER_TURN),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja": dict.fromkeys(_TEXT_AND_CALLS, _OTHER_TURN),
    "openai-gpt-oss-120b.jinja": dict.fromkeys(_TEXT_AND_CALLS, _AS_THOUGHT),
}


class Shown:
    """A template's output for the messages, and how it is parsed."""

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

    def shown_call(self, arguments: dict[str, Any]) -> str | None:
        return self.render([USER, called(("get_weather", arguments))], TOOLS, False)

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


@pytest.mark.parametrize("name", TEMPLATES)
def test_in_pieces_of_every_size(name: str) -> None:
    """Every size for a message with all parts; for the others only small sizes, which cut each marker everywhere."""
    shown = shown_by(name)
    for key in shown.wholes:
        whole = shown.trip(key)
        most = len(whole.written) if key == "thought, text and calls" else 12
        for size in range(1, most):
            one = shown.trip(key, size)
            assert one.got == whole.got, (key, size)


def test_the_list_of_what_does_not_come_back_is_short() -> None:
    assert len(TEMPLATES) == 70
    assert set(NOT_ROUND) <= set(TEMPLATES)
    assert len(NOT_ROUND) <= 4


@pytest.mark.parametrize(("name", "key", "reason"), [(name, *each) for name, found in NOT_ROUND.items() for each in found.items()])
def test_the_reason_is_true(name: str, key: str, reason: str) -> None:
    shown = shown_by(name)
    one = shown.trip(key)
    if reason == _OTHER_TURN:
        ends = shown.found.format.ends
        assert any(end in one.written and one.written.partition(end)[2].strip() for end in ends)
    elif reason == _AS_THOUGHT:
        assert one.got["reasoning_content"].endswith(ANSWER)
        assert not one.got["content"]
        assert one.got["tool_calls"] == one.sent["tool_calls"]
    else:
        two_values, one_value = ({"city": "a", "limit": "b"}, {"city": "a', limit='b"})
        assert shown.shown_call(two_values) == shown.shown_call(one_value)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_takes_every_message(name: str) -> None:
    """Adapted if that is needed."""
    assert set(shown_by(name).wholes) == set(MESSAGES)
