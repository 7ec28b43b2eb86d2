"""The header of a GGUF file, read before anything is loaded. Imports nothing of llama.cpp.

Invariant: any file ends in a Header or a GgufError within limited time and memory; only regular files are read. Arrays are skipped, not
built. Nothing is stored: header_cache.py does that. All tensors must lie inside the file, so a file that was cut short is found here, not
when it is mapped.
"""

import math
import os
import stat
from dataclasses import dataclass, field, replace
from itertools import repeat
from struct import Struct
from typing import Any

from fastrouter._core import skip_strings
from fastrouter.errors import FastrouterError
from fastrouter.options.samplers import OF_FILES, defaults_of

FIRST_BLOCK_BYTES, MAX_BLOCK_BYTES = 1 << 16, 1 << 20
MAX_HEADER_BYTES = 128 << 20  # the largest vocabularies take about 20 MiB
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 18
MAX_ARRAY_ITEMS = 1 << 22
MAX_KEY_BYTES = 1 << 16
MAX_KEPT_BYTES = 1 << 20  # of one string; longer ones are skipped
MAX_KEPT_ITEMS = 1 << 12  # of one array of numbers
MAX_DIMENSIONS = 4

STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SCALARS = {kind: Struct(f"<{code}") for kind, code in SCALARS.items()}
_U32, _U64 = Struct("<I"), Struct("<Q")

# Tensor type -> (values in a block, bytes of a block), as in ggml's type table.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36), 10: (256, 84), 11: (256, 110),
    12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50),
    20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8),
    29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18),
}  # fmt: skip


# Keys of Header.matrices: one of these words and, except for the last one, the number of a type.
MATRIX, EXPERTS, EMBEDDING, OUTPUT = "matrix", "experts", "embedding", "output"


class GgufError(FastrouterError):
    """The file is not a GGUF file that can be loaded; the message says what is wrong and at which byte."""

    way_out = "get another copy of the file, or remove it"


class Unreadable(GgufError):
    """The file could not be read, so its content is unknown."""

    way_out = "check that it exists and can be read"


class Unusual(GgufError):
    """This reader does not understand the file; llama.cpp may know more, so a load may be tried."""


@dataclass(frozen=True, slots=True)
class Header:
    """None: the file does not say it."""

    architecture: str  # empty in all shards but the first
    name: str | None
    context_length: int | None  # the training context in tokens
    embedding_length: int | None
    block_count: int | None
    head_count: int | None  # the largest, when layers differ
    head_count_kv: int | None
    vocab_size: int | None
    file_type: int | None
    pooling_type: int | None
    split_count: int | None
    num_tensors: int
    num_params: int  # of this file; a shard holds a part of the model
    size_bytes: int  # of its tensors
    has_infill_tokens: bool  # prefix, suffix and middle markers
    has_vision_encoder: bool  # of a projector
    has_audio_encoder: bool
    has_chat_template: bool
    chat_template: str | None  # also None when it is too long to keep
    sampling: dict[str, Any] = field(default_factory=dict, hash=False)  # default values of requests, by the names of their fields
    matrices: dict[str, int] = field(default_factory=dict, hash=False)  # bytes of the matrices that llama.cpp may repack, by kind and type
    image_size: int | None = None  # of a projector: the side of the one square that it makes of every picture


def read_header(path: str | os.PathLike[str]) -> Header:
    """Raises GgufError. Blocks until the disk has answered."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable("is not a regular file")
            return _parse(_Reader(descriptor, status.st_size))
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise Unreadable(getattr(error, "strerror", None) or str(error)) from None


class _Reader:
    """A position in a file, and the bytes around it."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._bytes = b""
        self._start = 0  # where _bytes begins in the file
        self._at = 0  # the position in _bytes
        self._block_bytes = FIRST_BLOCK_BYTES

    @property
    def position(self) -> int:
        return self._start + self._at

    @property
    def size(self) -> int:
        return self._size

    def need(self, num_bytes: int, what: str) -> None:
        """Read the next bytes into memory."""
        if self._at + num_bytes <= len(self._bytes):
            return
        position = self.position
        if position + num_bytes > self._size:
            raise GgufError(f"the file ends at byte {self._size}, inside {what} at byte {position}")
        if position + num_bytes > MAX_HEADER_BYTES:
            raise Unusual(f"the header is larger than {MAX_HEADER_BYTES >> 20} MiB at byte {position}")
        self._bytes = os.pread(self._descriptor, max(num_bytes, self._block_bytes), position)
        self._block_bytes = min(self._block_bytes * 2, MAX_BLOCK_BYTES)
        self._start, self._at = position, 0
        if len(self._bytes) < num_bytes:
            raise GgufError(f"the file was cut at byte {position + len(self._bytes)} while it was read")

    def skip(self, num_bytes: int, what: str) -> None:
        if self.position + num_bytes > self._size:
            raise GgufError(f"the file ends at byte {self._size}, inside {what} at byte {self.position}")
        self._at += num_bytes

    def number(self, layout: Struct, what: str) -> Any:
        if self._at + layout.size > len(self._bytes):
            self.need(layout.size, what)
        value = layout.unpack_from(self._bytes, self._at)[0]
        self._at += layout.size
        return value

    def take(self, num_bytes: int, what: str) -> bytes:
        self.need(num_bytes, what)
        self._at += num_bytes
        return self._bytes[self._at - num_bytes : self._at]

    def text(self, max_bytes: int, what: str) -> str:
        length = self.number(_U64, what)
        if length > max_bytes:
            raise GgufError(f"{what} is {length} bytes long at byte {self.position - 8}")
        return self.take(length, what).decode("utf-8", "replace")

    def skip_strings(self, count: int, what: str) -> None:
        while count:
            self.need(8, what)
            at, count = skip_strings(self._bytes, self._at, count, self._size - self._start)
            self.skip(at - self._at, what)


