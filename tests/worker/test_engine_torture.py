"""The whole engine: random scripts of requests, aborts, slot files and stalls on engines of every kind. Real llama.cpp.

An answer is the one of the same request alone in a new engine, unless something that is documented as inexact came between; each request
ends once; after every step the mirrors of the KV caches are correct. FASTROUTER_TORTURE=FIRST-LAST runs these seeds instead of a few.
"""

import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from engine_bench import Bench, Client
from tiny_memories import MAKERS
from tiny_models import NUM_SILENT, make_llama, make_lora, make_vocabulary

from fastrouter._core import EVENT
from fastrouter.ipc.messages import Call, Generate, Load, Reply
from fastrouter.worker.calls.slot_files import SlotFiles
from fastrouter.worker.engine.engine import Engine
from fastrouter.worker.kv.prompt_cache import CachedPrompt
from fastrouter.worker.kv.slots import ALL, AdapterSet, Slot
from fastrouter.worker.llama.binding import api, start_backends
from fastrouter.worker.speculation.draft_model import Draft
from fastrouter.worker.speculation.speculation import Speculation

FIRST, END = NUM_SILENT, len(make_vocabulary()[0])  # tokens that are words
FEW = [[token, -100.0] for token in range(FIRST + 5, END)]  # answers that repeat themselves
GRAMMARS = ('root ::= (" the" | " a" | " cat")+', 'root ::= " dog" " red"? (" in" | " is"){2,6}', "root ::= [a-z ]+")
TIE = 1e-3  # when logits are that close, the shape of a batch decides
MAX_PROMPT = 420
NUM_ACTIONS = 80
MIB = 1 << 20

Tokens = list[int]
Asked = dict[str, Any]


def _seeds() -> list[int]:
    first, _, last = os.environ.get("FASTROUTER_TORTURE", "0-11").partition("-")
    return list(range(int(first), int(last or first) + 1))


class Listener(Client):
    """With the text of events too."""

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        super().on_record(kind, choice, flags, payload)
        if kind == EVENT:
            self.texts[choice] = self.texts.get(choice, b"") + self.events[-1]["text"].encode()


class Everything(Bench):
    """An engine with all its parts, and what must always be true of it."""

    def __init__(self, path: Path, ring_bytes: int, **options: Any) -> None:
        exact = {"cache_type_k": "f32", "cache_type_v": "f32", "threads": 1}
        super().__init__(path, ring_bytes, **{**exact, **options, "speculation": {}})
        self.options = replace(self.options, speculation=options.get("speculation", {}))
        draft = Draft(self.context, self.options) if "draft_model" in self.options.speculation and self.context.can_cut else None
        self.speculation = Speculation(self.context, self.options, draft)
        self.speculation.costs.note = lambda *_: None  # type: ignore[method-assign]  # on a busy machine it would tell anything
        self.speculation.costs.wants_plain = lambda _: False  # type: ignore[method-assign]
        self.engine = Engine(
            self.model, self.context, self.outbox, self.options, adapters=self.engine.adapters, speculation=self.speculation
        )
        self._keep = self.engine.prefixes.keep
        self.engine.prefixes.keep = self._keep_exactly  # type: ignore[method-assign]
        self.parked: list[int] = []
        self.engine.prefixes.parking.open("k", 1 << 30, {})
        self.engine.prefixes.parking.on_parked = self._note_parked
        self.replies: list[Reply] = []
        self.files = SlotFiles(self.context, self.engine, Load("x", str(path), self.options), self.replies.append)

    def close(self) -> None:
        self.speculation.close()
        super().close()

    def submit(self, prompt: Any, max_tokens: int = 24, **more: Any) -> Client:
        client = Listener()
        sampling = {"temperature": 0, **more.pop("sampling", {})}
        self.engine.submit(self.ring.attach(client), Generate(prompt=prompt, max_tokens=max_tokens, sampling=sampling, **more))
        return client

    def _note_parked(self, entry_id: int, fd: int, entry: CachedPrompt, replaced: list[int]) -> bool:
        self.parked.append(entry_id)
        return True

    def _keep_exactly(self, slot: Slot, prompt: Any, adapters: AdapterSet, min_chunk: int = 0) -> int:
        """Tiny models often give the same answer after a start that is not exactly right."""
        length = self._keep(slot, prompt, adapters, min_chunk)
        assert slot.tokens == prompt[:length]
        assert not length or slot.adapters == adapters
        assert min_chunk or length <= slot.num_exact
        return length

    def step(self) -> None:
        self.step_unread()
        self.ring.drain()

    def step_unread(self) -> None:
        """Like the worker's loop, while the router does not read."""
        self.engine.step()
        self.files.step()
        if self.engine.is_compiling:
            time.sleep(0.0002)
        self.check()

    def check(self) -> None:
        engine, memory = self.engine, self.context.memory
        assert {slot.id for slot in engine.slots.all if slot.is_busy} == {running.slot.id for running in engine.running}
        for slot in engine.slots.all:
            num_held = len(slot.tokens)
            assert api.llama_memory_seq_pos_max(memory, slot.id) == num_held - 1, slot
            assert num_held <= self.context.n_ctx_slot
            assert num_held or (slot.num_exact == ALL and not slot.has_shared_cells)
            lengths = [checkpoint.length for checkpoint in slot.checkpoints]
            assert lengths == sorted(set(lengths)), slot
            assert not lengths or lengths[-1] <= num_held, slot
        draft = engine.speculation.draft
        for slot_id, num_held in enumerate(draft.held if draft else []):
            assert api.llama_memory_seq_pos_max(draft.context.memory, slot_id) == num_held - 1
        limit_mib = self.options.cache_ram_mib
        assert limit_mib is None or engine.prefixes.prompt_cache.num_bytes <= limit_mib * MIB

    def check_idle(self) -> None:
        super().check_idle()
        self.check()
        assert not self.files.has_work


