"""Takes rights away from this process for good: files (Landlock), the network and other processes (seccomp). Only Linux.

Nothing is raised: rights that this kernel cannot take away are kept, and the answer says which are gone. Invariant: a child never gets
rights back. Landlock holds for the calling thread and for the threads and processes that it starts later; seccomp for all threads.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Iterable
from itertools import starmap

FILES, NETWORK = "files", "network"

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS = 38

# ---------------------------------------------------------------- Landlock

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_ASK_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_ALL_OF_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # 3 has also truncation, 5 ioctl of devices
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | 1 << 15
_TCP = 0b11  # bind and connect, from version 4
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11  # to processes that have more rights, from version 6
_READ = _EXECUTE | _READ_FILE | _READ_DIR


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


def landlock_version() -> int:
    """0: this kernel has none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)))


def confine_files(readable: Iterable[str], listable: Iterable[str], writable: Iterable[str], *, keeps_network: bool = False) -> bool:
    """Leave only these files and folders, with all that is in them. A folder of `listable` shows only names. Paths that do not exist are
    left out. False: this kernel cannot do it."""
    version = landlock_version()
    if not version:
        return False
    everything = _ALL_OF_VERSION[max(known for known in _ALL_OF_VERSION if known <= version)]
    ruleset = _Ruleset(everything, _TCP if version >= 4 and not keeps_network else 0, _ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = _libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), 0)
    if rules < 0:
        return False
    try:
        for paths, allowed in ((readable, _READ), (listable, _READ_DIR), (writable, everything & ~_EXECUTE)):
            for path in paths:
                _allow(rules, path, allowed)
        return _give_up_privileges() and _libc.syscall(_RESTRICT_SELF, rules, 0) == 0
    finally:
        os.close(rules)


def _allow(rules: int, path: str, allowed: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError):
        return
    try:
        if not os.path.isdir(f"/proc/self/fd/{fd}"):
            allowed &= _OF_FILES
        rule = _PathRule(allowed, fd)
        _libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(fd)


# ---------------------------------------------------------------- seccomp

# By machine: its number in audit, seccomp(2), and the calls that are refused: socket, io_uring_setup, ptrace, process_vm_readv,
# process_vm_writev, pidfd_getfd.
_MACHINES = {
    "x86_64": (0xC000003E, 317, (41, 425, 101, 310, 311, 438)),
    "aarch64": (0xC00000B7, 277, (198, 425, 117, 270, 271, 438)),
}
_FIRST_OF_X32 = 0x40000000  # other numbers of the same calls
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOWED, _REFUSED = 0x7FFF0000, 0x00050000 | errno.EPERM
_SET_FILTER, _ALL_THREADS, _NO_SLOW_MITIGATION = 1, 1, 4


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("if_true", ctypes.c_uint8), ("if_false", ctypes.c_uint8), ("value", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def confine_calls() -> bool:
    """No new socket of any kind, and no look into other processes. Sockets that are open stay usable. False: this kernel cannot do it."""
    if platform.machine() not in _MACHINES:
        return False
    audit, seccomp, refused = _MACHINES[platform.machine()]
    to_end = len(refused) + 1  # from the first comparison to the refusal
    instructions = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_IF_EQUAL, 0, to_end + 2, audit),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_IF_AT_LEAST, to_end, 0, _FIRST_OF_X32),
        *((_IF_EQUAL, to_end - 1 - index, 0, number) for index, number in enumerate(refused)),
        (_RETURN, 0, 0, _ALLOWED),
        (_RETURN, 0, 0, _REFUSED),
    ]
    program = _Program(len(instructions), (_Instruction * len(instructions))(*starmap(_Instruction, instructions)))
    if not _give_up_privileges():
        return False
    flags = _ALL_THREADS | _NO_SLOW_MITIGATION
    return bool(_libc.syscall(seccomp, _SET_FILTER, flags, ctypes.byref(program)) == 0)


def _give_up_privileges() -> bool:
    """Programs that it starts get no more rights than it has. Needed for both."""
    return bool(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
