"""Reads a value that a model writes, and writes it as JSON text while it comes."""

import ast
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from fastrouter.worker.text.parsers.source import SPACE, MalformedError, Reading, Source

Write = Callable[[str], None]

DEEPEST = 256  # containers inside each other; readers of JSON have a limit like this too
LONGEST_ATOM = 1024  # characters of a number or a word
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_STOPS = '\\"' + "".join(map(chr, range(32)))  # characters that JSON must escape
_ESCAPES = {"n": "\\n", "t": "\\t", "r": "\\r", "b": "\\b", "f": "\\f", "/": "/", '"': '\\"', "\\": "\\\\", "'": "'"}
_CONTROLS = re.compile(r'["\\\x00-\x1f]')
_JSON_WORDS = {"true": "true", "false": "false", "null": "null"}
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null", **_JSON_WORDS}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a language writes values."""

    quotes: tuple[str, ...]
    words: dict[str, str]
    escapes: bool = True  # a backslash in a string is an escape
    copies: bool = False  # it is JSON: white space and escapes stay unchanged
    bare_keys: bool = False  # keys are not quoted
    bare_strings: bool = False  # strings may be without quotes
    openers: str = "{["
    ends: str = ",]}:"


JSON = Dialect(('"',), _JSON_WORDS, copies=True)
PYTHON = Dialect(("'", '"'), _PYTHON_WORDS, openers="{[(", ends=",]}:)")
_CLOSERS = {"{": "}", "[": "]", "(": ")"}


def braces(quote: str) -> Dialect:
    """Gemma's values."""
    return Dialect((quote, '"'), _PYTHON_WORDS, escapes=False, bare_keys=True, bare_strings=True)


def escaped(text: str) -> str:
    """Text in the form that it has inside a JSON string."""
    return _CONTROLS.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return json.dumps(match.group())[1:-1]


def read_value(source: Source, write: Write, dialect: Dialect) -> Reading[None]:
    """Read one value."""
    open_: list[str] = []
    while True:
        if (yield from _begin(source, write, dialect, open_)):
            continue  # a container was opened, and is not empty
        while open_:
            if (yield from _next(source, write, dialect, open_)):
                break  # another value follows
        else:
            return


def _begin(source: Source, write: Write, dialect: Dialect, open_: list[str]) -> Reading[bool]:
    """Read a value up to its first inner value. True if there is one."""
    char = yield from _char(source, write, dialect)
    if char not in dialect.openers:
        yield from _scalar(source, write, dialect)
        return False
    if len(open_) == DEEPEST:
        raise MalformedError
    source.at += 1
    write("[" if char == "(" else char)
    if (yield from _char(source, write, dialect)) == _CLOSERS[char]:
        source.at += 1
        write("]" if char == "(" else _CLOSERS[char])
        return False
    open_.append(char)
    if char == "{":
        yield from read_key(source, write, dialect)
    return True


def _next(source: Source, write: Write, dialect: Dialect, open_: list[str]) -> Reading[bool]:
    """After a value in a container: close the container, or continue with the next value. True if a value follows."""
    closer = _CLOSERS[open_[-1]]
    char = yield from _char(source, write, dialect)
    if char == ",":
        source.at += 1
        if dialect.copies:
            write(",")
            char = yield from _char(source, write, dialect)
        else:
            char = yield from _char(source, write, dialect)
            if char != closer:
                write(", ")
        if char != closer:
            if closer == "}":
                yield from read_key(source, write, dialect)
            return True
        if dialect.copies:
            raise MalformedError
    if char != closer:
        raise MalformedError
    source.at += 1
    write("]" if closer == ")" else closer)
    open_.pop()
    return False


def _char(source: Source, write: Write, dialect: Dialect) -> Reading[str]:
    """The next character that is not white space."""
    while True:
        before = source.at
        char = _skip(source)
        if dialect.copies and source.at > before:
            write(source.text[before : source.at])
        if char:
            return char
        yield from source.more()


def _skip(source: Source) -> str:
    """Skip the white space that has come. "" if more may come."""
    text, at = source.text, source.at
    while at < len(text) and text[at] in SPACE:
        at += 1
    source.at = at
    return text[at] if at < len(text) else ""


