"""Parked prompts on disk: one file for each, in the folder of --park-dir, so that they survive a restart.

All work with the disk is done in a thread, one file at a time. Never imports: supervisor.parking, supervisor.workers. Invariant: a file
appears complete or not at all, only this user can read it, and a file that is wrong is only a prompt that is not there.
"""

import contextlib
import fcntl
import logging
import os
import stat
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastrouter.ipc.parked import Foot, read_foot
from fastrouter.supervisor.timers import Timers

log = logging.getLogger("fastrouter.supervisor")

_SUFFIX, _PART = ".parked", ".part"
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """A memory file to write: a copy of its descriptor is made when its turn comes."""

    entry_id: int
    model_id: str
    key: str
    num_tokens: int
    saves_ms: float


class ParkedFiles:
    """`folder` None: nothing is written."""

    def __init__(self, folder: Path | None, timers: Timers) -> None:
        self._folder = folder
        self._timers = timers
        self._lock = -1  # while it is locked, this process owns the folder
        self._queue: deque[Job] = deque()
        self._writing: Job | None = None
        self._has_complained = False
        self.open_memory: Callable[[int], int | None] = lambda entry_id: None  # a descriptor that the caller closes; None: it is gone
        self.on_written: Callable[[int, int], None] = lambda entry_id, num_bytes: None  # 0 bytes: it could not be written

    def __repr__(self) -> str:
        return f"<ParkedFiles {self._folder or 'off'}, {len(self._queue)} waiting>"

    @property
    def is_on(self) -> bool:
        return self._folder is not None

    @property
    def is_busy(self) -> bool:
        return self._writing is not None or bool(self._queue)

    def start(self, then: Callable[[list[tuple[int, Foot, float]]], None]) -> None:
        """Find the files of earlier runs; `then` gets of each (id, foot, seconds by which it is older than the newest)."""
        if self._folder is not None:
            folder = self._folder
            self._timers.aside(lambda: self._begin(folder), lambda found: self._begun(found, then))

    def _begun(self, found: list[tuple[int, Foot, float]] | None, then: Callable[[list[tuple[int, Foot, float]]], None]) -> None:
        if found is None:
            self._folder = None
            self._queue.clear()
        else:
            then(found)
            self._write_next()

    def close(self) -> None:
        """Idempotent."""
        self._queue.clear()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # ------------------------------------------------------------ writing

    def write(self, job: Job) -> None:
        if self._folder is not None:
            self._queue.append(job)
            self._write_next()

    def is_writing(self, entry_id: int) -> bool:
        return self._writing is not None and self._writing.entry_id == entry_id

    def _write_next(self) -> None:
        while self._writing is None and self._queue and self._lock >= 0:
            job = self._queue.popleft()
            fd = self.open_memory(job.entry_id)
            if fd is not None:
                self._writing = job
                self._timers.aside(lambda job=job, fd=fd: self._write(job, fd), self._written)  # type: ignore[misc]

    def _written(self, num_bytes: int) -> None:
        job, self._writing = self._writing, None
        assert job is not None
        self.on_written(job.entry_id, num_bytes)
        self._write_next()

    def _write(self, job: Job, memory: int) -> int:
        """In a thread. Returns the size of the file, 0 after a failure."""
        path = self._path(job.entry_id)
        part = path.with_suffix(_PART)
        try:
            num_bytes = _copy(job, memory, part)
            part.replace(path)
        except OSError as error:
            if not self._has_complained:
                self._has_complained = True
                log.warning("parked prompts cannot be written to %s: %s", self._folder, error.strerror or error)
            with contextlib.suppress(OSError):
                part.unlink()
            return 0
        finally:
            os.close(memory)
        self._has_complained = False
        return num_bytes

    # ------------------------------------------------------------ reading and removing

    def open(self, entry_id: int) -> int | None:
        """The file, for a worker. None: it is gone."""
        try:
            return os.open(self._path(entry_id), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None

    def remove(self, entry_ids: list[int]) -> None:
        if self._folder is not None and entry_ids:
            paths = [self._path(entry_id) for entry_id in entry_ids]
            self._timers.aside(lambda: _unlink(paths), lambda _: None)

    def _path(self, entry_id: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{entry_id:013x}{_SUFFIX}"

    # ------------------------------------------------------------ the start

    def _begin(self, folder: Path) -> list[tuple[int, Foot, float]] | None:
        """In a thread. None: the folder cannot be used."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            why = "another fastrouter uses it" if isinstance(error, BlockingIOError) else error.strerror or error
            log.warning("--park-dir %s is not used: %s", folder, why)
            return None
        _unlink(list(folder.glob(f"*{_PART}")))  # of a run that was killed
        found = [one for path in folder.glob(f"*{_SUFFIX}") if (one := _read(path)) is not None]
        newest = max((changed_s for _, _, changed_s in found), default=0.0)
        return [(entry_id, foot, newest - changed_s) for entry_id, foot, changed_s in found]


def _copy(job: Job, memory: int, part: Path) -> int:
    """Returns the size of the file. Raises OSError."""
    out = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(out, "wb", buffering=0) as file:
        at = crc = 0
        while block := os.pread(memory, _BLOCK_BYTES, at):
            _write_all(file.fileno(), block)
            crc, at = zlib.crc32(block, crc), at + len(block)
        foot = Foot(job.model_id, job.key, job.num_tokens, job.saves_ms, at, crc).to_bytes()
        _write_all(file.fileno(), foot)
    return at + len(foot)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read(path: Path) -> tuple[int, Foot, float] | None:
    """(id, foot, when it was written). None: it is not a file of ours. One that is damaged is removed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            log.warning("%s is not used: it must be a file that only this user can read", path)
            return None
        return int(path.stem, 16), read_foot(fd), status.st_mtime
    except (ValueError, OSError) as error:
        log.warning("%s cannot be used and is removed: %s", path, error)
        _unlink([path])
        return None
    finally:
        os.close(fd)


def _unlink(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
