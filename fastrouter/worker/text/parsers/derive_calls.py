"""How calls are written, found in texts with known calls. Pure: strings in, `Calls` out.

Each text is what a model would write for these calls, without the thought before them and the end of the turn after them.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from fastrouter.worker.text.parsers.derive_text import NEEDLE, around, split_first_marker, split_last_marker
from fastrouter.worker.text.parsers.format import Braces, Calls, JsonObject, NameThenJson, Pythonic, Syntax, Tagged

NAMES = ("ZQXNAME1", "ZQXNAME2")
KEYS = ("ZQXKEY1", "ZQXKEY2")
VALUES = ("ZQXVALUE1", "ZQXVALUE2")
IDS = ("ZQXCALLI1", "ZQXCALLI2")  # nine letters and digits, as Mistral needs
NUMBER = 4711
ARGUMENTS = dict(zip(KEYS, VALUES, strict=True))
_NEEDLE = re.compile(NEEDLE)
_MAX_STARTS = 64  # places in a text that may be JSON; the cost of each grows with its depth
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Written:
    """A template's texts for calls; empty if it does not show them."""

    one: str  # NAMES[0] with ARGUMENTS
    two: str  # that, and NAMES[1] with ARGUMENTS
    bare: str  # NAMES[0] without arguments
    number: str  # NAMES[0], KEYS[0] is NUMBER


def derive_calls(written: Written) -> Calls | None:
    """None: a `Calls` cannot describe how these are written."""
    if any(word not in written.one for word in (NAMES[0], *KEYS, *VALUES)):
        return None
    calls = _json_calls(written) or _named_calls(written) or _other_calls(written)
    return None if calls is None or _NEEDLE.search(repr(calls)) else calls  # a text that differs between calls is not a marker


# ---------------------------------------------------------------- objects and arrays of JSON


def _values(text: str, word: str) -> Iterator[tuple[int, int, Any]]:
    """JSON values that hold this word: start, end, value; the outer ones first."""
    for found in islice(re.finditer(r"[{\[]", text), _MAX_STARTS):
        try:
            value, end = _DECODER.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        if word in text[found.start() : end]:
            yield found.start(), end, value


def _json_calls(written: Written) -> Calls | None:
    for start, end, value in _values(written.one, NAMES[0]):
        is_array = isinstance(value, list)
        syntax = _object_syntax(value[0] if is_array and value else value, is_array)
        if syntax is not None:
            if is_array:
                return Calls(syntax, section_open=_texts(written.one[:start]), section_close=written.one[end:])
            places = [(begin, stop) for begin, stop, _ in _outermost(written.two)]
            return _with_frame(syntax, written, (start, end), places)
    return None


def _outermost(text: str) -> list[tuple[int, int, Any]]:
    """The objects of two calls."""
    found: list[tuple[int, int, Any]] = []
    for name in NAMES:
        found += list(_values(text, name))[:1]
    return found if len(found) == len(NAMES) and found[0][1] <= found[1][0] else []


def _object_syntax(call: Any, is_array: bool) -> JsonObject | None:
    if not isinstance(call, dict):
        return None
    if NAMES[0] in call:
        return JsonObject(name_is_key=True, array=is_array) if _are_arguments(call[NAMES[0]]) else None
    function_key = next((key for key, value in call.items() if isinstance(value, dict) and NAMES[0] in value.values()), "")
    function = call[function_key] if function_key else call
    name_key = next((key for key, value in function.items() if value == NAMES[0]), None)
    arguments_key = next((key for key, value in function.items() if _are_arguments(value)), None)
    if name_key is None or arguments_key is None:
        return None
    id_key = next((key for key, value in call.items() if isinstance(value, str) and (value in IDS or key.endswith("_id"))), "")
    return JsonObject((name_key,), (arguments_key,), function_key, id_key=id_key, array=is_array)


def _are_arguments(value: Any) -> bool:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return False
    return bool(value == ARGUMENTS)


# ---------------------------------------------------------------- a name, then arguments as JSON


def _named_calls(written: Written) -> Calls | None:
    places = _named_places(written.one, NAMES[:1])
    if not places:
        return None
    begin, end = places[0]
    name_at = written.one.index(NAMES[0], begin)
    first_id = written.one[begin:name_at].removeprefix(IDS[0])
    arguments_at = written.one.index("{", name_at + len(NAMES[0]))
    middle = written.one[name_at + len(NAMES[0]) : arguments_at]
    before_id, id_, after_id = middle.partition(IDS[0])
    numbered = re.match(r":0(?!\d)", middle)
    if id_:
        syntax = NameThenJson(before_id=before_id, after_name=after_id)
    elif numbered:
        syntax = NameThenJson(numbered=True, after_name=middle[2:])
    else:
        syntax = NameThenJson(after_name=middle)
    syntax = replace(syntax, after_id=first_id)
    return _with_frame(syntax, written, (begin, end), _named_places(written.two, NAMES))


def _named_places(text: str, names: tuple[str, ...]) -> list[tuple[int, int]]:
    """From each name, or the id before it, to the end of its arguments."""
    places, at = [], 0
    for name, id_ in zip(names, IDS, strict=False):
        begin = text.find(name, at)
        found = next(_values(text[begin:], KEYS[0]), None) if begin >= 0 else None
        if found is None or found[2] != ARGUMENTS:
            return []
        id_at = text.find(id_, at, begin)
        at = begin + found[1]
        places.append((begin if id_at < 0 else id_at, at))
    return places


# ---------------------------------------------------------------- arguments that are not JSON


