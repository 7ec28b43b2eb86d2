"""OpenAI's /v1/audio/transcriptions, in llama-server's shapes; in addition plain text and verbose_json. Never imports: supervisor,
http.connection.
"""

from collections.abc import Coroutine
from functools import partial
from typing import Any

from fastrouter._core import Request
from fastrouter.api.flavours.openai import DONE, V1_ERRORS
from fastrouter.api.models.access import Models
from fastrouter.api.requests.bodies import parse_object
from fastrouter.api.requests.transcriptions import TranscriptionAsk, read_transcription
from fastrouter.api.serving.flavour import Choice, PlainText, Template, Usage
from fastrouter.api.serving.start import Generator
from fastrouter.errors import FastrouterError
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import SSE_HEADERS
from fastrouter.http.sse import comment, json_event
from fastrouter.ipc.records import Delta, PromptProgress


class Transcription:
    """One transcription, streamed or whole."""

    name = "transcriptions"
    stream_head = SSE_HEADERS
    errors = V1_ERRORS
    has_blocks = False

    def __init__(self, model_id: str, ask: TranscriptionAsk) -> None:
        self._ask = ask
        self._text = ""  # of a stream, so far

    @staticmethod
    def read(body: dict[str, Any]) -> TranscriptionAsk:
        return read_transcription(body)

    def template(self, kind: int, choice: int) -> tuple[bytes, bytes] | Template | None:
        return None

    def first(self, choice: int) -> bytes:
        return b""

    def event(self, choice: int, event: Delta) -> bytes:
        """Thoughts are not shown."""
        self._text += event.text
        return json_event({"type": "transcript.text.delta", "delta": event.text}) if event.text else b""

    def ping(self, text: bytes) -> bytes:
        return comment(text)

    def progress(self, choice: int, progress: PromptProgress) -> bytes:
        return b""

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes:
        return json_event(_done(self._text, usage))

    def done(self) -> bytes:
        return DONE

    def error_event(self, error: FastrouterError) -> bytes:
        return json_event(error.to_json())

    def whole(self, choices: list[Choice], usage: Usage) -> Any:
        text = choices[0].text
        if self._ask.response_format == "text":
            return PlainText(text)
        if self._ask.response_format == "json":
            return _done(text, usage)
        seconds = choices[0].finish.sound_ms / 1000
        about = {"task": "transcribe", "language": self._ask.language or "unknown", "duration": seconds}
        return {**about, "text": text, "usage": {"type": "duration", "seconds": seconds}}


def _done(text: str, usage: Usage) -> dict[str, Any]:
    tokens = {
        "type": "tokens",
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
    return {"type": "transcript.text.done", "text": text, "usage": tokens}


class Transcriptions:
    """The route."""

    def __init__(self, models: Models, generator: Generator) -> None:
        self._models = models
        self._generator = generator

    def transcribe(self, request: Request, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        body = parse_object(request)
        spec, _ = self._models.choose(request, body)
        is_lfm2 = spec.header is not None and spec.header.architecture.startswith("lfm2")
        temperature = None if "temperature" in spec.defaults.sampling else 0.0
        read = partial(read_transcription, body, is_lfm2=is_lfm2, temperature=temperature)
        return self._generator.read_and_start(request, exchange, read, Transcription)
