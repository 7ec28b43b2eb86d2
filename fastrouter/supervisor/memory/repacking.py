"""Which weights llama.cpp copies into another layout for this CPU, and how much memory that takes. Pure.

It follows ggml-cpu/repack.cpp and ggml-cpu/amx/ of the pinned release, which decide by type. The originals of copied weights need not stay
in memory.
"""

from dataclasses import dataclass

from fastrouter.catalog.gguf import EMBEDDING, EXPERTS, MATRIX, OUTPUT, Header
from fastrouter.supervisor.remedies import NONE as NO_REMEDY
from fastrouter.supervisor.remedies import Remedy

_F16, _Q4_0, _Q4_1, _Q8_0, _Q2_K, _Q4_K, _Q5_K, _Q6_K, _IQ4_NL, _IQ4_XS, _MXFP4 = 1, 2, 3, 8, 10, 12, 13, 14, 20, 23, 39
_BY_AVX2 = frozenset({_Q4_0, _Q4_K, _IQ4_NL, _MXFP4})
_BY_AVX512 = frozenset({_Q2_K})
_BY_DOTPROD = frozenset({_Q4_0, _Q4_K, _Q5_K, _Q6_K, _IQ4_NL, _MXFP4, _Q8_0})  # of ARM
_BY_AMX = frozenset({_F16, _Q4_0, _Q4_1, _Q8_0, _Q4_K, _Q5_K, _Q6_K, _IQ4_XS})
_GROWTH_BY_AMX = {_Q8_0: 38 / 34, _Q4_K: 148 / 144, _Q5_K: 180 / 176, _IQ4_XS: 138 / 136}  # with sums beside each block


@dataclass(frozen=True, slots=True)
class Repacking:
    """Types of weights that are copied: by AMX (not those of experts), by all other code."""

    amx: frozenset[int] = frozenset()
    others: frozenset[int] = frozenset()


NOTHING = Repacking()


def repacking_of(features: frozenset[str], remedy: Remedy = NO_REMEDY) -> Repacking:
    """`features`: those of the CPU, in the kernel's words."""
    if remedy.safe_mode:
        return NOTHING
    others = _BY_DOTPROD if "asimddp" in features else frozenset()
    others |= _BY_AVX2 if {"avx2", "fma", "f16c"} <= features else frozenset()
    others |= _BY_AVX512 if {"avx512f", "avx512bw", "avx512vl"} <= features else frozenset()
    has_amx = {"amx_tile", "amx_int8"} <= features and not remedy.num_dropped
    return Repacking(_BY_AMX if has_amx else frozenset(), others)


def sizes(header: Header | None, repacking: Repacking) -> tuple[int, int]:
    """(bytes of the originals that need not stay in memory, bytes of the copies)"""
    originals = copies = 0.0
    is_tied = header is not None and OUTPUT not in header.matrices
    for name, num_bytes in header.matrices.items() if header is not None else ():
        kind, _, number = name.partition(" ")
        tensor_type = int(number) if number.isdigit() else -1
        by_amx = tensor_type in repacking.amx and kind != EXPERTS
        if not by_amx and tensor_type not in repacking.others:
            continue
        if kind in (MATRIX, EXPERTS):
            originals += num_bytes
        elif kind != EMBEDDING or not is_tied:  # token lookups use the original; only the output uses the copy
            continue
        copies += num_bytes * (_GROWTH_BY_AMX.get(tensor_type, 1.0) if by_amx else 1.0)
    return int(originals), int(copies)
