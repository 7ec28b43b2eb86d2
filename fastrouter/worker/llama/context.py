"""A llama_context: its memory (KV cache), its batch, one decode. `close` is idempotent."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrouter.options.limits import POOLING
from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama import control_vector, placement
from fastrouter.worker.llama import params as llama_params
from fastrouter.worker.llama.batch import Batch
from fastrouter.worker.llama.binding import I, LlamaError, P, api, bind, cpu_function, has_device_backend, lib, log, refusal
from fastrouter.worker.llama.model import Adapter, Model
from fastrouter.worker.llama.sequence_state import StateFunctions, States
from fastrouter.worker.llama.thread_pools import ThreadPools, placements_of

_decode = bind("llama_decode", I, P, api.llama_batch)
_get_logits = bind("llama_get_logits", P, P)
_get_embeddings_seq = bind("llama_get_embeddings_seq", P, P, I)
_get_embeddings_ith = bind("llama_get_embeddings_ith", P, P, I)
_seq_rm = bind("llama_memory_seq_rm", ctypes.c_bool, P, I, I, I)
_seq_cp = bind("llama_memory_seq_cp", None, P, I, I, I, I)
_attach_threadpool = bind("llama_attach_threadpool", None, P, P, P)
_set_abort_callback = bind("llama_set_abort_callback", None, P, P, P)
_set_control_vector = bind("llama_set_adapter_cvec", I, P, P, ctypes.c_size_t, I, I, I)
_set_adapters = bind("llama_set_adapters_lora", I, P, P, ctypes.c_size_t, P)
_state_functions = StateFunctions(lib)


class Context:
    """A llama_context with its memory (KV cache) and its batch."""

    def __init__(self, model: Model, options: LoadOptions) -> None:
        self.model = model
        self._options = options
        self.num_slots, self.is_unified = llama_params.slots_of(options)
        self.is_embedding = options.embedding
        self.num_sequences = llama_params.sequences_of(options)
        self.pointer: int | None = None
        params = self.params(model, options)
        log.clear()
        self.pointer = api.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            raise refusal(log.cause() or "llama.cpp could not create a context")
        if options.control_vectors:
            self._use_control_vectors(options)
        self._num_threads = (params.n_threads, params.n_threads_batch)
        self._pools: ThreadPools | None = None
        placements = placements_of(options)
        if not all(each.is_free for each in placements):
            self._pools = ThreadPools(cpu_function, placements, self._num_threads)
            _attach_threadpool(self.pointer, *self._pools.addresses)
        self.n_ctx: int = api.llama_n_ctx(self.pointer)
        # What one sequence may fill; unified: all of it. At most the training context of the model, as in llama-server.
        limits = (model.n_ctx_train, options.kv_unified_per_slot)
        self.n_ctx_slot: int = min(api.llama_n_ctx_seq(self.pointer), *(limit or 1 << 31 for limit in limits))
        self.n_batch: int = min(api.llama_n_batch(self.pointer), api.llama_n_ubatch(self.pointer))
        self.n_vocab = model.vocab.n_tokens
        self.memory: int = api.llama_get_memory(self.pointer) or 0
        self.states = States(_state_functions, self.pointer, self.memory)
        self.can_cut: bool = not model.has_state  # a recurrent state cannot go back by one token
        self.can_forget_end: bool = self.can_cut and not model.n_swa  # the last tokens; a window has lost others because of them
        self.batch = Batch(self.n_batch, api.llama_batch())
        self.pooling: int = api.llama_pooling_type(self.pointer)
        is_rank = self.pooling == POOLING["rank"]
        # An embedding from only the last token, which has seen all others through the cache: they need not be computed with it.
        is_of_last = self.pooling == POOLING["last"] or (is_rank and api.llama_get_causal_attn(self.pointer))
        self.can_split: bool = bool(self.memory) and is_of_last
        self.num_outputs: int = max(1, api.llama_model_n_cls_out(model.pointer)) if is_rank else api.llama_model_n_embd_out(model.pointer)

    @staticmethod
    def params(model: Model, options: LoadOptions) -> Any:
        """llama_context_params."""
        params = api.llama_context_default_params()
        params.n_ctx = options.num_cells(model.n_ctx_train)
        params.n_seq_max = num_sequences = llama_params.sequences_of(options)
        params.kv_unified = options.is_unified
        # A row for every sequence, or a prompt would wait for a stream to end; together, or a window may lose tokens that others need.
        params.n_ubatch = llama_params.micro_batch_of(options, num_sequences)
        params.n_batch = max(options.batch_size, params.n_ubatch)
        decode, prefill = placements_of(options)
        params.n_threads = llama_params.threads_for(model.size_bytes, options.threads, len(decode.cpus))
        asked = options.threads_batch if options.threads_batch > 0 else options.threads
        params.n_threads_batch = llama_params.threads_for(model.size_bytes, asked, len(prefill.cpus))
        may_use_devices = has_device_backend() or bool(options.rpc)
        params.flash_attn_type = llama_params.flash_attention_for(model.head_size, options, on_device=may_use_devices)
        params.type_k = llama_params.choice("cache-type-k", llama_params.CACHE_TYPES, options.cache_type_k)
        params.type_v = llama_params.choice("cache-type-v", llama_params.CACHE_TYPES, options.cache_type_v)
        params.pooling_type = llama_params.choice("pooling", {None: -1, **POOLING}, options.pooling)
        params.embeddings = options.embedding
        params.no_perf = True
        params.swa_full = options.swa_full
        params.offload_kqv = options.kv_offload
        params.op_offload = options.op_offload
        placement.set_positions(params, options)
        return params

    def _use_control_vectors(self, options: LoadOptions) -> None:
        """Raises LlamaError."""
        rows = control_vector.read(options.control_vectors)
        first, last = options.control_vector_layers or (1, api.llama_model_n_layer(self.model.pointer))
        if _set_control_vector(self.pointer, rows.ctypes.data, rows.size, rows.shape[1], max(1, first), last):
            raise LlamaError(f"the control vectors are for an embedding of {rows.shape[1]} numbers, and this model has {self.model.n_embd}")

    @property
    def notice(self) -> str:
        """What the user should know about its size; empty: nothing."""
        return llama_params.context_notice(self._options, self.model.n_ctx_train)

    def share_cores(self, num_busy: int) -> None:
        """Use this model's part of the cores. Threads of two models on one core wait for each other at every layer: measured, both
        together then make 60 tokens/s instead of 130 at best, 3 at worst."""
        most = max(1, llama_params.physical_cores() // max(1, num_busy))
        api.llama_set_n_threads(self.pointer, min(self._num_threads[0], most), min(self._num_threads[1], most))

    def __repr__(self) -> str:
        kind = "unified" if self.is_unified else "split"
        return f"<Context {self.n_ctx} tokens, {self.num_slots} slots, {kind}{'' if self.pointer else ', closed'}>"

    def decode(self, num_rows: int) -> int:
        """llama_decode of the batch's first rows: 0 done, 1 no room in the KV cache (nothing changed), 2 aborted, < 0 error."""
        struct = self.batch.struct
        struct.n_tokens = num_rows
        code: int = _decode(self.pointer, struct)
        return code

    def decode_embeddings(self, rows: NDArray[np.float32], first_pos: int, seq_id: int, *, is_causal: bool) -> int:
        """Like `decode`, for rows that are not tokens. No logits. `is_causal` False: all of them see each other."""
        self.batch.put_places(len(rows), first_pos, seq_id)
        struct = self.batch.embeddings
        struct.n_tokens, struct.embd = len(rows), rows.ctypes.data_as(type(struct.embd))
        if is_causal:
            return int(_decode(self.pointer, struct))
        api.llama_set_causal_attn(self.pointer, False)
        try:
            return int(_decode(self.pointer, struct))
        finally:
            api.llama_set_causal_attn(self.pointer, True)

    def abort_when(self, function: int, argument: int) -> None:
        """A decode ends early, with code 2, when this C function says so; it is called after each operation."""
        _set_abort_callback(self.pointer, function, argument)

    def logits(self) -> int:
        """Address of the logits of the last decode: one row of n_vocab floats for each batch row that asked, in their order. Valid until
        the next decode."""
        address: int = _get_logits(self.pointer)
        return address

    def sequence_vector(self, seq_id: int) -> NDArray[np.float32]:
        """The pooled embedding of a sequence in the last decode."""
        return self._vector(_get_embeddings_seq(self.pointer, seq_id))

    def token_vector(self, row: int) -> NDArray[np.float32]:
        """The embedding of one row of the last decode, without pooling."""
        return self._vector(_get_embeddings_ith(self.pointer, row))

    def _vector(self, address: int | None) -> NDArray[np.float32]:
        if not address:
            raise LlamaError("llama.cpp did not compute an embedding")
        return np.frombuffer(ctypes.string_at(address, 4 * self.num_outputs), dtype=np.float32)

    def use_adapters(self, adapters: Sequence[tuple[Adapter, float]]) -> None:
        """From the next decode on, use only these, with these scales. A change costs as much as building a new graph."""
        count = len(adapters)
        pointers = (P * count)(*(adapter.pointer for adapter, _ in adapters))
        scales = (ctypes.c_float * count)(*(scale for _, scale in adapters))
        _set_adapters(self.pointer, ctypes.addressof(pointers), count, ctypes.addressof(scales))

    def remove(self, seq_id: int, first_pos: int = -1, end_pos: int = -1) -> bool:
        """Remove positions of a sequence (default: all). False when this memory cannot remove a part (recurrent, SWA)."""
        removed: bool = _seq_rm(self.memory, seq_id, first_pos, end_pos)
        return removed

    def oldest_pos(self, seq_id: int) -> int:
        """The first position that is still there (> 0 only in a sliding window), -1 when empty."""
        pos: int = api.llama_memory_seq_pos_min(self.memory, seq_id)
        return pos

    def copy(self, source: int, target: int) -> None:
        """Make `target` (empty) a copy of `source`; this costs nothing in a unified cache."""
        _seq_cp(self.memory, source, target, -1, -1)

    def warm_up(self) -> None:
        """One decode whose result is removed: then the first user need not wait for page faults and thread creation."""
        self.batch.put_prompt(0, np.zeros(1, dtype=np.int32), 0, 0, wants_logits=True)
        self.decode(1)
        self.remove(0)

    def close(self) -> None:
        if self.pointer:
            pointer, self.pointer = self.pointer, None
            api.llama_free(pointer)
            if self._pools is not None:
                self._pools.close()
