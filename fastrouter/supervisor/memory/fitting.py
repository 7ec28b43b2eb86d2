"""What --fit will make of a model, before a load has shown it: its context on a machine without devices, its places on one with them.

Never imports: supervisor.workers. The worker decides by llama.cpp's own count, see worker/llama/fit.py. This is the same rule with
estimates.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from fastrouter.catalog.spec import ModelSpec
from fastrouter.options.load import LoadOptions
from fastrouter.supervisor.decide.need import Need, on_devices
from fastrouter.system.machine import total_bytes

MIB = 1 << 20


def fitted(spec: ModelSpec, estimate: Callable[[ModelSpec], Need], limit_bytes: int) -> ModelSpec:
    """The model with the context that it will probably get."""
    options = spec.options
    n_ctx_train = (spec.header.context_length if spec.header is not None else None) or 0
    most, least = options.num_cells(n_ctx_train), options.fit_ctx * options.num_caches
    if options.fit == "off" or options.num_cells(0) or options.has_full_context or most <= least:
        return spec
    full = estimate(spec).host_bytes
    target = total_bytes() - MIB * (options.fit_target or [0])[0]
    target = min(target, limit_bytes) if limit_bytes else target
    if full <= target:
        return spec
    at_least = estimate(_with_context(spec, least)).host_bytes
    more = (most - least) * (target - at_least) // max(1, full - at_least)
    return _with_context(spec, least + max(0, more))


def _with_context(spec: ModelSpec, ctx_size: int) -> ModelSpec:
    return replace(spec, options=replace(spec.options, ctx_size=ctx_size))


def within_devices(need: Need, options: LoadOptions, devices: Mapping[str, int]) -> Need:
    """`devices`: their memory, by name. What does not fit there stays on the host, if the layers of devices are not set."""
    if options.fit == "off" or options.gpu_layers >= 0 or options.tensor_split or options.override_tensor:
        return need
    margins = dict(zip(devices, options.fit_target * len(devices) if len(options.fit_target) == 1 else options.fit_target, strict=False))
    most = {name: max(0, size - MIB * margins.get(name, 1024)) for name, size in devices.items()}
    kept = {name: min(size, most.get(name, size)) for name, size in need.by_device}
    return on_devices(need.host_bytes + sum(size - kept[name] for name, size in need.by_device), kept)
