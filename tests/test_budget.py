"""What a model needs: the estimate from its header beside what its load has shown, on the models at hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import StartRouter
from tiny_models import make_llama

from fastrouter.catalog import Catalog
from fastrouter.config import Config
from fastrouter.spec import ModelSpec
from fastrouter.supervisor.budget import NOTHING, Need, estimate, total

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


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    make_llama(tmp_path / "a.gguf")
    [found] = Catalog(Config(models_dir=tmp_path)).models()
    return found


def test_layers_on_a_device(spec: ModelSpec) -> None:
    def on(gpu_layers: int) -> Need:
        return estimate(replace(spec, options=replace(spec.options, gpu_layers=gpu_layers)), has_device=True)

    whole = estimate(spec, has_device=False)
    assert whole.device_bytes == 0
    assert on(0) == whole
    assert on(1).device_bytes == whole.host_bytes // 2, "one of two layers"
    assert on(-1).device_bytes == on(99).device_bytes == whole.host_bytes


def test_without_a_header_the_file_is_all_that_is_known(spec: ModelSpec) -> None:
    assert estimate(replace(spec, header=None), has_device=False) == Need(spec.size_bytes)


def test_needs_add_up() -> None:
    assert total([Need(1, 2), Need(3, 4)]) == Need(4, 6)
    assert Need(4, 6) - Need(1, 2) == Need(3, 4)
    assert total([]) == NOTHING
    assert not NOTHING.is_some
    assert Need(1, 1).covers(Need(1, 0))
    assert not Need(1, 0).covers(Need(0, 1))
