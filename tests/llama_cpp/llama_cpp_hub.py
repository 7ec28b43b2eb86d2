"""The models that llama.cpp's own server tests load, as tiny stand-ins with random weights, in a cache folder laid out like the hub's.

A stand-in has the name, the kind and the file type of the real model, and its vocabulary where llama.cpp's source ships it. It does not
have its words.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import gguf
from fake_hub import COMMIT
from tiny_encoders import make_bert
from tiny_models import make_llama, make_lora
from tiny_projectors import make_llava, picture, png

ORG = "ggml-org"
MODELS = f"{ORG}/models"
DOWNLOADED = f"{ORG}/test-model-router-download"  # not in the cache: a test downloads it
PRESET = b"[tinygemma3-preset]\nhf-repo = ggml-org/tinygemma3-GGUF:Q8_0\n\n[stories260K-test]\nhf-repo = ggml-org/test-model-stories260K\n"
PRESETS = {f"{ORG}/test-preset-ci": {"preset.ini": PRESET}}
BERT_VOCABULARY = "models/ggml-vocab-bert-bge.gguf"
SPLIT = "tinyllamas/split/stories15M-q8_0"
STORIES_CONTEXT = 2048
FIM = ("pre", "suf", "mid")
BY_ADDRESS = ("moe_shakespeare15M.gguf", "stories15M-q4_0.gguf")  # what tests download by themselves
PICTURES = ("11_truck.png", "91_cat.png")


def make_hub(cache: Path, source: Path) -> None:
    """All models of the presets. `source`: llama.cpp's source, for vocabularies."""
    vocabulary = bert_vocabulary(source / BERT_VOCABULARY)
    put(cache, f"{ORG}/test-model-stories260K", "stories260K-f32.gguf", lambda path: make_llama(path, n_ctx=STORIES_CONTEXT))
    put(cache, f"{ORG}/test-model-stories260K-infill", "stories260K-infill-f32.gguf", lambda path: make_llama(path, seed=1, fim=FIM))
    put(cache, MODELS, "tinyllamas/stories260K.gguf", lambda path: make_llama(path, n_ctx=STORIES_CONTEXT))
    put(cache, MODELS, f"{SPLIT}.gguf", lambda path: make_llama(path, seed=2, tensors_per_shard=8))
    put(cache, MODELS, "bert-bge-small/ggml-model-f16.gguf", lambda path: make_bert(path, n_ctx=512, vocabulary=vocabulary))
    put(cache, MODELS, "jina-reranker-v1-tiny-en/ggml-model-f16.gguf", lambda path: make_ranker(path, vocabulary))
    put(cache, f"{ORG}/stories15M_MOE", "stories15M_MOE-F16.gguf", lambda path: make_llama(path, seed=3, half=True))
    put(cache, f"{ORG}/tinygemma3-GGUF", "tinygemma3-Q8_0.gguf", lambda path: make_llama(path, seed=4, half=True))
    put(cache, f"{ORG}/tinygemma3-GGUF", "mmproj-tinygemma3.gguf", make_llava)


def make_downloads(folder: Path) -> None:
    """What tests fetch by an address, by the names that they give the files."""
    folder.mkdir(parents=True, exist_ok=True)
    make_lora(folder / BY_ADDRESS[0], seed=3)
    make_llama(folder / BY_ADDRESS[1], seed=3)
    for seed, name in enumerate(PICTURES):
        (folder / name).write_bytes(png(picture(seed)))


def make_downloadable() -> dict[str, dict[str, bytes]]:
    """Files by repository of a hub that can be asked for them: one is not in the cache yet."""
    with tempfile.TemporaryDirectory() as folder:
        return PRESETS | {DOWNLOADED: {"model-f16.gguf": make_llama(Path(folder, "tiny.gguf"), seed=5, half=True).read_bytes()}}


def put(cache: Path, repo: str, name: str, make: Callable[[Path], object]) -> None:
    folder = cache / f"models--{repo.replace('/', '--')}"
    path = folder / "snapshots" / COMMIT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    make(path)


def make_ranker(path: Path, vocabulary: tuple[list[str], dict[str, int]]) -> None:
    make_bert(path, seed=1, n_ctx=512, pooling=gguf.PoolingType.RANK, vocabulary=vocabulary)


def bert_vocabulary(path: Path) -> tuple[list[str], dict[str, int]]:
    """(pieces, special ones by role)"""
    fields = gguf.GGUFReader(path).fields
    pieces = fields["tokenizer.ggml.tokens"].contents()
    return pieces, {role: pieces.index(f"[{name}]") for role, name in ROLES.items()}


ROLES = {"pad": "PAD", "unk": "UNK", "bos": "CLS", "sep": "SEP", "mask": "MASK"}
