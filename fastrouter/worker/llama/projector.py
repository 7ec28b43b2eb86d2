"""The projector of a model (an mmproj file): libmtmd decodes pictures and audio, says how many tokens they are, and computes their
embeddings.

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
from fastrouter.ipc.frames import Frame
from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama import params as llama_params
from fastrouter.worker.llama import placement
from fastrouter.worker.llama.binding import LlamaError, api, log, mtmd, refusal
from fastrouter.worker.llama.model import Model

_NO_FOLDER = b"/nonexistent"  # libmtmd starts ffmpeg for files that it does not know; there it finds none
_TEXT, _IMAGE, _AUDIO = 0, 1, 2  # kinds of chunks
MIN_SOUND_S = 0.1  # of an audio file; for less, some projectors end the process
_LOUDEST = 1e6  # a sample is between -1 and 1; far larger ones make infinite numbers, which would stay in the KV cache

Part = str | bytes | Frame
Embeddings = NDArray[np.float32]  # a row for each token


class BrokenFile(FastrouterError):
    """libmtmd cannot decode a file, or what it decoded is of no use. `index`: which one. The message follows the name of its field."""

    def __init__(self, index: int, message: str = "") -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True, slots=True, eq=False)
class PictureChunk:
    """A picture or audio, or a part of it, that `encode` takes. `key`: equal for equal files. `sound_ms`: how long an audio file is, in
    its first chunk."""

    key: tuple[str, int]
    num_tokens: int
    num_positions: int
    pointer: int
    owner: "_Chunks"  # the memory behind the pointer
    is_causal: bool = True  # its tokens are read one after the other, like those of text; otherwise they all see each other
    sound_ms: int = 0


Chunk = PictureChunk | array  # type: ignore[type-arg]


class _Chunks:
    """libmtmd's list of chunks, freed with the last one that is in use."""

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
            raise refusal(f"{cause}; --no-mmproj loads the model for text only", path)
        self.sees: bool = lib.mtmd_support_vision(self.pointer)
        self.hears: bool = lib.mtmd_support_audio(self.pointer)
        self.has_own_positions: bool = lib.mtmd_decode_use_mrope(self.pointer)
        self._width: int = api.llama_model_n_embd_inp(model.pointer)
        self._decoding = threading.Lock()  # one file at a time: a large picture takes much memory while it is decoded
        self._lib_options = lib.mtmd_helper_init_opt_default()
        self._lib_options.video_params.ffmpeg_bin_dir = _NO_FOLDER

    def __repr__(self) -> str:
        kinds = [kind for kind, is_there in (("pictures", self.sees), ("audio", self.hears)) if is_there]
        return f"<Projector {' and '.join(kinds) or 'nothing'}{'' if self.pointer else ', closed'}>"

    def read(self, parts: Sequence[Part], *, is_counted: bool = False) -> list[Chunk]:
        """A text with pictures and audio between: texts are str, files are bytes. `is_counted`: the chunks have no pixels. Raises
        BrokenFile, LlamaError."""
        with self._decoding:
            if not self.pointer:
                raise LlamaError("the projector is closed")
            bitmaps: list[int] = []
            sounds_ms: dict[str, int] = {}
            try:
                for part in parts:
                    if isinstance(part, Frame):
                        bitmaps.append(self._to_bitmap(part))
                    elif isinstance(part, bytes):
                        bitmaps.append(self._decode(part, len(bitmaps), is_counted=is_counted))
                        sounds_ms |= self._sound_of(bitmaps[-1], len(bitmaps) - 1)
                return self._split(parts, bitmaps, sounds_ms)
            finally:
                for bitmap in bitmaps:
                    self._lib.mtmd_bitmap_free(bitmap)

    def _decode(self, file: bytes, index: int, *, is_counted: bool) -> int:
        buffer = (ctypes.c_uint8 * len(file)).from_buffer_copy(file)
        found = self._lib.mtmd_helper_bitmap_init_from_buf_wrapper(self.pointer, buffer, len(file), is_counted, self._lib_options)
        if not found.bitmap or found.video_ctx:
            raise BrokenFile(index)
        return int(found.bitmap)

    def _to_bitmap(self, frame: Frame) -> int:
        lib = self._lib
        pixels = (ctypes.c_uint8 * len(frame.pixels)).from_buffer_copy(frame.pixels)
        bitmap = int(lib.mtmd_bitmap_init(frame.width, frame.height, pixels))
        lib.mtmd_bitmap_set_id(bitmap, frame.id.encode())
        lib.mtmd_bitmap_set_mergeable(bitmap, True)  # some models read two frames as one
        return bitmap

    def _sound_of(self, bitmap: int, index: int) -> dict[str, int]:
        """The length of audio in ms, by its hash. Empty for a picture. Raises BrokenFile."""
        lib = self._lib
        if not lib.mtmd_bitmap_is_audio(bitmap):
            return {}
        num_samples, rate = lib.mtmd_bitmap_get_nx(bitmap), lib.mtmd_get_audio_sample_rate(self.pointer)
        if num_samples < MIN_SOUND_S * rate:
            raise BrokenFile(index, f"is audio of less than {MIN_SOUND_S} seconds, or its file is broken")
        data = lib.mtmd_bitmap_get_data(bitmap)
        if data and not _loudness(np.ctypeslib.as_array(data, (4 * num_samples,)).view(np.float32)) <= _LOUDEST:  # also true for NaN
            raise BrokenFile(index, "is audio with numbers that are no sound")
        return {(lib.mtmd_bitmap_get_id(bitmap) or b"").decode(): num_samples * 1000 // rate}

    def _split(self, parts: Sequence[Part], bitmaps: list[int], sounds_ms: dict[str, int]) -> list[Chunk]:
        lib, chunks = self._lib, _Chunks(self._lib)
        texts, entries, left = [], [], iter(bitmaps)
        for part in parts:
            entry = lib.mtmd_input_part()
            if not isinstance(part, str):
                entry.bitmap = next(left)
            else:
                encoded = part.encode("utf-8", "replace")
                texts.append(lib.mtmd_input_text(encoded, len(encoded), True, True))
                entry.text = ctypes.pointer(texts[-1])
            entries.append(entry)
        pointers = (ctypes.POINTER(lib.mtmd_input_part) * len(entries))(*map(ctypes.pointer, entries))
        code = lib.mtmd_tokenize_from_parts(self.pointer, chunks.pointer, pointers, len(entries), True)
        if code:
            raise LlamaError(f"libmtmd cannot read the pictures or the audio (code {code})")
        return self._chunks_of(chunks, sounds_ms)

    def _chunks_of(self, chunks: _Chunks, sounds_ms: dict[str, int]) -> list[Chunk]:
        lib, found = self._lib, list[Chunk]()
        counts: dict[str, int] = {}  # the parts of each file so far
        for index in range(lib.mtmd_input_chunks_size(chunks.pointer)):
            pointer = lib.mtmd_input_chunks_get(chunks.pointer, index)
            kind = lib.mtmd_input_chunk_get_type(pointer)
            if kind == _TEXT:
                found.append(self._tokens_of(pointer))
            elif kind in (_IMAGE, _AUDIO):
                digest = (lib.mtmd_input_chunk_get_id(pointer) or b"").decode()
                part = counts[digest] = counts.get(digest, -1) + 1
                num_tokens, num_positions = lib.mtmd_input_chunk_get_n_tokens(pointer), lib.mtmd_input_chunk_get_n_pos(pointer)
                is_causal = not lib.mtmd_decode_use_non_causal(self.pointer, pointer)
                sound_ms = sounds_ms.pop(digest, 0)
                found.append(PictureChunk((digest, part), num_tokens, num_positions, pointer, chunks, is_causal, sound_ms))
            else:
                raise LlamaError("libmtmd made something of a file that is neither text, nor a picture, nor audio")
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
            raise LlamaError("llama.cpp could not compute a picture or audio")
        values = lib.mtmd_get_output_embd(self.pointer)
        found = np.ctypeslib.as_array(values, (chunk.num_tokens, self._width)).copy()
        if not np.isfinite(found).all():  # in the KV cache, such numbers would spoil the answers to other requests, too
            raise LlamaError("the projector computed infinite numbers of a picture or audio")
        return found

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
        """Waits for a `read` in another thread. Idempotent."""
        with self._decoding:
            if self.pointer:
                pointer, self.pointer = self.pointer, None
                self._lib.mtmd_free(pointer)


def _loudness(samples: NDArray[np.float32]) -> float:
    return float(np.maximum(samples.max(), -samples.min()))
