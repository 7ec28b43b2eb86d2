"""OpenAI's chat and text completions, in llama-server's shapes. Never imports: supervisor, http.connection.

Invariant: values that do not change during a request (id, model, created) are encoded once, when the request starts.
"""

import math
import re
import time
from abc import ABC, abstractmethod
from itertools import accumulate
from typing import Any

import orjson

from fastrouter._core import REASONING, TEXT
from fastrouter.api.flavours.native import completion_of, progress_in, timings_in
from fastrouter.api.identity import BUILD_INFO, new_completion_id
from fastrouter.api.requests.fields import Ask, read_chat
from fastrouter.api.requests.text_completions import TextAsk, read_text
from fastrouter.api.serving.flavour import Choice, Usage
from fastrouter.errors import FastrouterError, ModelNotFound
from fastrouter.http.response import OPENAI_ERRORS, SSE_HEADERS, ErrorShape
from fastrouter.http.sse import comment, event_parts, json_event, raw_event
from fastrouter.ipc.records import CallDelta, Delta, Entry, Finish, PromptProgress

DONE = raw_event(b"[DONE]")


def _v1_body(error: FastrouterError) -> dict[str, Any]:
    """With the names that OpenAI's clients look for."""
    body = {"param": param_of(error), **error.to_json()["error"]}
    return {"error": {**body, "code": "model_not_found"} if isinstance(error, ModelNotFound) else body}


def param_of(error: FastrouterError) -> str | None:
    """The field that an error is about, if the message begins with it."""
    if isinstance(error, ModelNotFound):
        return "model"
    found = _FIELD.match(error.message)
    return found[1] if found else None


def v1_status(error: FastrouterError) -> int:
    """For an unknown model, llama-server's status is 400 and OpenAI's is 404."""
    return 404 if isinstance(error, ModelNotFound) else error.status


_FIELD = re.compile(r"field '([^']+)'")
V1_ERRORS = ErrorShape(_v1_body, v1_status)


def finish_reason(finish: Finish) -> str:
    if finish.stop_type == "limit":
        return "length"
    return "tool_calls" if finish.num_calls else "stop"


def best_choices(choices: list[Choice], num_made: int, num_kept: int) -> list[Choice]:
    """For each prompt, the choices whose tokens were the most probable, best first. `choices` are in order."""
    found: list[Choice] = []
    for start in range(0, len(choices), num_made):
        found += sorted(choices[start : start + num_made], key=_mean_logprob, reverse=True)[:num_kept]
    return found


def _mean_logprob(choice: Choice) -> float:
    logprobs = [entry["logprob"] for entry in choice.probabilities if isinstance(entry.get("logprob"), float)]
    return sum(logprobs) / len(logprobs) if logprobs else -math.inf


def _call_delta(piece: CallDelta) -> dict[str, Any]:
    if not piece.name:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


def _message_delta(event: Delta) -> dict[str, Any]:
    reasoning = {"reasoning_content": event.reasoning} if event.reasoning else {}
    calls = {"tool_calls": [_call_delta(piece) for piece in event.calls]} if event.calls else {}
    return {**({"content": event.text} if event.text or not (reasoning or calls) else {}), **reasoning, **calls}


class _Completion(ABC):
    """What chat and text completions share: the envelope of an answer and of its chunks."""

    name = ""
    kind = ""
    chunk_kind = ""
    stream_head = SSE_HEADERS
    errors = OPENAI_ERRORS
    has_blocks = False

    def __init__(self, model_id: str, ask: Ask) -> None:
        self.model_id = model_id
        self.ask = ask
        self.id = new_completion_id("chatcmpl")
        self.created = int(time.time())
        self._tail = b'}],"created":%d,"id":"%s","model":%s,"system_fingerprint":"%s","object":"%s"' % (
            self.created,
            self.id.encode(),
            orjson.dumps(model_id),
            BUILD_INFO.encode(),
            self.chunk_kind.encode(),
        )

    def envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "choices": choices,
            "created": self.created,
            "id": self.id,
            "model": self.model_id,
            "system_fingerprint": BUILD_INFO,
            "object": kind,
        }

    def chunk(self, choice: int, content: dict[str, Any], finish: str | None, **more: Any) -> bytes:
        return json_event({**self.envelope(self.chunk_kind, [{"finish_reason": finish, "index": choice, **content}]), **more})

    def chunk_bytes(self, choice: int, before: bytes, after: bytes) -> tuple[bytes, bytes]:
        """Prefix and suffix of a chunk around its escaped text."""
        return event_parts(b'{"choices":[{"finish_reason":null,"index":%d,%s' % (choice, before), after + self._tail + b"}")

    def ping(self, text: bytes) -> bytes:
        return comment(text)

    def done(self) -> bytes:
        return DONE

    def error_chunk(self, content: dict[str, Any], error: FastrouterError) -> bytes:
        return self.chunk(0, content, "error", **error.to_json())

    def more(self, choices: list[Choice]) -> dict[str, Any]:
        """The fields that llama-server adds to OpenAI's last answer."""
        found: dict[str, Any] = {"timings": choices[-1].timings} if choices[-1].timings else {}
        if self.ask.is_verbose:
            found["__verbose"] = completion_of(choices[-1], self.model_id, self.ask)
        return found

    def whole(self, choices: list[Choice], usage: Usage) -> dict[str, Any]:
        answers = [{"finish_reason": finish_reason(choice.finish), "index": choice.index, **self.content(choice)} for choice in choices]
        return {**self.envelope(self.kind, answers), "usage": usage.to_json(), **self.more(choices)}

    @abstractmethod
    def content(self, choice: Choice) -> dict[str, Any]:
        """One choice in a whole answer."""