def _parse(reader: _Reader) -> Header:
    if reader.size < 4 or reader.take(4, "the magic") != b"GGUF":
        raise GgufError("does not begin with GGUF at byte 0" if reader.size else "is empty")
    version = reader.number(_U32, "the version")
    if version not in (2, 3):
        is_swapped = version & 0xFFFF == 0 and version != 0
        raise GgufError("is big-endian at byte 4" if is_swapped else f"has GGUF version {version} at byte 4; 2 and 3 can be read")
    num_tensors = reader.number(_U64, "the number of tensors")
    if num_tensors > MAX_TENSORS:
        raise Unusual(f"says it has {num_tensors} tensors at byte 8")
    num_keys = reader.number(_U64, "the number of keys")
    if num_keys > MAX_KEYS:
        raise Unusual(f"says it has {num_keys} keys at byte 16")
    values = _read_keys(reader, num_keys)
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise GgufError(f"general.alignment is {alignment}, which is not a power of two")
    matrices: dict[str, int] = {}
    num_params, size_bytes = _read_tensors(reader, num_tensors, alignment, matrices)
    return replace(_to_header(values, num_tensors, num_params, size_bytes), matrices=matrices)


_KEPT = (
    "general.architecture",
    "general.name",
    "general.file_type",
    "general.alignment",
    "split.no",
    "split.count",
    "tokenizer.chat_template",
    "tokenizer.ggml.fim_pre_token_id",
    "tokenizer.ggml.prefix_token_id",
    "clip.has_vision_encoder",
    "clip.has_audio_encoder",
    *("clip.projector_type", "clip.vision.projector_type", "clip.vision.image_size", "clip.vision.image_grid_pinpoints"),
)
_ONE_SIZE = ("mlp", "ldp", "ldpv2", "gemma3")  # projectors that make one square of every picture, unless they have grid points
_KEPT_OF_ARCHITECTURE = (
    ".context_length", ".embedding_length", ".block_count", ".attention.head_count", ".attention.head_count_kv", ".vocab_size",
    ".pooling_type",
)  # fmt: skip


