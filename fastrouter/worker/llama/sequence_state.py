"""What a llama_context remembers of one sequence, as bytes: out, in again, to a file and back, moved to other positions.

Knows no slot and no token's meaning. context.py hands it the library, so that this file imports nothing of it.
Invariant: what fails leaves the sequence unknown; the caller forgets it then.
"""

import contextlib
import ctypes
import mmap
import os
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

State = NDArray[np.uint8]

_P, _I, _SIZE, _FLAGS = ctypes.c_void_p, ctypes.c_int32, ctypes.c_size_t, ctypes.c_uint32
_WHOLE, _PART = 0, 1  # the part: sliding windows and recurrent states, without the KV cache of full attention
_MAX_TOKENS_IN_FILE = 1 << 26
_HUGE_PAGE_BYTES = 2 << 20


class States:
    """Of the sequences of one context; dead after its close."""

    def __init__(self, library: Any, context: int, memory: int) -> None:
        def bind(name: str, result: Any, *arguments: Any) -> Any:
            return ctypes.CFUNCTYPE(result, *arguments)((name, library))

        self._context, self._memory = context, memory
        self._get_size = bind("llama_state_seq_get_size_ext", _SIZE, _P, _I, _FLAGS)
        self._get = bind("llama_state_seq_get_data_ext", _SIZE, _P, _P, _SIZE, _I, _FLAGS)
        self._set = bind("llama_state_seq_set_data_ext", _SIZE, _P, _P, _SIZE, _I, _FLAGS)
        self._save_file = bind("llama_state_seq_save_file", _SIZE, _P, ctypes.c_char_p, _I, _P, _SIZE)
        self._load_file = bind("llama_state_seq_load_file", _SIZE, _P, ctypes.c_char_p, _I, _P, _SIZE, _P)
        self._shift = bind("llama_memory_seq_add", None, _P, _I, _I, _I, _I)
        self._oldest = bind("llama_memory_seq_pos_min", _I, _P, _I)
        self._newest = bind("llama_memory_seq_pos_max", _I, _P, _I)
        self.can_shift: bool = bool(memory) and bind("llama_memory_can_shift", ctypes.c_bool, _P)(memory)

    def size(self, seq_id: int, *, is_part: bool = False) -> int:
        """Bytes that `save` makes."""
        num_bytes: int = self._get_size(self._context, seq_id, _PART if is_part else _WHOLE)
        return num_bytes

    def save(self, seq_id: int, *, is_part: bool = False) -> State | None:
        """None when llama.cpp refuses."""
        state = _allocate(self.size(seq_id, is_part=is_part))
        flags = _PART if is_part else _WHOLE
        written = self._get(self._context, state.ctypes.data, state.nbytes, seq_id, flags)
        return state if written == state.nbytes else None

    def restore(self, seq_id: int, state: State, *, is_part: bool = False) -> bool:
        """False when there is no room or the bytes are not of this model. A part replaces the part only."""
        flags = _PART if is_part else _WHOLE
        read = self._set(self._context, state.ctypes.data, state.nbytes, seq_id, flags)
        return bool(read == state.nbytes)

    def write_file(self, path: str, seq_id: int, tokens: "array[int]") -> int:
        """llama.cpp's own format. The bytes written, 0 when that failed."""
        address, _ = tokens.buffer_info()
        written: int = self._save_file(self._context, os.fsencode(path), seq_id, address, len(tokens))
        return written

    def read_file(self, path: str, seq_id: int) -> tuple["array[int]", int] | None:
        """(tokens, bytes read); None when it is no such file, not of this model, cut short, or there is no room for it."""
        count = _SIZE()
        tokens = array("i", bytes(4 * min(_MAX_TOKENS_IN_FILE, os.path.getsize(path) // 4)))
        address, capacity = tokens.buffer_info()
        read = self._load_file(self._context, os.fsencode(path), seq_id, address, capacity, ctypes.addressof(count))
        return (tokens[: count.value], read) if read else None

    def span(self, seq_id: int) -> tuple[int, int]:
        """(first, last) position that is held, (-1, -1) when there is none."""
        return self._oldest(self._memory, seq_id), self._newest(self._memory, seq_id)

    def shift(self, seq_id: int, first_pos: int, end_pos: int, by: int) -> None:
        """Move positions. In a unified cache, other sequences that share these cells are moved with them."""
        self._shift(self._memory, seq_id, first_pos, end_pos, by)


def _allocate(num_bytes: int) -> State:
    """Pages of its own, which go back to the system at once: malloc keeps what a spare has warmed, and large holes with it. Private ones:
    the router reckons shared pages to nobody."""
    pages = mmap.mmap(-1, max(1, num_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if num_bytes >= _HUGE_PAGE_BYTES:
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)[:num_bytes]
