"""Prints the path of the one portable llama-cpp-python wheel, and builds it first if this user has none.

The build is identified by version and flags, and stored in the user's cache folder, so a second clone takes seconds. pip's wheel cache
is not used: it knows only the source package and would return a build with other flags.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import tile_config

VERSION = "0.3.36"
# GCC before 13 removes the stores into AMX's tile configuration as unused: the first decode of a quantised model would crash on a
# CPU with AMX. Without these two optimisations AMX works. (-mno-amx-* would not help: each CPU variant adds its own -mamx-* after it.)
COMPILER_FLAGS = "-fno-tree-dse -fno-dse" if platform.machine() == "x86_64" else ""
# Every CPU variant in one build; the best one is picked at run time. RPC is for devices of other machines, over TCP only: RDMA would
# need a library that the machine of a user may not have.
CMAKE_ARGS = (
    "-DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON -DGGML_RPC=ON -DGGML_RPC_RDMA=OFF"
    f" -DCMAKE_C_FLAGS='{COMPILER_FLAGS}' -DCMAKE_CXX_FLAGS='{COMPILER_FLAGS}'"
)
# The backend of a kind of GPU; its toolkit (CUDA, the Vulkan SDK, ROCm) must be installed. This project's tests try none of the three.
GPU_ARGS = {"": "", "cuda": " -DGGML_CUDA=ON", "vulkan": " -DGGML_VULKAN=ON", "rocm": " -DGGML_HIP=ON"}


def wheelhouse(cmake_args: str = CMAKE_ARGS, toolchain: str = "") -> Path:
    """`toolchain`: the key of the toolchain for the build; empty: this machine's compiler."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(f"{VERSION} {cmake_args} {platform.machine()}{toolchain}".encode()).hexdigest()[:12]
    return cache / "fastrouter" / "wheels" / f"llama-cpp-python-{VERSION}-{key}"


def build(house: Path, cmake_args: str = CMAKE_ARGS, environment: dict[str, str] | None = None) -> None:
    print(
        f"Building llama.cpp (llama-cpp-python {VERSION}) for every CPU variant: about 8 minutes on 2 cores, once.\n"
        f"The result is kept in {house}",
        file=sys.stderr,
        flush=True,
    )
    house.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=house.parent, prefix=".building-"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-cache-dir", "--no-deps", "--no-binary", "llama-cpp-python"]
    try:
        subprocess.run(
            [*command, f"llama-cpp-python=={VERSION}", "--wheel-dir", str(work)],
            env={**os.environ, **(environment or {}), "CMAKE_ARGS": cmake_args},
            stdout=sys.stderr,
            check=True,
        )
        check(next(work.glob("*.whl")))
        if not house.exists():
            work.rename(house)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check(wheel: Path) -> None:
    """Ends the program if the compiler has made AMX code that crashes."""
    if not shutil.which("objdump"):
        return
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if re.search(r"/libggml-cpu-\w+\.so$", f"/{name}"):
                library = Path(archive.extract(name, folder))
                if wrong := tile_config.unconfigured(tile_config.disassembly(library)):
                    sys.exit(f"{library.name}: {wrong[0]}. It would crash on CPUs with AMX. Build with another compiler: CC=... CXX=...")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", choices=list(GPU_ARGS), default="", help="also the backend of this kind of GPU")
    cmake_args = CMAKE_ARGS + GPU_ARGS[parser.parse_args().gpu]
    house = wheelhouse(cmake_args)
    if not list(house.glob("llama_cpp_python-*.whl")):
        try:
            build(house, cmake_args)
        except subprocess.CalledProcessError as error:
            print(f"The build of llama-cpp-python failed (exit code {error.returncode}); its output is above.", file=sys.stderr)
            return 1
    print(next(house.glob("llama_cpp_python-*.whl")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
