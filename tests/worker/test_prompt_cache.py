"""The prompt cache in RAM: which entries go and which are found (pure), and its effect on an engine (real llama.cpp)."""

from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from engine_bench import Bench
from tiny_memories import MAKERS
from tiny_models import make_llama

from fastrouter.worker.kv import prompt_cache as prompt_cache_module
from fastrouter.worker.kv.prompt_cache import CachedPrompt, PromptCache
from fastrouter.worker.llama.binding import start_backends

MIB = 1 << 20


def plain(kept: CachedPrompt, shared: int) -> int:
    return shared


def whole(kept: CachedPrompt, shared: int) -> int:
    """Like a recurrent state."""
    return shared if shared == len(kept.tokens) else 0


def kept(tokens: list[int], num_bytes: int = MIB, adapters: Any = ()) -> CachedPrompt:
    return CachedPrompt(array("i", tokens), adapters, 0, np.zeros(num_bytes, np.uint8))


def held(prompt_cache: PromptCache, *prompts: list[int]) -> list[bool]:
    return [prompt_cache.find(array("i", prompt), (), plain) is not None for prompt in prompts]


def test_least_recently_used_goes_first() -> None:
    prompt_cache = PromptCache(3)
    entries = [kept([number, 1, 2]) for number in range(3)]
    for entry in entries:
        prompt_cache.put(entry, plain, prompt_cache.limit_bytes())
    prompt_cache.touch(entries[0])
    prompt_cache.put(kept([3, 1, 2]), plain, prompt_cache.limit_bytes())
    assert held(prompt_cache, [0, 1, 2], [1, 1, 2], [2, 1, 2], [3, 1, 2]) == [True, False, True, True]
    assert prompt_cache.num_bytes == 3 * MIB
    prompt_cache.put(kept([4], 4 * MIB), plain, prompt_cache.limit_bytes())
    assert len(prompt_cache) == 0


def test_it_shrinks_when_told_and_tells_its_size() -> None:
    prompt_cache, told = PromptCache(-1), list[int]()
    prompt_cache.on_change = told.append
    entries = [kept([number, 1, 2]) for number in range(3)]
    for entry in entries:
        prompt_cache.put(entry, plain, None)
    prompt_cache.touch(entries[0])
    prompt_cache.shrink(2 * MIB)
    assert held(prompt_cache, [0, 1, 2], [1, 1, 2], [2, 1, 2]) == [True, False, True]
    prompt_cache.take(entries[0])
    prompt_cache.shrink(0)
    assert [num_bytes // MIB for num_bytes in told] == [1, 2, 3, 2, 1, 0]


def test_a_longer_one_stands_for_its_starts() -> None:
    prompt_cache = PromptCache(-1)
    for tokens in ([1, 2], [1, 2, 3], [1, 9]):
        prompt_cache.put(kept(tokens), plain, None)
    assert len(prompt_cache) == 2
    prompt_cache.put(kept([1, 2], adapters=((0, 1.0),)), plain, None)
    assert len(prompt_cache) == 3
    states = PromptCache(-1)
    for tokens in ([1, 2], [1, 2, 3]):
        states.put(kept(tokens), whole, None)
    assert len(states) == 2


def test_the_longest_start_is_found() -> None:
    prompt_cache = PromptCache(-1)
    for entry in (kept([1, 2, 3, 4]), kept([1, 2, 9]), kept([1, 2, 3, 4, 5, 6], adapters=((1, 0.5),))):
        prompt_cache.put(entry, plain, None)

    def best(prompt: list[int], usable: Callable[[CachedPrompt, int], int] = plain, adapters: Any = ()) -> int:
        return prompt_cache.best(array("i", prompt), adapters, usable)[1]

    assert best([1, 2, 3, 4, 5, 6]) == 4
    assert best([1, 2, 3, 4, 5, 6], adapters=((1, 0.5),)) == 5  # the last token is evaluated
    assert best([1, 2, 9, 9]) == 3
    assert best([7, 7]) == 0
    assert best([1, 2, 3], whole) == 0
    assert best([1, 2, 9, 9], whole) == 3


def test_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PromptCache(7).limit_bytes() == 7 * MIB
    assert PromptCache(-1).limit_bytes() is None
    assert not PromptCache(0).is_open
    monkeypatch.setattr(prompt_cache_module, "available_bytes", lambda: 400 * MIB)
    automatic = PromptCache(None)
    assert automatic.limit_bytes() == 100 * MIB
    automatic.put(kept([1], 40 * MIB), plain, None)
    assert automatic.limit_bytes() == 110 * MIB  # the memory that it holds is not available any more
    monkeypatch.setattr(prompt_cache_module, "available_bytes", lambda: 1 << 50)
    assert automatic.limit_bytes() == 8192 * MIB


# ---------------------------------------------------------------- with an engine


@pytest.fixture(scope="module", autouse=True)
def backends() -> None:
    start_backends()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("prompt cache") / "tiny.gguf")


