"""What an answer is before it is JSON: choices, usage, and the protocol of an API flavour. Knows no lease, no connection.

Invariant: what a worker says is checked here before a flavour sees it.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from fastrouter.errors import FastrouterError, ProtocolError


@dataclass(slots=True)
class Choice:
    """One finished choice: its text and what the worker said of it."""

    index: int
    text: str
    reasoning: str
    finish: dict[str, Any]
    probabilities: list[dict[str, Any]] = field(default_factory=list)  # of a whole answer's tokens, where they were asked for


@dataclass(slots=True)
class Usage:
    """Prompts count once, however many choices they had."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def add(self, finish: dict[str, Any], *, is_new_prompt: bool) -> None:
        self.completion_tokens += count_of(finish, "completion_tokens")
        if is_new_prompt:
            self.prompt_tokens += count_of(finish, "prompt_tokens")
            self.cached_tokens += count_of(finish, "cached_tokens")

    def to_json(self) -> dict[str, Any]:
        return {
            "completion_tokens": self.completion_tokens,
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.completion_tokens + self.prompt_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


class Flavour(Protocol):
    """The JSON of one API, for one request of it. Events are whole SSE messages, ended by a blank line."""

    name: str  # in the metrics: one of a fixed few

    def template(self, kind: int, choice: int) -> tuple[bytes, bytes] | None:
        """What stands before and after the escaped text in an event."""

    def first(self, choice: int) -> bytes:
        """The event before a choice's first text; may be empty."""

    def event(self, choice: int, event: dict[str, Any]) -> bytes:
        """A text event that carries more than text: "text", "timings", "probabilities", "tokens"; or how far the prompt is:
        "prompt_progress" without text, before the first event."""

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes: ...
    def done(self) -> bytes: ...
    def error(self, error: FastrouterError) -> bytes: ...
    def whole(self, choices: list[Choice], usage: Usage) -> Any: ...


def count_of(finish: dict[str, Any], name: str) -> int:
    value = finish.get(name)
    return value if type(value) is int else 0


def read_record(payload: bytes) -> dict[str, Any]:
    """A JSON record from a worker, which may lie."""
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"a worker sent a broken record: {error}") from None
    if not isinstance(value, dict):
        raise ProtocolError("a worker sent a record that is no object")
    return value


def public_error(error: BaseException) -> FastrouterError:
    return error if isinstance(error, FastrouterError) else FastrouterError(f"{type(error).__name__}: {error}")
