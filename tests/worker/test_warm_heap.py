"""Memory that is touched early; in a child process, because it changes how malloc works."""

import subprocess
import sys

SCRIPT = """
import ctypes, os
from fastrouter.system.machine import available_bytes
from fastrouter.worker.process.warm_heap import WarmHeap, return_large_blocks, trim

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def faults():
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

assert available_bytes() > 1 << 20
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size = 64 << 20
heap = WarmHeap(size + (1 << 20))
while heap.is_cold:
    heap.warm()
heap.give()
heap.give()
before = faults()
block = libc.malloc(ctypes.c_size_t(size))
ctypes.memset(block, 1, size)
assert faults() - before < 1000, faults() - before
libc.free(ctypes.c_void_p(block))
trim()
nothing = WarmHeap(0)
assert not nothing.is_cold
nothing.warm()
nothing.give()
for has_returned in (False, True):
    if has_returned:
        return_large_blocks()
    before = resident()
    large = libc.malloc(ctypes.c_size_t(3 * size))  # no hole of the heap is that large
    ctypes.memset(large, 1, 3 * size)
    libc.free(ctypes.c_void_p(large))
    assert (resident() - before < size) == has_returned, (resident() - before, has_returned)
    trim()
"""


def test_what_was_touched_is_what_malloc_gives() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
