"""Forms of /v1/audio/transcriptions -> a chat with one audio file, as llama-server makes it.

Invariant: as in fields.py, accepted values are valid. Others are a 400 that names the field.
"""

from dataclasses import dataclass, replace
from typing import Any

import orjson

from fastrouter.api.requests.checks import invalid, one_of, string
from fastrouter.api.requests.fields import Ask, read_chat
from fastrouter.api.requests.forms import FormFile
from fastrouter.api.requests.pictures import AUDIO, Pictures

FORMATS = ("json", "text", "verbose_json")
_PROMPT = "Transcribe audio to text"
_TEXTS = frozenset(("model", "prompt", "language", "response_format", "file"))  # other fields are JSON if they can be
_NO_TIMES = "cannot be used: the models here do not say when a word was spoken"


@dataclass(slots=True)
class TranscriptionAsk(Ask):
    response_format: str = "json"
    language: str = ""


def read_transcription(body: dict[str, Any], *, is_lfm2: bool = False, temperature: float | None = 0.0) -> TranscriptionAsk:
    """`is_lfm2`: models of this family want other words. `temperature`: if the body has none; None: the model has its own."""
    file = body.get("file")
    if not isinstance(file, FormFile):
        raise invalid("file", "is missing: send the audio as a file of a form (multipart/form-data)")
    response_format = _format(body.get("response_format"))
    if body.get("timestamp_granularities"):
        raise invalid("timestamp_granularities", _NO_TIMES)
    language = string("language", body.get("language", ""))
    pictures = Pictures()
    mark = pictures.add_content("file", file.content, AUDIO)
    text = string("prompt", body.get("prompt", "")) or ("" if is_lfm2 else _PROMPT)
    messages = [{"role": "user", "content": f"{text}{f' (language: {language})' if language else ''}{mark}"}]
    if is_lfm2:
        messages.insert(0, {"role": "system", "content": "Perform ASR."})
    fields = {name: value if name in _TEXTS else _value(value) for name, value in body.items() if name != "response_format"}
    if temperature is not None:
        fields.setdefault("temperature", temperature)
    ask = read_chat({**fields, "messages": messages})
    ask.pictures = pictures
    ask.generates = [replace(generate, pictures=pictures.marks) for generate in ask.generates]
    found = {name: getattr(ask, name) for name in Ask.__slots__}
    return TranscriptionAsk(**found, response_format=response_format, language=language)


def _format(value: Any) -> str:
    if value in ("srt", "vtt"):
        raise invalid("response_format", _NO_TIMES)
    return "json" if value is None else str(one_of(*FORMATS)("response_format", value))


def _value(value: Any) -> Any:
    """Everything in a form is a text."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
