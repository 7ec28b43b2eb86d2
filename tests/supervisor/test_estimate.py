"""What a model needs: the estimate from its header compared with what its load has shown, on the test models."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, StartRouter
from tiny_models import make_llama

from fastrouter.catalog.catalog import Catalog
from fastrouter.catalog.gguf import read_header
from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.supervisor.decide.need import NOTHING, Need, total
from fastrouter.supervisor.memory.estimate import estimate
from fastrouter.supervisor.memory.repacking import repacking_of, sizes
from fastrouter.supervisor.remedies import NONE, Remedy
from fastrouter.worker.llama.binding import start_backends
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model

sys.path.insert(0, str(REPOSITORY / "packaging"))

import tiny_quantised

MIB = 1 << 20
OPTIONS: list[list[str]] = [
    [],
    ["-c", "512"],
    ["-c", "4096", "-ub", "128"],
    ["-c", "8192", "-np", "4", "--no-kv-unified"],
    ["-c", "2048", "-fa", "off", "--no-mmap"],
]


@pytest.mark.parametrize("flags", OPTIONS, ids=" ".join)
def test_estimates_beside_measurements(
    router: StartRouter, tmp_path: Path, smollm2: Path, flags: list[str], record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    make_llama(folder / "tiny.gguf")
    make_llama(folder / "half.gguf", half=True, n_ctx=8192)
    (folder / "smol.gguf").symlink_to(smollm2)
    server = router(*flags, models_dir=folder)

    def need(model: str) -> dict[str, Any]:
        found: dict[str, Any] = server.post("/models/plan", {"model": model}).json["need"]
        return found

    for model in ("tiny", "half", "smol"):
        estimated = need(model)
        server.load(model)
        measured = need(model)
        assert (estimated["is_measured"], measured["is_measured"]) == (False, True)
        error = estimated["host_bytes"] / measured["host_bytes"] - 1
        record_property(f"estimate error of {model} {flags}", error)
        with capsys.disabled():
            shown = f"{estimated['host_bytes'] / MIB:.0f} MiB estimated, {measured['host_bytes'] / MIB:.0f} measured ({error:+.0%})"
            print(f"\n{model} {' '.join(flags)}: {shown}", end="")
        assert abs(error) < 0.3


@pytest.mark.parametrize("flags", [[], ["--no-mmap"]], ids=" ".join)
def test_estimates_of_weights_that_are_repacked(router: StartRouter, tmp_path: Path, flags: list[str]) -> None:
    """Each type has a separate copy in memory, or none, as this CPU's variant needs it; the original need not stay with it."""
    models = [quant.lower() for quant in tiny_quantised.QUANTS]
    for model in models:
        tiny_quantised.write(tmp_path / f"{model}.gguf", [model.upper()], num_layers=8, width=1024)
    server = router("-c", "512", *flags, models_dir=tmp_path)

    def need(model: str) -> float:
        return float(server.post("/models/plan", {"model": model}).json["need"]["host_bytes"]) / MIB

    errors = {}
    for model in models:
        estimated = need(model)
        server.load(model)
        errors[model] = estimated - need(model)
        server.unload(model)
    assert max(errors.values()) - min(errors.values()) < 3, f"MiB by type, where the smallest file has 15: {errors}"


