"""The bodies of Ollama's chat and generate become ours, field by field; errors name the client's fields."""

import json
import math
import zlib
from typing import Any

import orjson
import pytest

from fastrouter.api.control.ollama import _expiry
from fastrouter.api.flavours.ollama import OLLAMA_ERRORS, Chat, Generate
from fastrouter.api.models.ollama_shapes import NEVER
from fastrouter.api.requests import ollama_bodies
from fastrouter.api.requests.ollama_bodies import is_load, pack, unpack
from fastrouter.errors import InvalidRequest, ModelNotFound

HELLO = [{"role": "user", "content": "hello"}]


def test_a_tool_loop() -> None:
    calls = [{"function": {"name": "add", "arguments": {"a": 1}}}, {"id": "x", "function": {"name": "now", "arguments": None}}]
    [generate] = Chat.read(
        {
            "messages": [
                *HELLO,
                {"role": "assistant", "thinking": "hm", "tool_calls": calls},
                {"role": "tool", "tool_name": "now", "content": "3"},
                {"role": "tool", "content": "2"},
            ],
            "tools": [{"function": {"name": "add", "description": "a sum"}}, {"type": "function", "function": {"name": "now"}}],
        }
    ).generates
    assert generate.messages is not None
    assistant, now, add = generate.messages[1:]
    assert (assistant["content"], assistant["reasoning_content"]) == ("", "hm")
    assert assistant["tool_calls"] == [
        {"id": "call_1_0", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}},
        {"id": "x", "type": "function", "function": {"name": "now", "arguments": "{}"}},
    ]
    assert now == {"role": "tool", "content": "3", "tool_call_id": "x", "name": "now"}
    assert add == {"role": "tool", "content": "2", "tool_call_id": "call_1_0", "name": "add"}
    assert generate.tools is not None
    assert generate.tools[0]["function"]["parameters"] == {"type": "object", "properties": {}}


def test_options() -> None:
    options = {"num_predict": 7, "num_ctx": 99, "num_gpu": 1, "temperature": 0.5, "typical_p": 0.9, "stop": ["a"], "seed": 3, "num_keep": 4}
    ask = Chat.read({"messages": HELLO, "options": {**options, "unknown": 1}, "keep_alive": "5m"})
    [generate] = ask.generates
    assert (generate.max_tokens, generate.stop, generate.n_keep, ask.keep_alive_s) == (7, ["a"], 4, 300)
    assert generate.sampling == {"temperature": 0.5, "typical_p": 0.9, "seed": 3}
    assert Chat.read({"messages": HELLO, "options": {"num_predict": -2}}).generates[0].max_tokens == -1


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        *(
            ("5m", 300),
            ("1h30m", 5400),
            ("1.5h", 5400),
            (".5s", 0.5),
            ("+5m", 300),
            ("100ms", 0.1),
            ("1us", 1e-6),
            ("1µs", 1e-6),
            ("3ns", 3e-9),
        ),
        *((300, 300), ("60", 60), (0, 0), ("0", 0), ("0s", 0), (-1, math.inf), ("-1", math.inf), ("-1m", math.inf), (1e300, 3.4e38)),
    ],
)
def test_keep_alive(given: Any, seconds: float) -> None:
    assert Chat.read({"messages": HELLO, "keep_alive": given}).keep_alive_s == pytest.approx(seconds)


@pytest.mark.parametrize("given", ["m", "5x", "", "1h-5m", "--5m", "nan", "5 m", "٣m", [], {}, True, "1e400x"])
def test_a_bad_keep_alive(given: Any) -> None:
    with pytest.raises(InvalidRequest, match="keep_alive"):
        Chat.read({"messages": HELLO, "keep_alive": given})


@pytest.mark.parametrize(("stream", "is_stream"), [(None, True), (True, True), (False, False)])
def test_an_answer_is_a_stream_unless_it_is_not(stream: bool | None, is_stream: bool) -> None:
    assert Chat.read({"messages": HELLO, "stream": stream}).is_stream is is_stream


