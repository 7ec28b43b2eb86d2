"""Preset files: INI text -> a layer of settings per section, with the line of everything that is wrong. Must never know which models exist.

Invariant: a key is obeyed or refused by name, never ignored. What a value may be is the flag table's affair.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastrouter.config import Layer, Setting, add_setting, read_text
from fastrouter.errors import ConfigError
from fastrouter.flag import Scope
from fastrouter.flags import convert, find_key, suggest

EVERY_MODEL = "*"
_NEWLINE = re.compile(r"\r\n|\n|\r")
_SECTION = re.compile(r"\[\s*([^\]]+?)\s*\]\s*(?:[;#].*)?")
_COMMENT = re.compile(r"(?:^|\s+)[;#].*")  # after white space only: `samplers = top_k;min_p` is one value


@dataclass(frozen=True, slots=True)
class Presets:
    path: str = ""
    shared: Layer = field(default_factory=dict)  # [*]
    sections: Mapping[str, Layer] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)  # where each section begins
    problems: tuple[str, ...] = ()  # each opens with the file and the line

    def where(self, name: str) -> str:
        return f"{self.path}:{self.lines[name]} [{name}]"


def read_presets(path: Path) -> Presets:
    """All that can be read; what cannot is in `problems`. Raises ConfigError when the file is no text at all."""
    reader = _Reader(str(path))
    for number, line in enumerate(_NEWLINE.split(read_text(path, f"--models-preset {path}")), 1):
        try:
            reader.read(number, line.strip(" \t"))
        except ConfigError as problem:
            reader.problems.append(problem.message)
    shared = reader.sections.pop(EVERY_MODEL, {})
    return Presets(str(path), shared, reader.sections, reader.lines, tuple(reader.problems))


def first_of(problems: Iterable[str], path: object) -> str:
    """One line for all of them."""
    first, *others = problems
    return first + (f" (and {len(others)} more: `fastrouter preset check {path}` shows all)" if others else "")


class _Reader:
    def __init__(self, path: str) -> None:
        self._path = path
        self._name: str | None = None  # of the section it is in
        self._layer: dict[str, Setting] = {}
        self._written: set[str] = set()  # flags of the section so far
        self.sections: dict[str, dict[str, Setting]] = {}
        self.lines: dict[str, int] = {}
        self.problems: list[str] = []

    def read(self, number: int, line: str) -> None:
        where = f"{self._path}:{number}"
        if not line or line[0] in ";#":
            return
        if line.startswith("["):
            self._open(where, number, line)
            return
        key, equals, text = line.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"{where}: expected `key = value`, found {line[:80]!r}")
        if self._name is None and key != "version":
            raise ConfigError(f"{where}: {key} stands before the first [section]")
        self._read_key(f"{where} [{self._name}]", key, _COMMENT.sub("", text).strip())

    def _open(self, where: str, number: int, line: str) -> None:
        self._name, self._layer, self._written = line, {}, set()  # the keys below a bad heading are looked at too
        match = _SECTION.fullmatch(line)
        if match is None:
            raise ConfigError(f"{where}: not a section: {line[:80]!r}")
        self._name = match[1]
        if self._name in self.sections:
            raise ConfigError(f"{where}: section [{self._name}] is there twice, first in line {self.lines[self._name]}")
        self.sections[self._name] = self._layer
        self.lines[self._name] = number

    def _read_key(self, where: str, key: str, text: str) -> None:
        found = find_key(key)
        if found is None:
            raise ConfigError(f"{where}: unknown key {key}{suggest(key)}")
        flag, is_on = found
        if flag.scope is Scope.ROUTER:
            raise ConfigError(f"{where}: {key} belongs to the router and cannot be set for a model")
        said = f"{key} = {text} ({where})" if flag.scope is Scope.NOT_YET else f"{where} {key} = {text}"
        value = convert(flag, text, said, is_on=is_on)
        if flag.name in self._written and not flag.is_repeated:
            self._layer.pop(flag.target, None)  # of one key the last one counts; two keys of one list, as lora and lora-scaled, add up
        self._written.add(flag.name)
        add_setting(self._layer, flag, value)
