"""The acceptance cases of Open Responses (openresponses.org): its requests, and what its specification of April 2026 says about responses,
items and events. Written from the specification; its own runner needs another runtime.

The case with an image is in test_image_requests.py, and needs a model that sees.
"""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import Router, StartRouter
from scripted_models import make_scripted

# The last message chooses the script, by its word.
TEMPLATE = (
    "{# <tool_call> tool_calls <think> </think> arguments #}{% for message in messages %}{{ message.role }} {{ message.content }}"
    "{% endfor %} {{ messages[-1].content }}"
)
SCRIPTS = {
    "cat": "Hello to you all.",
    "red": '<tool_call>\n{"name": "get_weather", "arguments": {"location": "San Francisco, CA"}}\n</tool_call>',
    "dog": "<think>\nI know that name.\n</think>\n\nIt is Alice!",
}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}


def said(role: str, content: str) -> dict[str, str]:
    return {"type": "message", "role": role, "content": content}


CASES: dict[str, dict[str, Any]] = {
    "basic response": {"input": [said("user", "cat")]},
    "system prompt": {"input": [said("system", "You are a pirate."), said("user", "cat")]},
    "tool calling": {"input": [said("user", "red")], "tools": [WEATHER]},
    "multi-turn": {"input": [said("user", "My name is Alice."), said("assistant", "Hello Alice!"), said("user", "dog")]},
    "text as input": {"input": "cat", "instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0.5, "max_output_tokens": 50},
}

NULL, TEXT, WHOLE, NUMBER, LIST = ({"type": kind} for kind in ("null", "string", "integer", "number", "array"))
SWITCH, OBJECT = {"type": "boolean"}, {"type": "object"}


def has(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(fields), "properties": fields}


def maybe(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, NULL]}


def of_kind(**schemas: dict[str, Any]) -> dict[str, Any]:
    """A schema chosen by the field `type`; another type is wrong."""
    kinds = {kind.replace("__", "."): schema for kind, schema in schemas.items()}
    chosen = [
        {"if": {"properties": {"type": {"const": kind}}}, "then": {**schema, "required": [*schema["required"], "type"]}}
        for kind, schema in kinds.items()
    ]
    return {"type": "object", "properties": {"type": {"enum": list(kinds)}}, "allOf": chosen}


LOGPROBS = {"type": "array", "items": has(token=TEXT, logprob=NUMBER, bytes=LIST, top_logprobs=LIST)}
PART = of_kind(output_text=has(text=TEXT, annotations=LIST, logprobs=LOGPROBS), reasoning_text=has(text=TEXT), summary_text=has(text=TEXT))
PARTS = {"type": "array", "items": PART}
STATUS = {"enum": ["in_progress", "completed", "incomplete"]}
ITEM = of_kind(
    message=has(id=TEXT, status=STATUS, role={"enum": ["assistant"]}, content=PARTS),
    function_call=has(id=TEXT, call_id=TEXT, name=TEXT, arguments=TEXT, status=STATUS),
    reasoning=has(id=TEXT, summary=PARTS),
)
USAGE = has(
    input_tokens=WHOLE,
    output_tokens=WHOLE,
    total_tokens=WHOLE,
    input_tokens_details=has(cached_tokens=WHOLE),
    output_tokens_details=has(reasoning_tokens=WHOLE),
)
TOOL = has(type={"const": "function"}, name=TEXT, description=maybe(TEXT), parameters=maybe(OBJECT), strict=maybe(SWITCH))
RESPONSE = has(
    id=TEXT,
    object={"const": "response"},
    created_at=WHOLE,
    completed_at=maybe(WHOLE),
    status={"enum": ["queued", "in_progress", "completed", "incomplete", "failed"]},
    incomplete_details=maybe(has(reason=TEXT)),
    model=TEXT,
    previous_response_id=maybe(TEXT),
    instructions=maybe(TEXT),
    output={"type": "array", "items": ITEM},
    error=maybe(has(code=TEXT, message=TEXT)),
    tools={"type": "array", "items": TOOL},
    tool_choice={"enum": ["auto", "none", "required"]},
    truncation={"enum": ["auto", "disabled"]},
    parallel_tool_calls=SWITCH,
    text=has(format=has(type=TEXT)),
    top_p=NUMBER,
    presence_penalty=NUMBER,
    frequency_penalty=NUMBER,
    top_logprobs=WHOLE,
    temperature=NUMBER,
    reasoning=maybe(has(effort=maybe(TEXT), summary=maybe(TEXT))),
    usage=maybe(USAGE),
    max_output_tokens=maybe(WHOLE),
    max_tool_calls=maybe(WHOLE),
    store=SWITCH,
    background=SWITCH,
    service_tier=TEXT,
    metadata=OBJECT,
    safety_identifier=maybe(TEXT),
    prompt_cache_key=maybe(TEXT),
)
OF_RESPONSE = has(sequence_number=WHOLE, response=RESPONSE)
OF_ITEM = has(sequence_number=WHOLE, output_index=WHOLE, item=ITEM)
PLACE = {"sequence_number": WHOLE, "item_id": TEXT, "output_index": WHOLE}
EVENT = of_kind(
    **{f"response__{name}": OF_RESPONSE for name in ("created", "in_progress", "completed", "incomplete", "failed")},
    **{f"response__output_item__{name}": OF_ITEM for name in ("added", "done")},
    **{f"response__content_part__{name}": has(**PLACE, content_index=WHOLE, part=PART) for name in ("added", "done")},
    response__output_text__delta=has(**PLACE, content_index=WHOLE, delta=TEXT, logprobs=LOGPROBS),
    response__output_text__done=has(**PLACE, content_index=WHOLE, text=TEXT, logprobs=LOGPROBS),
    response__reasoning_text__delta=has(**PLACE, content_index=WHOLE, delta=TEXT),
    response__reasoning_text__done=has(**PLACE, content_index=WHOLE, text=TEXT),
    response__function_call_arguments__delta=has(**PLACE, delta=TEXT),
    response__function_call_arguments__done=has(**PLACE, arguments=TEXT),
)


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder: Path = tmp_path_factory.mktemp("agents")
    make_scripted(folder / "agent.gguf", SCRIPTS, chat_template=TEMPLATE, n_ctx=1 << 12)
    return module_router("-c", "4096", "--temp", "0", "--responses-dir", str(folder / "responses"), models_dir=folder)


