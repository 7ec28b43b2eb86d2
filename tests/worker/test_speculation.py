"""Speculative decoding: the same answers in fewer steps. Lookup and GuessLength alone, the engine on tiny models, a real router."""

import random
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import StartRouter
from engine_bench import Bench, Client
from tiny_models import NUM_SILENT, make_llama, make_lora, make_vocabulary

from fastrouter._core import Lookup
from fastrouter.api.requests.fields import read_completion
from fastrouter.catalog.catalog import Catalog
from fastrouter.config.config import Config, parse
from fastrouter.config.forms import load_options
from fastrouter.errors import ConfigError, FastrouterError, InvalidRequest
from fastrouter.options.load import LoadOptions
from fastrouter.supervisor.memory.estimate import estimate
from fastrouter.worker.engine.engine import Engine
from fastrouter.worker.llama.binding import LlamaError, api, start_backends
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model
from fastrouter.worker.speculation.draft_model import Draft
from fastrouter.worker.speculation.guess_length import FIRST_REST, MAX_REST, GuessLength
from fastrouter.worker.speculation.row_costs import MAX_AGE, UNMEASURED, RowCosts
from fastrouter.worker.speculation.speculation import MAX_ROWS, Speculation

WORDS = ("two to we all", "not the he of all", "we a she", "of you a all")
# Only few tokens may be chosen, so the answers often return to the same pairs, mostly with another end.
ONE = [[token, -100.0] for token in range(NUM_SILENT + 1, len(make_vocabulary()[0]))]
FEW = [[token, -100.0] for token in range(NUM_SILENT + 4, len(make_vocabulary()[0]))]


# ---------------------------------------------------------------- Lookup


def _slow_guess(text: list[int], n: int, most: int) -> list[int]:
    """What Lookup must find: the latest earlier place of the last n tokens."""
    for end in range(len(text) - 1, n - 1, -1):
        if text[end - n : end] == text[-n:]:
            found: list[int] = []
            for index in range(most):
                found.append(text[end + index] if end + index < len(text) else found[end + index - len(text)])
            return found
    return []


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_lookup_finds_the_latest_place(n: int) -> None:
    random_ = random.Random(n)
    tokens = range(max(2, 9 - n))
    lookup, held = Lookup(n), array("i")
    num_found = 0
    for _ in range(1500):
        token = random_.choice(tokens)
        expected = _slow_guess([*held, token], n, 5)
        assert lookup.guess(held, token, 5) == expected
        num_found += bool(expected)
        held.append(token)
        assert len(lookup) == len(held)
    assert num_found > 500


def test_lookup_takes_in_many_tokens_at_once_and_other_texts() -> None:
    lookup = Lookup(3)
    long = array("i", range(5000))
    assert lookup.guess(long, 5000, 4) == []
    long.extend([5000, 17, 18])
    assert lookup.guess(long, 19, 4) == [20, 21, 22, 23]
    del long[100:]  # the text was shifted: earlier knowledge must not be used for it
    assert lookup.guess(long, 18, 4) == []
    assert len(lookup) == 101
    long.extend([18, 7, 8])
    assert lookup.guess(long, 9, 2) == [10, 11]


def test_lookup_wants_enough_hits() -> None:
    lookup = Lookup(2, 2)
    assert lookup.guess(array("i", [1, 2, 3, 1]), 2, 1) == []
    assert lookup.guess(array("i", [1, 2, 3, 1, 2, 3, 1]), 2, 1) == [3]


def test_lookup_refuses_what_is_no_text() -> None:
    with pytest.raises(ValueError, match="one token or more"):
        Lookup(0)
    with pytest.raises(ValueError, match="int32"):
        Lookup(1).guess(b"abc", 1, 1)  # type: ignore[arg-type]


# ---------------------------------------------------------------- GuessLength


def speed_of(chance: float, row_cost: float, most: int = 48, num_steps: int = 4000, seed: int = 1) -> float:
    """Tokens in the time of one, when each guessed token holds with this chance if those before it do."""
    random_, guess_length = random.Random(seed), GuessLength(min(4, most), most)
    num_tokens, time = 0, 0.0
    for _ in range(num_steps):
        length = guess_length.next(lambda rows: rows * row_cost)
        held = 0
        while held < length and random_.random() < chance:
            held += 1
        if length:
            guess_length.note(length, held)
        num_tokens += 1 + held
        time += 1 + length * row_cost
    return num_tokens / time


@pytest.mark.parametrize("row_cost", [0.0, 0.02, 0.1, 0.3, 0.6, 1.0, 1.3])
def test_a_guess_never_costs_much(row_cost: float) -> None:
    for most in (3, 48):
        for chance in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
            assert speed_of(chance, row_cost, most) > 0.97, (chance, most)


