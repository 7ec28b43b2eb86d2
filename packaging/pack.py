"""Puts folders behind the launcher: `pack.py LAUNCHER OUTPUT NAME=FOLDER ...`. The format is described in launcher/payload.h.

Invariant: the same files give the same bytes, whatever their times, owners and order on disk are.
"""

import argparse
import hashlib
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

KEY_LENGTH = 64
LEVEL = 19


@dataclass(frozen=True)
class Entry:
    path: str
    mode: int
    content: bytes


def entries_of(folder: Path) -> list[Entry]:
    """Every file and link below the folder; executable files stay executable, all other permissions become equal."""
    found = []
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found.append(Entry(name, stat.S_IFLNK | 0o777, os.fsencode(path.readlink())))
        elif path.is_file():
            is_program = path.stat().st_mode & 0o100
            found.append(Entry(name, stat.S_IFREG | (0o700 if is_program else 0o600), path.read_bytes()))
    return found


def key_of(entries: list[Entry]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.path}\0{entry.mode:o} {len(entry.content)}\n".encode())
        digest.update(entry.content)
    return digest.hexdigest()


def compress(content: bytes, level: int) -> bytes:
    from backports import zstd  # when it is first used: tests pack without it

    options = {zstd.CompressionParameter.compression_level: level, zstd.CompressionParameter.checksum_flag: 1}
    options[zstd.CompressionParameter.window_log] = 27
    packed: bytes = zstd.compress(content, options=options)
    return packed


def write(launcher: Path, sections: dict[str, Path], output: Path, *, level: int = LEVEL) -> None:
    """`sections`: a folder for each name; the launcher becomes the program `fastrouter` of the first one. Level 0: not compressed."""
    body, index = bytearray(launcher.read_bytes()), bytearray(struct.pack("<I", len(sections)))
    for name, folder in sections.items():
        entries = entries_of(folder)
        content = b"".join(entry.content for entry in entries)
        packed = compress(content, level) if level else content
        index += struct.pack("<16s64sQQII", name.encode(), key_of(entries).encode(), len(body), len(packed), level > 0, len(entries))
        for entry in entries:
            path = os.fsencode(entry.path)
            index += struct.pack("<IQH", entry.mode, len(entry.content), len(path)) + path
        body += packed
    trailer = b"FASTROUT" + struct.pack("<QQ", len(body), len(index))
    beside = output.with_name(output.name + ".part")
    beside.write_bytes(body + index + trailer)
    beside.chmod(0o755)
    beside.replace(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("launcher", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("sections", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--level", type=int, default=LEVEL)
    options = parser.parse_args()
    sections = {name: Path(folder) for name, folder in (word.split("=", 1) for word in options.sections)}
    write(options.launcher, sections, options.output, level=options.level)


if __name__ == "__main__":
    main()
