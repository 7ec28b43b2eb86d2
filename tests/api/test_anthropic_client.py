"""The official `anthropic` package against a running router, on a real model and on tiny ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, TextBlockParam, ToolParam
from conftest import Router, StartRouter
from tiny_models import make_llama

MESSAGES: list[MessageParam] = [{"role": "user", "content": "Say hello."}]
COLD = {"temperature": 0}  # no argument of the package
ADD: ToolParam = {"name": "add", "description": "a sum", "input_schema": {"type": "object", "properties": {"a": {"type": "number"}}}}


@pytest.fixture(scope="module")
def server(module_router: StartRouter, models: Path, smollm2: Path) -> Router:
    return module_router("-m", str(smollm2), "--alias", "smollm2", "--api-key", "secret", "-c", "4096", models_dir=models)


@pytest.fixture
def client(server: Router) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="secret", max_retries=0, timeout=60) as client:
        yield client


def text_of(message: anthropic.types.Message) -> str:
    [block] = message.content
    assert block.type == "text"
    return block.text


def test_a_whole_answer_and_a_stream_say_the_same(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": "smollm2", "messages": MESSAGES, "max_tokens": 24, "extra_body": COLD}
    whole = client.messages.create(**asked)
    assert "hello" in text_of(whole).lower()
    assert whole.stop_reason in ("end_turn", "max_tokens")
    with client.messages.stream(**asked) as stream:
        pieces = list(stream.text_stream)
        streamed = stream.get_final_message()
    assert len(pieces) > 4
    assert "".join(pieces) == text_of(streamed) == text_of(whole)
    assert streamed.stop_reason == whole.stop_reason

    def num_read(message: anthropic.types.Message) -> int:
        return message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)

    assert num_read(streamed) == num_read(whole) > 10
    assert streamed.usage.output_tokens == whole.usage.output_tokens > 4


def test_max_tokens_and_stop_sequences(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": "smollm2", "messages": MESSAGES, "extra_body": COLD}
    short = client.messages.create(**asked, max_tokens=3)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3)
    text = text_of(client.messages.create(**asked, max_tokens=24))
    word = text[6:9]
    stopped = client.messages.create(**asked, max_tokens=24, stop_sequences=[word])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)
    assert text_of(stopped) == text[: text.index(word)]


def test_the_next_turn_reads_only_what_is_new(client: anthropic.Anthropic) -> None:
    """Although Claude Code's first line has changed."""

    def system(number: int) -> list[TextBlockParam]:
        billing: TextBlockParam = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2; cch={number:05x};"}
        return [billing, {"type": "text", "text": "You are a helpful assistant. " * 20, "cache_control": {"type": "ephemeral"}}]

    turns: list[MessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
    first = client.messages.create(model="smollm2", max_tokens=12, extra_body=COLD, system=system(1), messages=turns)
    turns += [{"role": "assistant", "content": first.content}, {"role": "user", "content": "And of Italy?"}]
    second = client.messages.create(model="smollm2", max_tokens=12, extra_body=COLD, system=system(2), messages=turns)
    assert (second.usage.cache_read_input_tokens or 0) > 100
    assert second.usage.input_tokens < 30


def test_count_tokens(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="smollm2", messages=MESSAGES, system="Be brief.")
    message = client.messages.create(model="smollm2", messages=MESSAGES, system="Be brief.", max_tokens=1)
    assert counted.input_tokens == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\]\.role"):
        client.messages.count_tokens(model="smollm2", messages=[{"role": "robot", "content": ""}])  # type: ignore[typeddict-item]
    with pytest.raises(anthropic.NotFoundError, match="nobody"):
        client.messages.count_tokens(model="nobody", messages=MESSAGES)


def test_models(client: anthropic.Anthropic, server: Router) -> None:
    page = client.models.list(limit=1)
    assert len(page.data) == 1
    assert page.has_more
    ids = [model.id for model in client.models.list(limit=2)]
    assert ids == [model["id"] for model in server.get("/v1/models", {"Authorization": "Bearer secret"}).json["data"]]
    assert len(ids) > 2
    model = client.models.retrieve("smollm2")
    assert (model.id, model.type, model.max_input_tokens) == ("smollm2", "model", 4096)
    before = client.models.list(before_id=ids[2], limit=1)
    assert [model.id for model in before.data] == [ids[1]]
    with pytest.raises(anthropic.NotFoundError, match="nobody"):
        client.models.retrieve("nobody")
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        client.models.list(limit=0)


def test_errors(client: anthropic.Anthropic, server: Router) -> None:
    with pytest.raises(anthropic.NotFoundError, match="model 'nobody' not found") as missing:
        client.messages.create(model="nobody", messages=MESSAGES, max_tokens=4)
    assert missing.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 4096 maximum"):
        client.messages.create(model="smollm2", messages=[{"role": "user", "content": "word " * 5000}], max_tokens=4)
    with pytest.raises(anthropic.AuthenticationError, match="Invalid API Key"):
        client.with_options(api_key="wrong").messages.create(model="smollm2", messages=MESSAGES, max_tokens=4)
    with anthropic.Anthropic(base_url=server.url, auth_token="secret", api_key=None) as bearer:
        assert bearer.messages.create(model="smollm2", messages=MESSAGES, max_tokens=1).usage.output_tokens == 1


def claude_code(number: int, *turns: dict[str, Any]) -> dict[str, Any]:
    """The shape of a request of Claude Code 2.1, with other words."""
    ephemeral = {"cache_control": {"type": "ephemeral"}}
    system = [
        {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.197; cc_entrypoint=sdk-cli; cch={number:05x};"},
        {"type": "text", "text": "You are an agent.", **ephemeral},
        {"type": "text", "text": "\nYou help with code. " * 300, **ephemeral},
    ]
    reminder, question = ({"type": "text", "text": text} for text in ("<system-reminder>\nit is Monday\n</system-reminder>", "run echo"))
    return {
        "model": "smollm2",
        "max_tokens": 8,
        "temperature": 0,
        "metadata": {"user_id": '{"device_id":"0"}'},
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "system": system,
        "tools": [
            ADD,
            {"name": "Bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string", "maxLength": 100000}}}},
        ],
        "messages": [
            {"role": "user", "content": [reminder, question if turns else {**question, **ephemeral}]},
            {"role": "system", "content": "Agents: one."},
            *turns,
        ],
    }


def test_the_second_turn_of_a_coding_agent_reads_little(router: StartRouter, tmp_path: Path) -> None:
    make_llama(tmp_path / "smollm2.gguf", n_ctx=16384)  # a real one reads 300 lines for too long on a busy machine
    server = router("--api-key", "secret", "-c", "16384", "-np", "1", models_dir=tmp_path)
    key = {"X-Api-Key": "secret", "anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219,effort-2025-11-24"}
    first = server.post("/v1/messages?beta=true", claude_code(1), key).json
    call = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "echo hello"}}
    thought = {"type": "thinking", "thinking": "", "signature": "any"}
    result = {
        "type": "tool_result",
        "tool_use_id": "toolu_1",
        "content": "hello",
        "is_error": False,
        "cache_control": {"type": "ephemeral"},
    }
    turns = [{"role": "assistant", "content": [thought, *first["content"], call]}, {"role": "user", "content": [result]}]
    usage = server.post("/v1/messages?beta=true", claude_code(2, *turns), key).json["usage"]
    assert usage["input_tokens"] < 0.05 * usage["cache_read_input_tokens"]