def test_a_guess_that_holds_is_worth_it() -> None:
    assert speed_of(1.0, 0.02) > 20
    assert speed_of(0.9, 0.1) > 2.5
    assert speed_of(0.7, 0.1) > 1.7
    assert speed_of(0.9, 0.3) > 1.4
    assert speed_of(0.7, 0.1, most=3) > 1.5


def test_guesses_that_hold_grow() -> None:
    guess_length = GuessLength(4, 30)
    lengths = []
    for _ in range(5):
        lengths.append(guess_length.next(lambda rows: 0.01 * rows))
        guess_length.note(lengths[-1], lengths[-1])
    assert lengths == [4, 8, 16, 30, 30]


def test_rests_grow_and_a_guess_that_holds_ends_them() -> None:
    guess_length = GuessLength(4, 48)

    def cost_of(num_rows: int) -> float:
        return 0.6 * num_rows

    def rest() -> int:
        num_steps = 0
        while not guess_length.next(cost_of):
            num_steps += 1
        return num_steps

    rests = []
    for _ in range(8):
        guess_length.note(4, 0)
        rests.append(rest())
    assert rests[:3] == [1 + FIRST_REST, 1 + 2 * FIRST_REST, 1 + 4 * FIRST_REST], "the step that gives up, then its rest"
    assert rests[-1] == 1 + MAX_REST
    guess_length.note(4, 4)
    assert guess_length.next(cost_of) > 1
    for _ in range(3):
        guess_length.note(8, 0)
    assert rest() == 1 + FIRST_REST


def test_costs_are_measured() -> None:
    costs = RowCosts()
    assert costs.wants_plain(2)
    assert costs.of(False, 2, 4) == pytest.approx(4 * UNMEASURED)
    costs.note(False, 2, 8, 5000)  # there is nothing to compare it with
    assert costs.of(False, 2, 8) == pytest.approx(8 * UNMEASURED)
    costs.note(False, 2, 0, 1000)
    assert not costs.wants_plain(2)
    assert costs.wants_plain(1)
    costs.note(False, 2, 4, 3000)
    assert (costs.of(False, 2, 4), costs.of(False, 2, 6)) == (2.0, 3.0)
    assert costs.of(True, 2, 4) == costs.of(False, 1, 4) == pytest.approx(4 * UNMEASURED)
    costs.note(False, 2, 4, 1000)
    assert costs.of(False, 2, 4) == 1.5
    for _ in range(MAX_AGE):
        costs.note(True, 2, 1, 900)  # faster than without: then a row costs nothing
    assert costs.of(True, 2, 1) == 0
    assert costs.wants_plain(2)


# ---------------------------------------------------------------- the engine


@pytest.fixture(scope="session", autouse=True)
def backends() -> None:
    start_backends()


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("speculation")
    return [make_llama(folder / "tiny.gguf"), make_llama(folder / "near.gguf", adapters=[(1, 0.03)])]


class SpeculativeBench(Bench):
    """Greedy answers, with few words when `bias` is set; with the draft model of the options."""

    def __init__(self, path: Path, ring_bytes: int, **options: Any) -> None:
        exact = {"cache_type_k": "f32", "cache_type_v": "f32", "threads": 1}  # no rounding that depends on the batch
        super().__init__(path, ring_bytes, **{**exact, **options, "speculation": {}})
        self.bias: list[list[float]] = []
        self.options = replace(self.options, speculation=options.get("speculation", {}))
        draft = Draft(self.context, self.options) if "draft_model" in self.options.speculation else None
        speculation = Speculation(self.context, self.options, draft)
        speculation.costs.note = lambda *_: None  # type: ignore[method-assign]  # on a busy machine it would tell anything
        speculation.costs.wants_plain = lambda _: False  # type: ignore[method-assign]
        self.engine = Engine(self.model, self.context, self.outbox, self.options, adapters=self.engine.adapters, speculation=speculation)

    def submit(self, prompt: Any, max_tokens: int = 120, **more: Any) -> Client:
        more["sampling"] = {"logit_bias": self.bias, **more.pop("sampling", {})}
        return super().submit(prompt, max_tokens, **more)

    def check_idle(self) -> None:
        super().check_idle()
        draft = self.engine.speculation.draft
        for slot_id, num_held in enumerate(draft.held if draft else []):
            assert api.llama_memory_seq_pos_max(draft.context.memory, slot_id) == num_held - 1

    def ask(self, prompt: Any, max_tokens: int = 120, **more: Any) -> Client:
        return super().ask(prompt, max_tokens, **more)


