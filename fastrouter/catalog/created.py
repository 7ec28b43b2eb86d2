"""Models that clients have made: sections of a preset file that only fastrouter writes, and the files that they name.

Never imports: catalog.catalog, catalog.scan. Invariant: the preset file is replaced as a whole, so a reader sees the old one or the new
one; of two processes that write, each keeps the sections of the other. A file is removed when no section names it any more.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from fastrouter.config.presets import Presets, read_presets
from fastrouter.errors import ConfigError, InvalidRequest
from fastrouter.system.text_file import MAX_TEXT_BYTES

log = logging.getLogger("fastrouter")

MAX_CREATED = 1000
KEEP_UNUSED_S = 24 * 3600.0  # an uploaded file that no model uses
PART = ".part"  # the end of the name of an unfinished upload
_HEAD = "; Models that were made with POST /api/create. fastrouter writes this file: change the models with the API.\nversion = 1\n"
_SECTION = re.compile(r"^\[(.+)\]\n(?:(?!\[).*\n?)*", re.MULTILINE)
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


class CreatedModels:
    """The owner of the folder. Its methods block."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    # ------------------------------------------------------------ sections

    def presets(self) -> Presets:
        """What is wrong with the file is logged: the models of others must not be lost with it."""
        if self._folder is None or not self._file.exists():
            return Presets()
        try:
            return read_presets(self._file)
        except ConfigError as error:
            log.error("%s", error.message)
            return Presets()

    def section(self, name: str) -> str | None:
        """The lines of one section, without its heading."""
        return self._read().get(name)

    def put(self, name: str, lines: str) -> None:
        """Raises InvalidRequest."""
        with self._locked():
            sections = {**self._read(), name: lines}
            if len(sections) > MAX_CREATED:
                raise InvalidRequest(f"there are {MAX_CREATED} created models already: remove one first with DELETE /api/delete")
            self._write(sections)

    def remove(self, name: str) -> bool:
        """And the files that only this model has used. False: there is no such model."""
        if self._folder is None:
            return False
        with self._locked():
            sections = self._read()
            lines = sections.pop(name, None)
            if lines is None:
                return False
            self._write(sections)
        self.remove_unused(lines)
        return True

    def users_of(self, name: str) -> list[str]:
        """The created models that are variants of this one."""
        line = re.compile(rf"^base = {re.escape(name)}$", re.MULTILINE)
        return [other for other, lines in self._read().items() if line.search(lines)]

    @property
    def _file(self) -> Path:
        return self._need_folder() / "created.ini"

    def _need_folder(self) -> Path:
        if self._folder is None:
            raise InvalidRequest("this server has no folder for created models: start it with --created-dir")
        return self._folder

    def _read(self) -> dict[str, str]:
        try:
            text = self._file.read_text() if self._folder is not None else ""
        except (OSError, UnicodeDecodeError):
            text = ""
        return {match[1]: match[0].partition("\n")[2] for match in _SECTION.finditer(text)}

    def _write(self, sections: dict[str, str]) -> None:
        text = _HEAD + "".join(f"[{name}]\n{lines}" for name, lines in sections.items())
        if len(text.encode()) > MAX_TEXT_BYTES:
            raise InvalidRequest("the created models need too much space: remove some first with DELETE /api/delete")
        _replace(self._file, text)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Raises InvalidRequest."""
        try:
            self._need_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(self._need_folder() / "lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise InvalidRequest(f"{error.filename or self._folder}: {error.strerror}; name another folder with --created-dir") from None

    # ------------------------------------------------------------ files

    def keep_text(self, text: str) -> Path:
        """A file with this text. Raises InvalidRequest."""
        with self._locked():
            path = self._need_folder() / "texts" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.txt"
            path.parent.mkdir(exist_ok=True)
            _replace(path, text)
        return path

    @property
    def blobs(self) -> Path:
        return self._need_folder() / "blobs"

    def blob(self, digest: str) -> Path | None:
        """The uploaded file with this hash, as sha256:..."""
        path = self.blob_path(digest)
        return path if path.is_file() else None

    def blob_path(self, digest: str) -> Path:
        """Raises InvalidRequest."""
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise InvalidRequest(f"a digest must be sha256: and 64 hexadecimal digits, but is '{digest[:100]}'")
        return self.blobs / f"sha256-{match[1]}"

    def blob_bytes(self) -> int:
        """The size of all uploads."""
        with contextlib.suppress(OSError):
            return sum(entry.stat().st_size for entry in os.scandir(self.blobs))
        return 0

    def remove_old(self) -> None:
        """Uploads that no model uses, after a day. Another process may still need newer ones."""
        used = "".join(self._read().values())
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.blobs):
                if entry.name not in used and time.time() - entry.stat().st_mtime > KEEP_UNUSED_S:
                    os.unlink(entry.path)

    def remove_unused(self, lines: str) -> None:
        """The files that were named by these lines, which are no section any more."""
        used = "".join(self._read().values())
        folders = [self._need_folder() / "texts", self.blobs]
        for path in [path for folder in folders if folder.is_dir() for path in folder.iterdir()]:
            if path.name in lines and path.name not in used:
                with contextlib.suppress(OSError):
                    path.unlink()


def _replace(path: Path, text: str) -> None:
    """Complete or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
