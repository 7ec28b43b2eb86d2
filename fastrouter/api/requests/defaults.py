"""The values that a model's preset adds to each request. Not in the catalog, which is read at the start and must not import messages."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastrouter.catalog.variants import RequestDefaults
from fastrouter.ipc.messages import Generate


def with_defaults(generate: Generate, defaults: RequestDefaults) -> Generate:
    """The request's own fields have priority."""
    changes: dict[str, Any] = {}
    if defaults.sampling:
        changes["sampling"] = {**defaults.sampling, **generate.sampling}
    if defaults.max_tokens >= 0 and generate.max_tokens < 0:
        changes["max_tokens"] = defaults.max_tokens
    if defaults.chat_template_kwargs:
        changes["chat_template_kwargs"] = {**defaults.chat_template_kwargs, **generate.chat_template_kwargs}
    if defaults.constraint is not None and generate.constraint is None and not generate.tools:
        changes["constraint"] = defaults.constraint
    if defaults.lora is not None and generate.lora is None:
        changes["lora"] = [list(pair) for pair in defaults.lora]
    if defaults.stop and not generate.stop:
        changes["stop"] = list(defaults.stop)
    if generate.messages is not None:
        if defaults.messages:
            changes["messages"] = _with_first(generate.messages, defaults.messages)
        if defaults.chat_template is not None:
            changes["chat_template"] = defaults.chat_template
        if defaults.system is not None:
            changes["system"] = defaults.system
    return replace(generate, **changes) if changes else generate


def _with_first(messages: list[dict[str, Any]], first: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """After the chat's own system message."""
    start = next((index for index, message in enumerate(messages) if message["role"] not in ("system", "developer")), len(messages))
    return [*messages[:start], *first, *messages[start:]]
