"""Facts that outlive the process: one small JSON file with a name, in the user's cache folder.

Invariant: the file only saves time. When it is missing, damaged, written by another program or of another version, there are no facts;
when a write fails, only the facts are lost. A reader sees the old file or the new one; of two processes that write, the last one wins.
"""

import contextlib
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger("fastrouter")

MAX_FILE_BYTES = 64 << 20


def cache_folder(environ: Mapping[str, str]) -> Path | None:
    """The folder where fastrouter may store facts; None: there is none."""
    for name, below in (("XDG_CACHE_HOME", ""), ("HOME", ".cache")):
        if os.path.isabs(environ.get(name, "")):  # the XDG rules: a relative path counts as unset
            return Path(environ[name], below, "fastrouter")
    return None


def data_folder(environ: Mapping[str, str]) -> Path | None:
    """The folder for what a user has made and would miss; None: there is none."""
    for name, below in (("XDG_DATA_HOME", ""), ("HOME", ".local/share")):
        if os.path.isabs(environ.get(name, "")):
            return Path(environ[name], below, "fastrouter")
    return None


class FactFile:
    """A dictionary of JSON values. It has one owner; `save` may run in a thread while the owner changes it."""

    def __init__(self, name: str, version: int, max_entries: int, *, environ: Mapping[str, str] = os.environ) -> None:
        """Reads nothing yet. When the file has another `version`, it starts empty; above `max_entries` the least recently used are
        removed."""
        folder = cache_folder(environ)
        self._path = folder / f"{name}.json" if folder is not None else None
        self._kind = {"name": f"fastrouter {name}", "version": version}
        self._max_entries = max_entries
        self._entries: dict[str, Any] | None = None
        self._is_dirty = False
        self._has_complained = False

    def __repr__(self) -> str:
        return f"<FactFile {self._path or 'nowhere'}: {len(self._entries or ())} entries{', dirty' * self._is_dirty}>"

    @property
    def path(self) -> Path | None:
        """The path of the file; None: there is no folder for it."""
        return self._path

    def get(self, key: str) -> Any | None:
        """The value must not be changed: `put` another one."""
        entries = self._all()
        if key not in entries:
            return None
        value = entries[key] = entries.pop(key)  # now it is the last one to be removed
        return value

    def put(self, key: str, value: Any) -> None:
        entries = self._all()
        if key not in entries or entries.pop(key) != value:
            self._is_dirty = True
        entries[key] = value
        while len(entries) > self._max_entries:
            del entries[next(iter(entries))]

    def save(self) -> None:
        """Write the file if something has changed. Blocks until the disk has answered, raises nothing."""
        if not self._is_dirty or self._path is None:
            return
        self._is_dirty = False
        try:
            _write(self._path, self._encode(self._all()))
        except OSError as error:
            self._is_dirty = True
            if not self._has_complained:
                self._has_complained = True
                log.warning(
                    "%s cannot be written (%s): its contents are measured again after a restart", self._path, error.strerror or error
                )

    def _all(self) -> dict[str, Any]:
        if self._entries is None:
            self._entries = _read(self._path, self._kind) if self._path is not None else {}
        return self._entries

    def _encode(self, entries: dict[str, Any]) -> bytes:
        """Without values that JSON cannot hold, and without the oldest entries when it would be too long."""
        try:
            content = orjson.dumps({**self._kind, "entries": entries})
        except orjson.JSONEncodeError:
            entries = {key: value for key, value in entries.items() if _can_encode({key: value})}
            content = orjson.dumps({**self._kind, "entries": entries})
        while len(content) > MAX_FILE_BYTES:
            entries = dict(list(entries.items())[len(entries) // 2 + 1 :])
            content = orjson.dumps({**self._kind, "entries": entries})
        return content


def _can_encode(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return False
    return True


def _read(path: Path, kind: dict[str, Any]) -> dict[str, Any]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                return {}
            content = file.read(MAX_FILE_BYTES + 1)
        found = orjson.loads(content) if len(content) <= MAX_FILE_BYTES else None
    except OSError:
        return {}
    except ValueError:
        log.warning("%s is damaged and is ignored: what it remembered is learned again", path)
        return {}
    if not isinstance(found, dict) or {name: found.get(name) for name in kind} != kind:
        return {}
    entries = found.get("entries")
    return entries if isinstance(entries, dict) else {}


def _write(path: Path, content: bytes) -> None:
    """Complete or not at all; mode 0600. Without fsync: after a power cut the file may be damaged, and then it is ignored."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    import tempfile  # takes 4 ms that a start need not spend

    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
