"""LoadOptions -> where llama.cpp puts a model, and what it reads otherwise than the file says: devices, buffers, metadata.

Uses llama.cpp's list of devices. Invariant: an option that this machine cannot obey is an error that names what there is.
"""

import ctypes
from dataclasses import replace
from functools import cache
from typing import Any

from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama import devices
from fastrouter.worker.llama.binding import LlamaError, P, Scarcity, api
from fastrouter.worker.llama.rpc import servers

SPLIT_MODES = {"none": 0, "layer": 1, "row": 2, "tensor": 3}
LAZY_MODES = {"off": 0, "auto": 1, "on": 2}
NUMA_STRATEGIES = {"distribute": 1, "isolate": 2, "numactl": 3}
ROPE_SCALINGS = {"none": 0, "linear": 1, "yarn": 2}
_TAGS = {"int": (0, "val_i64"), "float": (1, "val_f64"), "bool": (2, "val_bool"), "str": (3, "val_str")}
_EXPERTS, _DENSE = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps", r"\.ffn_(up|down|gate)\."  # names of tensors


class _Override(ctypes.Structure):
    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", P))


def place(params: Any, options: LoadOptions) -> list[Any]:
    """Set these fields of llama_model_params. Returns what must live until the model is loaded. Raises LlamaError."""
    kept = [_devices(options), _overrides(options), _metadata(options), _proportions(options)]
    chosen, overrides, metadata, proportions = kept
    if chosen is not None:
        params.devices = ctypes.addressof(chosen)
    if overrides is not None:
        params.tensor_buft_overrides = ctypes.addressof(overrides)
    if metadata is not None:
        params.kv_overrides = metadata
    if proportions is not None:
        params.tensor_split = proportions
    params.split_mode = SPLIT_MODES[options.split_mode]
    params.main_gpu = _main_device(options)
    params.lazy_mode = LAZY_MODES[options.lazy_mode]
    params.check_tensors = options.check_tensors
    params.no_host = options.no_host
    return kept


@cache
def use_numa(strategy: str) -> None:
    """For this process, and all models that it opens later."""
    api.llama_numa_init(NUMA_STRATEGIES[strategy])


def set_positions(params: Any, options: LoadOptions) -> None:
    """Set RoPE and YaRN in llama_context_params; what is not asked for stays the model's own."""
    if options.rope_scaling is not None:
        params.rope_scaling_type = ROPE_SCALINGS[options.rope_scaling]
    params.rope_freq_base = options.rope_freq_base
    params.rope_freq_scale = options.rope_freq_scale or (1 / options.rope_scale if options.rope_scale else 0.0)
    params.yarn_orig_ctx = options.yarn_orig_ctx
    for name in ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"):
        setattr(params, name, getattr(options, name))


def _chosen(options: LoadOptions) -> list[str]:
    """Names of the devices in the order of --tensor-split, also of those whose server is missing."""
    return options.devices if options.devices is not None else list(servers.by_name())


def _devices(options: LoadOptions) -> Any:
    """An array that ends with NULL; None: llama.cpp chooses."""
    if options.devices is None:
        return None
    if options.devices == ["none"]:
        return (P * 1)(None)
    known = servers.by_name()
    for name in options.devices:
        if name not in known:
            there = f"the devices are {', '.join(known)}" if known else "this build has only the CPU; --device none is the same as no flag"
            raise LlamaError(f"--device {name}: there is no such device; {there}")
    found = [handle for handle in map(known.get, options.devices) if handle is not None]
    if not found:
        raise Scarcity(f"--device {','.join(options.devices)}: {_missing_in_words()}")
    return (P * (len(found) + 1))(*found, None)


def _missing_in_words() -> str:
    return "; ".join(f"the RPC server {endpoint} cannot be used: {why}" for endpoint, why in servers.missing.items())


def _buffers() -> dict[str, int]:
    return {devices.buffer_name_of(handle): kind for handle in devices.handles() if (kind := devices.buffer_type_of(handle))}


def _overrides(options: LoadOptions) -> Any:
    """An array that ends with an empty entry; None: no tensor has a place of its own. Buffers of a missing server are left out."""
    wanted = [(pattern, buffer) for pattern, buffer in options.override_tensor if not servers.is_missing(buffer)]
    wanted += [(_EXPERTS, "CPU")] if options.cpu_moe else []
    wanted += [(rf"blk\.{layer}{_EXPERTS}", "CPU") for layer in range(options.n_cpu_moe)]
    wanted += [(rf"blk\.{layer}{_DENSE}", "CPU") for layer in range(options.n_cpu_ffn)]
    if not wanted:
        return None
    known = _buffers()
    for _, buffer in wanted:
        if buffer not in known:
            raise LlamaError(f"--override-tensor {buffer}: there is no such buffer type; there are {', '.join(known)}")
    array = (_Override * (len(wanted) + 1))()
    for entry, (pattern, buffer) in zip(array, wanted, strict=False):
        entry.pattern, entry.buffer_type = pattern.encode(), known[buffer]
    return array


def _metadata(options: LoadOptions) -> Any:
    """An array that ends with an empty key; None: all is as in the file."""
    if not options.override_kv:
        return None
    array = (api.llama_model_kv_override * (len(options.override_kv) + 1))()
    for entry, (key, kind, value) in zip(array, options.override_kv, strict=False):
        entry.tag, field = _TAGS[kind]
        entry.key = key.encode()
        setattr(entry.value, field, value.encode() if isinstance(value, str) else value)
    return array


def device_of_projector(options: LoadOptions) -> int | None:
    """None: llama.cpp chooses. Raises LlamaError."""
    names = options.mmproj_device
    if names is None or names == ["none"]:
        return None
    if len(names) > 1:
        raise LlamaError(f"--mmproj-device {','.join(names)}: a projector has one device")
    try:
        return int(_devices(replace(options, devices=names))[0])
    except LlamaError as error:
        raise LlamaError(error.message.replace("--device", "--mmproj-device")) from None


def _proportions(options: LoadOptions) -> Any:
    """None: by the free memory of the devices."""
    if not options.tensor_split:
        return None
    most = int(api.llama_max_devices())
    if len(options.tensor_split) > most:
        raise LlamaError(f"--tensor-split: it has {len(options.tensor_split)} numbers, and this build knows {most} devices at most")
    there = _present(options)
    left = [share for number, share in enumerate(options.tensor_split) if number >= len(there) or there[number]]
    return (ctypes.c_float * most)(*left) if any(left) else None


def _present(options: LoadOptions) -> list[bool]:
    """Of each chosen device, whether it can be used."""
    known = servers.by_name()
    return [known.get(name) is not None for name in _chosen(options)]


def _main_device(options: LoadOptions) -> int:
    """Its number among those that can be used."""
    there = _present(options)
    if options.main_gpu < len(there) and not there[options.main_gpu] and options.split_mode == "none":
        raise Scarcity(f"--main-gpu {options.main_gpu}: {_missing_in_words()}")
    return options.main_gpu - there[: options.main_gpu].count(False)
