"""Anthropic's Messages API. Never imports: supervisor.lease, http.connection.

Invariant: the blocks of a stream are numbered from 0, only one is open at a time, and each block ends. The text of an open block goes
directly from the ring into its events.
"""

from typing import Any

import orjson

from fastrouter._core import REASONING, TEXT, Request
from fastrouter.api.flavours.native import chat_params
from fastrouter.api.identity import new_completion_id
from fastrouter.api.models.access import Models
from fastrouter.api.requests.anthropic_messages import NAMES, chat_of
from fastrouter.api.requests.bodies import parse_object
from fastrouter.api.requests.checks import invalid
from fastrouter.api.requests.fields import Ask, chat_input, read_chat
from fastrouter.api.requests.pictures import Pictures
from fastrouter.api.requests.renamed import renamed
from fastrouter.api.serving.call import Caller
from fastrouter.api.serving.flavour import Choice, Usage
from fastrouter.api.serving.media import Media
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import ContextExceeded, FastrouterError, ModelNotFound, NotFound
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import SSE_HEADERS, ErrorShape, Response, encode_json
from fastrouter.http.sse import event_parts, json_event
from fastrouter.ipc.messages import Generate
from fastrouter.ipc.records import CallDelta, Delta, Finish, PromptProgress
from fastrouter.supervisor.supervisor import Supervisor
from fastrouter.system.words import utc_time

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
DEFAULT_PAGE, MAX_PAGE = 20, 1000  # models of a listing


# ---------------------------------------------------------------- errors


def _status(error: FastrouterError) -> int:
    return 404 if isinstance(error, ModelNotFound) else error.status


def _error_body(error: FastrouterError) -> dict[str, Any]:
    status = _status(error)
    kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": _message(error)}}


def _message(error: FastrouterError) -> str:
    """The text is Anthropic's own: from it, agents know that they must shorten a conversation."""
    num_tokens, most = error.extra.get("n_prompt_tokens"), error.extra.get("n_ctx")
    if isinstance(error, ContextExceeded) and num_tokens and most:
        return f"prompt is too long: {num_tokens} tokens > {most} maximum"
    return renamed(error.message, NAMES)


ERRORS = ErrorShape(_error_body, _status)


# ---------------------------------------------------------------- answers


def _stop(finish: Finish, generate: Generate) -> dict[str, str | None]:
    if finish.stop_type == "word" and not finish.num_calls:
        return {"stop_reason": "stop_sequence", "stop_sequence": finish.stopping_word}
    if finish.stop_type == "limit":
        is_full = not 0 <= generate.max_tokens <= finish.completion_tokens
        return {"stop_reason": "model_context_window_exceeded" if is_full else "max_tokens", "stop_sequence": None}
    return {"stop_reason": "tool_use" if finish.num_calls else "end_turn", "stop_sequence": None}


