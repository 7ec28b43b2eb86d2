"""A body becomes a Generate or a 400 that names the field."""

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampling_examples import VALUES

from fastrouter._core import SAMPLERS
from fastrouter.api.requests import constraints
from fastrouter.api.requests.fields import FIELDS, MAX_PASSED_DEPTH, read_chat, read_completion
from fastrouter.errors import InvalidRequest

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


def chat(**fields: Any) -> Any:
    return read_chat({**HELLO, **fields})


def refused(**fields: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    return caught.value.message


def test_defaults() -> None:
    ask = chat()
    (generate,) = ask.generates
    assert generate.messages == HELLO["messages"]
    assert (generate.max_tokens, generate.n, generate.stop, generate.sampling, generate.tools) == (-1, 1, [], {}, None)
    assert not ask.is_stream
    assert not generate.verbose


def test_every_field_lands() -> None:
    ask = chat(
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=7.0,
        stop="x",
        n=2,
        cache_prompt=False,
        id_slot=3,
        return_tokens=True,
        timings_per_token=True,
        response_fields=["content"],
        user="somebody",
        **VALUES,
    )
    generate = ask.generates[0]
    assert (ask.is_stream, ask.has_usage, ask.response_fields) == (True, True, ["content"])
    assert (generate.max_tokens, generate.stop, generate.n, generate.id_slot) == (7, ["x"], 2, 3)
    assert (generate.cache_prompt, generate.tokens_per_event, generate.timings_per_token) == (False, True, True)
    assert generate.sampling == VALUES


def test_a_number_of_a_chain_is_a_float() -> None:
    sampling = chat(temperature=0, presence_penalty=1, top_p=5, logit_bias={"5": -100, "hi": False}).generates[0].sampling
    assert sampling == {"temperature": 0.0, "presence_penalty": 1.0, "top_p": 1.0, "logit_bias": [[5, -100.0], ["hi", None]]}
    assert [type(value) for value in sampling.values()] == [float, float, float, list]


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_null_is_absent(name: str) -> None:
    assert chat(**{name: None}).generates == chat().generates


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 1, "n_predict": 2, "max_completion_tokens": 3}, 2),
        ({"max_tokens": 1, "max_completion_tokens": 3}, 3),
        ({"max_completion_tokens": 3, "max_tokens": 1}, 3),
        ({"max_tokens": 1, "n_predict": None}, 1),
    ],
)
def test_names_for_one_thing_have_an_order(fields: dict[str, Any], expected: int) -> None:
    assert chat(**fields).generates[0].max_tokens == expected


@pytest.mark.parametrize(("given_value", "kept"), [(-1, 0), (5, 5), (1 << 40, (1 << 31) - 1)])
def test_top_k_is_clamped(given_value: int, kept: int) -> None:
    assert chat(top_k=given_value).generates[0].sampling["top_k"] == kept


@pytest.mark.parametrize(("given_value", "kept"), [(7, 7), (-1, -1), (1 << 32, 0), (-2, 0xFFFFFFFE)])
def test_seed_wraps(given_value: int, kept: int) -> None:
    assert chat(seed=given_value).generates[0].sampling["seed"] == kept


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -2),
        ("max_tokens", 1 << 31),
        ("max_tokens", "7"),
        ("max_tokens", True),
        ("max_tokens", 1.5),
        ("max_tokens", 1e300),
        ("n", 0),
        ("n", 1000),
        ("temperature", "hot"),
        ("temperature", False),
        ("repeat_penalty", 0),
        ("repeat_penalty", -1e308),
        ("presence_penalty", 1e39),
        ("repeat_last_n", -2),
        ("min_keep", -1),
        ("id_slot", -2),
        ("seed", 1e30),
        ("seed", "x"),
        ("stream", 1),
        ("stream", "true"),
        ("ignore_eos", 1),
        ("stop", 5),
        ("stop", ["a", 5]),
        ("stop", ["a"] * 257),
        ("logit_bias", "x"),
        ("logit_bias", [[1]]),
        ("logit_bias", [[-1, 1.0]]),
        ("logit_bias", [[1.5, 1.0]]),
        ("logit_bias", [[1, True]]),
        ("logit_bias", [[1, 1e300]]),
        ("logit_bias", {"1": "a"}),
        ("logit_bias", {"9" * 5000: 1}),
        ("logit_bias", {"é" * 20_000: 1}),
        ("logit_bias", [["ab" * 100, 1]] * 100),
        ("logit_bias", {"99999999999": 1}),
        ("logit_bias", {"2147483648": 1}),
        ("response_fields", ["a/" * 1000]),
        ("response_fields", ["a"] * 257),
        ("samplers", "e" * 65),
        ("samplers", ["top_k"] * 65),
        ("samplers", ["x" * 2000]),
        ("dry_sequence_breakers", ["x" * 2000]),
        ("dry_sequence_breakers", []),
        ("speculative.type", "," * 300),
        ("keep_alive", "1h" * 100_000 + "x"),
        ("ttl", "1" * 100_000),
        ("stream_options", []),
        ("stream_options", {"include_usage": 1}),
        ("response_fields", "content"),
        ("messages", "hello"),
        ("messages", []),
        ("messages", [5]),
        ("messages", [{}]),
        ("messages", [{"role": 5, "content": "x"}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": 5}]),
        ("messages", [{"role": "user", "content": [{"type": "text"}]}]),
        ("messages", [{"role": "user", "content": [{"type": ["text"]}]}]),
        ("messages", [{"role": "user", "content": ["x"]}]),
        ("messages", [{"role": "assistant", "tool_calls": "x"}]),
        ("tools", {}),
        ("tools", [{"type": "function"}]),
        ("tools", [{"type": "retrieval"}]),
        ("tool_choice", "always"),
        ("tool_choice", 5),
        ("chat_template_kwargs", []),
        ("chat_template_kwargs", {"enable_thinking": "yes"}),
        ("add_generation_prompt", "x"),
        ("reasoning_effort", 3),
        ("reasoning_format", "deepthink"),
        ("reasoning_budget_tokens", -2),
        ("thinking_budget_tokens", "many"),
        ("reasoning_budget_message", "x" * 2001),
        ("reasoning_control", 1),
        ("parallel_tool_calls", "no"),
    ],
)
def test_a_bad_value_names_its_field(field: str, value: Any) -> None:
    assert field in refused(**{field: value})


