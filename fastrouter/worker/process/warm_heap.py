"""Memory that a spare touches while it waits, so that a load need not wait for the kernel.

The first access to a new page costs far more than later ones: 100 ms for the 190 MB of a KV cache, which is then cleared in 8.
Invariant: after `give`, malloc's state is valid, and allocations use the touched pages.
"""

import ctypes

from fastrouter.options.limits import INT32_MAX
from fastrouter.system.machine import available_bytes

MEMORY_SHARE = 16  # at most this part of the available memory
STEP_BYTES = 4 << 20
LARGE_BLOCK_BYTES = 4 << 20  # no block of a usual step is that large
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # for glibc's mallopt
_MANY = 65536  # glibc's first value of the last one


class _MallocCounts(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def allocated_bytes() -> int:
    """What malloc has given out and not got back, touched or not; 0 without glibc."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype = _MallocCounts
    counts = libc.mallinfo2()
    return int(counts.uordblks + counts.hblkhd)


def trim() -> None:
    """Give unused memory of malloc back to the system."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def return_large_blocks() -> None:
    """From now on, large blocks have separate pages, which go back to the system when they are freed. (WarmHeap has changed that.) For
    models that see: a picture may take hundreds of MB while it is decoded."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, _MANY)
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * LARGE_BLOCK_BYTES)


class WarmHeap:
    """At most `num_bytes`. Without glibc it does nothing."""

    def __init__(self, num_bytes: int) -> None:
        libc = ctypes.CDLL(None)
        self.wanted_bytes = num_bytes
        self._size = min(num_bytes, available_bytes() // MEMORY_SHARE)
        self._done = 0
        self._block: int | None = None
        if self._size <= 0 or not hasattr(libc, "mallopt"):
            return
        # Large blocks come from the heap too, and the heap keeps freed memory.
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, INT32_MAX)
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
        self._free = libc.free
        self._block = libc.malloc(self._size)

    def __repr__(self) -> str:
        return f"<WarmHeap {self._done >> 20} of {self._size >> 20} MiB>"

    @property
    def is_cold(self) -> bool:
        """There is more to touch."""
        return self._block is not None and self._done < self._size

    def warm(self) -> None:
        """Touch as many pages as a few milliseconds allow."""
        if self._block is not None:
            step = min(STEP_BYTES, self._size - self._done)
            ctypes.memset(self._block + self._done, 0, step)
            self._done += step

    def give(self) -> None:
        """Let malloc give it out. Idempotent."""
        if self._block is not None:
            block, self._block = self._block, None
            self._free(block)
