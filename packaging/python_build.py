"""Python, from Debian's source package (with its security patches), built by the toolchain. `ensure(toolchain)` returns its folder.

All libraries that it links to, except the C library, are in its lib/ folder; none is from the build machine.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from toolchain import Toolchain, build_cache

SOURCE = "python3.11"
CARRIED = ("libz.so.1", "libbz2.so.1.0", "libsqlite3.so.0", "libgcc_s.so.1", "libgomp.so.1", "libstdc++.so.6")
CONFIGURE = ("--enable-shared", "--disable-test-modules", "--without-ensurepip")
# The build machine's folders are not those of the sysroot; and pyexpat needs a macro that Debian's build sets elsewhere.
EDITS = (
    ("setup.py", "    def add_multiarch_paths(self):\n", "    def add_multiarch_paths(self):\n        return\n"),
    ("Modules/pyexpat.c", "#include", "#define Py_BUILD_CORE_MODULE 1\n#include"),
)
NEEDED = ("ssl", "ctypes", "zlib", "bz2", "lzma", "sqlite3", "hashlib", "pyexpat", "_posixsubprocess", "mmap", "resource", "unicodedata")
RECIPE = 1


def ensure(chain: Toolchain) -> Path:
    key = hashlib.sha256(f"{RECIPE} {chain.key} {SOURCE} {CONFIGURE} {EDITS} {CARRIED}".encode()).hexdigest()[:12]
    folder = build_cache() / f"python-{key}"
    if not (folder / "complete").exists():
        print(f"Building Python in {folder}: about 4 minutes on 2 cores, once", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        work = Path(tempfile.mkdtemp(dir=build_cache(), prefix=".python-"))
        try:
            _build(chain, work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        (folder / "complete").touch()
    return folder


def _build(chain: Toolchain, work: Path, folder: Path) -> None:
    chain.apt("-qq", "source", "--download-only", SOURCE, folder=work)
    source = work / "source"
    subprocess.run(["dpkg-source", "--no-check", "-x", next(work.glob("*.dsc")), source], check=True, stdout=2)
    for name, old, new in EDITS:
        path = source / name
        path.write_text(path.read_text().replace(old, new, 1))
    for name in ("libz.so.1", "libbz2.so.1.0", "libsqlite3.so.0"):
        link = chain.libraries / f"{name.partition('.')[0]}.so"
        link.unlink(missing_ok=True)
        link.symlink_to(chain.shared(name))
    environment = {**os.environ, **chain.environment(), "CPPFLAGS": f"-I{chain.root}/usr/include/{chain.triplet}", "CFLAGS": "-O2 -g0"}
    environment["LDFLAGS"] = f"-L{chain.libraries} -Wl,-rpath,'$$ORIGIN/../lib'"
    openssl = f"--with-openssl={chain.root}/usr"
    log = folder.with_suffix(".log")
    with log.open("w") as output:
        for command in (
            [source / "configure", f"--prefix={folder}", openssl, *CONFIGURE],
            ["make", f"-j{os.cpu_count()}"],
            ["make", "install"],
        ):
            if subprocess.run(command, cwd=source, env=environment, stdout=output, stderr=output).returncode:
                sys.exit(f"The build of Python failed; see {log}")
    for name in CARRIED:
        shutil.copy(chain.shared(name), folder / "lib" / name)
    subprocess.run([folder / "bin/python3.11", "-c", f"import {', '.join(NEEDED)}"], check=True)
    log.unlink()
