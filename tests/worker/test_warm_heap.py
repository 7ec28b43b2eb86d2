"""Memory that is touched early; in a child process, because it changes how malloc works."""

import subprocess
import sys

SCRIPT = """
import ctypes
from fastrouter.system.machine import available_bytes
from fastrouter.worker.process.warm_heap import WarmHeap, trim

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
"""


def test_what_was_touched_is_what_malloc_gives() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
