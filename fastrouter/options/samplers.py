"""Names of the steps of a sampling chain, in all their spellings, and what a GGUF file says of them. Must never know what a step does.

Invariant: what passes are the names that the core knows; an unknown one is a ValueError that repeats it.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

from fastrouter._core import SAMPLERS

LETTERS = dict(zip("edskypmxt", SAMPLERS, strict=True))  # llama-server's
_NOT_YET = {"infill": "i", "adaptive_p": "a"}
_ALIASES = {"nucleus": "top_p", "temp": "temperature", "typ": "typ_p", "typical_p": "typ_p"}


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "")


_BY_NAME = {_plain(name): name for name in (*SAMPLERS, *_NOT_YET)} | {_plain(alias): name for alias, name in _ALIASES.items()}


def names_of(names: Iterable[str]) -> list[str]:
    return [_known(_BY_NAME.get(_plain(name)), name) for name in names]


def names_of_letters(letters: str) -> list[str]:
    refused = {letter: name for name, letter in _NOT_YET.items()}
    return [_known(LETTERS.get(letter) or refused.get(letter), letter) for letter in letters]


def letters_of(names: Iterable[str]) -> str:
    letters = {name: letter for letter, name in LETTERS.items()}
    return "".join(letters[name] for name in names)


def _known(name: str | None, said: str) -> str:
    if name is None or name in _NOT_YET:
        why = f"{said!r} is none" if name is None else f"{name} is not supported yet"
        raise ValueError(f"one of {', '.join(SAMPLERS)} ({''.join(LETTERS)}), but {why}")
    return name


# ---------------------------------------------------------------- what a file says

OF_FILES = "general.sampling."
# Key -> setting, its type, least and most.
_OF_FILES: dict[str, tuple[str, Callable[[Any], float], float, float]] = {
    "temp": ("temperature", float, 0.0, math.inf),
    "top_k": ("top_k", int, 0, 0x7FFFFFFF),
    "top_p": ("top_p", float, 0.0, 1.0),
    "min_p": ("min_p", float, 0.0, 1.0),
    "xtc_probability": ("xtc_probability", float, 0.0, 1.0),
    "xtc_threshold": ("xtc_threshold", float, 0.0, 1.0),
    "penalty_last_n": ("repeat_last_n", int, -1, 0x7FFFFFFF),
    "penalty_repeat": ("repeat_penalty", float, 1e-3, 1e3),
    "mirostat": ("mirostat", int, 0, 2),
    "mirostat_tau": ("mirostat_tau", float, 0.0, 1e4),
    "mirostat_eta": ("mirostat_eta", float, 0.0, 1e4),
}


def defaults_of(value_of: Callable[[str], Any]) -> dict[str, Any]:
    """Settings by what `value_of` says of each key, empty or None for nothing; what makes no sense is passed over: nobody here can
    mend a file."""
    found: dict[str, Any] = {}
    for key, (name, convert, low, high) in _OF_FILES.items():
        try:
            value = round(convert(value_of(OF_FILES + key)), 6)  # as many digits as llama.cpp gives of a float
        except (ValueError, TypeError, OverflowError):
            continue
        if low <= value <= high and math.isfinite(value):
            found[name] = value
    sequence = value_of(f"{OF_FILES}sequence")
    try:
        names = names_of([name for name in sequence.split(";") if name.strip()] if isinstance(sequence, str) else [])
    except ValueError:
        return found
    return {**found, "samplers": names} if names else found
