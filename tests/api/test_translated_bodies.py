"""Any JSON that a client sends to a translated API becomes a valid request or is refused as invalid."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrouter.api.flavours.anthropic import Messages
from fastrouter.api.flavours.ollama import Chat, Generate
from fastrouter.api.requests.fields import Ask
from fastrouter.errors import InvalidRequest

SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.sampled_from(("", "a", "5m", "json", "low"))
WORDS = st.sampled_from(
    (
        *("text", "image", "tool_use", "tool_result", "thinking", "document", "search_result", "tool_reference", "enabled", "adaptive"),
        *(
            "disabled",
            "auto",
            "any",
            "tool",
            "none",
            "json_schema",
            "user",
            "assistant",
            "system",
            "content",
            "custom",
            "function",
            "object",
        ),
    )
)
NAMES = st.sampled_from(
    (
        *("type", "text", "role", "content", "messages", "system", "tools", "name", "id", "input", "tool_use_id", "is_error", "source"),
        *("data", "title", "thinking", "budget_tokens", "tool_choice", "disable_parallel_tool_use", "input_schema", "description"),
        *("output_config", "output_format", "format", "effort", "schema", "stop_sequences", "properties", "function", "arguments"),
        *("tool_calls", "tool_name", "images", "options", "temperature", "num_predict", "stop", "think", "keep_alive", "prompt"),
        *("suffix", "raw", "context", "template", "logprobs", "top_logprobs", "parameters", "chat_template_kwargs", "stream", "max_tokens"),
    )
)
VALUES = st.recursive(SCALARS | WORDS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=25)
BLOCKS = st.recursive(
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=4)})
    | st.fixed_dictionaries({"type": st.just("tool_use"), "id": st.just("t"), "name": st.just("add")}, optional={"input": VALUES}),
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(("tool_result", "search_result"))},
        optional={"tool_use_id": st.just("t"), "content": st.lists(inner, max_size=3) | VALUES, "is_error": VALUES, "title": VALUES},
    ),
    max_leaves=6,
)
ROLES = st.sampled_from(("user", "assistant", "system"))
CONTENTS = st.text(max_size=4) | st.lists(BLOCKS, max_size=4)
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": CONTENTS}, optional={"tool_calls": VALUES}), min_size=1, max_size=4)
BODIES = st.tuples(st.dictionaries(NAMES, VALUES, max_size=2), MESSAGES | VALUES).map(lambda pair: {**pair[0], "messages": pair[1]})


@pytest.mark.parametrize("read", [Messages.read, Chat.read, Generate.read], ids=["anthropic", "ollama chat", "ollama generate"])
@given(body=BODIES)
def test_any_body(read: Callable[[dict[str, Any]], Ask], body: dict[str, Any]) -> None:
    try:
        ask = read(body)
    except InvalidRequest:
        return
    for generate in ask.generates:
        for message in generate.messages or []:
            assert isinstance(message["role"], str)
            assert isinstance(message["content"], str)
        assert isinstance(generate.prompt, str | list) or generate.prompt is None
