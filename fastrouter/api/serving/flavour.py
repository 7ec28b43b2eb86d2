"""What an API flavour has to bring, and what it gets: choices, usage, records. Leases and connections are not known here."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import orjson

from fastrouter._core import EventLog
from fastrouter.api.requests.bodies import MAX_DEPTH
from fastrouter.api.requests.fields import Ask
from fastrouter.errors import FastrouterError
from fastrouter.http.response import ErrorShape
from fastrouter.ipc.records import Delta, Entry, Finish, PromptProgress, Timings


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One finished call of a tool, as the model wrote it."""

    id: str
    name: str
    arguments: str  # JSON

    def arguments_object(self) -> dict[str, Any]:
        """Empty where an answer was cut inside its arguments, or where they are too deep to be written again."""
        try:
            arguments = orjson.loads(self.arguments or "{}")
            if self.arguments.count("[") + self.arguments.count("{") > MAX_DEPTH:
                orjson.dumps([[[[[[[[arguments]]]]]]]])
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):
            return {}
        return arguments if isinstance(arguments, dict) else {}


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished choice: what the worker says of it and, of a whole answer, its text."""

    index: int
    finish: Finish
    timings: Timings  # the worker's, with the router's `queue_ms` and `load_ms`
    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    probabilities: list[Entry] = field(default_factory=list)  # of its tokens, where they were asked for


@dataclass(slots=True)
class Usage:
    """Prompts count once, however many choices they had."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0  # of these

    def add(self, finish: Finish, *, is_new_prompt: bool) -> None:
        self.completion_tokens += finish.completion_tokens
        self.reasoning_tokens += finish.reasoning_tokens
        if is_new_prompt:
            self.prompt_tokens += finish.prompt_tokens
            self.cached_tokens += finish.cached_tokens

    def to_json(self) -> dict[str, Any]:
        """OpenAI's. The details of the completion are there where there was a thought."""
        thought = {"completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens}} if self.reasoning_tokens else {}
        return {
            "completion_tokens": self.completion_tokens,
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.completion_tokens + self.prompt_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            **thought,
        }


class Template(NamedTuple):
    """The bytes around the escaped text in an event. With a log, the event's number comes between `after` and `end`."""

    before: bytes
    after: bytes
    end: bytes = b""
    log: EventLog | None = None  # of a flavour that numbers its events; it keeps the text, too


class Flavour(Protocol):
    """One API: how its requests are read, and the JSON of its answers and errors. One object serves one request.

    Events are whole events of its stream: server-sent ones, made by `http/sse.py`, or lines. They may be empty where the API has no event.
    """

    name: str  # in the metrics: one of a fixed few
    stream_head: bytes  # SSE_HEADERS or NDJSON_HEADERS
    errors: ErrorShape  # of its responses; also used before there is an object
    has_blocks: bool  # its templates change with its events, because text is in blocks that begin and end

    def __init__(self, model_id: str, ask: Ask) -> None: ...

    @staticmethod
    def read(body: dict[str, Any]) -> Ask:
        """Raises InvalidRequest."""

    def template(self, kind: int, choice: int) -> tuple[bytes, bytes] | Template | None:
        """What is around the escaped text in an event. None: such text goes through `event`, each piece as a Delta.

        Asked at the start and, of a flavour with blocks, after each `event`. So a block begins with an `event`, in which the last one
        ends; then it has a template, and the rest of its text costs no Python.
        """

    def first(self, choice: int) -> bytes:
        """The event before a choice's first text."""

    def event(self, choice: int, event: Delta) -> bytes:
        """What is more than text, and text without a template."""

    def ping(self, text: bytes) -> bytes:
        """What keeps a silent stream alive, also before its first event; `text` is for people. Empty: nothing does."""

    def progress(self, choice: int, progress: PromptProgress) -> bytes:
        """How much of the prompt is computed; it comes before the first event."""

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes: ...
    def done(self) -> bytes:
        """The event after the last finish."""

    def error_event(self, error: FastrouterError) -> bytes:
        """The last event of a stream that fails after it has begun."""

    def whole(self, choices: list[Choice], usage: Usage) -> Any:
        """An answer that is not streamed."""
