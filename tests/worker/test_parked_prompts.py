"""Prompts that outlive their process: a second engine with what the first one has parked answers like one without. Real llama.cpp, tiny
models with memories of every kind.
"""

import os
import random
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_bench import Bench
from tiny_memories import MAKERS
from tiny_models import make_llama, make_lora

from fastrouter.ipc.descriptors import Descriptors, descriptor_pair
from fastrouter.ipc.messages import Drop, Lend, Park, Parked, Restoring, Unusable
from fastrouter.worker.calls import park as park_module
from fastrouter.worker.calls.park import Parker, kind_of
from fastrouter.worker.llama.binding import start_backends

KINDS = ("llama", *MAKERS)
EXACT = {"cache_type_k": "f32", "cache_type_v": "f32"}  # with these, the shape of a batch hardly changes a logit
GIB = 1 << 30
WORDS = range(259, 329)  # tokens
NUM_ANSWERED = 12


class House:
    """An engine and the router's end of its parking. `store`: id -> descriptor, which outlives the engine."""

    def __init__(self, path: Path, store: dict[int, int], key: str = "k", limit_bytes: int = GIB, **options: Any) -> None:
        self.bench = Bench(path, 1 << 20, **{**EXACT, "parallel": 2, **options})
        self.store = store
        self.messages: list[Any] = []
        ours, theirs = descriptor_pair()
        self._descriptors, self._its = Descriptors(ours), Descriptors(theirs)
        self.parker = Parker(
            self.bench.engine.prefixes, self._its, self._receive, kind_of(self.bench.model, self.bench.context), idle_s=0.0
        )
        for entry_id, fd in store.items():
            assert self._descriptors.send(entry_id, fd)
        self.parker.take(Lend(key, limit_bytes, list(store)))

    def _receive(self, message: Any) -> None:
        self.messages.append(message)
        if isinstance(message, Parked):
            self.store[message.entry_id] = self._descriptors.take(message.entry_id)
            self.forget(message.replaces)
        elif isinstance(message, Unusable):
            self.forget([message.entry_id])

    def forget(self, entry_ids: list[int]) -> None:
        for entry_id in entry_ids:
            os.close(self.store.pop(entry_id))

    def ask(self, prompt: Any, num_tokens: int = NUM_ANSWERED, **more: Any) -> tuple[list[int], int]:
        """(tokens of the answer, tokens of the prompt that were not computed)"""
        finish = self.bench.ask(prompt, num_tokens, return_tokens=True, **more).finish
        self.bench.check_idle()
        return finish["tokens"], finish["cached_tokens"]

    def park(self, max_bytes: int = GIB, max_ms: int = 60_000) -> int:
        """Everything; returns the number of entries."""
        before = len(self.heard(Parked))
        self.parker.park_all(Park(max_bytes, max_ms))
        return len(self.heard(Parked)) - before

    def heard(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    def close(self) -> None:
        self.bench.close()
        self.bench.engine.prefixes.parking.close()
        self._descriptors.close()
        self._its.close()


MakeHouse = Callable[..., House]


@pytest.fixture(scope="module", autouse=True)
def backends() -> None:
    start_backends()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("parked")
    made = {kind: make(folder / f"{kind}.gguf") for kind, make in MAKERS.items()}
    return {**made, "llama": make_llama(folder / "llama.gguf", n_ctx=2048), "other": make_llama(folder / "other.gguf", seed=1, n_ctx=2048)}


@pytest.fixture
def house() -> Iterator[MakeHouse]:
    made: list[House] = []
    store: dict[int, int] = {}

    def make(path: Path, **options: Any) -> House:
        """The one before it has ended; what it has parked is left."""
        if made:
            made.pop().close()
        made.append(House(path, store, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
    for fd in store.values():
        os.close(fd)


def words(count: int, seed: int = 0) -> list[int]:
    source = random.Random(seed)
    return [source.choice(WORDS) for _ in range(count)]


# ---------------------------------------------------------------- the same answer


@pytest.mark.parametrize("is_unified", [True, False], ids=["unified", "split"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_turn_in_a_new_process(house: MakeHouse, paths: dict[str, Path], kind: str, is_unified: bool) -> None:
    options = {"kv_unified": is_unified, "ctx_size": 2048, "checkpoint_min_step": 64}
    alone = House(paths[kind], {}, **options)
    prompt = words(300)
    answer, _ = alone.ask(prompt)
    longer = [*prompt, *answer, *words(20, 1)]
    other_end = [*prompt[:-2], *words(9, 2)]
    expected = [alone.ask(asked, cache_prompt=False)[0] for asked in (longer, prompt, other_end)]
    alone.close()
    first = house(paths[kind], **options)
    assert first.ask(prompt) == (answer, 0)
    assert first.park() == 1

    second = house(paths[kind], **options)
    assert second.ask(longer) == (expected[0], 300 + NUM_ANSWERED - 1)
    [used] = second.heard(Restoring)
    assert used.num_tokens == 300 + NUM_ANSWERED - 1

    for asked, text in ((prompt, expected[1]), (other_end, expected[2])):
        again = house(paths[kind], **options)
        answer, num_cached = again.ask(asked)
        assert answer == text
        assert num_cached >= 0.95 * len(asked)
        assert num_cached


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_parked_changes_no_answer(house: MakeHouse, paths: dict[str, Path], kind: str, seed: int) -> None:
    """Talks that go on, begin again and cross, over engines that end at any moment."""
    source = random.Random(seed)
    alone = House(paths[kind], {}, parallel=1)
    options = {"parallel": 2, "kv_unified": source.random() < 0.5, "ctx_size": 2048, "checkpoint_min_step": 50, "ubatch_size": 64}
    here = house(paths[kind], **options)
    talks = [words(100, seed)]
    num_cached = num_parked = 0
    for number in range(40):
        base = source.choice(talks)
        prompt = source.choice([base, base[: source.randrange(2, len(base))], [*base, *words(60, number)], words(150, 1000 + number)])[:700]
        answer, cached = here.ask(prompt)
        assert answer == alone.ask(prompt, cache_prompt=False)[0], (number, cached)
        talks = [*talks[-5:], [*prompt, *answer]]
        num_cached += cached
        if source.random() < 0.3:
            num_parked += here.park()
            here = house(paths[kind], **options)
    assert num_parked
    assert num_cached
    alone.close()


def test_adapters_share_nothing(house: MakeHouse, paths: dict[str, Path], tmp_path: Path) -> None:
    lora = [[str(make_lora(tmp_path / "lora.gguf")), 1.0]]
    first = house(paths["llama"], lora=lora)
    prompt = words(200)
    with_it, _ = first.ask(prompt, lora=[[0, 1.0]])
    without, _ = first.ask(prompt, lora=[])
    assert with_it != without
    first.ask(prompt, lora=[[0, 1.0]])
    assert first.park() == 2
    for chosen, answer in (([[0, 1.0]], with_it), ([], without), ([[0, 0.5]], None)):
        found, num_cached = house(paths["llama"], lora=lora).ask(prompt, lora=chosen)
        assert answer in (None, found)
        assert num_cached == (199 if answer else 0)


# ---------------------------------------------------------------- what is parked


def test_slots_and_the_prompt_cache_are_parked(house: MakeHouse, paths: dict[str, Path]) -> None:
    here = house(paths["llama"], parallel=1)
    talks = [words(150, seed) for seed in range(4)]
    for talk in talks:
        here.ask(talk)
    cache = here.bench.engine.prefixes.prompt_cache
    assert len(cache) == 3
    assert here.park() == 4
    assert (len(cache), here.park()) == (0, 0), "what is parked has moved, and is not parked again"
    assert [message.num_tokens for message in here.heard(Parked)] == [161] * 4
    assert all(message.saves_ms > 0 for message in here.heard(Parked))
    again = house(paths["llama"], parallel=1)
    assert [again.ask(talk)[1] for talk in talks] == [149] * 4
    assert again.park() == 0, "nothing has changed"


def test_short_prompts_are_not_parked(house: MakeHouse, paths: dict[str, Path]) -> None:
    here = house(paths["llama"])
    here.ask(words(8), 4)
    assert here.park() == 0


def test_the_most_recent_ones_come_first_within_the_limits(house: MakeHouse, paths: dict[str, Path]) -> None:
    here = house(paths["llama"], parallel=1)
    for seed in range(3):
        here.ask(words(150, seed))
    prefixes = here.bench.engine.prefixes
    [size, *_] = [prefixes.num_bytes_of(held) for held in prefixes.to_park()]
    assert here.park(max_bytes=2 * size + 100) == 2
    assert house(paths["llama"], parallel=1).ask(words(150, 2))[1] == 149
    assert house(paths["llama"], parallel=1).ask(words(150, 0))[1] == 0
    small = house(paths["llama"], limit_bytes=size // 2)
    small.ask(words(200, 9))
    assert small.park() == 0
    hurried = house(paths["llama"])
    hurried.ask(words(200, 9))
    assert hurried.park(max_ms=0) == 0


def test_a_longer_conversation_takes_the_place_of_its_start(house: MakeHouse, paths: dict[str, Path]) -> None:
    for kind in KINDS:
        here = house(paths[kind], parallel=1, checkpoint_min_step=64)
        prompt = words(300, 7)
        for _ in range(3):
            prompt += here.ask(prompt)[0] + words(20, len(prompt))
            assert here.park() == 1
        *_, last = here.heard(Parked)
        assert last.num_tokens == len(prompt) - 20 - 1
        assert [len(message.replaces) for message in here.heard(Parked)] == [0, 1, 1], kind
        here.forget(list(here.store))


def test_without_the_router_nothing_is_parked(house: MakeHouse, paths: dict[str, Path]) -> None:
    here = house(paths["llama"], limit_bytes=0)
    here.ask(words(200))
    assert here.park() == 0
    here.parker.note_work()
    assert here.parker.wait_ms() is None


def test_a_router_that_does_not_read_loses_only_prompts(house: MakeHouse, paths: dict[str, Path]) -> None:
    here = house(paths["llama"])
    answer, _ = here.ask(words(200))
    here._descriptors.close()
    assert here.park() == 0
    assert here.ask(words(200)) == (answer, 199)


def test_too_little_memory(house: MakeHouse, paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    here = house(paths["llama"])
    here.ask(words(200))
    monkeypatch.setattr(park_module, "available_bytes", lambda: 1000)
    assert here.park() == 0


# ---------------------------------------------------------------- what is lent


def test_an_entry_of_another_model_is_refused(house: MakeHouse, paths: dict[str, Path]) -> None:
    first = house(paths["llama"])
    first.ask(words(200))
    assert first.park() == 1
    other = house(paths["other"], key="other")
    expected = other.ask(words(200), cache_prompt=False)[0]
    assert other.ask(words(200, 3))[1] == 0
    assert other.ask(words(200))[0] == expected
    [unusable] = other.heard(Unusable)
    assert "another model" in unusable.cause
    assert not other.store


def test_an_entry_that_llama_cpp_refuses_is_given_up(house: MakeHouse, paths: dict[str, Path]) -> None:
    """The key is right, but the state is of a cache with other types."""
    first = house(paths["llama"])
    first.ask(words(200))
    assert first.park() == 1
    second = house(paths["llama"], cache_type_k="f16", cache_type_v="f16")
    expected = second.ask(words(200, 5))[0]
    assert second.ask(words(200))[1] == 0
    assert [message.cause for message in second.heard(Unusable)] == ["llama.cpp cannot read it"]
    assert second.ask(words(200, 5))[0] == expected


def test_a_context_that_needs_other_position_factors() -> None:
    class Long:
        """A model whose factors change beyond 4,096 tokens."""

        def meta_value(self, key: str) -> str:
            return {"general.architecture": "phi3", "phi3.rope.scaling.original_context_length": "4096"}.get(key, "")

    @dataclass
    class Size:
        n_ctx_slot: int

    kinds: list[str] = [kind_of(Long(), Size(num_tokens)) for num_tokens in (512, 4096, 8192)]  # type: ignore[arg-type]
    assert kinds == ["short", "short", "long"]


def test_a_prompt_longer_than_the_context_is_left_alone(house: MakeHouse, paths: dict[str, Path]) -> None:
    first = house(paths["llama"])
    first.ask(words(600))
    assert first.park() == 1
    small = house(paths["llama"], ctx_size=512, parallel=1)
    assert small.ask(words(300))[1] == 0
    assert not small.heard(Unusable)
    assert house(paths["llama"]).ask(words(600))[1] == 599


def test_dropped_entries_are_not_used(house: MakeHouse, paths: dict[str, Path]) -> None:
    first = house(paths["llama"])
    for seed in (0, 1):
        first.ask(words(200, seed))
    assert first.park() == 2
    second = house(paths["llama"])
    [one, other] = second.store
    second.parker.drop(Drop([one, 12345]))
    assert [second.ask(words(200, seed))[1] for seed in (0, 1)].count(0) == 1
    second.parker.drop(Drop([other]))
    assert len(second.bench.engine.prefixes.parking) == 0


def test_a_slot_is_better_than_a_parked_prompt(house: MakeHouse, paths: dict[str, Path]) -> None:
    here = house(paths["llama"])
    here.ask(words(200))
    assert here.park() == 1
    assert here.ask(words(200))[1] == 199
    assert not here.heard(Restoring)


# ---------------------------------------------------------------- idle sequences


def test_idle_sequences_are_parked_one_at_a_time(house: MakeHouse, paths: dict[str, Path]) -> None:
    here = house(paths["llama"])
    for seed in (0, 1):
        here.ask(words(200, seed))
    parker = here.parker
    assert parker.wait_ms() is None, "the loop has not said that there was work"
    parker.note_work()
    assert parker.wait_ms() == 0
    parker.step()
    assert len(here.heard(Parked)) == 1
    parker.step()
    assert len(here.heard(Parked)) == 1, "the second one waits, so that this costs little"
    assert parker.wait_ms() is not None
    while parker.wait_ms() is not None:
        parker.step()
    assert len(here.heard(Parked)) == 2
    second = house(paths["llama"])
    assert [second.ask(words(200, seed))[1] for seed in (0, 1)] == [199, 199]


def test_a_prompt_that_runs_is_not_parked(house: MakeHouse, paths: dict[str, Path]) -> None:
    here = house(paths["llama"])
    client = here.bench.submit(words(200), 50)
    here.bench.step_until(lambda: len(client.texts.get(0, b"")) > 5)
    assert here.park() == 0
    here.bench.run(client)
    assert here.park() == 1
    [entry] = here.bench.engine.prefixes.parking._entries.values()
    assert entry.tokens[:200] == array("i", words(200))
