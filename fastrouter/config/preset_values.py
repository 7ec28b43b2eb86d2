"""The value of a line of a preset file: where it ends, and what quotes around it mean. Must never know a key.

Invariant: what `write_value` writes is read by `read_value` as it was (but for a text that holds both kinds of quotes behind backslashes).
"""

import json
import re
from typing import NamedTuple

_COMMENT = re.compile(r"(?:^|\s+)[;#].*", re.DOTALL)  # after white space only: `samplers = top_k;min_p` is one value
_QUOTED = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'""", re.DOTALL)
_QUOTES = ('"', "'")
_BRACKETS = (("{", "}"), ("[", "]"))
_DECODER = json.JSONDecoder()


class Value(NamedTuple):
    text: str
    cut: str = ""  # the comment that was cut off, where what is left looks unfinished


def read_value(text: str, *, keeps_quotes: bool = False) -> Value:
    """A JSON value or a quoted one is read whole; any other ends where a comment begins. `keeps_quotes`: "..." is for whoever reads it
    next, as in a list of files."""
    text = text.strip()
    end = _end_of_whole(text)
    if end and (end == len(text) or _COMMENT.fullmatch(text, end)):
        whole = text[:end]
        is_json = whole[0] in "{["
        return Value(whole if is_json or (keeps_quotes and whole[0] == '"') else _without_quotes(whole))
    plain = _COMMENT.sub("", text).strip()
    return Value(plain, text[len(plain) :].strip() if _looks_unfinished(plain) else "")


def write_value(text: str, *, keeps_quotes: bool = False) -> str:
    """The text of a line that is read as this value; in quotes only where it has to be."""
    quoted = [quote + text.replace(quote, f"\\{quote}") + quote for quote in _QUOTES]
    return next((written for written in (text, *quoted) if read_value(written, keeps_quotes=keeps_quotes).text == text), text)


def _end_of_whole(text: str) -> int:
    """Where the JSON value or the quoted text ends that `text` begins with; 0: it begins with neither."""
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
    """A backslash before the same quote is left out, any other one stays."""
    return text[1:-1].replace(f"\\{text[0]}", text[0])


def _looks_unfinished(text: str) -> bool:
    if text[:1] in _QUOTES:
        return _end_of_whole(text) != len(text)
    return text[:1] in ("{", "[") and any(text.count(left) != text.count(right) for left, right in _BRACKETS)
