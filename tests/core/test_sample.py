"""LogitSampler compared with simple numpy code, by the formulae of llama.cpp's samplers."""

import ctypes
from typing import Any

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastrouter._core import LogitSampler
from fastrouter.options.sampling import defaults

Logits = NDArray[np.float32]
OFF: dict[str, Any] = {**defaults(), "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def sampler(n_vocab: int, *, seed: int = 1, bias: list[tuple[int, float]] | None = None, **changes: Any) -> LogitSampler:
    return LogitSampler(n_vocab, {**OFF, **changes}, seed=seed, bias=bias or [])


def draw(chosen: LogitSampler, logits: Logits) -> int:
    before = logits.copy()
    token = chosen.sample(logits.ctypes.data, len(logits))
    np.testing.assert_array_equal(logits, before)
    return token


def noise(n_vocab: int, seed: int = 0) -> Logits:
    return np.random.default_rng(seed).normal(0, 3, n_vocab).astype(np.float32)


def distribution(logits: Logits, top_k: int, top_p: float, min_p: float, temperature: float) -> dict[int, float]:
    """Token -> probability after the chain."""
    order = np.argsort(-logits, kind="stable")[: top_k or None]
    kept = logits[order].astype(np.float64)
    if top_p < 1:
        probabilities = np.exp(kept - kept[0]) / np.exp(kept - kept[0]).sum()
        count = int(np.searchsorted(np.cumsum(probabilities), top_p)) + 1
        order, kept = order[:count], kept[:count]
    if min_p > 0:
        inside = kept >= kept[0] + np.log(min_p)
        order, kept = order[inside], kept[inside]
    weights = np.exp((kept - kept[0]) / temperature)
    return dict(zip(order.tolist(), (weights / weights.sum()).tolist(), strict=True))


@pytest.mark.parametrize("n_vocab", [1, 2, 63, 64, 65, 128, 300, 1000, 49_152])
def test_greedy_is_argmax(n_vocab: int) -> None:
    greedy = sampler(n_vocab)
    for seed in range(20):
        logits = noise(n_vocab, seed)
        assert draw(greedy, logits) == int(logits.argmax())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=200))
def test_greedy_takes_any_floats(values: list[float]) -> None:
    logits = np.array(values, np.float32)
    assert logits[draw(sampler(len(values)), logits)] == logits.max()


def test_nothing_to_choose_from_is_no_crash() -> None:
    for value in (np.nan, -np.inf):
        logits = np.full(130, value, np.float32)
        assert 0 <= draw(sampler(130), logits) < 130
        assert 0 <= draw(sampler(130, temperature=1.0, top_k=5, top_p=0.5), logits) < 130


CHAINS = [
    (40, 0.95, 0.05, 0.8),
    (5, 1.0, 0.0, 1.0),
    (0, 0.9, 0.0, 1.0),
    (0, 1.0, 0.2, 1.5),
    (0, 1.0, 0.0, 1.0),
    (1, 0.5, 0.5, 2.0),
    (200, 0.99, 0.0, 0.3),
    (0, 1.0, 0.0, 30.0),
]


@pytest.mark.parametrize(("top_k", "top_p", "min_p", "temperature"), CHAINS)
@pytest.mark.parametrize("n_vocab", [7, 300])
def test_draws_follow_the_distribution(n_vocab: int, top_k: int, top_p: float, min_p: float, temperature: float) -> None:
    logits = noise(n_vocab, 3)
    wanted = distribution(logits, top_k, top_p, min_p, temperature)
    chosen = sampler(n_vocab, top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature)
    counts = np.zeros(n_vocab)
    total = 20_000
    for _ in range(total):
        counts[chosen.sample(logits.ctypes.data, n_vocab)] += 1
    assert set(np.flatnonzero(counts)) <= set(wanted)
    for token, probability in wanted.items():
        spread = 6 * np.sqrt(probability * (1 - probability) / total) + 1e-3
        assert abs(counts[token] / total - probability) < spread


def test_top_k_on_a_large_vocabulary_keeps_just_the_best() -> None:
    logits = noise(49_152, 5)
    best = set(np.argsort(-logits)[:40].tolist())
    chosen = sampler(49_152, top_k=40, temperature=50.0)
    assert {draw(chosen, logits) for _ in range(2000)} == best


def test_min_keep_keeps() -> None:
    logits = np.array([10, 9, 0, -1, -2], np.float32)
    chosen = sampler(5, temperature=20.0, top_p=0.1, min_keep=3)
    assert {draw(chosen, logits) for _ in range(500)} == {0, 1, 2}


def test_top_k_is_stronger_than_min_keep_and_min_p_keeps_the_whole_of_it() -> None:
    logits = np.array([10, 9, 0, -1, -2], np.float32)
    assert {draw(sampler(5, temperature=20.0, top_k=2, min_keep=4, seed=seed), logits) for seed in range(200)} == {0, 1}
    chosen = sampler(5, temperature=20.0, min_p=0.99, min_keep=3)
    assert {draw(chosen, logits) for _ in range(500)} == {0, 1, 2}


@pytest.mark.parametrize("changes", [{"temperature": 1e-38}, {"temperature": 1e-45}, {"temperature": 1.0, "min_p": 5.0}])
def test_extremes_leave_the_best(changes: dict[str, float]) -> None:
    for seed in range(20):
        logits = noise(200, seed)
        assert draw(sampler(200, **changes), logits) == int(logits.argmax())


