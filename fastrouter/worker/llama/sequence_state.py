"""The memory of a llama_context for one sequence, as bytes: saved, restored, written to a file and read, moved to other positions.

Never imports: worker.llama.binding, worker.kv. context.py passes in the library.
Invariant: after a failure the content of the sequence is unknown; the caller must remove it.
"""

import contextlib
import ctypes
import mmap
import os
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

SavedState = NDArray[np.uint8]

_P, _I, _SIZE, _FLAGS = ctypes.c_void_p, ctypes.c_int32, ctypes.c_size_t, ctypes.c_uint32
_WHOLE, _PART = 0, 1  # the part: sliding windows and recurrent states, without the KV cache of full attention
_MAX_TOKENS_IN_FILE = 1 << 26
_HUGE_PAGE_BYTES = 2 << 20


class StateFunctions:
    """The functions of llama.cpp that States calls. Bind them once: it takes a millisecond."""

    def __init__(self, library: Any) -> None:
        def bind(name: str, result: Any, *arguments: Any) -> Any:
            return ctypes.CFUNCTYPE(result, *arguments)((name, library))

        self.get_size = bind("llama_state_seq_get_size_ext", _SIZE, _P, _I, _FLAGS)
        self.get = bind("llama_state_seq_get_data_ext", _SIZE, _P, _P, _SIZE, _I, _FLAGS)
        self.set = bind("llama_state_seq_set_data_ext", _SIZE, _P, _P, _SIZE, _I, _FLAGS)
        self.save_file = bind("llama_state_seq_save_file", _SIZE, _P, ctypes.c_char_p, _I, _P, _SIZE)
        self.load_file = bind("llama_state_seq_load_file", _SIZE, _P, ctypes.c_char_p, _I, _P, _SIZE, _P)
        self.shift = bind("llama_memory_seq_add", None, _P, _I, _I, _I, _I)
        self.oldest = bind("llama_memory_seq_pos_min", _I, _P, _I)
        self.newest = bind("llama_memory_seq_pos_max", _I, _P, _I)
        self.can_shift = bind("llama_memory_can_shift", ctypes.c_bool, _P)


class States:
    """For the sequences of one context; unusable after its close."""

    def __init__(self, functions: StateFunctions, context: int, memory: int) -> None:
        self._functions, self._context, self._memory = functions, context, memory
        self.can_shift: bool = bool(memory) and functions.can_shift(memory)

    def size(self, seq_id: int, *, is_part: bool = False) -> int:
        """Bytes that `save` makes."""
        num_bytes: int = self._functions.get_size(self._context, seq_id, _PART if is_part else _WHOLE)
        return num_bytes

    def save(self, seq_id: int, *, is_part: bool = False) -> SavedState | None:
        """None when llama.cpp refuses."""
        state = _allocate(self.size(seq_id, is_part=is_part))
        return state if self.save_into(seq_id, state, is_part=is_part) else None

    def save_into(self, seq_id: int, state: SavedState, *, is_part: bool = False) -> bool:
        """`state` has exactly the size that `size` says. False when llama.cpp refuses."""
        flags = _PART if is_part else _WHOLE
        written = self._functions.get(self._context, state.ctypes.data, state.nbytes, seq_id, flags)
        return bool(written == state.nbytes)

    def restore(self, seq_id: int, state: SavedState, *, is_part: bool = False) -> bool:
        """False when there is no room, or the bytes are not of this model. A part replaces only the part."""
        flags = _PART if is_part else _WHOLE
        read = self._functions.set(self._context, state.ctypes.data, state.nbytes, seq_id, flags)
        return bool(read == state.nbytes)

    def write_file(self, path: str, seq_id: int, tokens: "array[int]") -> int:
        """In llama.cpp's format. Returns the number of bytes, 0 after a failure."""
        address, _ = tokens.buffer_info()
        written: int = self._functions.save_file(self._context, os.fsencode(path), seq_id, address, len(tokens))
        return written

    def read_file(self, path: str, seq_id: int) -> tuple["array[int]", int] | None:
        """(tokens, bytes read); None when it is another kind of file, of another model, cut short, or when there is no room for it."""
        count = _SIZE()
        tokens = array("i", bytes(4 * min(_MAX_TOKENS_IN_FILE, os.path.getsize(path) // 4)))
        address, capacity = tokens.buffer_info()
        read = self._functions.load_file(self._context, os.fsencode(path), seq_id, address, capacity, ctypes.addressof(count))
        return (tokens[: count.value], read) if read else None

    def span(self, seq_id: int) -> tuple[int, int]:
        """(first, last) position, (-1, -1) when there is none."""
        return self._functions.oldest(self._memory, seq_id), self._functions.newest(self._memory, seq_id)

    def shift(self, seq_id: int, first_pos: int, end_pos: int, by: int) -> None:
        """Move positions. In a unified cache, other sequences that share these cells are moved too."""
        self._functions.shift(self._memory, seq_id, first_pos, end_pos, by)


def _allocate(num_bytes: int) -> SavedState:
    """Separate pages, which go back to the system immediately: malloc keeps what a spare has prepared, with large holes. They are
    private, because the router does not count shared pages."""
    pages = mmap.mmap(-1, max(1, num_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if num_bytes >= _HUGE_PAGE_BYTES:
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)[:num_bytes]
