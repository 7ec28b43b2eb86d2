"""The portable build's CPU variants: which this CPU can run, the best first, which is in use, and how to continue with a simpler one.

Works on the library that it is given. Never imports: worker.llama.model. Invariant: the process has exactly one CPU backend before and
after.
"""

import _ctypes
import ctypes
import os
from functools import cache
from pathlib import Path

_PATTERN = "libggml-cpu-*.so"
_SCORE = ctypes.CFUNCTYPE(ctypes.c_int)


def runnable(folder: Path) -> list[Path]:
    """The best first, by their own scores (0: this CPU cannot run it)."""
    scored = []
    for path in sorted(folder.glob(_PATTERN)):
        score = _score(path)
        if score > 0:
            scored.append((-score, path))
    return [path for _, path in sorted(scored)]


def _score(path: Path) -> int:
    """The library is closed again. ctypes.CDLL never does that, and takes longer."""
    library = _ctypes.dlopen(os.fspath(path), os.RTLD_NOW)
    try:
        score: int = _SCORE(_ctypes.dlsym(library, "ggml_backend_score"))()
        return score
    finally:
        _ctypes.dlclose(library)


def load_best(lib: ctypes.CDLL, folder: Path) -> bool:
    """Only that one, and no other backend in the folder. False: there is none."""
    load = lib.ggml_backend_load
    load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    return any(load(os.fsencode(path)) for path in runnable(folder))


def use_without_best(lib: ctypes.CDLL, folder: Path, num_dropped: int) -> None:
    """Replace the CPU backend by the best one after `num_dropped`, or by the simplest one. No model may be open."""
    paths = runnable(folder)
    if len(paths) < 2:
        return
    num_dropped = min(num_dropped, len(paths) - 1)
    for name, restype, argtypes in (
        ("ggml_backend_reg_by_name", ctypes.c_void_p, [ctypes.c_char_p]),
        ("ggml_backend_unload", None, [ctypes.c_void_p]),
        ("ggml_backend_load", ctypes.c_void_p, [ctypes.c_char_p]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = restype, argtypes
    of_address.cache_clear()
    present = lib.ggml_backend_reg_by_name(b"CPU")
    if present:
        lib.ggml_backend_unload(present)
    for path in paths[num_dropped:]:
        if lib.ggml_backend_load(os.fsencode(path)):
            return
    lib.ggml_backend_load(os.fsencode(paths[0]))


def name_of(path: Path) -> str:
    return path.stem.removeprefix("libggml-cpu-")


@cache
def of_address(address: int) -> str:
    """The name of the variant that has this function; "native" if the build has only one."""
    with open("/proc/self/maps") as file:
        for line in file:
            start, end = (int(part, 16) for part in line.split(maxsplit=1)[0].split("-"))
            if start <= address < end:
                path = Path(line.split(maxsplit=5)[-1].strip())
                return name_of(path) if path.match(_PATTERN) else "native"
    return "unknown"
