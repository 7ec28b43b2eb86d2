"""Preset files: INI text -> a layer of settings for each section, and the line of every mistake.

Invariant: a key is used, or refused by its name; it is never ignored. A mistake belongs to its section; only mistakes of the file itself,
or in [*], concern all sections. The table of flags says which values are valid.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastrouter.config.flag import Flag, Kind, Layer, Scope, Setting
from fastrouter.config.layers import add_setting
from fastrouter.config.preset_values import Value, read_value
from fastrouter.config.remote_presets import is_allowed
from fastrouter.config.values import convert, find_key, suggest
from fastrouter.errors import ConfigError
from fastrouter.system.text_file import read_text

EVERY_MODEL = "*"
_NEWLINE = re.compile(r"\r\n|\n|\r")
_SECTION = re.compile(r"\[\s*([^\]]+?)\s*\]\s*(?:[;#].*)?")
_OF_ONE_MODEL = ("model", "hf_repo", "hf_file", "mmproj", "aliases", "base")  # targets that cannot be the same for all models


@dataclass(frozen=True, slots=True)
class Presets:
    path: str = ""
    shared: Layer = field(default_factory=dict)  # [*]
    sections: Mapping[str, Layer] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)  # where each section begins
    key_lines: Mapping[tuple[str, str], int] = field(default_factory=dict)  # by section and target
    problems: tuple[str, ...] = ()  # of the file, or of [*]; each begins with the file and the line
    faults: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # the same by section; all other sections are good
    warnings: tuple[str, ...] = ()  # about lines that are followed, but probably not meant
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by section: paths where a missing file may appear
    text: str = ""  # of the whole file
    created: "Presets | None" = None  # sections of models that clients have made; they are in `sections` too

    def path_of(self, name: str) -> str:
        """The file of a section."""
        return self.created.path if self.created is not None and self.is_created(name) else self.path

    def is_created(self, name: str) -> bool:
        return self.created is not None and name in self.created.sections

    def with_created(self, created: "Presets") -> "Presets":
        """And the sections of another file. A section of this file comes before one with the same name there."""
        names = [name for name in created.sections if name not in self.sections]
        own = replace(created, sections={name: created.sections[name] for name in names})
        return replace(
            self,
            sections={**self.sections, **own.sections},
            lines={**created.lines, **self.lines},
            key_lines={**created.key_lines, **self.key_lines},
            faults={**{name: created.faults[name] for name in names if name in created.faults}, **self.faults},
            missing={**{name: created.missing[name] for name in names if name in created.missing}, **self.missing},
            created=own,
        )

    def where(self, name: str, target: str = "") -> str:
        """The line of a section's key, otherwise that of the section."""
        return f"{self.path_of(name)}:{self.key_lines.get((name, target), self.lines[name])} [{name}]"


def read_presets(path: Path, folders: Sequence[str] = (), text: str | None = None, *, is_remote: bool = False) -> Presets:
    """Reads all that can be read; all other lines are in `problems` and `faults`. A relative path is looked up next to the preset file,
    then in `folders`, then in the working directory. `text`: that of the file, when only the files that it names are looked up again.
    `is_remote`: it is from the hub, so it may not name what is on this machine. Raises ConfigError when the file is not text."""
    reader = _Reader(str(path), [os.path.dirname(path), *folders, ""], is_remote=is_remote)
    text = read_text(path, f"--models-preset {path}") if text is None else text
    for number, line in enumerate(_NEWLINE.split(text), 1):
        try:
            reader.read(number, line.strip(" \t"))
        except ConfigError as problem:
            reader.faults.setdefault(reader.name, []).append(problem.message)
    shared = reader.sections.pop(EVERY_MODEL, {})
    problems = [*reader.faults.pop("", []), *reader.faults.pop(EVERY_MODEL, [])]
    faults = {name: tuple(found) for name, found in reader.faults.items()}
    missing = {name: tuple(places) for name, places in reader.missing.items()}
    return Presets(
        str(path),
        shared,
        reader.sections,
        reader.lines,
        reader.key_lines,
        tuple(problems),
        faults,
        tuple(reader.warnings),
        missing,
        text,
    )


def first_of(problems: Iterable[str], path: object) -> str:
    """One line for all of them."""
    first, *others = problems
    return first + (f" (and {len(others)} more: `fastrouter preset check {path}` shows all)" if others else "")


