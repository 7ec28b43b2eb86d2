"""/v1/responses over a scripted worker: whole answers, the order of a stream's events, and what is stored."""

import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

import codex_requests
import flavour_site
import pytest
from house import House, run_house
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from raw_http import Answer, Site, request

from fastrouter._core import Request
from fastrouter.api.flavours.response_routes import ResponseRoutes
from fastrouter.api.flavours.responses import RESPONSE_ERRORS
from fastrouter.api.requests.known import RESPONSES, ignored_header
from fastrouter.api.response_store import ResponseStore
from fastrouter.api.serving.start import Generator
from fastrouter.errors import ContextExceeded
from fastrouter.http.api_keys import KeyRing
from fastrouter.http.guard import Guard
from fastrouter.http.routes import MAX_BODY, Routes
from fastrouter.ipc.messages import Generate
from fastrouter.supervisor.lease import Lease

KEYS = "all\nfirst name=first\nsecond name=second\n"
PATCH = {"type": "custom", "name": "apply_patch", "format": {"type": "text"}}
WEATHER = {"description": None, "strict": None, "type": "function", "name": "weather", "parameters": {"type": "object"}}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class FewModels(flavour_site.FewModels):
    """All that the routes ask of the models, too."""

    choose = flavour_site.FewModels.for_use

    def query(self, request: Request) -> dict[str, str]:
        return dict(parse_qsl(request.query))


@asynccontextmanager
async def serving(here: House, folder: Path, ping_interval_s: float = 0) -> AsyncIterator[Site]:
    (folder / "keys").write_text(KEYS)
    guard = Guard(KeyRing((), folder / "keys"), ("127.0.0.1",), None)
    routes, models, store = Routes(guard), cast(Any, FewModels(here)), ResponseStore(folder / "responses", 1 << 20)
    routes.is_change = lambda method, path: False
    paths = ResponseRoutes(models, here.supervisor, Generator(models, here.supervisor, ping_interval_s=ping_interval_s), store)
    routes.add("POST", "/v1/responses", paths.create, max_body=MAX_BODY, errors=RESPONSE_ERRORS)
    routes.add("GET", "/v1/responses/*", paths.show, errors=RESPONSE_ERRORS)
    routes.add("DELETE", "/v1/responses/*", paths.delete, errors=RESPONSE_ERRORS)
    async with flavour_site.listening(routes, guard) as site:
        yield site
    store.close()


Test = Callable[[Site], Coroutine[Any, Any, None]]
Serve = Callable[..., None]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    def run(test: Test, **options: Any) -> None:
        async def body(here: House) -> None:
            async with serving(here, tmp_path, **options) as site:
                await test(site)

        run_house(tmp_path, body)

    return run


async def post(site: Site, *say: Any, key: str = "all", script: Any = None, **fields: Any) -> Answer:
    script = script or {"say": list(say), "finish": {"stop_type": "eos"}}
    body = {"model": "a", "input": json.dumps(script), **fields}
    return await site.ask(request("/v1/responses", "POST", json.dumps(body).encode(), Authorization=f"Bearer {key}"))


async def whole(site: Site, *say: Any, **fields: Any) -> Any:
    status, _, body = await post(site, *say, **fields)
    assert status == 200, body
    Response.model_validate_json(body)
    return json.loads(body)


async def at(site: Site, path: str, method: str = "GET", key: str = "all") -> tuple[int, Any]:
    status, _, body = await site.ask(request(f"/v1/responses/{path}", method, Authorization=f"Bearer {key}"))
    return status, json.loads(body)


def events_of(body: bytes) -> list[dict[str, Any]]:
    """Each is a valid one, its name is its type, and its number is its place."""
    found = []
    for block in re.sub(r"(?m)^: .*\n\n", "", body.decode()).removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] not in ("keepalive", "response.failed"):  # OpenAI's list of codes lacks some that it sends
            EVENT.validate_python(event)
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


async def stream(site: Site, *say: Any, **fields: Any) -> list[dict[str, Any]]:
    status, headers, body = await post(site, *say, stream=True, **fields)
    assert (status, headers["content-type"]) == (200, "text/event-stream"), body
    return events_of(body)


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def call(index: int, name: str, *pieces: str) -> list[dict[str, Any]]:
    first = {"event": {"calls": [{"index": index, "id": f"c{index}", "name": name}]}}
    return [first, *({"event": {"calls": [{"index": index, "arguments": piece}]}} for piece in pieces)]


