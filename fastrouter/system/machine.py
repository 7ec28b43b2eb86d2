"""What this machine is, and how much memory and how many cores it has now. Only Linux."""

import contextlib
import itertools
import os
from functools import cache
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """What can be allocated without swapping (the kernel's `MemAvailable`), or less when the control group has a limit; 0: unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        found.append(_memory_line("MemAvailable:"))
    with contextlib.suppress(OSError, ValueError):  # without a limit it is "max"
        found.append(int((_GROUP / "memory.max").read_text()) - int((_GROUP / "memory.current").read_text()) + _group_cache_bytes())
    return max(0, min(found, default=0))


def total_bytes() -> int:
    """Of the machine, or of the control group; 0: unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        found.append(_installed_bytes())
    with contextlib.suppress(OSError, ValueError):
        found.append(int((_GROUP / "memory.max").read_text()))
    return min(found, default=0)


@cache
def _installed_bytes() -> int:
    return _memory_line("MemTotal:")


def _memory_line(name: str) -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def _group_cache_bytes() -> int:
    """Pages of files that count for the group and that the kernel can take back."""
    lines = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
    return int(lines.get("active_file", 0)) + int(lines.get("inactive_file", 0))


def anonymous_bytes(pid: int) -> int:
    """About how much memory of a process does not belong to a file; 0 when the process has ended."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES


def is_core_free() -> bool:
    """No more threads want to run now than there are cores, including the caller."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) <= len(os.sched_getaffinity(0))
    except (OSError, ValueError, IndexError):
        return True


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), os.uname().machine)
    return os.uname().machine


def resident_bytes(pid: int | None) -> int:
    """0 for a process that does not exist."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    return 0


_OF_THE_CPU = (
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "flags",
    "Features",
    "CPU implementer",
    "CPU part",
    "CPU variant",
)


def cpu_identity() -> dict[str, str]:
    """Make, model and features of the first core, with the kernel's names; empty when it reports nothing."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        lines = itertools.takewhile(str.strip, file)  # the part about the first core
        pairs = (line.split(":", 1) for line in lines if ":" in line)
        return {name.strip(): value.strip() for name, value in pairs if name.strip() in _OF_THE_CPU}
    return {}


def cpu_features() -> frozenset[str]:
    known = cpu_identity()
    return frozenset((known.get("flags") or known.get("Features") or "").split())
