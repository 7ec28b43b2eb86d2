"""Bodies of /v1/responses become chats, or a 400 in the client's words."""

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastrouter.api.requests.known import RESPONSES
from fastrouter.api.requests.response_items import seal, unseal
from fastrouter.api.requests.response_tools import Tool, call_item, custom_arguments, custom_input
from fastrouter.api.requests.responses import read_response, without_beginning
from fastrouter.errors import InvalidRequest

KINDS = (
    *("message", "reasoning", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "local_shell_call"),
    *(
        "local_shell_call_output",
        "item_reference",
        "function",
        "custom",
        "namespace",
        "local_shell",
        "input_text",
        "input_image",
        "grammar",
    ),
)
WORDS = (
    *(
        "type",
        "role",
        "content",
        "text",
        "name",
        "namespace",
        "call_id",
        "id",
        "arguments",
        "input",
        "output",
        "action",
        "summary",
        "tools",
    ),
    *("encrypted_content", "format", "schema", "definition", "function", "parameters", "mode", "effort", "image_url", "command", "strict"),
)
LARK = 'start: "begin" /.+/ "end"'
WEATHER = {"type": "function", "name": "weather", "description": "Of a city", "parameters": {"type": "object"}, "strict": True}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edit files",
    "format": {"type": "grammar", "syntax": "lark", "definition": LARK},
}
FILES = {"type": "namespace", "name": "mcp__files", "description": "Files", "tools": [{"type": "function", "name": "read"}]}
SERVER_TOOLS: list[dict[str, Any]] = [
    {"type": "web_search", "external_web_access": False},
    {"type": "image_generation", "output_format": "png"},
    {"type": "tool_search"},
    {"type": "file_search", "vector_store_ids": []},
]


def messages_of(*items: Any, **fields: Any) -> Any:
    return read_response({"input": list(items), **fields}).generates[0].messages


def said(role: str, text: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def refused(**fields: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read_response({"input": "hi", **fields})
    return caught.value.message


# ---------------------------------------------------------------- items


def test_a_text_and_instructions() -> None:
    assert read_response({"input": "hi", "instructions": "be brief"}).generates[0].messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]


def test_what_codex_sends_on_a_second_turn() -> None:
    """Instructions and the developer's message are one system message; thoughts, text and calls of one turn are one message."""
    found = messages_of(
        said("developer", "sandboxed"),
        said("user", "list the files"),
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "I use ls."}]},
        said("assistant", "Looking."),
        {"type": "function_call", "name": "shell", "arguments": '{"command":["ls"]}', "call_id": "c1"},
        {"type": "custom_tool_call", "name": "apply_patch", "input": "begin x end", "call_id": "c2", "status": "completed"},
        {"type": "function_call_output", "call_id": "c1", "output": "a.py"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "done"}]},
        instructions="You are Codex.",
    )
    assert found == [
        {"role": "system", "content": "You are Codex.\n\nsandboxed"},
        {"role": "user", "content": "list the files"},
        {
            "role": "assistant",
            "content": "Looking.",
            "reasoning_content": "I use ls.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "shell", "arguments": '{"command":["ls"]}'}},
                {"id": "c2", "type": "function", "function": {"name": "apply_patch", "arguments": '{"input":"begin x end"}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "shell", "content": "a.py"},
        {"role": "tool", "tool_call_id": "c2", "name": "apply_patch", "content": "done"},
    ]


def test_calls_without_text() -> None:
    call = {"type": "function_call", "namespace": "mcp__files", "name": "read", "arguments": "{}", "call_id": "c1"}
    shell = {"type": "local_shell_call", "call_id": "c2", "action": {"type": "exec", "command": ["ls"], "env": {}}, "status": "completed"}
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    found = messages_of(said("user", "hi"), call, {"type": "function_call_output", "call_id": "c1", "output": "x"}, thought, shell)
    assert found[1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "mcp__files__read", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "mcp__files__read", "content": "x"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c2", "type": "function", "function": {"name": "local_shell", "arguments": '{"command":["ls"]}'}}],
        },
    ]


@pytest.mark.parametrize("kind", ["web_search_call", "image_generation_call", "compaction", "ghost_snapshot", "tomorrow"])
def test_items_that_no_chat_has_are_left_out(kind: str) -> None:
    assert messages_of(said("user", "hi"), {"type": kind, "id": "x"}) == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("value", ["", [], None])
def test_a_probe(value: Any) -> None:
    ask = read_response({"input": value, "max_output_tokens": 1, "instructions": "be brief"})
    assert ask.generates[0].max_tokens == 1
    assert ask.generates[0].messages == [{"role": "system", "content": "be brief"}, {"role": "user", "content": ""}]


def test_an_assistant_at_the_end_is_not_continued() -> None:
    generate = read_response({"input": [said("user", "hi"), said("assistant", "yes")]}).generates[0]
    assert (generate.add_generation_prompt, generate.continue_final_message) == (True, False)


def test_a_cut_thought_is_kept() -> None:
    found = messages_of(said("user", "hi"), {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]})
    assert found[1:] == [{"role": "assistant", "content": "", "reasoning_content": "hm"}]


def test_a_thought_comes_back_in_encrypted_content() -> None:
    assert unseal(seal("héllo")) == "héllo"
    assert unseal("gAAAAABo") == unseal("é") == ""
    thought = {"type": "reasoning", "summary": [], "encrypted_content": seal("hm")}
    assert messages_of(said("user", "hi"), thought, said("assistant", "yes"))[1]["reasoning_content"] == "hm"


def test_system_messages_on_the_way_stay_where_they_are() -> None:
    found = messages_of(said("user", "hi"), said("developer", "be brief"), said("user", "and?"))
    assert [message["role"] for message in found] == ["user", "system", "user"]


# ---------------------------------------------------------------- tools


def functions_of(*tools: Any, **fields: Any) -> Any:
    return read_response({"input": "hi", "tools": list(tools), **fields}).generates[0].tools


def test_tools_of_all_kinds() -> None:
    found = functions_of(WEATHER, PATCH, FILES, {"type": "local_shell"}, *SERVER_TOOLS)
    assert [tool["type"] for tool in found] == ["function"] * 4
    weather, patch, read, shell = (tool["function"] for tool in found)
    assert weather == {name: WEATHER[name] for name in ("name", "description", "parameters", "strict")}
    assert (patch["name"], list(patch["parameters"]["properties"])) == ("apply_patch", ["input"])
    assert patch["description"].startswith("Edit files")
    assert LARK in patch["description"]
    assert read == {"name": "mcp__files__read", "description": "Files"}
    assert shell["name"] == "local_shell"


def test_only_tools_of_a_server_are_no_tools() -> None:
    assert functions_of(*SERVER_TOOLS, tool_choice="required") is None


def choice(value: Any) -> Any:
    generate = read_response({"input": "hi", "tools": [WEATHER, PATCH, *SERVER_TOOLS], "tool_choice": value}).generates[0]
    return generate.tool_choice, [tool["function"]["name"] for tool in generate.tools or ()]


def test_tool_choice() -> None:
    both = ["weather", "apply_patch"]
    assert choice(None) == choice("auto") == choice({"type": "web_search"}) == ("auto", both)
    assert choice("none")[1] == []
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "apply_patch"}, {"type": "web_search"}]}
    assert choice(allowed) == ({"names": ["apply_patch"], "required": False}, both)
    assert choice({**allowed, "mode": "required"})[0] == {"names": ["apply_patch"], "required": True}
    assert choice({**allowed, "tools": [{"type": "web_search"}]})[0] in ("none", None)
    assert choice("required") == ("required", both)
    assert choice({"type": "custom", "name": "apply_patch"})[0] == {"names": ["apply_patch"], "required": True}


