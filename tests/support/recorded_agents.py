"""Requests of coding agents, recorded without their words. A text is a list of numbered lines, and a line has only a length.

A recording keeps what decides about the answers: fields, roles, kinds of blocks, names of tools, schemas, and which lines come again in
later requests. `Shapes` makes it from real requests; `read_recording` makes requests from it, with other words.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_model import ABOUT, ANSWER, COMMAND, FILE, NOTE, QUESTIONS, SAYING, THOUGHT, TITLE
from tiny_models import WORDS

FOLDER = Path(__file__).parent.parent / "agents" / "recorded"
OWN = frozenset((FILE, NOTE, COMMAND, ABOUT, *QUESTIONS, THOUGHT, SAYING, ANSWER, TITLE))  # texts of these tests
HEADERS = ("anthropic-version", "anthropic-beta", "accept", "content-type")  # what is kept of a request's head
_TEXT, _PART = "$text", "$part"
_STEP = 8  # characters; the length of a line is a multiple of it
_SHORTER = 2  # texts of requests that are made again have this part of their length: a tiny model reads many tokens slowly
_MIN_PART = 100  # characters of JSON; what is shorter is written again
_PLAIN = re.compile(r"[\w.$:/#@+*-]{0,80}")  # a word that the interface needs, as in `"type": "text"`
_PLAIN_FIELDS = frozenset(
    (
        *("type", "role", "model", "name", "namespace", "tool_name", "tool_choice", "status", "effort", "summary", "include", "keep"),
        *("mode", "ttl", "scope", "syntax", "verbosity", "truncation", "service_tier", "required", "enum", "const", "default"),
        *("$ref", "$schema", "reasoning_effort", "format", "media_type", "display"),
    )
)
_ID_FIELDS = frozenset(("id", "call_id", "tool_use_id", "tool_call_id", "item_id", "prompt_cache_key", "session_id", "user_id"))
_NUMBERED = ("x-anthropic-billing-header:",)  # lines that the server knows by their start


class Shapes:
    """The shapes of requests of one conversation."""

    def __init__(self) -> None:
        self.lines: list[int | str] = []  # its length, or its text if that is ours
        self._numbers: dict[str, int] = {}
        self._ids: dict[str, str] = {}

    def of(self, value: Any, field: str = "") -> Any:
        if isinstance(value, dict):
            return {key: self.of(item, key) for key, item in value.items()}
        if isinstance(value, list):
            return [self.of(item, field) for item in value]
        return self._of_text(value, field) if isinstance(value, str) else value

    def _of_text(self, text: str, field: str) -> Any:
        if text in OWN or (field in _PLAIN_FIELDS and _PLAIN.fullmatch(text)):
            return text
        if field in _ID_FIELDS:
            return self._ids.setdefault(text, f"id_{len(self._ids)}")
        if field == "arguments" and _is_ours(text):
            return text
        return {_TEXT: [self._number(line) for line in text.split("\n")]}

    def _number(self, line: str) -> int:
        if line not in self._numbers:
            self._numbers[line] = len(self.lines)
            self.lines.append(_shape_of_line(len(self.lines), line))
        return self._numbers[line]


def _shape_of_line(number: int, line: str) -> int | str:
    if line in OWN or line in ("<think>", "</think>"):
        return line
    start = next((start for start in _NUMBERED if line.startswith(start)), "")
    length = -(-len(line) // _STEP) * _STEP
    return f"{start} {_filler(number, length)}" if start else length


def _is_ours(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and all(item in OWN or not isinstance(item, str) for item in value.values())


def write_recording(path: Path, version: str, shapes: Shapes, requests: list[dict[str, Any]]) -> None:
    """Requests that come again in parts are written once."""
    counts: Counter[str] = Counter()
    for request in requests:
        counts.update(_dumps(part) for part in _parts(request))
    numbers: dict[str, int] = {}
    parts: list[Any] = []

    def packed(value: Any, *, is_part: bool = False) -> Any:
        text = _dumps(value)
        if not is_part and isinstance(value, dict | list) and len(text) >= _MIN_PART and counts[text] > 1:
            if text not in numbers:
                new = packed(value, is_part=True)
                numbers[text] = len(parts)
                parts.append(new)
            return {_PART: numbers[text]}
        if isinstance(value, dict):
            return {key: item if key in (_TEXT, "headers") else packed(item) for key, item in value.items()}
        return [packed(item) for item in value] if isinstance(value, list) else value

    found = {"version": version, "requests": [packed(request) for request in requests], "parts": parts, "lines": shapes.lines}
    rows = [f"{json.dumps(key)}: {_rows(value)}" for key, value in found.items()]
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n")


def _rows(value: Any) -> str:
    if not isinstance(value, list) or not value or not isinstance(value[0], dict | list):
        return _dumps(value)
    return "[\n" + ",\n".join(map(_dumps, value)) + "\n]"


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict | list):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _parts(item)


# ---------------------------------------------------------------- requests again


@dataclass(frozen=True)
class Sent:
    """One request of an agent."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def is_main(self) -> bool:
        """It belongs to the conversation, not to a title or a probe."""
        return len(self.body.get("tools") or ()) > 2


@dataclass(frozen=True)
class Recording:
    name: str
    version: str
    requests: list[Sent]

    def __str__(self) -> str:
        return self.name

    @property
    def main(self) -> list[Sent]:
        return [sent for sent in self.requests if sent.is_main]


def read_recording(path: Path) -> Recording:
    found = json.loads(path.read_text())
    parts: list[Any] = []

    def expanded(value: Any) -> Any:
        if isinstance(value, list):
            return [expanded(item) for item in value]
        if not isinstance(value, dict):
            return value
        if _PART in value:
            return parts[value[_PART]]
        if _TEXT in value:
            return _with_words(value, found["lines"])
        return {key: expanded(item) for key, item in value.items()}

    for part in found["parts"]:  # a part comes after those inside it
        parts.append(expanded(part))
    return Recording(path.stem, found["version"], [Sent(**expanded(request)) for request in found["requests"]])


def with_words(shape: Any, shapes: Shapes) -> Any:
    """The value that has this shape, with other words."""
    if isinstance(shape, dict):
        return _with_words(shape, shapes.lines) if _TEXT in shape else {key: with_words(item, shapes) for key, item in shape.items()}
    return [with_words(item, shapes) for item in shape] if isinstance(shape, list) else shape


def _with_words(text: dict[str, list[int]], lines: list[int | str]) -> str:
    return "\n".join(_line(number, lines[number]) for number in text[_TEXT])


def _line(number: int, line: int | str) -> str:
    return line if isinstance(line, str) else _filler(number, line // _SHORTER)


def _filler(number: int, length: int) -> str:
    """Words, other ones for each number."""
    words = random.Random(number)
    text = ""
    while len(text) < length:
        text += f"{words.choice(WORDS)} "
    return text[:length]


RECORDINGS = [read_recording(path) for path in sorted(FOLDER.glob("*.json"))]