@pytest.mark.parametrize(
    ("think", "kwargs"),
    [
        (None, {}),
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("low", {"enable_thinking": True, "reasoning_effort": "low"}),
    ],
)
def test_think(think: Any, kwargs: dict[str, Any]) -> None:
    for ask in (Chat.read({"messages": HELLO, "think": think}), Generate.read({"prompt": "a", "think": think})):
        assert ask.generates[0].chat_template_kwargs == kwargs


def test_format() -> None:
    def constraint(form: Any) -> Any:
        return Chat.read({"messages": HELLO, "format": form}).generates[0].constraint

    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert constraint("") is None
    assert json.loads(constraint("json")["text"])["type"] == "object"
    assert json.loads(constraint(schema)["text"]).items() >= schema.items()


def test_logprobs() -> None:
    [generate] = Chat.read({"messages": HELLO, "logprobs": True}).generates
    assert (generate.logprobs, generate.sampling["n_probs"]) == (True, 0)
    [generate] = Chat.read({"messages": HELLO, "logprobs": True, "top_logprobs": 3}).generates
    assert generate.sampling["n_probs"] == 3


def test_a_prompt_is_a_turn_of_a_chat_unless_it_is_raw() -> None:
    [turn] = Generate.read({"prompt": "hello", "system": "Be brief."}).generates
    assert turn.messages == [{"role": "system", "content": "Be brief."}, *HELLO]
    [raw] = Generate.read({"prompt": "hello", "raw": True}).generates
    assert (raw.prompt, raw.messages) == ("hello", None)
    [gap] = Generate.read({"prompt": "def f(", "suffix": "return 1"}).generates
    assert gap.infill is not None
    assert (gap.infill["prefix"], gap.infill["suffix"]) == ("def f(", "return 1")


def test_a_context_is_the_conversation_so_far() -> None:
    before = [{"role": "system", "content": "old"}, *HELLO, {"role": "assistant", "content": "\U0001f600 hi"}]
    context = json.loads(json.dumps(pack(before)))
    assert all(isinstance(number, int) for number in context)
    [generate] = Generate.read({"prompt": "and?", "context": context}).generates
    assert generate.messages == [*before, {"role": "user", "content": "and?"}]
    [generate] = Generate.read({"prompt": "and?", "context": context, "system": "new"}).generates
    assert generate.messages is not None
    assert [message["content"] for message in generate.messages] == ["new", "hello", "\U0001f600 hi", "and?"]


def packed(content: Any, text: bytes | None = None) -> list[int]:
    data = zlib.compress(orjson.dumps(content) if text is None else text)
    return [len(data), *(int.from_bytes((data + b"\0\0")[at : at + 3]) for at in range(0, len(data), 3))]


@pytest.mark.parametrize(
    "context",
    [[128000, 882, 271], [1], [3, 1], [-1], [True], [1 << 24], "x", packed({}), packed([[1, "a"]]), packed([["a"]]), packed(0, b"{")],
)
def test_numbers_of_others_are_no_context(context: Any) -> None:
    with pytest.raises(InvalidRequest, match="'context' is not the 'context' of an answer of this server"):
        unpack("context", context)


def test_a_context_does_not_unpack_to_more_than_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_bodies, "_MAX_CONTEXT_BYTES", 1000)
    assert pack([{"role": "user", "content": "a" * 2000}]) == []
    large = packed([["user", "a" * 2000]])
    assert len(large) < 100
    with pytest.raises(InvalidRequest):
        unpack("context", large)


@pytest.mark.parametrize("text", [b"[" + b",".join([b'["",""]'] * 70_000) + b"]", b"[" * 300 + b"]" * 300])
def test_a_context_has_no_more_values_than_a_body(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match="'context' is not the 'context' of an answer of this server"):
        unpack("context", packed(0, text))


