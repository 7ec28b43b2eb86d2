"""Reads files into the page cache before they are needed, at the speed of the disk and without a copy. Only Linux.

Invariant: it changes nothing but the page cache; a file that cannot be read is left out.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

STEP_BYTES = 16 << 20
NUM_STEPS = 4  # that the disk gets at the same time
NUM_SAMPLES = 64  # places of a file that are looked at, to learn whether it is in the page cache
LARGE_BYTES = 32 << 20  # smaller files are read in no time


def read_ahead(paths: Iterable[str], is_wanted: Callable[[], bool] = lambda: True) -> int:
    """Blocks until the files are read, or `is_wanted` says no between two steps. Returns the number of bytes."""
    num_bytes = 0
    for path in paths:
        with contextlib.suppress(OSError), _opened(path) as fd:
            num_bytes += _read(fd, os.fstat(fd).st_size, is_wanted)
    return num_bytes


@contextlib.contextmanager
def reading_ahead(paths: Sequence[str]) -> Iterator[None]:
    """While the block runs, a thread reads the files that are large and not in the page cache."""
    missing = [path for path in paths if is_missing(path)]
    if not missing:
        yield
        return
    is_over = threading.Event()
    threading.Thread(target=read_ahead, args=(missing, lambda: not is_over.is_set()), name="read ahead", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def is_missing(path: str) -> bool:
    """A large file, of which at least a part is not in the page cache, as far as samples tell."""
    with contextlib.suppress(OSError), _opened(path) as fd:
        size = os.fstat(fd).st_size
        return size >= LARGE_BYTES and not all(_is_cached(fd, size * part // NUM_SAMPLES) for part in range(NUM_SAMPLES))
    return False


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def _is_cached(fd: int, place: int) -> bool:
    try:
        return os.preadv(fd, [bytearray(1)], place, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False


def _read(fd: int, size: int, is_wanted: Callable[[], bool]) -> int:
    """The kernel reads some steps in the background; reading the last byte of the first of them waits for that one."""
    asked = 0
    for start in range(0, size, STEP_BYTES):
        if not is_wanted():
            return start
        while asked < min(size, start + NUM_STEPS * STEP_BYTES):
            os.posix_fadvise(fd, asked, STEP_BYTES, os.POSIX_FADV_WILLNEED)
            asked += STEP_BYTES
        os.pread(fd, 1, min(start + STEP_BYTES, size) - 1)
    return size
