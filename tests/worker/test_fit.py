"""--fit: its choice is that of llama.cpp's own function, its counts are those of the buffers that llama.cpp then makes.

fit_choices.json holds what `common_fit_params` of llama.cpp (b11434) chose for made-up models and devices. It asked `_use` below for what
each try would take, as the tests do.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import StartRouter
from tiny_models import NUM_HEADS, make_llama

from fastrouter.errors import FastrouterError
from fastrouter.options.load import LoadOptions
from fastrouter.system.machine import total_bytes
from fastrouter.worker.llama import fitted, memory_use
from fastrouter.worker.llama.binding import start_backends
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.fit import Fitted, fit, in_words
from fastrouter.worker.llama.memory_use import MemoryUse, Place
from fastrouter.worker.llama.model import Model

CHOICES = json.loads((Path(__file__).parent / "fit_choices.json").read_text())
MIB = 1 << 20
EVERYTHING = (1 << 32) - 1  # llama.cpp's mark for --ctx-size 0


@dataclass
class Given:
    """How llama.cpp would place a made-up model."""

    scenario: dict[str, Any]

    def use(self, options: LoadOptions) -> MemoryUse:
        asked, count = self.scenario, len(self.scenario["free"])
        moved = [(pattern, count if buffer == "CPU" else int(buffer[1:])) for pattern, buffer in options.override_tensor]
        n_ctx = options.num_cells(asked["train"])
        found = _use(asked, options.gpu_layers, options.tensor_split, moved, n_ctx)
        places = [Place(f"d{index}", f"B{index}", free, free, *found[index]) for index, free in enumerate(asked["free"])]
        host = Place("host", "CPU", asked["host"], asked["host"], *found[count])
        return MemoryUse(tuple(places), host, asked["layers"], asked["experts"], asked["train"], n_ctx)

    @property
    def options(self) -> LoadOptions:
        asked = self.scenario
        is_full = asked["ctx_min"] == EVERYTHING
        return LoadOptions(
            fit="on",
            ctx_size=asked["ctx"],
            parallel=asked["np"],
            kv_unified=asked["unified"],
            fit_target=asked["margins"],
            fit_ctx=0 if is_full else asked["ctx_min"],
            has_full_context=is_full,
            gpu_layers=asked["ngl"],
            keeps_cache_types=True,
        )


def _device_of(layer: int, asked: dict[str, Any], num_moved: int, split: list[float]) -> int:
    """By the proportions, which are those of the free memory if none are given."""
    count, first = len(asked["free"]), asked["layers"] + 1 - num_moved
    shares = split if any(split) else [float(free) for free in asked["free"]]
    if not count or layer < first:
        return count
    at, reached = (layer - first) / num_moved * sum(shares), 0.0
    for device, share in enumerate(shares):
        reached += share
        if at < reached:
            return device
    return count - 1


def _use(asked: dict[str, Any], gpu_layers: int, split: list[float], moved: list[tuple[str, int]], n_ctx: int) -> list[list[int]]:
    """[weights, KV cache, compute buffers] of each device, and of the host at the end."""
    count, layers = len(asked["free"]), asked["layers"]
    found = [[0, 0, 0] for _ in range(count + 1)]
    num_moved = layers + 1 if gpu_layers < 0 else min(gpu_layers, layers + 1)
    places = [_device_of(layer, asked, num_moved, split) for layer in range(layers + 1)]
    for layer, place in enumerate(places[:-1]):
        found[place][1] += asked["kv"] * n_ctx
        for name, size in asked["tensors"].items():
            other = next((to for pattern, to in moved if re.search(pattern, f"blk.{layer}.{name}.weight")), place)
            found[other][0] += size
    found[places[-1]][0] += asked["output"]
    found[count][0] += asked["embed"]
    for device in range(count):
        found[device][2] = asked["compute"] + asked["cctx"] * n_ctx if device in places else 1000
    found[count][2] = asked["compute"] // 2
    return found


@pytest.mark.parametrize("number", range(len(CHOICES)))
def test_the_choice_is_that_of_llama_cpp(number: int) -> None:
    given, chosen = Given(CHOICES[number]["asked"]), CHOICES[number]["chosen"]
    found = fit(given.use, given.options)
    options, count = found.options, len(given.scenario["free"])
    assert (not found.failure, options.num_cells(given.scenario["train"]), options.gpu_layers) == (
        chosen["fits"],
        chosen["ctx"],
        chosen["ngl"],
    )
    assert (options.tensor_split or [0.0] * (count if count > 1 else 0)) == chosen["split"]
    assert [f"{pattern}={count if buffer == 'CPU' else buffer[1:]}" for pattern, buffer in options.override_tensor] == chosen["over"]


def test_what_is_chosen_fits_on_one_device() -> None:
    num_changed = 0
    for given in (Given(choice["asked"]) for choice in CHOICES):
        found = fit(given.use, given.options)
        if found.failure or len(given.scenario["free"]) != 1 or found.options == given.options:
            continue
        num_changed += 1
        use = given.use(found.options)
        margins = given.scenario["margins"]
        over = [place.used_bytes - (place.free_bytes - MIB * margin) for place, margin in zip(use.devices, margins, strict=True)]
        assert max(over) <= 2 * MIB, (given, over)  # a straight line was drawn between two contexts
    assert num_changed > 5


def test_the_words_name_all_that_was_chosen() -> None:
    given = next(Given(choice["asked"]) for choice in CHOICES if choice["chosen"]["over"] and len(choice["asked"]["free"]) == 2)
    found = fit(given.use, given.options)
    words = in_words(given.options, found, given.use(found.options))
    assert re.fullmatch(
        r"--fit: (\d+ of \d+ tokens of context, )?\d+ of \d+ layers on devices \(\d+ on d0, \d+ on d1\), \d+ of them in .*", words
    )
    assert in_words(given.options, Fitted(given.options), given.use(given.options)) == ""


def _small_given() -> Given:
    """A model whose context the user has set, and which is too large by a part of its cache."""
    tensors = {"attn_q": 1000}
    scenario = {"free": [], "layers": 4, "experts": 0, "train": 4096, "tensors": tensors, "kv": 4096, "output": 0, "embed": 0, "compute": 0}
    return Given(
        {**scenario, "cctx": 0, "host": 60 * MIB, "margins": [0], "np": 1, "unified": True, "ngl": -1, "ctx": 4096, "ctx_min": 256}
    )


def test_where_llama_cpp_gives_up_the_cache_becomes_smaller() -> None:
    given = _small_given()

    def use(options: LoadOptions) -> MemoryUse:
        found = given.use(options)
        if options.cache_type_k != "q8_0":
            return found
        return replace(found, host=replace(found.host, context_bytes=found.host.context_bytes // 2))

    asked = replace(given.options, keeps_cache_types=False)
    found = fit(use, asked)
    assert (found.failure, found.options.cache_type_k, found.options.cache_type_v, found.options.ctx_size) == ("", "q8_0", "q8_0", 4096)
    assert in_words(asked, found, use(found.options)) == "--fit: the KV cache as q8_0"
    for kept in (given.options, replace(asked, flash_attn="off")):
        assert fit(use, kept).options == kept
        assert "shorter context is not enough" in fit(use, kept).failure


def test_a_cache_that_cannot_be_smaller() -> None:
    given = _small_given()

    def use(options: LoadOptions) -> MemoryUse:
        if options.cache_type_k == "q8_0":
            raise FastrouterError("its heads are too narrow")
        return given.use(options)

    asked = replace(given.options, keeps_cache_types=False)
    assert fit(use, asked) == Fitted(asked, "a shorter context is not enough")


def test_the_routers_limit_counts_too() -> None:
    given = Given({**_small_given().scenario, "ctx": 0, "host": 1000 * MIB})
    assert fit(given.use, given.options).options == given.options
    found = fit(given.use, given.options, host_limit_bytes=30 * MIB)
    assert given.use(found.options).host.used_bytes <= 30 * MIB
    assert 256 < found.options.ctx_size < 4096


# ---------------------------------------------------------------- llama.cpp's counts


@pytest.fixture(scope="module", autouse=True)
def _backends() -> None:
    start_backends()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit") / "tiny.gguf"
    make_llama(path, n_ctx=1 << 17)
    return path


@pytest.mark.parametrize("ctx_size", [512, 4096])
def test_what_is_counted_is_what_is_allocated(tiny: Path, ctx_size: int) -> None:
    options = LoadOptions(ctx_size=ctx_size, flash_attn="on", repack=False)
    found = memory_use.memory_use(str(tiny), options)
    model = Model(str(tiny), options)
    try:
        context = Context(model, options)
        assert (found.devices, found.n_ctx, found.n_ctx_train) == ((), context.n_ctx, 1 << 17)
        context.close()
        assert found.host.model_bytes == model.size_bytes
    finally:
        model.close()
    per_token = 2 * 2 * found.num_layers * NUM_HEADS * (model.n_embd // NUM_HEADS)  # a key and a value of two bytes in each layer
    assert found.host.context_bytes == per_token * ctx_size
    assert found.host.compute_bytes > 0


def test_a_draft_model_counts_too(tiny: Path) -> None:
    options = LoadOptions(ctx_size=2048, flash_attn="on")
    alone = memory_use.memory_use(str(tiny), options).host
    both = memory_use.memory_use(str(tiny), replace(options, speculation={"draft_model": str(tiny)})).host
    assert (both.model_bytes, both.context_bytes) == (2 * alone.model_bytes, 2 * alone.context_bytes)


def test_with_much_memory_nothing_is_counted(tiny: Path) -> None:
    model = Model(str(tiny), LoadOptions())
    try:
        assert fitted.surely_fits(model, LoadOptions(ctx_size=2048), 0)
        assert not fitted.surely_fits(model, LoadOptions(ctx_size=2048), 1 << 20)
        assert not fitted.surely_fits(model, LoadOptions(ctx_size=2048, fit_target=[total_bytes() >> 20]), 0)
    finally:
        model.close()


# ---------------------------------------------------------------- a router


def test_a_router_shortens_the_context_and_says_so(router: StartRouter, tiny: Path) -> None:
    use = memory_use.memory_use(str(tiny), LoadOptions(flash_attn="on"))
    target = (use.host.total_bytes >> 20) - (use.host.used_bytes >> 21)  # about half of what it would take
    running = router("-m", str(tiny), "-fitt", str(target), "-fa", "on", "--models-memory", "0")
    n_ctx = running.get("/props").json["default_generation_settings"]["n_ctx"]
    assert 4096 < n_ctx < 1 << 17
    assert re.search(rf"tiny: --fit: {n_ctx} of 131072 tokens of context", running.log), running.log
    assert running.post("/completion", {"prompt": "a", "n_predict": 2}).status == 200


def test_a_limit_of_the_router_shortens_it_and_the_planner_knows(router: StartRouter, tiny: Path) -> None:
    use = memory_use.memory_use(str(tiny), LoadOptions(flash_attn="on"))
    limit = (use.host.used_bytes >> 21) + 100
    running = router("-fa", "on", "--models-memory", str(limit), models_dir=tiny.parent)
    plan = running.post("/models/plan", {"model": "tiny"}).json
    assert (plan["action"], plan["need"]["is_measured"]) == ("load", False), plan
    assert 0.8 * (limit << 20) < plan["need"]["host_bytes"] <= limit << 20
    running.load("tiny")
    n_ctx = running.get("/props?model=tiny").json["default_generation_settings"]["n_ctx"]
    assert 4096 < n_ctx < 1 << 17
    assert f"tiny: --fit: {n_ctx} of 131072 tokens of context" in running.log
    assert running.post("/models/plan", {"model": "tiny"}).json["need"]["host_bytes"] <= limit << 20


def test_off_and_a_set_context_change_nothing(router: StartRouter, tiny: Path) -> None:
    running = router("-m", str(tiny), "-fit", "off", "-fa", "on", "--models-memory", "0", "-fitt", "100000000")
    assert running.get("/props").json["default_generation_settings"]["n_ctx"] == 1 << 17
    assert "--fit" not in running.log
