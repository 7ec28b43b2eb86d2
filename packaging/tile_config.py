"""Checks whether a library configures AMX's tiles before it uses them. It reads instructions with objdump, so it needs no CPU with AMX.

`ldtilecfg` loads 64 bytes: byte 0 is the palette, bytes 16 to 47 are the width of each tile (two bytes for each), bytes 48 to 63 its
rows. A compiler that removes the stores of widths and rows leaves zeros there, and the first use of a tile is an illegal instruction.
"""

import re
import subprocess
from collections import deque
from collections.abc import Iterable
from pathlib import Path

WINDOW = 64  # instructions before ldtilecfg that fill its 64 bytes
NEEDED = (("widths", 16), ("rows", 48))  # fields that must not stay zero, and their first byte
_ADDRESS = r"(-?(?:0x[0-9a-f]+)?)\((%\w+)\)"
_LOAD = re.compile(rf"\bldtilecfg\s+{_ADDRESS}")
_STORE = re.compile(rf"\s(v?mov\w*)\s+(\$-?0x[0-9a-f]+|%\w+),{_ADDRESS}\s*$")
_ZERO = re.compile(r"\s(?:v?p?xor(?:ps|pd|[ldqb])?)\s+(%\w+),(?:%\w+,)?(%\w+)\s*$")
_TARGET = re.compile(r",?(%\w+)\s*$")
_WIDTHS = {"b": 1, "w": 2, "l": 4, "q": 8}
_VECTORS = {"x": 16, "y": 32, "z": 64}


def disassembly(library: Path) -> list[str]:
    command = ["objdump", "-d", "--no-show-raw-insn", str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def num_tile_products(lines: Iterable[str]) -> int:
    return sum("tdpb" in line for line in lines)


def unconfigured(lines: Iterable[str]) -> list[str]:
    """What is wrong with each `ldtilecfg`; empty: nothing."""
    before: deque[str] = deque(maxlen=WINDOW)
    found = []
    for line in lines:
        line = line.partition("#")[0].rstrip().partition(" <")[0]
        if match := _LOAD.search(line):
            filled = _filled(before, match[2], _number(match[1]))
            missing = [name for name, begin in NEEDED if not any(start <= begin < end for start, end in filled)]
            if missing:
                found.append(f"ldtilecfg at {line.split(':')[0].strip()}: nothing stores the tiles' {' and '.join(missing)}")
        before.append(line)
    return found


def _filled(lines: Iterable[str], base: str, begin: int) -> list[tuple[int, int]]:
    """The bytes (from, to) of the 64 that get a value other than a register full of zeros."""
    zeros: set[str] = set()
    filled = []
    for line in lines:
        if (zero := _ZERO.search(line)) and zero[1] == zero[2]:
            zeros.add(_number_of(zero[2]))
        elif store := _STORE.search(line):
            at = _number(store[3]) - begin
            value = store[2]
            is_zero = value == "$0x0" or _number_of(value) in zeros
            if store[4] == base and not is_zero:
                filled.append((at, at + _size(store[1], value)))
        elif target := _TARGET.search(line):
            zeros.discard(_number_of(target[1]))
    return filled


def _number(text: str) -> int:
    return int(text, 16) if text else 0


def _number_of(register: str) -> str:
    """xmm0, ymm0 and zmm0 are one register; so are eax and rax."""
    return re.sub(r"^%(?:[xyz]mm|[re])", "%", register)


def _size(name: str, value: str) -> int:
    if value.startswith(("%xmm", "%ymm", "%zmm")):
        return {"vmovq": 8, "movq": 8, "vmovd": 4, "movd": 4}.get(name, _VECTORS[value[1]])
    if name[-1] in _WIDTHS and name != "mov":
        return _WIDTHS[name[-1]]
    return 8 if re.fullmatch(r"%r(\w\w|\d+)", value) else 4 if re.fullmatch(r"%e\w\w|%r\d+d", value) else 2 if value.endswith("x") else 1
