"""The arrays of one llama_decode. Never imports: worker.llama.context, worker.llama.binding. context.py passes in the struct."""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

_P, _I = ctypes.c_void_p, ctypes.c_int32


class Batch:
    """The arrays of one llama_decode, allocated once. Rows [0, n_tokens) are valid.

    There are two ways to fill it: plain ctypes stores for the one token of a decoding sequence, a numpy slice for a piece of a prompt.
    `n_seq_id` is always 1 and `seq_id[i]` always points at `seq[i]`.
    """

    def __init__(self, capacity: int, struct: Any, num_position_parts: int = 1) -> None:
        """`struct`: an empty llama_batch. `num_position_parts`: of rows that are not tokens."""
        self.capacity = capacity
        self.token = (_I * capacity)()
        self.pos = (_I * capacity)()
        self.seq = (_I * capacity)()
        self.logits = (ctypes.c_int8 * capacity)()
        self._num_seq = np.ones(capacity, dtype=np.int32)
        self._seq_pointers = ctypes.addressof(self.seq) + 4 * np.arange(capacity, dtype=np.uintp)
        self._token_view = np.frombuffer(memoryview(self.token), dtype=np.int32)
        self._pos_view = np.frombuffer(memoryview(self.pos), dtype=np.int32)
        self._seq_view = np.frombuffer(memoryview(self.seq), dtype=np.int32)
        self._logits_view = np.frombuffer(memoryview(self.logits), dtype=np.int8)
        self._positions = np.arange(capacity, dtype=np.int32)
        batch = self.struct = struct
        batch.token = ctypes.cast(self.token, type(batch.token))
        batch.pos = ctypes.cast(self.pos, type(batch.pos))
        batch.n_seq_id = ctypes.cast(self._num_seq.ctypes.data, type(batch.n_seq_id))
        batch.seq_id = ctypes.cast(self._seq_pointers.ctypes.data, type(batch.seq_id))
        batch.logits = ctypes.cast(self.logits, type(batch.logits))
        self.embeddings = type(batch).from_buffer_copy(batch)  # the same rows without tokens
        self.embeddings.token = None
        self._parts = np.zeros(num_position_parts * capacity, dtype=np.int32)
        self.embeddings.pos = ctypes.cast(self._parts.ctypes.data, type(batch.pos))

    def put_prompt(self, row: int, tokens: NDArray[np.int32], first_pos: int, seq_id: int, *, wants_logits: bool) -> int:
        """Rows for a piece of a prompt; logits for its last token only when wanted. Returns the next free row."""
        end = row + len(tokens)
        self._token_view[row:end] = tokens
        np.add(self._positions[: len(tokens)], first_pos, out=self._pos_view[row:end])
        self._seq_view[row:end] = seq_id
        self._logits_view[row:end] = 0
        if wants_logits:
            self.logits[end - 1] = 1
        return end

    def put_embeddings(self, positions: NDArray[np.int32], seq_id: int, *, are_outputs: bool = False) -> None:
        """Rows of one sequence, without logits or all with, for `embeddings`. `positions`: a column for each of them."""
        count = positions.shape[1]
        self._parts[: positions.size] = positions.ravel()
        self._seq_view[:count] = seq_id
        self._logits_view[:count] = are_outputs

    def put_draft(self, row: int, tokens: list[int], first_pos: int, seq_id: int) -> int:
        """Rows for a few tokens, each with logits. Returns the next free row."""
        for pos, token in enumerate(tokens, first_pos):
            self.token[row] = token
            self.pos[row] = pos
            self.seq[row] = seq_id
            self.logits[row] = 1
            row += 1
        return row

    def put_outputs(self, row: int, tokens: NDArray[np.int32], first_pos: int, seq_id: int) -> int:
        """Like put_prompt, but every token is an output, which pooling needs. Returns the next free row."""
        end = self.put_prompt(row, tokens, first_pos, seq_id, wants_logits=False)
        self._logits_view[row:end] = 1
        return end
