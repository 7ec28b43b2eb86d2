"""The official packages while the worker of a real model dies in the middle of their streams: they see a pause, and the same text."""

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import anthropic
import ollama
import openai
import pytest
from conftest import Router, StartRouter, descendants, has_mapped

ASKED = "Write a short story about a cat."
NUM_TOKENS = 48


@pytest.fixture(scope="module")
def server(module_router: StartRouter, smollm2: Path) -> Router:
    return module_router("-m", str(smollm2), "--alias", "smollm2", "-c", "1024", "--sse-ping-interval", "0.1")


def with_a_death(server: Router, model: Path, pieces: Iterable[str]) -> str:
    """All pieces; after the tenth one the worker is killed."""
    found = []
    for piece in pieces:
        found.append(piece)
        if len(found) == 10:
            for pid in descendants(server.process.pid):
                if has_mapped(pid, model):
                    os.kill(pid, signal.SIGKILL)
    assert len(found) > 20
    return "".join(found)


@pytest.fixture(scope="module")
def undisturbed(server: Router) -> str:
    body = {"messages": [{"role": "user", "content": ASKED}], "temperature": 0, "max_tokens": NUM_TOKENS}
    text: str = server.post("/v1/chat/completions", body).json["choices"][0]["message"]["content"]
    return text


def test_openai(server: Router, smollm2: Path, undisturbed: str) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=60) as client:
        stream = client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": ASKED}], temperature=0, max_tokens=NUM_TOKENS, stream=True
        )
        pieces = (chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert with_a_death(server, smollm2, pieces) == undisturbed


def test_openai_responses(server: Router, smollm2: Path, undisturbed: str) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=60) as client:
        stream = client.responses.create(model="smollm2", input=ASKED, temperature=0, max_output_tokens=NUM_TOKENS, stream=True)
        pieces = (event.delta for event in stream if event.type == "response.output_text.delta")
        assert with_a_death(server, smollm2, pieces) == undisturbed


def test_anthropic(server: Router, smollm2: Path, undisturbed: str) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="x", max_retries=0, timeout=60) as client:
        asked = client.messages.stream(
            model="smollm2", messages=[{"role": "user", "content": ASKED}], max_tokens=NUM_TOKENS, extra_body={"temperature": 0}
        )
        with asked as stream:
            assert with_a_death(server, smollm2, stream.text_stream) == undisturbed
            assert stream.get_final_message().usage.output_tokens >= 20


def test_ollama(server: Router, smollm2: Path, undisturbed: str) -> None:
    client = ollama.Client(host=server.url, timeout=60)
    options = {"temperature": 0, "num_predict": NUM_TOKENS}
    parts = client.chat("smollm2", [{"role": "user", "content": ASKED}], options=options, stream=True)
    assert with_a_death(server, smollm2, (part.message.content or "" for part in parts)) == undisturbed
    client.close()