class Lone:
    """The answer to each request with an empty cache, no guesses, and no other request."""

    def __init__(self, path: Path, loras: list[list[Any]]) -> None:
        self._bench = Everything(path, 4 * MIB, parallel=1, ctx_size=2048, lora=loras, cache_ram_mib=0)
        self._answers: dict[bytes, Client] = {}

    def answer(self, asked: Asked, max_tokens: int) -> Client:
        names = ("prompt", "n", "sampling", "stop", "constraint", "lora")
        fields = {name: asked[name] for name in names if name in asked}
        key = orjson.dumps([fields, max_tokens])
        if key not in self._answers:
            plain = {**fields, "cache_prompt": False, "return_tokens": True, "speculation": {"types": []}}
            prompt = plain.pop("prompt")
            self._answers[key] = self._bench.ask(prompt, max_tokens, **plain)
        return self._answers[key]

    def is_tie(self, asked: Asked, start: Tokens) -> bool:
        """After this start of an answer, the two best tokens are equally good."""
        sampling = {**asked.get("sampling", {}), "n_probs": 2}
        more = {"lora": asked["lora"]} if "lora" in asked else {}
        client = self._bench.ask([*asked["prompt"], *start], 1, sampling=sampling, logprobs=True, cache_prompt=False, **more)
        best, second = (entry["logprob"] for entry in client.events[0]["probabilities"][0]["top_logprobs"])
        return bool(best - second < TIE)

    def close(self) -> None:
        self._bench.close()


