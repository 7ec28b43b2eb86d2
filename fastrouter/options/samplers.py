"""Names of the steps of a sampling chain, in all their spellings, and the sampling values of a GGUF file. Pure.

Invariant: names that pass are known to the core; an unknown one is a ValueError that repeats it.
"""

from collections.abc import Callable, Iterable
from typing import Any

from fastrouter._core import ADAPTIVE, SAMPLERS
from fastrouter.options.sampling import SAMPLING, SamplingField, Shape

LETTERS = dict(zip("edskypmxta", (*SAMPLERS, ADAPTIVE), strict=True))  # those of llama-server
_NOT_YET = {"infill": "i"}
_ALIASES = {"nucleus": "top_p", "temp": "temperature", "typ": "typ_p", "typical_p": "typ_p"}


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "")


_BY_NAME = {_plain(name): name for name in (*LETTERS.values(), *_NOT_YET)} | {_plain(alias): name for alias, name in _ALIASES.items()}


def names_of(names: Iterable[str]) -> list[str]:
    return [_known(_BY_NAME.get(_plain(name)), name) for name in names]


def names_of_letters(letters: str) -> list[str]:
    refused = {letter: name for name, letter in _NOT_YET.items()}
    return [_known(LETTERS.get(letter) or refused.get(letter), letter) for letter in letters]


def letters_of(names: Iterable[str]) -> str:
    letters = {name: letter for letter, name in LETTERS.items()}
    return "".join(letters[name] for name in names)


def _known(name: str | None, text: str) -> str:
    if name is None or name in _NOT_YET:
        why = f"{text!r} is not one of them" if name is None else f"{name} is not supported yet"
        raise ValueError(f"one of {', '.join(LETTERS.values())} ({''.join(LETTERS)}), but {why}")
    return name


# ---------------------------------------------------------------- values in a file

OF_FILES = "general.sampling."


def defaults_of(value_of: Callable[[str], Any]) -> dict[str, Any]:
    """Fields, from what `value_of` returns for each key; empty or None means no value. Invalid values are ignored."""
    keys = {field: OF_FILES + field.file_key for field in SAMPLING if field.file_key}
    found = {field.name: _in_file(field, value_of(key)) for field, key in keys.items()}
    return {name: value for name, value in found.items() if value is not None}


def _in_file(field: SamplingField, stored: Any) -> Any:
    """None: the file does not have it, or it is invalid."""
    try:
        if field.shape is Shape.SAMPLERS:
            return names_of(name for name in stored.split(";") if name.strip()) or None if isinstance(stored, str) else None
        value = round((int if field.shape is Shape.WHOLE else float)(stored), 6)  # as many digits as llama.cpp shows of a float
    except (ValueError, TypeError, OverflowError):
        return None
    return value if field.low <= value <= field.high else None
