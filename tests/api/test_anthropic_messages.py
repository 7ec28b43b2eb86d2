"""A body of Anthropic's Messages API becomes the body of a chat, field by field; errors name the client's fields."""

import json
from typing import Any

import pytest

from fastrouter.api.flavours.anthropic import ERRORS, Messages
from fastrouter.api.requests.anthropic_messages import chat_of
from fastrouter.api.requests.chat_messages import check_messages
from fastrouter.errors import (
    ContextExceeded,
    FastrouterError,
    Forbidden,
    InvalidApiKey,
    InvalidRequest,
    ModelNotFound,
    RateLimited,
    Unavailable,
)

HELLO = [{"role": "user", "content": "hello"}]
ADD = {"name": "add", "description": "a sum", "input_schema": {"type": "object", "properties": {"a": {"type": "number"}}}}


def messages_of(*messages: dict[str, Any], **fields: Any) -> Any:
    return chat_of({"messages": list(messages), **fields})["messages"]


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def test_a_tool_loop() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("2"), {"type": "tool_reference", "tool_name": "sub"}]}
    thought = {"type": "thinking", "thinking": "a sum", "signature": "any"}
    redacted = {"type": "redacted_thinking", "data": "x"}
    found = messages_of(*HELLO, assistant(thought, redacted, text("I add."), call), user(text("so?"), result))
    function = {"name": "add", "arguments": '{"a":1}'}
    assert found[1:] == [
        {
            "role": "assistant",
            "content": "I add.",
            "reasoning_content": "a sum",
            "tool_calls": [{"id": "toolu_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "name": "add", "content": "2\nsub"},
        {"role": "user", "content": "so?"},
    ]


@pytest.mark.parametrize(
    ("content", "is_error", "shown"),
    [
        (None, False, ""),
        ("done", False, "done"),
        ("no file", True, "Error: no file"),
        ("<tool_use_error>no", True, "<tool_use_error>no"),
        ([text("Error: no file")], True, "Error: no file"),
        ([{"type": "search_result", "title": "T", "source": "s", "content": [text("x")]}], False, "T\ns\nx"),
    ],
)
def test_results_of_tools(content: Any, is_error: bool, shown: str) -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": content, "is_error": is_error}
    assert messages_of(user(result)) == [{"role": "tool", "tool_call_id": "t", "content": shown}]


def test_system_messages_stay_in_their_places() -> None:
    blocks = [text("You help.", cache_control={"type": "ephemeral"}), text(""), text("Be brief.")]
    found = messages_of(*HELLO, {"role": "system", "content": "now in French"}, {"role": "user", "content": "go on"}, system=blocks)
    assert [(message["role"], message["content"]) for message in found] == [
        ("system", "You help.\n\nBe brief."),
        ("user", "hello"),
        ("system", "now in French"),
        ("user", "go on"),
    ]


def test_the_changing_line_of_claude_code_costs_no_prefix() -> None:
    def asked(number: int, rest: str) -> Any:
        head = f"x-anthropic-billing-header: cc_version=2.1; cch={number};{rest}"
        return messages_of(*HELLO, system=[text(head), text("You are an agent.")])

    assert asked(1, "") == asked(2, "")
    assert asked(1, "")[0] == {"role": "system", "content": "You are an agent."}
    assert asked(1, "\n\nOn it.")[0]["content"] == "On it.\n\nYou are an agent."
    assert messages_of(*HELLO, system="x-anthropic-billing-header: cch=1;") == HELLO


def test_messages_of_one_role_are_one_turn() -> None:
    found = messages_of({"role": "user", "content": "a"}, user(text("b")), assistant(text("c")), assistant(text("d")))
    assert [message["content"] for message in found] == ["a\nb", "c\nd"]


def test_documents_are_text() -> None:
    plain = {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
    parts = {"type": "document", "source": {"type": "content", "content": [text("y")]}}
    assert messages_of(user(plain, parts)) == [{"role": "user", "content": "T\nx\ny"}]


def test_an_image_in_a_result_does_not_end_the_conversation() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aaaa"}}
    [message] = messages_of(user({"type": "tool_result", "tool_use_id": "t", "content": [text("a"), image]}))
    [seen] = check_messages([message])
    assert seen["content"] == "a\n[An image. This model cannot see images.]"


def test_tools() -> None:
    odd = {"name": "now", "type": "custom", "input_schema": {"type": "object"}, "cache_control": {}, "defer_loading": True}
    found = chat_of({"messages": HELLO, "tools": [ADD, odd, {"type": "web_search_20250305", "name": "web_search"}]})
    assert [tool["function"] for tool in found["tools"]] == [
        {"name": "add", "description": "a sum", "parameters": ADD["input_schema"]},
        {"name": "now", "parameters": {"type": "object", "properties": {}}},
    ]


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "any", "disable_parallel_tool_use": True}, {"tool_choice": "required", "parallel_tool_calls": False}),
        ({"type": "tool", "name": "add"}, {"tool_choice": {"type": "function", "function": {"name": "add"}}}),
    ],
)
def test_tool_choice(choice: Any, found: dict[str, Any]) -> None:
    chat = chat_of({"messages": HELLO, "tools": [ADD], "tool_choice": choice})
    assert {name: chat.get(name) for name in found} == found


def test_a_choice_among_no_tools_is_no_choice() -> None:
    assert "tool_choice" not in chat_of({"messages": HELLO, "tools": [{"type": "bash_20250124"}], "tool_choice": {"type": "any"}})


