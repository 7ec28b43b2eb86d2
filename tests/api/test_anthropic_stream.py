"""The `anthropic` package, and plain bytes, on answers with thoughts and tool calls. Workers follow a script."""

import json
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam
from flavour_site import KEY, run_site
from raw_http import Site, request

from fastrouter.api.flavours.anthropic import Messages

SERVED = {"/v1/messages": (Messages, 0.0), "/pinged/v1/messages": (Messages, 0.2)}
PROGRESS = {"progress": {"total": 12, "cache": 8, "processed": 8}}
CALL = {"index": 0, "id": "call_1", "name": "add", "arguments": '{"a":'}
SAY = [
    PROGRESS,
    {"progress": {"total": 12, "cache": 8, "processed": 12}},
    *({"thought": "Let "}, {"thought": 'me "see"'}, {"text": "I "}, {"text": "add."}, {"text": "\n"}),
    {"event": {"calls": [CALL]}},
    {"event": {"calls": [{"index": 0, "arguments": " 1}"}, {"index": 1, "id": "call_2", "name": "now"}]}},
]
FINISH = {"stop_type": "eos", "num_calls": 2, "prompt_tokens": 12, "cached_tokens": 8, "completion_tokens": 20, "reasoning_tokens": 2}
SCRIPT = {"say": SAY, "finish": FINISH}


def asking(**script: Any) -> list[MessageParam]:
    return [{"role": "user", "content": json.dumps(script)}]


def client(site: Site, path: str = "", key: str = KEY) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{site.port}{path}", api_key=key, max_retries=0)


async def events_of(site: Site, path: str = "/v1/messages", **script: Any) -> list[tuple[str, Any]]:
    """(name, data) of each event, as they came."""
    body = json.dumps({"model": "a", "messages": asking(**script), "stream": True, "max_tokens": 99}).encode()
    status, headers, answer = await site.ask(request(path, "POST", body, X_Api_Key=KEY))
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    found = []
    for event in answer.decode().removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert all(name == data["type"] for name, data in found)
    return found


