"""On which CPUs a model's threads run, and with which priority: --cpu-mask, --cpu-range, --cpu-strict, --prio and their -batch forms.

Owns ggml's thread pools of one context. Never imports: worker.llama.model. Without these flags there is no pool, and ggml does not place
its threads.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass

from fastrouter.errors import FastrouterError
from fastrouter.options.limits import MAX_CPUS
from fastrouter.options.load import LoadOptions

_POLICIES = {-1: (os.SCHED_BATCH, 0), 1: (os.SCHED_FIFO, 40), 2: (os.SCHED_FIFO, 80), 3: (os.SCHED_FIFO, 90)}  # the same as ggml's


class _PoolParams(ctypes.Structure):
    """struct ggml_threadpool_params."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * MAX_CPUS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


@dataclass(frozen=True, slots=True)
class Placement:
    """Of the threads for decoding, or for prompts."""

    cpus: frozenset[int] = frozenset()  # empty: all
    is_strict: bool = False
    priority: int = 0

    @property
    def is_free(self) -> bool:
        return self == Placement()


def placements_of(options: LoadOptions) -> tuple[Placement, Placement]:
    """(decoding, prompts). Raises FastrouterError for CPUs that do not exist."""
    decode = Placement(_cpus_of(options.cpu_mask, options.cpu_range), bool(options.cpu_strict), options.prio)
    cpus = _cpus_of(options.cpu_mask_batch, options.cpu_range_batch) or decode.cpus
    is_strict = decode.is_strict if options.cpu_strict_batch is None else bool(options.cpu_strict_batch)
    priority = decode.priority if options.prio_batch is None else options.prio_batch
    return decode, Placement(cpus, is_strict, priority)


def _cpus_of(mask: str | None, cpu_range: str | None) -> frozenset[int]:
    bits = int(mask, 16) if mask else 0
    if cpu_range:
        low, _, high = cpu_range.partition("-")
        bits |= sum(1 << cpu for cpu in range(int(low or 0), int(high or MAX_CPUS - 1) + 1))
    asked = frozenset(cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1)
    usable = asked & os.sched_getaffinity(0)
    if asked and not usable:
        raise FastrouterError(f"--cpu-mask, --cpu-range: this process may not run on any of these CPUs: {sorted(asked)}")
    return usable


class ThreadPools:
    """ggml's pools of one context, for decoding and for prompts."""

    def __init__(self, find: Callable[[bytes], int], placements: tuple[Placement, Placement], num_threads: tuple[int, int]) -> None:
        """`find`: returns the address of a function of ggml's CPU backend."""
        self._free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(find(b"ggml_threadpool_free"))
        new = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_PoolParams))(find(b"ggml_threadpool_new"))
        self.addresses: list[int] = []
        for placement, count in zip(placements, num_threads, strict=True):
            cpus = [cpu in placement.cpus for cpu in range(MAX_CPUS)]
            params = _PoolParams((ctypes.c_bool * MAX_CPUS)(*cpus), count, placement.priority, 0, placement.is_strict, False)
            self.addresses.append(new(ctypes.byref(params)))
        _place_what_runs(placements[0])

    def close(self) -> None:
        """Call it after the context that used them was closed."""
        while self.addresses:
            self._free(self.addresses.pop())


def _place_what_runs(placement: Placement) -> None:
    """The running threads; ggml places its own, and this one only when there are several."""
    if placement.cpus:
        for thread in map(int, os.listdir("/proc/self/task")):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.sched_setaffinity(thread, placement.cpus)
    if placement.priority:
        policy, priority = _POLICIES[placement.priority]
        with contextlib.suppress(PermissionError):  # ggml warns about this itself
            os.sched_setscheduler(0, policy, os.sched_param(priority))