# ---------------------------------------------------------------- whole


def test_a_whole_answer(serve: Serve) -> None:
    async def test(site: Site) -> None:
        say = [
            {"thought": "hm"},
            {"text": "a"},
            {"text": "b"},
            *call(0, "weather", '{"in":', '"Oslo"}'),
            *call(1, "apply_patch", '{"input":"x"}'),
        ]
        tools = [WEATHER, PATCH]
        answer = await whole(site, *say, tools=tools, instructions="be brief", metadata={"a": "b"}, temperature=0.5)
        thought, message, weather, patch = answer["output"]
        assert thought["content"] == [{"type": "reasoning_text", "text": "hm"}]
        assert (message["content"][0]["text"], message["role"], message["status"]) == ("ab", "assistant", "completed")
        assert (weather["type"], weather["name"], weather["arguments"], weather["call_id"]) == (
            "function_call",
            "weather",
            '{"in":"Oslo"}',
            "c0",
        )
        assert (patch["type"], patch["name"], patch["input"], patch["call_id"]) == ("custom_tool_call", "apply_patch", "x", "c1")
        assert (answer["status"], answer["error"], answer["incomplete_details"]) == ("completed", None, None)
        assert (answer["instructions"], answer["metadata"], answer["temperature"], answer["tools"]) == ("be brief", {"a": "b"}, 0.5, tools)
        assert answer["usage"]["output_tokens"] > 0
        assert len({item["id"] for item in answer["output"]}) == 4

    serve(test)


def test_an_answer_that_was_cut(serve: Serve) -> None:
    async def test(site: Site) -> None:
        answer = await whole(site, script={"say": [{"text": "a"}], "finish": {"stop_type": "limit"}}, max_output_tokens=1)
        assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        assert answer["output"][0]["status"] == "incomplete"
        nothing = await whole(site)
        assert [item["content"][0]["text"] for item in nothing["output"]] == [""]

    serve(test)


def test_thoughts_as_summaries(serve: Serve) -> None:
    async def test(site: Site) -> None:
        fields = {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]}
        thought = (await whole(site, {"thought": "hm"}, {"text": "a"}, **fields))["output"][0]
        assert thought["summary"] == [{"type": "summary_text", "text": "hm"}]
        assert "content" not in thought
        assert thought["encrypted_content"]

    serve(test)


# ---------------------------------------------------------------- streams

TEXT_EVENTS = ["output_item.added", "content_part.added"]
TEXT_END = ["output_text.done", "content_part.done", "output_item.done"]


def test_the_events_of_a_text(serve: Serve) -> None:
    async def test(site: Site) -> None:
        events = await stream(site, {"text": "a"}, {"text": '"\n'}, {"text": "c"})
        assert kinds(events) == ["created", "in_progress", *TEXT_EVENTS, *["output_text.delta"] * 3, *TEXT_END, "completed"]
        created, _, added, *_ = events
        assert (created["response"]["status"], created["response"]["output"], created["response"]["usage"]) == ("in_progress", [], None)
        assert [event["delta"] for event in events if "delta" in event] == ["a", '"\n', "c"]
        message = events[-1]["response"]["output"][0]
        assert message["content"][0]["text"] == 'a"\nc' == events[-4]["text"]
        assert events[-2]["item"] == message
        assert {event.get("item_id", message["id"]) for event in events} == {message["id"]} == {added["item"]["id"]}
        assert events[-1]["response"]["id"] == created["response"]["id"]

    serve(test)


