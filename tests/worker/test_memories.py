"""Memories of every kind: an answer from the cache is the answer without it. Real llama.cpp, tiny models."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_bench import Bench, Client
from tiny_memories import MAKERS, make_sliding
from tiny_models import make_llama, make_lora

from fastrouter.worker.llama.binding import start_backends

KINDS = ("llama", *MAKERS)
EXACT = {"cache_type_k": "f32", "cache_type_v": "f32"}  # with these, the shape of a batch hardly changes a logit
FIRST, END = 259, 329  # tokens that are words
NUM_ANSWERED = 12

Tokens = list[int]


@pytest.fixture(scope="module", autouse=True)
def backends() -> None:
    start_backends()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("memories")
    made = {kind: make(folder / f"{kind}.gguf") for kind, make in MAKERS.items()}
    return {**made, "llama": make_llama(folder / "llama.gguf")}


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(path: Path, **options: Any) -> Bench:
        made.append(Bench(path, 1 << 20, **{**EXACT, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


MakeBench = Callable[..., Bench]


class Alone:
    """The answer to each prompt with an empty cache and no other request."""

    def __init__(self, one: Bench) -> None:
        self._bench = one
        self._answers: dict[tuple[int, ...], Tokens] = {}

    def answer(self, prompt: Tokens, num_tokens: int = NUM_ANSWERED) -> Tokens:
        key = (num_tokens, *prompt)
        if key not in self._answers:
            finish = self._bench.ask(prompt, num_tokens, cache_prompt=False, return_tokens=True).finish
            assert finish["cached_tokens"] == 0
            self._answers[key] = finish["tokens"]
        return self._answers[key]


class Talks:
    """Random prompts that begin, continue, cut, repeat or leave earlier ones."""

    def __init__(self, seed: int, alone: Alone) -> None:
        self.random = random.Random(seed)
        self._alone = alone
        self._known = [self.words(60)]

    def words(self, count: int) -> Tokens:
        return [self.random.randrange(FIRST, END) for _ in range(count)]

    def next(self) -> Tokens:
        base = self.random.choice(self._known)
        made = {
            "same": lambda: base,
            "longer": lambda: base + self.words(self.random.randrange(1, 200)),
            "shorter": lambda: base[: self.random.randrange(2, len(base))],
            "other end": lambda: base[: self.random.randrange(1, len(base))] + self.words(self.random.randrange(1, 40)),
            "next turn": lambda: base + self._alone.answer(base) + self.words(9),
            "new": lambda: self.words(self.random.randrange(5, 300)),
        }
        prompt = made[self.random.choice(list(made))]()[:420]
        self._known = [*self._known[-7:], prompt]
        return prompt


@pytest.mark.parametrize("is_unified", [True, False], ids=["unified", "split"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_changes_no_answer(bench: MakeBench, paths: dict[str, Path], kind: str, is_unified: bool) -> None:
    """Several slots, choices, aborts in the middle of a prompt, slots that are taken over, and a KV cache that gets full."""
    alone = Alone(bench(paths[kind], parallel=1))
    talks = Talks(6, alone)
    size = {"ctx_size": 1536 if is_unified else 3 * 2048, "ubatch_size": 32, "batch_size": 64, "checkpoint_min_step": 50}
    here = bench(paths[kind], parallel=3, kv_unified=is_unified, **size)
    num_cached = 0
    for _ in range(40):
        asked: list[tuple[Tokens, Client]] = []
        for n in talks.random.choice(([1], [3], [1, 1], [3, 1])):
            prompt = talks.next()
            asked.append((prompt, here.submit(prompt, NUM_ANSWERED, return_tokens=True, n=n)))
        if talks.random.random() < 0.3:
            leaves = here.submit(talks.next() + talks.words(150), NUM_ANSWERED)
            here.step()
            here.step()
            here.engine.abort(leaves.request_id)
            here.ring.detach(leaves.request_id)
        here.run(*(client for _, client in asked))
        for prompt, client in asked:
            assert client.error is None
            for finish in client.finishes.values():
                assert finish["tokens"] == alone.answer(prompt), (finish["cached_tokens"], prompt)
                num_cached += finish["cached_tokens"]
    assert num_cached
    here.check_idle()


def test_the_next_turn_costs_its_own_tokens(bench: MakeBench, paths: dict[str, Path]) -> None:
    for kind in KINDS:
        here = bench(paths[kind], parallel=2)
        prompt = Talks(1, Alone(here)).words(200)
        first = here.ask(prompt, NUM_ANSWERED, return_tokens=True).finish
        second = here.ask(prompt + first["tokens"] + prompt[:7]).finish
        assert second["cached_tokens"] == len(prompt) + NUM_ANSWERED - 1, kind


def test_choices_do_not_fill_a_window_with_shared_cells(bench: MakeBench, tmp_path: Path) -> None:
    path = make_sliding(tmp_path / "window.gguf", window=60)
    expected = Alone(bench(path, parallel=1)).answer([*range(260, 320)] * 3, 150)
    here = bench(path, parallel=4, kv_unified=True, ubatch_size=16, batch_size=64)  # a window for each slot, 16 cells more
    finishes = here.ask([*range(260, 320)] * 3, 150, n=4, return_tokens=True).finishes.values()
    assert [(finish["tokens"], finish["truncated"]) for finish in finishes] == [(expected, False)] * 4
    here.check_idle()


@pytest.mark.parametrize("kind", KINDS)
def test_after_the_context_was_full(bench: MakeBench, paths: dict[str, Path], kind: str) -> None:
    alone = Alone(bench(paths[kind], parallel=1))
    here = bench(paths[kind], parallel=2, ctx_size=512, kv_unified=True)
    prompt = Talks(2, alone).words(300)
    full = here.ask(prompt, 400, return_tokens=True).finish
    assert full["truncated"]
    for again in (prompt, [*prompt, *full["tokens"][:50]], prompt[:100]):
        assert here.ask(again, NUM_ANSWERED, return_tokens=True).finish["tokens"] == alone.answer(again)
    here.check_idle()


def test_a_window_as_large_as_the_context(bench: MakeBench, paths: dict[str, Path]) -> None:
    alone = Alone(bench(paths["sliding"], parallel=1))
    prompt = Talks(3, alone).words(600)
    kept = {}
    for is_full in (False, True):
        here = bench(paths["sliding"], parallel=1, ubatch_size=32, swa_full=is_full, cache_ram_mib=0)
        here.ask(prompt, NUM_ANSWERED)
        finish = here.ask([*prompt[:200], 270, 280], NUM_ANSWERED, return_tokens=True).finish
        assert finish["tokens"] == alone.answer([*prompt[:200], 270, 280])
        kept[is_full] = finish["cached_tokens"]
    assert kept == {False: 0, True: 200}


def test_nothing_is_shared_between_adapters(bench: MakeBench, paths: dict[str, Path], tmp_path: Path) -> None:
    lora = [[str(make_lora(tmp_path / "lora.gguf")), 1.0]]
    here = bench(paths["llama"], parallel=1, lora=lora)
    prompt = Talks(4, Alone(here)).words(100)
    other = Talks(5, Alone(here)).words(100)
    sets: list[Any] = [[[0, 1.0]], []]
    expected = [here.ask(prompt, NUM_ANSWERED, cache_prompt=False, lora=chosen).text() for chosen in sets]
    assert expected[0] != expected[1]
    for _ in range(3):
        for chosen, text in zip(sets, expected, strict=True):
            assert here.ask(prompt, NUM_ANSWERED, lora=chosen).text() == text
            here.ask(other, NUM_ANSWERED, lora=chosen)


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("kind", MAKERS)
def test_a_checkpoint_is_gone_back_to(bench: MakeBench, paths: dict[str, Path], kind: str) -> None:
    alone = Alone(bench(paths[kind], parallel=1))
    talks = Talks(7, alone)
    prompt, other = talks.words(600), talks.words(600)
    here = bench(paths[kind], parallel=1, ubatch_size=64, checkpoint_min_step=100)

    def ask(asked: Tokens) -> int:
        finish = here.ask(asked, NUM_ANSWERED, return_tokens=True).finish
        assert finish["tokens"] == alone.answer(asked)
        cached: int = finish["cached_tokens"]
        return cached

    assert ask(prompt) == 0
    assert [checkpoint.length for checkpoint in here.engine.slots.all[0].checkpoints] == [128, 256, 384, 512, 596]
    least = [(prompt, 596), ([*prompt[:500], 270, 280], 384), ([*prompt[:500], 270, 290], 384), (other, 0), (prompt[:300], 256)]
    found = [ask(asked) for asked, _ in least]  # the last one comes back from the prompt cache
    if kind == "sliding":  # the cells before the window may still be there
        assert all(cached >= count for cached, (_, count) in zip(found, least, strict=True))
    else:
        assert found == [596, 384, 498, 0, 256]
    here.check_idle()
    without = bench(paths[kind], parallel=1, ubatch_size=64, ctx_checkpoints=0)
    without.ask(prompt, NUM_ANSWERED)
    assert without.ask(prompt[:300], NUM_ANSWERED).finish["cached_tokens"] == 0


def test_there_are_only_so_many_checkpoints(bench: MakeBench, paths: dict[str, Path]) -> None:
    prompt = Talks(8, Alone(bench(paths["recurrent"], parallel=1))).words(700)
    here = bench(paths["recurrent"], parallel=1, ubatch_size=64, checkpoint_min_step=1, ctx_checkpoints=3)
    here.ask(prompt, NUM_ANSWERED)
    lengths = [checkpoint.length for checkpoint in here.engine.slots.all[0].checkpoints]
    assert (len(lengths), lengths[-1]) == (3, 696)
    assert here.ask(prompt, NUM_ANSWERED).finish["cached_tokens"] == 696


def test_a_memory_that_can_be_cut_needs_none(bench: MakeBench, paths: dict[str, Path]) -> None:
    here = bench(paths["llama"], parallel=1)
    here.ask(Talks(9, Alone(here)).words(600), NUM_ANSWERED)
    assert not here.engine.slots.all[0].checkpoints
