"""Broken and harmful picture files: cut, changed, in a wrong order, of wrong types, or far larger than they look. Seeded: the same in each
run. Uses nothing of fastrouter."""

import functools
import struct
import zlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from tiny_projectors import GIF, JPEG, bmp, picture, png

ENDLESS = (0, 1, 50_000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
EXTREME_BYTES = (0, 1, 0x7F, 0x80, 0xFF)
HUGE = 50_000
SIGNATURE = b"\x89PNG\r\n\x1a\n"
FILES = (png(picture(1)), png(picture(2, 300, 200)), JPEG, GIF, bmp(picture(4, 8, 8)), bmp(picture(5, 60, 41)))
HEAD, END = (b"IHDR", FILES[0][16:29]), (b"IEND", b"")  # chunks of a PNG
# Beginnings of other kinds of files.
OTHER_KINDS = (
    *(b"", b"\0" * 64, b"BM", b"GIF89a", b"\xff\xd8\xff", SIGNATURE, b"hello", "hello".encode("utf-16"), b"<svg/>", b"<!doctype html>"),
    *(b"RIFF\x24\0\0\0WEBPVP8L", b"RIFF\x24\0\0\0WAVEfmt ", b"RIFF\x24\0\0\0AVI LIST", b"ID3\x04\0\0", b"\xff\xfb\x90\x64"),
    *(b"fLaC\0\0\0\x22", b"\0\0\0\x18ftypheic", b"\0\0\0\x18ftypavif", b"\0\0\0\x18ftypmp42", b"\x1a\x45\xdf\xa3", b"OggS\0\2"),
    *(b"%PDF-1.7\n", b"PK\3\4\x14\0", b"\x1f\x8b\x08\0", b"\x7fELF\2\1\1", b"GGUF\3\0\0\0", b"8BPS\0\1", b"#?RADIANCE\n"),
    *(b"P6\n50000 50000\n255\n", b"P5 9 9 255 ", b"qoif", b"II*\0\x08\0\0\0", b"\0\0\1\0\1\0", b"\x53\x80\xf6\x34"),
    *(b"\0\0\2\0\0\0\0\0\0\0\0\0\x50\xc3\x50\xc3\x18\0", b"\0\0\0\x0cjP  \r\n\x87\n"),
)


def files(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(kind, content): all kinds in turn."""
    random = Random(seed)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        yield kind, _MAKERS[kind](random)


def _whole(random: Random) -> bytes:
    return png(picture(random.randrange(1000), random.randrange(1, 90), random.randrange(1, 90)))


def _cut(random: Random) -> bytes:
    file = random.choice(FILES)
    return file[: random.randrange(len(file))]


def _bits(random: Random) -> bytes:
    file = bytearray(random.choice(FILES))
    for _ in range(random.randint(1, 20)):
        file[random.randrange(len(file))] ^= 1 << random.randrange(8)
    return bytes(file)


def _head(random: Random) -> bytes:
    """Only its first bytes are changed, which say how to read the others."""
    file = bytearray(random.choice(FILES))
    for _ in range(random.randint(1, 6)):
        file[random.randrange(2, min(64, len(file)))] = random.choice((*EXTREME_BYTES, random.randrange(256)))
    return bytes(file)


def _spliced(random: Random) -> bytes:
    file, other = random.choice(FILES), random.choice(FILES)
    start, end = sorted(random.randrange(len(file)) for _ in range(2))
    middle = random.choice((b"", file[start:end] * 3, other, random.randbytes(random.randrange(200)), bytes(random.randrange(5000))))
    return file[:start] + middle + file[end:]


def _types(random: Random) -> bytes:
    """Another kind of file, also below the beginning of a picture."""
    content = random.choice(OTHER_KINDS) + random.choice((b"", bytes(100), random.randbytes(random.randrange(300))))
    return random.choice((b"", b"", b"BM", b"GIF89a", b"\xff\xd8\xff", FILES[0][:33], JPEG[:4])) + content


# ---------------------------------------------------------------- parts in a wrong order


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """From (kind, content) of its chunks."""
    parts = [struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)) for kind, content in chunks]
    return SIGNATURE + b"".join(parts)


def _maybe(random: Random, usual: Any, *odd: Any) -> Any:
    """Nearly always what a good file has: several odd values together would only hide each other."""
    return random.choice(odd) if random.random() < 0.15 else usual


def _chunks(random: Random) -> bytes:
    """A PNG whose chunks are moved, doubled, lost, or lie about their length; their check sums are right."""
    depth, color = random.choice(((1, 0), (2, 0), (4, 3), (8, 3), (8, 2), (16, 2), (8, 4), (16, 6), (3, 2), (16, 3), (8, 5)))
    width, height = random.choice((1, 7, 33)), random.choice((1, 5, 40))
    method, interlacing = _maybe(random, 0, 2), _maybe(random, 0, 1, 2)
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, method, interlacing)
    row_bytes = 1 + (width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(color, 4) + 7) // 8
    content = bytes(_maybe(random, 0, 1, 3, 4, 9, 255) for _ in range(_maybe(random, height * row_bytes, 0, 50, 5000)))
    pixels = zlib.compress(content, random.choice((0, 9)))
    chunks = [
        (b"PLTE", random.randbytes(_maybe(random, 48, 0, 3, 768, 769, 900))),
        *[(b"tRNS", random.randbytes(random.choice((0, 1, 2, 6, 256, 300))))] * random.randrange(2),
        *[(b"IDAT", pixels[at : at + 100]) for at in range(0, len(pixels), 100)],
        (
            _maybe(random, b"tEXt", b"acTL", b"fdAT", b"zTXt", b"iCCP", b"XXXX", b"IHDR", b"CgBI"),
            random.randbytes(random.choice((0, 8, 13))),
        ),
    ]
    if random.random() < 0.3:
        random.shuffle(chunks)
    if random.random() < 0.2:
        chunks += random.sample(chunks, 2)
    file = bytearray(png_of([(b"IHDR", head), *chunks[_maybe(random, 0, 1) :], END]))
    if random.random() < 0.2:  # a length that is not true
        struct.pack_into(">I", file, 33, random.choice(ENDLESS))
    return bytes(file)


def _segments(random: Random) -> bytes:
    """The same for a JPEG."""
    segments, at = [], 2
    while JPEG[at + 1] != 0xDA:
        end = at + 2 + int(struct.unpack_from(">H", JPEG, at + 2)[0])
        segments.append(JPEG[at:end])
        at = end
    start, rest = random.randrange(len(segments)), JPEG[at:]
    if random.random() < 0.6:
        random.shuffle(segments)
    if random.random() < 0.5:
        del segments[start]
    if random.random() < 0.5:
        segments += [random.choice(segments)] * random.choice((1, 40))
    if random.random() < 0.5:
        marker = random.choice((0xC0, 0xC2, 0xC3, 0xC4, 0xC9, 0xDB, 0xDD, 0xDA, 0xE1, 0xEE, 0xFE))
        content = random.randbytes(random.choice((0, 6, 17, 70)))
        segments.insert(start, struct.pack(">BBH", 0xFF, marker, random.choice((0, 1, len(content) + 2, 0xFFFF))) + content)
    return (
        b"\xff\xd8"
        + b"".join(segments)
        + random.choice((rest, rest[: random.randrange(len(rest))], rest * 3, rest[:14] + b"\xff\xd0" * 500))
    )


# ---------------------------------------------------------------- sizes


def _sizes(random: Random) -> bytes:
    """50,000 x 50,000, or another size that it does not have."""
    width, height = random.choice(((HUGE, HUGE), (random.choice(ENDLESS), random.choice(ENDLESS))))
    file = bytearray(random.choice((FILES[1], JPEG, GIF, FILES[5])))
    if file.startswith(SIGNATURE):
        struct.pack_into(">II", file, 16, width, height)
        struct.pack_into(">I", file, 29, zlib.crc32(file[12:29]))
    elif file.startswith(b"GIF"):
        struct.pack_into("<HH", file, 6, width & 0xFFFF, height & 0xFFFF)
    elif file.startswith(b"BM"):
        struct.pack_into("<II", file, 18, width, height)
    else:
        struct.pack_into(">HH", file, file.index(b"\xff\xc0") + 5, height & 0xFFFF, width & 0xFFFF)
    return bytes(file)


def zeros(num_bytes: int) -> bytes:
    """A zlib stream of at least so many zeros, a thousandth as long."""
    num_blocks = -(-num_bytes >> 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    check_sum = ((num_blocks << 20) % 65521) << 16 | 1  # Adler's, of zeros
    return b"\x78\xda" + block * num_blocks + b"\x03\0" + struct.pack(">I", check_sum)


def png_of_zeros(width: int, height: int, depth: int, color: int, num_bytes: int, *, is_interlaced: bool = False) -> bytes:
    """`num_bytes`: of its pixels, whatever the size says."""
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, is_interlaced)
    return png_of([(b"IHDR", head), (b"IDAT", zeros(num_bytes)), END])


def _bombs(random: Random) -> bytes:
    return bomb(random.randrange(NUM_BOMBS))


@functools.cache
def bomb(number: int) -> bytes:
    """A small file that unpacks to gigabytes, or has a huge number of parts."""
    makers: tuple[Callable[[], bytes], ...] = (
        lambda: png_of_zeros(HUGE, HUGE, 1, 0, HUGE * (HUGE // 8 + 1)),
        lambda: png_of_zeros(HUGE, HUGE, 8, 2, 4 << 30),
        lambda: png_of_zeros(24, 16, 8, 2, 1 << 30),
        lambda: png_of_zeros(24, 16, 8, 2, 1 << 30, is_interlaced=True),
        lambda: png_of_zeros(7000, 7000, 16, 6, 100 << 20),
        lambda: png_of([HEAD, (b"zTXt", b"a\0\0" + zeros(1 << 30)), (b"iCCP", b"a\0\0" + zeros(1 << 30)), END]),
        lambda: png_of([HEAD, *[(b"IDAT", b"")] * 50_000, END]),
        lambda: JPEG[:2] + b"\xff\xe1\0\2" * 100_000 + JPEG[2:],
        lambda: JPEG[:2] + b"\xff" * 1_000_000 + JPEG[2:],
        lambda: JPEG[:-2] + JPEG[JPEG.index(b"\xff\xda") : -2] * 150 + JPEG[-2:],
        lambda: JPEG[:-2] * 500,
        lambda: _gif(5, 5, ONE_PIXEL * 100_000),
    )
    return makers[number]()


NUM_BOMBS = 12


# ---------------------------------------------------------------- GIF and BMP


ONE_PIXEL = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"  # a frame


def _gif(width: int, height: int, frames: bytes) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x91, 0, 0) + bytes(range(12)) + frames + b";"


def _frames(random: Random) -> bytes:
    """Many frames, frames outside of the screen, odd codes, blocks without an end."""
    left, top = _maybe(random, 0, 3, 0xFFFF), _maybe(random, 0, 3, 0xFFFF)
    width, height = _maybe(random, 5, 0, 1, 9, 0xFFFF), _maybe(random, 5, 0, 1, 9, 0xFFFF)
    flags = random.choice((0, 0x40, 0x80, 0x87, 0xC0))
    colors = random.randbytes(3 << (flags & 7) + 1) if flags & 0x80 else b""
    code = bytes((_maybe(random, 2, 0, 1, 8, 11, 12, 255),))
    blocks = b"".join(bytes((size,)) + random.randbytes(size) for size in random.choices((1, 2, 100, 255), k=random.randrange(5)))
    content = _maybe(
        random, b"\x16\x8c\x2d\x99\x87\x2a\x1c\xdc\x33\xa0\x02\x75\xec\x95\xfa\xa8\xde\x60\x8c\x04\x91\x4c\x01", b"", b"\x44\1"
    )
    control = random.choice((b"", b"", b"!\xf9\4" + random.randbytes(4) + b"\0", b"!\xfe" + b"\xff" + bytes(255)))
    frame = control + b"," + struct.pack("<HHHHB", left, top, width, height, flags) + colors + code
    frame += _maybe(random, bytes((len(content),)) + content, blocks, blocks[:-1]) + b"\0" * _maybe(random, 1, 0)
    return _gif(_maybe(random, 5, 1, 200), _maybe(random, 5, 1, 200), frame * random.choice((1, 2, 2000)))


def _depths(random: Random) -> bytes:
    """BMP files of odd depths, packings, masks, palettes and beginnings of their pixels."""
    head_bytes = _maybe(random, random.choice((12, 40, 56, 108, 124)), 0, 16, 64, 0xFFFFFFFF)
    depth = _maybe(random, random.choice((1, 4, 8, 16, 24, 32)), 0, 2, 3, 7, 15, 31, 33, 48, 64, 0xFFFF)
    width, height = _maybe(random, 8, 1, 3, 64, *ENDLESS), _maybe(random, 5, 1, -8, 64, *ENDLESS)
    packing = _maybe(random, 3 if depth in (16, 32) else 0, 0, 1, 2, 3, 4, 5, 6, 0xFFFFFFFF)
    num_colors = _maybe(random, 0, 1, 256, 257, 0xFFFFFFFF)
    size = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF) if head_bytes == 12 else struct.pack("<II", width, height & 0xFFFFFFFF)
    rest = struct.pack("<HH", 1, depth)
    if head_bytes != 12:
        rest += struct.pack("<IIIIII", packing, _maybe(random, 0, 200, 0xFFFFFFFF), 0, 0, num_colors, 0)
    usual = (0x7C00, 0x3E0, 0x1F, 0) if depth == 16 else (0xFF0000, 0xFF00, 0xFF, 0)
    rest += struct.pack("<4I", *_maybe(random, usual, (0, 0, 0, 0), (0xFFFFFFFF,) * 4)) if packing == 3 else b""
    rest += bytes(max(0, min(head_bytes, 124) - 4 - len(size) - len(rest)))
    palette = random.randbytes((3 if head_bytes == 12 else 4) << depth) if depth <= 8 else b""
    start = _maybe(random, 14 + 4 + len(size) + len(rest) + len(palette), 0, 14, 54, 1078, 0x7FFFFFFF, 0xFFFFFFFF)
    return (
        b"BM" + struct.pack("<IIII", 0, 0, start, head_bytes) + size + rest + palette + random.randbytes(_maybe(random, 300, 0, 10, 2000))
    )


_MAKERS: dict[str, Callable[[Random], bytes]] = {
    "whole": _whole,
    "cut": _cut,
    "bits": _bits,
    "head": _head,
    "spliced": _spliced,
    "types": _types,
    "chunks": _chunks,
    "segments": _segments,
    "sizes": _sizes,
    "bombs": _bombs,
    "frames": _frames,
    "depths": _depths,
}
KINDS = tuple(_MAKERS)
