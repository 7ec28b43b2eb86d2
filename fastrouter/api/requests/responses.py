"""The body of a POST /v1/responses -> Ask. Fields that a chat also has are read as a chat. Never imports: api.response_store, http.routes.

Invariant: an error names a field of this API, also when the reader of chats has found the error.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import orjson

from fastrouter.api.requests.checks import boolean, integer, invalid, json_object, string, string_list
from fastrouter.api.requests.fields import Ask, chat_input, read_chat
from fastrouter.api.requests.pictures import Pictures
from fastrouter.api.requests.response_items import Placed, each_item, read_input
from fastrouter.api.requests.response_tools import Toolbox, read_tool_choice, read_tools
from fastrouter.errors import ContextExceeded, FastrouterError, InvalidRequest
from fastrouter.options.sampling import MAX_PROBS

# Fields of this API that have another meaning in a chat, or none. All other fields are read as in a chat.
_OWN = frozenset(
    (
        *("input", "instructions", "tools", "tool_choice", "text", "reasoning", "include", "max_output_tokens"),
        *("top_logprobs", "truncation", "messages", "response_format", "reasoning_effort", "logprobs", "n", "n_cmpl"),
        *("stream_options", "add_generation_prompt", "continue_final_message", "prompt", "functions", "function_call"),
    )
)
MAX_TRIES = 8  # to shorten a conversation
_FILLED = 0.85  # of the context that a shortened prompt may use
_MAX_OUTPUT = integer(-1)
_TOP_LOGPROBS = integer(0, MAX_PROBS)
# The name of a field in the reader of chats -> its name here.
_WORDS = (
    (re.compile(r"\bresponse_format(\.json_schema)?\b"), "text.format"),
    (re.compile(r"\breasoning_effort\b"), "reasoning.effort"),
    (re.compile(r"\bmax_completion_tokens\b"), "max_output_tokens"),
    (re.compile(r"\btype=image_url\b"), "type=input_image"),
    (re.compile(r"\btype=file\b"), "type=input_file"),
)
_MESSAGE = re.compile(r"\bmessages\[(\d+)\]")


@dataclass(slots=True)
class ResponseAsk(Ask):
    """One request for a response."""

    echo: dict[str, Any] = field(default_factory=dict)  # fields of the response that repeat the request
    items: list[dict[str, Any]] = field(default_factory=list)  # its own input
    toolbox: Toolbox = field(default_factory=Toolbox)
    has_summary: bool = False  # thoughts are shown as summaries
    has_sealed: bool = False  # and are also put into `encrypted_content`
    is_stored: bool = True
    is_truncated: bool = False  # the beginning of a conversation that is too long is removed
    num_tries: int = 0  # to make it short enough

    def shorten(self, error: FastrouterError) -> bool:
        if not (self.is_truncated and isinstance(error, ContextExceeded) and self.num_tries < MAX_TRIES):
            return False
        [generate] = self.generates
        messages = without_beginning(generate.messages or [], _excess(error))
        if messages is None:
            return False
        self.num_tries += 1
        self.generates = [replace(generate, messages=messages)]
        return True


def _excess(error: FastrouterError) -> float:
    """The share of the prompt that must be removed, with room for an answer."""
    num_tokens, n_ctx = error.extra.get("n_prompt_tokens"), error.extra.get("n_ctx")
    if not (isinstance(num_tokens, int) and isinstance(n_ctx, int) and num_tokens > 0):
        return 0.5
    return min(1.0, max(0.05, 1 - _FILLED * n_ctx / num_tokens))


def without_beginning(messages: list[dict[str, Any]], part: float) -> list[dict[str, Any]] | None:
    """Without the oldest `part` of the text: whole turns, each from a user's message on. The system's message and the last turn are kept.
    None: nothing can be removed."""
    starts = [index for index, message in enumerate(messages) if message["role"] == "user"]
    first = next((index for index, message in enumerate(messages) if message["role"] != "system"), 0)
    sizes = [len(orjson.dumps(message)) for message in messages]
    for start in starts:
        if start > first and (sum(sizes[first:start]) >= part * sum(sizes) or start == starts[-1]):
            return [*messages[:first], *messages[start:]]
    return None


class Chat(NamedTuple):
    """A request as a chat."""

    body: dict[str, Any]
    places: list[str]  # the name of each of its messages here
    toolbox: Toolbox


def chat_of(body: dict[str, Any], earlier: Sequence[dict[str, Any]] = ()) -> Chat:
    """`earlier`: the items of the conversation that `previous_response_id` names. Raises InvalidRequest."""
    before: list[Placed] = [("previous_response_id", item) for item in earlier]
    talk = read_input(body.get("instructions"), [*before, *each_item(body.get("input"))])
    toolbox = read_tools(body.get("tools"))
    chat = {
        **{name: value for name, value in body.items() if name not in _OWN},
        **_limits(body),
        "messages": talk.messages,
        "tools": toolbox.functions or None,
        "tool_choice": read_tool_choice(body.get("tool_choice"), toolbox),
        "response_format": _format(_object(body, "text").get("format")),
        "reasoning_effort": _object(body, "reasoning").get("effort"),
        "continue_final_message": False,
    }
    return Chat(chat, talk.places, toolbox)


def read_response(body: dict[str, Any], earlier: Sequence[dict[str, Any]] = ()) -> ResponseAsk:
    """`earlier` as above. Raises InvalidRequest."""
    _refuse(body)
    if body.get("input") is None and body.get("messages") is not None:
        raise invalid("input", "is missing; 'messages' belongs to /v1/chat/completions")
    chat, reasoning = chat_of(body, earlier), _object(body, "reasoning")
    ask = _read_chat(chat)
    return ResponseAsk(
        **{name: getattr(ask, name) for name in Ask.__slots__},
        echo=_echo(body, reasoning),
        items=[item for _, item in each_item(body.get("input"))],
        toolbox=chat.toolbox,
        has_summary=reasoning.get("summary", reasoning.get("generate_summary")) not in (None, "none"),
        has_sealed="reasoning.encrypted_content" in _include(body),
        is_stored=_stored(body),
        is_truncated=body.get("truncation") == "auto",
    )


def _refuse(body: dict[str, Any]) -> None:
    """Refuse fields that would have another meaning without notice."""
    if body.get("background"):
        raise invalid("background", "is not supported: leave it out, and read the answer as a stream")
    if body.get("conversation") is not None:
        raise invalid("conversation", "is not supported: send `previous_response_id`, or the whole conversation as `input`")
    if body.get("prompt") is not None:
        raise invalid("prompt", "is not supported: there are no stored prompts. Send `instructions` and `input`")
    if body.get("truncation") not in (None, "auto", "disabled"):
        raise invalid("truncation", 'must be "auto" or "disabled"')


def _stored(body: dict[str, Any]) -> bool:
    return body.get("store") is None or boolean("store", body["store"])


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    return json_object(name, body[name]) if body.get(name) is not None else {}


def _include(body: dict[str, Any]) -> list[str]:
    return string_list("include", body["include"]) if body.get("include") is not None else []


def _limits(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if body.get("max_output_tokens") is not None:
        found["max_completion_tokens"] = _MAX_OUTPUT("max_output_tokens", body["max_output_tokens"])
    count = body.get("top_logprobs")
    if count or "message.output_text.logprobs" in _include(body):
        found.update(logprobs=True, top_logprobs=0 if count is None else _TOP_LOGPROBS("top_logprobs", count))
    return found


def _format(value: Any) -> dict[str, Any] | None:
    """`text.format` as a chat's `response_format`, in which a schema is inside another object."""
    if value is None:
        return None
    given = json_object("text.format", value)
    if given.get("type") != "json_schema" or "json_schema" in given:
        return given
    return {"type": "json_schema", "json_schema": {name: part for name, part in given.items() if name != "type"}}


