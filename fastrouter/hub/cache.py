"""The Hugging Face cache on disk: blobs, the snapshots that link to them, unfinished files. Never imports: hub.http_client, hub.retry.

Invariant: a snapshot links only to complete blobs with verified checksums, and all files of a model appear in it together; no path leads
out of the repository's folder.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO

from fastrouter.hub.job import DownloadFailed
from fastrouter.hub.select_files import RemoteFile
from fastrouter.system.words import size_text

_COMMIT = re.compile(r"[0-9a-f]{40}")
BLOCK_BYTES = 1 << 20


class Repository:
    """The folder of one repository in the cache."""

    def __init__(self, cache_dir: str, repo: str) -> None:
        self._cache_dir = cache_dir
        self.folder = os.path.join(cache_dir, f"models--{repo.replace('/', '--')}")

    def blob(self, remote: RemoteFile) -> str:
        return os.path.join(self.folder, "blobs", remote.checksum)

    def part(self, remote: RemoteFile) -> str:
        """Where a file grows; the hub's library uses the same name."""
        return f"{self.blob(remote)}.incomplete"

    def has(self, remote: RemoteFile) -> bool:
        return _size_of(self.blob(remote)) == remote.size_bytes

    def done_bytes(self, remote: RemoteFile) -> int:
        """Bytes that are here already, in finished and unfinished files."""
        return remote.size_bytes if self.has(remote) else min(max(_size_of(self.part(remote)), 0), remote.size_bytes)

    def check_space(self, files: list[RemoteFile]) -> None:
        """Raises DownloadFailed, OSError."""
        os.makedirs(os.path.join(self.folder, "blobs"), exist_ok=True)
        needed = sum(remote.size_bytes - self.done_bytes(remote) for remote in files)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DownloadFailed(f"not enough room in {self._cache_dir}: {size_text(needed)} are needed, {size_text(free)} are free")

    @contextlib.contextmanager
    def open_part(self, remote: RemoteFile) -> Iterator[BinaryIO | None]:
        """The unfinished file, locked for us, at its end. None: another process had it, and has finished or dropped it. Raises OSError."""
        path = self.part(remote)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644), "r+b", buffering=0) as part:
            fcntl.flock(part, fcntl.LOCK_EX)  # waits
            try:
                is_ours = os.fstat(part.fileno()).st_ino == os.stat(path).st_ino
            except FileNotFoundError:
                is_ours = False
            part.seek(0, os.SEEK_END)
            yield part if is_ours else None

    def keep(self, remote: RemoteFile, part: BinaryIO) -> bool:
        """Make the complete part a blob if it has the hub's checksum; otherwise delete it."""
        if not _is_right(remote, part):
            os.unlink(self.part(remote))
            return False
        os.fsync(part.fileno())
        os.replace(self.part(remote), self.blob(remote))
        return True

    def publish(self, commit: str, files: list[RemoteFile]) -> list[str]:
        """Link these files into the snapshot; all of them are blobs. Returns their paths."""
        if not _COMMIT.fullmatch(commit):
            raise DownloadFailed(f"the hub sent an invalid revision: {commit[:80]!r}")
        snapshot = os.path.join(self.folder, "snapshots", commit)
        paths = []
        for remote in files:
            path = os.path.join(snapshot, *remote.path.split("/"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            target = os.path.relpath(self.blob(remote), os.path.dirname(path))
            if not os.path.islink(path) or os.readlink(path) != target:
                _replace(path, partial(os.symlink, target))
            paths.append(path)
        ref = os.path.join(self.folder, "refs", "main")
        os.makedirs(os.path.dirname(ref), exist_ok=True)
        _replace(ref, partial(_write, commit))
        return paths


def _size_of(path: str) -> int:
    """-1: it does not exist."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _replace(path: str, make: Callable[[str], object]) -> None:
    """In one step: a reader sees the old file or the new one."""
    temporary = f"{path}.{os.getpid()}.new"
    try:
        make(temporary)
        os.replace(temporary, path)
    except BaseException:  # whatever the exception is, no half file stays
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _write(text: str, path: str) -> None:
    with open(path, "x") as file:
        file.write(text)


def _is_right(remote: RemoteFile, part: BinaryIO) -> bool:
    """Whether the content has the checksum. 40 digits are git's, of a file that is not in large file storage."""
    is_git = len(remote.checksum) == 40
    digest = hashlib.sha1(b"blob %d\0" % remote.size_bytes, usedforsecurity=False) if is_git else hashlib.sha256()
    part.seek(0)
    while block := part.read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest() == remote.checksum
