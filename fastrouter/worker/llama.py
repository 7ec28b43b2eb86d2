"""The only import of llama_cpp: backends, Model, Adapter, Vocab, Context, Batch. Everything is addressed by plain ints.

Knows nothing of requests, slots or sampling. llama_cpp's ctypes functions are bound once with the cheapest argument types:
pointers travel as integers, and no Python object is made per token. Objects own what they opened; `close` is idempotent.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as api
from numpy.typing import NDArray

from fastrouter._core import all_pieces, find_tokens
from fastrouter.errors import FastrouterError, InvalidRequest
from fastrouter.messages import LoadOptions
from fastrouter.worker import cpu_variants, tuning
from fastrouter.worker.batch import Batch
from fastrouter.worker.cores import ThreadPools, placements_of
from fastrouter.worker.llama_log import LlamaLog
from fastrouter.worker.states import States

_lib = api._lib
EXPECTED_LLAMA_VERSION = b"0.5.0"  # llama.cpp's structs change between releases: a foreign library would read garbage
_DEVICE_TYPES = (1, 2)  # ggml's numbers for GPUs with memory of their own or the host's


def _bind(name: str, restype: Any, *argtypes: Any) -> Any:
    """A private function object, so our argument types don't disturb llama_cpp's own."""
    function = ctypes.CFUNCTYPE(restype, *argtypes)((name, _lib))
    return function


_P, _I = ctypes.c_void_p, ctypes.c_int32
_decode = _bind("llama_decode", _I, _P, api.llama_batch)
_get_logits = _bind("llama_get_logits", _P, _P)
_get_embeddings_seq = _bind("llama_get_embeddings_seq", _P, _P, _I)
_get_embeddings_ith = _bind("llama_get_embeddings_ith", _P, _P, _I)
_tokenize = _bind("llama_tokenize", _I, _P, ctypes.c_char_p, _I, _P, _I, ctypes.c_bool, ctypes.c_bool)
_token_to_piece = _bind("llama_token_to_piece", _I, _P, _I, _P, _I, _I, ctypes.c_bool)
_is_eog = _bind("llama_vocab_is_eog", ctypes.c_bool, _P, _I)
_seq_rm = _bind("llama_memory_seq_rm", ctypes.c_bool, _P, _I, _I, _I)
_seq_cp = _bind("llama_memory_seq_cp", None, _P, _I, _I, _I, _I)
_meta_val_str = _bind("llama_model_meta_val_str", _I, _P, ctypes.c_char_p, _P, ctypes.c_size_t)
_adapter_init = _bind("llama_adapter_lora_init", _P, _P, ctypes.c_char_p)
_adapter_val_str = _bind("llama_adapter_meta_val_str", _I, _P, ctypes.c_char_p, _P, ctypes.c_size_t)
_num_invocation_tokens = _bind("llama_adapter_get_alora_n_invocation_tokens", ctypes.c_uint64, _P)
_attach_threadpool = _bind("llama_attach_threadpool", None, _P, _P, _P)
_set_adapters = _bind("llama_set_adapters_lora", _I, _P, _P, ctypes.c_size_t, _P)


class LlamaError(FastrouterError):
    """llama.cpp refused; the message ends with what it logged."""


# ---------------------------------------------------------------- log and backends

log = LlamaLog()
_log_callback = api.llama_log_callback(log.take)  # kept alive: llama.cpp holds its address


def backend_folder() -> Path:
    """Where the portable build keeps its CPU variants (`site-packages/bin`)."""
    return Path(llama_cpp.__file__).resolve().parent.parent / "bin"


@cache
def has_device_backend() -> bool:
    """True for a GPU build: a process that has loaded such a backend must not fork. Decided by file names: loads nothing."""
    folders = (backend_folder(), Path(llama_cpp.__file__).resolve().parent / "lib")
    names = {path.name.split(".")[0] for folder in folders if folder.is_dir() for path in folder.glob("libggml-*.so*")}
    return any(not name.startswith(("libggml-base", "libggml-cpu")) for name in names)


def start_backends() -> None:
    """Load the CPU (and GPU) backends into the one libggml image that libllama itself uses, then initialise. Once per process."""
    if not api.llama_version().startswith(EXPECTED_LLAMA_VERSION):
        raise LlamaError(f"libllama is {api.llama_version().decode()}, fastrouter was written for {EXPECTED_LLAMA_VERSION.decode()}")
    api.llama_log_set(_log_callback, None)
    # Looked up through libllama's own handle: `llama_cpp._ggml` may hold a second image with its own, empty registry.
    count = _lib.ggml_backend_dev_count
    count.restype = ctypes.c_size_t
    folder = backend_folder()
    if not count() and folder.is_dir():
        load = _lib.ggml_backend_load_all_from_path
        load.argtypes, load.restype = [ctypes.c_char_p], None
        load(os.fsencode(folder))
    if not count():
        raise LlamaError(f"llama.cpp has no usable backend (looked in {folder})")
    api.llama_backend_init()


def cpu_function(name: bytes) -> int:
    """Address of a function of the CPU backend that is in use."""
    _lib.ggml_backend_reg_by_name.restype, _lib.ggml_backend_reg_by_name.argtypes = _P, [ctypes.c_char_p]
    _lib.ggml_backend_reg_get_proc_address.restype, _lib.ggml_backend_reg_get_proc_address.argtypes = _P, [_P, ctypes.c_char_p]
    return _lib.ggml_backend_reg_get_proc_address(_lib.ggml_backend_reg_by_name(b"CPU"), name) or 0


def drop_best_variants(count: int) -> tuple[list[str], str] | None:
    """See cpu_variants."""
    return cpu_variants.use_without_best(_lib, backend_folder(), count)


def device_free_bytes() -> int | None:
    """Free memory of all devices that are no CPU, together; None: there are none."""
    if not has_device_backend():
        return None
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _lib.ggml_backend_dev_count.restype = ctypes.c_size_t
    _lib.ggml_backend_dev_get.restype, _lib.ggml_backend_dev_get.argtypes = _P, [ctypes.c_size_t]
    _lib.ggml_backend_dev_type.restype, _lib.ggml_backend_dev_type.argtypes = ctypes.c_int, [_P]
    _lib.ggml_backend_dev_memory.restype, _lib.ggml_backend_dev_memory.argtypes = None, [_P, _P, _P]
    found = []
    for index in range(_lib.ggml_backend_dev_count()):
        device = _lib.ggml_backend_dev_get(index)
        if _lib.ggml_backend_dev_type(device) in _DEVICE_TYPES:
            _lib.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            found.append(free.value)
    return sum(found) if found else None


# ---------------------------------------------------------------- vocabulary


TOKENIZE_ADDRESS: int = ctypes.cast(_lib.llama_tokenize, _P).value or 0


class Vocab:
    """A model's vocabulary. Borrowed from its Model: dead after the model's close."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer
        self.n_tokens: int = api.llama_vocab_n_tokens(pointer)
        self.type: int = api.llama_vocab_type(pointer)
        self.bos: int = api.llama_vocab_bos(pointer)  # -1: none, like the others
        self.eos: int = api.llama_vocab_eos(pointer)
        self.eot: int = api.llama_vocab_eot(pointer)
        self.add_bos: bool = api.llama_vocab_get_add_bos(pointer)
        self.add_eos: bool = api.llama_vocab_get_add_eos(pointer)
        self.sep: int = api.llama_vocab_sep(pointer)
        self.add_sep: bool = api.llama_vocab_get_add_sep(pointer)
        self._piece = ctypes.create_string_buffer(256)
        self._piece_address = ctypes.addressof(self._piece)
        self._eog = bytearray(self.n_tokens)  # 0: not asked yet, 1: no, 2: yes

    def is_eog(self, token: int) -> bool:
        """End of generation: EOS, EOT and their kin."""
        known = self._eog[token]
        if not known:
            known = self._eog[token] = 2 if _is_eog(self.pointer, token) else 1
        return known == 2

    @cached_property
    def fim(self) -> dict[str, int]:
        """Tokens that tell a model to fill a gap: pre, suf, mid, rep, sep. -1: none."""
        return {name: getattr(api, f"llama_vocab_fim_{name}")(self.pointer) for name in ("pre", "suf", "mid", "rep", "sep")}

    @cached_property
    def eog_tokens(self) -> list[int]:
        """All of them; walks the vocabulary, so only for ignore_eos."""
        return find_tokens(ctypes.cast(_lib.llama_vocab_is_eog, _P).value or 0, self.pointer, self.n_tokens)

    @cached_property
    def pieces(self) -> list[bytes]:
        """All of them, control tokens as their text."""
        return all_pieces(ctypes.cast(_lib.llama_token_to_piece, _P).value or 0, self.pointer, self.n_tokens)

    def token_to_piece(self, token: int, special: bool = True) -> bytes:
        """The token's bytes. `special`: control tokens as their text, otherwise empty."""
        length = _token_to_piece(self.pointer, token, self._piece_address, 256, 0, special)
        if length < 0:  # longer than the buffer
            buffer = ctypes.create_string_buffer(-length)
            length = _token_to_piece(self.pointer, token, ctypes.addressof(buffer), -length, 0, special)
            return buffer.raw[:length]
        return ctypes.string_at(self._piece_address, length)

    def is_special(self, token: int) -> bool:
        """One that stands for no text: a control token, or an added one like <this>."""
        attributes: int = api.llama_vocab_get_attr(self.pointer, token)
        if attributes & api.LLAMA_TOKEN_ATTR_USER_DEFINED:
            piece = self.token_to_piece(token)
            return piece.startswith(b"<") and piece.endswith(b">")
        return bool(attributes & api.LLAMA_TOKEN_ATTR_CONTROL)

    def token_text(self, token: int) -> str:
        """Text of a token as written in the GGUF ("" for -1), for templates (`bos_token`)."""
        if token < 0:
            return ""
        text: bytes = api.llama_vocab_get_text(self.pointer, token)
        return text.decode("utf-8", "replace")

    def tokenize(self, text: str | bytes, add_special: bool = True, parse_special: bool = True) -> list[int]:
        data = text.encode("utf-8", "replace") if isinstance(text, str) else text
        capacity = len(data) + 8
        buffer = (_I * capacity)()
        count = _tokenize(self.pointer, data, len(data), ctypes.addressof(buffer), capacity, add_special, parse_special)
        if count < 0:
            if count == -(1 << 31):
                raise InvalidRequest("the text is too long to tokenize")
            buffer = (_I * -count)()
            count = _tokenize(self.pointer, data, len(data), ctypes.addressof(buffer), -count, add_special, parse_special)
        return buffer[:count]

    def detokenize(self, tokens: Sequence[int], special: bool = True) -> bytes:
        return b"".join([self.token_to_piece(token, special) for token in tokens])


