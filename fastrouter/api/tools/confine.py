"""Takes away from a thread, and from all that it starts, what a tool does not need: Landlock and resource limits. Linux only.

Invariant: after `confine` the thread can open no file outside the given folders, and signal or inspect no process outside; neither can a
program that it starts. It cannot be undone. The other threads of the process are not confined: they can clean up.
"""

import ctypes
import os
import resource
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # system calls, the same on all machines
_ASK_VERSION = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVILEGES, _SUBREAPER, _DROP_FROM_BOUNDING_SET = 38, 36, 24  # prctl
_NUM_CAPABILITIES = 64

# enum landlock_access_fs
_EXECUTE, _WRITE, _READ, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_FIRST_RIGHTS = (1 << 13) - 1
_NEWER = ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL))  # since this version
_DEVICES = (1 << 6) | (1 << 11)  # to make character and block devices
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL  # the others are for folders only
_SCOPED = 0b11  # abstract Unix sockets and signals, since version 6

MAX_FILE_BYTES = 1 << 30
MAX_FILES = 1024

# What programs read. Not /home, /root, /var, /run, /srv, /mnt, and of /etc only this.
PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store", "/gnu/store")
_ETC = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "passwd", "group", "nsswitch.conf", "hosts", "resolv.conf", "host.conf", "services"),
    *("protocols", "localtime", "timezone", "ssl", "pki", "ca-certificates", "alternatives", "mime.types", "gitconfig", "terminfo"),
    *("profile", "bash.bashrc", "inputrc", "magic", "os-release", "debian_version", "fonts", "locale.alias", "python3"),
)
_PROC = (
    "cpuinfo",
    "meminfo",
    "stat",
    "version",
    "filesystems",
    "loadavg",
    "uptime",
    "mounts",
    "sys",
)  # not of processes: a key may be there
SYSTEM = (*(f"/etc/{name}" for name in _ETC), *(f"/proc/{name}" for name in _PROC), "/sys")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


class CannotConfine(OSError):
    """The kernel has no Landlock, or refuses it."""


def landlock_version() -> int:
    """0: there is none."""
    version = _libc.syscall(_CREATE, None, ctypes.c_size_t(0), _ASK_VERSION)
    return max(0, int(version))


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def in_own_thread(act: Callable[[], T]) -> T:
    """For an `act` that confines its thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(act).result()


def confine(writable: Sequence[str], readable: Sequence[str] = (), executable: Sequence[str] = (), files: Sequence[str] = ()) -> None:
    """Folders and files that stay usable; missing ones are left out. `files`: may be read and written, not executed. Raises
    CannotConfine."""
    version = landlock_version()
    if not version:
        raise CannotConfine("this kernel has no Landlock")
    rights = _FIRST_RIGHTS | sum(right for since, right in _NEWER if version >= since)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    attributes = _Ruleset(rights, 0, _SCOPED if version >= 6 else 0)
    rules = _call(_CREATE, ctypes.byref(attributes), ctypes.c_size_t(size), 0)
    try:
        _allow(rules, writable, rights & ~_DEVICES)
        _allow(rules, readable, _READ | _READ_DIR)
        _allow(rules, executable, _READ | _READ_DIR | _EXECUTE)
        _allow(rules, files, rights & (_READ | _WRITE | _TRUNCATE | _IOCTL))
        if _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
            raise CannotConfine(ctypes.get_errno(), "prctl")
        _call(_RESTRICT, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, paths: Iterable[str], rights: int) -> None:
    for path in paths:
        try:
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            allowed = rights if os.path.isdir(path) else rights & _OF_FILES
            _call(_ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(_Beneath(allowed, parent)), 0)
        finally:
            os.close(parent)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise CannotConfine(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


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
