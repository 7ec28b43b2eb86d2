"""LoadOptions -> how a model runs on this machine: slots, threads, attention, cache types. It has no effects, but counts cores.

Uses no object of llama.cpp; the numbers of its enums are here.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

from fastrouter.errors import FastrouterError
from fastrouter.options.limits import MIN_FLASH_HEAD_SIZE
from fastrouter.options.load import LoadOptions

CACHE_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "iq4_nl": 20}
FLASH_ATTENTION = {"auto": -1, "off": 0, "disabled": 0, "0": 0, "false": 0, "on": 1, "enabled": 1, "1": 1, "true": 1}
BYTES_PER_THREAD = 16 << 20  # of weights; measured: below this size a second thread makes it slower
PACKED_SEQUENCES = 64  # of embeddings, in one batch


@cache
def physical_cores() -> int:
    """Cores that this process may use, hyper-threads counted once: llama.cpp's matrix kernels gain nothing from the second thread."""
    cores = set()
    cpus = os.sched_getaffinity(0)
    for cpu in cpus:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings").read_text())
        except OSError:
            return len(cpus)
    return max(1, len(cores))


def slots_of(options: LoadOptions) -> tuple[int, bool]:
    """(number of slots, unified KV cache) for `-np` and `--kv-unified`."""
    return options.num_slots, options.is_unified


def context_notice(options: LoadOptions, n_ctx_train: int) -> str:
    """A notice when --ctx-size asks for more than a request can use; otherwise empty."""
    asked = options.ctx_size if options.is_unified else options.ctx_size // options.num_slots
    if options.embedding or not n_ctx_train or asked <= n_ctx_train:
        return ""
    num_cells = options.num_cells(n_ctx_train)
    cut = f", and the KV cache has room for {num_cells}, all that its slots can use" if num_cells < options.ctx_size else ""
    return f"--ctx-size {options.ctx_size}: the model was trained for {n_ctx_train} tokens, so a request may use {n_ctx_train}{cut}"


def sequences_of(options: LoadOptions) -> int:
    """How many sequences a batch may hold; llama.cpp needs room for one output of each in a micro-batch."""
    if not options.embedding:
        return options.num_slots
    return max(1, min(PACKED_SEQUENCES, options.batch_size, options.ubatch_size))


def micro_batch_of(options: LoadOptions, num_sequences: int) -> int:
    """Of embeddings a multiple of the sequences: for other sizes llama.cpp reserves a graph that does not fit, and aborts."""
    size = max(min(options.ubatch_size, options.batch_size), num_sequences)
    return size + -size % num_sequences if options.embedding else size


def threads_for(model_bytes: int, asked: int, num_cpus: int = 0) -> int:
    """`asked` (or one for each core of `num_cpus`; 0: of all) is the maximum; a small model gets fewer, because its threads would lose
    time waiting for each other."""
    most = asked if asked > 0 else min(physical_cores(), num_cpus or physical_cores())
    return min(most, 1 + model_bytes // BYTES_PER_THREAD)


def flash_attention_for(head_size: int, options: LoadOptions, *, on_device: bool) -> int:
    """llama.cpp's kernel for CPUs is slower than plain attention when a head is narrower than a vector register."""
    chosen = choice("flash-attn", FLASH_ATTENTION, options.flash_attn)
    is_free = chosen == FLASH_ATTENTION["auto"] and options.cache_type_v in ("f16", "f32", "bf16")  # a quantised V cache needs it
    return FLASH_ATTENTION["off"] if is_free and head_size < MIN_FLASH_HEAD_SIZE and not on_device else chosen


def choice(flag: str, table: dict[Any, int], value: Any) -> int:
    """llama.cpp's number for a flag's word. Raises FastrouterError."""
    key = value.lower() if isinstance(value, str) else value
    if key not in table:
        raise FastrouterError(f"--{flag} {value}: expected one of {', '.join(str(word) for word in table if word is not None)}")
    return table[key]
