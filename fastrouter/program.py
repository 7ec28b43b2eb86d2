"""How this program starts itself again as another process: with an interpreter, or as the standalone executable. Knows no module's meaning.

Invariant: what is started is the very program that runs, from where it lies; the executable is never unpacked again.
"""

import sys

RUN_MODULE = "--run-module"  # the executable's `python -m`, for itself only: see packaging/entry.py


def command_of(module: str) -> list[str]:
    """What runs `python -m module` in this program."""
    return [sys.executable, RUN_MODULE if getattr(sys, "frozen", False) else "-m", module]