class Script:
    """Random actions on one engine of a random kind."""

    def __init__(self, seed: int, one: Everything, lone: Lone) -> None:
        self.random = random.Random(seed)
        self.one, self.lone = one, lone
        self.known: list[Tokens] = [self.words(60)]
        self.running: list[tuple[Asked, int, Client]] = []
        self.num_checked = 0
        self.num_calls = 0

    def words(self, count: int) -> Tokens:
        return [self.random.randrange(FIRST, END) for _ in range(count)]

    def held(self) -> Tokens:
        """The content of a slot, preferably after a context shift."""
        slots = self.one.engine.slots.all
        moved = [slot for slot in slots if slot.num_exact < len(slot.tokens)]
        return [*self.random.choice(moved or slots).tokens][: self.random.choice((100, 200, MAX_PROMPT - 30))]

    def prompt(self) -> Tokens:
        base = self.random.choice(self.known)
        made = {
            "same": lambda: base,
            "longer": lambda: base + self.words(self.random.randrange(1, 200)),
            "shorter": lambda: base[: self.random.randrange(1, len(base) + 1)],
            "other end": lambda: base[: self.random.randrange(1, len(base) + 1)] + self.words(self.random.randrange(1, 40)),
            "middle gone": lambda: base[:20] + base[self.random.randrange(len(base)) :],
            "held": lambda: self.held() + self.words(self.random.randrange(1, 30)),
            "new": lambda: self.words(self.random.randrange(1, 300)),
        }
        prompt = made[self.random.choice(list(made))]()[:MAX_PROMPT]
        self.known = [*self.known[-7:], prompt]
        return prompt

    def request(self) -> tuple[Asked, int]:
        pick, chance = self.random.choice, self.random.random
        asked: Asked = {"prompt": self.prompt(), "sampling": {}}
        if chance() < 0.3:
            asked["sampling"]["logit_bias"] = FEW
        if chance() < 0.1:
            asked["sampling"] |= {"temperature": 1.2, "seed": pick((1, 2))}
        if chance() < 0.1:
            asked["sampling"]["repeat_penalty"] = 1.3
        if chance() < 0.25:
            asked["n"] = pick((2, 3, 5))
        if chance() < 0.3:
            asked["cache_prompt"] = pick((True, False))
        if chance() < 0.15:
            asked["n_cache_reuse"] = pick((4, 16))
        if chance() < 0.15:
            asked["id_slot"] = self.random.randrange(len(self.one.engine.slots))
        if chance() < 0.2:
            asked["stop"] = [" the", "cat d", "zz"][: pick((1, 2, 3))]
        if chance() < 0.15:
            asked["constraint"] = {"kind": "gbnf", "text": pick(GRAMMARS), "field": "grammar"}
        if chance() < 0.2:
            asked["logprobs"] = True
            asked["sampling"]["n_probs"] = pick((0, 3))
        if self.one.engine.adapters.all and chance() < 0.5:
            asked["lora"] = pick(([], [[0, 1.0]], [[0, 0.5], [1, 1.0]]))
        if chance() < 0.3:
            asked["speculation"] = pick(
                ({"types": []}, {"types": ["ngram-simple"]}, {"types": ["ngram-mod"], "ngram_size_n": 2}, {"n_max": 2})
            )
        for name in ("return_progress", "return_tokens", "timings_per_token", "tokens_per_event", "verbose"):
            if chance() < 0.15:
                asked[name] = True
        if chance() < 0.2:
            asked |= {"n_keep": pick((-1, 0, 30)), "n_discard": pick((0, 7))}
        is_long = chance() < (0.25 if self.one.engine.shifts.is_on else 0.05)
        return asked, pick((-1, 300, 600) if is_long else (0, 1, 2, 7, 12, 30, 60))

    # ------------------------------------------------------------ actions

    def submit(self) -> None:
        asked, max_tokens = self.request()
        if max_tokens < 0 and self.one.options.context_shift:
            max_tokens = 600
        self.running.append((asked, max_tokens, self.one.submit(asked["prompt"], max_tokens, **_fields(asked))))

    def run(self) -> None:
        for _ in range(self.random.randrange(12)):
            self.one.step()

    def finish(self) -> None:
        self.one.step()
        self.one.run(*(client for _, _, client in self.running))
        self.judge()
        self.known = [*self.known[-7:], self.held() or self.words(9)]

    def abort(self) -> None:
        open_ = [entry for entry in self.running if not entry[2].is_over]
        if open_:
            victim = self.random.choice(open_)
            self.running.remove(victim)
            self.one.engine.abort(victim[2].request_id)
            self.one.ring.detach(victim[2].request_id)
            self.one.check()

    def stall(self) -> None:
        """The router does not read."""
        for _ in range(self.random.randrange(60)):
            self.one.step_unread()

    def slot_file(self) -> None:
        method = self.random.choice(("slot_save", "slot_restore", "slot_restore", "slot_erase"))
        slot_id = self.random.randrange(len(self.one.engine.slots))
        name = f"{self.random.randrange(3)}.bin"
        self.num_calls += 1
        self.one.files.submit(Call(self.num_calls, method, {"id_slot": slot_id, "filename": name}))

    def park(self) -> None:
        """Idle sequences and the prompt cache; sometimes the router drops what it has."""
        prefixes = self.one.engine.prefixes
        for held in prefixes.to_park()[: self.random.randrange(4)]:
            prefixes.park(held)
        if self.random.random() < 0.2:
            prefixes.parking.drop(self.one.parked)
        self.one.check()

    # ------------------------------------------------------------ checks

    def judge(self) -> None:
        for asked, max_tokens, client in self.running:
            if client.is_over:
                self.judge_one(asked, max_tokens, client)
        self.running = [entry for entry in self.running if not entry[2].is_over]

    def judge_one(self, asked: Asked, max_tokens: int, client: Client) -> None:
        if client.error is not None:
            assert client.error["class"] == "ContextExceeded", client.error
            assert len(asked["prompt"]) + 1 > min(self.one.context.n_ctx_slot, self.one.context.n_ctx) // 4
            return
        assert sorted(client.finishes) == list(range(asked.get("n", 1)))
        for choice, finish in client.finishes.items():
            assert finish["prompt_tokens"] == len(asked["prompt"]) > finish["cached_tokens"]
            assert finish["completion_tokens"] <= max_tokens or max_tokens < 0
            if asked.get("cache_prompt") is False and "n" not in asked:
                assert finish["cached_tokens"] == 0
            if finish["stop_type"] == "limit" and not finish["truncated"]:
                assert finish["completion_tokens"] == max_tokens
            may_move = asked.get("n_cache_reuse") and finish["cached_tokens"]
            has_shifted = finish["truncated"] and self.one.options.context_shift
            if not may_move and not has_shifted:
                self.compare(asked, finish, choice, client)

    def compare(self, asked: Asked, finish: dict[str, Any], choice: int, client: Client) -> None:
        num_tokens = finish["completion_tokens"]
        alone = self.lone.answer(asked, num_tokens)
        expected = alone.finishes[choice]
        text = client.text(choice)
        self.num_checked += 1
        if text == alone.text(choice) and finish["stop_type"] == (expected["stop_type"] if not finish["truncated"] else "limit"):
            assert finish["completion_tokens"] == expected["completion_tokens"]
            assert finish.get("tokens", []) in ([], expected["tokens"]) or asked.get("tokens_per_event")
            return
        is_greedy = not asked["sampling"].get("temperature") and "repeat_penalty" not in asked["sampling"] and "constraint" not in asked
        tokens = expected["tokens"]
        ties = is_greedy and any(self.lone.is_tie(asked, tokens[:length]) for length in range(len(tokens)))
        assert ties, (text, alone.text(choice), finish, expected, asked)


