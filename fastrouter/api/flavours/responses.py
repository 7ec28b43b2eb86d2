"""OpenAI's Responses API: an answer is a list of items, and a stream shows how each item grows. Never imports: supervisor, http.connection.

Invariant: the events of a stream are numbered without gaps. The last one is completed, incomplete or failed, and has the whole response.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from fastrouter._core import REASONING, TEXT
from fastrouter.api.flavours.native import progress_in, timings_in
from fastrouter.api.flavours.openai import param_of, v1_status
from fastrouter.api.flavours.response_items import (
    COMPLETED,
    IN_PROGRESS,
    INCOMPLETE,
    Events,
    Item,
    OpenCall,
    OpenItem,
    OpenMessage,
    OpenReasoning,
    OpenText,
    call_ids,
    message_item,
    new_id,
    reasoning_item,
)
from fastrouter.api.requests.response_tools import call_item
from fastrouter.api.requests.responses import ResponseAsk, read_response
from fastrouter.api.serving.flavour import Choice, Template, Usage
from fastrouter.errors import ContextExceeded, FastrouterError, InvalidRequest, ModelNotFound, RateLimited
from fastrouter.http.response import SSE_HEADERS, ErrorShape
from fastrouter.http.sse import comment
from fastrouter.ipc.records import CallDelta, Delta, Finish, PromptProgress
from fastrouter.options.sampling import defaults

_SHOWN = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_DEFAULTS = {name: value for name, value in defaults().items() if name in _SHOWN}
# Error codes that clients use: Codex shortens the conversation, waits, or stops.
_CODES: tuple[tuple[type[FastrouterError], str], ...] = (
    (ContextExceeded, "context_length_exceeded"),
    (ModelNotFound, "model_not_found"),
    (RateLimited, "rate_limit_exceeded"),
    (InvalidRequest, "invalid_prompt"),
)

Keep = Callable[[ResponseAsk, dict[str, Any]], None]


def code_of(error: FastrouterError) -> str:
    found = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    return found or (error.code if isinstance(error.code, str) else error.type)


def _error_body(error: FastrouterError) -> dict[str, Any]:
    return {"error": {"message": error.message, "type": error.type, "param": param_of(error), "code": code_of(error), **error.extra}}


# Codex shortens its conversation only after a failed response, and it reads that event only if the stream ends normally.
RESPONSE_ERRORS = ErrorShape(_error_body, v1_status, events=(ContextExceeded,), ends_stream=True)


def usage_of(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _status_of(finish: Finish) -> str:
    return INCOMPLETE if finish.stop_type == "limit" else COMPLETED


class Responses:
    """One response, streamed or whole."""

    name = "responses"
    stream_head = SSE_HEADERS
    errors = RESPONSE_ERRORS
    has_blocks = True

    def __init__(self, model_id: str, ask: ResponseAsk, keep: Keep) -> None:
        """`keep` gets the response when it is done."""
        self._ask = ask
        self._keep = keep
        self._events = Events()
        self._has_begun = False
        self._open: OpenItem | None = None
        self._output: list[Item] = []
        sampling = {**_DEFAULTS, **ask.generates[0].sampling}
        self._fixed = {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "model": model_id,
            **ask.echo,
            **{name: sampling[name] for name in _SHOWN},
        }

    @property
    def id(self) -> str:
        return str(self._fixed["id"])

    def forget(self) -> bool:
        """Its client has deleted it. False: it would not be kept, or it is complete and kept already."""
        was_wanted = self._ask.is_stored
        self._ask.is_stored = False
        return was_wanted

    @staticmethod
    def read(body: dict[str, Any], earlier: Sequence[Item] = ()) -> ResponseAsk:
        return read_response(body, earlier)

    # ------------------------------------------------------------ the response

    def _response(self, status: str, usage: Usage | None = None, error: FastrouterError | None = None) -> dict[str, Any]:
        return {
            **self._fixed,
            "status": status,
            "completed_at": int(time.time()) if status == COMPLETED else None,
            "error": None if error is None else {"code": code_of(error), "message": error.message},
            "incomplete_details": {"reason": "max_output_tokens"} if status == INCOMPLETE else None,
            "output": self._output,
            "usage": None if usage is None else usage_of(usage),
        }

    def _end(self, status: str, usage: Usage) -> dict[str, Any]:
        response = self._response(status, usage)
        if self.forget():
            self._keep(self._ask, response)
        return response

    def whole(self, choices: list[Choice], usage: Usage) -> Any:
        [choice] = choices
        status, ask = _status_of(choice.finish), self._ask
        if choice.reasoning:
            sort = {"is_summary": ask.has_summary, "is_sealed": ask.has_sealed}
            is_cut = status == INCOMPLETE and not (choice.text or choice.calls)
            self._output.append(reasoning_item(new_id("rs"), choice.reasoning, INCOMPLETE if is_cut else COMPLETED, **sort))
        if choice.text or not (choice.reasoning or choice.calls):
            message_status = COMPLETED if choice.calls else status
            self._output.append(message_item(new_id("msg"), choice.text, choice.probabilities, message_status))
        for call in choice.calls:
            tool = ask.toolbox.find(call.name)
            call_status = status if call is choice.calls[-1] else COMPLETED
            self._output.append(call_item(tool, call_ids(tool, call.id), call.arguments, call_status))
        return self._end(status, usage)

    # ------------------------------------------------------------ its stream

    def template(self, kind: int, choice: int) -> Template | None:
        """Only an open item has a template: the first text of an item is sent as an event."""
        is_open = isinstance(self._open, {TEXT: OpenMessage, REASONING: OpenReasoning}[kind])
        return self._open.template() if is_open and isinstance(self._open, OpenText) else None

    def first(self, choice: int) -> bytes:
        return b""

    def _begin(self) -> bytes:
        """The events before all others, once."""
        if self._has_begun:
            return b""
        self._has_begun = True
        response = self._response(IN_PROGRESS)
        return self._events.make("response.created", response=response) + self._events.make("response.in_progress", response=response)

    def ping(self, text: bytes) -> bytes:
        """An event: clients that measure the time between events ignore comments. The first event of a stream must be its creation."""
        alive = self._events.make("keepalive") if self._has_begun else self._begin()
        return comment(text) + alive

    def progress(self, choice: int, progress: PromptProgress) -> bytes:
        """As in llama-server."""
        more = {**progress_in(progress), **timings_in(progress)}
        return self._begin() + self._events.make("response.in_progress", response=self._response(IN_PROGRESS), **more)

    def event(self, choice: int, event: Delta) -> bytes:
        events = self._begin()
        if event.reasoning:
            events += self._say(OpenReasoning, event.reasoning, event)
        if event.text or (event.probabilities and not event.calls):
            events += self._say(OpenMessage, event.text, event)
        for piece in event.calls:
            events += self._call(piece)
        return events

    def _say(self, kind: type[OpenText], text: str, event: Delta) -> bytes:
        events = b"" if isinstance(self._open, kind) else self._turn_to(self._new_text(kind))
        assert isinstance(self._open, OpenText)
        return events + self._open.add(text, event.probabilities, timings_in(event))

    def _new_text(self, kind: type[OpenText]) -> OpenText:
        index = len(self._output) + (self._open is not None)
        if kind is OpenMessage:
            return OpenMessage(self._events, index)
        return OpenReasoning(self._events, index, is_summary=self._ask.has_summary, is_sealed=self._ask.has_sealed)

    def _call(self, piece: CallDelta) -> bytes:
        events = b""
        if not isinstance(self._open, OpenCall) or self._open.number != piece.index:
            tool, index = self._ask.toolbox.find(piece.name), len(self._output) + (self._open is not None)
            events = self._turn_to(OpenCall(self._events, index, tool, piece.id, piece.index))
        assert isinstance(self._open, OpenCall)
        return events + self._open.add(piece.arguments)

    def _turn_to(self, item: OpenItem) -> bytes:
        """End the previous item."""
        events = self._close(COMPLETED)
        self._open = item
        return events + item.begin()

    def _close(self, status: str) -> bytes:
        if self._open is None:
            return b""
        events, item = self._open.end(status)
        self._output.append(item)
        self._open = None
        return events

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes:
        events, status = self._begin(), _status_of(choice.finish)
        if self._open is None and not self._output:
            events += self._turn_to(self._new_text(OpenMessage))
        events += self._close(status)
        timings = {"timings": choice.timings} if self._ask.generates[0].timings_per_token else {}
        return events + self._events.make(f"response.{status}", response=self._end(status, usage), **timings)

    def done(self) -> bytes:
        return b""

    def error_event(self, error: FastrouterError) -> bytes:
        events = self._begin() + self._close(INCOMPLETE)
        return events + self._events.make("response.failed", response=self._response("failed", error=error))
