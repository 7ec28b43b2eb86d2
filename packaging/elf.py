"""What the ELF files of a folder need from the machine: the newest glibc symbol of each. Needs objdump."""

import re
import subprocess
from pathlib import Path

_SYMBOL = re.compile(r"\(?GLIBC_(\d+)\.(\d+)")


def elf_files(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    found.append(path)
    return found


def glibc_floor(path: Path) -> tuple[int, int]:
    """(0, 0): it needs none."""
    output = subprocess.run(["objdump", "-T", path], capture_output=True, text=True).stdout
    symbols = [line for line in output.splitlines() if "*UND*" in line]
    return max(((int(major), int(minor)) for line in symbols for major, minor in _SYMBOL.findall(line)), default=(0, 0))


def floors(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: glibc_floor(path) for path in elf_files(folder)}
