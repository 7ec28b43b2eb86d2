"""The tools that read, write and edit one file."""

import base64
from itertools import pairwise
from typing import Any, NamedTuple

from fastrouter.api.tools.folder import Folder, ToolFailed, number_param, read_bytes, switch_param, text_param, write_bytes
from fastrouter.options.tool_definitions import MAX_TEXT_BYTES

MAX_FILE_BYTES = 8 << 20  # of a file that is edited, searched by lines, or read as base64


def read_file(folder: Folder, params: dict[str, Any]) -> dict[str, Any]:
    name, has_numbers = text_param(params, "path"), switch_param(params, "append_loc")
    first, last = number_param(params, "start_line", 1), number_param(params, "end_line", -1)
    content = read_bytes(folder.resolve(name), name, MAX_FILE_BYTES)
    if len(content) > MAX_FILE_BYTES:
        raise ToolFailed(f"{name}: is larger than {MAX_FILE_BYTES >> 20} MiB")
    if params.get("resp_type") == "base64":
        return {"base64": base64.b64encode(content).decode(), "size_bytes": len(content)}
    if len(content) > MAX_TEXT_BYTES and last == -1:
        raise ToolFailed(f"{name}: has {len(content)} bytes, and {MAX_TEXT_BYTES} can be read at a time; give start_line and end_line")
    return {"plain_text_response": _lines(content, first, last, has_numbers=has_numbers)}


def _lines(content: bytes, first: int, last: int, *, has_numbers: bool) -> str:
    lines = content.decode("utf-8", "replace").split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    found, room = "", MAX_TEXT_BYTES
    for number, line in enumerate(lines, 1):
        if number < first or (last != -1 and number > last):
            continue
        shown = f"{number}→{line}\n" if has_numbers else f"{line}\n"
        room -= len(shown.encode())
        if room < 0:
            return found + "[output truncated]"
        found += shown
    return found


def write_file(folder: Folder, params: dict[str, Any]) -> dict[str, Any]:
    name, content = text_param(params, "path"), text_param(params, "content").encode("utf-8", "replace")
    write_bytes(folder.resolve(name), name, content)
    return {"result": "file written successfully", "path": name, "bytes": len(content)}


class _Edit(NamedTuple):
    start: int
    end: int
    text: str
    place: str  # edits[0]


def edit_file(folder: Folder, params: dict[str, Any]) -> dict[str, Any]:
    name, edits = text_param(params, "path"), params.get("edits")
    if not isinstance(edits, list) or not edits:
        raise ToolFailed("parameter 'edits' must be a list with one edit or more")
    path = folder.resolve(name)
    before = _text_of(path, name)
    found = sorted(_find(before, f"edits[{at}]", edit, name) for at, edit in enumerate(edits))
    for one, other in pairwise(found):
        if one.end > other.start:
            raise ToolFailed(f"{one.place} and {other.place} overlap in {name}: make one edit of them")
    after = before
    for edit in reversed(found):
        after = after[: edit.start] + edit.text + after[edit.end :]
    if after == before:
        raise ToolFailed(f"the edits change nothing in {name}")
    write_bytes(path, name, after.encode("utf-8", "replace"))
    return {"result": "file edited successfully", "path": name, "edits_applied": len(found)}


def _text_of(path: str, name: str) -> str:
    content = read_bytes(path, name, MAX_FILE_BYTES)
    if len(content) > MAX_FILE_BYTES:
        raise ToolFailed(f"{name}: is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ToolFailed(f"{name}: is not UTF-8 at byte {error.start}") from None


def _find(text: str, place: str, edit: Any, name: str) -> _Edit:
    if not isinstance(edit, dict):
        raise ToolFailed(f"{place} must be an object with old_text and new_text")
    old, new = edit.get("old_text"), edit.get("new_text")
    if not isinstance(old, str) or not isinstance(new, str) or not old:
        raise ToolFailed(f"{place} must have the texts old_text, not empty, and new_text")
    start = text.find(old)
    if start < 0:
        raise ToolFailed(f"{place}.old_text is not in {name}; it must be there letter by letter")
    if text.find(old, start + 1) >= 0:
        raise ToolFailed(f"{place}.old_text is in {name} more than once; it must be unique, so make it longer")
    return _Edit(start, start + len(old), new, place)
