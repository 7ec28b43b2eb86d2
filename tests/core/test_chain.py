"""Sampling chains other than the usual one, compared with llama.cpp's own samplers: the same candidates with the same probabilities."""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_models import make_llama

from fastrouter._core import Breakers, LogitSampler
from fastrouter.options.load import LoadOptions
from fastrouter.options.sampling import defaults
from fastrouter.worker.llama.binding import start_backends
from fastrouter.worker.llama.model import Model
from fastrouter.worker.sampling.dry_breakers import dry_breakers_of
from fastrouter.worker.sampling.sampler import Sampler, file_defaults

Logits = NDArray[np.float32]
Probabilities = dict[int, float]

USUAL: dict[str, Any] = {**defaults(), "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def noise(n_vocab: int, seed: int) -> Logits:
    return np.random.default_rng(seed).normal(0, 2, n_vocab).astype(np.float32)


def ours(logits: Logits, tokens: list[int], breakers: Breakers | None = None, **changes: Any) -> Probabilities:
    n_vocab = len(logits)
    chain = LogitSampler(n_vocab, {**USUAL, **changes}, seed=1, bias=[], breakers=breakers, num_probs=n_vocab, is_after=True)
    chain.prime(tokens)
    before = logits.copy()
    token = chain.sample(logits.ctypes.data, n_vocab)
    np.testing.assert_array_equal(logits, before)
    assert chain.probabilities is not None
    own, found = chain.probabilities
    assert dict(found)[token] == own
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
    return dict(found)


def llamas(logits: Logits, tokens: list[int], vocab: Any = None, breakers: tuple[str, ...] = (), **changes: Any) -> Probabilities:
    chosen = {**USUAL, **changes}
    data = (llama_cpp.llama_token_data * len(logits))()
    for token, logit in enumerate(logits.tolist()):
        data[token] = llama_cpp.llama_token_data(token, logit, 0.0)
    candidates = llama_cpp.llama_token_data_array(data, len(logits), -1, False)
    for step in their_chain(chosen, len(logits), vocab, breakers):
        for token in tokens:
            llama_cpp.llama_sampler_accept(step, token)
        llama_cpp.llama_sampler_apply(step, ctypes.byref(candidates))
        llama_cpp.llama_sampler_free(step)
    kept = [(candidates.data[index].id, candidates.data[index].logit) for index in range(candidates.size)]
    weights = np.exp(np.array([logit for _, logit in kept], np.float64) - max(logit for _, logit in kept))
    return {token: float(p) for (token, _), p in zip(kept, weights / weights.sum(), strict=True) if p > 1e-37}


def their_chain(chosen: dict[str, Any], n_vocab: int, vocab: Any, breakers: tuple[str, ...]) -> Iterator[Any]:
    def of(*names: str) -> list[Any]:
        return [chosen[name] for name in names]

    texts = (ctypes.c_char_p * len(breakers))(*(text.encode() for text in breakers))
    dry = of("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n")
    make = {
        "penalties": lambda: llama_cpp.llama_sampler_init_penalties(
            n_vocab, *of("repeat_last_n", "repeat_penalty", "frequency_penalty", "presence_penalty")
        ),
        "dry": lambda: llama_cpp.llama_sampler_init_dry(vocab, *dry, texts, len(breakers)),
        "top_n_sigma": lambda: llama_cpp.llama_sampler_init_top_n_sigma(*of("top_n_sigma")),
        "top_k": lambda: llama_cpp.llama_sampler_init_top_k(*of("top_k")),
        "typ_p": lambda: llama_cpp.llama_sampler_init_typical(*of("typical_p", "min_keep")),
        "top_p": lambda: llama_cpp.llama_sampler_init_top_p(*of("top_p", "min_keep")),
        "min_p": lambda: llama_cpp.llama_sampler_init_min_p(*of("min_p", "min_keep")),
        "xtc": lambda: llama_cpp.llama_sampler_init_xtc(*of("xtc_probability", "xtc_threshold", "min_keep"), 7),
        "temperature": lambda: llama_cpp.llama_sampler_init_temp_ext(*of("temperature", "dynatemp_range", "dynatemp_exponent")),
    }
    if not chosen["mirostat"]:
        yield from (make[name]() for name in chosen["samplers"] if name != "adaptive_p")
        if "adaptive_p" in chosen["samplers"]:
            yield llama_cpp.llama_sampler_init_adaptive_p(*of("adaptive_target", "adaptive_decay"), 7)
        return
    yield llama_cpp.llama_sampler_init_temp(chosen["temperature"])
    tau, eta = of("mirostat_tau", "mirostat_eta")
    if chosen["mirostat"] == 1:
        yield llama_cpp.llama_sampler_init_mirostat(n_vocab, 7, tau, eta, 100)
    else:
        yield llama_cpp.llama_sampler_init_mirostat_v2(7, tau, eta)


def assert_alike(got: Probabilities, wanted: Probabilities) -> None:
    """Rounding may decide where a cut ends: one candidate more or less, and the others' probabilities to match."""
    odd = got.keys() ^ wanted.keys()
    assert len(odd) <= 1, (got, wanted)
    common = got.keys() & wanted.keys()
    mine, theirs = sum(got[token] for token in common), sum(wanted[token] for token in common)
    for token in common:
        assert got[token] / mine == pytest.approx(wanted[token] / theirs, rel=2e-3, abs=1e-6)


STEPS: list[dict[str, Any]] = [
    {"top_n_sigma": 1.0, "temperature": 0.7},
    {"top_n_sigma": 0.3, "top_k": 20},
    {"typical_p": 0.5},
    {"typical_p": 0.9, "top_k": 40},
    {"typical_p": 0.2, "min_keep": 3},
    {"dynatemp_range": 0.5, "temperature": 0.8},
    {"dynatemp_range": 2.0, "dynatemp_exponent": 0.5, "top_k": 30},
    {"xtc_probability": 1.0, "xtc_threshold": 0.05},
    {"xtc_probability": 1.0, "xtc_threshold": 0.1, "min_keep": 2, "top_p": 0.9, "temperature": 1.5},
    {"xtc_probability": 1.0, "xtc_threshold": 0.05, "temperature": 0.0},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8},
    {"top_k": 10, "typical_p": 0.8, "top_p": 0.9, "min_p": 0.02, "temperature": 1.3, "xtc_probability": 1.0},
    {"samplers": ["adaptive_p", "min_p"], "min_p": 0.02, "adaptive_target": 0.1},
    {"samplers": ["top_k", "temperature", "adaptive_p"], "top_k": 30, "temperature": 0.7, "adaptive_target": 0.9, "adaptive_decay": 0.5},
    {"samplers": ["top_k", "adaptive_p"], "top_k": 30, "adaptive_target": 0.0, "adaptive_decay": 0.0},
    {"samplers": ["top_k", "adaptive_p"], "top_k": 30, "adaptive_target": -1.0},
    {"mirostat": 1, "mirostat_tau": 2.0},
    {"mirostat": 1, "mirostat_tau": 5.0, "temperature": 0.7},
    {"mirostat": 2, "mirostat_tau": 1.0},
    {"mirostat": 2, "mirostat_tau": 0.01, "temperature": 2.0},
]