def test_a_whole_answer_has_a_block_for_each_thing(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        async with client(site) as claude:
            message = await claude.messages.create(model="a", max_tokens=99, messages=asking(**SCRIPT))
        thought, text, *calls = message.content
        assert thought.type == "thinking"
        assert (thought.thinking, bool(thought.signature)) == ('Let me "see"', True)
        assert text.type == "text"
        assert text.text == "I add.\n"
        assert [(call.id, call.name, call.input) for call in calls if call.type == "tool_use"] == [
            ("call_1", "add", {"a": 1}),
            ("call_2", "now", {}),
        ]
        assert (message.role, message.model, message.stop_reason, message.stop_sequence) == ("assistant", "a", "tool_use", None)
        usage = message.usage
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (4, 8, 20)

    run_site(tmp_path, SERVED, test)


def test_a_stream_puts_together_the_same_message(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        async with client(site) as claude:
            whole = await claude.messages.create(model="a", max_tokens=99, messages=asking(**SCRIPT))
            async with claude.messages.stream(model="a", max_tokens=99, messages=asking(**SCRIPT)) as stream:
                texts = [text async for text in stream.text_stream]
                streamed = await stream.get_final_message()
        assert texts == ["I ", "add.", "\n"]

        def shown(message: anthropic.types.Message) -> dict[str, Any]:
            found = message.to_dict(mode="json")
            for block in found["content"]:  # type: ignore[attr-defined]
                block.pop("signature", None)
                block.pop("parsed_output", None)
            return {name: value for name, value in found.items() if name != "id" and value is not None}

        assert shown(streamed) == shown(whole)

    run_site(tmp_path, SERVED, test)


def test_the_events_of_a_stream(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        events = await events_of(site, **SCRIPT)
        names = [(name, data.get("index"), data.get("delta", {}).get("type")) for name, data in events]
        delta = "content_block_delta"
        assert names == [
            ("message_start", None, None),
            ("ping", None, None),
            ("content_block_start", 0, None),
            (delta, 0, "thinking_delta"),
            (delta, 0, "thinking_delta"),
            (delta, 0, "signature_delta"),
            ("content_block_stop", 0, None),
            ("content_block_start", 1, None),
            (delta, 1, "text_delta"),
            (delta, 1, "text_delta"),
            (delta, 1, "text_delta"),
            ("content_block_stop", 1, None),
            ("content_block_start", 2, None),
            (delta, 2, "input_json_delta"),
            (delta, 2, "input_json_delta"),
            ("content_block_stop", 2, None),
            ("content_block_start", 3, None),
            ("content_block_stop", 3, None),
            ("message_delta", None, None),
            ("message_stop", None, None),
        ]
        start = events[0][1]["message"]
        assert start["usage"] == {
            "input_tokens": 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 8,
            "output_tokens": 0,
        }
        assert (start["content"], start["stop_reason"]) == ([], None)
        assert events[-2][1]["usage"]["output_tokens"] == 20

    run_site(tmp_path, SERVED, test)


@pytest.mark.parametrize(
    ("finish", "reason", "sequence"),
    [
        ({"stop_type": "eos"}, "end_turn", None),
        ({"stop_type": "word", "stopping_word": "END"}, "stop_sequence", "END"),
        ({"stop_type": "limit", "completion_tokens": 99}, "max_tokens", None),
        ({"stop_type": "limit", "completion_tokens": 98}, "model_context_window_exceeded", None),
    ],
)
def test_why_it_stopped(tmp_path: Path, finish: dict[str, Any], reason: str, sequence: str | None) -> None:
    async def test(site: Site) -> None:
        say = [{"text": "a"}]
        async with client(site) as claude:
            message = await claude.messages.create(model="a", max_tokens=99, messages=asking(say=say, finish=finish))
        assert (message.stop_reason, message.stop_sequence) == (reason, sequence)
        [*_, (_, delta), _] = await events_of(site, say=say, finish=finish)
        assert delta["delta"] == {"stop_reason": reason, "stop_sequence": sequence}

    run_site(tmp_path, SERVED, test)


def test_an_empty_answer_is_a_whole_stream(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        events = await events_of(site, say=[], finish={"stop_type": "eos", "prompt_tokens": 3})
        assert [name for name, _ in events] == ["message_start", "message_delta", "message_stop"]
        assert events[0][1]["message"]["usage"]["input_tokens"] == 3

    run_site(tmp_path, SERVED, test)


def test_pings_while_a_model_is_silent(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        events = await events_of(site, "/pinged/v1/messages", wait_s=0.5, say=[{"text": "late"}])
        assert events[0][0] == "ping"
        async with (
            client(site, "/pinged") as claude,
            claude.messages.stream(model="a", max_tokens=9, messages=asking(wait_s=0.5, say=[{"text": "late"}])) as stream,
        ):
            assert await stream.get_final_text() == "late"

    run_site(tmp_path, SERVED, test)


def test_errors_are_those_of_the_package(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        async with client(site) as claude:
            with pytest.raises(anthropic.NotFoundError, match="model 'b' not found"):
                await claude.messages.create(model="b", max_tokens=9, messages=asking())
            with pytest.raises(anthropic.BadRequestError, match=r"thinking\.type"):
                await claude.messages.create(model="a", max_tokens=9, messages=asking(), thinking={"type": "deep"})  # type: ignore[typeddict-item]
            with pytest.raises(anthropic.APIStatusError, match="no more") as caught:
                async with claude.messages.stream(
                    model="a", max_tokens=9, messages=asking(tokens=9, die_after=1, error="no more", delay_s=0.05)
                ) as stream:
                    await stream.until_done()
            assert caught.value.body == {"type": "error", "error": {"type": "invalid_request_error", "message": "no more"}}
        async with client(site, key="wrong") as claude:
            with pytest.raises(anthropic.AuthenticationError, match="Invalid API Key"):
                await claude.messages.create(model="a", max_tokens=9, messages=asking())

    run_site(tmp_path, SERVED, test)


def test_a_bearer_is_a_key_too(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        async with anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{site.port}", auth_token=KEY, max_retries=0) as claude:
            message = await claude.messages.create(model="a", max_tokens=2, messages=asking(tokens=1))
        assert message.content[0].to_dict() == {"type": "text", "text": "t0 "}

    run_site(tmp_path, SERVED, test)
