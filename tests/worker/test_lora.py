"""LoRA adapters: what they compute, which requests share a batch and a cache, the scales of a request and of the server, broken files."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter, text_of
from engine_bench import PROMPTS, Bench, Client
from tiny_models import make_llama, make_lora

from fastrouter.worker.llama.binding import start_backends
from fastrouter.worker.schedule import adapter_turns

Lora = list[list[Any]]
Lone = dict[tuple[str, str], str]  # by name of the set and prompt
# Ids are seeds. The best token of each of the first 24 steps is at least 0.01 above the second; a 32-bit cache moves no logit by that much.
SETS: dict[str, Lora] = {"plain": [], "first": [[0, 1.0]], "second": [[1, 1.0]], "two": [[0, 0.5], [2, 1.0]]}
ASKED = (PROMPTS[0], PROMPTS[4], PROMPTS[6])
EXACT = {"cache_type_k": "f32", "cache_type_v": "f32"}
KINDS = [{"parallel": 4, "kv_unified": False, "ctx_size": 2048}, {"parallel": 4, "kv_unified": True, "ctx_size": 1024}]
LONG = [40 + number % 200 for number in range(120)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.gguf and the adapters lora0.gguf to lora2.gguf."""
    folder = tmp_path_factory.mktemp("lora")
    make_llama(folder / "tiny.gguf")
    for seed in range(3):
        make_lora(folder / f"lora{seed}.gguf", seed=seed, task_name="count" if seed == 1 else None)
    return folder


@pytest.fixture(scope="module", autouse=True)
def backends() -> None:
    start_backends()


MakeBench = Callable[..., Bench]


