"""Writes small videos, and a folder with ffmpeg and with what llama-server needs of ffprobe. Uses nothing of fastrouter."""

import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
from tiny_projectors import Pixels

# llama-server asks ffprobe for the size and the rate. The package has no ffprobe; the videos of `avi` say both in their head.
_FFPROBE = """#!{python}
import struct, sys
head = sys.stdin.buffer.read()
(micros,), (width, height) = struct.unpack_from("<I", head, 32), struct.unpack_from("<II", head, 64)
print(f"width={{width}}\\nheight={{height}}\\nr_frame_rate={{round(1e6 / micros)}}/1")
"""


def make_programs(folder: Path) -> Path:
    folder.mkdir()
    (folder / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    (folder / "ffprobe").write_text(_FFPROBE.format(python=sys.executable))
    (folder / "ffprobe").chmod(0o755)
    return folder


def avi(frames: Sequence[Pixels], rate: int = 4) -> bytes:
    """Uncompressed. The width must be divisible by 4."""
    height, width, _ = frames[0].shape
    size = 3 * width * height
    main = struct.pack("<14I", 1_000_000 // rate, rate * size, 0, 0x10, len(frames), 0, 1, size, width, height, 0, 0, 0, 0)
    stream = b"vidsDIB " + struct.pack("<IHHIIIIIIIIHHHH", 0, 0, 0, 0, 1, rate, 0, len(frames), size, 0, 0, 0, 0, width, height)
    form = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, size, 0, 0, 0, 0)
    head = _chunk(b"avih", main) + _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", form))
    movie = b"".join(_chunk(b"00db", frame[::-1, :, ::-1].tobytes()) for frame in frames)
    content = b"AVI " + _list(b"hdrl", head) + _list(b"movi", movie)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _list(kind: bytes, content: bytes) -> bytes:
    return _chunk(b"LIST", kind + content)
