"""The projector of a model (an mmproj file): libmtmd decodes pictures, says how many tokens they are, and computes their embeddings.

It owns what it opened; `close` is idempotent. `read` may be called in any thread, `encode` in one thread at a time. Never imports:
worker.llama.context.
"""

import ctypes
import os
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrouter.errors import FastrouterError
from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama import params as llama_params
from fastrouter.worker.llama import placement
from fastrouter.worker.llama.binding import LlamaError, api, log, mtmd, refusal
from fastrouter.worker.llama.model import Model

_NO_FOLDER = b"/nonexistent"  # libmtmd starts ffmpeg for files that it does not know; there it finds none
_TEXT, _IMAGE = 0, 1  # kinds of chunks

Embeddings = NDArray[np.float32]  # a row for each token


class BrokenFile(FastrouterError):
    """libmtmd cannot decode a file. `index`: which one."""

    def __init__(self, index: int) -> None:
        super().__init__("libmtmd cannot decode it")
        self.index = index


@dataclass(frozen=True, slots=True, eq=False)
class PictureChunk:
    """A picture, or a part of one, that `encode` takes. `key`: equal for equal pictures."""

    key: tuple[str, int]
    num_tokens: int
    num_positions: int
    pointer: int
    owner: "_Chunks"  # the memory behind the pointer


Chunk = PictureChunk | array  # type: ignore[type-arg]