@pytest.fixture
def bench(folder: Path) -> Iterator[MakeBench]:
    """An engine with all three adapters, none applied."""
    made: list[Bench] = []

    def make(path: Path = folder / "tiny.gguf", scales: tuple[float, ...] = (0.0, 0.0, 0.0), **options: Any) -> Bench:
        lora = [[str(folder / f"lora{seed}.gguf"), scale] for seed, scale in enumerate(scales)]
        made.append(Bench(path, 1 << 20, lora=lora, **EXACT, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def lone(folder: Path) -> Lone:
    """The answer to each prompt with each set, alone and with an empty cache."""
    lora = [[str(folder / f"lora{seed}.gguf"), 0.0] for seed in range(3)]
    one = Bench(folder / "tiny.gguf", 1 << 20, lora=lora, parallel=1, ctx_size=512, **EXACT)
    asked = itertools.product(SETS, ASKED)
    texts = {(name, prompt): one.ask(prompt, cache_prompt=False, lora=SETS[name]).text() for name, prompt in asked}
    one.close()
    assert len(set(texts.values())) == len(SETS) * len(ASKED)
    return texts


# ---------------------------------------------------------------- what they compute


@pytest.mark.parametrize("name", ["first", "second", "two"])
def test_an_adapter_computes_what_merged_weights_do(bench: MakeBench, lone: Lone, tmp_path: Path, name: str) -> None:
    path = make_llama(tmp_path / "merged.gguf", adapters=[(adapter_id, scale) for adapter_id, scale in SETS[name]])
    merged = bench(path, scales=(), parallel=1, ctx_size=512)
    for prompt in ASKED:
        assert merged.ask(prompt).text() == lone[name, prompt]


def test_no_adapter_and_scale_0_are_the_model_itself(bench: MakeBench, lone: Lone) -> None:
    without = bench(scales=(), parallel=1, ctx_size=512)
    one = bench(parallel=1, ctx_size=512)
    for prompt in ASKED:
        assert without.ask(prompt).text() == lone["plain", prompt]
        assert one.ask(prompt, lora=[[0, 0.0], [2, 0.0]]).text() == lone["plain", prompt]
        again = one.ask(prompt, lora=[])
        assert (again.text(), again.finish["cached_tokens"] > 0) == (lone["plain", prompt], True)


@pytest.mark.parametrize("is_by_turns", [True, False])
@pytest.mark.parametrize("options", KINDS, ids=["split", "unified"])
def test_sets_beside_each_other(
    bench: MakeBench, lone: Lone, options: dict[str, Any], is_by_turns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_turns, "TURN_NS", 0 if is_by_turns else adapter_turns.TURN_NS)
    one = bench(**options)
    clients: list[tuple[tuple[str, str], Client]] = []
    for _ in range(2):
        for prompt, name in itertools.product(ASKED, SETS):
            clients.append(((name, prompt), one.submit(prompt, lora=SETS[name])))
            one.step()
    one.run(*(client for _, client in clients))
    for key, client in clients:
        assert client.text() == lone[key], key
    one.check_idle()


def test_choices_have_the_adapters_of_their_request(bench: MakeBench, lone: Lone) -> None:
    one = bench(parallel=4, ctx_size=2048)
    clients = {name: one.submit(ASKED[0], n=3, lora=SETS[name]) for name in ("first", "second")}
    one.run(*clients.values())
    for name, client in clients.items():
        assert [client.text(choice) for choice in range(3)] == [lone[name, ASKED[0]]] * 3
    one.check_idle()


# ---------------------------------------------------------------- turns


def test_sets_advance_side_by_side(bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_turns, "TURN_NS", 0)
    one = bench(parallel=4, ctx_size=4096)
    clients = [one.submit(ASKED[0], 400, lora=SETS[name]) for name in ("first", "second", "two", "first")]
    one.step_until(
        lambda: len(one.engine.running) == 4 and all(running.sequence.status.value == "decode" for running in one.engine.running)
    )
    begun = [client.num_tokens for client in clients]
    for _ in range(90):
        one.step()
    progress = [client.num_tokens - before for client, before in zip(clients, begun, strict=True)]
    assert all(28 <= count <= 31 for count in progress), progress  # a token's text may be held back
    for client in clients:
        one.engine.abort(client.request_id)


def test_a_long_prompt_and_a_stream_take_turns(bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_turns, "TURN_NS", 0)
    one = bench(parallel=2, ctx_size=4096, ubatch_size=32)
    running = one.submit(ASKED[0], 500, lora=SETS["first"])
    one.step_until(lambda: running.num_tokens > 0)
    before = running.num_tokens
    long = one.submit(LONG * 8, 1, lora=SETS["second"])
    num_steps = one.step_until(lambda: long.is_over)
    assert num_steps >= 2 * len(LONG) * 8 // 32 - 1
    assert running.num_tokens - before >= num_steps // 2 - 2
    one.engine.abort(running.request_id)


def test_a_failed_decode_ends_only_the_sequences_in_it(bench: MakeBench, lone: Lone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_turns, "TURN_NS", 0)
    one = bench(parallel=2, ctx_size=1024)
    clients = [one.submit(ASKED[0], lora=SETS[name]) for name in ("first", "second")]
    one.step_until(lambda: all(client.num_tokens > 3 for client in clients))
    with monkeypatch.context() as broken:
        broken.setattr(one.context, "decode", lambda num_rows: -3)
        one.step()
    one.run(*clients)
    [failed] = [client for client in clients if client.error is not None]
    assert failed.error is not None
    assert "llama_decode failed with code -3" in failed.error["message"]
    [(name, survivor)] = [pair for pair in zip(("first", "second"), clients, strict=True) if pair[1] is not failed]
    assert survivor.text() == lone[name, ASKED[0]]
    one.check_idle()


def test_abort_among_others(bench: MakeBench, lone: Lone) -> None:
    one = bench(parallel=3, ctx_size=1024)
    victim = one.submit(ASKED[1], 400, lora=SETS["first"])
    others = {name: one.submit(ASKED[0], lora=SETS[name]) for name in ("second", "two")}
    one.step_until(lambda: victim.num_tokens > 2)
    one.engine.abort(victim.request_id)
    one.ring.detach(victim.request_id)
    one.run(*others.values())
    for name, client in others.items():
        assert client.text() == lone[name, ASKED[0]]
    one.check_idle()


def test_sets_under_pressure(bench: MakeBench) -> None:
    """Together they fill a unified cache: room is made as for requests of one set, and a request that has to end says so."""
    one = bench(parallel=4, kv_unified=True, ctx_size=256, ubatch_size=64)
    clients = [one.submit(LONG[offset:], 40, lora=lora) for offset, lora in enumerate(SETS.values())]
    one.run(*clients)
    whole = [client for client in clients if client.finish["completion_tokens"] == 40]
    assert whole
    assert all(client.finish["truncated"] for client in clients if client not in whole)
    one.check_idle()


# ---------------------------------------------------------------- the cache


def test_what_a_slot_holds_is_for_its_own_set_only(bench: MakeBench, lone: Lone) -> None:
    one = bench(parallel=1, ctx_size=512)
    for name in (*SETS, *reversed(SETS)):
        for _ in range(2):
            client = one.ask(ASKED[0], lora=SETS[name])
            assert client.text() == lone[name, ASKED[0]]
        assert client.finish["cached_tokens"] == client.finish["prompt_tokens"] - 1
    cached = [one.ask(ASKED[0], lora=SETS[name]).finish["cached_tokens"] for name in SETS for _ in range(2)]
    assert [count > 0 for count in cached] == [True, True] + [False, True] * 3  # the model without adapters came last above
    one.check_idle()


def test_a_set_finds_its_own_slot_again(bench: MakeBench) -> None:
    one = bench(parallel=4, ctx_size=2048)
    first = {name: one.ask(LONG, 4, lora=lora).finish for name, lora in SETS.items()}
    assert {finish["cached_tokens"] for finish in first.values()} == {0}
    assert len({finish["id_slot"] for finish in first.values()}) == 4
    for name, lora in SETS.items():
        again = one.ask(LONG, 4, lora=lora).finish
        assert (again["id_slot"], again["cached_tokens"]) == (first[name]["id_slot"], len(LONG) - 1)


@pytest.mark.parametrize("is_busy", [True, False])
def test_copies_are_made_within_a_set(bench: MakeBench, is_busy: bool) -> None:
    one = bench(parallel=4, kv_unified=True, ctx_size=2048)
    holder = one.submit(LONG, 200, lora=SETS["first"], id_slot=0)
    one.step_until((lambda: holder.num_tokens > 0) if is_busy else lambda: holder.is_over)
    cached = {name: one.ask(LONG, 4, lora=SETS[name], id_slot=slot).finish["cached_tokens"] for slot, name in ((1, "second"), (2, "first"))}
    assert cached == {"second": 0, "first": len(LONG) - 1}
    assert one.ask(LONG, 4, id_slot=2).finish["cached_tokens"] == 0  # the copy belongs to the set too
    one.run(holder)
    one.check_idle()


def test_no_reuse_when_told_leaves_a_slot_for_its_set(bench: MakeBench, lone: Lone) -> None:
    one = bench(parallel=1, ctx_size=512)
    one.ask(ASKED[0], lora=SETS["first"])
    assert one.ask(ASKED[0], lora=SETS["second"], cache_prompt=False).text() == lone["second", ASKED[0]]
    again = one.ask(ASKED[0], lora=SETS["second"])
    assert (again.text(), again.finish["cached_tokens"] > 0) == (lone["second", ASKED[0]], True)


# ---------------------------------------------------------------- scales


def test_the_scales_of_the_server_are_for_requests_without_their_own(bench: MakeBench, lone: Lone) -> None:
    one = bench(scales=(0.5, 0.0, 1.0), parallel=2, ctx_size=1024)
    adapters = one.engine.adapters
    assert one.ask(ASKED[0]).text() == lone["two", ASKED[0]]
    assert one.ask(ASKED[0], lora=[[1, 1.0]]).text() == lone["second", ASKED[0]]
    running = one.submit(ASKED[0])
    one.step_until(lambda: running.num_tokens > 2)
    assert adapters.call_set({"lora": [[0, 1.0]]}) == {"success": True}
    later = one.submit(ASKED[0])
    one.run(running, later)
    assert (running.text(), later.text()) == (lone["two", ASKED[0]], lone["first", ASKED[0]])
    assert [entry["scale"] for entry in adapters.call_list()] == [1.0, 0.0, 0.0]


def test_an_unknown_id_is_named(bench: MakeBench) -> None:
    one, without = bench(parallel=1, ctx_size=512), bench(scales=(), parallel=1, ctx_size=512)
    for where, known in ((one, "adapters 0 to 2"), (without, "no adapters")):
        client = where.submit(ASKED[0], lora=[[3, 1.0]])
        where.ring.drain()
        assert client.error is not None
        assert (client.error["class"], client.error["message"]) == (
            "InvalidRequest",
            f"field 'lora' names adapter 3, but this model has {known}",
        )
        where.check_idle()


def test_init_without_apply(bench: MakeBench, lone: Lone) -> None:
    one = bench(scales=(1.0, 0.0, 0.0), lora_init_without_apply=True, parallel=1, ctx_size=512)
    assert one.ask(ASKED[0]).text() == lone["plain", ASKED[0]]


# ---------------------------------------------------------------- through a router

MODEL = "/lora-adapters?model=tiny"


@pytest.fixture(scope="module")
def server(module_router: StartRouter, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Router:
    """`tiny` with lora0 and lora1 (half of it), `none` without any, and models whose adapters cannot be loaded."""
    here = tmp_path_factory.mktemp("presets")
    make_lora(here / "other.gguf", architecture="qwen2")
    make_lora(here / "narrow.gguf", width=32)
    make_lora(here / "activated.gguf", invocation_tokens=[300, 301])
    (here / "text.gguf").write_text("this is no GGUF")
    tiny = folder / "tiny.gguf"
    names = ("other", "narrow", "activated", "text", "missing")
    broken = "".join(f"[{name}]\nmodel = {tiny}\nlora = {here / name}.gguf\n" for name in names)
    lora = f"lora = {folder / 'lora0.gguf'}\nlora-scaled = {folder / 'lora1.gguf'}:0.5\n"
    presets = here / "presets.ini"
    presets.write_text(f"[*]\nparallel = 2\nctx-size = 1024\n[tiny]\nmodel = {tiny}\n{lora}[none]\nmodel = {tiny}\n{broken}")
    return module_router("--models-preset", str(presets))


def completion(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": ASKED[0], "n_predict": 12, "temperature": 0, **more}


def test_adapters_of_a_model_that_is_not_loaded(server: Router, folder: Path) -> None:
    if server.status("tiny") == "loaded":
        server.unload("tiny")
    assert server.get(MODEL).json == [
        {"id": 0, "path": str(folder / "lora0.gguf"), "scale": 1.0},
        {"id": 1, "path": str(folder / "lora1.gguf"), "scale": 0.5},
    ]
    assert server.status("tiny") == "unloaded"


def test_adapters_are_listed(server: Router, folder: Path) -> None:
    assert server.get(f"{MODEL}&autoload=true").json == [
        {"id": 0, "path": str(folder / "lora0.gguf"), "scale": 1.0, "task_name": "", "prompt_prefix": ""},
        {"id": 1, "path": str(folder / "lora1.gguf"), "scale": 0.5, "task_name": "count", "prompt_prefix": "count: "},
    ]
    assert server.get("/lora-adapters?model=none").json == []
    assert "--lora-scaled" in server.get("/v1/models/tiny").json["status"]["args"]


def test_scales_of_a_request_and_of_the_server(server: Router) -> None:
    before = server.get(MODEL).json
    asked = [{"id": 1, "scale": 1}]
    answer = server.post("/completion", completion(lora=asked)).json
    plain = server.post("/completion", completion(model="none")).json["content"]
    assert answer["content"] != plain
    assert answer["generation_settings"]["lora"] == [{"id": 1, "scale": 1.0}]
    assert server.post("/completion", completion(lora=[{"id": 0}])).json["content"] == plain  # a scale that is not there is 0
    try:
        assert server.post(MODEL, asked).json == {"success": True}
        assert [entry["scale"] for entry in server.get(MODEL).json] == [0.0, 1.0]
        assert server.post("/completion", completion()).json["content"] == answer["content"]
        assert server.post("/completion", completion(lora=[])).json["content"] == answer["content"]
        assert server.post(MODEL, []).json == {"success": True}
        assert server.post("/completion", completion()).json["content"] == plain
    finally:
        server.post(MODEL, [{"id": entry["id"], "scale": entry["scale"]} for entry in before])
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 8, "temperature": 0, "stream": True}
    texts = []
    for lora in (None, asked):
        with server.stream("/v1/chat/completions", {**chat, "lora": lora}) as stream:
            texts.append("".join(map(text_of, stream)))
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"id": 0, "scale": 1}, 'field \'lora\' must be a list of {"id", "scale"} objects'),
        ([[0, 1.0]], 'field \'lora\' must be a list of {"id", "scale"} objects'),
        ([{"scale": 1}], "field 'lora.id' must be a whole number"),
        ([{"id": -1, "scale": 1}], "field 'lora.id' must be between 0"),
        ([{"id": 0, "scale": "1"}], "field 'lora.scale' must be a number"),
        ([{"id": 0, "scale": 1e9}], "field 'lora.scale' must be between -1000 and 1000"),
        ([{"id": 2, "scale": 1}], "field 'lora' names adapter 2, but this model has adapters 0 to 1"),
        ([{"id": 0, "scale": 1}] * 257, "field 'lora' has more than 256 entries"),
    ],
)
def test_bad_scales_are_refused(server: Router, lora: Any, message: str) -> None:
    before = server.get(MODEL).json
    answers = [server.post("/completion", completion(lora=lora))]
    if isinstance(lora, list):
        answers.append(server.post(MODEL, lora))
    for answer in answers:
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
        assert message in answer.error["message"]
    assert server.get(MODEL).json == before


def test_a_body_that_is_no_list(server: Router) -> None:
    answer = server.post(MODEL, {"id": 0, "scale": 1})
    assert (answer.status, answer.error["message"].startswith("the body must be a JSON array")) == (400, True)
    assert server.post(MODEL, b"[{").status == 400
    assert server.post("/lora-adapters?model=nobody", []).status == 400


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "there is no such file"),
        ("other", "model arch and LoRA arch mismatch"),
        ("narrow", "has incorrect shape"),
        ("activated", "activated LoRA"),
        ("text", "invalid magic characters"),
    ],
)
def test_an_adapter_that_cannot_be_loaded_is_named(server: Router, name: str, reason: str) -> None:
    answer = server.post("/completion", completion(model=name))
    assert answer.status == 400
    where = "LoRA adapter " if name != "missing" else "[missing] lora = "  # a missing file is found before a load
    assert answer.error["message"].startswith(f"model name={name} failed to load: ")
    assert where in answer.error["message"]
    assert f"{name}.gguf: " in answer.error["message"]
    assert reason in answer.error["message"]
