"""Texts cut into tokens, so that they are compared by markers and not by characters. Pure."""

import re
from collections.abc import Sequence

NEEDLE = r"ZQX[A-Z]+\d"  # the words of probes begin like this; no template has these words
_TOKEN = re.compile(rf"{NEEDLE}|<[^<>]*(?:>|$)|\[/?[A-Z][A-Z_ ]*\]|\s+|(?:(?!{NEEDLE})[^<\[\s])+|.", re.DOTALL)
_MARKER = re.compile(r"<[^<>\s][^<>]*|\[/?[A-Z]", re.DOTALL)
_MAX_MIRRORED = 8  # tokens
_SIDE = re.compile(r"start|begin|open|end|close|/", re.IGNORECASE)


def tokens_of(text: str) -> list[str]:
    """Tags, words in brackets, white space, words of probes, and the text between them. Together they are the whole text."""
    return _TOKEN.findall(text)


def common_prefix(*texts: str) -> str:
    """The start in which all have the same tokens."""
    return "".join(_common([tokens_of(text) for text in texts]))


def common_suffix(*texts: str) -> str:
    return "".join(reversed(_common([tokens_of(text)[::-1] for text in texts])))


def _common(lists: Sequence[list[str]]) -> list[str]:
    kept = []
    for tokens in zip(*lists, strict=False):
        if len(set(tokens)) > 1:
            break
        kept.append(tokens[0])
    return kept


def is_marker(token: str) -> bool:
    return _MARKER.match(token) is not None


def first_marker(text: str) -> str:
    return next(filter(is_marker, tokens_of(text)), "")


def mirrors(opening: str, closing: str) -> bool:
    """`<think>` and `</think>`, `<|START_THINKING|>` and `<|END_THINKING|>`."""
    return opening != closing and is_marker(opening) and _SIDE.sub("", opening) == _SIDE.sub("", closing)


def mirrored(opening: str, text: str) -> str:
    """The start of the text, if it closes `opening`, with the white space around it; else empty."""
    core, tokens, at = opening.strip(), tokens_of(text), 0
    if not is_marker(core):
        return ""
    for number, token in enumerate(tokens, 1):
        at += len(token)
        if mirrors(core, text[:at].strip()):
            space = tokens[number] if number < len(tokens) and tokens[number].isspace() else ""
            return text[:at] + space
        if number > _MAX_MIRRORED:
            break
    return ""


def split_first_marker(text: str) -> tuple[str, str]:
    """The text up to its first marker and the white space after it, and the rest."""
    tokens = tokens_of(text)
    end = next((number for number, token in enumerate(tokens, 1) if is_marker(token)), len(tokens))
    while end < len(tokens) and tokens[end].isspace():
        end += 1
    return "".join(tokens[:end]), "".join(tokens[end:])


def split_last_marker(text: str) -> tuple[str, str]:
    """The text before its last marker and the white space before that, and the rest."""
    tokens = tokens_of(text)
    start = next((number for number in range(len(tokens) - 1, -1, -1) if is_marker(tokens[number])), 0)
    while start > 0 and tokens[start - 1].isspace():
        start -= 1
    return "".join(tokens[:start]), "".join(tokens[start:])


def around(between: str, before: str, after: str) -> tuple[str, str, str]:
    """`close + gap + open`, where `before` ends with `open` and `after` begins with `close`: close, gap, open.

    White space that fits both is part of the close.
    """
    inner = tokens_of(between)
    opened = len(_common([inner[::-1], tokens_of(before)[::-1]]))
    closed = len(_common([inner, tokens_of(after)]))
    opened = min(opened, len(inner) - closed) if closed < len(inner) else opened
    if closed + opened > len(inner):  # all of it is `close` and `open`
        closed = len(inner) - opened
    close, gap, opening = ("".join(part) for part in (inner[:closed], inner[closed : len(inner) - opened], inner[len(inner) - opened :]))
    return close, gap, opening
