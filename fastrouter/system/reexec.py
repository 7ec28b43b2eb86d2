"""How this program starts itself again as another process: with an interpreter, or as the standalone executable.

Invariant: it starts the same program, from the same place; the executable is not unpacked again. The child does not import from the
working directory, unless this process was told to (`python -m fastrouter` in a source tree).
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RUN_MODULE = "--run-module"  # the executable's `python -m`, only for itself: see packaging/entry.py
_ROOT = Path(__file__).resolve().parent.parent  # of the package
_SECRET = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSPHRASE|KEY)$")


def command_of(module: str) -> list[str]:
    """The command that runs `python -m module` in this program."""
    return [sys.executable, RUN_MODULE, module] if getattr(sys, "frozen", False) else [sys.executable, "-P", "-m", module]


def environment_for_own(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of another process of this program: the variables without tokens, keys and passwords."""
    kept = {name: value for name, value in environ.items() if not _SECRET.search(name)}
    if not getattr(sys, "frozen", False) and _is_first_on_path():
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), kept.get("PYTHONPATH"))))
    return kept


def _is_first_on_path() -> bool:
    """The interpreter has put the package's folder there, because of `-m` or a script. With `-P` the child leaves it out."""
    return not sys.flags.safe_path and bool(sys.path) and Path(sys.path[0]).resolve() == _ROOT


def start(command: Sequence[str], environ: Mapping[str, str], **how: Any) -> "subprocess.Popen[bytes]":
    """A child that never gets a terminal's Ctrl-C or hang-up, not even while it starts: these are for its parent. Raises OSError."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})  # the child inherits this
    try:
        return subprocess.Popen(command, env=environ, **how)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def environment_for_others(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of other programs: without the paths of the libraries inside the executable."""
    kept = dict(environ)
    if getattr(sys, "frozen", False):
        original = kept.pop("LD_LIBRARY_PATH_ORIG", None)  # PyInstaller stores it there
        kept.pop("LD_LIBRARY_PATH", None)
        if original is not None:
            kept["LD_LIBRARY_PATH"] = original
    return kept
