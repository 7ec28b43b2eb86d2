"""The fields of /infill: the text before and after the gap, and other files. A worker makes the prompt from them.

Invariant: as in fields.py, accepted values are valid. Others are a 400 that names the field.
"""

from dataclasses import replace
from typing import Any, cast

from fastrouter.api.requests.bodies import Ids
from fastrouter.api.requests.checks import integer, invalid, string
from fastrouter.api.requests.fields import Ask, read_completion

MAX_EXTRA = 1024  # texts
_DEFAULT_FILENAME = "tmp"  # llama-server's
_token_id = integer(0)


def read_infill(body: dict[str, Any], *, is_verbose: bool = False) -> Ask:
    prompt = string("prompt", body["prompt"]) if body.get("prompt") is not None else ""
    infill = {
        "prefix": _side("input_prefix", body.get("input_prefix")),
        "suffix": _side("input_suffix", body.get("input_suffix")),
        "extra": _extra(body.get("input_extra")),
    }
    ask = read_completion({**body, "prompt": prompt}, is_verbose=is_verbose)
    ask.generates = [replace(generate, infill=infill) for generate in ask.generates]
    return ask


def _side(name: str, value: Any) -> str | list[Any]:
    """Text, token ids or a mix."""
    if value is None:
        raise invalid(name, "is missing")
    if isinstance(value, Ids):
        return cast(list[Any], value)
    if isinstance(value, list):
        return [item if isinstance(item, str) else _token_id(name, item) for item in value]
    return string(name, value)


def _extra(value: Any) -> list[list[str]]:
    """[filename, text] of each file."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise invalid("input_extra", 'must be a list of {"filename", "text"} objects')
    if len(value) > MAX_EXTRA:
        raise invalid("input_extra", f"has more than {MAX_EXTRA} entries")
    pairs = [(entry.get("filename"), entry.get("text")) for entry in value]
    return [
        [_DEFAULT_FILENAME if name is None else string("input_extra.filename", name), string("input_extra.text", text)]
        for name, text in pairs
    ]
