"""How glibc manages the memory of this process. Without glibc nothing happens here.

When glibc frees a block that had separate pages, it raises the size from which blocks get separate pages. After one large request body,
the next bodies would share the heap with objects that stay, and leave holes in it. A fixed size keeps them apart, so their memory goes
back to the system immediately.
"""

import ctypes

LARGE_BLOCK_BYTES = 128 << 10  # glibc's first value
MAX_ARENAS = 2  # threads that allocate share these arenas
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # for glibc's mallopt


def keep_large_blocks_apart() -> None:
    """For the whole process; call it before threads start."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        libc.mallopt(_M_ARENA_MAX, MAX_ARENAS)
