"""The official `openai` package's `responses` against a running router, on a real model and on a tiny one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from conftest import Router, StartRouter
from pydantic import BaseModel


@pytest.fixture(scope="module")
def server(module_router: StartRouter, models: Path, smollm2: Path) -> Router:
    return module_router("-m", str(smollm2), "--alias", "smollm2", "-c", "4096", models_dir=models)


@pytest.fixture
def client(server: Router) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


FIXED: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_output_tokens": 24}


def test_a_conversation_by_its_ids(client: openai.OpenAI) -> None:
    first = client.responses.create(input="What is the capital of France?", instructions="Answer in one word.", **FIXED)
    assert "Paris" in first.output_text
    assert (first.status, first.model) == ("completed", "smollm2")
    assert first.usage is not None
    assert first.usage.input_tokens > 10
    second = client.responses.create(input="And of Italy?", previous_response_id=first.id, **FIXED)
    assert second.previous_response_id == first.id
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    by_hand: Any = [
        {"role": "user", "content": "What is the capital of France?"},
        *first.output,
        {"role": "user", "content": "And of Italy?"},
    ]
    assert client.responses.create(input=by_hand, **FIXED).output_text == second.output_text
    assert client.responses.retrieve(first.id).output_text == first.output_text
    [item] = client.responses.input_items.list(second.id).data
    assert item.type == "message"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError, match="previous response") as caught:
        client.responses.create(input="And of Spain?", previous_response_id=second.id, **FIXED)
    assert caught.value.code == "previous_response_not_found"


def test_responses_outlive_the_router(router: StartRouter, models: Path, tmp_path: Path) -> None:
    flags = ("--responses-dir", str(tmp_path / "kept"))
    fixed: Any = {"model": "tiny0", "max_output_tokens": 4}
    with openai.OpenAI(base_url="http://unused", api_key="none", max_retries=0, timeout=60) as client:
        before = router(*flags, models_dir=models)
        first = client.with_options(base_url=f"{before.url}/v1").responses.create(input="hello", **fixed)
        before.stop()
        after = client.with_options(base_url=f"{router(*flags, models_dir=models).url}/v1")
        assert after.responses.retrieve(first.id).output_text == first.output_text
        second = after.responses.create(input="and?", previous_response_id=first.id, **fixed)
        assert second.usage is not None
        assert first.usage is not None
        assert second.usage.input_tokens > first.usage.input_tokens


def test_a_stream_of_events(client: openai.OpenAI) -> None:
    text, kinds = "", []
    for event in client.responses.create(input="Say hello.", stream=True, store=False, **FIXED):
        kinds.append(event.type)
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert text == client.responses.create(input="Say hello.", **FIXED).output_text
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert kinds.count("response.output_text.delta") > 2


class Answer(BaseModel):
    is_blue: bool


def test_parsed_answers(client: openai.OpenAI) -> None:
    fixed: Any = {**FIXED, "max_output_tokens": 60, "input": "Is the sky blue?", "text_format": Answer}
    parsed = client.responses.parse(**fixed)
    assert isinstance(parsed.output_parsed, Answer)
    with client.responses.stream(**fixed) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_parsed == parsed.output_parsed
    assert kinds[-1] == "response.completed"


def test_token_counts(client: openai.OpenAI) -> None:
    counted = client.responses.input_tokens.count(model="smollm2", input="Say hello.", instructions="Be brief.")
    asked = client.responses.create(input="Say hello.", instructions="Be brief.", **FIXED)
    assert asked.usage is not None
    assert counted.input_tokens == asked.usage.input_tokens


def test_probabilities(client: openai.OpenAI) -> None:
    answer = client.responses.create(input="Say hello.", include=["message.output_text.logprobs"], top_logprobs=2, **FIXED)
    [part] = answer.output[0].content  # type: ignore[union-attr]
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert "".join(entry.token for entry in part.logprobs) == answer.output_text
    assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs)


def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean tiny0") as missing:
        client.responses.create(model="tiny00", input="hi")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="'input' must be") as wrong:
        client.responses.create(model="tiny0", input=5)  # type: ignore[arg-type]
    assert wrong.value.code == "invalid_prompt"
    with pytest.raises(openai.BadRequestError) as long:
        client.responses.create(model="tiny0", input="the cat " * 4000)
    assert long.value.code == "context_length_exceeded"
    events = list(client.responses.create(model="tiny0", input="the cat " * 4000, stream=True))
    assert [event.type for event in events] == ["response.created", "response.in_progress", "response.failed"]


def test_a_conversation_that_is_too_long_loses_its_beginning(client: openai.OpenAI) -> None:
    turns: Any = [{"role": "user", "content": f"turn {number} " + "the cat " * 100} for number in range(10)]
    turns = [turn for user in turns for turn in (user, {"role": "assistant", "content": "yes"})][:-1]
    fixed: Any = {"model": "tiny0", "instructions": "be brief", "max_output_tokens": 4}
    with pytest.raises(openai.BadRequestError, match="context"):
        client.responses.create(input=turns, **fixed)
    answer = client.responses.create(input=turns, truncation="auto", **fixed)
    assert answer.usage is not None
    assert 1000 < answer.usage.input_tokens < 2048
    events = list(client.responses.create(input=turns, truncation="auto", stream=True, **fixed))
    assert events[-1].type in ("response.completed", "response.incomplete")
    with pytest.raises(openai.BadRequestError, match="context"):
        client.responses.create(input="the cat " * 4000, truncation="auto", **fixed)


def test_a_probe(client: openai.OpenAI) -> None:
    assert client.responses.create(model="tiny0", input=[], max_output_tokens=1, store=False).status in ("completed", "incomplete")
