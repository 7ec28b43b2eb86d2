"""The folder in which tools may work: names of files -> paths below it.

Invariant: no path outside the folder is returned, whatever `..`, links or absolute paths a name has. The kernel checks the same again
where it can (system/confinement.py), because a link may change between the check and the use.
"""

import os
import stat
from pathlib import Path
from typing import Any

MAX_NAME_CHARACTERS = 4096


class ToolFailed(Exception):
    """The tool could not do it; the model gets the reason and may try something else."""


class Folder:
    def __init__(self, root: str, cwd: str = "") -> None:
        """`cwd`: where relative names begin; empty: the folder itself. Raises ToolFailed."""
        self.root = os.path.realpath(root)
        self.cwd = self.root
        self.cwd = self.resolve(cwd) if cwd else self.root
        if not os.path.isdir(self.cwd):
            raise ToolFailed(f"{cwd}: there is no such folder")

    def resolve(self, name: str) -> str:
        """Raises ToolFailed. The file need not exist."""
        if "\0" in name or len(name) > MAX_NAME_CHARACTERS:
            raise ToolFailed("the path has a NUL or is too long")
        plain = name[2:] if name.startswith("~/") else "" if name == "~" else name
        base = self.root if plain != name else self.cwd
        try:
            path = os.path.realpath(os.path.join(base, plain))
        except (OSError, ValueError) as error:
            raise ToolFailed(f"{name}: {error}") from None
        if path != self.root and not path.startswith(os.path.join(self.root, "")):
            raise ToolFailed(f"{name}: is outside of {self.root}, the folder that the tools may use")
        return path

    def shown(self, path: str) -> str:
        return os.path.relpath(path, self.root)


def text_param(params: dict[str, Any], name: str, default: str | None = None) -> str:
    """Raises ToolFailed."""
    value = params.get(name, default)
    if not isinstance(value, str):
        raise ToolFailed(f"parameter '{name}' must be a text" if name in params else f"parameter '{name}' is missing")
    return value


def number_param(params: dict[str, Any], name: str, default: int) -> int:
    value = params.get(name, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise ToolFailed(f"parameter '{name}' must be a whole number")
    return value


def switch_param(params: dict[str, Any], name: str) -> bool:
    value = params.get(name, False)
    if not isinstance(value, bool):
        raise ToolFailed(f"parameter '{name}' must be true or false")
    return value


def read_bytes(path: str, name: str, limit: int) -> bytes:
    """The content of a regular file, at most one byte more than `limit`. Raises ToolFailed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ToolFailed(f"{name}: is not a regular file")
            return file.read(limit + 1)
    except OSError as error:
        raise ToolFailed(f"{name}: {error.strerror or error}") from None


def write_bytes(path: str, name: str, content: bytes) -> None:
    """Also makes the folders above it. Raises ToolFailed."""
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            raise ToolFailed(f"{name}: is not a regular file")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    except OSError as error:
        raise ToolFailed(f"{name}: {error.strerror or error}") from None
