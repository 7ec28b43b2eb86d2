"""Tool calls and thoughts over HTTP, as OpenAI's own client and plain events show them. The model is real and writes a script."""

import re
from collections.abc import Iterator
from typing import Any

import openai
import orjson
import pytest
from conftest import Router, StartRouter, eventually
from pydantic import BaseModel
from scripted_models import make_scripted

# The last user message is the word that chooses the script; after a tool's result comes the answer.
TEMPLATE = (
    "{# <tool_call> tool_calls <think> </think> arguments #}"
    "{% for message in messages %}{{ message.role }} {{ message.content or '' }} {{ message.reasoning_content }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }} {{ call.function.arguments }}{% endfor %} {% endfor %}"
    "{% if messages[-1].role == 'tool' %}red{% else %}{{ messages[-1].content }}{% endif %}"
)
THOUGHT = "Let me see: it's 1 and 2?"
ARGUMENTS = {"a": 1, "b": "two words"}
SCRIPTS = {
    "cat": f"<think>\n{THOUGHT}\n</think>\n\nI call it.\n<tool_call>\n"
    '{"name": "add", "arguments": {"a": 1, "b": "two words"}}\n</tool_call>',
    "dog": "<tool_call>\nnot a call\n</tool_call>",
    "one": "<think>on and on it goes. What if? No! ",
    "red": "So the sum is 7.",
}
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a", "b"]}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "add", "description": "adds", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "look"}},
]


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("agents")
    make_scripted(folder / "agent.gguf", SCRIPTS, endless=("one",), chat_template=TEMPLATE, n_ctx=1 << 16)
    return module_router("-c", "65536", "-np", "4", "--temp", "0", models_dir=folder)


@pytest.fixture
def client(server: Router) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def chat(word: str, **fields: Any) -> dict[str, Any]:
    return {"model": "agent", "messages": [{"role": "user", "content": word}], "max_tokens": 200, **fields}


def ask(server: Router, word: str, **fields: Any) -> dict[str, Any]:
    answer = server.post("/v1/chat/completions", chat(word, **fields))
    assert answer.status == 200, answer.body
    whole: dict[str, Any] = answer.json
    return whole


def message_of(whole: dict[str, Any], choice: int = 0) -> dict[str, Any]:
    message: dict[str, Any] = whole["choices"][choice]["message"]
    return message


def stream(server: Router, word: str, **fields: Any) -> list[dict[str, Any]]:
    with server.stream("/v1/chat/completions", chat(word, stream=True, **fields)) as events:
        return list(events)


def joined(events: list[dict[str, Any]], choice: int = 0) -> dict[str, Any]:
    """The message that these events make."""
    text, thought, calls, reasons = "", "", list[dict[str, Any]](), []
    for one in (one for event in events for one in event["choices"] if one["index"] == choice):
        delta = one["delta"]
        text += delta.get("content") or ""
        thought += delta.get("reasoning_content") or ""
        reasons += [one["finish_reason"]] if one["finish_reason"] else []
        for piece in delta.get("tool_calls", ()):
            if piece["index"] == len(calls):
                assert set(piece) == {"index", "id", "type", "function"}
                assert (piece["type"], piece["function"]["arguments"]) == ("function", "")
                calls.append({"id": piece["id"], "name": piece["function"]["name"], "arguments": ""})
            else:
                assert set(piece) == {"index", "function"}
                assert set(piece["function"]) == {"arguments"}
                calls[piece["index"]]["arguments"] += piece["function"]["arguments"]
    [reason] = reasons
    return {"text": text, "thought": thought, "calls": calls, "reason": reason}


def test_a_whole_answer(server: Router) -> None:
    whole = ask(server, "cat", tools=TOOLS)
    message = message_of(whole)
    [call] = message["tool_calls"]
    assert (message["content"], message["reasoning_content"]) == ("I call it.", THOUGHT)
    assert re.fullmatch(r"call_\w{24}", call["id"])
    assert (call["type"], call["function"]["name"], orjson.loads(call["function"]["arguments"])) == ("function", "add", ARGUMENTS)
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    assert 0 < whole["usage"]["completion_tokens_details"]["reasoning_tokens"] < whole["usage"]["completion_tokens"]


@pytest.mark.parametrize("fields", [{}, {"logprobs": True}, {"timings_per_token": True}, {"n": 2}], ids=str)
def test_a_stream_is_the_whole_answer_in_pieces(server: Router, fields: dict[str, Any]) -> None:
    whole, events = ask(server, "cat", tools=TOOLS, **fields), stream(server, "cat", tools=TOOLS, **fields)
    for choice in range(fields.get("n", 1)):
        message, made = message_of(whole, choice), joined(events, choice)
        assert (made["text"], made["thought"], made["reason"]) == (message["content"], message["reasoning_content"], "tool_calls")
        assert [(call["name"], call["arguments"]) for call in made["calls"]] == [
            (call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]
        ]
    if "logprobs" in fields:
        entries = [entry for event in events for one in event["choices"] if one.get("logprobs") for entry in one["logprobs"]["content"]]
        assert [entry["token"] for entry in entries] == [entry["token"] for entry in whole["choices"][0]["logprobs"]["content"]]
        assert "".join(entry["token"] for entry in entries) == SCRIPTS["cat"]


def test_what_is_no_call_is_text(server: Router) -> None:
    whole = ask(server, "dog", tools=TOOLS)
    assert message_of(whole) == {"role": "assistant", "content": SCRIPTS["dog"]}
    assert whole["choices"][0]["finish_reason"] == "stop"
    made = joined(stream(server, "dog", tools=TOOLS))
    assert (made["text"], made["reason"]) == (SCRIPTS["dog"], "stop")


