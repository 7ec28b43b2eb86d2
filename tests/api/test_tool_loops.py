"""Whole tool loops of the `anthropic` and `ollama` packages, through a router and a worker. The model is real and writes a script."""

from collections.abc import Iterator
from typing import Any

import anthropic
import ollama
import pytest
from anthropic.types import MessageParam, ToolParam
from conftest import Router, StartRouter
from scripted_models import make_scripted

# The last user message is the word that chooses the script; after a tool's result comes the answer.
TEMPLATE = (
    "{# <tool_call> tool_calls <think> </think> arguments #}"
    "{% for message in messages %}{{ message.role }} {{ message.content or '' }} {{ message.reasoning_content }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }} {{ call.function.arguments }}{% endfor %} {% endfor %}"
    "{% if messages[-1].role == 'tool' %}red{% else %}{{ messages[-1].content }}{% endif %}"
)
THOUGHT = "Let me see: 1 and 2?"
INPUT = {"a": 1, "b": "two words"}
SCRIPTS = {
    "cat": f"<think>\n{THOUGHT}\n</think>\n\nI call it.\n<tool_call>\n"
    '{"name": "add", "arguments": {"a": 1, "b": "two words"}}\n</tool_call>',
    "red": "So the sum is 7.",
}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a", "b"]}
ADD: ToolParam = {"name": "add", "description": "adds", "input_schema": SCHEMA}


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("agents")
    make_scripted(folder / "agent.gguf", SCRIPTS, chat_template=TEMPLATE, n_ctx=1 << 12)
    return module_router("-c", "4096", "--temp", "0", models_dir=folder)


@pytest.fixture
def claude(server: Router) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_anthropic(claude: anthropic.Anthropic) -> None:
    turns: list[MessageParam] = [{"role": "user", "content": "cat"}]
    asked: dict[str, Any] = {"model": "agent", "max_tokens": 200, "tools": [ADD]}
    with claude.messages.stream(messages=turns, **asked) as stream:
        names = [event.type for event in stream]
        message = stream.get_final_message()
    assert names.count("content_block_start") == names.count("content_block_stop") == 3
    thought, text, call = message.content
    assert thought.type == "thinking"
    assert thought.thinking == THOUGHT
    assert text.type == "text"
    assert text.text.strip() == "I call it."
    assert call.type == "tool_use"
    assert (call.name, call.input, message.stop_reason) == ("add", INPUT, "tool_use")
    whole = claude.messages.create(messages=turns, **asked)
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]
    assert whole.usage.output_tokens == message.usage.output_tokens
    turns += [
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "7"}]},
    ]
    answer = claude.messages.create(messages=turns, **asked)
    assert [block.to_dict() for block in answer.content] == [{"type": "text", "text": "So the sum is 7."}]
    assert answer.stop_reason == "end_turn"


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "add"}, {"type": "auto", "disable_parallel_tool_use": True}])
def test_anthropics_tool_choice(claude: anthropic.Anthropic, choice: Any) -> None:
    message = claude.messages.create(
        model="agent", max_tokens=200, tools=[ADD], tool_choice=choice, messages=[{"role": "user", "content": "cat"}]
    )
    [call] = [block for block in message.content if block.type == "tool_use"]
    assert (call.name, set(call.input)) == ("add", {"a", "b"})  # type: ignore[arg-type]
    assert message.stop_reason == "tool_use"


@pytest.mark.parametrize("is_stream", [False, True])
def test_ollama(server: Router, is_stream: bool) -> None:
    client = ollama.Client(host=server.url, timeout=60)
    tool = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": SCHEMA}}
    turns: list[Any] = [{"role": "user", "content": "cat"}]
    parts = list(client.chat("agent", turns, tools=[tool], stream=True)) if is_stream else [client.chat("agent", turns, tools=[tool])]
    assert "".join(part.message.thinking or "" for part in parts) == THOUGHT
    assert "".join(part.message.content or "" for part in parts).strip() == "I call it."
    [call] = [call for part in parts for call in part.message.tool_calls or []]
    assert (call.function.name, dict(call.function.arguments)) == ("add", INPUT)
    turns.append({"role": "assistant", "content": "I call it.", "thinking": THOUGHT, "tool_calls": [call.model_dump()]})
    turns.append({"role": "tool", "tool_name": "add", "content": "7"})
    assert client.chat("agent", turns, tools=[tool]).message.content == "So the sum is 7."
    client.close()
