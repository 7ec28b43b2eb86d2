"""What a tool may reach, and its limits of resources. Only Linux.

Invariant: a confined thread, and all that it starts, opens only what is named here and cannot signal or inspect a process outside. The
other threads of the process are not confined: they can clean up.
"""

import ctypes
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_SUBREAPER, _DROP_FROM_BOUNDING_SET = 36, 24  # prctl
_NUM_CAPABILITIES = 64

MAX_FILE_BYTES = 1 << 30
MAX_FILES = 1024

# What programs read. Not /home, /root, /var, /run, /srv, /mnt, and of /etc only this.
PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store", "/gnu/store")
_ETC = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "passwd", "group", "nsswitch.conf", "hosts", "resolv.conf", "host.conf", "services"),
    *("protocols", "localtime", "timezone", "ssl", "pki", "ca-certificates", "alternatives", "mime.types", "gitconfig", "terminfo"),
    *("profile", "bash.bashrc", "inputrc", "magic", "os-release", "debian_version", "fonts", "locale.alias", "python3"),
)
# Nothing of processes: a key may be there.
_PROC = ("cpuinfo", "meminfo", "stat", "version", "filesystems", "loadavg", "uptime", "mounts", "sys")
SYSTEM = (*(f"/etc/{name}" for name in _ETC), *(f"/proc/{name}" for name in _PROC), "/sys")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")

T = TypeVar("T")
_libc = ctypes.CDLL(None)


def in_own_thread(act: Callable[[], T]) -> T:
    """For an `act` that confines its thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(act).result()


def limit_resources(cpu_s: int, memory_bytes: int | None = None) -> None:
    """For this process and each one that it starts."""
    limits = [(resource.RLIMIT_CPU, cpu_s), (resource.RLIMIT_FSIZE, MAX_FILE_BYTES), (resource.RLIMIT_CORE, 0)]
    limits += [(resource.RLIMIT_NOFILE, MAX_FILES)]
    limits += [(resource.RLIMIT_AS, memory_bytes)] if memory_bytes is not None else []
    for which, wanted in limits:
        _, hard = resource.getrlimit(which)
        least = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (least, least))


def drop_capabilities() -> None:
    """Programs that the calling thread starts as root have only the rights of root's files."""
    for number in range(_NUM_CAPABILITIES):
        _libc.prctl(_DROP_FROM_BOUNDING_SET, number, 0, 0, 0)  # fails for a user who has none to drop


def adopt_orphans() -> None:
    """Processes below this one become its children when their parent ends, so that they can be found and ended."""
    _libc.prctl(_SUBREAPER, 1, 0, 0, 0)
