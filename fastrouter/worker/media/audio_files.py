"""What an audio file tells before anything is decoded: its kind and its length. Pure.

Invariant: a file that passes is decoded to at most MAX_SECONDS of sound. libmtmd allocates as much as the file says, and gives a file that
is not what it seems to its other decoders. So a WAV file must be one that its decoder takes, and the frames of an MP3 file are counted.
"""

import re
import struct
from typing import NamedTuple

MAX_SECONDS = 1800  # a second takes about a third of a megabyte while it is read
_WAV, _FLAC, _TAG = b"RIFF", b"fLaC", b"ID3"
_PCM, _FLOAT, _LAWS, _EXTENSIBLE = 1, 3, (6, 7), 0xFFFE  # encodings in a WAV file
_BITS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64), **dict.fromkeys(_LAWS, (8,))}
_MAX_CHANNELS = 8
_RATES = range(1000, 384_001)
_BROKEN = "is audio that cannot be decoded: its file is broken or cut short"


def check(file: bytes) -> None:
    """Raises ValueError: what is wrong with it, and what to do."""
    start = _after_tag(file, 0)
    if file.startswith(_WAV) and file[8:12] == b"WAVE":
        seconds = _seconds_of_wav(file)
    elif file.startswith(_FLAC, _after_tags(file)):
        seconds = max(_seconds_of_flac(file, _after_tags(file)), _seconds_of_mp3(file, start))
    elif (start and not file.startswith(b"OggS", _after_tags(file))) or _FRAME.match(file):
        seconds = _seconds_of_mp3(file, start)
    else:
        raise ValueError(f"is not audio that can be read{_guess(file)}: send WAV, MP3 or FLAC")
    if seconds > MAX_SECONDS:
        raise ValueError(f"is audio of about {min(seconds, 1e9):.0f} seconds, but at most {MAX_SECONDS} are read: send a shorter one")


def _guess(file: bytes) -> str:
    if not file:
        return " (the file is empty)"
    if file.startswith(b"OggS"):
        return " (it is Ogg: Opus or Vorbis)"
    if file.startswith(b"\x1aE\xdf\xa3"):
        return " (it is WebM or Matroska)"
    if file[4:8] == b"ftyp":
        return " (it is M4A or a video)"
    return " (it is a picture)" if file.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")) else ""


def _after_tag(file: bytes, at: int) -> int:
    """Where the ID3 tag here ends."""
    if not file.startswith(_TAG, at) or at + 10 > len(file):
        return at
    size = 0
    for byte in file[at + 6 : at + 10]:
        size = size << 7 | byte & 0x7F
    return at + 10 + size + (10 if file[at + 5] & 0x10 else 0)


def _after_tags(file: bytes) -> int:
    """Decoders of FLAC skip several."""
    at, after = -1, 0
    while after != at:
        at, after = after, _after_tag(file, after)
    return at


# ---------------------------------------------------------------- WAV


def _seconds_of_wav(file: bytes) -> float:
    at, head = 12, b""
    while at + 8 <= len(file):
        name, size = file[at : at + 4], int.from_bytes(file[at + 4 : at + 8], "little")
        at += 8
        if name == b"fmt ":
            head = file[at : at + 26]
            size = max(size, 16)
        elif name == b"data":
            return _length_of_wav(head, min(size, len(file) - at))
        elif name == b"fact" and size < 4:
            break
        at += size + size % 2
    raise ValueError("is a WAV file without sound, or its file is cut short")


def _length_of_wav(head: bytes, num_bytes: int) -> float:
    try:
        encoding, num_channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", head)
        if encoding == _EXTENSIBLE:
            (encoding,) = struct.unpack_from("<H", head, 24)
    except struct.error:
        raise ValueError(_BROKEN) from None
    if bits not in _BITS.get(encoding, ()):
        raise ValueError(f"is a WAV file with an encoding that cannot be read ({encoding}, {bits} bits): send PCM with 16 bits")
    if not 1 <= num_channels <= _MAX_CHANNELS or rate not in _RATES or frame_bytes != num_channels * bits // 8:
        raise ValueError(f"is a WAV file with {num_channels} channels of {rate} Hz, which cannot be read: send one or two channels")
    if num_bytes < frame_bytes:
        raise ValueError("is a WAV file without sound")
    return float(num_bytes / frame_bytes / rate)


# ---------------------------------------------------------------- FLAC


def _seconds_of_flac(file: bytes, start: int) -> float:
    """Its first block says it."""
    facts = int.from_bytes(file[start + 18 : start + 26])
    rate, num_samples = facts >> 44, facts & (1 << 36) - 1
    if len(file) < start + 26 or file[start + 4] & 0x7F or rate not in _RATES:
        raise ValueError(_BROKEN)
    if not num_samples:
        raise ValueError("is a FLAC file that does not say how long it is: encode it again")
    return num_samples / rate