@pytest.mark.parametrize(
    ("field", "off", "on"),
    [
        ("echo", False, True),
    ],
)
def test_what_is_not_there_yet_is_refused_unless_off(field: str, off: Any, on: Any) -> None:
    chat(**{field: off})
    assert field in refused(**{field: on})
    assert "not supported yet" in refused(**{field: on})


def test_probabilities() -> None:
    def asked(**fields: Any) -> tuple[bool, Any]:
        [generate] = chat(**fields).generates
        return generate.logprobs, generate.sampling.get("n_probs")

    assert asked() == asked(logprobs=None) == asked(logprobs=False) == asked(top_logprobs=0) == (False, None)
    assert asked(logprobs=True) == (True, 20)
    assert asked(logprobs=True, top_logprobs=0) == (True, 0)
    assert asked(logprobs=True, top_logprobs=3) == (True, 3)
    assert asked(n_probs=4) == (True, 4)
    assert "requires logprobs" in refused(top_logprobs=3)
    for bad in (5, "yes", []):
        assert "logprobs" in refused(logprobs=bad)
    for bad in (-1, 501, True, "x"):
        assert "top_logprobs" in refused(logprobs=True, top_logprobs=bad)
    [generate] = read_completion({"prompt": "x", "logprobs": 2}).generates
    assert (generate.logprobs, generate.sampling) == (True, {"n_probs": 2})
    [generate] = read_completion({"prompt": "x", "logprobs": 2, "n_probs": 3, "post_sampling_probs": True}).generates
    assert generate.sampling == {"n_probs": 3, "post_sampling_probs": True}
    [generate] = read_completion({"prompt": "x", "logprobs": False}).generates
    assert not generate.logprobs
    with pytest.raises(InvalidRequest, match="logprobs"):
        read_completion({"prompt": "x", "logprobs": True})


def test_samplers_by_name_or_letter() -> None:
    def order(value: Any) -> Any:
        return chat(samplers=value).generates[0].sampling["samplers"]

    assert order(["top_k", "TOP-P", "minp", "temp", "typ"]) == ["top_k", "top_p", "min_p", "temperature", "typ_p"]
    assert order("edskypmxta")[:9] == list(SAMPLERS)
    assert order("a") == order(["adaptive-p"]) == ["adaptive_p"]
    assert order([]) == order("") == []
    for bad in (["top_q"], "kz", ["infill"], "i", 5, [5], {}):
        assert "samplers" in refused(samplers=bad)


def test_adapters_of_a_request() -> None:
    assert chat(lora=[{"id": 1, "scale": 2}, {"id": 0}]).generates[0].lora == [[1, 2.0], [0, 0.0]]
    assert chat().generates[0].lora is chat(lora=[]).generates[0].lora is None
    for bad in ({}, "x", [0], [{"id": True}], [{"id": 0, "scale": None}, {"scale": 1}], [{"id": 0, "scale": True}], [{"id": 1 << 40}]):
        assert "lora" in refused(lora=bad)