@pytest.mark.parametrize("changes", STEPS, ids=str)
@pytest.mark.parametrize("n_vocab", [2, 300, 5000])
def test_steps_leave_what_llama_cpp_leaves(changes: dict[str, Any], n_vocab: int) -> None:
    for seed in range(5):
        logits = noise(n_vocab, seed)
        # Mirostat's own samplers draw from what they keep, and show it by the probabilities of what is left.
        assert_alike(ours(logits, [], **changes), llamas(logits, [], **changes))


REORDERED = ["top_k", "typ_p", "top_p", "min_p", "xtc", "temperature", "penalties", "dry"]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 200),
    st.integers(0, 2**32 - 1),
    st.permutations(REORDERED),
    st.integers(0, len(REORDERED)),
    st.sampled_from([0, 3, 40]),
    st.sampled_from([0.3, 0.9, 1.0]),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from([0.5, 1.0]),
    st.sampled_from([0, 3]),
)
def test_any_order(
    n_vocab: int, seed: int, order: list[str], length: int, top_k: int, top_p: float, min_p: float, typical_p: float, min_keep: int
) -> None:
    tokens = np.random.default_rng(seed).integers(0, min(n_vocab, 4), 50).tolist()
    changes = {
        "samplers": order[:length], "top_k": top_k, "top_p": top_p, "min_p": min_p, "min_keep": min_keep, "typical_p": typical_p,
        "temperature": 0.7, "xtc_probability": 1.0, "xtc_threshold": 0.15, "repeat_penalty": 1.3, "presence_penalty": 0.2,
        "dry_multiplier": 0.4,
    }  # fmt: skip
    logits = noise(n_vocab, seed)
    got, wanted = ours(logits, tokens, **changes), llamas(logits, tokens, **changes)
    if len(got.keys() ^ wanted.keys()) > 1:  # a cut that rounding moved by one may move later cuts: then most candidates must agree
        common = got.keys() & wanted.keys()
        assert sum(wanted[token] for token in common) > 0.8
        return
    assert_alike(got, wanted)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 5), max_size=90),
    st.sampled_from([1, 8, 64, 200]),
    st.integers(0, 4),
    st.sampled_from([1.0, 1.75, 40.0]),
    st.lists(st.integers(0, 5), max_size=2),
    st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 5), max_size=3)), max_size=2),
)
def test_dry(tokens: list[int], last_n: int, allowed: int, base: float, singles: list[int], longer: list[tuple[int, list[int]]]) -> None:
    """By the definition: the longest repetition that each token would continue, back to the last breaker."""
    n_vocab, logits = 6, np.zeros(6, np.float32)
    window = tokens[-last_n:]
    lost = repetition_losses(window, allowed, base, singles, longer)
    got = ours(
        logits, tokens, Breakers(n_vocab, singles, longer), dry_multiplier=0.01, dry_base=base, dry_allowed_length=allowed,
        dry_penalty_last_n=last_n,
    )  # fmt: skip
    weights = np.exp(-np.array([lost.get(token, 0.0) for token in range(n_vocab)]))
    for token, p in enumerate(weights / weights.sum()):
        assert got.get(token, 0.0) == pytest.approx(p, rel=1e-3, abs=1e-6)


