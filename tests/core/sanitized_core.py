"""Builds the Cython core with the address and undefined-behaviour sanitizers in a temporary folder, and runs tests with it.

    python sanitized_core.py [TEST ...]

The installed package is not touched. Exit code: that of pytest; 0 with a reason when the compiler has no sanitizers.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
USUAL = [
    *("tests/core/test_ring.py", "tests/core/test_sse.py", "tests/core/test_http_parser.py", "tests/core/test_chain.py"),
    *("tests/core/test_sample.py", "tests/catalog/test_gguf.py", "tests/http/test_http_conformance.py"),
    *("tests/supervisor/test_hostile_worker.py", "tests/fuzz/test_kept_corpus.py"),
]
FLAGS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=alignment -fno-sanitize-recover=undefined"
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",  # Python keeps memory until its end
    "PYTHONMALLOC": "malloc",  # each object is an allocation of its own, which the sanitizer watches
    "PYTHONDONTWRITEBYTECODE": "1",
}


def runtime() -> str | None:
    """The sanitizer's library, which must be there before Python is; and C++'s, in which the sanitizer must find what throws."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    found = [_library(compiler, name) for name in ("libasan.so", "libstdc++.so.6")]
    return ":".join(found) if all(Path(path).is_absolute() for path in found) else None


def _library(compiler: str, name: str) -> str:
    return subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()


def build(folder: Path) -> None:
    """A copy of the sources and the tests, with the sanitized extension in its place."""
    for name in ("fastrouter", "tests", "packaging"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "_core.c"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    environment = {**os.environ, "CFLAGS": FLAGS, "LDFLAGS": FLAGS}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, env=environment, check=True, stderr=subprocess.DEVNULL)


def main() -> int:
    library = runtime()
    if library is None:
        print("skipped: the compiler has no address sanitizer")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        environment = {**os.environ, **OPTIONS, "LD_PRELOAD": library, "PYTHONPATH": str(folder)}
        where = [sys.executable, "-c", "import fastrouter._core as core; print(core.__file__)"]
        used = subprocess.run(where, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
        assert used.startswith(str(folder)), used
        tests = sys.argv[1:] or USUAL
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], cwd=folder, env=environment
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
