"""Ollama's chat and generate. Never imports: supervisor, http.connection.

Invariant: each line of a stream is one JSON object. The last line has `done`, and the counts and times of the whole answer.
"""

import time
from abc import ABC, abstractmethod
from typing import Any

import orjson

from fastrouter._core import REASONING, TEXT
from fastrouter.api.requests.fields import Ask
from fastrouter.api.requests.ollama_bodies import NAMES, pack, read_generate, read_ollama_chat
from fastrouter.api.requests.renamed import renamed
from fastrouter.api.serving.flavour import Choice, ToolCall, Usage
from fastrouter.api.serving.whole import joined_calls
from fastrouter.errors import FastrouterError, ModelNotFound
from fastrouter.http.response import NDJSON_HEADERS, ErrorShape
from fastrouter.ipc.records import CallDelta, Delta, PromptProgress, Timings

NS_PER_MS = 1_000_000


def _error_body(error: FastrouterError) -> dict[str, Any]:
    return {"error": renamed(error.message, NAMES)}


OLLAMA_ERRORS = ErrorShape(_error_body, lambda error: 404 if isinstance(error, ModelNotFound) else error.status)


def iso_now() -> str:
    now = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9)) + f".{now % 10**9:09}Z"


def line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _ns(timings: Timings, name: str) -> int:
    return int(timings.get(name, 0) * NS_PER_MS)


class _Answer(ABC):
    """What chat and generate share."""

    name = ""
    stream_head = NDJSON_HEADERS
    errors = OLLAMA_ERRORS
    has_blocks = False

    def __init__(self, model_id: str, ask: Ask) -> None:
        self._ask = ask
        self._began_ns = time.monotonic_ns()
        self._head: dict[str, Any] = {"model": model_id, "created_at": iso_now()}
        self._open = orjson.dumps(self._head)[:-1]

    @abstractmethod
    def content(self, text: str, thought: str = "", calls: list[ToolCall] | None = None) -> dict[str, Any]:
        """A piece of an answer, or all of it."""

    def part(self, content: dict[str, Any], **more: Any) -> bytes:
        return line({**self._head, **content, **more, "done": False})

    def first(self, choice: int) -> bytes:
        return b""

    def ping(self, text: bytes) -> bytes:
        return self.part(self.content(""))

    def event(self, choice: int, event: Delta) -> bytes:
        logprobs = {"logprobs": event.probabilities} if event.probabilities else {}
        return self.part(self.content(event.text, event.reasoning), **logprobs)

    def progress(self, choice: int, progress: PromptProgress) -> bytes:
        return b""

    def done(self) -> bytes:
        return b""

    def error_event(self, error: FastrouterError) -> bytes:
        return line(_error_body(error))

    def whole(self, choices: list[Choice], usage: Usage) -> dict[str, Any]:
        [choice] = choices
        logprobs = {"logprobs": choice.probabilities} if choice.probabilities else {}
        return {**self._head, **self.content(choice.text, choice.reasoning, choice.calls), **logprobs, **self.end(choice, usage)}

    def end(self, choice: Choice, usage: Usage) -> dict[str, Any]:
        """The counts and times of the whole answer, for the last line."""
        return {
            "done": True,
            "done_reason": "length" if choice.finish.stop_type == "limit" else "stop",
            "total_duration": time.monotonic_ns() - self._began_ns,
            "load_duration": _ns(choice.timings, "load_ms"),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _ns(choice.timings, "prompt_ms"),
            "eval_count": usage.completion_tokens,
            "eval_duration": _ns(choice.timings, "predicted_ms"),
        }


class Chat(_Answer):
    """The flavour of POST /api/chat. Calls are sent whole, before the last line."""

    name = "ollama_chat"

    @staticmethod
    def read(body: dict[str, Any]) -> Ask:
        return read_ollama_chat(body)

    def __init__(self, model_id: str, ask: Ask) -> None:
        super().__init__(model_id, ask)
        self._pieces: list[CallDelta] = []

    def content(self, text: str, thought: str = "", calls: list[ToolCall] | None = None) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thought:
            message["thinking"] = thought
        if calls:
            functions = [{"index": index, "name": call.name, "arguments": call.arguments_object()} for index, call in enumerate(calls)]
            message["tool_calls"] = [{"id": call.id, "function": function} for call, function in zip(calls, functions, strict=True)]
        return {"message": message}

    def template(self, kind: int, choice: int) -> tuple[bytes, bytes] | None:
        name = {TEXT: b'"content":"', REASONING: b'"content":"","thinking":"'}[kind]
        return self._open + b',"message":{"role":"assistant",' + name, b'"},"done":false}\n'

    def event(self, choice: int, event: Delta) -> bytes:
        self._pieces += event.calls
        is_said = event.text or event.reasoning or event.probabilities
        return super().event(choice, event) if is_said else b""

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes:
        calls = self.part(self.content("", calls=joined_calls(self._pieces))) if self._pieces else b""
        return calls + line({**self._head, **self.content(""), **self.end(choice, usage)})


class Generate(_Answer):
    """The flavour of POST /api/generate. `context` needs the text of the answer, so the text passes through here, except with `raw`."""

    name = "ollama_generate"

    @staticmethod
    def read(body: dict[str, Any]) -> Ask:
        return read_generate(body)

    def __init__(self, model_id: str, ask: Ask) -> None:
        super().__init__(model_id, ask)
        messages = ask.generates[0].messages
        self._messages = ask.pictures.unseen(messages) if messages is not None else None
        self._texts: list[str] = []

    def content(self, text: str, thought: str = "", calls: list[ToolCall] | None = None) -> dict[str, Any]:
        return {"response": text, **({"thinking": thought} if thought else {})}

    def template(self, kind: int, choice: int) -> tuple[bytes, bytes] | None:
        if self._messages is not None:
            return None
        return self._open + b',"response":"', b'","done":false}\n'

    def event(self, choice: int, event: Delta) -> bytes:
        self._texts.append(event.text)
        return super().event(choice, event)

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes:
        return line({**self._head, **self.content(""), **self.end(choice, usage), **self._context("".join(self._texts))})

    def whole(self, choices: list[Choice], usage: Usage) -> dict[str, Any]:
        return {**super().whole(choices, usage), **self._context(choices[0].text)}

    def _context(self, text: str) -> dict[str, Any]:
        if self._messages is None:
            return {}
        return {"context": pack([*self._messages, {"role": "assistant", "content": text}])}
