"""What a spare is told to prepare."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import make_llama

from fastrouter.catalog.catalog import Catalog
from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.supervisor.managed_model import ManagedModel
from fastrouter.supervisor.memory.estimate import heap_bytes
from fastrouter.supervisor.next_model import LEAST_HEAP_BYTES, next_model
from fastrouter.system.machine import available_bytes

FREE = 1 << 40


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder: Path = tmp_path_factory.mktemp("models")
    make_llama(folder / "a.gguf")
    [found] = Catalog(Config(models_dir=folder)).models()
    return found


def named(spec: ModelSpec, name: str, **options: object) -> ModelSpec:
    return replace(spec, id=name, path=name, options=replace(spec.options, **options))


def test_nothing_has_left_yet(spec: ModelSpec) -> None:
    told = next_model([ManagedModel(spec)], FREE)
    assert (told.path, told.heap_bytes) == (None, LEAST_HEAP_BYTES)


def test_the_model_that_left_last_comes_back(spec: ModelSpec) -> None:
    large = named(spec, "large", ctx_size=1 << 20)
    entries = [
        ManagedModel(large, last_used=1.0),
        ManagedModel(named(spec, "late"), last_used=3.0),
        ManagedModel(named(spec, "broken"), last_used=9.0, error="x"),
    ]
    told = next_model(entries, FREE)
    assert (told.path, told.heap_bytes) == ("late", heap_bytes(large))


def test_nothing_is_kept_ready_for_what_has_expired(spec: ModelSpec) -> None:
    large = named(spec, "large", ctx_size=1 << 20)
    told = next_model([ManagedModel(large, last_used=3.0, has_expired=True), ManagedModel(named(spec, "small"), last_used=1.0)], FREE)
    assert (told.path, told.heap_bytes) == ("small", max(LEAST_HEAP_BYTES, heap_bytes(spec)))


def test_a_model_too_large_for_a_guess_is_not_opened(spec: ModelSpec) -> None:
    assert next_model([ManagedModel(spec, last_used=1.0)], 2 * spec.size_bytes).path is None


def test_the_cache_is_most_of_what_a_load_allocates(spec: ModelSpec) -> None:
    one, two = (heap_bytes(named(spec, "x", ctx_size=size)) for size in (1 << 11, 1 << 12))
    # 2 layers, 64 values of K and of V, 16 bits each: 512 bytes a token; and the scores of 4 narrow heads for 512 rows, 32 bits each.
    assert two - one == (1 << 11) * (512 + 4 * 512 * 4)
    assert heap_bytes(named(spec, "x", ctx_size=1 << 11, cache_type_k="f32")) - one == (1 << 11) * 256
    assert heap_bytes(replace(spec, header=None)) == 0


def test_free_memory_is_read() -> None:
    assert available_bytes() > 1 << 20
