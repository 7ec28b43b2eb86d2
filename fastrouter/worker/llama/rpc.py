"""RPC servers as devices of this process, and this process as an RPC server. Both are in llama.cpp's libggml-rpc, which is loaded when one
of them is wanted.

llama.cpp ends the process when a connection is lost; so each server is dialled first, and one that does not answer is left out. A name
is never given to another device because of that: RPC1 stays RPC1 when the server of RPC0 is missing. Invariant: connections stay open, so
that a confined process needs no new one.
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastrouter.system.rpc_dial import Unreachable, dial_all
from fastrouter.worker.llama import devices
from fastrouter.worker.llama.binding import LlamaError, P, Scarcity, backend_folder, bind

LIBRARY = "libggml-rpc.so"


class Servers:
    """Those of this process. A server that is missing counts as one device."""

    def __init__(self) -> None:
        self.names: dict[str, int | None] = {}  # handles of devices, by name; None: the server is missing
        self.missing: dict[str, str] = {}  # why, by endpoint, in the order of their names
        self._kept: list[int] = []  # backends: each holds its connection

    def __repr__(self) -> str:
        return f"<Servers with {', '.join(self.names) or 'no device'}{f', without {len(self.missing)}' if self.missing else ''}>"

    def connect(self, endpoints: Sequence[str]) -> None:
        """Raises LlamaError; Scarcity when none of them answers."""
        found = dial_all(endpoints)
        for endpoint, answer in found.items():
            if isinstance(answer, Unreachable):
                self.missing[endpoint] = answer.message
                self.names[self._next_name()] = None
            else:
                self._add(endpoint)
        if endpoints and len(self.missing) == len(found):
            raise Scarcity(f"--rpc: no server can be used: {'; '.join(f'{name}: {why}' for name, why in self.missing.items())}")

    def _next_name(self) -> str:
        return f"RPC{len(self.names)}"

    def _add(self, endpoint: str) -> None:
        registry = _procedure("ggml_backend_rpc_add_server", P, ctypes.c_char_p)(endpoint.encode())
        if not registry:
            raise LlamaError(f"--rpc {endpoint}: it has no devices")
        bind("ggml_backend_register", None, P)(registry)
        get, open_device = bind("ggml_backend_reg_dev_get", P, P, ctypes.c_size_t), bind("ggml_backend_dev_init", P, P, ctypes.c_char_p)
        for number in range(bind("ggml_backend_reg_dev_count", ctypes.c_size_t, P)(registry)):
            handle = get(registry, number)
            self._kept.append(open_device(handle, None))
            self.names[self._next_name()] = handle

    def by_name(self) -> dict[str, int | None]:
        """All devices but CPUs, in the order that llama.cpp uses when none are named: RPC servers first. None: its server is missing."""
        own = {devices.name_of(handle): handle for handle in devices.handles() if devices.kind_of(handle) not in ("cpu", "rpc")}
        return self.names | own

    def is_missing(self, buffer: str) -> bool:
        """A name of buffers, as RPC0[10.0.0.2:50052]."""
        return buffer.startswith("RPC") and buffer.partition("[")[2].rstrip("]") in self.missing


servers = Servers()


def load_library() -> None:
    """Raises LlamaError."""
    if bind("ggml_backend_reg_by_name", P, ctypes.c_char_p)(b"RPC"):
        return
    path = backend_folder() / LIBRARY
    if not path.exists() or not bind("ggml_backend_load", P, ctypes.c_char_p)(os.fsencode(path)):
        raise LlamaError("this build of llama.cpp has no RPC backend; `make install` builds one, or pip with CMAKE_ARGS=-DGGML_RPC=ON")


def serve(threads: int, names: Sequence[str], cache: Path | None) -> None:
    """Serve clients on a free port of the loopback interface, one after the other. It does not return, except for an error that llama.cpp
    has printed. Raises LlamaError."""
    known = {devices.name_of(handle): handle for handle in devices.handles()}
    for name in names:
        if name not in known:
            raise LlamaError(f"--device {name}: there is no such device; there are {', '.join(known)}")
    chosen = [known[name] for name in names or _served_by_default()]
    start = _procedure("ggml_backend_rpc_start_server", None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, P)
    array = (P * len(chosen))(*chosen)
    start(b"127.0.0.1:0", os.fsencode(cache) if cache else None, threads, len(chosen), ctypes.addressof(array))


def _served_by_default() -> list[str]:
    """As llama.cpp's server: GPUs, or the CPU where there are none."""
    named = [(devices.kind_of(handle), devices.name_of(handle)) for handle in devices.handles()]
    return [name for kind, name in named if kind in ("gpu", "igpu")] or [name for kind, name in named if kind == "cpu"][:1]


def _procedure(name: str, restype: Any, *argtypes: Any) -> Any:
    """A function of the RPC backend."""
    load_library()
    registry = bind("ggml_backend_reg_by_name", P, ctypes.c_char_p)(b"RPC")
    address = bind("ggml_backend_reg_get_proc_address", P, P, ctypes.c_char_p)(registry, name.encode())
    if not address:
        raise LlamaError(f"llama.cpp's RPC backend has no {name}")
    return ctypes.CFUNCTYPE(restype, *argtypes)(address)
