"""What llama.cpp is told of places, positions and metadata, and what is said about what it cannot obey. test_same_as_llama_server.py
compares the answers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import WIDTH, make_control_vector, make_llama

from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama.binding import LlamaError, api, mtmd, start_backends
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.control_vector import read
from fastrouter.worker.llama.model import Model
from fastrouter.worker.llama.placement import place, place_projector, set_positions

Open = Callable[..., Model]


@pytest.fixture(scope="module", autouse=True)
def backends() -> None:
    start_backends()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_llama(tmp_path_factory.mktemp("placed") / "tiny.gguf"))


@pytest.fixture
def opened(path: str) -> Iterator[Open]:
    models: list[Model] = []

    def open_model(**options: Any) -> Model:
        models.append(Model(path, LoadOptions(ctx_size=256, parallel=1, **options)))
        return models[-1]

    yield open_model
    for model in models:
        model.close()


def test_nothing_is_set_without_flags() -> None:
    ours, own = api.llama_model_default_params(), api.llama_model_default_params()
    assert place(ours, LoadOptions()) == [None] * 4
    assert bytes(ours) == bytes(own)
    of_context, default = api.llama_context_default_params(), api.llama_context_default_params()
    set_positions(of_context, LoadOptions())
    for name, _ in default._fields_:
        if "yarn" in name or "rope" in name:
            assert getattr(of_context, name) == getattr(default, name), name


def test_rope_scale_is_the_reciprocal() -> None:
    params = api.llama_context_default_params()
    set_positions(params, LoadOptions(rope_scale=4.0))
    assert params.rope_freq_scale == 0.25
    set_positions(params, LoadOptions(rope_scale=4.0, rope_freq_scale=0.5))
    assert params.rope_freq_scale == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": ["GPU7"]}, "--device GPU7: there is no such device"),
        ({"override_tensor": [["a", "VRAM"]]}, "--override-tensor VRAM: there is no such buffer type; there are CPU"),
        ({"tensor_split": [1.0] * 99}, "--tensor-split: it has 99 numbers"),
        ({"override_tensor": [["(", "CPU"]]}, "regular expression|regex|Parenthesis|parenthes"),
        ({"override_kv": [["llama.block_count", "int", 3]]}, "blk.1|tensor"),
    ],
)
def test_what_cannot_be_obeyed_ends_the_load(opened: Open, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LlamaError, match=message):
        opened(**options)


def test_where_a_projector_is_put() -> None:
    def placed(**options: Any) -> Any:
        params = mtmd().mtmd_context_params_default()
        place_projector(params, LoadOptions(**options))
        return params

    assert (placed().use_gpu, placed().device) == (True, None)
    for options in ({"mmproj_offload": False}, {"mmproj_device": "none"}, {"devices": ["none"]}):
        assert not placed(**options).use_gpu, options
    for options, flag in (({"mmproj_device": "GPU7", "mmproj_offload": False}, "--mmproj-device"), ({"devices": ["GPU7"]}, "--device")):
        with pytest.raises(LlamaError, match=f"^{flag} GPU7: there is no such device"):
            placed(**options)


def test_metadata_of_every_type(opened: Open) -> None:
    model = opened(
        override_kv=[
            ["llama.context_length", "int", 99],
            ["llama.rope.freq_base", "float", 0.5],
            ["tokenizer.ggml.add_bos_token", "bool", False],
            ["general.name", "str", "another"],
        ]
    )
    assert model.n_ctx_train == 99
    assert model.vocab.tokenize("the") == model.vocab.tokenize("the", add_special=False)


def test_control_vectors_add_up(tmp_path: Path) -> None:
    one, two = (make_control_vector(tmp_path / f"{seed}.gguf", seed=seed, num_layers=seed) for seed in (1, 2))
    alone = read([[str(two), 1.0]])
    assert alone.shape == (2, WIDTH)
    both = read([[str(one), 0.5], [str(two), 2.0]])
    assert both[0] == pytest.approx(0.5 * read([[str(one), 1.0]])[0] + 2 * alone[0])
    assert both[1] == pytest.approx(2 * alone[1])


def test_mistakes_in_control_vectors(tmp_path: Path, opened: Open, path: str) -> None:
    fits, wide = make_control_vector(tmp_path / "fits.gguf"), make_control_vector(tmp_path / "wide.gguf", width=2 * WIDTH)
    (tmp_path / "text.gguf").write_text("no GGUF at all")
    for vectors, message in [
        ([[str(tmp_path / "text.gguf"), 1.0]], "text.gguf: the file cannot be read"),
        ([[path, 1.0]], "is not named direction.1"),
        ([[str(fits), 1.0], [str(wide), 1.0]], f"wide.gguf: it is for an embedding of {2 * WIDTH} numbers, an earlier one for {WIDTH}"),
        ([[str(wide), 1.0]], f"for an embedding of {2 * WIDTH} numbers, and this model has {WIDTH}"),
    ]:
        model = opened()
        with pytest.raises(LlamaError, match=message):
            Context(model, LoadOptions(ctx_size=256, parallel=1, control_vectors=vectors))


def test_memory_nodes(opened: Open) -> None:
    assert opened(numa="distribute").n_ctx_train
