"""How options become llama.cpp's parameters."""

import pytest

from fastrouter.errors import FastrouterError
from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama import params as llama_params

MIB = 1 << 20


@pytest.mark.parametrize(
    ("parallel", "unified", "wanted"), [(-1, None, (4, True)), (2, None, (2, False)), (2, True, (2, True)), (-1, False, (4, False))]
)
def test_slots(parallel: int, unified: bool | None, wanted: tuple[int, bool]) -> None:
    assert llama_params.slots_of(LoadOptions(parallel=parallel, kv_unified=unified)) == wanted


def test_threads_are_at_most_what_was_asked_and_grow_with_the_model() -> None:
    assert [llama_params.threads_for(size, 8) for size in (MIB, 16 * MIB, 60 * MIB, 4000 * MIB)] == [1, 2, 4, 8]
    assert llama_params.threads_for(4000 * MIB, 1) == 1
    assert llama_params.threads_for(4000 * MIB, -1) == llama_params.physical_cores() >= 1


def test_flash_attention_is_left_to_llama_cpp_but_for_narrow_heads() -> None:
    auto, off = llama_params.FLASH_ATTENTION["auto"], llama_params.FLASH_ATTENTION["off"]
    assert llama_params.flash_attention_for(64, LoadOptions(), on_device=False) == auto
    assert llama_params.flash_attention_for(16, LoadOptions(), on_device=False) == off
    assert llama_params.flash_attention_for(16, LoadOptions(), on_device=True) == auto
    assert llama_params.flash_attention_for(16, LoadOptions(cache_type_v="q8_0"), on_device=False) == auto
    assert llama_params.flash_attention_for(16, LoadOptions(flash_attn="ON"), on_device=False) == 1


def test_unknown_words_name_their_flag() -> None:
    with pytest.raises(FastrouterError, match="--cache-type-k q3_x: expected one of f32, f16"):
        llama_params.choice("cache-type-k", llama_params.CACHE_TYPES, "q3_x")
