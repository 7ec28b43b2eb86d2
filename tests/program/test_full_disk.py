"""Whatever is written to disk is complete or not there: the disk may be full at any byte, and each call may fail. What was there before is
still there."""

import asyncio
import builtins
import contextlib
import errno
import hashlib
import io
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastrouter.api.control.uploads import Space, Upload
from fastrouter.catalog.created import CreatedModels
from fastrouter.errors import FastrouterError
from fastrouter.hub.cache import Repository
from fastrouter.hub.select_files import RemoteFile
from fastrouter.simulator.loop import SimulatedLoop
from fastrouter.supervisor.parked_files import Job, ParkedFiles
from fastrouter.supervisor.timers import Timers
from fastrouter.system.fact_file import FactFile

Write = Callable[[Path, bytes], None]
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS)
CALLS = ((os, "open"), (os, "write"), (os, "fsync"), (os, "replace"), (os, "symlink"), (os, "mkdir"), (io, "open"), (builtins, "open"))
MAY_STAY = ("lock", ".incomplete")  # a download goes on where it was
OLD, NEW = b"old " * 30, b"new " * 30


def facts(folder: Path, content: bytes) -> None:
    file = FactFile("facts", 1, 10, environ={"XDG_CACHE_HOME": str(folder)})
    file.put("a", content.decode())
    file.save()


def section(folder: Path, content: bytes) -> None:
    CreatedModels(folder).put("made", f"base = {content.decode()}\n")


def text(folder: Path, content: bytes) -> None:
    CreatedModels(folder).keep_text(content.decode())


def upload(folder: Path, content: bytes) -> None:
    async def send() -> None:
        sent = Upload(folder / f"blob {content[:3].decode()}", hashlib.sha256(content).hexdigest(), Space(1 << 20))
        sent.write(content[:50])
        sent.write(content[50:])
        await sent.finish()

    asyncio.run(send())


def download(folder: Path, content: bytes) -> None:
    repository = Repository(str(folder), "u/r")
    remote = RemoteFile("m.gguf", len(content), hashlib.sha256(content).hexdigest())
    with repository.open_part(remote) as part:
        assert part is not None
        left = memoryview(content)[part.tell() :]
        while left:
            left = left[part.write(left) :]
        assert repository.keep(remote, part)
    repository.publish(hashlib.sha1(content).hexdigest(), [remote])


def parked(folder: Path, content: bytes) -> None:
    loop = SimulatedLoop()
    timers = Timers(loop.time, loop)  # type: ignore[arg-type]
    files = ParkedFiles(folder, timers)
    written: list[int] = []
    files.on_written = lambda entry_id, num_bytes: written.append(num_bytes)
    memory = os.memfd_create("parked")
    try:
        os.pwrite(memory, content, 0)
        files.open_memory = lambda entry_id: os.dup(memory)
        files.start(lambda found: files.write(Job(int(content[0]), "m", "key", 1, 1.0)))
        loop.advance(1.0)
    finally:
        os.close(memory)
        files.close()
    if not all(written) or not written:
        raise OSError("it was not written")


WRITES: tuple[Write, ...] = (facts, section, text, upload, download, parked)


def shown(folder: Path) -> dict[str, bytes]:
    """All files that a reader could take for complete ones."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(MAY_STAY)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@contextlib.contextmanager
def full_at(num_bytes: int) -> Iterator[None]:
    """No file may be longer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Failing:
    """The call number `nth` of this function fails, the others work."""

    def __init__(self, module: Any, name: str, nth: int, number: int) -> None:
        self._real = getattr(module, name)
        self._is_open = module in (io, builtins)
        self._left = nth
        self._number = number
        self.has_failed = False

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        is_open = self._is_open and isinstance(arguments[0], int)  # a file object for a descriptor
        self._left -= not is_open
        if self._left == -1 and not self.has_failed:
            self.has_failed = True
            raise OSError(self._number, os.strerror(self._number))
        return self._real(*arguments, **named)


def attempt(write: Write, folder: Path) -> bool:
    """False: it says that it has failed."""
    try:
        write(folder, NEW)
    except (OSError, FastrouterError):
        return False
    return True


@pytest.fixture(params=WRITES, ids=lambda write: write.__name__)
def write(request: pytest.FixtureRequest) -> Write:
    chosen: Write = request.param
    return chosen


@pytest.fixture
def states(write: Write, tmp_path: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What may be shown: all that was there before, or all of it and the new file."""
    folder = tmp_path / "both"
    folder.mkdir()
    write(folder, OLD)
    before = shown(folder)
    write(folder, NEW)
    return before, shown(folder)


@pytest.fixture
def folder(write: Write, tmp_path: Path) -> Path:
    made = tmp_path / "tried"
    made.mkdir()
    write(made, OLD)
    return made


def check(folder: Path, before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Each file is the old one or the new one; which steps of several are done does not matter."""
    found = shown(folder)
    assert {name: content for name, content in found.items() if content not in (before.get(name), after.get(name))} == {}
    assert set(before) - set(found) == set()


def test_full_at_any_byte(write: Write, states: Any, folder: Path) -> None:
    before, after = states
    most = max(map(len, after.values()))
    for num_bytes in {*range(0, most, 7), most - 1}:
        with full_at(num_bytes):
            attempt(write, folder)
        check(folder, before, after)
    with full_at(most + 100):
        assert attempt(write, folder)
    assert shown(folder) == after


def test_every_call_fails(write: Write, states: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = states
    num_failed = 0
    for module, name in CALLS:
        for number in ERRORS:
            for nth in range(50):
                write(folder, OLD)
                failing = Failing(module, name, nth, number)
                with monkeypatch.context() as patch:
                    patch.setattr(module, name, failing)
                    attempt(write, folder)
                check(folder, before, after)
                num_failed += failing.has_failed
                if not failing.has_failed:
                    break
    assert num_failed >= 2 * len(ERRORS)
    assert attempt(write, folder)
    assert shown(folder) == after
