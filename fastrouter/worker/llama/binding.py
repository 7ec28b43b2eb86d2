"""The only import of llama_cpp: the library, its log, its backends. All addresses are plain ints.

Never imports: worker.llama.model. llama_cpp's ctypes functions are bound again with the cheapest argument types: pointers are integers,
and no Python object is made for each token.
"""

import ctypes
import os
import re
import sys
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any

from fastrouter.errors import FastrouterError
from fastrouter.worker.llama import cpu_variants
from fastrouter.worker.llama.log import LlamaLog


def _import_api() -> Any:
    """Its ctypes module alone. The package around it imports much more, which takes a tenth of a second and is not used here."""
    found = util.find_spec("llama_cpp") if "llama_cpp" not in sys.modules else None
    if found is not None:
        sys.modules["llama_cpp"] = util.module_from_spec(found)  # it is not executed
    try:
        from llama_cpp import llama_cpp
    finally:
        if found is not None:
            del sys.modules["llama_cpp"]  # another import of the package gets the real one
    return llama_cpp


api: Any = _import_api()
lib = api._lib
P, I = ctypes.c_void_p, ctypes.c_int32  # noqa: E741
EXPECTED_LLAMA_VERSION = b"0.5.0"  # llama.cpp's structs change between releases: with another library this would read garbage
_LOADED_WHEN_ASKED = "libggml-rpc"  # only for models that use it, see rpc.py


def bind(name: str, restype: Any, *argtypes: Any) -> Any:
    """A separate function object, so that our argument types do not change llama_cpp's."""
    function = ctypes.CFUNCTYPE(restype, *argtypes)((name, lib))
    return function


class LlamaError(FastrouterError):
    """llama.cpp refused; the message is what it logged."""


class Scarcity(LlamaError):
    """There was not enough memory, or no descriptor, for it now."""


def refusal(cause: str, path: str = "") -> LlamaError:
    """The error of a load, with the cause that llama.cpp logged. `path`: the file that it could not open."""
    prefix = f"{path}: " if path else ""
    if re.search(r"alloc|\bmemory\b|too many open files", cause, re.IGNORECASE):
        return Scarcity(f"{prefix}{cause}")
    return LlamaError(f"{prefix}{cause}{'; get another copy of the file, or another version of the model' if path else ''}")


log = LlamaLog()
_log_callback = api.llama_log_callback(log.take)  # kept alive: llama.cpp stores its address


@cache
def mtmd() -> Any:
    """libmtmd, for projectors. It is loaded with the first one."""
    from llama_cpp import mtmd_cpp

    mtmd_cpp.mtmd_helper_log_set(_log_callback, None)
    return mtmd_cpp


def backend_folder() -> Path:
    """Where the portable build keeps its CPU variants (`site-packages/bin`)."""
    return Path(api.__file__).resolve().parent.parent / "bin"


@cache
def has_device_backend() -> bool:
    """True for a GPU build: a process that has loaded such a backend must not fork. It looks at file names and loads nothing."""
    folders = (backend_folder(), Path(api.__file__).resolve().parent / "lib")
    names = {path.name.split(".")[0] for folder in folders if folder.is_dir() for path in folder.glob("libggml-*.so*")}
    return any(not name.startswith(("libggml-base", "libggml-cpu", _LOADED_WHEN_ASKED)) for name in names)


def start_backends() -> None:
    """Load the CPU (and GPU) backends into the one libggml image that libllama itself uses, then initialise. Once per process."""
    if not api.llama_version().startswith(EXPECTED_LLAMA_VERSION):
        raise LlamaError(f"libllama is {api.llama_version().decode()}, fastrouter was written for {EXPECTED_LLAMA_VERSION.decode()}")
    api.llama_log_set(_log_callback, None)
    # Looked up through libllama's handle: `llama_cpp._ggml` may hold a second image with another, empty registry.
    count = lib.ggml_backend_dev_count
    count.restype = ctypes.c_size_t
    folder = backend_folder()
    if not count() and folder.is_dir():
        _load_backends(folder)
    if not count():
        raise LlamaError(f"llama.cpp has no usable backend (looked in {folder})")
    api.llama_backend_init()


def _load_backends(folder: Path) -> None:
    """The best CPU variant. With devices, or if the user names a backend, all that llama.cpp finds."""
    if has_device_backend() or "GGML_BACKEND_PATH" in os.environ or not cpu_variants.load_best(lib, folder):
        load = lib.ggml_backend_load_all_from_path
        load.argtypes, load.restype = [ctypes.c_char_p], None
        load(os.fsencode(folder))


def cpu_function(name: bytes) -> int:
    """Address of a function of the CPU backend that is in use."""
    lib.ggml_backend_reg_by_name.restype, lib.ggml_backend_reg_by_name.argtypes = P, [ctypes.c_char_p]
    lib.ggml_backend_reg_get_proc_address.restype, lib.ggml_backend_reg_get_proc_address.argtypes = P, [P, ctypes.c_char_p]
    return lib.ggml_backend_reg_get_proc_address(lib.ggml_backend_reg_by_name(b"CPU"), name) or 0


def cpu_variant() -> str:
    """The name of the one in use."""
    return cpu_variants.of_address(cpu_function(b"ggml_threadpool_new"))


def drop_best_variants(count: int) -> None:
    """See cpu_variants."""
    cpu_variants.use_without_best(lib, backend_folder(), count)
