"""The engine in this process, on a tiny model, with a real ring: batching, reuse, choices, stops, aborts, full contexts, full rings."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_bench import (
    MAX_STEPS,
    PROMPTS,
    SYSTEM,
    Bench,
    Client,
    backends,  # noqa: F401 - starts llama.cpp once for the module
)
from tiny_models import make_llama

from fastrouter._core import EVENT, FINISH, LAST, TEXT
from fastrouter.ipc.messages import Generate


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("engine") / "tiny.gguf")


@pytest.fixture
def bench(path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(ring_bytes: int = 1 << 20, **options: Any) -> Bench:
        made.append(Bench(path, ring_bytes, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def lone(path: Path) -> dict[str, str]:
    """What each prompt gets alone, with nothing cached."""
    one = Bench(path, 1 << 20, parallel=1)
    texts = {prompt: one.ask(prompt, cache_prompt=False).text() for prompt in PROMPTS}
    one.close()
    assert len(set(texts.values())) == len(PROMPTS)
    return texts


MakeBench = Callable[..., Bench]
KINDS = [{"parallel": 4, "kv_unified": False}, {"parallel": 4, "kv_unified": True}, {}]


@pytest.mark.parametrize("options", KINDS, ids=["split", "unified", "auto"])
def test_batching_changes_nothing(bench: MakeBench, lone: dict[str, str], options: dict[str, Any]) -> None:
    one = bench(**options)
    clients = {prompt: one.submit(prompt) for prompt in PROMPTS[:4]}
    one.run(*clients.values())
    assert {prompt: client.text() for prompt, client in clients.items()} == {prompt: lone[prompt] for prompt in PROMPTS[:4]}
    one.check_idle()


def test_late_arrivals_and_more_requests_than_slots(bench: MakeBench, lone: dict[str, str]) -> None:
    one = bench(parallel=3)
    clients = []
    for number in range(4):
        for prompt in PROMPTS:
            clients.append((prompt, one.submit(prompt)))
            for _ in range(number):
                one.step()
        assert len(one.engine.running) <= 3
    one.run(*(client for _, client in clients))
    for prompt, client in clients:
        assert client.text() == lone[prompt]
        assert client.finish["completion_tokens"] == 24
    one.check_idle()


@pytest.mark.parametrize("sizes", [(1, 1), (2, 64), (64, 2)], ids=str)
def test_a_batch_smaller_than_the_number_of_slots(bench: MakeBench, lone: dict[str, str], sizes: tuple[int, int]) -> None:
    """llama.cpp would abort the process; and a prompt still gets rows while three others stream."""
    one = bench(parallel=4, batch_size=sizes[0], ubatch_size=sizes[1])
    others = [one.submit(prompt, 500) for prompt in PROMPTS[1:4]]
    one.step_until(lambda: all(other.texts for other in others))
    assert one.ask(PROMPTS[0]).text() == lone[PROMPTS[0]]
    assert not any(other.is_over for other in others)
    one.run(*others)
    one.check_idle()


def test_first_come_first_served(bench: MakeBench) -> None:
    one = bench(parallel=1)
    clients = [one.submit(prompt, 4) for prompt in PROMPTS]
    for client in clients:
        one.step_until(lambda client=client: client.is_over)  # type: ignore[misc]
        assert [c.is_over for c in clients] == [c in clients[: clients.index(client) + 1] for c in clients]


def test_many_choices_of_many_prompts_do_not_hold_up_another_request(bench: MakeBench, lone: dict[str, str]) -> None:
    one = bench(parallel=2)
    many = [one.submit(prompt, 10, n=12, exchange=1) for prompt in PROMPTS[1:]]
    one.step_until(lambda: bool(many[0].finishes))
    other = one.submit(PROMPTS[0], exchange=2)
    num_before = sum(len(client.finishes) for client in many)
    one.step_until(lambda: bool(other.texts))
    assert sum(len(client.finishes) for client in many) - num_before <= 2, "no more than had a slot when it came"
    one.run(other, *many)
    assert other.text() == lone[PROMPTS[0]]
    assert all(sorted(client.finishes) == list(range(12)) for client in many)
    one.check_idle()


def test_finish_record(bench: MakeBench) -> None:
    one = bench(parallel=2)
    finish = one.ask(PROMPTS[0], 8, return_tokens=True, verbose=True).finish
    assert (finish["stop_type"], finish["completion_tokens"], finish["truncated"]) == ("limit", 8, False)
    assert finish["prompt_tokens"] == len(one.model.vocab.tokenize(PROMPTS[0]))
    assert len(finish["tokens"]) == 8
    assert finish["prompt"] == f"<s> {PROMPTS[0]}"
    assert finish["generation_settings"]["temperature"] == 0
    assert finish["timings"]["predicted_n"] == 8
    assert finish["timings"]["prompt_n"] == finish["prompt_tokens"]


def test_decodes_are_counted(bench: MakeBench) -> None:
    one = bench(parallel=2)
    num_calls, decode = 0, one.context.decode

    def counted(num_rows: int) -> int:
        nonlocal num_calls
        num_calls += 1
        return decode(num_rows)

    one.context.decode = counted  # type: ignore[method-assign]
    finishes = [one.ask(PROMPTS[0], 8).finish]
    clients = [one.submit(PROMPTS[0], 20), one.submit(PROMPTS[1], 10), one.submit([1], 0)]
    one.run(*clients)
    finishes += [client.finish for client in clients]
    assert sum(finish["num_decodes"] for finish in finishes) == num_calls
    assert [finish["num_busy_decodes"] for finish in finishes] == [8, 20, 10, 1]


def test_tokens_are_counted_with_their_text(bench: MakeBench) -> None:
    one = bench(parallel=2)
    client = one.ask(PROMPTS[0], 24)
    assert client.num_tokens == 24


# ---------------------------------------------------------------- prefix reuse


def test_next_turn_reuses_its_slot(bench: MakeBench, lone: dict[str, str]) -> None:
    one = bench(parallel=4)
    first = one.ask(PROMPTS[0], return_tokens=True).finish
    one.ask(PROMPTS[1])
    prompt = one.model.vocab.tokenize(PROMPTS[0])
    second = one.ask([*prompt, *first["tokens"], 300, 301]).finish
    assert second["id_slot"] == first["id_slot"]
    assert second["cached_tokens"] == len(prompt) + 23  # the last token was never decoded
    assert second["timings"]["cache_n"] == second["cached_tokens"]
    again = one.ask(PROMPTS[0])
    assert again.finish["cached_tokens"] == len(prompt) - 1  # the last token is decoded for its logits
    assert again.text() == lone[PROMPTS[0]]
    one.check_idle()


def test_no_reuse_when_told(bench: MakeBench, lone: dict[str, str]) -> None:
    one = bench(parallel=1)
    for _ in range(2):
        client = one.ask(PROMPTS[0], cache_prompt=False)
        assert client.finish["cached_tokens"] == 0
        assert client.text() == lone[PROMPTS[0]]


def test_other_conversations_keep_their_slots(bench: MakeBench) -> None:
    one = bench(parallel=4)
    slots = [one.ask(prompt, 4).finish["id_slot"] for prompt in PROMPTS[:4]]
    assert sorted(slots) == [0, 1, 2, 3]
    assert [one.ask(prompt, 4).finish["id_slot"] for prompt in PROMPTS[:4]] == slots


def test_reuse_equals_a_fresh_start(bench: MakeBench, path: Path) -> None:
    """A cut in the middle of a slot's tokens leaves nothing of what came after it."""
    one = bench(parallel=1, cache_type_k="f32", cache_type_v="f32")
    shared = [40 + number for number in range(100)]
    for tail in ([290, 291, 292], [295], [270, 271, 272, 273, 274]):
        for size in (100, 50, 7, 99):
            prompt = shared[:size] + tail
            reused = one.ask(prompt, 6)
            fresh = one.ask(prompt, 6, cache_prompt=False)
            assert reused.text() == fresh.text()
            one.check_idle()


