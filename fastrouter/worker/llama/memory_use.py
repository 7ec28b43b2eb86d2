"""What a model would take, by llama.cpp's own count: it is opened and gets a context, but no memory.

Invariant: nothing that is opened here stays open.
"""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fastrouter.errors import FastrouterError
from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama.binding import I, LlamaError, P, api, bind, log, refusal
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model

_GPU_TYPES = (1, 2)  # ggml's numbers for devices that must say how much memory they have
_MOST_ENTRIES = 64


class _Entry(ctypes.Structure):
    """An entry of libstdc++'s map from a buffer type to its bytes."""

    _fields_ = (
        *(("colour", ctypes.c_int), ("parent", P), ("left", P), ("right", P)),
        *(("buffer_type", P), ("model", ctypes.c_size_t), ("context", ctypes.c_size_t), ("compute", ctypes.c_size_t)),
    )


class _Map(ctypes.Structure):
    _fields_ = (
        *(("compare", P), ("colour", ctypes.c_int), ("root", P), ("first", P), ("last", P)),
        ("count", ctypes.c_size_t),
    )


_breakdown = bind("_Z26llama_get_memory_breakdownPK13llama_context", _Map, P)
_num_devices = bind("_Z21llama_model_n_devicesPK11llama_model", I, P)
_get_device = bind("_Z22llama_model_get_devicePK11llama_modeli", P, P, I)
_num_experts = bind("_Z20llama_model_n_expertPK11llama_model", I, P)
_is_host = bind("ggml_backend_buft_is_host", ctypes.c_bool, P)
_device_of = bind("ggml_backend_buft_get_device", P, P)
_device_name = bind("ggml_backend_dev_name", ctypes.c_char_p, P)
_device_type = bind("ggml_backend_dev_type", ctypes.c_int, P)
_device_memory = bind("ggml_backend_dev_memory", None, P, P, P)
_buffer_type_of = bind("ggml_backend_dev_buffer_type", P, P)
_buffer_type_name = bind("ggml_backend_buft_name", ctypes.c_char_p, P)
_device_by_type = bind("ggml_backend_dev_by_type", P, ctypes.c_int)


@dataclass(frozen=True, slots=True)
class Place:
    """A device, or the host's memory."""

    name: str
    buffer: str  # the name of its buffer type
    total_bytes: int
    free_bytes: int
    model_bytes: int = 0
    context_bytes: int = 0
    compute_bytes: int = 0

    @property
    def used_bytes(self) -> int:
        return self.model_bytes + self.context_bytes + self.compute_bytes

    def plus(self, other: "Place") -> "Place":
        return replace(
            self,
            model_bytes=self.model_bytes + other.model_bytes,
            context_bytes=self.context_bytes + other.context_bytes,
            compute_bytes=self.compute_bytes + other.compute_bytes,
        )


@dataclass(frozen=True, slots=True)
class MemoryUse:
    devices: tuple[Place, ...]
    host: Place
    num_layers: int
    num_experts: int
    n_ctx_train: int
    n_ctx: int  # of the context that was counted

    def plus(self, other: "MemoryUse") -> "MemoryUse":
        """And another model. Only devices of this one count."""
        of_other = {place.name: place for place in other.devices}
        devices = tuple(place.plus(of_other[place.name]) if place.name in of_other else place for place in self.devices)
        return replace(self, devices=devices, host=self.host.plus(other.host))


def memory_use(path: str, options: LoadOptions, *, safe_mode: bool = False) -> MemoryUse:
    """With its draft model. Raises LlamaError."""
    found = _use_of(path, options, safe_mode)
    draft = options.speculation.get("draft_model")
    if draft is None or options.embedding:
        return found
    try:
        return found.plus(_use_of(draft, replace(options.of_draft, ctx_size=found.n_ctx), safe_mode))
    except FastrouterError:  # the load reports it
        return found


def _use_of(path: str, options: LoadOptions, safe_mode: bool) -> MemoryUse:
    with log.silenced():
        model = Model(path, options, safe_mode=safe_mode, is_dry=True)
        try:
            log.clear()
            context = api.llama_init_from_model(model.pointer, Context.params(model, options))
            if not context:
                raise refusal(log.cause() or "llama.cpp could not create a context")
            try:
                return _count(model, context)
            finally:
                api.llama_free(context)
        finally:
            model.close()


def _count(model: Model, context: int) -> MemoryUse:
    handles = [_get_device(model.pointer, index) for index in range(_num_devices(model.pointer))]
    host = _host()
    places = {handle: _place(handle, host) for handle in handles}
    for entry in _entries(_breakdown(context)):
        own = Place("", "", 0, 0, entry.model, entry.context, entry.compute)
        if _is_host(entry.buffer_type):
            host = host.plus(own)
        elif (handle := _device_of(entry.buffer_type)) in places:
            places[handle] = places[handle].plus(own)
    pointer = model.pointer
    return MemoryUse(
        tuple(places[handle] for handle in handles),
        host,
        api.llama_model_n_layer(pointer),
        _num_experts(pointer),
        model.n_ctx_train,
        api.llama_n_ctx(context),
    )


def _entries(found: _Map) -> Iterator[_Entry]:
    if found.count > _MOST_ENTRIES:
        raise LlamaError(f"llama.cpp's count of memory cannot be read: it has {found.count} entries")
    pending = [found.root]
    while pending:
        address = pending.pop()
        if address:
            entry = _Entry.from_address(address)
            pending += [entry.left, entry.right]
            yield entry


def _memory_of(handle: int) -> tuple[int, int]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _device_memory(handle, ctypes.addressof(free), ctypes.addressof(total))
    return free.value, total.value


def _host() -> Place:
    handle = _device_by_type(0)
    if not handle:
        raise LlamaError("llama.cpp has no CPU backend")
    free, total = _memory_of(handle)
    return Place("host", "CPU", total, free)


def _place(handle: int, host: Place) -> Place:
    free, total = _memory_of(handle)
    if not free and not total and _device_type(handle) not in _GPU_TYPES:  # such as BLAS, which computes in the host's memory
        free, total = host.free_bytes, host.total_bytes
    return Place(_device_name(handle).decode(), _buffer_type_name(_buffer_type_of(handle)).decode(), total, free)
