"""The value of a line of a preset file: where it ends, and what its quotes mean. Never imports: config.flag.

Invariant: `read_value` reads exactly what `write_value` was given (except for a text with both kinds of quotes behind backslashes).
"""

import json
import re
from typing import NamedTuple

_COMMENT = re.compile(r"(?:^|\s+)[;#].*", re.DOTALL)  # only after white space: `samplers = top_k;min_p` is one value
_QUOTED = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'""", re.DOTALL)
_QUOTES = ('"', "'")
_BRACKETS = (("{", "}"), ("[", "]"))
_DECODER = json.JSONDecoder()


class Value(NamedTuple):
    text: str
    cut: str = ""  # the comment that was cut off, when the rest looks unfinished


def read_value(text: str, *, keeps_quotes: bool = False) -> Value:
    """A JSON value or a quoted one is read whole; any other value ends where a comment begins. `keeps_quotes`: quotes stay in the value for
    its next reader, as in a list of files."""
    text = text.strip()
    end = _end_of_whole(text)
    if end and (end == len(text) or _COMMENT.fullmatch(text, end)):
        whole = text[:end]
        is_json = whole[0] in "{["
        return Value(whole if is_json or (keeps_quotes and whole[0] == '"') else _without_quotes(whole))
    plain = _COMMENT.sub("", text).strip()
    return Value(plain, text[len(plain) :].strip() if _looks_unfinished(plain) else "")


def write_value(text: str, *, keeps_quotes: bool = False) -> str:
    """The text of a line that is read as this value; with quotes only when they are needed."""
    quoted = [quote + text.replace(quote, f"\\{quote}") + quote for quote in _QUOTES]
    return next((written for written in (text, *quoted) if read_value(written, keeps_quotes=keeps_quotes).text == text), text)


def _end_of_whole(text: str) -> int:
    """The end of the JSON value or quoted text at the start of `text`; 0: there is none."""
    if text[:1] in _QUOTES:
        match = _QUOTED.match(text)
        return match.end() if match else 0
    if text[:1] not in ("{", "["):
        return 0
    try:
        return _DECODER.raw_decode(text)[1]
    except (ValueError, RecursionError):
        return 0


def _without_quotes(text: str) -> str:
    """A backslash before the same quote is removed, any other backslash stays."""
    return text[1:-1].replace(f"\\{text[0]}", text[0])


def _looks_unfinished(text: str) -> bool:
    if text[:1] in _QUOTES:
        return _end_of_whole(text) != len(text)
    return text[:1] in ("{", "[") and any(text.count(left) != text.count(right) for left, right in _BRACKETS)