@pytest.mark.parametrize("is_unified", [True, False])
@pytest.mark.parametrize("is_busy", [True, False])
def test_a_start_that_another_slot_holds_is_copied(bench: MakeBench, is_unified: bool, is_busy: bool) -> None:
    fresh = bench(ctx_size=4096, parallel=4, kv_unified=is_unified)
    alone = [fresh.ask(SYSTEM + prompt, cache_prompt=False).text() for prompt in PROMPTS[:3]]
    here = bench(ctx_size=4096, parallel=4, kv_unified=is_unified)
    first = here.submit(SYSTEM + PROMPTS[0])
    here.step_until((lambda: bool(first.texts)) if is_busy else lambda: first.is_over)
    others = [here.submit(SYSTEM + prompt, id_slot=slot) for slot, prompt in ((2, PROMPTS[1]), (3, PROMPTS[2]))]
    here.run(first, *others)
    num_shared = len(here.engine.prompts.tokenize(SYSTEM.strip(), add_special=True, parse_special=True)) - 1
    # Moving a split cache's memory may not be worth it; measured speed decides.
    cached = [client.finish["cached_tokens"] for client in others]
    assert all(count >= num_shared for count in cached) or not (is_unified or any(cached))
    assert [client.text() for client in (first, *others)] == alone
    assert first.finish["cached_tokens"] == 0
    here.check_idle()