def read_key(source: Source, write: Write, dialect: Dialect) -> Reading[None]:
    """Read a key and the colon after it."""
    yield from _char(source, write, dialect)
    quote = yield from _quote(source, dialect)
    if quote:
        write('"')
        yield from read_string(source, write, quote, dialect)
        write('"')
    elif dialect.bare_keys:
        write('"' + escaped((yield from _word(source, ":")).strip()) + '"')
    else:
        raise MalformedError
    if (yield from _char(source, write, dialect)) != ":":
        raise MalformedError
    source.at += 1
    write(":" if dialect.copies else ": ")


def _quote(source: Source, dialect: Dialect) -> Reading[str]:
    for quote in dialect.quotes:
        if (yield from source.accept(quote)):
            return quote
    return ""


def _scalar(source: Source, write: Write, dialect: Dialect) -> Reading[None]:
    quote = yield from _quote(source, dialect)
    if quote:
        write('"')
        yield from read_string(source, write, quote, dialect)
        write('"')
        return
    word = yield from _word(source, dialect.ends)
    try:
        write(_atom(word.strip(), dialect))
    except MalformedError:
        source.at -= len(word)
        raise


def _atom(word: str, dialect: Dialect) -> str:
    if word in dialect.words:
        return dialect.words[word]
    if NUMBER.fullmatch(word):
        return word
    if dialect.copies or not word:
        raise MalformedError
    if dialect.bare_strings:
        return '"' + escaped(word) + '"'
    return _python_number(word)


def _python_number(word: str) -> str:
    """A number in a form that Python has and JSON has not: 1_000, +5, .5, 0x10."""
    try:
        value = ast.literal_eval(word)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise MalformedError from None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value in (float("inf"), -float("inf")):
        raise MalformedError
    return repr(value)


def _word(source: Source, ends: str) -> Reading[str]:
    """Read up to one of these characters."""
    stops = _any_of(ends)
    seen = 0
    while True:
        found = stops.search(source.text, source.at + seen)
        end = found.start() if found else len(source.text)
        if end - source.at > LONGEST_ATOM:
            raise MalformedError
        if found:
            word, source.at = source.text[source.at : end], end
            return word
        seen = end - source.at
        yield from source.more()


@lru_cache(maxsize=64)
def _any_of(characters: str) -> re.Pattern[str]:
    return re.compile("[" + re.escape(characters) + "]")


def read_string(source: Source, write: Write, quote: str, dialect: Dialect) -> Reading[None]:
    """Read the rest of a string after its quote, and the quote at its end."""
    stops = _any_of(quote[0] + _STOPS)
    while True:
        text, at = source.text, source.at
        found = stops.search(text, at)
        if found is None:
            write(text[at:])
            source.at = len(text)
            yield from source.more()
            continue
        source.at = found.start()
        write(text[at : source.at])
        if (yield from source.accept(quote)):
            return
        yield from _special(source, write, dialect)


def _special(source: Source, write: Write, dialect: Dialect) -> Reading[None]:
    """One character of a string that JSON must escape."""
    char = source.text[source.at]
    if char != "\\" or not dialect.escapes:
        source.at += 1
        write(escaped(char))
        return
    source.at += 1
    following = yield from source.peek()
    if following in "uUx":
        yield from _code(source, write, following, dialect)
        return
    source.at += 1
    if dialect.copies and following in 'nrtbf/"\\':
        write("\\" + following)
    else:
        write(_ESCAPES.get(following) or "\\\\" + escaped(following))


_DIGITS = {"x": 2, "u": 4, "U": 8}
_HEX = re.compile(r"[0-9a-fA-F]+")


def _code(source: Source, write: Write, letter: str, dialect: Dialect) -> Reading[None]:
    """A character by its number: \\u00e9."""
    count = _DIGITS[letter] + 1
    while len(source.text) - source.at < count and not source.ended:
        if not _HEX.fullmatch(source.text[source.at + 1 :] or "0"):
            break
        yield
    digits = source.text[source.at + 1 : source.at + count]
    if len(digits) == count - 1 and _HEX.fullmatch(digits) and (letter == "u" or not dialect.copies) and int(digits, 16) < 0x110000:
        source.at += count
        write(f"\\u{digits}" if letter == "u" else escaped(chr(int(digits, 16))))
    else:
        source.at += 1
        write("\\\\" + letter)
