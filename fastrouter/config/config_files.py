"""Configuration files: which there are, and INI text -> a layer of settings, each with its line.

Never imports: config.config, config.presets. Invariant: a line is used, or it is an error that names the file, the line and the key. Only
in llama.cpp's own files, which all of its programs share, other keys and sections are left out, with a warning.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastrouter.config.flag import Flag, Kind, Layer, Scope, Setting
from fastrouter.config.layers import add_setting
from fastrouter.config.preset_values import read_value
from fastrouter.config.values import convert, find_key, suggest
from fastrouter.errors import ConfigError
from fastrouter.system.text_file import read_text

log = logging.getLogger("fastrouter.config")

SYSTEM_FOLDER = Path("/etc")
SECRETS = ("api_keys", "hf_token", "mcp_servers_json")  # targets whose values are never shown
CHOOSERS = ("config_file", "no_config", "llama_config")  # targets of the flags that say which files are read
_FILE = "config.ini"
_SECTION = re.compile(r"\[\s*([^\]]*?)\s*\]\s*(?:[;#].*)?")
_OPEN_TO_OTHERS = 0o044


@dataclass(frozen=True, slots=True)
class ConfigFiles:
    """What all of them say together; the later file wins."""

    paths: tuple[Path, ...] = ()
    layer: Layer = field(default_factory=dict)
    lines: Mapping[str, str] = field(default_factory=dict)  # target -> FILE:LINE


def read_config_files(chosen: Layer, environ: Mapping[str, str]) -> ConfigFiles:
    """`chosen`: the flags that say which ones. Raises ConfigError."""
    layer: dict[str, Setting] = {}
    lines: dict[str, str] = {}
    paths = list(_files(chosen, environ))
    for path, is_llamas in paths:
        reader = _Reader(path, is_llamas=is_llamas)
        reader.read()
        layer |= reader.layer
        lines |= reader.lines
    return ConfigFiles(tuple(path for path, _ in paths), layer, lines)


def _files(chosen: Layer, environ: Mapping[str, str]) -> Iterator[tuple[Path, bool]]:
    """(path, whether it is one of llama.cpp's), the most general one first."""
    if "config_file" in chosen:
        yield Path(chosen["config_file"].value), False
        return
    if "no_config" in chosen and chosen["no_config"].value:
        return
    names = ("llama.cpp", "fastrouter") if "llama_config" in chosen and chosen["llama_config"].value else ("fastrouter",)
    for name in names:
        for folder in (SYSTEM_FOLDER, user_folder(environ)):
            if folder is not None and os.path.lexists(path := folder / name / _FILE):
                yield path, name != "fastrouter"


def user_folder(environ: Mapping[str, str]) -> Path | None:
    for name, below in (("XDG_CONFIG_HOME", ""), ("HOME", ".config")):
        if os.path.isabs(environ.get(name, "")):  # the XDG rules: a relative path counts as unset
            return Path(environ[name], below)
    return None


class _Reader:
    """Of one file."""

    def __init__(self, path: Path, *, is_llamas: bool) -> None:
        self._path = path
        self._is_llamas = is_llamas
        self._is_skipping = False  # a section of llama.cpp's file that is for another program
        self.layer: dict[str, Setting] = {}
        self.lines: dict[str, str] = {}

    def read(self) -> None:
        """Raises ConfigError."""
        for number, line in enumerate(re.split(r"\r\n|\n|\r", read_text(self._path, str(self._path))), 1):
            line = line.strip(" \t")
            if line and line[0] not in ";#":
                self._read_line(f"{self._path}:{number}", line)
        self._warn_of_open_secrets()

    def _read_line(self, where: str, line: str) -> None:
        if line.startswith("["):
            self._open_section(where, line)
            return
        key, equals, text = (part.strip() for part in line.partition("="))
        if self._is_skipping or key == "version":
            return
        if not equals or not key:
            raise ConfigError(f"{where}: expected `key = value`, found {line[:80]!r}")
        self._read_key(where, key, text)

    def _open_section(self, where: str, line: str) -> None:
        match = _SECTION.fullmatch(line)
        if match is None:
            raise ConfigError(f"{where}: not a section: {line[:80]!r}; it must look like [*]")
        self._is_skipping = match[1] not in ("*", "default")
        if self._is_skipping and not self._is_llamas:
            raise ConfigError(f"{where}: [{match[1]}]: a configuration file has only [*]; sections of models belong into a preset file")

    def _read_key(self, where: str, key: str, text: str) -> None:
        found = find_key(key)
        if found is None or found[0].scope is Scope.PRESET or found[0].target in CHOOSERS:
            self._refuse(where, key, is_known=found is not None)
            return
        flag, is_on = found
        value = read_value(text, keeps_quotes=flag.keeps_quotes).text
        place = f"{where} {key}" if flag.target in SECRETS else f"{where} {key} = {value}"
        add_setting(self.layer, flag, self._from_here(flag, convert(flag, self._folder(flag, value), place, is_on=is_on)))
        self.lines[flag.target] = where

    def _refuse(self, where: str, key: str, *, is_known: bool) -> None:
        if self._is_llamas:
            log.warning("%s: %s is left out: fastrouter does not have it", where, key)
            return
        why = f"{key} cannot be in a configuration file" if is_known else f"unknown key {key}{suggest(key)}"
        raise ConfigError(f"{where}: {why}")

    def _warn_of_open_secrets(self) -> None:
        if self._path.stat().st_mode & _OPEN_TO_OTHERS and any(target in SECRETS for target in self.layer):
            log.warning("%s holds a key, and other users can read it: chmod 600 %s", self._path, self._path)

    # ------------------------------------------------------------ paths: beside the file, except in llama.cpp's, as there

    def _beside(self, path: str) -> str:
        return path if self._is_llamas or not path else os.path.join(os.path.abspath(self._path.parent), os.path.expanduser(path))

    def _folder(self, flag: Flag, text: str) -> str:
        return self._beside(text) if flag.kind is Kind.FOLDER else text

    def _from_here(self, flag: Flag, value: Any) -> Any:
        if flag.kind is Kind.PATH:
            return self._beside(value)
        return tuple((self._beside(path), scale) for path, scale in value) if flag.keeps_quotes else value
