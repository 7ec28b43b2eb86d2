"""Agent frameworks at their defaults: whole tool loops over a scripted model, and answers with a form from a small real one."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, DefaultHttpxClient
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.messages import TextPart, ThinkingPart, ToolCallPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from scripted_models import make_scripted
from test_tool_loops import SCRIPTS, TEMPLATE, THOUGHT

QUESTION = "Is the sky blue?"
ANSWER = "So the sum is 7."


class Answer(BaseModel):
    """The answer."""

    is_blue: bool


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Router:
    folder = tmp_path_factory.mktemp("agents")
    make_scripted(folder / "agent.gguf", SCRIPTS, chat_template=TEMPLATE, n_ctx=1 << 12)
    (folder / "smollm2.gguf").symlink_to(smollm2)
    return module_router("-c", "4096", "--temp", "0", models_dir=folder)


# ---------------------------------------------------------------- Pydantic AI


def with_model(server: Router, kind: Any, name: str, use: Callable[[Any], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return await use(kind(name, provider=OpenAIProvider(openai_client=client)))

    return asyncio.run(run())


@pytest.mark.parametrize("kind", [OpenAIChatModel, OpenAIResponsesModel])
def test_pydantic_ai_runs_a_tool(server: Router, kind: Any) -> None:
    given = []

    def add(a: int, b: str) -> str:
        given.append((a, b))
        return "7"

    result = with_model(server, kind, "agent", lambda model: Agent(model, tools=[add]).run("cat"))
    assert (result.output, given) == (ANSWER, [(1, "two words")])
    thought, text, call = result.all_messages()[1].parts
    assert (type(thought), type(text), type(call)) == (ThinkingPart, TextPart, ToolCallPart)
    assert THOUGHT in (thought.content, *(thought.provider_details or {}).get("raw_content", []))


@pytest.mark.parametrize("kind", [OpenAIChatModel, OpenAIResponsesModel])
@pytest.mark.parametrize("output", [Answer, NativeOutput(Answer)])
def test_pydantic_ai_gets_an_object(server: Router, kind: Any, output: Any) -> None:
    """As a call that is required, without a limit of tokens; and as a form."""
    result = with_model(server, kind, "smollm2", lambda model: Agent(model, output_type=output).run(QUESTION))
    assert isinstance(result.output, Answer)


def test_pydantic_ai_streams(server: Router) -> None:
    async def last_text(model: Any) -> str:
        async with Agent(model).run_stream("Say hello.", model_settings={"max_tokens": 20}) as result:
            return [text async for text in result.stream_text()][-1]

    assert with_model(server, OpenAIChatModel, "smollm2", last_text)


# ---------------------------------------------------------------- LangChain


@tool
def add(a: int, b: str) -> str:
    """adds"""
    return f"{a} {b}"


@pytest.fixture
def langchain(server: Router) -> Iterator[Callable[..., ChatOpenAI]]:
    with DefaultHttpxClient() as client:
        asked: Any = {"base_url": f"{server.url}/v1", "api_key": "none", "max_retries": 0, "http_client": client}
        yield lambda **more: ChatOpenAI(**asked, **more)


@pytest.mark.parametrize("uses_responses", [False, True])
@pytest.mark.parametrize("is_stream", [False, True])
def test_langchain_runs_a_tool(langchain: Callable[..., ChatOpenAI], uses_responses: bool, is_stream: bool) -> None:
    chat = langchain(model="agent", use_responses_api=uses_responses, streaming=is_stream).bind_tools([add])
    turns: list[BaseMessage] = [HumanMessage("cat")]
    called = chat.invoke(turns)
    [call] = called.tool_calls
    result = add.invoke(call)
    assert result.content == "1 two words"
    assert chat.invoke([*turns, called, result]).text == ANSWER


@pytest.mark.parametrize("uses_responses", [False, True])
@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_langchain_gets_an_object(langchain: Callable[..., ChatOpenAI], uses_responses: bool, method: Any) -> None:
    chat = langchain(model="smollm2", use_responses_api=uses_responses).with_structured_output(Answer, method=method)
    assert isinstance(chat.invoke(QUESTION), Answer)


def test_langchains_choice_of_any_tool(langchain: Callable[..., ChatOpenAI]) -> None:
    [call] = langchain(model="smollm2").bind_tools([Answer], tool_choice="any").invoke(QUESTION).tool_calls
    assert isinstance(call["args"]["is_blue"], bool)
