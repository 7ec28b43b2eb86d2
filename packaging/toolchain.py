"""A C and C++ compiler whose output runs with glibc 2.31 and newer: this machine's GCC with Debian bullseye's headers and libraries.

`Toolchain.ensure()` makes it once for each user, in the cache folder. The packages come from Debian's archive through apt, which checks
their signatures; nothing is installed, no root is needed. Needs gcc, g++, binutils, apt and the Debian archive's keys. Invariant: the
compiler sees nothing of the build machine's C library, except through GCC's own folder.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

GLIBC_FLOOR = (2, 31)
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SOURCES = f"""\
deb [signed-by={KEYRING}] http://deb.debian.org/debian bullseye main
deb [signed-by={KEYRING}] http://deb.debian.org/debian-security bullseye-security main
deb-src [signed-by={KEYRING}] http://deb.debian.org/debian bookworm main
"""
PACKAGES = (
    *("libc6", "libc6-dev", "linux-libc-dev", "libgcc-s1", "libgomp1", "libstdc++6", "libzstd-dev"),
    *("libssl-dev", "libffi-dev", "zlib1g", "zlib1g-dev", "libbz2-1.0", "libbz2-dev", "liblzma-dev"),
    *("libsqlite3-0", "libsqlite3-dev"),
)
# INSIDE: their code is in the output. LICENCES: the licences of some of it; nothing is built from these, so they are not in the key.
INSIDE = (
    *("libc6-dev", "libgcc-s1", "libgomp1", "libstdc++6", "libzstd-dev"),
    *("libssl-dev", "libffi-dev", "zlib1g", "libbz2-1.0", "liblzma-dev", "libsqlite3-0"),
)
LICENCES = ("gcc-10-base", "libffi7")
# GCC 12's libstdc++.a calls two things that glibc 2.31 has not.
SHIM = """\
#include <stdint.h>
#include <sys/random.h>
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
__attribute__((visibility("hidden"))) uint32_t arc4random(void) {
    uint32_t value;
    while (getrandom(&value, sizeof value, 0) != sizeof value) continue;
    return value;
}
"""
# GCC 12's unwinder calls one more, in programs that are linked statically; those (the launcher) are C and never unwind.
STATIC_SHIM = "int _dl_find_object(void *address, void *result) { (void)address; (void)result; return -1; }\n"
WRAPPER = """\
#!/bin/sh
exec {compiler} --sysroot={root} -B{libraries} -L{libraries} -L{system} {extra}"$@"
"""
RECIPE = 1  # count up when `_make` changes


def build_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastrouter" / "build"


@dataclass(frozen=True)
class Toolchain:
    folder: Path

    @property
    def triplet(self) -> str:
        return f"{platform.machine()}-linux-gnu"

    @property
    def root(self) -> Path:
        return self.folder / "sysroot"

    @property
    def libraries(self) -> Path:
        return self.root / "usr/lib" / self.triplet

    @property
    def system(self) -> Path:
        return self.root / "lib" / self.triplet

    @property
    def key(self) -> str:
        return self.folder.name

    def environment(self) -> dict[str, str]:
        """For configure scripts, CMake and setuptools."""
        return {"CC": str(self.folder / "bin/cc"), "CXX": str(self.folder / "bin/c++")}

    def shared(self, name: str) -> Path:
        """A shared library of the old system, to be included in the executable."""
        return next(path for folder in (self.libraries, self.system) if (path := folder / name).exists()).resolve()

    def apt(self, *arguments: str, folder: Path) -> None:
        """A separate apt with its own lists and archive."""
        subprocess.run(
            ["apt-get", *arguments], cwd=folder, env={**os.environ, "APT_CONFIG": str(self.folder / "apt.conf")}, check=True, stdout=2
        )

    @classmethod
    def ensure(cls) -> "Toolchain":
        version = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
        recipe = f"{RECIPE} {SOURCES} {PACKAGES} {SHIM} {STATIC_SHIM} {WRAPPER} gcc {version} {platform.machine()}"
        chain = cls(build_cache() / f"toolchain-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}")
        if not (chain.folder / "complete").exists():
            print(f"Making a toolchain for glibc {GLIBC_FLOOR[0]}.{GLIBC_FLOOR[1]} in {chain.folder}", file=sys.stderr, flush=True)
            shutil.rmtree(chain.folder, ignore_errors=True)
            chain._make(version.split(".")[0])
            (chain.folder / "complete").touch()
        if not all((chain.root / "usr/share/doc" / package).exists() for package in LICENCES):
            chain._unpack(LICENCES)
        return chain

    def _make(self, gcc_version: str) -> None:
        self._configure_apt()
        self.apt("-qq", "update", folder=self.folder)
        self._unpack(PACKAGES)
        for link in [path for path in self.root.rglob("*") if path.is_symlink() and str(path.readlink()).startswith("/")]:
            target = self.root / str(link.readlink()).lstrip("/")
            link.unlink()
            link.symlink_to(os.path.relpath(target, link.parent))
        self._choose_libraries()
        self._write_wrappers(gcc_version)
        for archive, text in (("libc_nonshared.a", SHIM), ("libc.a", STATIC_SHIM)):
            shim = self.folder / f"shim-{archive[:-2]}.c"
            shim.write_text(text)
            subprocess.run([self.folder / "bin/cc", "-O2", "-fPIC", "-c", shim, "-o", shim.with_suffix(".o")], check=True)
            subprocess.run(["ar", "r", self.libraries / archive, shim.with_suffix(".o")], check=True, capture_output=True)

    def _unpack(self, packages: tuple[str, ...]) -> None:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        self.apt("-qq", "download", *packages, folder=folder)
        for package in sorted(folder.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package, self.root], check=True)
        shutil.rmtree(folder)

    def _configure_apt(self) -> None:
        for folder in ("etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
            (self.folder / "apt" / folder).mkdir(parents=True)
        (self.folder / "apt/etc/sources.list").write_text(SOURCES)
        home = self.folder / "apt"
        settings = {
            "Dir::Etc": home / "etc",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::State": home / "state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": home / "cache",
            "APT::Sandbox::User": "root",
            "Acquire::Check-Valid-Until": "false",  # the lists of an old release are not renewed any more
        }
        (self.folder / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))

    def _choose_libraries(self) -> None:
        """Static libraries if they can be part of a shared library; all others are included in the executable."""
        for name in ("ssl", "crypto", "ffi", "lzma", "zstd"):
            (self.libraries / f"lib{name}.so").unlink(missing_ok=True)
        (self.libraries / "libcrypto.so").write_text("GROUP ( libcrypto.a -ldl -lpthread )\n")
        shutil.copy(self.libraries / "libffi_pic.a", self.libraries / "libffi.a")
        (self.libraries / "libgomp.so").symlink_to("libgomp.so.1")
        (self.libraries / "libgcc_s.so").write_text("GROUP ( libgcc_s.so.1 -lgcc )\n")

    def _write_wrappers(self, gcc_version: str) -> None:
        headers = f"-isystem /usr/include/c++/{gcc_version} -isystem /usr/include/{self.triplet}/c++/{gcc_version} "
        static = "-static-libstdc++ -Wl,--exclude-libs,libstdc++.a "
        (self.folder / "bin").mkdir()
        for name, compiler, extra in (("cc", "gcc", ""), ("c++", "g++", headers + static)):
            path = self.folder / "bin" / name
            path.write_text(WRAPPER.format(compiler=compiler, root=self.root, libraries=self.libraries, system=self.system, extra=extra))
            path.chmod(0o755)
