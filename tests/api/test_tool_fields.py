"""Tools, tool_choice and the fields for thoughts: a body becomes a Generate or a 400."""

from typing import Any

import pytest

from fastrouter.api.requests.fields import read_chat, read_completion
from fastrouter.errors import InvalidRequest
from fastrouter.ipc.messages import Generate

HELLO: dict[str, Any] = {"role": "user", "content": "hello"}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


TOOLS = [tool("add"), tool("look_up")]


def chat(*messages: dict[str, Any], **fields: Any) -> Generate:
    [generate] = read_chat({"messages": [HELLO, *messages], **fields}).generates
    return generate


def refused(**fields: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    return caught.value.message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "add"}}, {"names": ["add"], "required": True}),
        ({"type": "function", "name": "add"}, {"names": ["add"], "required": True}),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("add")]}}, {"names": ["add"], "required": True}),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look_up"}, tool("add")]},
            {"names": ["look_up", "add"], "required": False},
        ),
    ],
)
def test_the_choice_travels_as_plain_data(given: Any, expected: Any) -> None:
    generate = chat(tools=TOOLS, tool_choice=given)
    assert (generate.tools, generate.tool_choice) == (TOOLS, expected)


def test_without_tools_or_without_a_choice_there_are_none() -> None:
    empty: list[dict[str, Any]] = [{}, {"tools": []}, {"tools": [], "tool_choice": "auto"}, {"tool_choice": "none"}]
    for fields in ({"tools": TOOLS, "tool_choice": "none"}, *empty):
        generate = chat(**fields)
        assert (generate.tools, generate.tool_choice) == (None, None)


@pytest.mark.parametrize(
    "choice", [{"type": "function", "function": {"name": "sing"}}, {"type": "allowed_tools", "tools": [tool("add"), tool("sing")]}]
)
def test_an_unknown_tool_is_named_with_those_that_are_there(choice: dict[str, Any]) -> None:
    assert "'sing'" in refused(tools=TOOLS, tool_choice=choice)
    assert "add, look_up" in refused(tools=TOOLS, tool_choice=choice)
    assert "no tools" in refused(tool_choice=choice)


def test_an_error_about_names_is_short() -> None:
    many = [tool(f"{number:03}" + "x" * 1000) for number in range(500)]
    assert len(refused(tools=many, tool_choice={"type": "function", "function": {"name": "y" * 10_000}})) < 2000


@pytest.mark.parametrize("choice", ["sometimes", 5, [], {}, {"type": "tool"}, {"type": "custom", "custom": {"name": "add"}}])
def test_a_wrong_choice_names_the_right_ones(choice: Any) -> None:
    said = refused(tools=TOOLS, tool_choice=choice)
    assert "tool_choice" in said
    assert "allowed_tools" in said


def test_required_needs_tools() -> None:
    assert "no tools" in refused(tool_choice="required")


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"parameters": None},
        {"parameters": {}},
        {"parameters": {"type": "object"}},
        {"parameters": []},
        {"parameters": {"type": "object", "properties": {"a": {"type": "string", "maxLength": 100_000}}}, "strict": True},
        {"parameters": {"$ref": "#/nowhere"}, "description": None},
        {"parameters": {"properties": 7}, "strict": "yes"},
    ],
)
def test_odd_tools_are_taken_as_they_are(more: dict[str, Any]) -> None:
    odd = {**tool("odd", **more), "cache_control": {"type": "ephemeral"}}
    assert chat(tools=[odd]).tools == [odd]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools[0]", [5]),
        ("tools[0].type", [{"type": "retrieval", "function": {"name": "f"}}]),
        ("tools[1].function", [tool("f"), {"type": "function"}]),
        ("tools[0].function.name", [{"type": "function", "function": {}}]),
        ("tools[0].function.name", [tool("")]),
    ],
)
def test_a_tool_without_a_name_is_refused(field: str, value: Any) -> None:
    assert f"'{field}'" in refused(tools=value)


def test_a_tool_in_the_shape_of_another_api_is_told_the_right_one() -> None:
    assert "must be an object with the fields" in refused(tools=[{"type": "function", "name": "add", "parameters": {}}])