def repetition_losses(
    window: list[int], allowed: int, base: float, singles: list[int], longer: list[tuple[int, list[int]]]
) -> dict[int, float]:
    size = len(window)
    breakers = [[token] for token in singles] + [[head, *tail] for head, tail in longer]
    reach = size
    for back in range(size):
        fitting = [b for b in breakers if window[size - 1 - back :][: len(b)] == b]
        if fitting:
            reach = back - max(len(b) - 1 for b in fitting)
            break
    if size <= allowed or reach < allowed:
        return {}
    lost: dict[int, int] = {}
    for end in range(1, size):  # the repetition would be window[..end) and then window[end]
        length = 0
        while length < min(end, reach) and window[end - 1 - length] == window[size - 1 - length]:
            length += 1
        if length >= allowed:
            lost[window[end]] = max(lost.get(window[end], 0), length)
    most = int(88.7228391 / np.log(base)) if base > 1.000001 else 1 << 30
    alone = {*singles, *(head for head, tail in longer if not tail)}
    return {token: 0.01 * base ** min(length - allowed, most) for token, length in lost.items() if token not in alone}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    start_backends()
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    make_llama(path)
    model = Model(str(path), LoadOptions())
    yield model
    model.close()


@pytest.mark.parametrize("breakers", [("\n", ":", '"', "*"), ("ab", "a"), ("abcabc",), ()])
def test_dry_breakers_are_found_as_llama_cpp_finds_them(model: Model, breakers: tuple[str, ...]) -> None:
    vocab = model.vocab
    for seed, text in enumerate(["abcabcabc\nabcab", "x: y: x: y: x", "a*b*a*b*a", "hello hello hello hello"]):
        tokens = vocab.tokenize(text)
        logits = noise(vocab.n_tokens, seed)
        changes = {"dry_multiplier": 0.8, "dry_allowed_length": 1}
        got = ours(logits, tokens, dry_breakers_of(vocab, breakers), **changes)
        assert_alike(got, llamas(logits, tokens, vocab.pointer, breakers, **changes))