def test_the_events_of_all_items(serve: Serve) -> None:
    async def test(site: Site) -> None:
        say = [
            *({"thought": "h"}, {"thought": "m"}, {"text": "a"}, {"text": "b"}),
            *call(0, "weather", '{"in":', '"Oslo"}'),
            *call(1, "apply_patch", '{"input":', '"x"}'),
            *call(2, "unknown"),
        ]
        events = await stream(site, *say, tools=[WEATHER, PATCH])
        arguments = "function_call_arguments"
        assert kinds(events) == [
            *("created", "in_progress", "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
            *("reasoning_text.done", "content_part.done", "output_item.done"),
            *(*TEXT_EVENTS, "output_text.delta", "output_text.delta", *TEXT_END),
            *("output_item.added", f"{arguments}.delta", f"{arguments}.delta", f"{arguments}.done", "output_item.done"),
            *("output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done"),
            *("output_item.added", f"{arguments}.done", "output_item.done", "completed"),
        ]
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert done == events[-1]["response"]["output"]
        indexes = [event["output_index"] for event in events if "output_index" in event]
        assert indexes == sorted(indexes)
        assert set(indexes) == set(range(5))
        added = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
        assert added == [item["id"] for item in done]

    serve(test)


def test_a_stream_says_what_a_whole_answer_says(serve: Serve) -> None:
    def plain(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: value for name, value in item.items() if name != "id"} for item in items]

    async def test(site: Site) -> None:
        say = [
            {"thought": "hm"},
            {"text": "a"},
            {"text": "é"},
            *call(0, "weather", '{"in":', "1}"),
            *call(1, "apply_patch", '{"input":"x"}'),
        ]
        for fields in ({}, {"reasoning": {"summary": "auto"}}, {"include": ["reasoning.encrypted_content"]}):
            one = await whole(site, *say, tools=[WEATHER, PATCH], **fields)
            events = await stream(site, *say, tools=[WEATHER, PATCH], **fields)
            assert plain(events[-1]["response"]["output"]) == plain(one["output"])
            assert events[-1]["response"].keys() == one.keys()

    serve(test)


def test_thoughts_as_summaries_in_a_stream(serve: Serve) -> None:
    async def test(site: Site) -> None:
        events = await stream(site, {"thought": "h"}, {"thought": "m"}, reasoning={"summary": "auto"})
        part, text = "reasoning_summary_part", "reasoning_summary_text"
        assert kinds(events)[2:-1] == [
            *("output_item.added", f"{part}.added", f"{text}.delta", f"{text}.delta", f"{text}.done", f"{part}.done", "output_item.done")
        ]

    serve(test)


def test_thought_and_text_by_turns(serve: Serve) -> None:
    async def test(site: Site) -> None:
        events = await stream(site, {"text": "a"}, {"thought": "h"}, {"thought": "m"}, {"text": "b"}, {"text": "c"})
        found = events[-1]["response"]["output"]
        assert [item["content"][0]["text"] for item in found] == ["a", "hm", "bc"]

    serve(test)


def test_an_empty_answer(serve: Serve) -> None:
    async def test(site: Site) -> None:
        events = await stream(site)
        assert kinds(events) == ["created", "in_progress", *TEXT_EVENTS, *TEXT_END, "completed"]

    serve(test)


def test_a_stream_that_was_cut(serve: Serve) -> None:
    async def test(site: Site) -> None:
        events = await stream(site, script={"say": [{"text": "a"}], "finish": {"stop_type": "limit"}})
        assert kinds(events)[-2:] == ["output_item.done", "incomplete"]
        assert events[-2]["item"]["status"] == "incomplete"

    serve(test)


def test_probabilities(serve: Serve) -> None:
    entry = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}

    async def test(site: Site) -> None:
        events = await stream(site, {"event": {"text": "a", "probabilities": [entry]}}, include=["message.output_text.logprobs"])
        [delta] = [event for event in events if event["type"] == "response.output_text.delta"]
        assert (delta["delta"], delta["logprobs"]) == ("a", [entry])
        assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == [entry]

    serve(test)


def test_a_silent_stream_begins_and_stays_alive(serve: Serve) -> None:
    async def test(site: Site) -> None:
        events = await stream(site, script={"say": [{"text": "late"}], "wait_s": 0.7, "finish": {"stop_type": "eos"}})
        found = kinds(events)
        assert found[:3] == ["created", "in_progress", "keepalive"]
        assert [kind for kind in found if kind != "keepalive"] == [
            "created",
            "in_progress",
            *TEXT_EVENTS,
            "output_text.delta",
            *TEXT_END,
            "completed",
        ]

    serve(test, ping_interval_s=0.2)