# ---------------------------------------------------------------- model


def _string(function: Callable[[int, int], int], size: int = 256) -> str:
    """What a `(buffer, size) -> length` function writes; empty when it has nothing."""
    buffer = ctypes.create_string_buffer(size)
    length = function(ctypes.addressof(buffer), size)
    if length >= size:
        return _string(function, length + 1)
    return buffer.raw[:length].decode("utf-8", "replace") if length > 0 else ""


class Model:
    """A loaded GGUF. `on_progress(0.0..1.0)` is called often while loading; returning False ends the load."""

    def __init__(
        self, path: str, options: LoadOptions, *, safe_mode: bool = False, on_progress: Callable[[float], bool] | None = None
    ) -> None:
        params = api.llama_model_default_params()
        if options.gpu_layers >= 0:
            params.n_gpu_layers = options.gpu_layers
        params.load_mode = (3 if options.mlock else 1) if options.mmap else (2 if options.mlock else 0)
        params.use_extra_bufts = not safe_mode
        if on_progress is not None:
            params.progress_callback = api.llama_progress_callback(lambda value, _: on_progress(value))
        log.clear()
        self.pointer: int | None = api.llama_model_load_from_file(os.fsencode(path), params)
        if not self.pointer:
            raise LlamaError(log.cause() or "llama.cpp could not load the file")
        self.vocab = Vocab(api.llama_model_get_vocab(self.pointer))
        self.n_ctx_train: int = api.llama_model_n_ctx_train(self.pointer)
        self.n_embd: int = api.llama_model_n_embd(self.pointer)
        self.head_size: int = self.n_embd // max(1, api.llama_model_n_head(self.pointer))
        self.n_swa: int = api.llama_model_n_swa(self.pointer)
        self.has_state: bool = api.llama_model_is_recurrent(self.pointer) or api.llama_model_is_hybrid(self.pointer)
        self.n_params: int = api.llama_model_n_params(self.pointer)
        self.size_bytes: int = api.llama_model_size(self.pointer)
        self.ftype: str = api.llama_ftype_name(api.llama_model_ftype(self.pointer)).decode()
        self.can_generate: bool = api.llama_model_has_decoder(self.pointer) and not api.llama_model_has_encoder(self.pointer)

    def __repr__(self) -> str:
        return f"<Model {self.meta_value('general.architecture')} {self.size_bytes >> 20} MiB{'' if self.pointer else ' closed'}>"

    def meta_value(self, key: str) -> str:
        """A scalar of the GGUF's metadata as text; empty when it is absent or an array."""
        return _string(lambda buffer, size: _meta_val_str(self.pointer, key.encode(), buffer, size)) if self.pointer else ""

    @property
    def chat_template(self) -> str | None:
        """The GGUF's own Jinja template."""
        return self._template(None)

    @property
    def rerank_template(self) -> str | None:
        """With {query} and {document}; most rerankers have none and take special tokens between the two."""
        return self._template(b"rerank")

    def _template(self, name: bytes | None) -> str | None:
        text = api.llama_model_chat_template(self.pointer, name)
        return text.decode("utf-8", "replace") if text else None

    def close(self) -> None:
        if self.pointer:
            pointer, self.pointer = self.pointer, None
            api.llama_model_free(pointer)