class Chat(_Completion):
    name = "chat"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    @staticmethod
    def read(body: dict[str, Any]) -> Ask:
        return read_chat(body)

    def __init__(self, model_id: str, ask: Ask) -> None:
        super().__init__(model_id, ask)
        ask.id = self.id

    def template(self, kind: int, choice: int) -> tuple[bytes, bytes] | None:
        name = {TEXT: b"content", REASONING: b"reasoning_content"}.get(kind)
        return self.chunk_bytes(choice, b'"delta":{"%s":"' % name, b'"}') if name is not None else None

    def first(self, choice: int) -> bytes:
        before, after = self.chunk_bytes(choice, b'"delta":{"role":"assistant","content":null', b"}")
        return before + after

    def event(self, choice: int, event: Delta) -> bytes:
        logprobs = {"logprobs": {"content": event.probabilities}} if event.probabilities else {}
        return self.chunk(choice, {"delta": _message_delta(event), **logprobs}, None, **timings_in(event))

    def progress(self, choice: int, progress: PromptProgress) -> bytes:
        delta = {"delta": {"role": "assistant", "content": None}}
        return self.chunk(choice, delta, None, **progress_in(progress), **timings_in(progress))

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes:
        ended = finish_reason(choice.finish)
        more = self.more([choice]) if is_last else {}
        if not (is_last and self.ask.has_usage):
            return self.chunk(choice.index, {"delta": {}}, ended, **more)
        summary = {**self.envelope(self.chunk_kind, []), "usage": usage.to_json(), **more}
        return self.chunk(choice.index, {"delta": {}}, ended) + json_event(summary)

    def error_event(self, error: FastrouterError) -> bytes:
        return self.error_chunk({"delta": {}}, error)

    def content(self, choice: Choice) -> dict[str, Any]:
        text = f"<think>{choice.reasoning}</think>{choice.text}" if choice.reasoning and self.ask.has_thoughts_in_content else choice.text
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if choice.calls else "")}
        if choice.reasoning:
            message["reasoning_content"] = choice.reasoning
        if choice.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in choice.calls
            ]
        logprobs = {"logprobs": {"content": choice.probabilities}} if choice.probabilities else {}
        return {"message": message, **logprobs}


class Text(_Completion):
    name = "completions"
    kind = chunk_kind = "text_completion"

    @staticmethod
    def read(body: dict[str, Any]) -> TextAsk:
        return read_text(body)

    def __init__(self, model_id: str, ask: TextAsk) -> None:
        super().__init__(model_id, ask)
        self._asked = ask
        self._num_characters: dict[int, int] = {}  # so far, per choice

    def template(self, kind: int, choice: int) -> tuple[bytes, bytes] | None:
        return self.chunk_bytes(choice, b'"text":"', b'","logprobs":null')

    def first(self, choice: int) -> bytes:
        echo = self._echo(choice)
        return self.chunk(choice, {"text": echo, "logprobs": None}, None) if echo else b""

    def _echo(self, choice: int) -> str:
        return self._asked.echo[choice // self._asked.generates[0].n] if self._asked.echo else ""

    def event(self, choice: int, event: Delta) -> bytes:
        content = {"text": event.text, "logprobs": self._logprobs(choice, event.probabilities)}
        return self.chunk(choice, content, None, **timings_in(event))

    def progress(self, choice: int, progress: PromptProgress) -> bytes:
        return self.chunk(choice, {"text": "", "logprobs": None}, None, **progress_in(progress), **timings_in(progress))

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes:
        more = {"usage": usage.to_json(), **self.more([choice])} if is_last else {}
        return self.chunk(choice.index, {"text": "", "logprobs": None}, finish_reason(choice.finish), **more)

    def error_event(self, error: FastrouterError) -> bytes:
        return self.error_chunk({"text": "", "logprobs": None}, error)

    def whole(self, choices: list[Choice], usage: Usage) -> dict[str, Any]:
        shown, asked = choices, self._asked
        if asked.num_shown is not None:
            shown = best_choices(choices, asked.generates[0].n, asked.num_shown)
        answer = super().whole(shown, usage)
        for index, entry in enumerate(answer["choices"]):
            entry["index"] = index
        return answer

    def content(self, choice: Choice) -> dict[str, Any]:
        logprobs = self._logprobs(choice.index, choice.probabilities) if self._asked.has_logprobs else None
        return {"text": self._echo(choice.index) + choice.reasoning + choice.text, "logprobs": logprobs}

    def _logprobs(self, choice: int, entries: list[Entry]) -> dict[str, Any] | None:
        """llama-server's `content`, together with the lists of OpenAI's text completions."""
        if not entries:
            return None
        offset = self._num_characters.get(choice, 0)
        offsets = list(accumulate((len(entry["token"]) for entry in entries), initial=offset))
        self._num_characters[choice] = offsets.pop()
        found: dict[str, Any] = {"content": entries}
        if "logprob" in entries[0]:
            found["tokens"] = [entry["token"] for entry in entries]
            found["token_logprobs"] = [entry.get("logprob") for entry in entries]
            found["top_logprobs"] = [{rival["token"]: rival.get("logprob") for rival in entry.get("top_logprobs", ())} for entry in entries]
            found["text_offset"] = offsets
        return found
