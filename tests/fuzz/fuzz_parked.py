"""Parked prompts: whatever the file holds, on disk or in sealed memory, it is refused with ValueError, or what is read is inside it.

The first byte says how: 1 a sound foot follows, 2 the memory is sealed, 4 the second byte is the length of JSON, which gets a head.
"""

import contextlib
import fcntl
import os
import zlib

from fastrouter.ipc.parked import Foot
from fastrouter.worker.kv.parked_file import _HEAD, _MAGIC, _SEALS, read

KEY = "k"


def check(data: bytes) -> None:
    how, content = data[:1] or b"\0", data[1:]
    if how[0] & 4 and content:
        content = _HEAD.pack(_MAGIC, content[0]) + content[1:]
    if how[0] & 1:
        content += Foot("m", KEY, 1, 1.0, len(content), zlib.crc32(content)).to_bytes()
    fd = os.memfd_create("fuzz", os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, content)
        if how[0] & 2:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        with contextlib.suppress(ValueError):
            found = read(fd, KEY)
            assert 1 <= len(found.prompt.tokens) * 4 <= len(content)
            assert found.is_intact() or not how[0] & 1
    finally:
        os.close(fd)