Make = Callable[..., SpeculativeBench]


@pytest.fixture
def bench(paths: list[Path]) -> Iterator[Make]:
    made: list[SpeculativeBench] = []

    def make(draft: Path | None = None, speculation: dict[str, Any] | None = None, **options: Any) -> SpeculativeBench:
        asked = {**(speculation or {}), **({"draft_model": str(draft)} if draft else {})}
        one = SpeculativeBench(paths[0], 1 << 20, **{"parallel": 4, "speculation": asked, **options})
        made.append(one)
        return one

    yield make
    for one in made:
        one.engine.speculation.close()
        one.close()


Plain = dict[tuple[str, bool], str]
LOOKUP = {"types": ["ngram-simple"], "ngram_simple_size_n": 2}


@pytest.fixture(scope="session")
def plain(paths: list[Path]) -> Plain:
    """(prompt, of few words) -> the answer without a guess."""
    one = SpeculativeBench(paths[0], 1 << 20, parallel=1)
    found = {}
    for is_few in (False, True):
        one.bias = FEW if is_few else []
        found |= {(prompt, is_few): one.ask(prompt, cache_prompt=False).text() for prompt in WORDS}
    one.close()
    return found


def guessed_of(client: Client) -> tuple[int, int]:
    """(tokens guessed, of which held)"""
    timings = client.finish["timings"]
    return timings.get("draft_n", 0), timings.get("draft_n_accepted", 0)


@pytest.mark.parametrize("kv_unified", [False, True])
@pytest.mark.parametrize("kind", ["lookup", "other", "same", "both"])
def test_the_answers_are_the_same(bench: Make, paths: list[Path], plain: Plain, kind: str, kv_unified: bool) -> None:
    draft = {"other": paths[1], "same": paths[0], "both": paths[1]}.get(kind)
    speculation = {"other": {}, "same": {"n_max": 6}, "both": {**LOOKUP, "types": ["ngram-simple", "draft-simple"]}}.get(kind, LOOKUP)
    one = bench(draft, speculation, kv_unified=kv_unified)
    is_few = kind in ("lookup", "both")  # and then the draft model is almost always wrong
    one.bias = FEW if is_few else []
    alone = one.ask(WORDS[0])
    assert alone.text() == plain[WORDS[0], is_few]
    assert guessed_of(alone)[0] > 0
    clients = {}
    for prompt in WORDS:
        clients[prompt] = one.submit(prompt)
        one.step()
    one.run(*clients.values())
    assert {prompt: client.text() for prompt, client in clients.items()} == {prompt: plain[prompt, is_few] for prompt in WORDS}
    assert all(client.finish["completion_tokens"] == client.num_tokens == 120 for client in clients.values())
    num_guessed, num_accepted = map(sum, zip(*map(guessed_of, clients.values()), strict=True))
    assert 0 < num_accepted <= num_guessed
    assert (num_accepted == num_guessed) == (kind == "same")
    one.check_idle()


def test_it_takes_fewer_steps(bench: Make, paths: list[Path], plain: Plain) -> None:
    one = bench(paths[0], {"n_max": 5})
    client = one.submit(WORDS[0])
    num_steps = one.step_until(lambda: client.is_over)
    assert client.text() == plain[WORDS[0], False]
    assert num_steps < 120 / 5 + 8


def test_a_draft_model_is_sure_or_silent(bench: Make, paths: list[Path], plain: Plain) -> None:
    one = bench(paths[1])
    some = one.ask(WORDS[1], cache_prompt=False)
    sure = one.ask(WORDS[1], cache_prompt=False, speculation={"p_min": 1.0})
    longer = one.ask(WORDS[1], cache_prompt=False, speculation={"n_min": 4})
    assert some.text() == sure.text() == longer.text() == plain[WORDS[1], False]
    assert guessed_of(some)[0] > guessed_of(sure)[0] == 0
    assert guessed_of(longer)[0] == 0, "at most 3 are guessed"


def test_a_seeded_answer_is_the_same(bench: Make, paths: list[Path]) -> None:
    one = bench(paths[0], LOOKUP | {"types": ["ngram-simple", "draft-simple"]})
    sampling = {"temperature": 0.9, "seed": 7, "repeat_penalty": 1.1, "dry_multiplier": 0.5}
    one.bias = FEW
    asked = {"sampling": sampling, "cache_prompt": False, "return_tokens": True}
    with_it, without = one.ask(WORDS[2], **asked), one.ask(WORDS[2], **asked, speculation={"types": []})
    assert with_it.finish["tokens"] == without.finish["tokens"]
    assert guessed_of(with_it)[1] > 0
    assert guessed_of(without) == (0, 0)