def _read_keys(reader: _Reader, count: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in repeat(None, count):
        key = reader.text(MAX_KEY_BYTES, "a key")
        kind = reader.number(_U32, f"the type of {key[:80]}")
        is_kept = key in _KEPT or key.endswith(_KEPT_OF_ARCHITECTURE) or key.startswith(OF_FILES)
        if kind == ARRAY:
            value = _read_array(reader, key[:80], is_kept)
            if key == "tokenizer.ggml.tokens":
                values[key] = value
        else:
            value = _read_value(reader, kind, key[:80], is_kept)
        if is_kept:
            values[key] = value
    return values


def _read_value(reader: _Reader, kind: int, key: str, is_kept: bool) -> Any:
    if kind == STRING:
        length = reader.number(_U64, key)
        if is_kept and length <= MAX_KEPT_BYTES:
            return reader.take(length, key).decode("utf-8", "replace")
        reader.skip(length, key)
        return None
    layout = _SCALARS.get(kind)
    if layout is None:
        raise Unusual(f"{key} has the unknown type {kind} at byte {reader.position - 4}")
    return reader.number(layout, key)


def _read_array(reader: _Reader, key: str, is_kept: bool) -> int:
    """Returns its length; of an array that is kept (one number for each layer) the largest number."""
    kind = reader.number(_U32, f"the item type of {key}")
    count: int = reader.number(_U64, f"the length of {key}")
    if count > MAX_ARRAY_ITEMS:
        raise Unusual(f"{key} has {count} items at byte {reader.position - 8}")
    if kind == STRING:
        reader.skip_strings(count, key)
        return count
    layout = _SCALARS.get(kind)
    if layout is None:
        raise Unusual(f"{key} is an array of the unknown type {kind} at byte {reader.position - 12}")
    if is_kept and 0 < count <= MAX_KEPT_ITEMS and kind in (4, 5):
        items = Struct(f"<{count}{SCALARS[kind]}").unpack(reader.take(count * layout.size, key))
        return int(max(items))
    reader.skip(count * layout.size, key)
    return count


def _note_matrix(matrices: dict[str, int], name: str, kind: int, dimensions: list[int], num_bytes: int) -> None:
    if len(dimensions) > 1 and dimensions[1] % 8 == 0 and name.endswith(".weight"):
        word = EMBEDDING if name == "token_embd.weight" else MATRIX if len(dimensions) == 2 else EXPERTS
        matrices[f"{word} {kind}"] = matrices.get(f"{word} {kind}", 0) + num_bytes
    if name == "output.weight":
        matrices[OUTPUT] = num_bytes


def _read_tensors(reader: _Reader, count: int, alignment: int, matrices: dict[str, int]) -> tuple[int, int]:
    """(values, bytes) of all tensors."""
    num_values = num_bytes = end_of_last = 0
    last = ""
    for _ in repeat(None, count):
        name = reader.text(MAX_KEY_BYTES, "a tensor's name")
        begin = reader.position
        num_dimensions = reader.number(_U32, name)
        if num_dimensions > MAX_DIMENSIONS:
            raise Unusual(f"tensor {name[:80]} has {num_dimensions} dimensions at byte {begin}")
        dimensions = [reader.number(_U64, name) for _ in range(num_dimensions)]
        kind = reader.number(_U32, name)
        offset = reader.number(_U64, name)
        block = _BLOCKS.get(kind)
        if block is None:
            raise Unusual(f"tensor {name[:80]} has the unknown type {kind} at byte {reader.position - 12}")
        size = math.prod(dimensions)
        if size == 0 or (dimensions[0] if dimensions else 1) % block[0]:
            raise GgufError(f"tensor {name[:80]} has the impossible shape {dimensions} at byte {begin}")
        if offset % alignment:
            raise GgufError(f"tensor {name[:80]} is not aligned at byte {reader.position - 8}")
        tensor_bytes = size // block[0] * block[1]
        _note_matrix(matrices, name, kind, dimensions, tensor_bytes)
        num_values += size
        num_bytes += tensor_bytes
        if offset + tensor_bytes > end_of_last:
            end_of_last, last = offset + tensor_bytes, name
    start = -(-reader.position // alignment) * alignment
    if count and start + end_of_last > reader.size:
        raise GgufError(f"tensor {last[:80]} ends at byte {start + end_of_last}, the file at byte {reader.size}: it is incomplete")
    return num_values, num_bytes


def _makes_one_square(values: dict[str, Any]) -> bool:
    kind = values.get("clip.vision.projector_type", values.get("clip.projector_type"))
    return kind in _ONE_SIZE and "clip.vision.image_grid_pinpoints" not in values


def _to_header(values: dict[str, Any], num_tensors: int, num_params: int, size_bytes: int) -> Header:
    architecture = values.get("general.architecture")
    if architecture is None and values.get("split.no"):
        architecture = ""  # only the first shard has one
    elif not isinstance(architecture, str) or not architecture:
        raise GgufError("general.architecture is missing")

    def number(key: str) -> int | None:
        value = values.get(key)
        return value if type(value) is int and 0 <= value < 1 << 48 else None

    def of_architecture(key: str) -> int | None:
        return number(f"{architecture}.{key}")

    name, template = values.get("general.name"), values.get("tokenizer.chat_template")
    return Header(
        architecture=architecture,
        name=name if isinstance(name, str) else None,
        context_length=of_architecture("context_length"),
        embedding_length=of_architecture("embedding_length"),
        block_count=of_architecture("block_count"),
        head_count=of_architecture("attention.head_count"),
        head_count_kv=of_architecture("attention.head_count_kv"),
        vocab_size=number("tokenizer.ggml.tokens") or of_architecture("vocab_size"),
        file_type=number("general.file_type"),
        pooling_type=of_architecture("pooling_type"),
        split_count=number("split.count"),
        num_tensors=num_tensors,
        num_params=num_params,
        size_bytes=size_bytes,
        has_infill_tokens="tokenizer.ggml.fim_pre_token_id" in values or "tokenizer.ggml.prefix_token_id" in values,
        has_vision_encoder=values.get("clip.has_vision_encoder") is True,
        has_audio_encoder=values.get("clip.has_audio_encoder") is True,
        has_chat_template="tokenizer.chat_template" in values,
        chat_template=template if isinstance(template, str) else None,
        sampling=defaults_of(values.get),
        image_size=number("clip.vision.image_size") if _makes_one_square(values) else None,
    )


# ---------------------------------------------------------------- file names
