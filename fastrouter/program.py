"""How this program starts itself again as another process: with an interpreter, or as the standalone executable. Knows no module's meaning.

Invariant: what is started is the very program that runs, from where it lies; the executable is never unpacked again.
"""

import sys
from collections.abc import Mapping

RUN_MODULE = "--run-module"  # the executable's `python -m`, for itself only: see packaging/entry.py


def command_of(module: str) -> list[str]:
    """What runs `python -m module` in this program."""
    return [sys.executable, RUN_MODULE if getattr(sys, "frozen", False) else "-m", module]


def environment_for_others(environ: Mapping[str, str]) -> dict[str, str]:
    """What a program that is not this one is started with: the libraries that the executable brings are not for it."""
    kept = dict(environ)
    if getattr(sys, "frozen", False):
        original = kept.pop("LD_LIBRARY_PATH_ORIG", None)  # PyInstaller puts it aside
        kept.pop("LD_LIBRARY_PATH", None)
        if original is not None:
            kept["LD_LIBRARY_PATH"] = original
    return kept