def _usage(prompt_tokens: int, cached_tokens: int, output_tokens: int) -> dict[str, int]:
    """Tokens that were read from a cache are counted separately from the other input."""
    return {
        "input_tokens": max(0, prompt_tokens - cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached_tokens,
        "output_tokens": output_tokens,
    }


def _usage_of(usage: Usage) -> dict[str, Any]:
    thought = {"output_tokens_details": {"thinking_tokens": usage.reasoning_tokens}} if usage.reasoning_tokens else {}
    return {**_usage(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens), **thought}


def _event(kind: bytes, **fields: Any) -> bytes:
    return json_event({"type": kind.decode(), **fields}, kind)


class Messages:
    """The flavour of POST /v1/messages."""

    name = "messages"
    stream_head = SSE_HEADERS
    errors = ERRORS
    has_blocks = True

    @staticmethod
    def read(body: dict[str, Any]) -> Ask:
        return read_chat(chat_of(body))

    def __init__(self, model_id: str, ask: Ask) -> None:
        self._model_id = model_id
        self._generate = ask.generates[0]
        self._id = new_completion_id("msg").replace("-", "_")
        self._has_started = False
        self._open = ""  # type of the open block
        self._index = -1  # of the last block
        self._call = -1  # number of the open block's call

    @property
    def _signature(self) -> str:
        """The signature. Clients send it back with a thought. It is not checked."""
        return f"fastrouter-{self._id}"

    # ------------------------------------------------------------ a stream

    def template(self, kind: int, choice: int) -> tuple[bytes, bytes] | None:
        if kind == TEXT and self._open == "text":
            delta = b'{"type":"text_delta","text":"'
        elif kind == REASONING and self._open == "thinking":
            delta = b'{"type":"thinking_delta","thinking":"'
        else:
            return None
        return event_parts(b'{"type":"content_block_delta","index":%d,"delta":%s' % (self._index, delta), b'"}}', b"content_block_delta")

    def first(self, choice: int) -> bytes:
        return b""

    def ping(self, text: bytes) -> bytes:
        return _event(b"ping")

    def progress(self, choice: int, progress: PromptProgress) -> bytes:
        return self._start(progress.total, progress.cache) or _event(b"ping")

    def event(self, choice: int, event: Delta) -> bytes:
        events = [self._start(event.prompt_tokens, 0)]
        if event.reasoning:
            events += [self._begin("thinking", thinking="", signature=""), self._delta("thinking", thinking=event.reasoning)]
        if event.text:
            events += [self._begin("text", text=""), self._delta("text", text=event.text)]
        events += [self._call_piece(piece) for piece in event.calls]
        return b"".join(events)

    def _start(self, prompt_tokens: int, cached_tokens: int) -> bytes:
        if self._has_started:
            return b""
        self._has_started = True
        content: list[Any] = []
        usage = _usage(prompt_tokens, cached_tokens, 0)
        return _event(b"message_start", message=self._envelope(content, {"stop_reason": None, "stop_sequence": None}, usage))

    def _call_piece(self, piece: CallDelta) -> bytes:
        begin = b""
        if self._open != "tool_use" or piece.index != self._call:
            begin = self._end() + self._begin("tool_use", id=piece.id, name=piece.name, input={})
            self._call = piece.index
        return begin + (self._delta("input_json", partial_json=piece.arguments) if piece.arguments else b"")

    def _begin(self, kind: str, **fields: Any) -> bytes:
        """The new block's start, after the end of the open block; empty if the open block continues."""
        if self._open == kind:
            return b""
        end = self._end()
        self._open = kind
        self._index += 1
        return end + _event(b"content_block_start", index=self._index, content_block={"type": kind, **fields})

    def _delta(self, kind: str, **fields: str) -> bytes:
        return _event(b"content_block_delta", index=self._index, delta={"type": f"{kind}_delta", **fields})

    def _end(self) -> bytes:
        """The event that ends the open block."""
        if not self._open:
            return b""
        signature = self._delta("signature", signature=self._signature) if self._open == "thinking" else b""
        self._open = ""
        return signature + _event(b"content_block_stop", index=self._index)

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes:
        counts = _usage_of(usage)
        start, end = self._start(usage.prompt_tokens, usage.cached_tokens), self._end()
        return start + end + _event(b"message_delta", delta=_stop(choice.finish, self._generate), usage=counts)

    def done(self) -> bytes:
        return _event(b"message_stop")

    def error_event(self, error: FastrouterError) -> bytes:
        return json_event(_error_body(error), b"error")

    # ------------------------------------------------------------ a whole answer

    def whole(self, choices: list[Choice], usage: Usage) -> dict[str, Any]:
        [choice] = choices
        content: list[dict[str, Any]] = []
        if choice.reasoning:
            content.append({"type": "thinking", "thinking": choice.reasoning, "signature": self._signature})
        if choice.text:
            content.append({"type": "text", "text": choice.text})
        content += [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments_object()} for call in choice.calls]
        return self._envelope(content, _stop(choice.finish, self._generate), _usage_of(usage))

    def _envelope(self, content: list[Any], stop: dict[str, str | None], usage: dict[str, Any]) -> dict[str, Any]:
        message = {"id": self._id, "type": "message", "role": "assistant", "model": self._model_id, "content": content}
        return {**message, **stop, "usage": usage}


# ---------------------------------------------------------------- routes without generation


def is_asked(request: Request) -> bool:
    """For a path that OpenAI's API also has: whether the client is one of Anthropic's."""
    return request.header("anthropic-version") is not None


class Anthropic:
    """The API's other routes."""

    def __init__(self, models: Models, supervisor: Supervisor, media: Media | None = None) -> None:
        self._models = models
        self._caller = Caller(models, supervisor, ERRORS, media)

    async def count_tokens(self, request: Request, exchange: Exchange) -> Response:
        body = parse_object(request)
        pictures = Pictures()
        params = await chat_params(self._models, request, lambda: chat_input(chat_of(body), pictures))

        async def write(spec: ModelSpec, result: Any) -> bytes:
            return orjson.dumps({"input_tokens": result.get("input_tokens", 0)})

        return await self._caller.answer(request, body, "count_tokens", params, write, pictures)

    def list(self, request: Request, exchange: Exchange) -> Response:
        """One page, in the order of our own listing."""
        query = self._models.query(request)
        specs = self._models.listed(request.caller)
        ids = [spec.id for spec in specs]
        limit = _limit(query.get("limit"))
        after, before = query.get("after_id"), query.get("before_id")
        end = ids.index(before) if before in ids else len(ids)
        begin = ids.index(after) + 1 if after in ids else max(0, end - limit) if before in ids else 0
        page = specs[begin : min(end, begin + limit)]
        has_more = begin > 0 if before in ids else begin + len(page) < len(ids)
        data = [_model(self._models.describe(spec)) for spec in page]
        ends = {"first_id": page[0].id, "last_id": page[-1].id} if page else {"first_id": None, "last_id": None}
        return encode_json({"data": data, "has_more": has_more, **ends})

    def show(self, request: Request, exchange: Exchange) -> Response:
        spec = self._models.find_in_path(request)
        if spec is None:
            name = request.path.partition("/models/")[2]
            raise NotFound(self._models.unknown(name, request.caller).message)
        return encode_json(_model(self._models.describe(spec)))


def _limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_PAGE
    if not (given.isascii() and given.isdigit() and len(given) < 5 and 1 <= int(given) <= MAX_PAGE):
        raise invalid("limit", f"must be a whole number from 1 to {MAX_PAGE}")
    return int(given)


def _model(described: dict[str, Any]) -> dict[str, Any]:
    most = (described["meta"] or {}).get("n_ctx")
    return {
        "type": "model",
        "id": described["id"],
        "display_name": described["id"],
        "created_at": utc_time(described["created"]),
        "max_input_tokens": most,
        "max_tokens": most,
        "lifecycle": "active",
    }
