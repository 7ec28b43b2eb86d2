"""What an API flavour must implement, and what it receives: choices, usage, records. Never imports: supervisor, http.connection."""

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
    """One finished choice: the worker's data about it and, in a whole answer, its text."""

    index: int
    finish: Finish
    timings: Timings  # the worker's, with the router's `queue_ms` and `load_ms`
    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    probabilities: list[Entry] = field(default_factory=list)  # of its tokens, if the request asked for them


class PlainText(str):
    """A whole answer that is not JSON."""


@dataclass(slots=True)
class Usage:
    """A prompt counts once, for any number of choices."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0  # of these
    media_tokens: list[int] = field(default_factory=list)  # of each picture in the prompt

    def add(self, finish: Finish, *, is_new_prompt: bool) -> None:
        self.completion_tokens += finish.completion_tokens
        self.reasoning_tokens += finish.reasoning_tokens
        if is_new_prompt:
            self.prompt_tokens += finish.prompt_tokens
            self.cached_tokens += finish.cached_tokens
            self.media_tokens += finish.media_tokens

    def to_json(self) -> dict[str, Any]:
        """OpenAI's shape. The details of the completion are included if there was a thought, `media_tokens` if there was a picture."""
        thought = {"completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens}} if self.reasoning_tokens else {}
        media = {"media_tokens": self.media_tokens} if self.media_tokens else {}
        return {
            "completion_tokens": self.completion_tokens,
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.completion_tokens + self.prompt_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens, **media},
            **thought,
        }


class Template(NamedTuple):
    """The bytes around the escaped text in an event. With a log, the event's number comes between `after` and `end`."""

    before: bytes
    after: bytes
    end: bytes = b""
    log: EventLog | None = None  # for a flavour that numbers its events; the log also keeps the text


class Flavour(Protocol):
    """One API: how its requests are read, and the JSON of its answers and errors. Each request has its own object.

    Events are whole events of its stream: server-sent events, made by `http/sse.py`, or lines. They are empty where the API has no event.
    """

    name: str  # in the metrics: there is a small fixed set of names
    stream_head: bytes  # SSE_HEADERS or NDJSON_HEADERS
    errors: ErrorShape  # of its responses; also used before the object exists
    has_blocks: bool  # its templates change with its events, because text is in blocks that begin and end

    def __init__(self, model_id: str, ask: Ask) -> None: ...

    @staticmethod
    def read(body: dict[str, Any]) -> Ask:
        """Raises InvalidRequest."""

    def template(self, kind: int, choice: int) -> tuple[bytes, bytes] | Template | None:
        """The bytes around the escaped text in an event. None: such text goes through `event`, each piece as a Delta.

        Called at the start. For a flavour with blocks it is also called after each `event`. So a block begins with an `event`, in which
        the block before it ends. Then the block has a template, and the rest of its text needs no Python code.
        """

    def first(self, choice: int) -> bytes:
        """The event before the first text of a choice."""

    def event(self, choice: int, event: Delta) -> bytes:
        """A record that has more than text, or text without a template."""

    def ping(self, text: bytes) -> bytes:
        """The bytes that keep a silent stream alive, also before its first event. `text` is for people. Empty: the API has none."""

    def progress(self, choice: int, progress: PromptProgress) -> bytes:
        """The event that tells how much of the prompt is computed. It comes before the first event."""

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes: ...
    def done(self) -> bytes:
        """The event after the last finish."""

    def error_event(self, error: FastrouterError) -> bytes:
        """The last event of a stream that fails after it has begun."""

    def whole(self, choices: list[Choice], usage: Usage) -> Any:
        """An answer that is not streamed."""
