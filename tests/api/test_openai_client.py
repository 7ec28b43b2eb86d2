"""The official `openai` package against a running router: what its users do, on a real model and on a tiny one."""

import asyncio
import warnings
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from conftest import Router, StartRouter

MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def server(module_router: StartRouter, models: Path, smollm2: Path) -> Router:
    router = module_router("-m", str(smollm2), "--alias", "smollm2", "--api-key", "secret", "-c", "4096", models_dir=models)
    return router


@pytest.fixture
def client(server: Router) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0, timeout=60) as client:
        yield client


def say_hello(client: openai.OpenAI, model: str = "smollm2") -> str:
    answer = client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, max_tokens=24)
    return answer.choices[0].message.content or ""


def test_a_real_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="smollm2", messages=MESSAGES, temperature=0, max_tokens=24)
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length")
    text = choice.message.content
    assert text
    assert "hello" in text.lower()
    assert text.isprintable() or "\n" in text
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 24
    assert answer.usage.prompt_tokens > 10
    assert say_hello(client) == text


def test_streaming_with_usage(client: openai.OpenAI) -> None:
    text, usage, reasons = "", None, []
    stream = client.chat.completions.create(
        model="smollm2", messages=MESSAGES, temperature=0, max_tokens=24, stream=True, stream_options={"include_usage": True}
    )
    num_events = 0
    for chunk in stream:
        num_events += 1
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert text == say_hello(client)
    assert num_events > 4
    assert reasons in (["stop"], ["length"])
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_remembers_the_conversation(client: openai.OpenAI) -> None:
    turns: list[openai.types.chat.ChatCompletionMessageParam] = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    first = client.chat.completions.create(model="smollm2", messages=turns, temperature=0, max_tokens=16)
    assert "Paris" in (first.choices[0].message.content or "")
    turns += [{"role": "assistant", "content": first.choices[0].message.content}, {"role": "user", "content": "And of Italy?"}]
    second = client.chat.completions.create(model="smollm2", messages=turns, temperature=0, max_tokens=16)
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    cached = second.usage.prompt_tokens_details.cached_tokens or 0
    assert cached > 20


def test_text_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny0", prompt=["the cat", "a dog"], temperature=0, max_tokens=8)
    assert [choice.index for choice in whole.choices] == [0, 1]
    stream = client.completions.create(model="tiny0", prompt=["the cat", "a dog"], temperature=0, max_tokens=8, stream=True)
    texts = ["", ""]
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]


def test_parameters(client: openai.OpenAI) -> None:
    def ask(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model="tiny0",
            messages=MESSAGES,
            n=2,
            seed=seed,
            temperature=1.3,
            top_p=0.9,
            presence_penalty=0.5,
            frequency_penalty=0.5,
            max_completion_tokens=12,
            stop=["zz"],
            logit_bias={"300": 5},
            user="somebody",
            extra_body={"top_k": 20, "min_p": 0.01},
        )
        return [choice.message.content for choice in answer.choices]

    assert ask(1) == ask(1)
    assert ask(1) != ask(2)
    assert len(set(ask(1))) == 2


def test_leaving_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="tiny0", messages=MESSAGES, stream=True, max_tokens=100_000) as stream:
        next(iter(stream))
    assert say_hello(client, "tiny0")


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2", "tiny0", "tiny1", "tiny2"]
    model = client.models.retrieve("tiny2")
    assert (model.id, model.owned_by, model.object) == ("tiny2", "llamacpp", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such")


def test_errors(client: openai.OpenAI, server: Router) -> None:
    with pytest.raises(openai.NotFoundError, match="model 'no-such' not found") as missing:
        client.chat.completions.create(model="no-such", messages=MESSAGES)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError, match="did you mean tiny0"):
        client.embeddings.create(model="tiny00", input="x")
    with pytest.raises(openai.BadRequestError, match="temperature") as wrong:
        client.chat.completions.create(model="tiny0", messages=MESSAGES, temperature="hot")  # type: ignore[call-overload]
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny0", prompt="the cat " * 4000)
    assert caught.value.type == "exceed_context_size_error"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["n_ctx"] == 2048  # its training context, whatever -c says
    with pytest.raises(openai.BadRequestError, match="--embeddings --pooling") as unsupported:  # a 5xx would be sent again
        client.embeddings.create(model="tiny0", input="x")
    assert unsupported.value.type == "not_supported_error"
    with pytest.raises(openai.AuthenticationError, match="Invalid API Key"):
        say_hello(client.with_options(api_key="wrong"))
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="no-such", messages=MESSAGES, stream=True)


def test_asynchronous_clients(server: Router) -> None:
    async def ask(client: openai.AsyncOpenAI, model: str) -> str:
        answer = await client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, max_tokens=16)
        return answer.choices[0].message.content or ""

    async def read(client: openai.AsyncOpenAI, model: str) -> str:
        text = ""
        async for chunk in await client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, max_tokens=16, stream=True):
            text += chunk.choices[0].delta.content or ""
        return text

    async def run() -> None:
        names = ["tiny0", "tiny1", "tiny2", "smollm2"]
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0, timeout=60) as client:
            alone = [await ask(client, name) for name in names]
            assert len(set(alone)) == 4
            together = await asyncio.gather(*[read(client, name) for name in names * 2])
            assert together == alone * 2

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        asyncio.run(run())


def test_logprobs(client: openai.OpenAI) -> None:
    more = {"model": "smollm2", "temperature": 0, "max_tokens": 8}
    answer = client.chat.completions.create(messages=MESSAGES, logprobs=True, top_logprobs=2, **more)  # type: ignore[call-overload]
    [choice] = answer.choices
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].token == entry.token
        assert 0 >= entry.logprob >= entry.top_logprobs[1].logprob
    completion = client.completions.create(prompt="The capital of France is", logprobs=2, **more)  # type: ignore[call-overload]
    found = completion.choices[0].logprobs
    assert "".join(found.tokens) == completion.choices[0].text
    assert [max(best, key=best.get) for best in found.top_logprobs] == found.tokens