def test_a_budget_limits_the_thought() -> None:
    def budget(**thinking: Any) -> int:
        return Messages.read({"messages": HELLO, "thinking": thinking}).generates[0].reasoning_budget

    assert budget(type="enabled", budget_tokens=2048) == 2048
    assert budget(type="adaptive") == -1


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({}, {}),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, {"enable_thinking": True}),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, {"enable_thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_thinking(fields: dict[str, Any], kwargs: dict[str, Any]) -> None:
    assert Messages.read({"messages": HELLO, **fields}).generates[0].chat_template_kwargs == kwargs


def test_the_rest() -> None:
    schema = {"type": "object", "properties": {}}
    ask = Messages.read(
        {
            "messages": HELLO,
            "max_tokens": 7,
            "stop_sequences": ["END"],
            "temperature": 0.5,
            "top_k": 4,
            "stream": True,
            "output_config": {"format": {"type": "json_schema", "schema": schema}},
            "metadata": {"user_id": "u"},
            "service_tier": "auto",
            "context_management": {"edits": []},
            "n": 3,
            "logprobs": True,
        }
    )
    [generate] = ask.generates
    assert ask.is_stream
    assert (generate.max_tokens, generate.stop, generate.n, generate.return_progress) == (7, ["END"], 1, True)
    assert generate.sampling["temperature"] == 0.5
    assert generate.sampling["top_k"] == 4
    assert generate.constraint is not None
    assert json.loads(generate.constraint["text"]).items() >= schema.items()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": None}, "field 'messages' must be a list with at least one message"),
        ({"messages": [{"role": "robot", "content": ""}]}, 'field \'messages[0].role\' must be "user", "assistant" or "system"'),
        ({"messages": [{"role": "user"}]}, "field 'messages[0].content' must be a string or a list of blocks"),
        (
            {"messages": [user({"type": "image"})]},
            "field 'messages[0].content[0].source' must be an object",
        ),
        ({"messages": [*HELLO, user({"type": "poem"})]}, 'field \'messages[1].content[0].type\' must be "text", "tool_result"'),
        (
            {"messages": [user({"type": "document", "source": {"type": "url"}})]},
            "field 'messages[0].content[0].source.type' is \"url\"",
        ),
        ({"messages": [user({"type": "tool_result", "content": "x"})]}, "field 'messages[0].content[0].tool_use_id' must be a string"),
        (
            {"messages": [assistant({"type": "tool_use", "id": "a", "name": "b", "input": 1})]},
            "field 'messages[0].content[0].input' must be",
        ),
        ({"system": 5}, "field 'system' must be a string or a list of blocks"),
        ({"tools": {}}, "field 'tools' must be a list"),
        ({"tools": [{"name": "a"}]}, "field 'tools[0].input_schema' must be an object"),
        ({"tools": [{"type": "bash_1"}, {"name": "", "input_schema": {}}]}, "field 'tools[1].name' must not be empty"),
        (
            {"tools": [ADD], "tool_choice": {"type": "tool", "name": "x"}},
            "field 'tool_choice.name' must be the name of a tool in 'tools', but is 'x'",
        ),
        ({"tools": [ADD], "tool_choice": {"type": "force"}}, "field 'tool_choice.type' must be"),
        ({"thinking": {"type": "deep"}}, "field 'thinking.type' must be"),
        ({"thinking": {"type": "enabled", "budget_tokens": "x"}}, "field 'thinking.budget_tokens' must be a whole number"),
        ({"output_format": {"type": "xml"}}, "field 'output_format.type' must be"),
        ({"stop_sequences": [1]}, "field 'stop_sequences' must be a string or a list of strings"),
        ({"max_tokens": "x"}, "field 'max_tokens' must be a whole number"),
    ],
)
def test_errors_name_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Messages.read({"messages": HELLO, **fields})
    body = ERRORS.body(caught.value)
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert body["error"]["message"].startswith(message)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ModelNotFound("x"), 404, "not_found_error"),
        (InvalidApiKey(), 401, "authentication_error"),
        (Forbidden("no"), 403, "permission_error"),
        (RateLimited("no"), 429, "rate_limit_error"),
        (Unavailable("later"), 503, "overloaded_error"),
        (FastrouterError("oh"), 500, "api_error"),
    ],
)
def test_errors_have_their_types(error: FastrouterError, status: int, kind: str) -> None:
    assert ERRORS.status(error) == status
    assert ERRORS.body(error) == {"type": "error", "error": {"type": kind, "message": error.message}}


def test_agents_know_when_a_prompt_is_too_long() -> None:
    error = ContextExceeded("so many", n_prompt_tokens=9000, n_ctx=4096)
    assert ERRORS.body(error)["error"]["message"] == "prompt is too long: 9000 tokens > 4096 maximum"


def test_errors_of_what_is_checked_elsewhere_name_the_clients_field() -> None:
    def shown(message: str) -> Any:
        return ERRORS.body(InvalidRequest(message))["error"]["message"]

    assert shown("field 'response_format' is wrong") == "field 'output_config.format' is wrong"
    assert shown("field 'response_format.json_schema.schema' is wrong") == "field 'output_config.format.schema' is wrong"
    assert shown("field 'stop[0]' is wrong") == "field 'stop_sequences[0]' is wrong"
    assert shown("field 'stopped' is wrong") == "field 'stopped' is wrong"
    assert shown("'stop' is wrong") == "'stop' is wrong"
