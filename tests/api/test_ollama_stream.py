"""The `ollama` package on answers with thoughts and tool calls. Workers follow a script."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import ollama
import pytest
from flavour_site import KEY, Served, run_site
from raw_http import Site, request

from fastrouter.api.flavours.ollama import Chat, Generate

SERVED: Served = {"/api/chat": (Chat, 0.0), "/api/generate": (Generate, 0.0), "/pinged/api/chat": (Chat, 0.2)}
SAY = [
    *({"thought": "Let "}, {"thought": 'me "see"'}, {"text": "I "}, {"text": "add."}),
    {"event": {"calls": [{"index": 0, "id": "call_1", "name": "add", "arguments": '{"a":'}]}},
    {"event": {"calls": [{"index": 0, "arguments": " 1}"}, {"index": 1, "id": "call_2", "name": "now"}]}},
]
TIMES = {"prompt_ms": 1.5, "predicted_ms": 2.5}
FINISH = {"stop_type": "eos", "num_calls": 2, "prompt_tokens": 12, "completion_tokens": 20, "timings": TIMES}
SCRIPT = {"say": SAY, "finish": FINISH}


Ask = Callable[[ollama.AsyncClient, Site], Coroutine[Any, Any, None]]


def run_client(tmp_path: Path, test: Ask, path: str = "", key: str = KEY) -> None:
    async def whole(site: Site) -> None:
        client = ollama.AsyncClient(host=f"http://127.0.0.1:{site.port}{path}", headers={"Authorization": f"Bearer {key}"})
        try:
            await test(client, site)
        finally:
            await client.close()

    run_site(tmp_path, SERVED, whole)


def asking(**script: Any) -> list[dict[str, str]]:
    return [{"role": "user", "content": json.dumps(script)}]


def calls_of(message: ollama.Message) -> list[tuple[str, Any]]:
    return [(call.function.name, dict(call.function.arguments)) for call in message.tool_calls or []]


def test_a_whole_answer(tmp_path: Path) -> None:
    async def test(client: ollama.AsyncClient, site: Site) -> None:
        answer = await client.chat("a", asking(**SCRIPT))
        message = answer.message
        assert (message.role, message.content, message.thinking) == ("assistant", "I add.", 'Let me "see"')
        assert calls_of(message) == [("add", {"a": 1}), ("now", {})]
        assert (answer.model, answer.done, answer.done_reason) == ("a", True, "stop")
        assert (answer.prompt_eval_count, answer.eval_count) == (12, 20)
        assert (answer.prompt_eval_duration, answer.eval_duration) == (1_500_000, 2_500_000)
        assert answer.total_duration is not None
        assert answer.total_duration > 0

    run_client(tmp_path, test)


def test_a_stream_says_the_same(tmp_path: Path) -> None:
    async def test(client: ollama.AsyncClient, site: Site) -> None:
        parts = [part async for part in await client.chat("a", asking(**SCRIPT), stream=True)]
        assert [part.message.thinking for part in parts if part.message.thinking] == ["Let ", 'me "see"']
        assert [part.message.content for part in parts if part.message.content] == ["I ", "add."]
        assert [calls_of(part.message) for part in parts if part.message.tool_calls] == [[("add", {"a": 1}), ("now", {})]]
        *others, last = parts
        assert not any(part.done for part in others)
        assert (last.done, last.done_reason, last.eval_count) == (True, "stop", 20)

    run_client(tmp_path, test)


def test_the_bytes_of_a_stream_are_lines(tmp_path: Path) -> None:
    async def test(client: ollama.AsyncClient, site: Site) -> None:
        body = json.dumps({"model": "a", "messages": asking(say=[{"text": 'a"\n'}], finish={"stop_type": "limit"})}).encode()
        status, headers, answer = await site.ask(request("/api/chat", "POST", body, Authorization=f"Bearer {KEY}"))
        assert (status, headers["content-type"]) == (200, "application/x-ndjson")
        said, last, nothing = answer.decode().split("\n")
        assert json.loads(said)["message"] == {"role": "assistant", "content": 'a"\n'}
        assert json.loads(last)["done_reason"] == "length"
        assert nothing == ""

    run_client(tmp_path, test)


def test_generate_and_its_context(tmp_path: Path) -> None:
    async def test(client: ollama.AsyncClient, site: Site) -> None:
        script = json.dumps({"say": [{"thought": "hm"}, {"text": "one "}, {"text": "two"}]})
        whole = await client.generate("a", script)
        assert (whole.response, whole.thinking, whole.done_reason) == ("one two", "hm", "length")
        parts = [part async for part in await client.generate("a", script, stream=True)]
        assert "".join(part.response or "" for part in parts) == "one two"
        assert parts[-1].context == whole.context
        again = await client.generate("a", script, context=whole.context)
        assert again.context is not None
        assert whole.context is not None
        assert len(again.context) > len(whole.context)

    run_client(tmp_path, test)


def test_raw_has_no_context(tmp_path: Path) -> None:
    async def test(client: ollama.AsyncClient, site: Site) -> None:
        script = json.dumps({"tokens": 2})
        whole = await client.generate("a", script, raw=True)
        assert (whole.response, whole.context) == ("t0 t1 ", None)
        parts = [part.response async for part in await client.generate("a", script, raw=True, stream=True)]
        assert parts == ["t0 ", "t1 ", ""]

    run_client(tmp_path, test)


def test_a_silent_stream_sends_empty_text(tmp_path: Path) -> None:
    async def test(client: ollama.AsyncClient, site: Site) -> None:
        late = asking(wait_s=0.5, say=[{"text": "late"}])
        texts = [part.message.content async for part in await client.chat("a", late, stream=True)]
        assert texts[0] == ""
        assert "".join(text or "" for text in texts) == "late"

    run_client(tmp_path, test, "/pinged")


def test_errors(tmp_path: Path) -> None:
    async def test(client: ollama.AsyncClient, site: Site) -> None:
        with pytest.raises(ollama.ResponseError, match="model 'b' not found") as caught:
            await client.chat("b", asking())
        assert caught.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="field 'think' must be"):
            await client.chat("a", asking(), think="deep")  # type: ignore[arg-type]
        failing = asking(tokens=9, die_after=1, error="no more", delay_s=0.05)
        with pytest.raises(ollama.ResponseError, match="no more"):
            [part async for part in await client.chat("a", failing, stream=True)]

    run_client(tmp_path, test)


def test_a_wrong_key(tmp_path: Path) -> None:
    async def test(client: ollama.AsyncClient, site: Site) -> None:
        with pytest.raises(ollama.ResponseError, match="Invalid API Key") as caught:
            await client.chat("a", asking())
        assert caught.value.status_code == 401

    run_client(tmp_path, test, key="wrong")
