"""What the first bytes of a picture's file tell: its kind and its size. Checked before anything is decoded. Pure.

Invariant: a file that passes has at most MAX_PIXELS pixels, as long as its decoder believes the same bytes.
"""

import re
import struct
import zlib
from collections.abc import Iterator

MAX_PIXELS = 50_000_000  # a decoded picture takes 3 bytes for each, and a few times that while it is decoded
MAX_WEBP_PIXELS = 25_000_000  # its decoder takes four times as much
MAX_RATIO = 200  # of its sides: a projector for any size makes a line as wide as one token, and that may be very much larger
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_KINDS = (_PNG, b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")
MAX_SCANS = 100  # of a JPEG: each one goes over all pixels
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)  # of a JPEG, without those inside compressed pixels
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the markers that a frame's size follows
_ALONE = (0x01, 0xD8, 0xD9)  # markers without a length
_SCAN = 0xDA
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the color type of a PNG
_STEP_BYTES = 1 << 20


def check(file: bytes) -> None:
    """Raises ValueError: what is wrong with it, and what to do."""
    size = size_of(file)
    if size is None:
        raise ValueError(f"is not a picture that can be read{_guess(file)}: send PNG, JPEG, GIF or BMP")
    width, height = size
    if not (width and height):
        raise ValueError("is a picture without pixels, or its file is cut short")
    most = MAX_WEBP_PIXELS if is_webp(file) else MAX_PIXELS
    if width * height > most:
        raise ValueError(f"is a picture of {width} x {height} pixels, but at most {most} are decoded: send a smaller one")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(f"is a picture of {width} x {height} pixels, but no side may be more than {MAX_RATIO} times as long as the other")
    if file.startswith(_PNG):
        _check_content(file, width, height)


def _guess(file: bytes) -> str:
    if not file:
        return " (the file is empty)"
    if file[4:8] == b"ftyp":
        return " (it is HEIC, AVIF or a video)"
    return " (it is SVG, HTML or XML)" if file[:256].lstrip().startswith(b"<") else ""


def is_webp(file: bytes) -> bool:
    return file[:4] == b"RIFF" and file[8:12] == b"WEBP"


def size_of(file: bytes) -> tuple[int, int] | None:
    """(width, height); zeros: the file is cut short. None: another kind of file."""
    if not (file.startswith(_KINDS) or is_webp(file)):
        return None
    try:
        if is_webp(file):
            width, height = _size_of_webp(file)
        elif file.startswith(_PNG):
            width, height = struct.unpack_from(">II", file, 16)
        elif file.startswith(b"GIF"):
            width, height = struct.unpack_from("<HH", file, 6)
        elif file.startswith(b"BM"):
            width, height = _size_of_bmp(file)
        else:
            width, height = _size_of_jpeg(file)
    except struct.error:
        return 0, 0
    return width, height


def _size_of_bmp(file: bytes) -> tuple[int, int]:
    (head_bytes,) = struct.unpack_from("<I", file, 14)
    width, height = struct.unpack_from("<HH" if head_bytes == 12 else "<ii", file, 18)
    return abs(width), abs(height)  # a negative height: from the top down


def _size_of_webp(file: bytes) -> tuple[int, int]:
    """Of its canvas, which no frame is larger than."""
    kind = file[12:16]
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", file, 24)
        return 1 + low_width + (high_width << 16), 1 + low_height + (high_height << 16)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", file, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind != b"VP8 ":
        return 0, 0
    width, height = struct.unpack_from("<HH", file, 26)
    return width & 0x3FFF, height & 0x3FFF


def _size_of_jpeg(file: bytes) -> tuple[int, int]:
    """Of its largest frame: a decoder may take any of them."""
    at, width, height, num_scans = 2, 0, 0, 0
    while found := _MARKER.search(file, at):
        at, marker = found.start(), file[found.start() + 1]
        if marker in _FRAMES:
            rows, columns = struct.unpack_from(">HH", file, at + 5)
            if rows * columns > width * height:
                width, height = columns, rows
        num_scans += marker == _SCAN
        if num_scans > MAX_SCANS:
            raise ValueError(f"is a JPEG with more than {MAX_SCANS} scans: save it again without them")
        if marker in _ALONE:
            at += 2
        elif at + 4 > len(file):
            break
        else:
            at += 2 + int(struct.unpack_from(">H", file, at + 2)[0])
    return width, height


def _check_content(file: bytes, width: int, height: int) -> None:
    """The pixels of a PNG must not unpack to much more than its size tells: the decoder has no limit."""
    bits, color = struct.unpack_from("BB", file.ljust(26, b"\0"), 24)
    row_bytes = 1 + (width * bits * _CHANNELS.get(color, 4) + 7) // 8
    left = 2 * height * row_bytes + _STEP_BYTES  # an interlaced one has more rows
    unpacker = zlib.decompressobj()
    try:
        for part in _pixels_of(file):
            while part and left >= 0 and not unpacker.eof:
                left -= len(unpacker.decompress(part, _STEP_BYTES))
                part = unpacker.unconsumed_tail
    except zlib.error:
        raise ValueError("is a picture that cannot be decoded: its file is broken") from None
    if left < 0:
        raise ValueError("is a PNG with far more content than its size tells: it is broken, or made to do harm")


def _pixels_of(file: bytes) -> Iterator[bytes]:
    """The content of the chunks that hold a PNG's pixels."""
    at = 8
    while at + 12 <= len(file):
        (length,) = struct.unpack_from(">I", file, at)
        if file[at + 4 : at + 8] == b"IDAT":
            yield file[at + 8 : at + 8 + length]
        at += 12 + length
