"""Context shift on a tiny model: the decision, llama-server's own tokens, the state of the KV cache, and shared caches."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import StartRouter, eventually
from engine_bench import PROMPTS, SYSTEM, Bench
from tiny_models import make_llama

from fastrouter.worker.engine.context_shift import plan_shift
from fastrouter.worker.llama.binding import start_backends

# llama-server b11434's tokens: -c 256 -np 1 --context-shift -ctk f32 -ctv f32 -fa off, temperature 0, n_predict 500.
RECORDED = json.loads((Path(__file__).parent.parent / "rival" / "recorded" / "context_shift.json").read_text())
EXACT = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": "off"}  # no rounding decides a token
PROMPT = [1, *(260 + 7 * number % 60 for number in range(60))]

MakeBench = Callable[..., Bench]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    start_backends()
    return make_llama(tmp_path_factory.mktemp("shift") / "tiny.gguf")


@pytest.fixture
def bench(path: Path) -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(path, 1 << 20, **{"context_shift": True, **EXACT, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("num_keep", "num_discard", "planned"),
    [
        (1, 0, (1, 127)),
        (64, 0, (64, 95)),
        (64, 20, (64, 20)),
        (64, 5000, (64, 190)),  # one token stays after the start that is kept
        (5000, 0, (252, 1)),
    ],
)
def test_plan(num_keep: int, num_discard: int, planned: tuple[int, int]) -> None:
    assert plan_shift(255, 256, num_keep, num_discard) == planned


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: f"keep {case['n_keep']} discard {case['n_discard']}")
def test_tokens_are_those_of_llama_server(bench: MakeBench, case: dict[str, Any]) -> None:
    one = bench(parallel=1, ctx_size=256)
    fields = {"n_keep": case["n_keep"], "n_discard": case["n_discard"]}
    finish = one.ask(PROMPT, 500, return_tokens=True, verbose=True, **fields).finish
    assert finish["tokens"] == case["tokens"]
    assert (finish["stop_type"], finish["truncated"], finish["held_tokens"]) == ("limit", True, case["tokens_cached"])
    assert finish["generation_settings"].items() >= fields.items()
    one.check_idle()


def test_keep_of_the_load_options(bench: MakeBench) -> None:
    [case] = [case for case in RECORDED if (case["n_keep"], case["n_discard"]) == (5, 0)]
    one = bench(parallel=1, ctx_size=256, n_keep=5)
    assert one.ask(PROMPT, 500, return_tokens=True).finish["tokens"] == case["tokens"]


def test_moved_tokens_are_not_the_start_of_a_prompt(bench: MakeBench) -> None:
    """Neither while the sequence runs nor afterwards; the start that was kept is."""
    one = bench(parallel=2, ctx_size=512, kv_unified=True)
    running = one.submit(PROMPT, 600, n_keep=40)
    one.step_until(lambda: one.engine.slots.all[0].num_exact == 41)
    held = list(one.engine.slots.all[0].tokens[:60])
    beside = one.ask(held, 4, id_slot=1)
    assert beside.finish["cached_tokens"] == 41
    fresh = one.ask(held, 4, id_slot=1, cache_prompt=False).text()
    assert beside.text() == fresh
    one.run(running)
    one.check_idle()
    assert one.engine.slots.all[0].num_exact == 41
    after = one.ask(held, 4, id_slot=0)
    assert after.text() == fresh


@pytest.mark.parametrize("is_unified", [True, False])
def test_choices_and_copies_shift_alone(bench: MakeBench, is_unified: bool) -> None:
    """A sequence that shares cells with others gets separate ones before it moves them."""
    options = {"ctx_size": 2048 if is_unified else 4 * 256, "parallel": 4, "kv_unified": is_unified}
    path_context = {"n_discard": 8, "n_keep": 4}
    one = bench(**options)
    one.context.n_ctx_slot = 256
    alone = one.ask(SYSTEM + PROMPTS[0], 250, cache_prompt=False, **path_context).text()
    other = one.ask(SYSTEM + PROMPTS[1], 250, cache_prompt=False, **path_context).text()
    for slot in one.engine.slots.all:
        one.engine.prefixes.forget(slot)
    client = one.submit(SYSTEM + PROMPTS[0], 250, n=2, **path_context)
    one.step_until(lambda: bool(client.texts))
    copied = one.submit(SYSTEM + PROMPTS[1], 250, **path_context)
    one.run(client, copied)
    assert [client.text(0), client.text(1), copied.text()] == [alone, alone, other]
    assert all(finish["truncated"] for finish in (*client.finishes.values(), copied.finish))
    one.check_idle()


def test_a_prompt_that_fills_the_context_with_several_choices(bench: MakeBench) -> None:
    one = bench(parallel=4, ctx_size=256, kv_unified=True)
    client = one.ask([5 + number % 200 for number in range(255)], 20, n=3)
    assert [client.finishes[choice]["completion_tokens"] for choice in range(3)] == [20, 20, 20]
    assert client.text(0) == client.text(1) == client.text(2)
    one.check_idle()


def test_no_room_to_take_its_own(bench: MakeBench) -> None:
    """A unified cache that fills up with several sequences: each ends and says so, none hangs."""
    one = bench(parallel=4, ctx_size=256, kv_unified=True)
    clients = [one.submit(prompt, 400) for prompt in PROMPTS[:3]] + [one.submit(PROMPTS[3], 400, n=2)]
    one.run(*clients)
    for client in clients:
        assert client.error is None
        for finish in client.finishes.values():
            assert finish["truncated"]
            assert finish["completion_tokens"] > 0
    one.check_idle()


def test_prompts_that_are_too_long_are_refused(bench: MakeBench) -> None:
    refused = bench(parallel=1, ctx_size=256).ask([5] * 256)
    assert refused.error is not None
    assert refused.error["class"] == "ContextExceeded"


def test_stream_that_goes_on_for_ever(bench: MakeBench) -> None:
    one = bench(parallel=1, ctx_size=256)
    client = one.submit(PROMPTS[0], -1)
    one.step_until(lambda: client.num_tokens > 1000)
    assert not client.is_over
    one.engine.abort(client.request_id)
    one.ring.detach(client.request_id)
    one.check_idle()


def test_a_memory_that_cannot_shift(router: StartRouter, tmp_path: Path) -> None:
    """It is reported once, and answers end as without the flag."""
    make_llama(tmp_path / "sections.gguf", architecture="qwen2vl")
    server = router("--context-shift", "-c", "256", "-np", "1", models_dir=tmp_path)
    body = server.post("/completion", {"model": "sections", "prompt": PROMPTS[0], "n_predict": 300}).json
    assert (body["stop_type"], body["truncated"]) == ("limit", True)
    assert body["tokens_evaluated"] + body["tokens_predicted"] == 256
    eventually(lambda: server.log.count("--context-shift is off") == 1, "its line in the log")


def test_over_http(router: StartRouter, models: Path) -> None:
    server = router("--context-shift", "--keep", "3", "-c", "256", "-np", "1", models_dir=models)
    asked = {"model": "tiny0", "prompt": PROMPTS[0], "temperature": 0, "n_predict": 300}
    body = server.post("/completion", asked).json
    assert (body["tokens_predicted"], body["truncated"], body["stop_type"]) == (300, True, "limit")
    assert body["tokens_cached"] < 256
    assert (body["generation_settings"]["n_keep"], body["generation_settings"]["n_discard"]) == (3, 0)
    listing = server.get("/models").json["data"]
    [args] = [entry["status"]["args"] for entry in listing if entry["id"] == "tiny0"]
    assert "--context-shift" in args
    assert server.post("/completion", {**asked, "n_discard": -1}).status == 400
