"""How a process is doing, as the system reports it in /proc. Only Linux."""

import contextlib
import os
from pathlib import Path

from fastrouter.supervisor.decide.hang import Look

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STATES = "TtDR"  # in this order one thread speaks for all; the rest sleep
_READ = ("rchar:", "read_bytes:")
# Of /proc/PID/stat, after the name in parentheses.
_STATE, _PARENT, _MAJOR_FAULTS, _USER_TICKS, _SYSTEM_TICKS = 0, 1, 9, 11, 12


def look_at(pid: int | None) -> Look | None:
    """None: there is no such process, or it has ended."""
    try:
        fields = _stat(Path(f"/proc/{pid}/stat"))
    except (OSError, IndexError):
        return None
    if fields[_STATE] in "ZX":
        return None
    cpu_s = (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) / _TICKS_PER_S
    return Look(_state_of_threads(pid, fields[_STATE]), cpu_s, int(fields[_MAJOR_FAULTS]) + _bytes_read(pid))


def is_stopped(pid: int | None) -> bool:
    """By a signal. Quick: only its first thread is looked at."""
    try:
        return _stat(Path(f"/proc/{pid}/stat"))[_STATE] == "T"
    except (OSError, IndexError):
        return False


def child_with(fd: int) -> int | None:
    """The child of this process that has the same file open as `fd`; it need not have told anyone its pid."""
    wanted, us = os.fstat(fd), str(os.getpid())
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError):  # it has ended meanwhile, or is another user's
            if _stat(Path(f"/proc/{name}/stat"))[_PARENT] == us and _has_open(name, wanted):
                return int(name)
    return None


def _has_open(pid: str, wanted: os.stat_result) -> bool:
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), wanted):
                return True
    return False


def _stat(path: Path) -> list[str]:
    return path.read_text().rpartition(")")[2].split()


def _state_of_threads(pid: int | None, first: str) -> str:
    states = {first}
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError, IndexError):  # it has ended meanwhile
                states.add(_stat(Path(f"/proc/{pid}/task/{thread}/stat"))[_STATE])
    return next((state for state in _STATES if state in states), "S")


def _bytes_read(pid: int | None) -> int:
    """0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError):
        lines = [line.split() for line in Path(f"/proc/{pid}/io").read_text().splitlines()]
        return sum(int(value) for name, value in lines if name in _READ)
    return 0