def test_calls_become_items_of_their_tool() -> None:
    ids = {"id": "x_1", "call_id": "c"}
    assert call_item(Tool("function", "f", "ns"), ids, "{}", "completed") == {
        "type": "function_call",
        **ids,
        "name": "f",
        "namespace": "ns",
        "arguments": "{}",
        "status": "completed",
    }
    custom = call_item(Tool("custom", "apply_patch"), ids, custom_arguments('a\n"b"'), "completed")
    assert (custom["type"], custom["input"]) == ("custom_tool_call", 'a\n"b"')
    shell = call_item(Tool("local_shell", "local_shell"), ids, '{"command":["ls","-l"],"timeout_ms":5}', "completed")
    assert shell["action"] == {"type": "exec", "command": ["ls", "-l"], "env": {}, "timeout_ms": 5}
    assert [custom_input(text) for text in ("plain", '{"other":1}', "[]", '{"input":5}')] == ["plain", '{"other":1}', "[]", '{"input":5}']
    assert call_item(Tool("local_shell", "local_shell"), ids, "ls", "completed")["action"]["command"] == []


# ---------------------------------------------------------------- other fields


def test_fields() -> None:
    ask = read_response(
        {
            "input": "hi",
            "stream": True,
            "max_output_tokens": 9,
            "max_tokens": 5,
            "temperature": 0.5,
            "top_k": 3,
            "n": 4,
            "reasoning": {"effort": "low", "summary": "auto"},
            "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
            "top_logprobs": 2,
            "store": False,
            "truncation": "auto",
            "client_metadata": {"x": "y"},
            "prompt_cache_key": "k",
            "service_tier": "flex",
            "text": {"verbosity": "low"},
            "stream_options": {"include_obfuscation": False},
            "user": "somebody",
        }
    )
    generate = ask.generates[0]
    assert (ask.is_stream, generate.max_tokens, generate.n) == (True, 9, 1)
    assert generate.sampling == {"temperature": 0.5, "top_k": 3, "n_probs": 2}
    assert generate.chat_template_kwargs == {"reasoning_effort": "low"}
    assert (ask.has_summary, ask.has_sealed, ask.is_stored, generate.logprobs) == (True, True, False, True)
    assert (ask.echo["user"], ask.echo["text"], ask.echo["store"]) == ("somebody", {"verbosity": "low", "format": {"type": "text"}}, False)