class Adapter:
    """A LoRA adapter. It lives in its Model and is freed with it; a Context has room for those that were there before it."""

    def __init__(self, model: Model, path: str) -> None:
        self.path = path
        if not os.path.isfile(path):
            raise LlamaError(f"LoRA adapter {path}: there is no such file")
        log.clear()
        with log.errors_only():  # it warns of each tensor beside weights that are repacked for the CPU
            self.pointer: int = _adapter_init(model.pointer, os.fsencode(path)) or 0
        if not self.pointer:
            raise LlamaError(f"LoRA adapter {path}: {log.cause() or 'llama.cpp could not load the file'}")
        if _num_invocation_tokens(self.pointer):
            raise LlamaError(f"LoRA adapter {path}: it is an activated LoRA (aLoRA, with invocation tokens), which is not supported")

    def __repr__(self) -> str:
        return f"<Adapter {self.path}>"

    def meta_value(self, key: str) -> str:
        """A scalar of the GGUF's metadata as text; empty when it is absent."""
        return _string(lambda buffer, size: _adapter_val_str(self.pointer, key.encode(), buffer, size))


# ---------------------------------------------------------------- context and batch


class Context:
    """A llama_context with its memory (KV cache) and its batch."""

    def __init__(self, model: Model, options: LoadOptions) -> None:
        self.model = model
        self.num_slots, self.is_unified = tuning.slots_of(options)
        self.is_embedding = options.embedding
        self.num_sequences = tuning.sequences_of(options)
        self.pointer: int | None = None
        params = self._params(model, options)
        log.clear()
        self.pointer = api.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            raise LlamaError(log.cause() or "llama.cpp could not create a context")
        self._num_threads = (params.n_threads, params.n_threads_batch)
        self._pools: ThreadPools | None = None
        placements = placements_of(options)
        if not all(placement.is_free for placement in placements):
            self._pools = ThreadPools(cpu_function, placements, self._num_threads)
            _attach_threadpool(self.pointer, *self._pools.addresses)
        self.n_ctx: int = api.llama_n_ctx(self.pointer)
        # What one sequence may fill; unified: all of it. Never more than the model was trained for, as in llama-server.
        self.n_ctx_slot: int = min(api.llama_n_ctx_seq(self.pointer), model.n_ctx_train or 1 << 31)
        self.n_batch: int = min(api.llama_n_batch(self.pointer), api.llama_n_ubatch(self.pointer))
        self.n_vocab = model.vocab.n_tokens
        self.memory: int = api.llama_get_memory(self.pointer) or 0
        self.states = States(_lib, self.pointer, self.memory)
        self.can_cut: bool = not model.has_state  # a recurrent state cannot go back by a token
        self.batch = Batch(max(self.n_batch, self.num_slots), api.llama_batch())
        self.pooling: int = api.llama_pooling_type(self.pointer)
        is_rank = self.pooling == tuning.POOLING["rank"]
        # A vector made of the last token alone, which has seen the others through the cache: they need not be computed with it.
        is_of_last = self.pooling == tuning.POOLING["last"] or (is_rank and api.llama_get_causal_attn(self.pointer))
        self.can_split: bool = bool(self.memory) and is_of_last
        self.num_outputs: int = max(1, api.llama_model_n_cls_out(model.pointer)) if is_rank else api.llama_model_n_embd_out(model.pointer)

    def _params(self, model: Model, options: LoadOptions) -> Any:
        params = api.llama_context_default_params()
        params.n_ctx = max(0, options.ctx_size)
        params.n_seq_max = self.num_sequences
        params.kv_unified = self.is_unified
        params.n_batch = max(1, options.batch_size)
        params.n_ubatch = max(1, min(options.ubatch_size, options.batch_size))
        decode, prefill = placements_of(options)
        params.n_threads = tuning.threads_for(model.size_bytes, options.threads, len(decode.cpus))
        asked = options.threads_batch if options.threads_batch > 0 else options.threads
        params.n_threads_batch = tuning.threads_for(model.size_bytes, asked, len(prefill.cpus))
        params.flash_attn_type = tuning.flash_attention_for(model.head_size, options, on_device=has_device_backend())
        params.type_k = tuning.choice("cache-type-k", tuning.CACHE_TYPES, options.cache_type_k)
        params.type_v = tuning.choice("cache-type-v", tuning.CACHE_TYPES, options.cache_type_v)
        params.pooling_type = tuning.choice("pooling", tuning.POOLING, options.pooling)
        params.embeddings = options.embedding
        params.no_perf = True
        params.swa_full = options.swa_full
        return params

    def share_cores(self, num_busy: int) -> None:
        """Use this model's part of the cores. Threads of two models on one core wait for each other at every layer: measured, both
        together then make 60 tokens/s instead of 130 at best, 3 at worst."""
        most = max(1, tuning.physical_cores() // max(1, num_busy))
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

    def logits(self) -> int:
        """Address of the logits of the last decode: one row of n_vocab floats for each batch row that asked, in their order.
        Valid until the next decode."""
        address: int = _get_logits(self.pointer)
        return address

    def sequence_vector(self, seq_id: int) -> NDArray[np.float32]:
        """What pooling made of a sequence of the last decode."""
        return self._vector(_get_embeddings_seq(self.pointer, seq_id))

    def token_vector(self, row: int) -> NDArray[np.float32]:
        """Of one row of the last decode, where there is no pooling."""
        return self._vector(_get_embeddings_ith(self.pointer, row))

    def _vector(self, address: int | None) -> NDArray[np.float32]:
        if not address:
            raise LlamaError("llama.cpp has computed no embedding")
        return np.frombuffer(ctypes.string_at(address, 4 * self.num_outputs), dtype=np.float32)

    def use_adapters(self, adapters: Sequence[tuple[Adapter, float]]) -> None:
        """From the next decode on, these with these scales and no others. A change costs as much as building a graph anew."""
        count = len(adapters)
        pointers = (_P * count)(*(adapter.pointer for adapter, _ in adapters))
        scales = (ctypes.c_float * count)(*(scale for _, scale in adapters))
        _set_adapters(self.pointer, ctypes.addressof(pointers), count, ctypes.addressof(scales))

    def remove(self, seq_id: int, first_pos: int = -1, end_pos: int = -1) -> bool:
        """Forget positions of a sequence (default: all). False when this memory cannot forget a part (recurrent, SWA)."""
        removed: bool = _seq_rm(self.memory, seq_id, first_pos, end_pos)
        return removed

    def oldest_pos(self, seq_id: int) -> int:
        """First position still held (> 0 only in a sliding window), -1 when empty."""
        pos: int = api.llama_memory_seq_pos_min(self.memory, seq_id)
        return pos

    def copy(self, source: int, target: int) -> None:
        """Make `target` (empty) a copy of `source`; free of cost in a unified cache."""
        _seq_cp(self.memory, source, target, -1, -1)

    def warm_up(self) -> None:
        """One decode, forgotten again: the first user need not wait for page faults and thread creation."""
        self.batch.put_prompt(0, np.zeros(1, dtype=np.int32), 0, 0, wants_logits=True)
        self.decode(1)
        self.remove(0)

    def close(self) -> None:
        if self.pointer:
            pointer, self.pointer = self.pointer, None
            api.llama_free(pointer)
            if self._pools is not None:
                self._pools.close()
