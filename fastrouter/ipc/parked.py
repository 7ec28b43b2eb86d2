"""The end of a parked prompt that was written to disk: what the router must know about it, and a checksum of all bytes before.

The router writes and reads it; the worker checks it. Invariant: whatever a file holds, `read_foot` raises only ValueError or OSError.
"""

import os
import struct
from dataclasses import asdict, dataclass

import orjson

_FOOT = struct.Struct("<I8s")  # the length of the JSON before it, and a mark that it is ours
_MARK = b"frpark01"
_MOST_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Foot:
    model_id: str
    key: str
    num_tokens: int
    saves_ms: float
    num_bytes: int  # before the foot
    crc32: int

    def to_bytes(self) -> bytes:
        content = orjson.dumps(asdict(self))
        return content + _FOOT.pack(len(content), _MARK)


def read_foot(fd: int) -> Foot:
    size = os.fstat(fd).st_size
    end = os.pread(fd, _FOOT.size, max(0, size - _FOOT.size))
    length, mark = _FOOT.unpack(end) if len(end) == _FOOT.size else (0, b"")
    begin = size - _FOOT.size - length
    if mark != _MARK or length > _MOST_BYTES or begin < 0:
        raise ValueError("it is not a whole file of a parked prompt")
    try:
        foot = Foot(**orjson.loads(os.pread(fd, length, begin)))
        numbers = (foot.num_tokens, foot.num_bytes, foot.crc32)
        is_sound = type(foot.model_id) is type(foot.key) is str and all(type(number) is int and number >= 0 for number in numbers)
    except (orjson.JSONDecodeError, TypeError):
        is_sound = False
    if not is_sound or type(foot.saves_ms) not in (int, float) or foot.num_bytes != begin:
        raise ValueError("it is damaged")
    return foot