def test_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
    ask = read_response({"input": "hi", "text": {"format": {"type": "json_schema", "name": "A", "strict": True, "schema": schema}}})
    constraint = ask.generates[0].constraint
    assert constraint is not None
    assert (constraint["kind"], constraint["field"]) == ("json_schema", "text.format.schema")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"input": 5}, "field 'input' must be a string or a list"),
        ({"input": ["x"]}, "field 'input[0]' must be an object"),
        ({"input": [{"role": 5}]}, "field 'input[0].role'"),
        ({"input": [{"role": "user", "content": [{"type": "input_video"}]}]}, "field 'input[0].content[0].type'"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "needs an `image_url`"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "field 'input[0].call_id'"),
        ({"instructions": 5}, "field 'instructions'"),
        ({"tools": [{"type": "function"}]}, "field 'tools[0].name'"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "custom"}]}]}, "field 'tools[0].tools[0].name'"),
        ({"tool_choice": "maybe"}, "field 'tool_choice'"),
        ({"max_output_tokens": "5"}, "field 'max_output_tokens'"),
        ({"temperature": "hot"}, "field 'temperature'"),
        ({"reasoning": {"effort": 5}}, "field 'reasoning.effort'"),
        ({"text": {"format": {"type": "xml"}}}, "field 'text.format.type'"),
        ({"text": {"format": {"type": "json_schema", "schema": 5}}}, "field 'text.format.schema'"),
        ({"store": "yes"}, "field 'store'"),
        ({"metadata": {"a": 5}}, "field 'metadata'"),
        ({"include": "all"}, "field 'include'"),
        ({"truncation": "some"}, "field 'truncation'"),
        ({"background": True}, "field 'background' is not supported"),
        ({"conversation": "c"}, "field 'conversation' is not supported"),
        ({"prompt": {"id": "p"}}, "field 'prompt' is not supported"),
    ],
)
def test_errors_name_the_field(fields: dict[str, Any], expected: str) -> None:
    assert expected in refused(**fields)


VALUES = st.recursive(
    st.none()
    | st.sampled_from([*KINDS, "user", "assistant", "json_schema", "auto"])
    | st.booleans()
    | st.integers(-(1 << 63), 1 << 63)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(sorted(RESPONSES)), VALUES, max_size=6), st.lists(VALUES, max_size=4))
def test_whatever_comes_it_is_read_or_refused(fields: dict[str, Any], items: list[Any]) -> None:
    for body in (fields, {**fields, "input": items}, {"input": "x", "tools": items}, {"input": "x", "tool_choice": fields, "text": fields}):
        with contextlib.suppress(InvalidRequest):
            ask = read_response(body)
            orjson.dumps([ask.echo, ask.generates])


def test_the_oldest_turns_go_first() -> None:
    def of(*roles: str) -> list[dict[str, Any]]:
        return [{"role": role, "content": "x" * 100} for role in roles]

    talk = of("system", "user", "assistant", "tool", "user", "assistant", "user")
    assert without_beginning(talk, 0.01) == without_beginning(talk, 0.4) == of("system", "user", "assistant", "user")
    assert without_beginning(talk, 0.5) == without_beginning(talk, 1.0) == of("system", "user")
    assert without_beginning(of("user", "assistant", "user"), 0.1) == of("user")
    assert without_beginning(of("system", "user"), 0.5) is None
    assert without_beginning(of("system", "system"), 0.5) is None


def test_an_image_in_a_result_does_not_end_the_conversation() -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64,aaaa"}
    call = {"type": "function_call", "call_id": "c", "name": "view_image", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": [picture]}
    ask = read_response({"input": [said("user", "hi"), call, output]})
    assert ask.pictures.unseen(ask.generates[0].messages or [])[-1]["content"] == "[An image. This model cannot see images.]"


def test_what_a_chat_refuses_is_named_as_here() -> None:
    picture = {"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}
    assert "input[1].content[0]" in refused(input=[said("developer", "x"), picture], instructions="y")
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    assert "field 'tools'" in refused(tools=[{"type": "function", "name": "f", "parameters": {"x": deep}}])


@pytest.mark.parametrize("kind", [[], {}, 0, False, 5])
def test_the_type_of_an_item_is_a_string(kind: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"field 'input\[0\]\.type' must be a string"):
        read_response({"input": [{"type": kind, "role": "user", "content": "a"}]})


def test_a_chosen_tool_has_a_namespace_that_is_a_string() -> None:
    with pytest.raises(InvalidRequest, match=r"field 'tool_choice\.namespace' must be a string"):
        read_response({"input": "a", "tools": [{"type": "function", "name": "f"}], "tool_choice": {"name": "f", "namespace": 1}})


def test_many_thoughts_before_one_message() -> None:
    items = [*({"type": "reasoning", "content": text} for text in ("one", "", "two")), {"role": "assistant", "content": "a"}]
    [generate] = read_response({"input": [*items, {"role": "user", "content": "b"}]}).generates
    assert generate.messages is not None
    assert generate.messages[0] == {"role": "assistant", "content": "a", "reasoning_content": "one\ntwo"}


def test_a_body_of_another_api_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="field 'input' is missing"):
        read_response({"model": "m", "messages": [{"role": "user", "content": "x"}]})
