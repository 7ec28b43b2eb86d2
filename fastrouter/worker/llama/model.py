"""What is read from GGUF files: a Model, and the Adapters that may be applied to it. They own what they opened; `close` is idempotent."""

import ctypes
import os
from collections.abc import Callable

from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama import placement
from fastrouter.worker.llama.binding import I, LlamaError, P, api, bind, log, refusal
from fastrouter.worker.llama.vocab import Vocab

_meta_val_str = bind("llama_model_meta_val_str", I, P, ctypes.c_char_p, P, ctypes.c_size_t)
_adapter_init = bind("llama_adapter_lora_init", P, P, ctypes.c_char_p)
_adapter_val_str = bind("llama_adapter_meta_val_str", I, P, ctypes.c_char_p, P, ctypes.c_size_t)
_num_invocation_tokens = bind("llama_adapter_get_alora_n_invocation_tokens", ctypes.c_uint64, P)


def _string(function: Callable[[int, int], int], size: int = 256) -> str:
    """What a `(buffer, size) -> length` function writes; empty when there is nothing."""
    buffer = ctypes.create_string_buffer(size)
    length = function(ctypes.addressof(buffer), size)
    if length >= size:
        return _string(function, length + 1)
    return buffer.raw[:length].decode("utf-8", "replace") if length > 0 else ""


def _load_mode(options: LoadOptions) -> int:
    """LLAMA_LOAD_MODE_*."""
    if options.mmap:
        return 3 if options.mlock else 1
    return 4 if options.direct_io else 2 if options.mlock else 0


class Model:
    """A loaded GGUF file. `on_progress(0.0..1.0)` is called often during the load; if it returns False, the load ends."""

    def __init__(
        self,
        path: str,
        options: LoadOptions,
        *,
        safe_mode: bool = False,
        on_progress: Callable[[float], bool] | None = None,
        is_dry: bool = False,
    ) -> None:
        """`is_dry`: without memory for weights, to count what it would take."""
        params = api.llama_model_default_params()
        if options.gpu_layers >= 0:
            params.n_gpu_layers = options.gpu_layers
        params.load_mode = 0 if is_dry else _load_mode(options)
        params.no_alloc = is_dry
        params.use_extra_bufts = options.repack and not safe_mode
        kept = placement.place(params, options)
        if options.numa is not None:
            placement.use_numa(options.numa)
        if on_progress is not None:
            params.progress_callback = api.llama_progress_callback(lambda value, _: on_progress(value))
        log.clear()
        self.pointer: int | None = api.llama_model_load_from_file(os.fsencode(path), params)
        del kept
        if not self.pointer:
            raise refusal(log.cause() or "llama.cpp could not load the file", path)
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
        """One value of the GGUF's metadata as text; empty when it is absent or an array."""
        return _string(lambda buffer, size: _meta_val_str(self.pointer, key.encode(), buffer, size)) if self.pointer else ""

    @property
    def chat_template(self) -> str | None:
        """The Jinja template in the GGUF file."""
        return self._template(None)

    @property
    def rerank_template(self) -> str | None:
        """With {query} and {document}; most rerankers have none and use special tokens between the two."""
        return self._template(b"rerank")

    def _template(self, name: bytes | None) -> str | None:
        text = api.llama_model_chat_template(self.pointer, name)
        return text.decode("utf-8", "replace") if text else None

    def close(self) -> None:
        if self.pointer:
            pointer, self.pointer = self.pointer, None
            api.llama_model_free(pointer)


class Adapter:
    """A LoRA adapter. It lives in its Model and is freed with it; a Context has room for adapters that were loaded before it."""

    def __init__(self, model: Model, path: str) -> None:
        self.path = path
        if not os.path.isfile(path):
            raise LlamaError(f"LoRA adapter {path}: there is no such file")
        log.clear()
        with log.errors_only():  # it warns about each tensor next to weights that are repacked for the CPU
            self.pointer: int = _adapter_init(model.pointer, os.fsencode(path)) or 0
        if not self.pointer:
            raise LlamaError(f"LoRA adapter {path}: {log.cause() or 'llama.cpp could not load the file'}")
        if _num_invocation_tokens(self.pointer):
            raise LlamaError(f"LoRA adapter {path}: it is an activated LoRA (aLoRA, with invocation tokens), which is not supported")

    def __repr__(self) -> str:
        return f"<Adapter {self.path}>"

    def meta_value(self, key: str) -> str:
        """One value of the GGUF's metadata as text; empty when it is absent."""
        return _string(lambda buffer, size: _adapter_val_str(self.pointer, key.encode(), buffer, size))