def test_a_tool_loop_of_codex(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second request begins with all of its first one, so the prompt is not read again."""
    asked: list[Any] = []
    submit = Lease.submit

    def spy(lease: Lease, generate: Generate, *rest: Any) -> None:
        asked.append(generate)
        submit(lease, generate, *rest)

    monkeypatch.setattr(Lease, "submit", spy)

    async def answers(site: Site, body: dict[str, Any]) -> dict[str, Any]:
        status, _, sent = await site.ask(request("/v1/responses", "POST", json.dumps(body).encode(), Authorization="Bearer all"))
        assert status == 200, sent
        assert ignored_header(body, RESPONSES) == b""
        events = events_of(sent)
        assert events[-1]["type"] == "response.completed"
        return cast(dict[str, Any], events[-1]["response"])

    async def test(site: Site) -> None:
        say = [
            {"thought": "I look."},
            {"text": "Looking."},
            *call(0, "exec_command", '{"cmd":', '"ls"}'),
            *call(1, "multi_agent_v1__spawn_agent", "{}"),
        ]
        question = json.dumps({"say": say, "finish": {"stop_type": "eos"}})
        first = await answers(site, codex_requests.request(question))
        command, agent = first["output"][2:]
        assert (command["name"], agent["name"], agent["namespace"]) == ("exec_command", "spawn_agent", "multi_agent_v1")
        outputs = [
            codex_requests.output_of(item["call_id"], text)
            for item, text in ((command, "a.py"), (agent, json.dumps({"say": [], "finish": {"stop_type": "eos"}})))
        ]
        await answers(site, codex_requests.request(question, *codex_requests.returned(first["output"]), *outputs))
        one, two = (generate.messages for generate in asked)
        assert two[: len(one)] == one
        said = two[len(one)]
        assert (said["reasoning_content"], said["content"]) == ("I look.", "Looking.")
        assert [made["function"]["name"] for made in said["tool_calls"]] == ["exec_command", "multi_agent_v1__spawn_agent"]
        assert asked[0].tools == asked[1].tools
        names = [tool["function"]["name"] for tool in asked[0].tools]
        assert names == ["exec_command", "write_stdin", "request_user_input", "view_image", *names[4:6], "apply_patch"]

    serve(test)


# ---------------------------------------------------------------- errors


def test_errors(serve: Serve) -> None:
    async def test(site: Site) -> None:
        for fields, status, code in (
            ({"model": "b"}, 404, "model_not_found"),
            ({"temperature": "hot"}, 400, "invalid_prompt"),
            ({"script": {"error": "no"}}, 400, "invalid_prompt"),
            ({"script": {"error": "no"}, "stream": True}, 400, "invalid_prompt"),
            ({"previous_response_id": "resp_x"}, 400, "previous_response_not_found"),
            ({"input": [{"type": "item_reference", "id": "msg_x"}]}, 400, "invalid_prompt"),
            ({"key": "wrong"}, 401, "authentication_error"),
        ):
            answered, _, body = await post(site, **cast(Any, fields))
            error = json.loads(body)["error"]
            assert (answered, error["code"]) == (status, code), body
            assert {"message", "type", "param"} <= set(error)

    serve(test)


def test_an_error_on_the_way_is_a_failed_response_and_the_stream_ends_properly(serve: Serve) -> None:
    async def test(site: Site) -> None:
        events = await stream(site, script={"tokens": 9, "die_after": 1, "error": "no more"})
        assert kinds(events)[-2:] == ["output_item.done", "failed"]
        assert events[-1]["response"]["error"] == {"code": "invalid_prompt", "message": "no more"}
        assert events[-1]["response"]["status"] == "failed"

    serve(test)


def test_a_full_context_is_a_failed_response(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codex makes its conversation shorter only then."""
    monkeypatch.setattr("fastrouter.errors._FROM_WIRE", {"InvalidRequest": ContextExceeded})  # the worker can say only that one

    async def test(site: Site) -> None:
        events = await stream(site, script={"error": "too long"})
        assert kinds(events) == ["created", "in_progress", "failed"]
        assert events[-1]["response"]["error"]["code"] == "context_length_exceeded"
        status, _, body = await post(site, script={"error": "too long"})
        assert (status, json.loads(body)["error"]["code"]) == (400, "context_length_exceeded")

    serve(test)


# ---------------------------------------------------------------- what is stored


def test_stored_responses(serve: Serve) -> None:
    async def test(site: Site) -> None:
        first = await whole(site, {"text": "a"})
        events = await stream(site, {"text": "b"}, previous_response_id=first["id"])
        second = events[-1]["response"]
        assert second["previous_response_id"] == first["id"]
        assert await at(site, first["id"]) == (200, first)
        assert await at(site, second["id"]) == (200, second)
        status, listed = await at(site, f"{second['id']}/input_items")
        assert (status, listed["object"], listed["has_more"]) == (200, "list", False)
        [item] = listed["data"]
        assert (item["role"], item["content"][0]["type"], item["id"]) == ("user", "input_text", listed["first_id"])
        assert await at(site, first["id"], "DELETE") == (200, {"id": first["id"], "object": "response", "deleted": True})
        assert (await at(site, first["id"]))[0] == (await at(site, first["id"], "DELETE"))[0] == 404
        assert (await post(site, previous_response_id=second["id"]))[0] == 400

    serve(test)


def test_a_response_that_is_deleted_while_it_is_streamed_is_not_stored(serve: Serve) -> None:
    body = json.dumps({"model": "a", "stream": True, "input": json.dumps({"tokens": 20, "delay_s": 0.02})}).encode()

    async def test(site: Site) -> None:
        for key, status in (("second", 404), ("first", 200), ("all", 200)):
            reader, writer = await site.connect()
            writer.write(request("/v1/responses", "POST", body, Authorization="Bearer first"))
            await reader.readuntil(b'"response":{"id":"')
            name = (await reader.readuntil(b'"'))[:-1].decode()
            assert (await at(site, name, "DELETE", key=key))[0] == status
            await reader.readuntil(b"event: response.incomplete")
            await reader.readuntil(b"\r\n0\r\n\r\n")
            writer.close()
            assert (await at(site, name, key="first"))[0] == (200 if status == 404 else 404)

    serve(test)


def test_what_is_not_stored(serve: Serve) -> None:
    async def test(site: Site) -> None:
        answer = await whole(site, {"text": "a"}, store=False)
        assert answer["store"] is False
        assert (await at(site, answer["id"]))[0] == 404

    serve(test)


def test_a_key_sees_what_is_its_own(serve: Serve) -> None:
    async def test(site: Site) -> None:
        answer = await whole(site, {"text": "a"}, key="first")
        for key, status in (("first", 200), ("second", 404), ("all", 200)):
            assert (await at(site, answer["id"], key=key))[0] == status
            assert (await post(site, previous_response_id=answer["id"], key=key))[0] == (200 if status == 200 else 400)
        assert (await at(site, answer["id"], "DELETE", key="second"))[0] == 404

    serve(test)


def test_pages_of_items(serve: Serve) -> None:
    async def test(site: Site) -> None:
        items = [
            {"role": "user", "content": "1"},
            {"type": "reasoning", "summary": []},
            {"role": "user", "content": json.dumps({"say": []})},
        ]
        answer = await whole(site, input=items)
        path = f"{answer['id']}/input_items"
        newest = (await at(site, f"{path}?limit=2"))[1]
        assert (len(newest["data"]), newest["has_more"], newest["data"][0]["role"]) == (2, True, "user")
        rest = (await at(site, f"{path}?limit=2&after={newest['last_id']}"))[1]
        assert ([item["content"][0]["text"] for item in rest["data"]], rest["has_more"]) == (["1"], False)
        oldest = (await at(site, f"{path}?order=asc"))[1]["data"]
        assert [item["type"] for item in oldest] == ["message", "reasoning", "message"]
        assert (await at(site, f"{path}?limit=0"))[0] == 400

    serve(test)


def test_references_to_items(serve: Serve) -> None:
    async def test(site: Site) -> None:
        first = await whole(site, {"text": "a"})
        reference = {"type": "item_reference", "id": first["output"][0]["id"]}
        second = await whole(site, input=[reference, {"role": "user", "content": json.dumps({"say": [{"text": "b"}]})}])
        listed = (await at(site, f"{second['id']}/input_items?order=asc"))[1]["data"]
        assert listed[0] == first["output"][0]

    serve(test)
