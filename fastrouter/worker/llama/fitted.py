"""--fit at a load: whether it has anything to do, and what it chooses. The choice is in fit.py, the counts in memory_use.py."""

import os
from dataclasses import replace
from typing import NamedTuple

from fastrouter.errors import FastrouterError
from fastrouter.options.load import LoadOptions
from fastrouter.system.machine import total_bytes
from fastrouter.worker.llama.binding import api
from fastrouter.worker.llama.fit import MIB, fit, in_words
from fastrouter.worker.llama.memory_use import MemoryUse, memory_use
from fastrouter.worker.llama.model import Model

_WIDE_HEAD = 256  # numbers; heads of some models are wider than the header says
_OWN_BYTES = 64 * MIB  # of the process around llama.cpp's buffers
_HIDDEN_ROWS = 64  # intermediate results that are as wide as the model


class Choice(NamedTuple):
    options: LoadOptions
    level: str = "info"
    notice: str = ""  # for the log; empty: nothing has changed


def choose(path: str, options: LoadOptions, *, safe_mode: bool, host_limit_bytes: int) -> Choice:
    """Opens the model without memory, once or several times. If llama.cpp refuses it, the load says why."""

    known: dict[str, MemoryUse] = {}

    def measure(wanted: LoadOptions) -> MemoryUse:
        key = repr(wanted)
        if key not in known:
            known[key] = memory_use(path, wanted, safe_mode=safe_mode)
        return known[key]

    try:
        found = fit(measure, _with_projector(options), max(1, host_limit_bytes - _OWN_BYTES) if host_limit_bytes else 0)
        words = in_words(options, found, measure(found.options))
    except FastrouterError:
        return Choice(options)
    chosen = replace(found.options, fit_target=options.fit_target)
    if found.failure:
        words = f"{words or '--fit'}: it will probably not fit into memory: {found.failure}"
    return Choice(chosen, "warning" if found.failure else "info", words)


def _with_projector(options: LoadOptions) -> LoadOptions:
    """A projector takes its place on the first device."""
    if options.mmproj is None:
        return options
    try:
        size = os.path.getsize(options.mmproj) * 5 // 4
    except OSError:
        return options
    first, *others = options.fit_target or [0]
    return replace(options, fit_target=[first + size // MIB, *others])


def surely_fits(model: Model, options: LoadOptions, host_limit_bytes: int) -> bool:
    """Without a device, and with so much memory that nothing needs to be counted."""
    if "draft_model" in options.speculation or options.mmproj is not None or model.pointer is None:
        return False
    num_cells, rows = options.num_cells(model.n_ctx_train), min(options.batch_size, options.ubatch_size)
    num_layers, num_heads = api.llama_model_n_layer(model.pointer), api.llama_model_n_head_kv(model.pointer)
    cache_bytes = 2 * 4 * num_cells * num_layers * num_heads * max(_WIDE_HEAD, model.head_size)
    scores = 0 if options.flash_attn == "on" else api.llama_model_n_head(model.pointer) * num_cells // options.num_caches
    compute_bytes = 4 * rows * (2 * model.vocab.n_tokens + _HIDDEN_ROWS * model.n_embd + scores)
    target = total_bytes() - MIB * (options.fit_target or [0])[0]
    most = min(target, host_limit_bytes) if host_limit_bytes else target
    return bool(2 * model.size_bytes + cache_bytes + compute_bytes <= most)