def test_pieces_are_those_of_single_tokens(model: Model) -> None:
    assert model.vocab.pieces == [model.vocab.token_to_piece(token) for token in range(model.vocab.n_tokens)]


def test_xtc_is_a_matter_of_chance() -> None:
    logits = np.array([3.0, 3.0, 2.9, -5.0], np.float32)
    chain = LogitSampler(4, {**USUAL, "xtc_probability": 0.5, "xtc_threshold": 0.2}, seed=3, bias=[])
    drawn = [chain.sample(logits.ctypes.data, 4) for _ in range(4000)]
    # Half of the time only 2 (and 3) are left; else it is about a third each.
    assert drawn.count(2) / 4000 == pytest.approx(0.5 + 0.5 * 0.31, abs=0.04)


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_steers_towards_its_surprise(version: int) -> None:
    logits = noise(2000, 4) * 1.5
    chain = LogitSampler(2000, {**USUAL, "mirostat": version, "mirostat_tau": 3.0}, seed=3, bias=[], num_probs=0, is_after=True)
    surprises = []
    for _ in range(3000):
        chain.sample(logits.ctypes.data, 2000)
        assert chain.probabilities is not None
        surprises.append(-np.log2(chain.probabilities[0]))
    assert np.mean(surprises[500:]) == pytest.approx(3.0, abs=0.2)


@pytest.mark.parametrize(("target", "decay"), [(0.05, 0.9), (0.15, 0.9), (0.3, 0.9), (0.3, 0.5)])
def test_adaptive_p_steers_as_llama_cpps_does(target: float, decay: float) -> None:
    n_vocab, count = 40, 3000
    logits = noise(n_vocab, 4)
    asked = {**USUAL, "samplers": ["adaptive_p"], "adaptive_target": target, "adaptive_decay": decay}
    chain = LogitSampler(n_vocab, asked, seed=3, bias=[])
    weights = np.exp(logits.astype(np.float64))
    chances = weights / weights.sum()
    mine = [chances[chain.sample(logits.ctypes.data, n_vocab)] for _ in range(count)]
    theirs = []
    sampler = llama_cpp.llama_sampler_init_adaptive_p(target, decay, 7)
    for _ in range(count):
        data = (llama_cpp.llama_token_data * n_vocab)()
        for token, logit in enumerate(logits.tolist()):
            data[token] = llama_cpp.llama_token_data(token, logit, 0.0)
        candidates = llama_cpp.llama_token_data_array(data, n_vocab, -1, False)
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(candidates))
        token = candidates.data[candidates.selected].id
        llama_cpp.llama_sampler_accept(sampler, token)
        theirs.append(chances[token])
    llama_cpp.llama_sampler_free(sampler)
    assert np.mean(mine) == pytest.approx(np.mean(theirs), rel=0.15)


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.0}, {"typical_p": 0.9}, {"mirostat": 2}, {"top_k": 5, "xtc_probability": 0.5}])
def test_what_the_mask_forbids_is_never_chosen(changes: dict[str, Any]) -> None:
    n_vocab = 300
    allowed = {5, 64, 130, 299}
    mask = np.zeros(-(-n_vocab // 32), np.uint32)
    for token in allowed:
        mask[token // 32] |= np.uint32(1 << token % 32)
    chain = LogitSampler(n_vocab, {**USUAL, **changes}, seed=1, bias=[(5, 1.0)])
    logits = noise(n_vocab, 1) * np.float32(0.3)
    before = logits.copy()
    drawn = {chain.sample(logits.ctypes.data, n_vocab, mask.ctypes.data) for _ in range(300)}
    assert drawn <= allowed
    assert len(drawn) > 1 or changes.get("temperature") == 0.0
    np.testing.assert_array_equal(logits, before)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.5, 0.98, 1.0]))
