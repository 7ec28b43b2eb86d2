"""Layers of settings in other forms: as LoadOptions, as a command line, as a section of a preset file.

Invariant: a file or a text that cannot be used ends in a ConfigError that names its flag.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastrouter.config.flag import Kind, Layer, Scope, Setting
from fastrouter.config.preset_values import write_value
from fastrouter.config.values import unescape
from fastrouter.errors import ConfigError
from fastrouter.options.constraint_text import check_grammar, schema_text
from fastrouter.options.load import LoadOptions
from fastrouter.options.samplers import letters_of
from fastrouter.system.text_file import read_text, why_no_file


def load_options(layer: Layer) -> LoadOptions:
    fields: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    speculation: dict[str, Any] = {}
    for target, (flag, value) in layer.items():
        if target == "escape":
            continue
        if flag.kind is Kind.TEXTS:
            value = texts_of(layer, target)
        if target == "constraint":
            fields[target] = constraint_of(Setting(flag, value))
        elif flag.scope is Scope.SAMPLING:
            sampling[target] = value
        elif flag.scope is Scope.SPECULATION:
            if flag.kind is Kind.PATH:
                check_file(value, f"{flag.names[-1]} {value}")
            if value != ():  # an empty list
                speculation[target] = _as_lists(value)
        elif flag.scope is Scope.MODEL:
            if flag.kind is Kind.PATH:
                value = read_text(Path(value), f"{flag.names[-1]} {value}")
            fields[target] = _as_lists(value)
    if "ctx_size" in layer and not fields["ctx_size"]:
        fields["has_full_context"] = True
    if "cache_type_k" in layer or "cache_type_v" in layer:
        fields["keeps_cache_types"] = True
    return LoadOptions(**{"fit": "auto", **fields}, sampling=sampling, speculation=speculation)


def texts_of(layer: Layer, target: str) -> tuple[str, ...]:
    """Texts that may be given again, without their escapes unless --no-escape says that they have none."""
    has_escapes = "escape" not in layer or layer["escape"].value
    return tuple(map(unescape, layer[target].value)) if has_escapes else layer[target].value


def _as_lists(value: Any) -> Any:
    """As it is after a trip through a message."""
    return [_as_lists(item) for item in value] if isinstance(value, tuple) else value


def check_file(path: str, place: str) -> None:
    """Raises ConfigError."""
    if not Path(path).is_file():
        raise ConfigError(f"{place}: {why_no_file(Path(path))}")
    if path.encode("utf-8", "replace") != os.fsencode(path):
        raise ConfigError(f"{place}: the path is not UTF-8: rename it")


def constraint_of(setting: Setting) -> dict[str, str]:
    """The form that answers must have, like Generate.constraint. Raises ConfigError."""
    flag, value = setting
    place = flag.names[-1]
    try:
        if flag.kind is Kind.PATH:
            place = f"{place} {value}"
            value = read_text(Path(value), place)
        if "schema" not in flag.name:
            check_grammar(value)
            return {"kind": "gbnf", "field": place, "text": value}
        schema = json.loads(value) if isinstance(value, str) else value
        if not isinstance(schema, dict):
            raise ConfigError(f"{place}: must be a JSON object")
        return {"kind": "json_schema", "field": place, "text": schema_text(schema)}
    except (ValueError, RecursionError) as problem:
        raise ConfigError(f"{place}: {problem}") from None


def _texts_of(setting: Setting) -> list[str]:
    """More than one when the flag is given once for each value."""
    if setting.flag.kind is Kind.TEXTS:
        return list(setting.value) or ["none"]
    if setting.flag.kind is Kind.BIAS:
        return [f"{token}{bias:+g}" for token, bias in setting.value]
    return [_text_of(setting)]


def _text_of(setting: Setting) -> str:
    if setting.flag.kind in (Kind.SAMPLERS, Kind.LETTERS):
        return ";".join(setting.value) if setting.flag.kind is Kind.SAMPLERS else letters_of(setting.value)
    if setting.flag.kind is Kind.SCALED_FILES:
        return _quoted(f"{path}:{scale:g}" for path, scale in setting.value)
    if setting.flag.kind is Kind.METADATA:
        return _quoted(f"{key}={kind}:{_plain(value)}" for key, kind, value in setting.value)
    if setting.flag.kind is Kind.BUFFERS:
        return ",".join(f"{pattern}={buffer}" for pattern, buffer in setting.value)
    if isinstance(setting.value, tuple):
        between = " " if setting.flag.kind is Kind.LAYER_RANGE else ","
        return between.join(map(_plain, setting.value))
    if isinstance(setting.value, dict):
        return json.dumps(setting.value, ensure_ascii=False)
    return _plain(setting.value)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(texts: Iterable[str]) -> str:
    """A list whose items may have commas."""
    return ",".join('"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text for text in texts)


def to_arguments(settings: Iterable[Setting]) -> tuple[str, ...]:
    """The command line with the same meaning."""
    words: list[str] = []
    for setting in settings:
        flag = setting.flag
        if flag.kind is not Kind.SWITCH:
            words += [word for text in _texts_of(setting) for word in (flag.names[-1], text)]
        elif setting.value:
            words.append(flag.names[-1])
        elif flag.off_names:
            words.append(flag.off_names[-1])
    return tuple(words)


def to_section(name: str, layer: Layer) -> str:
    """The section of a preset file with the same meaning."""
    lines = [
        f"{setting.flag.name} = {write_value(text, keeps_quotes=setting.flag.keeps_quotes)}\n"
        for setting in layer.values()
        for text in _texts_of(setting)
    ]
    return "".join([f"[{name}]\n", *lines])