def _fields(asked: Asked) -> Asked:
    return {name: value for name, value in asked.items() if name != "prompt"}


@pytest.fixture(scope="module", autouse=True)
def backends() -> None:
    start_backends()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("torture")
    made = {kind: make(folder / f"{kind}.gguf") for kind, make in MAKERS.items()}
    made |= {name: make_llama(folder / f"{name}.gguf", seed=seed) for seed, name in enumerate(("llama", "other"))}
    return made | {f"lora{number}": make_lora(folder / f"lora{number}.gguf", seed=number) for number in range(2)}


@pytest.fixture(scope="module")
def lones(paths: dict[str, Path]) -> Iterator[dict[tuple[str, bool], Lone]]:
    made: dict[tuple[str, bool], Lone] = {}
    yield made
    for lone in made.values():
        lone.close()


def options_of(random_: random.Random, kind: str, paths: dict[str, Path], folder: Path) -> dict[str, Any]:
    pick = random_.choice
    parallel, is_unified = pick((1, 2, 3, 5)), pick((True, False))
    types = pick(([], ["ngram-simple"], ["ngram-map-k4v", "draft-simple"], ["draft-simple"]))
    draft = {"draft_model": str(paths[pick(("llama", "other"))])} if "draft-simple" in types else {}
    return {
        "parallel": parallel,
        "kv_unified": is_unified,
        "ctx_size": pick((256, 512, 1024)) * (1 if is_unified else parallel),
        "batch_size": pick((2, 16, 64, 2048)),
        "ubatch_size": pick((4, 16, 32, 512)),
        "cache_ram_mib": pick((0, 1, 4, None)),
        "cache_idle_slots": pick((True, False, False)),
        "cache_reuse": 0,
        "slot_prompt_similarity": pick((0.0, 0.1, 0.1, 0.8)),
        "ctx_checkpoints": pick((0, 1, 3, 8)),
        "checkpoint_min_step": pick((1, 30, 100)),
        "cont_batching": pick((True, True, True, False)),
        "context_shift": pick((True, False)),
        "swa_full": pick((True, False, False)),
        "slot_save_path": str(folder),
        "speculation": {"types": types, **draft} if types else {},
        "lora": [[str(paths["lora0"]), 0.0], [str(paths["lora1"]), 0.0]] if kind == "llama" and pick((True, False)) else [],
    }


@pytest.mark.parametrize("seed", _seeds())
def test_whatever_happens(paths: dict[str, Path], lones: dict[tuple[str, bool], Lone], tmp_path: Path, seed: int) -> None:
    random_ = random.Random(seed)
    kind = ("llama", *MAKERS, "llama", "llama")[seed % (3 + len(MAKERS))]
    options = options_of(random_, kind, paths, tmp_path)
    key = (kind, bool(options["lora"]))
    if key not in lones:
        lones[key] = Lone(paths[kind], options["lora"])
    one = Everything(paths[kind], random_.choice((1 << 13, 1 << 16, 1 << 20)), **options)
    script = Script(seed, one, lones[key])
    actions = (
        [script.submit] * 12
        + [script.run] * 8
        + [script.finish] * 2
        + [script.abort] * 3
        + [script.stall]
        + [script.slot_file] * 3
        + [script.park] * 2
    )
    for _ in range(NUM_ACTIONS):
        random_.choice(actions)()
    script.finish()
    one.check_idle()
    assert script.num_checked > 3, options
    assert len(one.replies) == script.num_calls
    one.close()