def test_id_slot(bench: MakeBench) -> None:
    one = bench(parallel=3)
    assert one.ask(PROMPTS[0], 4, id_slot=2).finish["id_slot"] == 2
    busy = one.submit(PROMPTS[0], 60, id_slot=1)
    one.step()
    insists, passes = one.submit(PROMPTS[1], 4, id_slot=1), one.submit(PROMPTS[2], 4)
    one.run(passes)
    assert not insists.is_over
    one.run(insists, busy)
    assert insists.finish["id_slot"] == 1
    one.check_idle()


# ---------------------------------------------------------------- choices


@pytest.mark.parametrize("options", KINDS, ids=["split", "unified", "auto"])
@pytest.mark.parametrize("n", [2, 4, 7])
def test_greedy_choices_are_all_the_same(bench: MakeBench, lone: dict[str, str], options: dict[str, Any], n: int) -> None:
    one = bench(**options)
    client = one.ask(PROMPTS[0], n=n)
    assert [client.text(choice) for choice in range(n)] == [lone[PROMPTS[0]]] * n
    assert sorted(client.finishes) == list(range(n))
    one.check_idle()


def test_seeded_choices(bench: MakeBench) -> None:
    one = bench(parallel=4)
    texts = []
    for _ in range(2):
        client = one.ask(PROMPTS[0], n=3, sampling={"temperature": 1.5, "seed": 5})
        texts.append([client.text(choice) for choice in range(3)])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 3


