"""openai's helpers and smolagents at their defaults: tool loops over scripted models, and answers with a form."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from conftest import Router, StartRouter
from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel
from scripted_models import make_scripted
from smolagents import CodeAgent, OpenAIServerModel, ToolCallingAgent, tool
from test_tool_loops import SCRIPTS, TEMPLATE, THOUGHT

QUESTION: list[Any] = [{"role": "user", "content": "Is the sky blue?"}]
ANSWER = "So the sum is 7."
# smolagents puts words before the task and before each result, and its instructions are long: only the last word is shown.
LAST_WORD = (
    "{# <tool_call> tool_calls arguments #}{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}"
    "{% if messages[-1].role == 'user' %}hi {{ messages[-1].content.split() | last }}{% else %}{{ messages[-1].content }}{% endif %}"
)
STEPS = {
    "cat": '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "two words"}}\n</tool_call>',
    "red": '<tool_call>\n{"name": "final_answer", "arguments": {"answer": "So the sum is 7."}}\n</tool_call>',
    "dog": 'Thought: I add.\n<code>\nfinal_answer(add(3, "more words"))\n</code>',
}


class Answer(BaseModel):
    """The answer."""

    is_blue: bool


class add(BaseModel):
    """adds"""

    a: int
    b: str


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Router:
    folder = tmp_path_factory.mktemp("libraries")
    make_scripted(folder / "agent.gguf", SCRIPTS, chat_template=TEMPLATE, n_ctx=1 << 12)
    make_scripted(folder / "steps.gguf", STEPS, chat_template=LAST_WORD, n_ctx=1 << 12)
    (folder / "smollm2.gguf").symlink_to(smollm2)
    return module_router("-c", "4096", "--temp", "0", models_dir=folder)


@pytest.fixture
def client(server: Router) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


# ---------------------------------------------------------------- openai


def test_openai_parses_an_answer(client: OpenAI) -> None:
    [choice] = client.chat.completions.parse(model="smollm2", messages=QUESTION, response_format=Answer).choices
    assert isinstance(choice.message.parsed, Answer)
    assert isinstance(client.responses.parse(model="smollm2", input=QUESTION, text_format=Answer).output_parsed, Answer)


def test_openai_parses_a_call(client: OpenAI) -> None:
    asked: Any = {"model": "agent", "tools": [pydantic_function_tool(add)], "messages": [{"role": "user", "content": "cat"}]}
    [choice] = client.chat.completions.parse(**asked).choices
    [call] = choice.message.tool_calls or []
    assert call.function.parsed_arguments == add(a=1, b="two words")


def test_openais_helper_of_streams_runs_a_tool(client: OpenAI) -> None:
    turns: list[Any] = [{"role": "user", "content": "cat"}]
    asked: Any = {"model": "agent", "tools": [pydantic_function_tool(add)]}
    with client.chat.completions.stream(messages=turns, **asked) as stream:
        events = list(stream)
        message = stream.get_final_completion().choices[0].message
    [done] = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert done.parsed_arguments == add(a=1, b="two words")
    assert message.content == "I call it."
    [call] = message.tool_calls or []
    turns += [message, {"role": "tool", "tool_call_id": call.id, "content": "7"}]
    with client.chat.completions.stream(messages=turns, **asked) as stream:
        texts = [event.content for event in stream if event.type == "content.done"]
    assert texts == [ANSWER]


def test_openais_helper_of_response_streams(client: OpenAI) -> None:
    with client.responses.stream(
        model="agent", input="cat", tools=[openai.pydantic_function_tool(add)["function"] | {"type": "function"}]
    ) as stream:  # type: ignore[list-item]
        events = list(stream)
        response = stream.get_final_response()
    assert events[-1].type == "response.completed"
    thought, text, call = response.output
    assert thought.type == "reasoning"
    assert THOUGHT in [part.text for part in thought.content or []]
    assert (text.type, call.type) == ("message", "function_call")


# ---------------------------------------------------------------- smolagents


@pytest.fixture
def model(server: Router) -> Any:
    return OpenAIServerModel("steps", api_base=f"{server.url}/v1", api_key="none")


@pytest.mark.parametrize("is_stream", [False, True])
def test_smolagents_calls_tools(model: Any, is_stream: bool) -> None:
    """It forces a call in each step, and reads the result as a message of the user."""
    given = []

    @tool
    def add(a: int, b: str) -> str:
        """Adds.

        Args:
            a: a number
            b: a text
        """
        given.append((a, b))
        return "the sum is red"

    agent = ToolCallingAgent(tools=[add], model=model, stream_outputs=is_stream, verbosity_level=0)
    assert agent.run("cat") == ANSWER
    assert given == [(1, "two words")]


def test_smolagents_runs_code(model: Any) -> None:
    """The code is the text of the answer; it ends at a stop string."""

    @tool
    def add(a: int, b: str) -> str:
        """Adds.

        Args:
            a: a number
            b: a text
        """
        return f"{a} {b}"

    assert CodeAgent(tools=[add], model=model, verbosity_level=0).run("dog") == "3 more words"
