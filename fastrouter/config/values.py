"""Finds a flag by the word that a user wrote, and reads its value. The flags are in table.py.

Never imports: config.config, config.presets. Invariant: an invalid value ends in a ConfigError that says what was written and what it must
be.
"""

import csv
import json
import math
import os
import re
from collections.abc import Callable
from typing import Any

from fastrouter.config.flag import Flag, Kind, Scope
from fastrouter.config.table import TABLE
from fastrouter.errors import ConfigError
from fastrouter.options.endpoints import MAX_SERVERS, split_endpoint
from fastrouter.options.guess_types import guessers_of
from fastrouter.options.limits import FLOAT_MAX, INT32_MAX, MAX_CPUS, MAX_SCALE
from fastrouter.options.samplers import names_of, names_of_letters

TRUE_WORDS = ("1", "true", "on", "enabled")
FALSE_WORDS = ("0", "false", "off", "disabled")
ALL_LAYERS = 9999
MAX_METADATA_BYTES = 128  # of a key or a text, with the NUL at its end
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}

BY_NAME: dict[str, tuple[Flag, bool]] = {}  # with dashes; False: an off name
BY_ENV: dict[str, tuple[Flag, bool]] = {}
for _entry in TABLE:
    BY_NAME.update(dict.fromkeys(_entry.names, (_entry, True)) | dict.fromkeys(_entry.off_names, (_entry, False)))
    if _entry.env:
        BY_ENV[_entry.env] = (_entry, True)
        if _entry.off_names:
            BY_ENV[_entry.env.replace("LLAMA_ARG_", "LLAMA_ARG_NO_")] = (_entry, False)


def find_argument(name: str) -> tuple[Flag, bool]:
    """The flag of a word on the command line; False: the word is an off name."""
    found = BY_NAME.get(f"--{name[2:].replace('_', '-')}" if name.startswith("--") else name)
    if found is None or found[0].scope is Scope.PRESET:
        raise ConfigError(f"unknown flag {name}{suggest(name) or '; `fastrouter help` lists all'}")
    return found


def find_key(key: str) -> tuple[Flag, bool] | None:
    """The flag of a preset's key: a long or short name without dashes, or an environment name."""
    if key in BY_ENV:
        return BY_ENV[key]
    name = key.replace("_", "-")
    return BY_NAME.get(f"--{name}") or BY_NAME.get(f"-{key}") or BY_NAME.get(name)


def suggest(word: str) -> str:
    import difflib  # slow to import, and needed only for an error

    known = {name.lstrip("-"): name for name, (flag, _) in BY_NAME.items() if (flag.scope is not Scope.PRESET) or not word.startswith("-")}
    known = {name: meant for name, meant in known.items() if len(name) > 2}  # short forms resemble every word
    asked = word.lstrip("-").replace("_", "-").lower()
    near = difflib.get_close_matches(asked, known, 3)
    for match in sorted(near, key=lambda name: sorted(name) != sorted(asked)):  # first the same letters in another order
        return f", did you mean {known[match] if word.startswith('-') else match}?"
    return ""


def refuse_missing(flag: Flag, place: str) -> None:
    """Raise ConfigError when fastrouter does not have the flag."""
    if flag.scope is Scope.REMOVED:
        raise ConfigError(f"{place}: llama-server has removed this flag; {flag.help}")
    if flag.scope is Scope.REFUSED:
        raise ConfigError(f"{place}: not possible here: {flag.help}")


