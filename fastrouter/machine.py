"""What this machine has to give right now: memory and cores. Linux; knows no model and no process of ours."""

import contextlib
import os
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """What can be allocated without swapping (the kernel's `MemAvailable`), or less where the control group has a limit; 0 when
    nobody says."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    with contextlib.suppress(OSError, ValueError):  # no limit: "max"
        found.append(int((_GROUP / "memory.max").read_text()) - int((_GROUP / "memory.current").read_text()))
    return max(0, min(found, default=0))


def is_core_free() -> bool:
    """No more threads want to run right now than there are cores, the caller included."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) <= len(os.sched_getaffinity(0))
    except (OSError, ValueError, IndexError):
        return True