AVX2 = frozenset({"avx2", "fma", "f16c"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512vl"}
AMX = AVX512 | {"amx_tile", "amx_int8"}


@pytest.mark.parametrize(
    ("features", "remedy", "copied"),
    [
        (frozenset(), NONE, ""),
        (AVX2, NONE, "Q4_0 Q4_K IQ4_NL"),
        (AVX512, NONE, "Q4_0 Q2_K Q4_K IQ4_NL"),
        (AMX, NONE, "Q4_0 Q4_1 Q8_0 Q2_K Q4_K Q5_K Q6_K IQ4_NL"),
        (AMX, Remedy(False, 1), "Q4_0 Q2_K Q4_K IQ4_NL"),
        (AMX, Remedy(True, 0), ""),
        (frozenset({"asimd", "asimddp"}), NONE, "Q4_0 Q8_0 Q4_K Q5_K Q6_K IQ4_NL"),
    ],
)
def test_what_is_repacked(features: frozenset[str], remedy: Remedy, copied: str, tmp_path: Path) -> None:
    repacking = repacking_of(features, remedy)
    for quant in tiny_quantised.QUANTS:
        header = read_header(tiny_quantised.write(tmp_path / "a.gguf", [quant]))
        originals, copies = sizes(header, repacking)
        assert (originals > 0) == (quant in copied.split()), quant
        assert originals <= copies <= 1.12 * originals
        assert originals <= header.size_bytes


def test_a_tied_embedding_is_copied_and_stays(smollm2: Path) -> None:
    header = read_header(smollm2)
    [embedding] = [num_bytes for name, num_bytes in header.matrices.items() if name.startswith("embedding")]
    originals, copies = sizes(header, repacking_of(AMX))
    assert copies == pytest.approx(originals + embedding, rel=0.1)
    assert header.size_bytes == pytest.approx(originals + embedding, rel=0.01)
    assert sizes(header, repacking_of(AVX2)) == (0, 0)


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    make_llama(tmp_path / "a.gguf")
    [found] = Catalog(Config(models_dir=tmp_path)).models()
    return found


@pytest.mark.parametrize(
    ("flags", "num_cells"),
    [
        ({}, 2048),
        ({"ctx_size": 512}, 512),
        ({"ctx_size": 100_000}, 4 * 2048),
        ({"ctx_size": 100_000, "parallel": 2}, 2 * 2048),
        ({"ctx_size": 100_000, "parallel": 3, "kv_unified": True}, 3 * 2048),
        ({"ctx_size": 3000, "parallel": 2}, 3000),
    ],
)
def test_no_more_cells_than_the_slots_can_use(spec: ModelSpec, flags: dict[str, Any], num_cells: int) -> None:
    """The router counts what the worker allocates."""
    options, said = replace(spec.options, **flags), replace(spec.options, **{**flags, "ctx_size": num_cells})
    start_backends()
    model = Model(spec.path, options)
    context = Context(model, options)
    assert 0 <= context.n_ctx - num_cells < 256 * options.num_slots, "llama.cpp rounds up"
    assert options.num_cells(model.n_ctx_train) == num_cells
    assert 0 <= context.n_ctx_slot - options.num_cells_of_slot(model.n_ctx_train) < 256
    assert ("trained for 2048 tokens" in context.notice) == (options.ctx_size > 3000)
    context.close()
    model.close()
    assert estimate(replace(spec, options=options)) == estimate(replace(spec, options=said))


def test_a_context_that_is_too_large_is_one_warning(router: StartRouter, models: Path) -> None:
    server = router("-c", "100000", models_dir=models)
    server.load("tiny0")
    server.load("tiny1")
    for model in ("tiny0", "tiny1"):
        [line] = [line for line in server.log.splitlines() if "--ctx-size 100000" in line and model in line]
        assert "the model was trained for 2048 tokens" in line
        assert "room for 8192" in line


def test_layers_on_a_device(spec: ModelSpec) -> None:
    def on(gpu_layers: int) -> Need:
        return estimate(replace(spec, options=replace(spec.options, gpu_layers=gpu_layers)), devices={"CUDA0": 8 << 30})

    whole = estimate(spec)
    assert whole.device_bytes == 0
    assert on(0) == whole
    assert 0 < on(1).device_bytes < on(2).device_bytes < on(3).device_bytes, "the output, then one of two layers, then both"
    assert on(-1) == on(99) == on(3)
    assert on(3).by_device == (("CUDA0", on(3).device_bytes),)
    assert on(3).host_bytes < on(2).host_bytes < whole.host_bytes


def test_without_a_header_the_file_is_all_that_is_known(spec: ModelSpec) -> None:
    assert estimate(replace(spec, header=None)) == Need(spec.size_bytes)


def test_needs_add_up() -> None:
    assert total([Need(1, 2), Need(3, 4)]) == Need(4, 6)
    assert Need(4, 6) - Need(1, 2) == Need(3, 4)
    assert total([]) == NOTHING
    assert not NOTHING.is_some
    assert Need(1, 1).covers(Need(1, 0))
    assert not Need(1, 0).covers(Need(0, 1))