class _Reader:
    def __init__(self, path: str, folders: Sequence[str], *, is_remote: bool) -> None:
        self._is_remote = is_remote
        self._path = path
        self._folders = list(dict.fromkeys(map(os.path.abspath, folders)))
        self._layer: dict[str, Setting] = {}
        self._written: set[str] = set()  # the flags seen in this section
        self.name = ""  # of the current section; "": before the first one
        self.sections: dict[str, dict[str, Setting]] = {}
        self.lines: dict[str, int] = {}
        self.key_lines: dict[tuple[str, str], int] = {}
        self.faults: dict[str, list[str]] = {}
        self.missing: dict[str, list[str]] = {}
        self.warnings: list[str] = []

    def read(self, number: int, line: str) -> None:
        where = f"{self._path}:{number}"
        if not line or line[0] in ";#":
            return
        if line.startswith("["):
            self._open(where, number, line)
            return
        key, equals, text = line.partition("=")
        key = key.strip()
        where += f" [{self.name}]" if self.name else ""
        if not equals or not key:
            raise ConfigError(f"{where}: expected `key = value`{_example(line)}, found {line[:80]!r}")
        if not self.name and key != "version":
            raise ConfigError(f"{where}: {key} is before the first [section]; put keys for all models below [*]")
        self._read_key(number, where, key, text)

    def _open(self, where: str, number: int, line: str) -> None:
        self._layer, self._written = {}, set()  # the keys below a bad heading are checked too
        match = _SECTION.fullmatch(line)
        self.name = match[1] if match else line[:80]
        is_new = self.name not in self.sections
        if is_new:
            self.sections[self.name] = self._layer
            self.lines[self.name] = number
        if match is None:
            raise ConfigError(f"{where}: not a section: {line[:80]!r}; it must look like [name]")
        if not is_new:
            raise ConfigError(f"{where}: section [{self.name}] appears twice, first in line {self.lines[self.name]}; rename one of them")

    def _read_key(self, number: int, where: str, key: str, text: str) -> None:
        found = find_key(key)
        if found is None:
            raise ConfigError(f"{where}: unknown key {key}{suggest(key)}")
        flag, is_on = found
        if flag.scope in (Scope.ROUTER, Scope.READY_MADE):
            raise ConfigError(f"{where}: {key} belongs to the router and cannot be set for a model")
        if self._is_remote and not is_allowed(flag):
            raise ConfigError(f"{where}: {key} is not allowed in a preset file from the hub: it is about this machine")
        if self.name == EVERY_MODEL and flag.target in _OF_ONE_MODEL:
            raise ConfigError(f"{where}: {key} is for one model and cannot be set for all; put it into that model's section")
        if flag.target:
            self.key_lines[self.name, flag.target] = number
        value = read_value(text, keeps_quotes=flag.keeps_quotes)
        place = f"{where} {key} = {value.text}"
        self._add(flag, place, self._convert(flag, value, place, is_on=is_on))
        if value.cut:
            self.warnings.append(f"{where} {key} = {value.text}: {_cut(value)}")

    def _convert(self, flag: Flag, value: Value, place: str, *, is_on: bool) -> Any:
        text = value.text
        if flag.kind is Kind.FOLDER and text and "\0" not in text:
            text = self._find(os.path.expanduser(text)) or text
        try:
            return convert(flag, text, place, is_on=is_on)
        except ConfigError as problem:
            raise ConfigError(f"{problem.message}; {_cut(value)}" if value.cut else problem.message) from None

    def _add(self, flag: Flag, place: str, value: Any) -> None:
        value, missing = self._to_absolute(flag, value)
        if flag.name in self._written and not flag.is_repeated:
            self._layer.pop(flag.target, None)  # the last value of a key counts; two keys of one list, as lora and lora-scaled, add up
        self._written.add(flag.name)
        if value is not None:
            add_setting(self._layer, flag, value)
        if missing:
            self.missing.setdefault(self.name, []).extend(candidate for path in missing for candidate in self._places(path))
            raise ConfigError(f"{place}: {'; '.join(map(self._not_there, missing))}")

    # ------------------------------------------------------------ files

    def _to_absolute(self, flag: Flag, value: Any) -> tuple[Any, list[str]]:
        """(the value with absolute paths, the paths that do not exist). Only a missing model stays: it is shown in the listing."""
        if flag.kind is Kind.PATH:
            place = self._find(value)
            return place or (self._places(value)[0] if flag.target == "model" else None), [] if place else [value]
        if flag.keeps_quotes:
            found = [(self._find(path), scale) for path, scale in value]
            missing = [path for path, _ in value if self._find(path) is None]
            return tuple((place, scale) for place, scale in found if place is not None) or None, missing
        return value, []

    def _places(self, path: str) -> list[str]:
        return list(dict.fromkeys(os.path.abspath(os.path.join(folder, path)) for folder in self._folders))

    def _find(self, path: str) -> str | None:
        """Its place; a broken link counts as existing."""
        return next((place for place in self._places(path) if os.path.lexists(place)), None)

    def _not_there(self, path: str) -> str:
        *others, last = self._places(path)
        return f"there is no such file; looked for {', '.join(others)}{' and ' * bool(others)}{last}"


def _example(line: str) -> str:
    """How to write a key that has no value."""
    found = find_key(line.strip())
    return f", as in `{line.strip()} = true`" if found is not None and found[0].kind is Kind.SWITCH else ""


def _cut(value: Value) -> str:
    return f"the comment `{value.cut[:80]}` ends the value here; put a value with ` #` or ` ;` in quotes, or write it as JSON"