@contextmanager
def named_as_here(places: Sequence[str]) -> Iterator[None]:
    """Give errors of the reader of chats the field names of this API."""
    try:
        yield
    except InvalidRequest as error:
        raise type(error)(in_words(error.message, places), **error.extra) from None


def chat_input_of(body: dict[str, Any], earlier: Sequence[dict[str, Any]], pictures: Pictures) -> dict[str, Any]:
    """`chat_input` for a body of this API."""
    chat = chat_of(body, earlier)
    with named_as_here(chat.places):
        return chat_input(chat.body, pictures)


def _read_chat(chat: Chat) -> Ask:
    with named_as_here(chat.places):
        ask = read_chat(chat.body)
    [generate] = ask.generates
    if generate.constraint is not None:
        named = {**generate.constraint, "field": in_words(generate.constraint["field"], chat.places)}
        ask.generates = [replace(generate, constraint=named)]
    return ask


def in_words(text: str, places: Sequence[str]) -> str:
    """With the names of this API's fields."""
    for pattern, word in _WORDS:
        text = pattern.sub(word, text)

    def place(match: re.Match[str]) -> str:
        index = int(match[1])
        return places[index] if index < len(places) else match[0]

    return _MESSAGE.sub(place, text)


def _echo(body: dict[str, Any], reasoning: dict[str, Any]) -> dict[str, Any]:
    """The fields of its request that a response repeats."""
    metadata = _object(body, "metadata")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise invalid("metadata", "must be an object of strings")
    choice, tools, text = body.get("tool_choice"), body.get("tools"), _object(body, "text")
    names = ("instructions", "max_output_tokens", "max_tool_calls", "previous_response_id", "prompt_cache_key", "safety_identifier", "user")
    previous = body.get("previous_response_id")
    if previous is not None:
        string("previous_response_id", previous)
    return {
        **{name: body.get(name) for name in names},
        "metadata": metadata,
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "store": _stored(body),
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "tool_choice": "auto" if choice is None else choice,
        "tools": [_shown_tool(tool) for tool in tools or ()],
        "top_logprobs": body.get("top_logprobs") or 0,
        "truncation": body.get("truncation") or "disabled",
        "background": False,
        "service_tier": "default",
    }


def _shown_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A function with all possible fields."""
    return {"description": None, "parameters": None, "strict": None, **tool} if tool.get("type") == "function" else tool
