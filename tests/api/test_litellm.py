"""The `litellm` package: chats, streams, tools, embeddings and errors through three of its providers. The model is scripted or tiny."""

import asyncio
import gc
import json
import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Router, StartRouter
from scripted_models import make_scripted
from test_tool_loops import INPUT, SCHEMA, SCRIPTS, TEMPLATE, THOUGHT
from tiny_encoders import make_bert

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch prices
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import litellm

pytestmark = [  # it never closes its clients, and its own models do not fit its own types
    *(pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("ResourceWarning", "DeprecationWarning", "UserWarning")),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "cat"}]
ADD = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": SCHEMA}}


@pytest.fixture(scope="module", autouse=True)
def _garbage() -> Iterator[None]:
    """It leaves sockets and event loops to the collector. They must not become warnings of other tests."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            gc.collect()


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("litellm")
    make_scripted(folder / "agent.gguf", SCRIPTS, chat_template=TEMPLATE, n_ctx=1 << 10)
    make_bert(folder / "bert.gguf")
    return module_router("-c", "1024", "--temp", "0", "--api-key", "secret", models_dir=folder)


def place(server: Router, provider: str) -> dict[str, Any]:
    """How a provider is told where the router is."""
    base = f"{server.url}/v1" if provider == "openai" else server.url
    return {"model": f"{provider}/agent", "api_base": base, "api_key": "secret", "max_retries": 0, "timeout": 60}


def call_in(message: Any) -> tuple[str, Any]:
    [call] = message.tool_calls
    return call.function.name, json.loads(call.function.arguments)


PROVIDERS = ("openai", "anthropic", "ollama_chat")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_tool_loop(server: Router, provider: str, is_stream: bool) -> None:
    asked = {**place(server, provider), "tools": [ADD], "max_tokens": 200}

    def ask(messages: list[Any]) -> Any:
        answer = litellm.completion(messages=messages, stream=is_stream, **asked)
        whole: Any = litellm.stream_chunk_builder(list(answer)) if is_stream else answer
        return whole.choices[0]

    choice = ask(QUESTION)
    message = choice.message
    assert choice.finish_reason == "tool_calls"
    assert call_in(message) == ("add", INPUT)
    assert (message.content or "").strip() == "I call it."
    assert message.reasoning_content.strip() == THOUGHT
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "7"}
    last = ask([*QUESTION, message.model_dump(exclude_none=True), result])
    assert (last.message.content, last.finish_reason) == ("So the sum is 7.", "stop")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_asynchronous_chats(server: Router, provider: str) -> None:
    async def ask() -> tuple[str, str]:
        whole: Any = await litellm.acompletion(messages=QUESTION, max_tokens=200, **place(server, provider))
        stream: Any = await litellm.acompletion(messages=QUESTION, max_tokens=200, stream=True, **place(server, provider))
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return whole.choices[0].message.content, "".join(pieces)

    whole, streamed = asyncio.run(ask())
    assert whole
    assert streamed == whole


def test_messages(server: Router) -> None:
    """Its own form of Anthropic's API."""

    async def ask() -> Any:
        tool = {"name": "add", "description": "adds", "input_schema": SCHEMA}
        return await litellm.anthropic.messages.acreate(messages=QUESTION, max_tokens=200, tools=[tool], **place(server, "anthropic"))

    answer = asyncio.run(ask())
    assert [block["type"] for block in answer["content"]] == ["thinking", "text", "tool_use"]
    assert (answer["content"][-1]["input"], answer["stop_reason"]) == (INPUT, "tool_use")


def test_responses(server: Router) -> None:
    answer: Any = litellm.responses(input="cat", max_output_tokens=200, **place(server, "openai"))
    assert [item.type for item in answer.output][-1] == "message"
    assert answer.usage.output_tokens > 0


def test_embeddings(server: Router) -> None:
    answer = litellm.embedding(input=["the cat", "the dog"], **{**place(server, "openai"), "model": "openai/bert"})
    first, second = (entry["embedding"] for entry in answer.data)
    assert len(first) == len(second) > 8
    assert first != second


@pytest.mark.parametrize("provider", PROVIDERS)
def test_errors(server: Router, provider: str) -> None:
    asked = {**place(server, provider), "messages": QUESTION, "max_tokens": 8}
    with pytest.raises(litellm.NotFoundError, match="nobody"):
        litellm.completion(**{**asked, "model": f"{provider}/nobody"})
    if provider != "ollama_chat":
        with pytest.raises(litellm.AuthenticationError):
            litellm.completion(**{**asked, "api_key": "wrong"})
        with pytest.raises(litellm.ContextWindowExceededError):
            litellm.completion(**{**asked, "messages": [{"role": "user", "content": "the cat " * 2000}]})
