"""The content of the JSON records in the ring, for both ends: the worker writes them, the router reads and checks them.

Text records are not JSON and are not handled here. The kinds of records are in `_core`. Invariant: each value that is read has the type
of its field, and counts are neither negative nor huge. A missing or wrong value becomes the field's default.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from fastrouter.errors import FastrouterError, ProtocolError, from_wire

MAX_COUNT = 1 << 40
MAX_CALLS = 4096  # tool calls of one choice
MAX_MESSAGE = 4096  # characters of an error; a template may put a whole conversation into it
# `timings` of llama-server.
TIMINGS = (
    *("cache_n", "prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second"),
    *("predicted_n", "predicted_ms", "predicted_per_token_ms", "predicted_per_second"),
    *("draft_n", "draft_n_accepted"),
)

_TIMINGS = frozenset(TIMINGS)
_NUMBERS = (float, int)
# Optional fields of a finish, in the order in which they are dropped, with their empty values.
_DROPPABLE: tuple[tuple[str, Any], ...] = (("prompt", ""), ("generation_settings", {}), ("tokens", []), ("stopping_word", ""))

Timings = dict[str, float]  # by the names of TIMINGS, as far as they are known
Entry = dict[str, Any]  # a token with its probability and the most likely tokens at its place, as llama-server shows them


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of a tool call. The first piece of a call has its id and its name."""

    index: int  # of the call, among those of its choice
    arguments: str = ""  # the pieces of a call together are a JSON text
    id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """EVENT: a part of an answer that is more than plain text. Its reasoning comes before its text, and its text before its calls."""

    text: str = ""
    reasoning: str = ""
    calls: list[CallDelta] = field(default_factory=list)
    probabilities: list[Entry] = field(default_factory=list)
    timings: Timings = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)  # tokens of the text
    prompt_tokens: int = 0
    completion_tokens: int = 0  # up to here

    def to_payload(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_payload(cls, payload: bytes) -> "Delta":
        values = _object(payload)
        return cls(
            _text(values, "text"),
            _text(values, "reasoning"),
            _calls(values),
            _entries(values),
            _timings(values),
            _list(values, "tokens"),
            count_of(values, "prompt_tokens"),
            count_of(values, "completion_tokens"),
        )


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """PROGRESS: how much of a prompt has been computed."""

    total: int = 0  # tokens, like the next two
    cache: int = 0
    processed: int = 0
    time_ms: int = 0
    timings: Timings = field(default_factory=dict)  # when each token has them

    def to_payload(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_payload(cls, payload: bytes) -> "PromptProgress":
        values = _object(payload)
        total, cache, processed, time_ms = (count_of(values, name) for name in ("total", "cache", "processed", "time_ms"))
        return cls(total, cache, processed, time_ms, _timings(values))


@dataclass(frozen=True, slots=True)
class Finish:
    """FINISH: the end of one choice."""

    stop_type: str = "none"  # eos | limit | word
    stopping_word: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt's tokens
    completion_tokens: int = 0
    reasoning_tokens: int = 0  # of the completion's tokens
    num_calls: int = 0  # tool calls in the answer
    held_tokens: int = 0  # in its slot at the end
    truncated: bool = False
    id_slot: int = -1
    num_decodes: int = 0  # of the engine, since the last finish of any request
    num_busy_decodes: int = 0  # those while this request had a slot
    num_guesses: int = 0  # of speculative decoding; each was tried in one decode
    sound_ms: int = 0  # how long the audio files in its prompt are
    timings: Timings = field(default_factory=dict)
    media_tokens: list[int] = field(default_factory=list)  # of each picture in the prompt
    tokens: list[int] = field(default_factory=list)  # when they were asked for
    prompt: str = ""  # when the request is verbose
    generation_settings: dict[str, Any] = field(default_factory=dict)  # when the request is verbose

    def to_payload(self, max_bytes: int) -> bytes:
        """While the record is larger than `max_bytes`, optional fields are dropped, one after the other."""
        finish, payload = self, orjson.dumps(self)
        for name, empty in _DROPPABLE:
            if len(payload) <= max_bytes:
                break
            finish = replace(finish, **{name: empty})
            payload = orjson.dumps(finish)
        return payload

    @classmethod
    def from_payload(cls, payload: bytes) -> "Finish":
        values = _object(payload)
        id_slot = values.get("id_slot")
        settings = values.get("generation_settings")
        return cls(
            stop_type=_text(values, "stop_type") or "none",
            stopping_word=_text(values, "stopping_word"),
            prompt_tokens=count_of(values, "prompt_tokens"),
            cached_tokens=count_of(values, "cached_tokens"),
            completion_tokens=count_of(values, "completion_tokens"),
            reasoning_tokens=count_of(values, "reasoning_tokens"),
            num_calls=count_of(values, "num_calls"),
            held_tokens=count_of(values, "held_tokens"),
            truncated=values.get("truncated") is True,
            id_slot=id_slot if type(id_slot) is int else -1,
            num_decodes=count_of(values, "num_decodes"),
            num_busy_decodes=count_of(values, "num_busy_decodes"),
            num_guesses=count_of(values, "num_guesses"),
            sound_ms=count_of(values, "sound_ms"),
            timings=_timings(values),
            media_tokens=_counts(values, "media_tokens"),
            tokens=_list(values, "tokens"),
            prompt=_text(values, "prompt"),
            generation_settings=settings if type(settings) is dict else {},
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """ERROR: the request has failed. This is the last record of its request."""

    error: FastrouterError

    def to_payload(self, max_characters: int = MAX_MESSAGE) -> bytes:
        wire = self.error.to_wire()
        wire["message"] = wire["message"][:max_characters].encode("utf-8", "replace").decode()
        return orjson.dumps(wire)

    @classmethod
    def from_payload(cls, payload: bytes) -> "Failure":
        return cls(from_wire(_object(payload)))


# ---------------------------------------------------------------- values from a worker


def count_of(values: dict[str, Any], name: str) -> int:
    """A count in a record, or in the reply to a call; 0 when it is wrong."""
    value = values.get(name)
    return value if type(value) is int and 0 <= value <= MAX_COUNT else 0


def _object(payload: bytes) -> dict[str, Any]:
    try:
        values = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"a worker sent a broken record: {error}") from None
    if type(values) is not dict:
        raise ProtocolError("a worker sent a record that is not an object")
    return values


def _text(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    return value if type(value) is str else ""


def _list(values: dict[str, Any], name: str) -> list[Any]:
    value = values.get(name)
    return value if type(value) is list else []


def _counts(values: dict[str, Any], name: str) -> list[int]:
    return [value for value in _list(values, name) if type(value) is int and 0 <= value <= MAX_COUNT]


def _timings(values: dict[str, Any]) -> Timings:
    given = values.get("timings")
    if type(given) is not dict:
        return {}
    return {name: value for name, value in given.items() if name in _TIMINGS and type(value) in _NUMBERS and 0 <= value <= MAX_COUNT}


def _calls(values: dict[str, Any]) -> list[CallDelta]:
    found = [value for value in _list(values, "calls") if type(value) is dict]
    found = [value for value in found if type(value.get("index")) is int and 0 <= value["index"] < MAX_CALLS]
    return [CallDelta(value["index"], *(_text(value, name) for name in ("arguments", "id", "name"))) for value in found]


def _entries(values: dict[str, Any]) -> list[Entry]:
    """Entries that name their token and the other likely tokens."""
    entries = values.get("probabilities")
    if type(entries) is not list:
        return []
    return [entry for entry in entries if _has_token(entry) and all(map(_has_token, _list(entry, "top_logprobs")))]


def _has_token(entry: Any) -> bool:
    return type(entry) is dict and type(entry.get("token")) is str
