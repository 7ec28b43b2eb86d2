"""Forced tool calls through a real router: the answer always has the call, and its arguments fit the schema."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from canitoolcall.fixtures import load_fixtures
from conftest import Router, StartRouter
from tiny_models import make_llama

SCHEMAS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent.parent / "support" / "schemas.json").read_text())
CHAT = "/v1/chat/completions"
# All tokens of the model are equally likely, so it should close more often what it has opened.
CLOSERS = [['"', 4.0], ["}", 4.0], ["]", 4.0]]


def tool(name: str, parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


PICK = tool("pick", {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]})
COUNT = tool("count", {"type": "object", "properties": {"to": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["to"]})


def parameters(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema itself if it describes an object, otherwise the schema of an object that contains it."""
    if schema.get("type") == "object":
        return schema
    definitions = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    return {"type": "object", "properties": {"it": schema}, "required": ["it"], **definitions}


def recorded_tools() -> dict[str, dict[str, Any]]:
    """The tools of the recorded outputs."""
    found = [dict(tool) for fixture in load_fixtures() for tool in fixture.tools]
    return {json.dumps(tool, sort_keys=True): tool for tool in found}


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Router:
    folder = tmp_path_factory.mktemp("tools")
    make_llama(folder / "noise.gguf", num_silent=2, n_ctx=4096)
    (folder / "smollm2.gguf").symlink_to(smollm2)
    return module_router("-c", "8192", models_dir=folder)


def chat(tools: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "the cat"}]
    fields = {"model": "noise", "messages": messages, "max_tokens": 700, "seed": 3, "logit_bias": CLOSERS, "parallel_tool_calls": False}
    return {**fields, "tools": tools, "tool_choice": "required", **more}


def calls_of(server: Router, body: dict[str, Any]) -> list[tuple[str, Any]] | None:
    """(name, arguments) of each call; None where the answer was cut."""
    answer = server.post(CHAT, body)
    assert answer.status == 200, answer.body
    [choice] = answer.json["choices"]
    if choice["finish_reason"] == "length":
        return None
    assert choice["finish_reason"] == "tool_calls"
    assert not choice["message"]["content"]
    functions = [call["function"] for call in choice["message"]["tool_calls"]]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


@pytest.mark.parametrize("temperature", [0, 1.5])
@pytest.mark.parametrize("name", SCHEMAS)
def test_arguments_fit_the_schema(server: Router, name: str, temperature: float) -> None:
    schema = parameters(SCHEMAS[name])
    called = name.replace(" ", "_")
    found = calls_of(server, chat([tool(called, schema)], temperature=temperature))
    if found is not None:
        [(written, arguments)] = found
        assert written == called
        jsonschema.validate(arguments, schema)


def test_tools_of_recorded_outputs(server: Router) -> None:
    tools, num_whole = list(recorded_tools().values())[::4], 0
    assert len(tools) > 20
    for each in tools:
        found = calls_of(server, chat([each], temperature=1.5, max_tokens=400))
        if found is not None:
            [(called, arguments)] = found
            assert called == each["function"]["name"]
            jsonschema.validate(arguments, each["function"].get("parameters") or {})
            num_whole += 1
    assert num_whole > len(tools) / 2


def test_arguments_of_a_real_model_fit_the_schema(server: Router) -> None:
    """`python -m bench.calls` does the same with 300 schemas of BFCL."""
    smallest = sorted(SCHEMAS, key=lambda name: len(json.dumps(SCHEMAS[name])))[:20]
    asked = [(name.replace(" ", "_"), parameters(SCHEMAS[name]), number % 2 * 1.5) for number, name in enumerate(smallest)]

    def ask(called: str, schema: dict[str, Any], temperature: float) -> list[tuple[str, Any]] | None:
        fields: dict[str, Any] = {"model": "smollm2", "temperature": temperature, "logit_bias": [], "max_tokens": 60}
        return calls_of(server, chat([tool(called, schema)], **fields))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: ask(*one), asked))
    for calls, (called, schema, _) in zip(found, asked, strict=True):
        if calls is not None:
            [(written, arguments)] = calls
            assert written == called
            jsonschema.validate(arguments, schema)
    assert len([calls for calls in found if calls is not None]) > 10


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "count"}}])
def test_a_named_tool_is_called(server: Router, choice: Any) -> None:
    names = {
        calls[0][0]
        for seed in range(20)
        if (calls := calls_of(server, chat([PICK, COUNT], tool_choice=choice, seed=seed, temperature=4, top_k=0, top_p=1, min_p=0)))
    }
    assert names == ({"pick", "count"} if choice == "required" else {"count"})


def test_choices_and_probabilities(server: Router) -> None:
    answer = server.post(CHAT, chat([PICK, COUNT], n=4, logprobs=True, top_logprobs=2, temperature=1.0))
    assert answer.status == 200
    choices = answer.json["choices"]
    assert [choice["finish_reason"] for choice in choices] == 4 * ["tool_calls"]
    assert all(choice["logprobs"]["content"] for choice in choices)
    ids = [choice["message"]["tool_calls"][0]["id"] for choice in choices]
    assert len(set(ids)) == 4


def test_a_stream_is_the_whole_answer(server: Router) -> None:
    body = chat([PICK, COUNT], seed=5)
    [choice] = server.post(CHAT, body).json["choices"]
    with server.stream(CHAT, {**body, "stream": True}) as events:
        pieces = [event["choices"][0] for event in events if event["choices"]]
    deltas = [call for piece in pieces for call in piece["delta"].get("tool_calls", [])]
    [call] = choice["message"]["tool_calls"]
    assert (deltas[0]["function"]["name"], deltas[0]["function"]["arguments"]) == (call["function"]["name"], "")
    assert "".join(delta["function"]["arguments"] for delta in deltas) == call["function"]["arguments"]
    assert [piece["finish_reason"] for piece in pieces if piece["finish_reason"]] == ["tool_calls"]


def test_a_form_gives_way_to_a_call_that_must_be(server: Router) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": {"type": "object"}}}
    assert calls_of(server, chat([PICK], response_format=form))


def test_a_real_model_calls_by_itself_what_it_is_told_to(server: Router) -> None:
    found = calls_of(
        server, chat([PICK], model="smollm2", temperature=0, logit_bias=[], messages=[{"role": "user", "content": "Pick red."}])
    )
    assert found == [("pick", {"colour": "red"})]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "pick"}}])
def test_a_model_without_calls_of_its_own_calls_once(server: Router, choice: Any) -> None:
    """It would write the same call until its context is full."""
    body = chat([PICK], model="smollm2", temperature=0, logit_bias=[], tool_choice=choice, parallel_tool_calls=None)
    assert len(calls_of(server, {**body, "messages": [{"role": "user", "content": "What is the weather in Paris?"}]}) or []) == 1