def test_probabilities_come_with_each_token(bench: Make, paths: list[Path]) -> None:
    one = bench(paths[0])
    asked = {"sampling": {"n_probs": 3}, "logprobs": True, "cache_prompt": False}
    found = []
    for speculation in ({}, {"types": []}):
        client = one.ask(WORDS[0], 40, **asked, speculation=speculation)
        found.append([entry for event in client.events for entry in event["probabilities"]])
    assert [entry["id"] for entry in found[0]] == [entry["id"] for entry in found[1]]
    assert len(found[0]) == 40
    for one_, other in zip(*found, strict=True):
        assert one_["logprob"] == pytest.approx(other["logprob"], abs=1e-3)
        assert [rival["id"] for rival in one_["top_logprobs"]] == [rival["id"] for rival in other["top_logprobs"]]


def test_the_end_in_the_middle_of_a_guess(bench: Make, paths: list[Path], plain: Plain) -> None:
    one = bench(paths[0], {"n_max": 7})
    whole = plain[WORDS[0], False]
    for max_tokens in range(1, 12):
        client = one.ask(WORDS[0], max_tokens)
        assert whole.startswith(client.text())
        assert (client.finish["completion_tokens"], client.finish["stop_type"]) == (max_tokens, "limit")
        one.check_idle()
    for start in range(20, 28):
        word = whole[start : start + 3]
        client = one.ask(WORDS[0], stop=[word])
        assert client.text() == whole[: whole.index(word)]
        assert client.finish["stop_type"] == "word"
        one.check_idle()


def test_a_grammar_holds(bench: Make, paths: list[Path]) -> None:
    one = bench(paths[0], {"n_max": 4})
    constraint = {"kind": "regex", "text": "([a-z]{3}\\.){12}", "field": "regex"}
    texts = []
    for speculation in ({}, {"types": []}):
        client = one.ask(WORDS[0], 100, constraint=constraint, sampling={"logit_bias": []}, speculation=speculation)
        assert client.finish["stop_type"] == "eos"
        texts.append(client.text())
    assert texts[0] == texts[1]
    assert texts[0].count(".") == 12


def test_the_next_turn_reuses_what_was_accepted(bench: Make, paths: list[Path], plain: Plain) -> None:
    one = bench(paths[1], LOOKUP | {"types": ["ngram-simple", "draft-simple"]})
    for _ in range(2):
        first = one.ask(WORDS[0], return_tokens=True).finish
        prompt = [*one.model.vocab.tokenize(WORDS[0]), *first["tokens"]]
        second = one.ask([*prompt, 300, 301], 40)
        assert second.finish["cached_tokens"] >= len(prompt) - 1  # more, where the first round left more
        fresh = one.ask([*prompt, 300, 301], 40, cache_prompt=False, speculation={"types": []})
        assert second.text() == fresh.text()
    one.check_idle()


