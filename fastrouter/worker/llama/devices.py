"""The devices that llama.cpp has in this process, with their memory. RPC servers become devices in rpc.py.

Invariant: the key of a device is the name of its buffers. It means the same device in every process: RPC0[10.0.0.2:50052] is the first
device of that server, while its name RPC0 depends on the servers of this process.
"""

import ctypes
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from fastrouter.worker.llama.binding import P, bind

KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accelerator", 4: "meta"}  # ggml's numbers


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    key: str
    kind: str
    description: str
    free_bytes: int
    total_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@cache
def _function(name: str, restype: Any, *argtypes: Any) -> Any:
    return bind(name, restype, *argtypes)


def handles() -> list[int]:
    """All devices, the CPU too, in llama.cpp's order."""
    get = _function("ggml_backend_dev_get", P, ctypes.c_size_t)
    return [get(index) for index in range(_function("ggml_backend_dev_count", ctypes.c_size_t)())]


def name_of(handle: int) -> str:
    return _function("ggml_backend_dev_name", ctypes.c_char_p, P)(handle).decode()  # type: ignore[no-any-return]


def kind_of(handle: int) -> str:
    """llama.cpp takes a device of an RPC server for a GPU, whatever it is."""
    registry = _function("ggml_backend_dev_backend_reg", P, P)(handle)
    if _function("ggml_backend_reg_name", ctypes.c_char_p, P)(registry) == b"RPC":
        return "rpc"
    return KINDS.get(_function("ggml_backend_dev_type", ctypes.c_int, P)(handle), "unknown")


def buffer_type_of(handle: int) -> int:
    """0: it has no buffers of its own."""
    return _function("ggml_backend_dev_buffer_type", P, P)(handle) or 0


def buffer_name_of(handle: int) -> str:
    kind = buffer_type_of(handle)
    return _function("ggml_backend_buft_name", ctypes.c_char_p, P)(kind).decode() if kind else name_of(handle)


def memory_of(handle: int) -> tuple[int, int]:
    """(free bytes, total bytes). CPUs, also those of RPC servers, call all their memory free."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _function("ggml_backend_dev_memory", None, P, P, P)(handle, ctypes.addressof(free), ctypes.addressof(total))
    return free.value, total.value


def describe(handle: int, name: str = "") -> Device:
    """`name`: if llama.cpp's own is not the one that counts, see rpc.py."""
    description = _function("ggml_backend_dev_description", ctypes.c_char_p, P)(handle).decode("utf-8", "replace")
    return Device(name or name_of(handle), buffer_name_of(handle), kind_of(handle), description, *memory_of(handle))