def check(schema: dict[str, Any], value: Any) -> None:
    problem = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(value))
    assert problem is None, f"{problem.json_path}: {problem.message}"


def kinds(response: dict[str, Any]) -> list[str]:
    return [item["type"] for item in response["output"]]


EXPECTED = {"tool calling": ["function_call"], "multi-turn": ["reasoning", "message"]}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("more", [{}, {"include": ["message.output_text.logprobs"], "top_logprobs": 2}], ids=["plain", "logprobs"])
def test_whole(server: Router, name: str, more: dict[str, Any]) -> None:
    answer = server.post("/v1/responses", {"model": "agent", **CASES[name], **more})
    assert answer.status == 200
    check(RESPONSE, answer.json)
    assert answer.json["status"] == "completed"
    assert kinds(answer.json) == EXPECTED.get(name, ["message"])


@pytest.mark.parametrize("name", CASES)
def test_streamed(server: Router, name: str) -> None:
    with server.stream("/v1/responses", {"model": "agent", "stream": True, **CASES[name]}) as stream:
        events = list(stream)
    assert stream.is_whole
    for event in events:
        check(EVENT, event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    response = events[-1]["response"]
    assert (events[-1]["type"], response["status"]) == ("response.completed", "completed")
    assert kinds(response) == EXPECTED.get(name, ["message"])
    whole = server.post("/v1/responses", {"model": "agent", **CASES[name]}).json
    assert nameless(whole["output"]) == nameless(response["output"])
    if name == "tool calling":
        found = [event["type"] for event in events if (event.get("item") or {"type": "function_call"})["type"] == "function_call"]
        for kind in ("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"):
            assert f"response.{kind}" in found


def nameless(output: list[dict[str, Any]]) -> Any:
    return [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in output]


def test_what_llama_server_adds_to_a_stream(server: Router) -> None:
    asked = {"model": "agent", "input": "cat", "stream": True, "timings_per_token": True, "return_progress": True}
    with server.stream("/v1/responses", asked) as stream:
        events = list(stream)
    for event in events:
        check(EVENT, event)
    shown = [event for event in events if "prompt_progress" in event]
    assert [event["type"] for event in shown] == ["response.in_progress"] * len(shown)
    assert shown[-1]["prompt_progress"]["processed"] == shown[-1]["prompt_progress"]["total"] > 0
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert deltas
    assert all(event["timings"]["predicted_n"] > 0 for event in (*deltas, events[-1]))
    assert "".join(event["delta"] for event in deltas) == SCRIPTS["cat"]
