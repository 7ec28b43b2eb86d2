"""The requests of llama.cpp's own server tests for tools, templates and thoughts, and what must come back.

Ported from test_tool_call.py and test_template.py of its source. Where those use a model of several gigabytes, a tiny model with random
weights is enough: the grammar forces the call, and the template decides the prompt. What a trained model writes by itself is tested with
scripted models in tests/api/test_tool_calls.py. docs/llama-server.md lists what differs on purpose.
"""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter
from tiny_models import CONTROL_PIECES, make_llama

FOLDER = Path(__file__).parent.parent.parent / "build" / "llama-templates"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="no templates: run python packaging/llama_templates.py build/llama-templates")
CHAT = "/v1/chat/completions"
LLAMA33, R1_QWEN = "meta-llama-Llama-3.3-70B-Instruct", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"
# All tokens of the model are equally likely, so it should close what it has opened, texts first.
CLOSERS = [[len(CONTROL_PIECES) + ord(character), bias] for character, bias in (('"', 14.0), ("}", 6.0), ("]", 6.0))]


def tool(name: str, description: str, key: str, schema: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {key: schema}, "required": [key]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


SUCCESS = tool("test", "", "success", {"type": "boolean", "const": True})
PYTHON = tool("python", "Runs code in an interpreter.", "code", {"type": "string", "description": "The code to run."})
CALCULATE = tool("calculate", "Computes an expression.", "expression", {"type": "string", "description": "An arithmetic expression."})
CALLING = {  # and the tools that llama.cpp's tests force there; a random model never ends a text without quotes
    "Qwen3-Coder": [SUCCESS],
    "meta-llama-Llama-3.3-70B-Instruct": [SUCCESS, PYTHON],
    "meta-llama-Llama-3.1-8B-Instruct": [SUCCESS, PYTHON],
    "meta-llama-Llama-3.2-3B-Instruct": [SUCCESS, PYTHON],
    "meetkai-functionary-medium-v3.1": [SUCCESS, PYTHON],
    "meetkai-functionary-medium-v3.2": [SUCCESS, PYTHON],
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": [SUCCESS, PYTHON],
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": [SUCCESS, PYTHON],
    "mistralai-Mistral-Nemo-Instruct-2407": [SUCCESS, PYTHON],
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": [SUCCESS, PYTHON],
    "fireworks-ai-llama-3-firefunction-v2": [SUCCESS, PYTHON],
    "microsoft-Phi-3.5-mini-instruct": [SUCCESS, PYTHON],
    "google-gemma-2-2b-it": [SUCCESS, PYTHON],
    "Qwen-Qwen2.5-7B-Instruct": [SUCCESS, PYTHON],
}
PROMPT_ENDS = [  # template, --reasoning, the end of the prompt
    (R1_QWEN, "on", "<think>\n"),
    (R1_QWEN, "auto", "<think>\n"),
    (R1_QWEN, "off", "<think>\n</think>"),
    ("Qwen-Qwen3-0.6B", "auto", "<|im_start|>assistant\n"),
    ("Qwen-Qwen3-0.6B", "off", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    ("Qwen-QwQ-32B", "auto", "<|im_start|>assistant\n<think>\n"),
    ("Qwen-QwQ-32B", "off", "<|im_start|>assistant\n<think>\n</think>"),
    ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "auto", "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"),
    ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "off", "<|CHATBOT_TOKEN|><|START_THINKING|><|END_THINKING|>"),
]
CONVERSATIONS = [*CALLING, R1_QWEN, "llama-cpp-deepseek-r1"]


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    """A model for each template, and for each kind of thoughts."""
    folder = tmp_path_factory.mktemp("templates")
    model = make_llama(folder / "noise.gguf", num_silent=2, n_ctx=1 << 13)
    wanted = {(name, "auto") for name in (*CONVERSATIONS, LLAMA33)} | {(name, reasoning) for name, reasoning, _ in PROMPT_ENDS}
    sections = [
        f"[{name}-{reasoning}]\nmodel = {model}\nchat-template-file = {FOLDER / name}.jinja\nreasoning = {reasoning}\n"
        for name, reasoning in sorted(wanted)
    ]
    presets = folder / "presets.ini"
    presets.write_text("\n".join(sections))
    return module_router("--models-preset", str(presets), "-c", "8192", "-np", "1", models_dir=folder)