@pytest.fixture
def bench(path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(path, MIB, **{"cache_type_k": "f32", "cache_type_v": "f32", **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


MakeBench = Callable[..., Bench]
TALKS = [[259 + (7 * talk + step * step) % 69 for step in range(300)] for talk in range(4)]
SPLIT = {"parallel": 1, "ctx_size": 1024}
UNIFIED = {"parallel": 4, "kv_unified": True, "ctx_size": 1024}  # holds three of them


def prompt_cache_of(one: Bench) -> PromptCache:
    return one.engine.prefixes.prompt_cache


@pytest.mark.parametrize("options", [SPLIT, UNIFIED], ids=["slot", "cells"])
def test_a_conversation_comes_back(bench: MakeBench, options: dict[str, Any]) -> None:
    """Its slot, or its cells, were given to others meanwhile."""
    one = bench(**options)
    texts = [one.ask(talk, 8, cache_prompt=False).text() for talk in TALKS]
    without = bench(**options, cache_ram_mib=0)
    for talk, text in zip(TALKS, texts, strict=True):
        assert one.ask(talk, 8).text() == without.ask(talk, 8).text() == text
    again = one.ask(TALKS[0], 8)
    assert again.finish["cached_tokens"] == len(TALKS[0]) - 1
    assert again.text() == texts[0]
    assert without.ask(TALKS[0], 8).finish["cached_tokens"] == 0
    assert len(prompt_cache_of(without)) == 0
    one.check_idle()


def test_what_is_brought_back_leaves_the_prompt_cache(bench: MakeBench) -> None:
    one = bench(**SPLIT)
    for talk in TALKS[:3]:
        one.ask(talk, 8)
    assert len(prompt_cache_of(one)) == 2
    one.ask(TALKS[0], 8)  # TALKS[2] takes its place
    assert len(prompt_cache_of(one)) == 2
    one.ask([*TALKS[1][:40], *TALKS[3][:100]], 8)  # a small part of an entry, and the entry stays
    assert prompt_cache_of(one).find(array("i", TALKS[1]), (), plain) is not None


def test_the_limit_holds(bench: MakeBench) -> None:
    one = bench(**SPLIT, cache_ram_mib=1)
    for talk in TALKS:
        one.ask(talk, 8)
    assert 0 < prompt_cache_of(one).num_bytes <= MIB
    assert len(prompt_cache_of(one)) == 3  # 300 tokens take 0.3 MB
    one.ask([*TALKS[0][:-1], 300], 8)
    assert len(prompt_cache_of(one)) == 3


def test_idle_slots_go_there(bench: MakeBench) -> None:
    one = bench(**UNIFIED, cache_idle_slots=True)
    text = one.ask(TALKS[0], 8).text()
    one.ask(TALKS[1], 8)
    assert [len(slot.tokens) for slot in one.engine.slots.all if slot.tokens] == [len(TALKS[1]) + 7]
    assert len(prompt_cache_of(one)) == 1
    back = one.ask(TALKS[0], 8)
    assert (back.finish["cached_tokens"], back.text()) == (len(TALKS[0]) - 1, text)
    one.check_idle()


@pytest.mark.parametrize("cache_ram_mib", [0, 1])
def test_what_has_no_place_there_stays_in_its_slot(bench: MakeBench, cache_ram_mib: int) -> None:
    one = bench(parallel=4, kv_unified=True, ctx_size=4096, cache_idle_slots=True, cache_ram_mib=cache_ram_mib)
    talk = [259 + (step * step) % 69 for step in range(1500)]  # 1.5 MB
    one.ask(talk, 8)
    one.ask(TALKS[1], 8)
    assert (len(prompt_cache_of(one)), one.ask(talk, 8).finish["cached_tokens"]) == (0, 1499)


def test_no_cache_unless_asked_for(bench: MakeBench) -> None:
    one = bench(**SPLIT, cache_prompt=False)
    assert [one.ask(TALKS[0], 4).finish["cached_tokens"] for _ in range(2)] == [0, 0]
    assert one.ask(TALKS[0], 4, cache_prompt=True).finish["cached_tokens"] == len(TALKS[0]) - 1


def test_similarity_of_a_slot(bench: MakeBench) -> None:
    """0: the least recently used slot, whatever the others hold."""
    taken = {}
    for similarity in (0.0, 0.1, 0.9):
        one = bench(parallel=2, slot_prompt_similarity=similarity)
        first = one.ask(TALKS[0], 4).finish["id_slot"]
        one.ask(TALKS[1], 4)
        one.ask(TALKS[0], 4, id_slot=first)
        prompt = [*TALKS[0][:150], *TALKS[2][:150]]
        taken[similarity] = one.ask(prompt, 4).finish["id_slot"] == first
    assert taken == {0.0: False, 0.1: True, 0.9: False}


# ---------------------------------------------------------------- runs that move


def test_runs_move_to_where_the_prompt_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a model of one layer, the KV of a token depends only on the token and its place, so moving it is exact."""
    monkeypatch.setattr(tiny_models, "NUM_LAYERS", 1)
    one = Bench(make_llama(tmp_path / "one.gguf"), MIB, parallel=1, cache_type_k="f32", cache_type_v="f32", cache_ram_mib=0)
    talk = TALKS[0]
    first = [*talk[:20], *talk[60:200], 270]
    prompts = {160: first, 220: [*first[:-1], *talk[230:290], 270], 200: [*talk[60:260], 270], 0: TALKS[1]}
    for num_cached, prompt in prompts.items():
        expected = one.ask(prompt, 12, cache_prompt=False).text()
        one.ask(talk, 4, cache_prompt=False)
        moved = one.ask(prompt, 12, n_cache_reuse=50)
        assert (moved.finish["cached_tokens"], moved.text()) == (num_cached, expected)
        one.check_idle()
    one.close()


def test_what_moved_is_for_those_who_accept_it(bench: MakeBench) -> None:
    """Moved tokens were computed after another text."""
    one = bench(**SPLIT, cache_ram_mib=0)
    talk = TALKS[0]
    shorter = [*talk[:20], *talk[60:200], 270]
    expected = one.ask(shorter, 12, cache_prompt=False).text()
    one.ask(talk, 4, cache_prompt=False)
    for _ in range(2):
        assert one.ask(shorter, 4, n_cache_reuse=100).finish["cached_tokens"] == 160
    exact = one.ask(shorter, 12)
    assert (exact.finish["cached_tokens"], exact.text()) == (20, expected)


@pytest.mark.parametrize("kind", MAKERS)
def test_nothing_moves_where_the_memory_cannot(tmp_path: Path, kind: str) -> None:
    one = Bench(MAKERS[kind](tmp_path / "tiny.gguf"), MIB, parallel=1, cache_reuse=16)
    prompt = [*TALKS[0][:20], *TALKS[0][60:200]]
    expected = one.ask(prompt, 12, cache_prompt=False).text()
    one.ask(TALKS[0], 4)
    assert one.ask(prompt, 12).text() == expected
    one.close()


def test_cells_that_others_share_do_not_move(bench: MakeBench) -> None:
    one = bench(parallel=3, kv_unified=True, ctx_size=2048, cache_ram_mib=0)
    talk = TALKS[0]
    texts = {prompt: one.ask(list(prompt), 12, cache_prompt=False).text() for prompt in (tuple(talk), (*talk, 270))}
    one.ask(talk, 4, id_slot=0)
    one.ask([*talk, 270], 4, id_slot=1)  # begins with cells of slot 0
    assert one.ask([*talk[:20], *talk[60:300]], 4, id_slot=0, n_cache_reuse=100).finish["cached_tokens"] > 200
    still = one.ask([*talk, 270], 12, id_slot=1)
    assert (still.finish["cached_tokens"], still.text()) == (300, texts[*talk, 270])
    one.check_idle()
