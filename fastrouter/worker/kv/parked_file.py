"""One parked prompt as a sealed memory file: its tokens, its part of the KV cache, its checkpoints. Written here and read here.

    head | JSON | tokens | state | state of each checkpoint       (each part begins at a multiple of ALIGNMENT)

A file that the router has written to disk has a foot after this (ipc/parked.py).

Never imports: worker.kv.prefixes. Invariant: a file that was sealed never changes, so what is read from it stays true while it is mapped.
"""

import fcntl
import mmap
import os
import struct
import zlib
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from fastrouter.ipc.parked import read_foot
from fastrouter.worker.kv.prompt_cache import CachedPrompt
from fastrouter.worker.kv.slots import AdapterSet, Checkpoint
from fastrouter.worker.llama.sequence_state import SavedState

ALIGNMENT = 64
_MAGIC = b"frpark01"
_HEAD = struct.Struct("<8sI")  # magic, bytes of JSON
_TOKEN_BYTES = 4
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

Part = tuple[int, Callable[[SavedState], bool]]
"""(bytes, what fills this many bytes); False: it could not."""


def copy_of(state: SavedState) -> Part:
    def fill(target: SavedState) -> bool:
        target[:] = state
        return True

    return state.nbytes, fill


def write(key: str, tokens: "array[int]", adapters: AdapterSet, oldest: int, state: Part, checkpoints: Sequence[Checkpoint]) -> int | None:
    """The descriptor of the file. None: there is no memory for it, or llama.cpp refuses."""
    parts = [state, *(copy_of(checkpoint.state) for checkpoint in checkpoints)]
    sizes = [num_bytes for num_bytes, _ in parts]
    about = {
        "key": key,
        "tokens": len(tokens),
        "adapters": adapters,
        "oldest": oldest,
        "sizes": sizes,
        "lengths": [checkpoint.length for checkpoint in checkpoints],
    }
    content = orjson.dumps(about)
    offsets, end = _places(len(content), len(tokens), sizes)
    fd = -1
    try:
        fd = os.memfd_create("fastrouter-parked", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, end)
        if not _fill(fd, end, _HEAD.pack(_MAGIC, len(content)) + content, tokens, parts, offsets):
            raise OSError("llama.cpp refuses")
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        if fd >= 0:
            os.close(fd)
        return None
    return fd


def _places(num_json_bytes: int, num_tokens: int, sizes: list[int]) -> tuple[list[int], int]:
    """(where the tokens and each state begin, the end)"""
    offsets, end = [], _HEAD.size + num_json_bytes
    for num_bytes in (_TOKEN_BYTES * num_tokens, *sizes):
        begin = -(-end // ALIGNMENT) * ALIGNMENT
        offsets.append(begin)
        end = begin + num_bytes
    return offsets, end


def _fill(fd: int, size: int, head: bytes, tokens: "array[int]", parts: list[Part], offsets: list[int]) -> bool:
    with mmap.mmap(fd, size) as pages:
        pages[: len(head)] = head
        pages[offsets[0] : offsets[0] + _TOKEN_BYTES * len(tokens)] = tokens.tobytes()
        for begin, (num_bytes, fill) in zip(offsets[1:], parts, strict=True):
            target = np.frombuffer(pages, np.uint8, num_bytes, begin)
            is_filled = fill(target)
            del target  # it keeps the pages mapped, and a file that is mapped for writing cannot be sealed
            if not is_filled:
                return False
    return True


class ParkedFile(NamedTuple):
    """`prompt`: its states are mapped, not copied."""

    prompt: CachedPrompt
    is_intact: Callable[[], bool]  # reads all bytes of a file on disk; what is in memory cannot have changed


def read(fd: int, key: str) -> ParkedFile:
    """The caller may close `fd`. Raises ValueError, OSError."""
    foot = None if _is_sealed(fd) else read_foot(fd)
    pages = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    about = _about(pages)
    if about["key"] != key:
        raise ValueError("it is of another model, or of another llama.cpp")
    num_tokens, sizes, lengths = about["tokens"], about["sizes"], about["lengths"]
    offsets, end = _places(_HEAD.unpack_from(pages)[1], num_tokens, sizes)
    num_bytes = foot.num_bytes if foot is not None else len(pages)
    if end != num_bytes or len(sizes) != len(lengths) + 1 or min(num_tokens, *sizes) < 1:
        raise ValueError("it is cut short")
    tokens = array("i", pages[offsets[0] : offsets[0] + _TOKEN_BYTES * num_tokens])
    states = [np.frombuffer(pages, np.uint8, size, begin) for begin, size in zip(offsets[1:], sizes, strict=True)]
    prompt = CachedPrompt(tokens, about["adapters"], about["oldest"], states[0], tuple(map(Checkpoint, lengths, states[1:])))
    return ParkedFile(prompt, lambda: foot is None or _checksum(pages, num_bytes) == foot.crc32)


def _is_sealed(fd: int) -> bool:
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # it is on disk
        return False


def _checksum(pages: mmap.mmap, num_bytes: int) -> int:
    with memoryview(pages) as view:
        return zlib.crc32(view[:num_bytes])


def _about(pages: mmap.mmap) -> dict[str, Any]:
    try:
        magic, length = _HEAD.unpack_from(pages)
        about: dict[str, Any] = orjson.loads(pages[_HEAD.size : _HEAD.size + length])
        numbers = [about["tokens"], about["oldest"], *about["sizes"], *about["lengths"]]
        about["adapters"] = tuple((int(adapter_id), float(scale)) for adapter_id, scale in about["adapters"])
        is_ours = magic == _MAGIC and "key" in about and all(type(number) is int and number >= 0 for number in numbers)
    except (struct.error, KeyError, TypeError, ValueError):
        raise ValueError("it is damaged") from None
    if not is_ours:
        raise ValueError("it is damaged")
    return about