@pytest.mark.parametrize(
    ("results", "names"),
    [
        ([{}, {}, {}, {}], ["add", "now", "add", None]),
        ([{"tool_name": "now"}, {}, {"tool_name": "now"}], ["now", "add", "now"]),
        ([{"tool_call_id": "c"}, {"tool_call_id": "c"}, {"tool_name": "add"}, {}], ["add", None, "add", "now"]),
        ([{"tool_call_id": 5}, {"tool_name": []}, {"tool_call_id": {}}], [None, "add", None]),
    ],
)
def test_which_call_a_result_answers(results: list[dict[str, Any]], names: list[str | None]) -> None:
    calls = [{"id": letter, "function": {"name": name}} for letter, name in (("a", "add"), ("b", "now"), ("c", "add"))]
    messages = [*HELLO, {"role": "assistant", "tool_calls": calls}, *({"role": "tool", "content": "x", **result} for result in results)]
    [generate] = Chat.read({"messages": messages}).generates
    assert generate.messages is not None
    assert [message.get("name") for message in generate.messages[2:]] == names


def test_what_only_loads() -> None:
    assert is_load({"model": "a"})
    assert is_load({"messages": []})
    assert is_load({"prompt": ""})
    assert not is_load({"prompt": "a"})
    assert not is_load({"prompt": "", "suffix": "a"})
    assert not is_load({"messages": HELLO})


@pytest.mark.parametrize(
    ("flavour", "fields", "message"),
    [
        (Chat, {"messages": "x"}, "field 'messages' must be a list"),
        (Chat, {"messages": [{"role": "user", "content": "a", "images": ["x"]}]}, "field 'messages[0].images[0]' must be base64"),
        (Chat, {"messages": [{"role": "user", "content": 1}]}, "field 'messages[0].content' must be a string"),
        (Chat, {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "field 'messages[0].tool_calls[0].function' must be an object"),
        (Chat, {"messages": HELLO, "options": []}, "field 'options' must be an object"),
        (Chat, {"messages": HELLO, "options": {"temperature": "hot"}}, "field 'options.temperature' must be a number"),
        (Chat, {"messages": HELLO, "options": {"num_predict": "x"}}, "field 'options.num_predict' must be a whole number"),
        (Chat, {"messages": HELLO, "options": {"stop": 1}}, "field 'options.stop' must be"),
        (Chat, {"messages": HELLO, "format": "xml"}, "field 'format' must be"),
        (Chat, {"messages": HELLO, "think": "much"}, "field 'think' must be"),
        (Chat, {"messages": HELLO, "keep_alive": "soon"}, "field 'keep_alive' must be"),
        (Chat, {"messages": HELLO, "tools": [{}]}, "field 'tools[0].function' must be an object"),
        (Generate, {"prompt": 1}, "field 'prompt' must be a string"),
        (Generate, {"prompt": "a", "images": ["x"]}, "field 'images[0]' must be base64"),
        (Generate, {"prompt": "a", "template": "{{ .Prompt }}"}, "field 'template' is not supported"),
        (Generate, {"prompt": "a", "raw": True, "context": [1]}, "field 'context' cannot be used together with"),
        (Generate, {"prompt": "a", "suffix": 5}, "field 'suffix' must be a string"),
    ],
)
def test_errors_name_the_field(flavour: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        flavour.read(fields)
    assert OLLAMA_ERRORS.body(caught.value)["error"].startswith(message)


def test_a_missing_model_is_a_404() -> None:
    assert OLLAMA_ERRORS.status(ModelNotFound("x")) == 404
    assert OLLAMA_ERRORS.status(InvalidRequest("x")) == 400


def test_when_a_model_leaves() -> None:
    assert _expiry(None) == _expiry(1e12) == _expiry(1e300) == NEVER
    assert _expiry(60.0) < _expiry(7200.0) < NEVER
