"""Reads files into the page cache before they are needed, at the speed of the disk and without a copy. Only Linux.

Some threads read a part of the file each, from its start to its end: the kernel then reads far ahead in each part, and uses large pages,
which are mapped in a tenth of the time. Invariant: it changes nothing but the page cache; a file that cannot be read is left out.
"""

import contextlib
import ctypes
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

NUM_PARTS = 4
STEP_BYTES = 16 << 20  # between two looks whether it is still wanted
NUM_SAMPLES = 64  # places of a file that are looked at, to learn whether it is in the page cache
LARGE_BYTES = 32 << 20  # smaller files are read in no time
_POPULATE_READ = 22  # for madvise, since Linux 5.14
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def read_ahead(paths: Iterable[str], is_wanted: Callable[[], bool] = lambda: True) -> None:
    """Blocks until the large files are read, or `is_wanted` says no between two steps. The kernel reads small ones in the background:
    threads for them would delay the event loop."""
    large = []
    for path in paths:
        if is_missing(path):
            large.append(path)
        else:
            _ask_for(path)
    for thread in _start(large, range(NUM_PARTS), is_wanted):
        thread.join()


@contextlib.contextmanager
def reading_ahead(paths: Sequence[str]) -> Iterator[None]:
    """The block reads the files from their start. Meanwhile threads read the other parts of those that are large and not in the page
    cache."""
    missing = [path for path in paths if is_missing(path)]
    is_over = threading.Event()
    _start(missing, range(1, NUM_PARTS), lambda: not is_over.is_set())
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


def _ask_for(path: str) -> None:
    with contextlib.suppress(OSError), _opened(path) as fd:
        os.posix_fadvise(fd, 0, LARGE_BYTES, os.POSIX_FADV_WILLNEED)


def _start(paths: list[str], parts: Iterable[int], is_wanted: Callable[[], bool]) -> list[threading.Thread]:
    if not paths:
        return []
    threads = [threading.Thread(target=_read_parts, args=(paths, part, is_wanted), name="read ahead", daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    return threads


def _read_parts(paths: list[str], part: int, is_wanted: Callable[[], bool]) -> None:
    """This part of each file."""
    for path in paths:
        with contextlib.suppress(OSError), _opened(path) as fd:
            num_steps = -(-os.fstat(fd).st_size // STEP_BYTES)
            for step in range(part * num_steps // NUM_PARTS, (part + 1) * num_steps // NUM_PARTS):
                if not is_wanted():
                    return
                _read(fd, step * STEP_BYTES)


def _read(fd: int, start: int) -> None:
    """One step. Raises OSError."""
    address = _libc.mmap(None, STEP_BYTES, mmap.PROT_READ, mmap.MAP_SHARED, fd, start)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        # It fails behind the end of the file, when all before it has been read, and on an old kernel.
        if _libc.madvise(address, STEP_BYTES, _POPULATE_READ):
            os.preadv(fd, [bytearray(STEP_BYTES)], start)
    finally:
        _libc.munmap(address, STEP_BYTES)


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