CHAINS = [
    {"temperature": 1.5},
    {"temperature": 1.5, "typical_p": 0.9, "top_k": 0},
    {"temperature": 1.5, "xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"temperature": 1.2, "dry_multiplier": 0.8, "dry_allowed_length": 1, "repeat_penalty": 1.1},
    {"temperature": 1.5, "mirostat": 2, "mirostat_tau": 4.0},
    {"temperature": 1.5, "samplers": ["temperature", "top_k"], "dynatemp_range": 0.5},
]


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_a_seed_gives_its_text_alone_and_among_others(bench: MakeBench, chain: dict[str, Any]) -> None:
    one = bench(parallel=4)
    sampling = {**chain, "seed": 11}
    alone = one.ask(PROMPTS[0], cache_prompt=False, sampling=sampling).text()
    others = [one.submit(prompt, 30, sampling={"temperature": 1.0}) for prompt in PROMPTS[1:3]]
    one.step()
    beside = one.submit(PROMPTS[0], cache_prompt=False, sampling=sampling)
    one.run(beside, *others)
    assert beside.text() == alone
    assert one.ask(PROMPTS[0], cache_prompt=False, sampling={**chain, "seed": 12}).text() != alone


def test_defaults_of_the_file_then_the_options_then_the_request(bench: MakeBench, tmp_path: Path) -> None:
    keys: dict[str, float | str] = {"top_k": 7, "temp": 0.25, "penalty_last_n": 5, "sequence": "temperature;top_k"}
    path = make_llama(tmp_path / "keys.gguf", sampling=keys)
    one = Bench(path, 1 << 20, sampling={"temperature": 0.5, "top_k": 8})
    try:
        client = one.ask("x", 2, sampling={"top_k": 9, "temperature": 0.75}, verbose=True)
        settings = client.finish["generation_settings"]
        assert [settings[name] for name in ("top_k", "temperature", "repeat_last_n")] == [9, 0.75, 5]
        assert settings["samplers"] == ["temperature", "top_k"]
        assert (one.engine.sampling["temperature"], one.engine.sampling["top_k"]) == (0.5, 8)
    finally:
        one.close()


def test_choices_beside_others(bench: MakeBench, lone: dict[str, str]) -> None:
    one = bench(parallel=3)
    others = [one.submit(prompt) for prompt in PROMPTS[1:4]]
    client = one.submit(PROMPTS[0], n=3)
    others += [one.submit(prompt) for prompt in PROMPTS[4:]]
    one.run(client, *others)
    assert [client.text(choice) for choice in range(3)] == [lone[PROMPTS[0]]] * 3
    assert [other.text() for other in others] == [lone[prompt] for prompt in PROMPTS[1:]]
    one.check_idle()


def test_choices_that_end_at_once(bench: MakeBench) -> None:
    one = bench(parallel=4)
    for n in (2, 4, 6):
        for max_tokens in (0, 1):
            client = one.ask(PROMPTS[0], max_tokens, n=n)
            assert [client.finishes[choice]["completion_tokens"] for choice in range(n)] == [max_tokens] * n
        ended = one.ask(PROMPTS[0], n=n, sampling={"logit_bias": [[2, 1000.0]]})
        assert {finish["stop_type"] for finish in ended.finishes.values()} == {"eos"}
    one.check_idle()


# ---------------------------------------------------------------- ends


def test_stop_words_never_leak(bench: MakeBench, lone: dict[str, str]) -> None:
    one = bench(parallel=4)
    plain = lone[PROMPTS[0]]
    for start in range(0, len(plain) - 8, 3):
        for size in (1, 2, 5, 8):
            word = plain[start : start + size]
            client = one.ask(PROMPTS[0], stop=["never", word, word + "x"])
            assert client.text() == plain[: plain.index(word)]
            assert (client.finish["stop_type"], client.finish["stopping_word"]) == ("word", word)
    unstopped = one.ask(PROMPTS[0], stop=[plain + "!"])
    assert unstopped.text() == plain
    one.check_idle()


def test_end_of_generation(bench: MakeBench) -> None:
    one = bench(parallel=1)
    client = one.ask(PROMPTS[0], sampling={"logit_bias": [[2, 1000.0]]})
    assert (client.text(), client.finish["stop_type"], client.finish["completion_tokens"]) == ("", "eos", 1)
    ignored = one.ask(PROMPTS[0], sampling={"logit_bias": [[2, 1000.0]], "ignore_eos": True})
    assert ignored.finish["stop_type"] == "limit"


def test_context_full(bench: MakeBench) -> None:
    one = bench(parallel=2, ctx_size=512, kv_unified=False)
    clients = [one.submit(prompt, -1) for prompt in PROMPTS[:2]]
    one.run(*clients)
    for client in clients:
        assert (client.finish["stop_type"], client.finish["truncated"]) == ("limit", True)
        assert client.finish["prompt_tokens"] + client.finish["completion_tokens"] == 256
    one.check_idle()


def test_longest_prompt_that_fits(bench: MakeBench) -> None:
    one = bench(parallel=1, ctx_size=256)
    fits = one.ask([5] * 255, 10)
    assert (fits.finish["completion_tokens"], fits.finish["truncated"]) == (1, True)
    for size in (256, 257, 5000):
        refused = one.ask([5] * size)
        assert refused.error is not None
        assert refused.error["class"] == "ContextExceeded"
        assert refused.error["extra"] == {"n_prompt_tokens": size, "n_ctx": 256}
    one.check_idle()


def test_context_of_the_training(bench: MakeBench) -> None:
    assert bench(parallel=1, ctx_size=8192).context.n_ctx_slot == 2048


def test_empty_prompt(bench: MakeBench) -> None:
    one = bench(parallel=1)
    assert one.ask("", 3).finish["prompt_tokens"] == 1  # BOS


@pytest.mark.parametrize("prompt", [[], [99999], [-1], ["a", None], [True]])
def test_bad_prompts(bench: MakeBench, prompt: list[Any]) -> None:
    one = bench(parallel=1)
    client = one.submit(prompt)
    one.ring.drain()
    assert client.error is not None
    assert client.error["class"] == "InvalidRequest"
    one.check_idle()


# ---------------------------------------------------------------- aborts


def test_abort_frees_the_slot(bench: MakeBench, lone: dict[str, str]) -> None:
    one = bench(parallel=1)
    client = one.submit(PROMPTS[0], 1000)
    waiting = one.submit(PROMPTS[1])
    one.step_until(lambda: len(client.texts) > 0)
    one.engine.abort(client.request_id)
    assert one.engine.slots.idle
    num_records = client.num_records
    one.step()
    assert len(one.engine.running) == 1
    one.run(waiting)
    assert client.num_records == num_records
    assert waiting.text() == lone[PROMPTS[1]]
    one.ring.detach(client.request_id)
    one.check_idle()


@pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
@pytest.mark.parametrize("n", [1, 3, 6])
def test_abort_at_any_time(bench: MakeBench, lone: dict[str, str], num_steps: int, n: int) -> None:
    one = bench(parallel=4, ubatch_size=32)
    victim = one.submit([40 + number for number in range(100)], 1000, n=n)
    other = one.submit(PROMPTS[0])
    for _ in range(num_steps):
        one.step()
    request_id = victim.request_id
    one.engine.abort(request_id)
    one.engine.abort(request_id)
    one.engine.abort(12345)
    one.ring.detach(request_id)
    one.run(other)
    assert other.text() == lone[PROMPTS[0]]
    assert one.ask(PROMPTS[1]).text() == lone[PROMPTS[1]]
    one.check_idle()


# ---------------------------------------------------------------- a full ring


@pytest.mark.parametrize("num_steps", [0, 2])
def test_a_prompt_that_is_cancelled_ends_its_step(bench: MakeBench, lone: dict[str, str], num_steps: int) -> None:
    """Inside llama_decode, before the message is read; what the step has added to the KV is removed."""
    one = bench(parallel=2, kv_unified=True, ubatch_size=64)
    client, waiting = one.submit([40 + number % 200 for number in range(1000)]), one.submit(PROMPTS[1], id_slot=0)
    one.step_until(lambda: bool(one.engine.running))
    for _ in range(num_steps):
        one.step()
    waiting_id, request_id = waiting.request_id, client.request_id
    one.engine.abort(waiting_id)
    one.ring.detach(waiting_id)
    held = len(one.engine.running[0].slot.tokens)
    one.ring.detach(request_id)
    one.ring.cancel(request_id)
    one.step()
    one.check_idle()
    assert held in (len(slot.tokens) for slot in one.engine.slots.all), "what was whole is kept"
    assert one.ask(PROMPTS[0]).text() == lone[PROMPTS[0]]
    one.check_idle()


def test_a_cancel_costs_no_other_request_its_step(bench: MakeBench, lone: dict[str, str]) -> None:
    one = bench(parallel=2, ubatch_size=64)
    gone, other = one.submit([40 + number % 200 for number in range(1000)]), one.submit(PROMPTS[0])
    request_id = gone.request_id
    one.ring.detach(request_id)
    one.ring.cancel(request_id)
    one.run(other)
    one.engine.abort(request_id)
    assert other.text() == lone[PROMPTS[0]]
    one.check_idle()


def test_full_ring_loses_nothing(bench: MakeBench, lone: dict[str, str]) -> None:
    one = bench(ring_bytes=4096, parallel=4)
    clients = [(prompt, one.submit(prompt, 24)) for prompt in PROMPTS * 4]
    num_blocked = 0
    for number in range(MAX_STEPS):
        one.engine.step()
        num_blocked += one.engine.is_blocked
        if number % 37 == 0:  # a router that reads rarely
            one.ring.drain()
        if all(client.is_over for _, client in clients):
            break
    assert num_blocked
    assert [client.text() for _, client in clients] == [lone[prompt] for prompt, _ in clients]
    one.check_idle()


def test_nothing_is_decoded_while_the_ring_is_full(bench: MakeBench) -> None:
    one = bench(ring_bytes=4096, parallel=1)
    client = one.submit(PROMPTS[0], 1000)
    while not one.engine.is_blocked:
        one.engine.step()
    [running] = one.engine.running
    num_generated = running.sequence.num_generated
    for _ in range(10):
        one.engine.step()
    assert running.sequence.num_generated == num_generated
    one.run(client)
    assert client.num_tokens == 1000


def test_finish_that_is_too_large_for_the_ring(bench: MakeBench) -> None:
    """An echoed prompt and a long list of tokens must not end the worker."""
    one = bench(ring_bytes=4096, parallel=1)
    client = one.ask("the cat " * 400, 700, verbose=True, return_tokens=True)
    assert client.finish["completion_tokens"] == 700
    client = one.ask("the cat", 5, verbose=True, stop=["x" * 5000])
    assert client.finish["completion_tokens"] == 5
    one.check_idle()


def test_error_that_is_too_large_for_the_ring(bench: MakeBench) -> None:
    one = bench(ring_bytes=16384, parallel=1, chat_template="{{ raise_exception('no ' + messages[0].role) }}")
    client = Client()
    request_id = one.ring.attach(client)
    one.engine.submit(request_id, Generate(messages=[{"role": "x" * 100_000, "content": "a"}]))
    one.run(client)
    assert client.error is not None
    assert "no xxx" in client.error["message"]
    one.check_idle()


@pytest.mark.parametrize("kind", [TEXT, EVENT, FINISH])
def test_a_record_that_no_ring_holds_is_its_requests_error(bench: MakeBench, kind: int) -> None:
    one = bench(ring_bytes=4096)
    clients = [Client(), Client()]
    ids = [one.ring.attach(client) for client in clients]
    one.outbox.push(ids[0], kind, 0, 0, 1, b"x" * 5000)
    one.outbox.push(ids[1], TEXT, 0, LAST, 1, b"whole")
    one.ring.drain()
    assert clients[0].error is not None
    assert "more than the limit" in clients[0].error["message"]
    assert (clients[1].error, clients[1].text()) == (None, "whole")


def test_abort_while_the_ring_is_full(bench: MakeBench, lone: dict[str, str]) -> None:
    one = bench(ring_bytes=4096, parallel=2)
    client = one.submit(PROMPTS[0], 1000)
    other = one.submit(PROMPTS[1])
    while not one.engine.is_blocked:
        one.engine.step()
    request_id = client.request_id
    one.engine.abort(request_id)
    one.ring.detach(request_id)
    one.run(other)
    assert other.text() == lone[PROMPTS[1]]
    one.check_idle()


# ---------------------------------------------------------------- KV pressure


def test_unified_cache_smaller_than_all_prompts(bench: MakeBench) -> None:
    one = bench(parallel=4, kv_unified=True, ctx_size=512, ubatch_size=64)
    prompts = [[40 + (7 * number + offset) % 200 for number in range(200)] for offset in range(6)]
    clients = [one.submit(prompt, 16) for prompt in prompts]
    one.run(*clients)
    for client in clients:
        assert client.finish["prompt_tokens"] == 200
        assert client.finish["completion_tokens"] == 16
        assert not client.finish["truncated"]
    one.check_idle()


def test_idle_slots_give_way(bench: MakeBench, lone: dict[str, str]) -> None:
    one = bench(parallel=4, kv_unified=True, ctx_size=512)
    for offset in range(4):
        assert one.ask([40 + (7 * number + offset) % 200 for number in range(150)], 8).finish["completion_tokens"] == 8
    assert one.ask([50] * 480, 8).finish["completion_tokens"] == 8
    assert one.ask(PROMPTS[0]).text() == lone[PROMPTS[0]]
    one.check_idle()


@pytest.mark.parametrize("cache_ram_mib", [0, 64], ids=["computed again", "from RAM"])
@pytest.mark.parametrize("num_slots", [4, 8])
def test_no_answer_is_cut_by_others(bench: MakeBench, num_slots: int, cache_ram_mib: int) -> None:
    """A unified cache holds two of eight such answers: the youngest wait with their tokens, and later continue unchanged."""
    exact = {"cache_type_k": "f32", "cache_type_v": "f32", "threads": 1}
    alone = bench(parallel=1, ctx_size=512, cache_ram_mib=0, **exact)
    expected = [alone.ask(prompt, 200, cache_prompt=False, return_tokens=True).finish["tokens"] for prompt in PROMPTS]
    one = bench(parallel=num_slots, kv_unified=True, ctx_size=512, cache_ram_mib=cache_ram_mib, **exact)
    clients = [one.submit(prompt, 200, return_tokens=True) for prompt in PROMPTS]
    one.run(*clients)
    for client, tokens in zip(clients, expected, strict=True):
        finish = client.finish
        assert (finish["stop_type"], finish["completion_tokens"], finish["truncated"]) == ("limit", 200, False)
        assert client.num_tokens == 200
        assert finish["tokens"] == tokens
    one.check_idle()


def test_decodes_that_outgrow_a_unified_cache(bench: MakeBench) -> None:
    """Each ends at the end of the context that it would have alone."""
    one = bench(parallel=4, kv_unified=True, ctx_size=256)
    clients = [one.submit(prompt, -1) for prompt in PROMPTS[:4]]
    one.run(*clients)
    for client in clients:
        assert client.finish["truncated"]
        assert client.finish["completion_tokens"] + client.finish["prompt_tokens"] == 256
    one.check_idle()


def test_choices_under_pressure(bench: MakeBench) -> None:
    one = bench(parallel=4, kv_unified=True, ctx_size=256, ubatch_size=64)
    clients = [one.submit([40 + (7 * number + offset) % 200 for number in range(120)], 40, n=3) for offset in range(3)]
    one.run(*clients)
    for client in clients:
        assert client.error is None
        assert sorted(client.finishes) == [0, 1, 2]
    one.check_idle()


def test_timings_per_token(bench: MakeBench, lone: dict[str, str]) -> None:
    one = bench(parallel=1)
    client = one.ask(PROMPTS[0], timings_per_token=True)
    assert "".join(event["text"] for event in client.events) == lone[PROMPTS[0]]
    assert [event["timings"]["predicted_n"] for event in client.events][-1] == 24


def test_long_prompt_leaves_room_for_others(bench: MakeBench) -> None:
    one = bench(parallel=2, kv_unified=True, ubatch_size=64)
    running = one.submit(PROMPTS[0], 500)
    one.step_until(lambda: running.num_records > 0)
    before = running.num_records
    long = one.submit([40 + number % 200 for number in range(1400)], 1)
    num_steps = one.step_until(lambda: long.is_over)
    assert num_steps >= 1400 // 64
    assert running.num_tokens - before >= num_steps - 3
    one.engine.abort(running.request_id)