# ---------------------------------------------------------------- MP3


def _any_of(values: list[int]) -> bytes:
    return b"[" + b"".join(b"\\x%02x" % value for value in values) + b"]"


# The head of a frame of MPEG audio; heads may overlap.
_FRAME = re.compile(
    b"(?=\xff%b%b.)"
    % (
        _any_of([byte for byte in range(256) if (byte & 0xF0 == 0xF0 or byte & 0xFE == 0xE2) and byte & 6]),
        _any_of([byte for byte in range(256) if byte >> 4 != 15 and byte & 12 != 12]),
    ),
    re.DOTALL,
)
_HEAD_BYTES = 4
_FREE_BYTES = 2304  # of a frame whose head does not say its size, at most
_COUNT = re.compile(b"(?:Xing|Info)...%b(....)" % _any_of(list(range(1, 256, 2))), re.DOTALL)  # how many frames there are
_RATES_OF_MP3 = (44100, 48000, 32000)
# Half of the kbit/s, by version (MPEG 1 is the second), layer (3, 2, 1) and the number in the head.
_HALF_KBPS = (
    (
        (0, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 72, 80),
        (0, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 72, 80),
        (0, 16, 24, 28, 32, 40, 48, 56, 64, 72, 80, 88, 96, 112, 128),
    ),
    (
        (0, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160),
        (0, 16, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192),
        (0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224),
    ),
)


class _Frame(NamedTuple):
    num_samples: int
    rate: int
    num_bytes: int  # 0: its head does not say it


def _frame_at(file: bytes, at: int) -> _Frame:
    version, more = file[at + 1], file[at + 2]
    is_first = bool(version & 8)  # MPEG 1
    layer = version >> 1 & 3  # 3 is layer I
    rate = _RATES_OF_MP3[more >> 2 & 3] >> (not is_first) >> (not version & 16)
    num_samples = 384 if layer == 3 else 576 if layer == 1 and not is_first else 1152
    num_bytes = num_samples * 2 * _HALF_KBPS[is_first][layer - 1][more >> 4] * 125 // rate
    if layer == 3:
        num_bytes &= ~3
    return _Frame(num_samples, rate, num_bytes + _padding_at(file, at) if num_bytes else 0)


def _padding_at(file: bytes, at: int) -> int:
    return (4 if file[at + 1] & 6 == 6 else 1) if file[at + 2] & 2 else 0


def _seconds_of_mp3(file: bytes, start: int) -> float:
    """More than its real length if anything: every head that another one follows counts, and the slowest rate counts for all. The decoder
    believes a number of frames wherever it begins to read, also where there is no frame."""
    num_samples, slowest, longest, last = 0, 1 << 30, 0, 0
    end = _end_of_mp3(file)
    for found in _FRAME.finditer(file, start, end):
        at, frame = found.start(), _frame_at(file, found.start())
        if frame.num_bytes:
            is_frame = at + frame.num_bytes == end or _are_alike(file, at, at + frame.num_bytes)
        else:
            is_frame = _is_free_frame(file, at)
        if is_frame:
            num_samples += frame.num_samples * (1 if frame.num_bytes else 3)  # the last two of a row are not recognised
            slowest, longest, last = min(slowest, frame.rate), max(longest, frame.num_samples), at
            if num_samples > 2 * MAX_SECONDS * slowest:
                break
    said = max((int.from_bytes(count[1]) for count in _COUNT.finditer(file, start, last + _HEAD_BYTES)), default=0)
    return max(num_samples, said * longest) / slowest


def _end_of_mp3(file: bytes) -> int:
    """Where the decoder ends: before the tags."""
    end = len(file) - 128 if file[-128:-125] == b"TAG" else len(file)
    if file[max(0, end - 32) : end - 24] == b"APETAGEX":
        size = 32 + int.from_bytes(file[end - 8 : end - 4], "little")
        end -= size if size < end else 0
    return end


def _is_free_frame(file: bytes, at: int) -> bool:
    """A frame whose head does not say its size: two others follow at the same distance."""
    for found in _FRAME.finditer(file, at + _HEAD_BYTES, at + _FREE_BYTES + _HEAD_BYTES):
        other = found.start()
        third = 2 * other - at - _padding_at(file, at) + _padding_at(file, other)
        if _are_alike(file, at, other) and _are_alike(file, at, third):
            return True
    return False


def _are_alike(file: bytes, at: int, other: int) -> bool:
    """The heads of two frames of one stream."""
    if not _FRAME.match(file, other) or (file[at + 1] ^ file[other + 1]) & 0xFE or (file[at + 2] ^ file[other + 2]) & 0x0C:
        return False
    return (file[at + 2] < 16) == (file[other + 2] < 16)
