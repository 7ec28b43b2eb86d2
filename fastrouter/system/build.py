"""Which build this is: versions, origin, and how llama.cpp was compiled. Loads no model and none of llama.cpp's libraries.

Invariant: it reads files, and asks git in a checkout; what is not recorded there is not claimed. packaging/build_record.py writes RECORD
into a package or an executable.
"""

import contextlib
import hashlib
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

from fastrouter import __version__
from fastrouter.system.machine import cpu_identity

LLAMA_BUILD = 11434  # the llama.cpp release inside the llama-cpp-python that pyproject.toml pins
BINDING = "llama-cpp-python"
RECORD = "build.json"  # in the same folder: {"commit", "date", "llama_build"}, each of which may be missing
_PACKAGE = Path(__file__).parent.parent


def version_text() -> str:
    """The text that --version prints."""
    record = read_record()
    commit, date = record.get("commit"), record.get("date")
    if kind() == "checkout":  # a record that is still there is from another day
        commit, date = _commit_of_checkout(), None
    origin = f"{kind()}{f', commit {commit}' if commit else ''}{f' of {date}' if date else ''}"
    return (
        f"fastrouter {__version__} ({origin})\n"
        f"llama.cpp b{LLAMA_BUILD} ({BINDING} {binding_version() or 'not installed'}, {llama_build(record)})\n"
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )


def kind() -> str:
    """executable: one file with everything in it; checkout: run from its repository; package: installed by pip."""
    if getattr(sys, "frozen", False):
        return "executable"
    return "checkout" if (_PACKAGE.parent / ".git").exists() else "package"


def read_record() -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((_PACKAGE / RECORD).read_text())
        return {name: str(value) for name, value in record.items() if value}
    return {}


def binding_version() -> str | None:
    from importlib import metadata  # takes 20 ms, and only --version needs it

    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(BINDING)
    return None


def llama_build(record: dict[str, str]) -> str:
    """A portable build of packaging/llama_wheel.py is recognised by the key of its compiler flags."""
    key = record.get("llama_build") or portable_key()
    return f"portable build {key}" if key else "a build of its own"


def portable_key() -> str | None:
    """Taken from the path from which the wheel was installed."""
    from importlib import metadata

    with contextlib.suppress(metadata.PackageNotFoundError, OSError):
        origin = metadata.distribution(BINDING).read_text("direct_url.json") or ""
        found = re.search(rf"/{BINDING}-[\d.]+-([0-9a-f]{{12}})/", origin)
        return found[1] if found else None
    return None


def _commit_of_checkout() -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(_PACKAGE.parent), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip() or None
    return None


def cpu_build_id() -> str:
    """Identifies llama.cpp's CPU libraries together with this CPU: facts about both are stored under it."""
    from importlib import util  # at the first load, not at the start

    found = util.find_spec("llama_cpp")  # this does not import it
    package = Path(found.origin).resolve().parent if found is not None and found.origin else Path("/nonexistent")
    files = sorted([*(package.parent / "bin").glob("libggml-cpu*.so*"), *(package / "lib").glob("libggml-cpu*.so*")])
    with contextlib.suppress(OSError):
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return hashlib.sha256(repr((stats, cpu_identity())).encode()).hexdigest()[:32]
    return "unknown"