def test_templates_and_system_messages_are_no_fields_of_a_request() -> None:
    generate = chat(chat_template="{{ x }}", system="be brief").generates[0]
    assert (generate.chat_template, generate.system) == (None, None)


def test_an_unknown_part_is_refused_by_name() -> None:
    part = {"type": "input_smell", "input_smell": {"data": "AAAA"}}
    message = refused(messages=[{"role": "user", "content": [{"type": "text", "text": "what is this"}, part]}])
    assert message.startswith("field 'messages[0].content[1].type' must be \"text\"")


def test_a_trailing_assistant_message_is_a_prefill() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (generate,) = chat(messages=messages).generates
    assert (generate.add_generation_prompt, generate.continue_final_message) == (False, True)
    assert "2 or more assistant messages" in refused(messages=[*messages, messages[-1]])
    assert "both add_generation_prompt" in refused(messages=messages, continue_final_message=True, add_generation_prompt=True)


def test_reasoning_effort_reaches_the_template() -> None:
    assert chat(reasoning_effort="high").generates[0].chat_template_kwargs == {"reasoning_effort": "high"}
    assert chat(reasoning_effort="none").generates[0].chat_template_kwargs == {"enable_thinking": False}


def test_depth_of_what_travels_is_capped() -> None:
    nested: Any = "x"
    for _ in range(MAX_PASSED_DEPTH + 1):
        nested = [nested]
    assert "chat_template_kwargs" in refused(chat_template_kwargs={"a": nested})
    chat(chat_template_kwargs={"a": nested[0][0][0]})


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        ("", [""]),
        ([1, 2], [[1, 2]]),
        ([1, "a"], [[1, "a"]]),
        (["a", "b"], ["a", "b"]),
        ([[1, 2], "b", [3, "c"]], [[1, 2], "b", [3, "c"]]),
        ({"prompt_string": "a"}, ["a"]),
    ],
)
def test_prompts(prompt: Any, prompts: list[Any]) -> None:
    assert [generate.prompt for generate in read_completion({"prompt": prompt}).generates] == prompts


@pytest.mark.parametrize(
    "prompt", [None, [], [[]], 5, [None], [1.5], [-1], [True], {"prompt_string": "a", "multimodal_data": ["x"]}, ["a"] * 129]
)
def test_bad_prompts(prompt: Any) -> None:
    with pytest.raises(InvalidRequest, match="prompt"):
        read_completion({"prompt": prompt})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


names = st.sampled_from([*FIELDS, "messages", "prompt", "tools", "tool_choice", "chat_template_kwargs"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names, json_values, max_size=6))
def test_any_body_is_valid_or_a_400(fields: dict[str, Any]) -> None:
    for read, body in ((read_chat, {**HELLO, **fields}), (read_completion, {"prompt": "x", **fields})):
        with contextlib.suppress(InvalidRequest):
            for generate in read(body).generates:
                orjson.dumps([generate.sampling, generate.prompt, generate.messages, generate.stop])


# ---------------------------------------------------------------- closed schemas

ONE: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
SHUT: dict[str, Any] = {**ONE, "additionalProperties": False}


@pytest.mark.parametrize(
    ("asked", "followed"),
    [
        (ONE, SHUT),
        ({"type": "array", "items": ONE}, {"type": "array", "items": SHUT}),
        ({"type": "object", "properties": {"b": ONE}}, {"type": "object", "properties": {"b": SHUT}, "additionalProperties": False}),
        ({"anyOf": [ONE, {"type": "null"}]}, {"anyOf": [SHUT, {"type": "null"}]}),
        ({"$defs": {"x": ONE}, "$ref": "#/$defs/x"}, {"$defs": {"x": SHUT}, "$ref": "#/$defs/x"}),
        ({"enum": [ONE]}, {"enum": [ONE]}),
    ],
)
def test_objects_hold_what_is_listed(asked: dict[str, Any], followed: dict[str, Any]) -> None:
    """llama-server's rule; a schema that says which other properties are allowed is kept."""
    assert orjson.loads(constraints.json_schema("json_schema", asked)["text"]) == followed


@pytest.mark.parametrize(
    "schema",
    [
        {**ONE, "additionalProperties": True},
        {**ONE, "patternProperties": {"^b": {"type": "integer"}}},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"$defs": {"x": ONE}, "allOf": [{"$ref": "#/$defs/x"}, {"type": "object", "properties": {"b": {"type": "integer"}}}]},
        {"$defs": {"x": ONE}, "$ref": "#/$defs/x", "type": "object", "properties": {"b": {"type": "integer"}}},
    ],
)
def test_open_schemas_stay_open(schema: dict[str, Any]) -> None:
    assert orjson.loads(constraints.json_schema("json_schema", schema)["text"]) == schema