@pytest.mark.parametrize("kind", ["lookup", "draft"])
def test_a_full_context_ends_as_without(bench: Make, paths: list[Path], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    one = bench(paths[0] if kind == "draft" else None, {"n_max": 8} if kind == "draft" else LOOKUP, parallel=1, ctx_size=256)
    one.bias = ONE if kind == "lookup" else []
    guess, ends = one.engine.speculation.guess, []

    def noting(decoding: list[Any], num_free_rows: int) -> None:
        guess(decoding, num_free_rows)
        ends.extend(len(one.slot.tokens) + 1 + len(one.sequence.draft) for one in decoding)

    monkeypatch.setattr(one.engine.speculation, "guess", noting)
    found = []
    for speculation in ({}, {"types": []}):
        client = one.ask(WORDS[3], -1, cache_prompt=False, speculation=speculation)
        found.append((client.text(), client.finish["completion_tokens"], client.finish["truncated"]))
        one.check_idle()
    assert found[0] == found[1]
    assert found[0][2]
    assert max(ends) <= 255, "the last token is never one of a guess: what happens in a full context happens after it"


@pytest.mark.parametrize("kind", ["lookup", "draft"])
def test_a_full_cache_truncates_no_answer_for_a_guess(bench: Make, paths: list[Path], kind: str) -> None:
    """In a unified cache the guesses of one sequence must not use the room of another."""
    one = bench(paths[0] if kind == "draft" else None, {"n_max": 8} if kind == "draft" else LOOKUP, ctx_size=256, kv_unified=True)
    one.bias = FEW if kind == "lookup" else []
    one.engine.speculation.costs.of = lambda *_: 0.0  # type: ignore[method-assign]  # guess as much as may be
    num_rows = sum(len(one.model.vocab.tokenize(prompt)) for prompt in WORDS)
    most = (256 - num_rows) // 4 + 1  # the last token of each is never decoded
    codes: list[int] = []
    decode = one.context.decode
    one.context.decode = lambda num_rows: (codes.append(decode(num_rows)), codes[-1])[1]  # type: ignore[method-assign]
    off = {"speculation": {"types": []}, "cache_prompt": False}
    texts = [one.ask(prompt, most, **off).text() for prompt in WORDS]
    ends = [next(text[-size:] for size in range(1, len(text)) if text.find(text[-size:]) == len(text) - size) for text in texts]
    del codes[:]
    clients = [one.submit(prompt, -1, stop=[end], cache_prompt=False) for prompt, end in zip(WORDS, ends, strict=True)]
    one.run(*clients)
    assert [client.text() + end for client, end in zip(clients, ends, strict=True)] == texts
    assert [client.finish["stop_type"] for client in clients] == ["word"] * 4
    assert 1 in codes, "a guess did not fit"
    one.check_idle()


def test_prompts_come_before_guesses(bench: Make, paths: list[Path]) -> None:
    one = bench(paths[0], {"n_max": 8}, ubatch_size=32)
    busy = one.submit(WORDS[0], 200)
    one.step_until(lambda: len(one.engine.running) == 1 and busy.num_tokens > 20)
    long = one.submit([300 + number % 9 for number in range(400)], 1)
    one.step()
    [running] = [running for running in one.engine.running if len(running.sequence.prompt) == 400]
    assert len(running.slot.tokens) == 31, "all of the step but the row of the stream"
    one.run(busy, long)
    one.check_idle()


def test_guesses_share_the_rows(bench: Make, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    one = bench(paths[0], {"n_max": 40})
    rows: list[int] = []
    decode = one.context.decode

    def counting(num_rows: int) -> int:
        rows.append(num_rows)
        return decode(num_rows)

    monkeypatch.setattr(one.context, "decode", counting)
    one.ask(WORDS[0], 100)
    assert max(rows) == 1 + MAX_ROWS
    del rows[:]
    one.run(*(one.submit(prompt, 100) for prompt in WORDS))
    assert max(rows[5:]) <= 4 + MAX_ROWS


def test_a_split_cache_gets_as_many_rows_for_each(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would decode the rest separately."""
    one = bench(None, LOOKUP, kv_unified=False)
    one.bias = FEW
    guess, found = one.engine.speculation.guess, []

    def noting(decoding: list[Any], num_free_rows: int) -> None:
        guess(decoding, num_free_rows)
        found.append([len(running.sequence.draft) for running in decoding])

    monkeypatch.setattr(one.engine.speculation, "guess", noting)
    one.run(*(one.submit(prompt, 200) for prompt in WORDS[:2]))
    pairs = [lengths for lengths in found if len(lengths) == 2]
    assert all(one_ == other for one_, other in pairs)
    assert sum(one_ for one_, _ in pairs) > 10
    one.run(one.submit(WORDS[0], 100), one.submit(WORDS[1], 100, speculation={"types": []}))
    assert not any(sum(lengths) for lengths in found[len(found) - 90 :] if len(lengths) == 2)
    one.check_idle()


def test_a_draft_model_reads_long_texts_in_pieces(bench: Make, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile the streams continue."""
    one = bench(paths[0], {"n_max": 4}, ctx_size=4096)
    draft = one.engine.speculation.draft
    assert draft is not None
    rows: list[int] = []
    decode = draft.context.decode
    monkeypatch.setattr(draft.context, "decode", lambda num_rows: (rows.append(num_rows), decode(num_rows))[1])
    prompt = [300 + number % 9 for number in range(500)]
    client = one.ask(prompt, 60)
    assert rows[:4] == [128, 128, 128, 501 + 3 - 3 * 128], "three tokens came meanwhile"
    assert max(rows[4:]) <= 5
    assert client.text() == one.ask(prompt, 60, speculation={"types": []}).text()
    assert guessed_of(client)[1] > 40
    one.check_idle()


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_the_answers_are_the_same(bench: Make, paths: list[Path], plain: Plain, seed: int) -> None:
    """Random requests, aborts and limits, with a draft model that is often wrong; a prompt may come back while its slot is still warm."""
    random_ = random.Random(seed)
    one = bench(paths[1], LOOKUP | {"types": ["ngram-simple", "draft-simple"]}, parallel=3, kv_unified=bool(seed % 2))
    running: list[tuple[str, int, Client]] = []
    for _ in range(40):
        prompt, max_tokens = random_.choice(WORDS), random_.choice((1, 7, 60, 120))
        is_few = random_.random() < 0.5
        one.bias = FEW if is_few else []
        client = one.submit(prompt, max_tokens, cache_prompt=random_.random() < 0.8)
        running.append((plain[prompt, is_few], max_tokens, client))
        for _ in range(random_.randrange(12)):
            one.step()
        if random_.random() < 0.25:
            victim = random_.choice(running)
            running.remove(victim)
            one.engine.abort(victim[2].request_id)
            one.ring.detach(victim[2].request_id)
    one.run(*(client for _, _, client in running))
    for answer, max_tokens, client in running:
        assert client.finish["completion_tokens"] == max_tokens
        assert answer.startswith(client.text())
        assert max_tokens < 120 or client.text() == answer
    num_accepted = sum(guessed_of(client)[1] for _, _, client in running)
    assert 0 < num_accepted < sum(guessed_of(client)[0] for _, _, client in running)
    one.check_idle()


def test_streams_with_other_adapters_beside_it(paths: list[Path], tmp_path: Path) -> None:
    """Two sets of adapters take turns; each stream's guesses are verified with its own set."""
    lora = [[str(make_lora(tmp_path / "a.gguf", seed=1)), 0.0]]
    one = SpeculativeBench(paths[0], 1 << 20, parallel=4, lora=lora, speculation=LOOKUP)
    one.bias = FEW
    asked = [(prompt, sets) for prompt in WORDS[:2] for sets in ([], [[0, 0.5]])]
    expected = [one.ask(prompt, lora=sets, cache_prompt=False, speculation={"types": []}).text() for prompt, sets in asked]
    clients = [one.submit(prompt, lora=sets) for prompt, sets in asked]
    one.run(*clients)
    assert [client.text() for client in clients] == expected
    assert all(guessed_of(client)[0] for client in clients)
    one.check_idle()
    one.close()


def test_choices_of_one_prompt(bench: Make, plain: Plain) -> None:
    one = bench(None, LOOKUP)
    one.bias = FEW
    client = one.ask(WORDS[0], n=4)
    assert [client.text(choice) for choice in range(4)] == [plain[WORDS[0], True]] * 4
    one.check_idle()


def test_a_request_chooses(bench: Make, plain: Plain) -> None:
    """Lookups need no load; a draft model does."""
    one = bench()
    one.bias = FEW
    assert not one.engine.speculation.is_on
    assert guessed_of(one.ask(WORDS[0], cache_prompt=False)) == (0, 0)
    assert not one.engine.speculation.is_wanted
    chosen = one.ask(WORDS[0], cache_prompt=False, speculation={"types": ["ngram-simple"], "ngram_size_n": 2, "n_max": 2})
    assert guessed_of(chosen)[0] > 0
    assert guessed_of(one.ask(WORDS[0], speculation={"types": ["ngram-cache"], "n_max": 0})) == (0, 0)
    longer = one.ask(WORDS[0], cache_prompt=False, speculation={"types": ["ngram-simple"], "ngram_size_n": 2, "ngram_min_hits": 100})
    assert guessed_of(longer)[0] < guessed_of(chosen)[0]
    assert chosen.text() == longer.text() == plain[WORDS[0], True]
    refused = one.ask(WORDS[0], speculation={"types": ["draft-simple"]})
    assert refused.error is not None
    assert "'speculative.type' asks for draft-simple" in refused.error["message"]
    one.check_idle()


def test_a_memory_that_cannot_forget(bench: Make) -> None:
    one = bench()
    one.context.can_cut = False
    speculation = Speculation(one.context, LoadOptions(speculation=LOOKUP))
    assert not speculation.is_on
    assert "cannot drop single tokens" in speculation.notice
    one.engine.speculation = speculation
    one.bias = FEW
    assert guessed_of(one.ask(WORDS[0])) == (0, 0)


@pytest.mark.parametrize("kind", ["sliding", "recurrent", "hybrid"])
def test_other_kinds_of_memory(tmp_path: Path, kind: str) -> None:
    """A sliding window can remove its latest tokens; a recurrent state cannot, and is not asked to."""
    memories = pytest.importorskip("tiny_memories")
    path = getattr(memories, f"make_{kind}")(tmp_path / "a.gguf")
    one = SpeculativeBench(path, 1 << 20, parallel=4, ctx_size=2048, speculation=LOOKUP)
    one.bias = FEW
    assert one.engine.speculation.is_on == (kind == "sliding")
    expected = [one.ask(prompt, cache_prompt=False, speculation={"types": []}).text() for prompt in WORDS]
    for _ in range(2):
        clients = [one.submit(prompt) for prompt in WORDS]
        one.run(*clients)
        assert [client.text() for client in clients] == expected
        assert [guessed_of(client)[0] > 0 for client in clients] == [kind == "sliding"] * 4
    one.check_idle()
    one.close()


# ---------------------------------------------------------------- loading


def make_other(path: Path, problem: str) -> Path:
    """A draft model with another vocabulary."""
    pieces, scores, kinds = make_vocabulary()
    if problem == "longer":
        more = [f"extra{number}".encode() for number in range(200)]
        pieces, scores, kinds = pieces + more, scores + [-2000.0] * 200, kinds + [1] * 200
    elif problem == "different":
        pieces = [*pieces[:-1], b";"]
    return make_llama(path, vocabulary=(pieces, scores, kinds))


@pytest.mark.parametrize(
    ("problem", "message"),
    [("longer", "it has 5\\d\\d tokens, the model 3\\d\\d"), ("different", "token 3\\d\\d is ';' there and ',' here")],
)
def test_vocabularies_must_be_the_same(paths: list[Path], tmp_path: Path, problem: str, message: str) -> None:
    other = make_other(tmp_path / "other.gguf", problem)
    options = LoadOptions(parallel=1, ctx_size=128, speculation={"draft_model": str(other)})
    model = Model(str(paths[0]), options)
    context = Context(model, options)
    with pytest.raises(LlamaError, match=f"--model-draft .*other.gguf: it cannot guess for this model: {message}"):
        Draft(context, options)
    (tmp_path / "none.gguf").write_bytes(b"GGUF")
    for name, problem in (("none", "llama|failed|could not"), ("absent", "there is no such file")):
        broken = LoadOptions(speculation={"draft_model": str(tmp_path / f"{name}.gguf")})
        with pytest.raises(LlamaError, match=f"--model-draft .*{name}.gguf: .*({problem})"):
            Draft(context, broken)
    with pytest.raises(FastrouterError, match="--model-draft is missing"):
        Speculation(context, LoadOptions(speculation={"types": ["draft-simple"]}))
    context.close()
    model.close()


def speculation_of(*argv: str, **environ: str) -> dict[str, Any]:
    config = parse(argv, environ)
    return load_options({**config.environment, **config.command_line}).speculation


def test_flags(paths: list[Path]) -> None:
    draft = str(paths[1])
    assert speculation_of() == speculation_of("--spec-type", "none") == {}
    assert speculation_of("--spec-type", "ngram-mod,ngram-simple", "--spec-type", "draft-simple") == {
        "types": ["ngram-mod", "ngram-simple", "draft-simple"]
    }
    assert speculation_of("--spec-default") == {"types": ["ngram-mod"]}
    assert speculation_of(LLAMA_ARG_SPEC_TYPE="ngram-map-k", LLAMA_ARG_SPEC_DRAFT_MODEL=draft, LLAMA_ARG_SPEC_DRAFT_N_MAX="5") == {
        "types": ["ngram-map-k"],
        "draft_model": draft,
        "n_max": 5,
    }
    words = f"-md {draft} --spec-draft-n-min 1 --draft-p-min 0.5 -ngld all -td 2 -tbd 3 -ctkd q8_0 -ctvd f32 --spec-draft-sampling greedy"
    assert speculation_of(*words.split()) == {
        "draft_model": draft,
        "n_min": 1,
        "p_min": 0.5,
        "draft_gpu_layers": 9999,
        "draft_threads": 2,
        "draft_threads_batch": 3,
        "draft_cache_type_k": "q8_0",
        "draft_cache_type_v": "f32",
    }
    words = "--spec-ngram-simple-size-n 5 --spec-ngram-simple-size-m 9 --spec-ngram-map-k4v-min-hits 2 --spec-ngram-mod-n-match 7"
    assert speculation_of(*words.split(), "--spec-ngram-mod-n-min", "3") == {
        "ngram_simple_size_n": 5,
        "ngram_simple_size_m": 9,
        "ngram_map_k4v_min_hits": 2,
        "ngram_mod_n_match": 7,
    }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--spec-type", "ngram"], "--spec-type ngram: must be one of none, draft-simple, .*, but 'ngram' is not one of them"),
        (["--spec-type", "draft-mtp"], "but draft-mtp is not supported yet"),
        (["-md", "/absent.gguf"], "--model-draft /absent.gguf: there is no such file"),
        (["--draft-p-min", "2"], "--draft-p-min 2: must be between 0 and 1"),
        (["--spec-draft-n-max", "-1"], "--spec-draft-n-max -1: must be between 0 and 1024"),
        (["--spec-ngram-simple-size-n", "0"], "--spec-ngram-simple-size-n 0: must be between 1 and 1024"),
        (["--draft-max", "16"], "--draft-max: llama-server has removed this flag; use --spec-draft-n-max"),
    ],
)
def test_flags_that_make_no_sense(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(argv, {})


def test_fields() -> None:
    asked = {"speculative.type": "ngram-mod, draft-simple", "speculative.n_max": 5, "speculative.n_min": 1, "speculative.p_min": 2}
    [generate] = read_completion({"prompt": "x", **asked}).generates
    assert generate.speculation == {"types": ["ngram-mod", "draft-simple"], "n_max": 5, "n_min": 1, "p_min": 1.0}
    [generate] = read_completion({"prompt": "x", "speculative.type": "none", "speculative.n_max": None}).generates
    assert generate.speculation == {"types": []}
    for name, value in (("type", "fast"), ("type", 3), ("n_max", "many"), ("p_min", [])):
        with pytest.raises(InvalidRequest, match=f"'speculative.{name}' must be"):
            read_completion({"prompt": "x", f"speculative.{name}": value})


def test_the_draft_model_counts(paths: list[Path], tmp_path: Path) -> None:
    """In the estimate, and as a file: when it changes, the model has changed."""
    folder = tmp_path / "models"
    folder.mkdir()
    make_llama(folder / "a.gguf")
    draft = make_llama(tmp_path / "draft.gguf")
    [plain_] = Catalog(Config(models_dir=folder)).models()
    config = parse(["--models-dir", str(folder), "-md", str(draft)], {})
    [spec] = Catalog(config).models()
    assert spec.draft is not None
    assert estimate(spec).host_bytes == pytest.approx(2 * estimate(plain_).host_bytes, rel=0.01)
    assert estimate(spec, devices={"CUDA0": 8 << 30}).device_bytes > estimate(plain_, devices={"CUDA0": 8 << 30}).device_bytes
    make_llama(draft, seed=1, n_ctx=1024)
    [changed] = Catalog(config).models()
    assert changed.fingerprint != spec.fingerprint


# ---------------------------------------------------------------- a router


def test_a_router_with_a_draft_model(router: StartRouter, paths: list[Path], models: Path) -> None:
    server = router("--model-draft", str(paths[0]), "--spec-type", "ngram-simple,draft-simple", "-c", "1024", models_dir=models)
    body = {"model": "tiny0", "prompt": "two to we all", "n_predict": 64, "temperature": 0}
    whole = server.post("/completion", body).json
    without = server.post("/completion", {**body, "speculative.type": "none"}).json
    assert whole["content"] == without["content"]
    assert whole["timings"]["draft_n"] == whole["timings"]["draft_n_accepted"] > 0, "the draft model is the model"
    assert "draft_n" not in without["timings"]
    message = {"role": "user", "content": "we a she"}
    chat = {"model": "tiny0", "messages": [message], "max_tokens": 40, "temperature": 0, "stream": True}
    with server.stream("/v1/chat/completions", chat) as stream:
        *events, last = stream.events()
    assert last["timings"]["draft_n_accepted"] > 0
    assert len(events) > 10
    assert [slot["speculative"] for slot in server.get("/slots?model=tiny0").json] == [True] * 4
    metrics = server.get("/metrics").body.decode()

    def counted(name: str) -> float:
        [value] = re.findall(rf'^{name}_total{{model="tiny0"}} (\S+)', metrics, re.MULTILINE)
        return float(value)

    accepted = whole["timings"]["draft_n_accepted"] + last["timings"]["draft_n_accepted"]
    assert counted("fastrouter_draft_tokens_accepted") == counted("llamacpp:spec_decode_num_accepted_tokens") == accepted
    assert 0 < counted("llamacpp:spec_decode_num_drafts") < counted("llamacpp:spec_decode_num_draft_tokens")
    other = server.post("/completion", {**body, "model": "tiny1"}).json  # a bad guesser, but the same vocabulary
    assert other["content"] == server.post("/completion", {**body, "model": "tiny1", "speculative.n_max": 0}).json["content"]


def test_a_draft_model_that_does_not_fit(router: StartRouter, tmp_path: Path, models: Path) -> None:
    other = make_other(tmp_path / "other.gguf", "different")
    server = router("-md", str(other), models_dir=models)
    failed = server.post("/completion", {"model": "tiny0", "prompt": "x"})
    assert failed.status == 400
    assert "it cannot guess for this model: token" in failed.error["message"]