def _other_calls(written: Written) -> Calls | None:
    spans = _spans(written.one)
    if spans is None:
        return None
    name, (key1, value1), (key2, value2) = spans
    one = written.one
    to_key, to_value = one[name + len(NAMES[0]) : key1], one[key1 + len(KEYS[0]) : value1]
    if to_key == "(" and to_value.strip() in ("='", '="'):
        start, end = one[:name], one[value2 + len(VALUES[1]) :]
        before = start[: start.rfind("[")] if "[" in start else start
        return Calls(Pythonic(), section_open=_texts(before), section_close=end[end.rfind("]") + 1 :])
    if to_key == "{" and to_value.startswith(":"):
        return _braces(written, name, value2, to_value[1:])
    return _tagged(written, (name, key1, value1, key2, value2))


def _spans(text: str) -> tuple[int, tuple[int, int], tuple[int, int]] | None:
    """The places of name, keys and values, if they come in this order."""
    at, found = text.find(NAMES[0]), []
    begin = at
    for word in (KEYS[0], VALUES[0], KEYS[1], VALUES[1]):
        at = text.find(word, at)
        if at < 0:
            return None
        found.append(at)
    return begin, (found[0], found[1]), (found[2], found[3])


def _braces(written: Written, name: int, value2: int, quote: str) -> Calls | None:
    end = written.one.find("}", value2)
    if end < 0 or not quote:
        return None
    places = []
    for begin in (written.two.find(word) for word in NAMES):
        last = written.two.find(VALUES[1], begin) if begin >= 0 else -1
        if last >= 0:
            places.append((begin, written.two.find("}", last) + 1))
    return _with_frame(Braces(before_name="", quote=quote), written, (name, end + 1), places)


def _tagged(written: Written, places: tuple[int, int, int, int, int]) -> Calls | None:
    """Between the name and a key, between a value and the next key, after the last value. These texts must repeat."""
    name, key1, value1, key2, value2 = places
    one = written.one
    to_key = one[name + len(NAMES[0]) : key1]
    to_value = one[key1 + len(KEYS[0]) : value1]
    to_next = one[value1 + len(VALUES[0]) : key2]
    to_end = one[value2 + len(VALUES[1]) :]
    after_value, gap, before_key = around(to_next, to_key, to_end)
    after_value += gap
    if not before_key.strip() or not after_value.strip():
        return None
    after_name = to_key.removesuffix(before_key)
    end = len(one) - len(to_end) + len(_common_start(to_end, after_value))
    after_key, after_type, types = _types(written, to_value)
    syntax = Tagged("", after_name, before_key, after_key, after_value, "", after_type, types)
    seconds = []
    for begin in (written.two.find(word) for word in NAMES):
        last = written.two.find(VALUES[1], begin) if begin >= 0 else -1
        if last >= 0:
            stop = last + len(VALUES[1])
            seconds.append((begin, stop + len(_common_start(written.two[stop:], after_value))))
    return _with_frame(syntax, written, (name, end), seconds)


def _common_start(text: str, marker: str) -> str:
    """The marker as it begins the text, perhaps with less white space after it."""
    return marker if text.startswith(marker) else marker.rstrip() if text.startswith(marker.rstrip()) else ""


def _types(written: Written, to_value: str) -> tuple[str, str, tuple[str, ...]]:
    """The text between key and value: all of it, or with a type in it that differs for numbers."""
    found = re.search(rf"{KEYS[0]}(.*?){NUMBER}", written.number, re.DOTALL)
    if found is None or found[1] == to_value:
        return to_value, "", ()
    of_number = found[1]
    start = _equal_chars(to_value, of_number)
    end = _equal_chars(to_value[start:][::-1], of_number[start:][::-1])
    while start > 0 and to_value[start - 1].isalnum():
        start -= 1
    while end > 0 and to_value[-end].isalnum():
        end -= 1
    kind = to_value[start : len(to_value) - end]
    return (to_value[:start], to_value[len(to_value) - end :], (kind,)) if end and kind else (to_value, "", ())


def _equal_chars(left: str, right: str) -> int:
    return next((number for number, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


# ---------------------------------------------------------------- the text around each call


def _with_frame(syntax: Syntax, written: Written, one: tuple[int, int], two: list[tuple[int, int]]) -> Calls:
    """`one`: the place of the call in `written.one`; `two`: the places of both in `written.two`, if they are there."""
    before, after = written.one[: one[0]], written.one[one[1] :]
    if len(two) < 2:
        close, gap, opening = after, "", before
    else:
        close, gap, opening = around(written.two[two[0][1] : two[1][0]], written.two[: two[0][0]], written.two[two[1][1] :])
        before, after = written.two[: two[0][0]], written.two[two[1][1] :]
    if not close.strip():
        close, gap = "", close + gap
    if not opening.strip():
        gap, opening = gap + opening, ""
    section_open = before.removesuffix(opening)
    section_close = after.removeprefix(close)
    if not section_open.strip():
        section_open = ""
    return _arranged(syntax, section_open, section_close, opening, close, gap)


def _arranged(syntax: Syntax, section_open: str, section_close: str, opening: str, close: str, gap: str) -> Calls:
    """Moves the parts of a call's frame that belong to its syntax into the syntax."""
    if isinstance(syntax, NameThenJson | Tagged | Braces):
        opening, before_name = split_first_marker(opening)
        syntax = replace(syntax, before_name=before_name)
    if isinstance(syntax, Tagged):
        end, close = split_last_marker(close)
        syntax = replace(syntax, end=end)
    elif isinstance(syntax, NameThenJson):
        rest, close = split_last_marker(close)
        syntax = replace(syntax, after_arguments=rest)
    bare = isinstance(syntax, JsonObject) and not (opening or section_open)
    return Calls(syntax, _texts(opening), close, _texts(section_open), section_close, gap, bare)


def _texts(text: str) -> tuple[str, ...]:
    return (text,) if text.strip() else ()
