"""How much memory this machine has to give. Knows no model and no instance."""

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def available_bytes() -> int:
    """What can be allocated without swapping, as the kernel estimates it (Linux `MemAvailable`)."""
    for line in _MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