class _Chunks:
    """libmtmd's list of chunks, freed with the last picture of it."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib
        self.pointer = lib.mtmd_input_chunks_init()

    def __del__(self) -> None:
        self._lib.mtmd_input_chunks_free(self.pointer)


class Projector:
    """An open mmproj file."""

    def __init__(self, model: Model, path: str, options: LoadOptions) -> None:
        self._lib = lib = mtmd()
        params = lib.mtmd_context_params_default()
        placement.place_projector(params, options)
        params.batch_max_tokens = options.mtmd_batch_max_tokens
        params.print_timings = False
        params.warmup = True  # all memory is allocated now; nothing is computed
        params.n_threads = options.threads if options.threads > 0 else llama_params.physical_cores()
        params.flash_attn_type = llama_params.choice("flash-attn", llama_params.FLASH_ATTENTION, options.flash_attn)
        params.image_min_tokens, params.image_max_tokens = options.image_min_tokens, options.image_max_tokens
        log.clear()
        self.pointer: int | None = lib.mtmd_init_from_file(os.fsencode(path), model.pointer, params)
        if not self.pointer:
            cause = (log.cause() or "llama.cpp could not load the projector").splitlines()[0]
            raise refusal(f"{cause}; --no-mmproj loads the model without pictures", path)
        self.sees: bool = lib.mtmd_support_vision(self.pointer)
        self.has_own_positions: bool = lib.mtmd_decode_use_mrope(self.pointer)
        self.is_causal: bool = not lib.mtmd_decode_use_non_causal(self.pointer, None)
        self._width: int = api.llama_model_n_embd_inp(model.pointer)
        self._decoding = threading.Lock()  # one file at a time: a large picture takes much memory while it is decoded
        self._lib_options = lib.mtmd_helper_init_opt_default()
        self._lib_options.video_params.ffmpeg_bin_dir = _NO_FOLDER

    def __repr__(self) -> str:
        return f"<Projector {'pictures' if self.sees else 'no pictures'}{'' if self.pointer else ', closed'}>"

    def read(self, parts: Sequence[str | bytes], *, is_counted: bool = False) -> list[Chunk]:
        """A text with pictures between: texts are str, files are bytes. `is_counted`: the chunks have no pixels. Raises BrokenFile,
        LlamaError."""
        with self._decoding:
            bitmaps: list[int] = []
            try:
                for part in parts:
                    if isinstance(part, bytes):
                        bitmaps.append(self._decode(part, len(bitmaps), is_counted=is_counted))
                return self._split(parts, bitmaps)
            finally:
                for bitmap in bitmaps:
                    self._lib.mtmd_bitmap_free(bitmap)

    def _decode(self, file: bytes, index: int, *, is_counted: bool) -> int:
        buffer = (ctypes.c_uint8 * len(file)).from_buffer_copy(file)
        found = self._lib.mtmd_helper_bitmap_init_from_buf_wrapper(self.pointer, buffer, len(file), is_counted, self._lib_options)
        if not found.bitmap or found.video_ctx:
            raise BrokenFile(index)
        return int(found.bitmap)

    def _split(self, parts: Sequence[str | bytes], bitmaps: list[int]) -> list[Chunk]:
        lib, chunks = self._lib, _Chunks(self._lib)
        texts, entries, left = [], [], iter(bitmaps)
        for part in parts:
            entry = lib.mtmd_input_part()
            if isinstance(part, bytes):
                entry.bitmap = next(left)
            else:
                encoded = part.encode("utf-8", "replace")
                texts.append(lib.mtmd_input_text(encoded, len(encoded), True, True))
                entry.text = ctypes.pointer(texts[-1])
            entries.append(entry)
        pointers = (ctypes.POINTER(lib.mtmd_input_part) * len(entries))(*map(ctypes.pointer, entries))
        code = lib.mtmd_tokenize_from_parts(self.pointer, chunks.pointer, pointers, len(entries), True)
        if code:
            raise LlamaError(f"libmtmd cannot read the pictures (code {code})")
        return self._chunks_of(chunks)

    def _chunks_of(self, chunks: _Chunks) -> list[Chunk]:
        lib, found = self._lib, list[Chunk]()
        counts: dict[str, int] = {}  # the parts of each picture so far
        for index in range(lib.mtmd_input_chunks_size(chunks.pointer)):
            pointer = lib.mtmd_input_chunks_get(chunks.pointer, index)
            kind = lib.mtmd_input_chunk_get_type(pointer)
            if kind == _TEXT:
                found.append(self._tokens_of(pointer))
            elif kind == _IMAGE:
                digest = (lib.mtmd_input_chunk_get_id(pointer) or b"").decode()
                part = counts[digest] = counts.get(digest, -1) + 1
                num_tokens, num_positions = lib.mtmd_input_chunk_get_n_tokens(pointer), lib.mtmd_input_chunk_get_n_pos(pointer)
                found.append(PictureChunk((digest, part), num_tokens, num_positions, pointer, chunks))
            else:
                raise LlamaError("libmtmd made something of a picture that is neither text nor a picture")
        return found

    def _tokens_of(self, pointer: int) -> "array[int]":
        count = ctypes.c_size_t()
        tokens = array("i", self._lib.mtmd_input_chunk_get_tokens_text(pointer, ctypes.byref(count))[: count.value])
        if min(tokens, default=0) < 0:
            raise LlamaError(
                "the model's vocabulary has not all tokens that its projector puts around pictures: get both from the same place"
            )
        return tokens

    def encode(self, chunk: PictureChunk) -> Embeddings:
        """Takes long. Raises LlamaError."""
        lib = self._lib
        if lib.mtmd_encode_chunk(self.pointer, chunk.pointer):
            raise LlamaError("llama.cpp could not compute a picture")
        values = lib.mtmd_get_output_embd(self.pointer)
        return np.ctypeslib.as_array(values, (chunk.num_tokens, self._width)).copy()

    def positions(self, chunk: PictureChunk, first_pos: int) -> NDArray[np.int32]:
        """A column for each token. Its rows are what a batch wants: the position, or its parts (time, row, column, rest)."""
        lib, count = self._lib, chunk.num_tokens
        image = lib.mtmd_input_chunk_get_tokens_image(chunk.pointer) if self.has_own_positions else None
        if image is None:  # it is read like text
            return np.tile(np.arange(first_pos, first_pos + count, dtype=np.int32), (4 if self.has_own_positions else 1, 1))
        found = (lib.mtmd_decoder_pos * count)()
        lib.mtmd_helper_image_get_decoder_pos(image, first_pos, found)
        time, column, row, rest = np.frombuffer(found, np.int32).reshape(count, 4).T
        return np.stack((time, row, column, rest))

    def close(self) -> None:
        if self.pointer:
            pointer, self.pointer = self.pointer, None
            self._lib.mtmd_free(pointer)