def answer(server: Router, name: str, is_stream: bool, **fields: Any) -> tuple[dict[str, Any], str]:
    """The message and the reason of its end. A stream is put together as llama.cpp's tests do."""
    body = {"model": f"{name}-auto", "seed": 1, "logit_bias": CLOSERS, "stream": is_stream, "reasoning_budget_tokens": 2, **fields}
    if not is_stream:
        found = server.post(CHAT, body)
        assert found.status == 200, found.body
        [choice] = found.json["choices"]
        return choice["message"], choice["finish_reason"]
    message: dict[str, Any] = {"content": "", "tool_calls": []}
    reason = ""
    with server.stream(CHAT, body) as events:
        assert events.status == 200
        for choice in (choice for event in events for choice in event["choices"]):
            reason = choice["finish_reason"] or reason
            message["content"] += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls") or []:
                if call.get("id"):
                    message["tool_calls"].append(call)
                else:
                    message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    return {**message, "tool_calls": message["tool_calls"] or None}, reason


def example(tool: dict[str, Any]) -> dict[str, Any]:
    system, user = "You are a coding assistant.", "Write an example"
    return {"messages": [{"role": "system", "content": system}, {"role": "user", "content": user}], "tools": [tool]}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("name", "called"), [(name, one) for name, tools in CALLING.items() for one in tools])
def test_a_required_tool_is_called(server: Router, name: str, called: dict[str, Any], is_stream: bool) -> None:
    fields = {**example(called), "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 512}
    message, reason = answer(server, name, is_stream, **fields)
    [call] = message["tool_calls"]
    assert not message["content"]
    assert reason == "tool_calls"
    assert call["id"]
    assert call["function"]["name"] == called["function"]["name"]
    assert list(json.loads(call["function"]["arguments"])) == called["function"]["parameters"]["required"]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("tools", "choice"), [([], None), ([SUCCESS], None), ([PYTHON], "none")])
@pytest.mark.parametrize("name", [LLAMA33, "meetkai-functionary-medium-v3.1", "meetkai-functionary-medium-v3.2"])
def test_no_tool_is_called(server: Router, name: str, tools: list[Any], choice: str | None, is_stream: bool) -> None:
    messages = [{"role": "system", "content": "You are a coding assistant."}, {"role": "user", "content": "say hello world with python"}]
    message, reason = answer(server, name, is_stream, messages=messages, tools=tools or None, tool_choice=choice, max_tokens=32)
    assert message.get("tool_calls") is None
    assert message["content"]
    assert reason in ("length", "stop")


CALCULATED = [
    {"role": "system", "content": "You are a tools-calling assistant. You express numerical values with at most two decimals."},
    {"role": "user", "content": "What's the y coordinate of a point on the unit sphere at angle 30 degrees?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_6789",
                "type": "function",
                "function": {"name": "calculate", "arguments": '{"expression":"sin(30 * pi / 180)"}'},
            }
        ],
    },
    {"role": "tool", "name": "calculate", "content": "0.55644242476", "tool_call_id": "call_6789"},
]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_call_and_its_result_are_in_the_prompt(server: Router, name: str) -> None:
    fields = {"messages": CALCULATED, "tools": [CALCULATE]}
    prompt = server.post("/apply-template", {"model": f"{name}-auto", **fields}).json["prompt"]
    places = [prompt.find(text) for text in ("unit sphere", "sin(30 * pi / 180)", "0.55644242476")]
    assert min(places) >= 0
    assert places == sorted(places)
    message, _ = answer(server, name, False, **fields, tool_choice="none", max_tokens=4)
    assert message.get("tool_calls") is None


# ---------------------------------------------------------------- templates


def prompt_of(server: Router, model: str, **fields: Any) -> str:
    found = server.post("/apply-template", {"model": model, "messages": [{"role": "user", "content": "What is today?"}], **fields})
    assert found.status == 200, found.body
    prompt: str = found.json["prompt"]
    return prompt


@pytest.mark.parametrize("tools", [None, [], [SUCCESS]])
@pytest.mark.parametrize(("name", "reasoning", "end"), PROMPT_ENDS)
def test_a_prompt_asks_for_a_thought_or_not(server: Router, name: str, reasoning: str, end: str, tools: Any) -> None:
    assert prompt_of(server, f"{name}-{reasoning}", tools=tools).endswith(end)


@pytest.mark.parametrize("tools", [None, [], [SUCCESS]])
@pytest.mark.parametrize(("name", "form"), [(LLAMA33, "%d %b %Y"), ("fireworks-ai-llama-3-firefunction-v2", "%b %d %Y")])
def test_a_prompt_says_which_day_it_is(server: Router, name: str, form: str, tools: Any) -> None:
    days = [datetime.datetime.now().strftime(form)]
    prompt = prompt_of(server, f"{name}-auto", tools=tools)
    days.append(datetime.datetime.now().strftime(form))  # it may be midnight
    assert any(day in prompt for day in days)


@pytest.mark.parametrize("is_added", [False, True])
def test_the_start_of_the_answer_may_be_left_out(server: Router, is_added: bool) -> None:
    prompt = prompt_of(server, f"{LLAMA33}-auto", add_generation_prompt=is_added)
    assert ("<|start_header_id|>assistant<|end_header_id|>" in prompt) == is_added
