"""How glibc keeps the memory of this process. Without glibc nothing happens here.

glibc raises the size from which a block gets pages of its own whenever such a block is freed. After one large request body, the next
ones share the heap with what stays, and leave holes in it. A fixed size keeps them apart, so that their memory goes back at once.
"""

import ctypes

LARGE_BLOCK_BYTES = 128 << 10  # glibc's own first value
MAX_ARENAS = 2  # threads that allocate share these
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # glibc's mallopt


def keep_large_blocks_apart() -> None:
    """For the whole process; before it starts threads."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        libc.mallopt(_M_ARENA_MAX, MAX_ARENAS)