@pytest.mark.parametrize("call", [{}, {"function": "add"}, {"function": {}}, {"name": "add", "arguments": "{}"}])
def test_a_call_without_a_function_is_refused(call: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"'messages\[1\].tool_calls\[0\].function' must be an object with the fields"):
        chat({"role": "assistant", "tool_calls": [call]})


def test_functions_are_tools() -> None:
    functions = [item["function"] for item in TOOLS]
    generate = chat(functions=functions, function_call={"name": "add"})
    assert (generate.tools, generate.tool_choice) == (TOOLS, {"names": ["add"], "required": True})
    assert chat(functions=functions).tool_choice == "auto"
    assert chat(functions=functions, function_call="none").tools is None
    assert "function_call" in refused(functions=functions, function_call={"name": "sing"})
    assert "functions[0].name" in refused(functions=[{}])


def test_old_messages_become_calls_and_results() -> None:
    called = {"role": "assistant", "function_call": {"name": "add", "arguments": "{}"}}
    _, call, result = chat(called, {"role": "function", "name": "add", "content": "3"}).messages or []
    assert call == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call00001", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
    }
    assert result == {"role": "tool", "name": "add", "content": "3", "tool_call_id": "call00001"}


def test_calls_results_and_thoughts_of_earlier_turns_travel() -> None:
    calls = [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    earlier = [
        {"role": "assistant", "reasoning_content": "let me see", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "3"}]},
    ]
    assert chat(*earlier, tools=TOOLS).messages == [HELLO, *earlier]


def test_parallel_calls_and_their_parsing() -> None:
    assert (chat(tools=TOOLS).parallel_tool_calls, chat(tools=TOOLS).parses_calls) == (None, True)
    generate = chat(tools=TOOLS, parallel_tool_calls=False, parse_tool_calls=False)
    assert (generate.parallel_tool_calls, generate.parses_calls) == (False, False)


def test_calls_are_held_in_whole_answers_and_in_streams_that_want_it() -> None:
    assert chat(tools=TOOLS).holds_calls is True
    assert chat(tools=TOOLS, hold_tool_calls=False).holds_calls is True  # nothing else is sent before a whole answer
    assert chat(tools=TOOLS, stream=True).holds_calls is None
    assert chat(tools=TOOLS, stream=True, hold_tool_calls=True).holds_calls is True


def test_a_named_tool_is_called_once_unless_more_are_wanted() -> None:
    named = {"type": "function", "function": {"name": "add"}}
    assert chat(tools=TOOLS, tool_choice=named).parallel_tool_calls is False
    assert chat(functions=[{"name": "add"}], function_call={"name": "add"}).parallel_tool_calls is False
    assert chat(tools=TOOLS, tool_choice=named, parallel_tool_calls=True).parallel_tool_calls is True
    assert chat(tools=TOOLS, tool_choice="required").parallel_tool_calls is None


def test_thoughts() -> None:
    assert (chat().reasoning_format, chat().reasoning_budget, chat().reasoning_control) == (None, -1, False)
    assert chat(reasoning_budget_tokens=7, thinking_budget_tokens=9).reasoning_budget == 7
    assert chat(thinking_budget_tokens=9).reasoning_budget == 9
    assert chat(reasoning_budget_message="enough", reasoning_control=True).reasoning_budget_message == "enough"
    for name in ("none", "auto", "deepseek"):
        assert chat(reasoning_format=name).reasoning_format == name


def test_the_legacy_format_has_the_thought_twice_in_whole_answers_and_in_the_text_of_streams() -> None:
    for is_stream, parsed in ((False, "deepseek"), (True, "none")):
        ask = read_chat({"messages": [HELLO], "reasoning_format": "deepseek-legacy", "stream": is_stream})
        assert (ask.has_thoughts_in_content, ask.generates[0].reasoning_format) == (True, parsed)


def test_a_form_of_the_answer_goes_with_tools_but_a_grammar_does_not() -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    assert chat(tools=TOOLS, response_format=form).constraint is not None
    assert "tools" in refused(tools=TOOLS, grammar='root ::= "a"')
    assert chat(tools=TOOLS, tool_choice="none", grammar='root ::= "a"').constraint is not None


def test_a_text_completion_takes_the_fields_too() -> None:
    assert read_completion({"prompt": "a", "reasoning_format": "none", "parallel_tool_calls": True}).generates[0].messages is None