@pytest.mark.parametrize(
    "choice",
    [
        "auto",
        "required",
        {"type": "function", "function": {"name": "add"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "add"}}]}},
    ],
    ids=str,
)
def test_every_choice_of_tools_is_taken(server: Router, choice: Any) -> None:
    assert message_of(ask(server, "cat", tools=TOOLS, tool_choice=choice))["tool_calls"][0]["function"]["name"] == "add"


def test_the_old_names_work(server: Router) -> None:
    functions = [tool["function"] for tool in TOOLS]
    message = message_of(ask(server, "cat", functions=functions, function_call={"name": "add"}))
    assert message["tool_calls"][0]["function"]["name"] == "add"


def test_completions_are_not_parsed(server: Router) -> None:
    body = {"model": "agent", "prompt": "we cat", "max_tokens": 200}
    assert server.post("/v1/completions", body).json["choices"][0]["text"] == SCRIPTS["cat"]
    assert server.post("/completion", body).json["content"] == SCRIPTS["cat"]


# ---------------------------------------------------------------- the official client


def test_a_tool_loop_to_its_end(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "cat"}]
    first = client.chat.completions.create(model="agent", messages=messages, tools=TOOLS)
    called = first.choices[0].message
    assert called.tool_calls is not None
    [call] = called.tool_calls
    messages += [called, {"role": "tool", "tool_call_id": call.id, "content": "7"}]
    last = client.chat.completions.create(model="agent", messages=messages, tools=TOOLS)
    assert last.choices[0].message.content == SCRIPTS["red"]
    assert last.choices[0].finish_reason == "stop"
    assert last.usage is not None
    assert first.usage is not None
    assert last.usage.prompt_tokens > first.usage.prompt_tokens + len(THOUGHT) // 8  # the thought and the call are in the prompt


def test_the_streaming_helper(client: openai.OpenAI) -> None:
    seen = set()
    with client.chat.completions.stream(model="agent", messages=[{"role": "user", "content": "cat"}], tools=TOOLS) as events:
        for event in events:
            seen.add(event.type)
        final = events.get_final_completion()
    assert {"content.delta", "tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= seen
    [choice] = final.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I call it."
    assert choice.message.tool_calls is not None
    assert orjson.loads(choice.message.tool_calls[0].function.arguments) == ARGUMENTS


class Add(BaseModel):
    a: int
    b: str


def test_arguments_become_objects(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(Add, name="add")
    parsed = client.chat.completions.parse(model="agent", messages=[{"role": "user", "content": "cat"}], tools=[tool])
    calls = parsed.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.parsed_arguments == Add(a=1, b="two words")


# ---------------------------------------------------------------- thoughts


def test_where_thoughts_go(server: Router) -> None:
    tagged = f"<think>{THOUGHT}</think>I call it."
    message = message_of(ask(server, "cat", tools=TOOLS, reasoning_format="deepseek-legacy"))
    assert (message["content"], message["reasoning_content"]) == (tagged, THOUGHT)
    message = message_of(ask(server, "cat", tools=TOOLS, reasoning_format="none"))
    assert "reasoning_content" not in message
    assert message["content"] == f"<think>\n{THOUGHT}\n</think>\n\nI call it."
    made = joined(stream(server, "cat", tools=TOOLS, reasoning_format="deepseek-legacy"))
    assert (made["text"], made["thought"]) == (message["content"], "")


def test_a_budget(server: Router) -> None:
    message = message_of(ask(server, "one", reasoning_budget_tokens=3, reasoning_budget_message=" Enough."))
    assert message["reasoning_content"].endswith("Enough.")
    assert len(message["reasoning_content"]) < 40
    assert "</think>" not in message["content"]


def test_control_ends_a_thought(server: Router) -> None:
    thought = text = ""
    said = None
    with server.stream("/v1/chat/completions", chat("one", stream=True, reasoning_control=True, max_tokens=-1)) as events:
        for event in events:
            delta = event["choices"][0]["delta"]
            thought, text = thought + (delta.get("reasoning_content") or ""), text + (delta.get("content") or "")
            control = {"model": "agent", "id": event["id"], "action": "reasoning_end"}
            if thought and said is None:
                said = server.post("/v1/chat/completions/control", control)
            if text:  # the answer has begun
                break
    assert said is not None
    assert (said.status, said.json) == (200, {"success": True})
    assert "on and on".startswith(thought[:9].strip())
    assert text
    gone = eventually(lambda: server.post("/v1/chat/completions/control", control).json.get("message"), "it is over")
    assert "no" in gone


def test_control_has_to_be_asked_for(server: Router) -> None:
    with server.stream("/v1/chat/completions", chat("one", stream=True, max_tokens=-1)) as events:
        event = next(iter(events))
        said = server.post("/v1/chat/completions/control", {"id": event["id"], "action": "reasoning_end"})
        assert (said.json["success"], said.json["message"]) == (False, "reasoning control not enabled for this completion")


@pytest.mark.parametrize(
    ("body", "field"), [({"action": "reasoning_end"}, "id"), ({"id": "x"}, "action"), ({"id": "x", "action": "sing"}, "action")], ids=str
)
def test_control_names_what_is_wrong(server: Router, body: dict[str, Any], field: str) -> None:
    answer = server.post("/v1/chat/completions/control", body)
    assert answer.status == 400
    assert f"'{field}'" in answer.error["message"]


def test_control_of_what_is_not_there(server: Router) -> None:
    said = server.post("/v1/chat/completions/control", {"id": "chatcmpl-none", "action": "reasoning_end"})
    assert (said.status, said.json["success"]) == (200, False)
