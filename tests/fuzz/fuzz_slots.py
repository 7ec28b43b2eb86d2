"""Slot files: what is in a file's head and end is checked before llama.cpp reads the rest.

With an odd first byte the bytes after the second are the signature, with the right length, checksum and model; the second byte is the
length of what comes before it.
"""

import contextlib
import io
import struct
import zlib
from types import SimpleNamespace
from typing import Any

import orjson

from fastrouter.errors import InvalidRequest
from fastrouter.worker.calls.slot_files import SlotFiles, _count_tokens
from fastrouter.worker.engine.adapters import Adapters

MODEL = "m"
ADAPTERS = Adapters.__new__(Adapters)
ADAPTERS.all, ADAPTERS._default = [SimpleNamespace(path="/a.gguf")], ()
HEAD = struct.pack("<III", 0x67677371, 2, 1)


def check(data: bytes) -> None:
    content = _signed(data) if data[:1] and data[0] & 1 else data
    with contextlib.suppress(InvalidRequest):
        file = io.BytesIO(content)
        assert _count_tokens(file) >= 0
        adapters, has_pictures = _files()._check(file)
        assert isinstance(has_pictures, bool)
        for number, scale in adapters:
            assert number == 0
            assert isinstance(scale, float)


def _signed(data: bytes) -> bytes:
    length = data[1] if len(data) > 1 else 0
    content = HEAD + data[2 : 2 + length]
    text = data[2 + length :]
    with contextlib.suppress(orjson.JSONDecodeError):
        values: Any = orjson.loads(text)
        if isinstance(values, dict):
            text = orjson.dumps(values | {"bytes": len(content), "crc32": zlib.crc32(content), "model": MODEL})
    return content + text + struct.pack("<I8s", len(text), b"frslot01")


def _files() -> SlotFiles:
    """Without an engine; only its adapters are asked for."""
    files = SlotFiles.__new__(SlotFiles)
    files._adapters = ADAPTERS
    files.__dict__["_fingerprint"], files.__dict__["_projector"] = MODEL, "p"
    return files