def test_masked_greedy_is_the_best_of_what_is_allowed(n_vocab: int, seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    allowed = random.random(n_vocab) < share
    allowed[random.integers(n_vocab)] = True
    bits = np.ones(-(-n_vocab // 32) * 32, bool)  # bits beyond the vocabulary do not matter
    bits[:n_vocab] = allowed
    mask = np.packbits(bits, bitorder="little").view(np.uint32).copy()
    logits = noise(n_vocab, seed)
    greedy = LogitSampler(n_vocab, {**USUAL, "temperature": 0.0}, seed=1, bias=[])
    assert greedy.sample(logits.ctypes.data, n_vocab, mask.ctypes.data) == np.where(allowed, logits, -np.inf).argmax()


@pytest.mark.parametrize("changes", STEPS, ids=str)
def test_the_seed_decides(changes: dict[str, Any]) -> None:
    rows = [noise(500, seed) for seed in range(30)]
    runs = []
    for seed in (7, 7, 8):
        chain = LogitSampler(500, {**USUAL, "temperature": 1.5, **changes}, seed=seed, bias=[])
        runs.append([chain.sample(row.ctypes.data, 500) for row in rows])
    assert runs[0] == runs[1]
    assert runs[1] != runs[2] or changes.get("temperature") == 0.0 or changes.get("mirostat_tau", 5.0) <= 1.0


def test_nothing_to_choose_from_is_no_crash() -> None:
    for changes in STEPS:
        chain = LogitSampler(130, {**USUAL, **changes}, seed=7, bias=[])
        for value in (np.nan, -np.inf, np.inf):
            logits = np.full(130, value, np.float32)
            assert 0 <= chain.sample(logits.ctypes.data, 130) < 130


def test_probabilities_of_the_model_are_before_all_else() -> None:
    logits = noise(1000, 2)
    wanted = np.exp(logits.astype(np.float64) - logits.max())
    wanted /= wanted.sum()
    chain = LogitSampler(1000, {**USUAL, "temperature": 0.0}, seed=1, bias=[(3, 50.0)], num_probs=4)
    assert chain.sample(logits.ctypes.data, 1000) == 3
    assert chain.probabilities is not None
    own, best = chain.probabilities
    assert own == pytest.approx(wanted[3])
    assert [token for token, _ in best] == np.argsort(-wanted)[:4].tolist()
    assert [p for _, p in best] == pytest.approx(sorted(wanted, reverse=True)[:4])


# ---------------------------------------------------------------- defaults


def test_defaults_of_the_file(tmp_path: Path) -> None:
    start_backends()
    path = tmp_path / "sampling.gguf"
    keys = {"temp": 0.25, "top_k": 7, "min_p": 3.0, "penalty_last_n": 12, "mirostat_tau": 4.0, "sequence": "temp;top-k;nucleus"}
    make_llama(path, sampling=keys)
    model = Model(str(path), LoadOptions())
    try:
        found = file_defaults(model)
        assert found.pop("samplers") == ["temperature", "top_k", "top_p"]
        assert found == {"temperature": 0.25, "top_k": 7, "repeat_last_n": 12, "mirostat_tau": 4.0}  # min_p is invalid
        settings = Sampler(model.vocab, {"top_k": 9}, {**found, "temperature": 0.5}).settings()
        assert (settings["top_k"], settings["temperature"], settings["repeat_last_n"]) == (9, 0.5, 12)
    finally:
        model.close()


def test_unknown_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        LogitSampler(10, {**USUAL, "samplers": ["top_q"]}, seed=1, bias=[])