def convert(flag: Flag, text: str, place: str, *, is_on: bool = True) -> Any:
    """The value that `text` means, negated for an off name. `place`: what the user wrote and where; the ConfigError begins with it."""
    refuse_missing(flag, place)
    try:
        value = _CONVERTERS[flag.kind](text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise ConfigError(f"{place}: must be {error if flag.kind in _SAYS_WHY else flag.kind.value}") from None
    if flag.choices and value not in flag.choices:
        raise ConfigError(f"{place}: must be one of {', '.join(flag.choices)}")
    if isinstance(value, int | float) and not flag.low <= value <= flag.high:
        has_high = flag.high < FLOAT_MAX or value > flag.high
        raise ConfigError(f"{place}: must be " + (f"between {flag.low:g} and {flag.high:.15g}" if has_high else f"{flag.low:g} or more"))
    return value if is_on else not value


def _to_switch(text: str) -> bool:
    word = text.strip().lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise ValueError(f"one of {', '.join(TRUE_WORDS + FALSE_WORDS)}")
    return word in TRUE_WORDS


def _to_int(text: str) -> int:
    if not text.strip().isascii() or "_" in text:
        raise ValueError(text)
    return int(text)


def _to_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or "_" in text:
        raise ValueError(text)
    return value


def _to_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _to_files(text: str) -> tuple[tuple[str, float], ...]:
    """(path, scale) of each; a name with a comma is put in quotes, as in llama-server."""
    text.encode()  # raises for a name that is not UTF-8, which could not be sent to the worker
    try:
        [names] = csv.reader([text], strict=True)
    except csv.Error as error:
        raise ValueError(text) from error
    if not names:
        raise ValueError(text)
    return tuple((_to_path(name.strip()), 1.0) for name in names)


def _to_scaled_files(text: str) -> tuple[tuple[str, float], ...]:
    pairs = [name.rpartition(":") for name, _ in _to_files(text)]
    scaled = tuple((_to_path(path), _to_float(scale)) for path, _, scale in pairs)
    if any(abs(scale) > MAX_SCALE for _, scale in scaled):
        raise ValueError(text)
    return scaled


def _to_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


def _to_samplers(text: str) -> tuple[str, ...]:
    return tuple(names_of(name for name in text.split(";") if name.strip()))


def _to_letters(text: str) -> tuple[str, ...]:
    return tuple(names_of_letters(text.strip()))


def _to_texts(text: str) -> tuple[str, ...]:
    """ "none" means no text."""
    return () if text in ("none", "") else (text,)


def unescape(text: str) -> str:
    """llama-server's escapes, so that a line can contain a newline."""
    return re.sub(r"\\([nrt'\"\\])", lambda match: _ESCAPES.get(match[1], match[1]), text)


def _to_bias(text: str) -> tuple[tuple[int, float], ...]:
    match = re.fullmatch(r"\s*(\d{1,9})\s*([+-][^+-].*)", text, re.ASCII)
    if match is None:
        raise ValueError(text)
    return ((int(match[1]), _to_float(match[2])),)


def _to_guessers(text: str) -> tuple[str, ...]:
    return guessers_of(text.split(","))


def _to_layers(text: str) -> int:
    words = {"auto": -1, "all": ALL_LAYERS, "-2": ALL_LAYERS}
    return words[text] if text in words else _to_int(text)


def _to_memory(text: str) -> int:
    return -1 if text == "auto" else _to_int(text)


def _to_device_memory(text: str) -> int | tuple[tuple[str, int], ...]:
    if "=" not in text:
        return _to_memory(text)
    pairs = [(name.strip(), _to_int(mib)) for name, _, mib in (part.rpartition("=") for part in text.split(","))]
    if not all(name and mib >= 0 for name, mib in pairs):
        raise ValueError(text)
    return tuple(pairs)


def _to_cpu_mask(text: str) -> str:
    if not re.fullmatch(rf"(0[xX])?[0-9a-fA-F]{{1,{MAX_CPUS // 4}}}", text) or not int(text, 16):
        raise ValueError(text)
    return text


def _to_cpu_range(text: str) -> str:
    match = re.fullmatch(r"(\d{0,3})-(\d{0,3})", text, re.ASCII)
    if match is None or not int(match[1] or 0) <= int(match[2] or MAX_CPUS - 1) < MAX_CPUS:
        raise ValueError(text)
    return text


def _to_metadata(text: str) -> tuple[tuple[str, str, Any], ...]:
    """(key, type, value) of each; a value with a comma is put in quotes, as in llama-server."""
    [pairs] = csv.reader([text], strict=True)
    found = []
    for key, equals, rest in (pair.strip().partition("=") for pair in pairs):
        kind, _, value = rest.partition(":")
        if not equals or not 0 < len(key.encode()) < MAX_METADATA_BYTES or kind not in _METADATA:
            raise ValueError(text)
        found.append((key, kind, _METADATA[kind](value)))
    if not found:
        raise ValueError(text)
    return tuple(found)


def _to_metadata_text(text: str) -> str:
    if len(text.encode()) >= MAX_METADATA_BYTES:
        raise ValueError(text)
    return text


def _to_metadata_int(text: str) -> int:
    value = _to_int(text)
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(text)
    return value


def _to_boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


_METADATA: dict[str, Callable[[str], Any]] = {"int": _to_metadata_int, "float": _to_float, "bool": _to_boolean, "str": _to_metadata_text}


def _to_buffers(text: str) -> tuple[tuple[str, str], ...]:
    pairs = tuple(pair.partition("=")[::2] for pair in text.split(","))
    if not all(pattern and buffer.strip() for pattern, buffer in pairs):
        raise ValueError(text)
    return tuple((pattern, buffer.strip()) for pattern, buffer in pairs)


def _to_devices(text: str) -> tuple[str, ...]:
    names = _to_list(text)
    if not names or ("none" in names and len(names) > 1):
        raise ValueError(text)
    return names


def _to_servers(text: str) -> tuple[str, ...]:
    endpoints = tuple(dict.fromkeys(_to_list(text)))
    if not 0 < len(endpoints) <= MAX_SERVERS:
        raise ValueError(text)
    for endpoint in endpoints:
        split_endpoint(endpoint)
    return endpoints


def _to_proportions(text: str) -> tuple[float, ...]:
    found = tuple(_to_float(part) for part in re.split(r"[,/]+", text.strip()))
    if min(found) < 0 or not any(found):
        raise ValueError(text)
    return found


def _to_layer_range(text: str) -> tuple[int, int]:
    first, last = (_to_int(part) for part in re.split(r"[\s,-]+", text.strip()))
    if not 0 <= first <= last <= INT32_MAX:
        raise ValueError(text)
    return first, last


def _to_sizes(text: str) -> tuple[int, ...]:
    found = tuple(_to_int(part) for part in re.split(r"[,/]+", text.strip()))
    if min(found) < 0:
        raise ValueError(text)
    return found


def _to_three_way(text: str) -> str:
    if text in ("auto", "-1"):
        return "auto"
    return "on" if _to_switch(text) else "off"


def _to_path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("a path")
    return os.path.expanduser(text)


def _to_folder(text: str) -> str:
    """Absolute: a worker may have another working directory."""
    path = os.path.abspath(_to_path(text))
    if not os.path.isdir(path):
        raise ValueError("an existing folder")
    return path


def _to_new_folder(text: str) -> str:
    path = os.path.abspath(_to_path(text))
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise ValueError(f"a folder, and it cannot be made: {error.strerror}") from None
    return path


_CONVERTERS: dict[Kind, Callable[[str], Any]] = {
    Kind.SWITCH: _to_switch,
    Kind.INT: _to_int,
    Kind.FLOAT: _to_float,
    Kind.TEXT: str,
    Kind.PATH: _to_path,
    Kind.FOLDER: _to_folder,
    Kind.LIST: _to_list,
    Kind.FILES: _to_files,
    Kind.SCALED_FILES: _to_scaled_files,
    Kind.JSON: _to_object,
    Kind.SAMPLERS: _to_samplers,
    Kind.LETTERS: _to_letters,
    Kind.GUESSERS: _to_guessers,
    Kind.TEXTS: _to_texts,
    Kind.BIAS: _to_bias,
    Kind.LAYERS: _to_layers,
    Kind.THREE_WAY: _to_three_way,
    Kind.MEMORY: _to_memory,
    Kind.DEVICE_MEMORY: _to_device_memory,
    Kind.CPU_MASK: _to_cpu_mask,
    Kind.CPU_RANGE: _to_cpu_range,
    Kind.METADATA: _to_metadata,
    Kind.BUFFERS: _to_buffers,
    Kind.DEVICES: _to_devices,
    Kind.SERVERS: _to_servers,
    Kind.PROPORTIONS: _to_proportions,
    Kind.LAYER_RANGE: _to_layer_range,
    Kind.NEW_FOLDER: _to_new_folder,
    Kind.SIZES: _to_sizes,
}
_SAYS_WHY = (Kind.SWITCH, Kind.PATH, Kind.FOLDER, Kind.NEW_FOLDER, Kind.SAMPLERS, Kind.LETTERS, Kind.GUESSERS)