def test_what_is_no_number_is_never_chosen() -> None:
    logits = noise(300, 9)
    logits[::3] = np.nan
    logits[1::3] = -np.inf
    for chain in ({}, {"temperature": 2.0}, {"temperature": 2.0, "top_k": 50}, {"temperature": 2.0, "top_p": 0.9, "min_keep": 5}):
        chosen = sampler(300, **chain)
        assert {draw(chosen, logits) % 3 for _ in range(300)} == {2}
    assert draw(sampler(300), logits) == int(np.nanargmax(logits))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 3, 40, 299, 1000]),
    st.sampled_from([0.0, 0.3, 0.9, 0.999, 1.0]),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.sampled_from([0, 1, 4]),
    st.sampled_from([1.0, 5.0]),
)
def test_candidates_are_those_of_llama_cpp(
    n_vocab: int, seed: int, top_k: int, top_p: float, min_p: float, min_keep: int, scale: float
) -> None:
    logits = noise(n_vocab, seed) / np.float32(scale)
    kept = kept_by_llama(logits, top_k, top_p, min_p, min_keep)
    chosen = sampler(n_vocab, seed=seed, top_k=top_k, top_p=top_p, min_p=min_p, min_keep=min_keep, temperature=100.0)
    drawn = {chosen.sample(logits.ctypes.data, n_vocab) for _ in range(30 * len(kept))}
    # At this temperature all are about equally likely. Rounding decides where top_p ends.
    assert len(drawn ^ kept) <= (0 < top_p < 1)


def kept_by_llama(logits: Logits, top_k: int, top_p: float, min_p: float, min_keep: int) -> set[int]:
    """The tokens that llama.cpp's own samplers leave."""
    data = (llama_cpp.llama_token_data * len(logits))()
    for token, logit in enumerate(logits.tolist()):
        data[token] = llama_cpp.llama_token_data(token, logit, 0.0)
    candidates = llama_cpp.llama_token_data_array(data, len(logits), -1, False)
    for chain in (
        llama_cpp.llama_sampler_init_top_k(top_k),
        llama_cpp.llama_sampler_init_top_p(top_p, min_keep),
        llama_cpp.llama_sampler_init_min_p(min_p, min_keep),
    ):
        llama_cpp.llama_sampler_apply(chain, ctypes.byref(candidates))
        llama_cpp.llama_sampler_free(chain)
    return {candidates.data[index].id for index in range(candidates.size)}


def test_the_seed_decides() -> None:
    logits = noise(300)
    runs = [[draw(chosen, logits) for _ in range(50)] for chosen in (sampler(300, temperature=1.0, seed=seed) for seed in (7, 7, 8))]
    assert runs[0] == runs[1] != runs[2]


def penalised(logits: Logits, window: list[int], repeat: float, frequency: float, presence: float) -> Logits:
    changed = logits.copy()
    for token in set(window):
        value = changed[token]
        value = value * repeat if value <= 0 else value / repeat
        changed[token] = value - window.count(token) * frequency - presence
    return changed


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 19), max_size=60),
    st.sampled_from([-1, 0, 1, 5, 64]),
    st.sampled_from([(1.5, 0.0, 0.0), (1.0, 0.7, 0.0), (1.0, 0.0, 3.0), (1.2, 0.3, 0.4)]),
)
def test_penalties(tokens: list[int], last_n: int, penalties: tuple[float, float, float]) -> None:
    repeat, frequency, presence = penalties
    chosen = sampler(20, repeat_last_n=last_n, repeat_penalty=repeat, frequency_penalty=frequency, presence_penalty=presence)
    half = len(tokens) // 2
    chosen.prime(tokens[:half])
    for token in tokens[half:]:
        chosen.accept(token)
    window = tokens if last_n < 0 else tokens[max(0, len(tokens) - last_n) :]
    wanted = penalised(noise(20), window, repeat, frequency, presence)
    got = draw(chosen, noise(20))
    assert wanted[got] == pytest.approx(wanted.max(), abs=1e-5)


def test_bias_adds_up_and_bans() -> None:
    logits = np.zeros(100, np.float32)
    assert draw(sampler(100, bias=[(5, 1.0), (6, 0.7), (6, 0.7)]), logits) == 6
    only = sampler(100, temperature=5.0, bias=[(token, float("-inf")) for token in range(100) if token != 42])
    assert {draw(only, logits) for _ in range(50)} == {42}


def test_what_is_not_of_this_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="outside the vocabulary"):
        sampler(10, bias=[(10, 1.0)])
    logits = noise(10)
    with pytest.raises(ValueError, match="vocabulary"):
        sampler(11).sample(logits.ctypes.data, 10)


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 1.0}, {"temperature": 1.5, "top_k": 5, "top_p": 0.9}, {"temperature": 1.0, "min_p": 0.1}]
)
@pytest.mark.parametrize("n_vocab", [1, 31, 32, 33, 300, 1000, 49_152])
def test_a_mask_is_obeyed(n_vocab: int, changes: dict[str, Any]) -> None:
    random = np.random.default_rng(n_vocab)
    for share in (0.001, 0.05, 0.5, 1.0):
        allowed = random.random(n_vocab) < share
        allowed[random.integers(n_vocab)] = True
        mask = np.packbits(np.pad(allowed, (0, -n_vocab % 32)), bitorder="little")
        chosen = sampler(n_vocab, repeat_penalty=1.3, bias=[(0, 5.0)], **changes)
        plain = sampler(n_vocab, repeat_penalty=1.3, bias=[(0, 5.0)], **changes)
        for seed in range(10):
            logits = noise(n_vocab, seed)
            before = logits.copy()
            token = chosen.sample(logits.ctypes.data, n_vocab, mask.ctypes.data)
            np.testing.assert_array_equal(logits, before)
            assert allowed[token]
            banned = np.where(allowed, logits, -np.inf).astype(np.float32)
            assert token == draw(plain, banned)
            for one in (chosen, plain):
                one.accept(token)
