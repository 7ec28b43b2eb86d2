"""The tools that find files by their names, and lines in files."""

import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from fastrouter.api.tools.files import MAX_FILE_BYTES
from fastrouter.api.tools.folder import Folder, ToolFailed, number_param, read_bytes, switch_param, text_param
from fastrouter.options.tool_definitions import MAX_RESULTS

# They may be very large, so they are listed, but not searched.
UNSEARCHED = frozenset(
    (
        *(".git", ".svn", ".hg", "node_modules", "__pycache__", ".venv", "venv"),
        *("dist", "build", "target", ".cache", ".idea", ".vscode"),
    )
)
MAX_ENTRIES = 200_000
MAX_DEPTH = 100
MAX_LINE_CHARACTERS = 1000
MAX_OUTPUT_CHARACTERS = 64 << 10
_BINARY_HEAD = 8 << 10
_KINDS = ("file", "dir", "all")


class Entry(NamedTuple):
    path: str  # relative, with "/"
    is_folder: bool


class Walk:
    """All entries below a folder, in the order of their names. Links to folders are not followed."""

    def __init__(self, base: str, max_depth: int = 0) -> None:
        self._base = base
        self._max_depth = max_depth
        self._num = 0
        self.is_cut = False  # something could not be read, or there is too much

    def __iter__(self) -> Iterator[Entry]:
        return self._below("", 1)

    def _below(self, relative: str, depth: int) -> Iterator[Entry]:
        if depth > MAX_DEPTH:
            self.is_cut = True
            return
        try:
            with os.scandir(os.path.join(self._base, relative)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            self.is_cut = True
            return
        for entry in entries:
            self._num += 1
            if self._num > MAX_ENTRIES:
                self.is_cut = True
                return
            path = f"{relative}/{entry.name}" if relative else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield Entry(path, True)
                if entry.name.lower() not in UNSEARCHED and depth < (self._max_depth or depth + 1):
                    yield from self._below(path, depth + 1)
            elif entry.is_file(follow_symlinks=False):
                yield Entry(path, False)


def matcher(pattern: str) -> re.Pattern[str]:
    """For paths; a pattern without "/" is for the last part of a path, another one may begin at any folder."""
    is_name = "/" not in pattern
    is_fixed = pattern == "**" or pattern.startswith(("**/", "/"))
    pattern = pattern.removeprefix("/")
    head = "" if is_fixed else "(?:.*/)?"
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])", pattern)
    body = "".join(_part(part) for part in parts)
    try:
        return re.compile(("(?:.*/)?" if is_name else head) + body, re.DOTALL)
    except re.error as error:
        raise ToolFailed(f"the pattern {pattern} cannot be read: {error}") from None


def _part(part: str) -> str:
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    if part in known:
        return known[part]
    if part.startswith("[") and part.endswith("]") and len(part) > 2:
        inside = part[1:-1].replace("\\", "\\\\").replace("[", "\\[")
        return f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
    return re.escape(part)


class _Filter:
    def __init__(self, params: dict[str, Any]) -> None:
        self._include = matcher(text_param(params, "include", "**"))
        exclude = text_param(params, "exclude", "")
        self._exclude = matcher(exclude) if exclude else None

    def __call__(self, path: str) -> bool:
        return bool(self._include.fullmatch(path)) and not (self._exclude is not None and self._exclude.fullmatch(path))


def _folder_of(folder: Folder, name: str) -> str:
    base = folder.resolve(name)
    if not os.path.isdir(base):
        raise ToolFailed(f"{name}: does not exist or is not a folder")
    return base


