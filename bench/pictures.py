"""First token with a picture: SmolLM2-135M with a projector of random weights, about as much work as a small CLIP.

The projector is written to a temporary folder, and deleted when the program ends. What the model says of its pictures means nothing.
"""

import functools
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from bench.running import FLAGS, Samples, running
from fastrouter.cli.bench.load_client import request_bytes, stream_all
from fastrouter.cli.bench.servers import MeasuredServer
from fastrouter.cli.bench.switching import PAUSE_S, SHORT, ttft

MODEL_WIDTH = 576  # of SmolLM2-135M
WIDTH, FEED_FORWARD, NUM_HEADS, NUM_LAYERS = 512, 2048, 8, 8
IMAGE_SIZE, PATCH_SIZE = 224, 14
NUM_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2  # and as many tokens
NUM_PICTURES = 3


def pictures(name: str, rival: Path | None, models: Path) -> Samples:
    """A new picture; the next turn of its conversation; the same picture at another place of another conversation."""
    samples: Samples = defaultdict(list)
    with running(name, rival, _folder(models), *FLAGS) as server:
        ttft(server, "sees")
        for number in range(NUM_PICTURES):
            part = _part(number)
            question = {"role": "user", "content": [part, {"type": "text", "text": SHORT}]}
            answer = {"role": "assistant", "content": "Hello."}
            samples["picture_new_s"].append(_ask(server, question))
            samples["picture_next_turn_s"].append(_ask(server, question, answer, {"role": "user", "content": "And now?"}))
            other = {"role": "user", "content": [{"type": "text", "text": f"Number {number}."}, part, {"type": "text", "text": SHORT}]}
            samples["picture_elsewhere_s"].append(_ask(server, other))
    return samples


def _ask(server: MeasuredServer, *messages: dict[str, Any]) -> float:
    time.sleep(PAUSE_S)
    return stream_all(server.port, [request_bytes("sees", "", 4, messages=list(messages))])[0].ttft_s


def _part(number: int) -> dict[str, Any]:
    """A picture of 640 x 480 that no server has seen."""
    from tiny_projectors import image_part, picture, png  # on the path since __main__

    return image_part(png(picture(number, 640, 480)))


# ---------------------------------------------------------------- the projector


@functools.cache
def _temporary() -> "tempfile.TemporaryDirectory[str]":
    """It is deleted when the program ends."""
    return tempfile.TemporaryDirectory(prefix="fastrouter-bench-")


@functools.cache
def _folder(models: Path) -> Path:
    """With one model, and its projector beside it."""
    folder = Path(_temporary().name)
    (folder / "sees").mkdir()
    (folder / "sees" / "sees.gguf").symlink_to((models / "smol0.gguf").resolve())
    make_projector(folder / "sees" / "mmproj-sees.gguf")
    return folder


def make_projector(path: Path) -> None:
    """As LLaVA has: a CLIP encoder and two layers."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name("random")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", False)
    numbers = {
        "embedding_length": WIDTH,
        "feed_forward_length": FEED_FORWARD,
        "block_count": NUM_LAYERS + 1,  # the last layer of CLIP is not used
        "projection_dim": MODEL_WIDTH,
        "attention.head_count": NUM_HEADS,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }
    for key, value in numbers.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for key in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{key}", [0.5, 0.5, 0.5])
    for name, tensor in _tensors().items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors() -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(0)
    found: dict[str, NDArray[Any]] = {
        "v.patch_embd.weight": (random.standard_normal((WIDTH, 3, PATCH_SIZE, PATCH_SIZE)) * 0.05).astype(np.float16),
        "v.position_embd.weight": _matrix(random, NUM_PATCHES, WIDTH).astype(np.float32),
    }
    _add_norm(found, "v.pre_ln")
    for layer in range(NUM_LAYERS + 1):
        block = f"v.blk.{layer}"
        for name in ("ln1", "ln2"):
            _add_norm(found, f"{block}.{name}")
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            _add_linear(found, f"{block}.{name}", _matrix(random, WIDTH, WIDTH))
        _add_linear(found, f"{block}.ffn_up", _matrix(random, FEED_FORWARD, WIDTH))
        _add_linear(found, f"{block}.ffn_down", _matrix(random, WIDTH, FEED_FORWARD))
    _add_linear(found, "mm.0", _matrix(random, MODEL_WIDTH, WIDTH))
    _add_linear(found, "mm.2", _matrix(random, MODEL_WIDTH, MODEL_WIDTH))
    return found


def _matrix(random: np.random.Generator, rows: int, columns: int) -> NDArray[np.float16]:
    return (random.standard_normal((rows, columns)) * 0.03).astype(np.float16)


def _add_norm(tensors: dict[str, NDArray[Any]], name: str) -> None:
    tensors |= {f"{name}.weight": np.ones(WIDTH, np.float32), f"{name}.bias": np.zeros(WIDTH, np.float32)}


def _add_linear(tensors: dict[str, NDArray[Any]], name: str, weight: NDArray[np.float16]) -> None:
    tensors |= {f"{name}.weight": weight, f"{name}.bias": np.zeros(len(weight), np.float32)}