def file_glob_search(folder: Folder, params: dict[str, Any]) -> dict[str, Any]:
    kind, limit = text_param(params, "type", "file"), number_param(params, "limit", MAX_RESULTS)
    if kind not in _KINDS:
        raise ToolFailed(f"invalid type: {kind} (it must be one of {', '.join(_KINDS)})")
    if limit < 1:
        raise ToolFailed(f"invalid limit: {limit} (it must be 1 or more)")
    base = _folder_of(folder, text_param(params, "path"))
    is_wanted = _Filter(params)
    walk = Walk(base, max(0, number_param(params, "max_depth", 0)))
    found = [entry for entry in walk if kind in ("all", "dir" if entry.is_folder else "file") and is_wanted(entry.path)]
    shown = found[: min(limit, MAX_RESULTS)]
    text = "".join(f"{path}{'/' if is_folder else ''}\n" for path, is_folder in shown) + f"\n---\nTotal matches: {len(found)}\n"
    if len(found) > len(shown):
        text += f"[only the first {len(shown)} are shown; a narrower pattern finds fewer]\n"
    text += _cut_note(walk)
    entries = [{"path": path, "type": "dir" if is_folder else "file"} for path, is_folder in shown]
    return {"plain_text_response": text, "entries": entries, "base": base}


def _cut_note(walk: Walk) -> str:
    return "[not everything was searched: there is too much, or a folder cannot be read]\n" if walk.is_cut else ""


class _Grep:
    """Collects the found lines."""

    def __init__(self, params: dict[str, Any]) -> None:
        source = text_param(params, "pattern")
        try:
            pattern = re.escape(source) if switch_param(params, "literal") else source
            self._pattern = re.compile(pattern, re.IGNORECASE if switch_param(params, "ignore_case") else 0)
        except (re.error, OverflowError, RecursionError) as error:
            raise ToolFailed(f"invalid regex: {error}") from None
        self._around = min(max(0, number_param(params, "context_lines", 0)), MAX_RESULTS)
        self._has_numbers = switch_param(params, "return_line_numbers") or self._around > 0
        self.num = 0
        self.text = ""

    @property
    def is_full(self) -> bool:
        return self.num >= MAX_RESULTS or len(self.text) > MAX_OUTPUT_CHARACTERS

    def search(self, content: bytes, shown: str) -> None:
        if b"\0" in content[:_BINARY_HEAD]:
            return
        lines = content.decode("utf-8", "replace").split("\n")
        for at, line in enumerate(lines):
            if self.is_full:
                return
            if (at + 1 < len(lines) or line) and self._pattern.search(line):
                self._add(lines, at, shown)

    def _add(self, lines: list[str], at: int, shown: str) -> None:
        self.num += 1
        for other in range(max(0, at - self._around), min(len(lines), at + self._around + 1)):
            mark = ":" if other == at else "-"
            number = f"{other + 1}{mark}" if self._has_numbers else ""
            self.text += f"{shown}{mark}{number}{lines[other][:MAX_LINE_CHARACTERS]}\n"
        self.text += "--\n" if self._around else ""


def grep_search(folder: Folder, params: dict[str, Any]) -> dict[str, Any]:
    name = text_param(params, "path")
    grep, path = _Grep(params), folder.resolve(name)
    note = ""
    if os.path.isfile(path):
        grep.search(read_bytes(path, name, MAX_FILE_BYTES), name)
    else:
        is_wanted, walk = _Filter(params), Walk(_folder_of(folder, name))
        for entry in walk:
            if grep.is_full:
                break
            if not entry.is_folder and is_wanted(entry.path):
                _search_in(grep, os.path.join(path, entry.path), entry.path)
        note = _cut_note(walk)
    text = f"{grep.text}\n---\nTotal matches: {grep.num}\n"
    if grep.is_full:
        text += f"[the search ended after {grep.num} lines; a narrower path or pattern finds fewer]\n"
    return {"plain_text_response": text + note}


def _search_in(grep: _Grep, path: str, shown: str) -> None:
    """Files that cannot be read, and very large ones, are left out."""
    try:
        content = read_bytes(path, shown, MAX_FILE_BYTES)
    except ToolFailed:
        return
    if len(content) <= MAX_FILE_BYTES:
        grep.search(content, shown)
