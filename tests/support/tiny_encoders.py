"""Writes small BERT encoders that llama.cpp loads, and computes with numpy what they, and the llamas of tiny_models, must answer.

Uses nothing of fastrouter. The forward passes follow the papers' formulas: one sequence at a time, double precision, no cache.
"""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from tiny_models import NUM_HEADS as LLAMA_HEADS
from tiny_models import NUM_LAYERS as LLAMA_LAYERS
from tiny_models import make_tensors as make_llama_tensors
from tiny_models import make_vocabulary as make_llama_vocabulary

WIDTH = 48
NUM_LAYERS = 2
NUM_HEADS = 3
FEED_FORWARD = 96
EPSILON = 1e-6
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNKNOWN, CLS, SEP, MASK = range(5)
WORDS = ("the", "a", "of", "and", "cat", "dog", "red", "tree", "house", "sings", "runs", "under", "over", "moon", "ж", "日", "本")
ENDINGS = ("s", "ing", "ed", "er")
VOCABULARY = [*SPECIAL, *(f"▁{word}" for word in WORDS), *ENDINGS]
IDS = {piece: index for index, piece in enumerate(VOCABULARY)}

Matrix = NDArray[np.float32]
Vectors = NDArray[np.float64]


def words_to_ids(text: str) -> list[int]:
    """Only for texts of whole words, without special tokens."""
    return [IDS.get(f"▁{word}", UNKNOWN) for word in text.split()]


def make_tensors(seed: int, n_ctx: int, *, is_ranker: bool, num_tokens: int = len(VOCABULARY)) -> dict[str, Matrix]:
    random = np.random.default_rng(seed)

    def draw(*shape: int, scale: float = 0.15, around: float = 0.0) -> Matrix:
        return (around + random.standard_normal(shape) * scale).astype(np.float32)

    tensors = {
        "token_embd.weight": draw(num_tokens, WIDTH, scale=1.0),
        "position_embd.weight": draw(n_ctx, WIDTH),
        "token_types.weight": draw(2, WIDTH),
        "token_embd_norm.weight": draw(WIDTH, around=1.0),
        "token_embd_norm.bias": draw(WIDTH),
    }
    shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
    shapes |= {"ffn_up": (FEED_FORWARD, WIDTH), "ffn_down": (WIDTH, FEED_FORWARD)}
    for layer in range(NUM_LAYERS):
        for name, shape in shapes.items():
            tensors[f"blk.{layer}.{name}.weight"] = draw(*shape)
            tensors[f"blk.{layer}.{name}.bias"] = draw(shape[0])
        for name in ("attn_output_norm", "layer_output_norm"):
            tensors[f"blk.{layer}.{name}.weight"] = draw(WIDTH, around=1.0)
            tensors[f"blk.{layer}.{name}.bias"] = draw(WIDTH)
    if is_ranker:
        tensors |= {"cls.weight": draw(WIDTH, WIDTH), "cls.bias": draw(WIDTH)}
        tensors |= {"cls.output.weight": draw(1, WIDTH, scale=0.1), "cls.output.bias": draw(1)}
    return tensors


def make_bert(
    path: Path | str,
    *,
    seed: int = 0,
    pooling: gguf.PoolingType | None = gguf.PoolingType.MEAN,
    n_ctx: int = 128,
    vocabulary: tuple[list[str], dict[str, int]] | None = None,
) -> Path:
    """An encoder of about 0.2 MB at `path`; with pooling RANK it has the head of a reranker.

    `vocabulary`: other pieces, and the special ones among them by role."""
    path = Path(path)
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(f"tiny-bert-{seed}")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(NUM_LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(NUM_HEADS)
    writer.add_layer_norm_eps(EPSILON)
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    pieces, roles = vocabulary or (VOCABULARY, {"pad": PAD, "unk": UNKNOWN, "bos": CLS, "sep": SEP, "mask": MASK})
    writer.add_vocab_size(len(pieces))
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    special = set(roles.values())
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in range(len(pieces))])
    for role, token in roles.items():
        getattr(writer, f"add_{role}_token_id")(token)
    for name, tensor in make_tensors(seed, n_ctx, is_ranker=pooling == gguf.PoolingType.RANK, num_tokens=len(pieces)).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# ---------------------------------------------------------------- the same with numpy


def _layer_norm(x: Vectors, weight: Matrix, bias: Matrix) -> Vectors:
    centred = x - x.mean(-1, keepdims=True)
    scaled: Vectors = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * weight + bias
    return scaled


def _softmax(x: Vectors) -> Vectors:
    powers = np.exp(x - x.max(-1, keepdims=True))
    shares: Vectors = powers / powers.sum(-1, keepdims=True)
    return shares


def _attention(q: Vectors, k: Vectors, v: Vectors, num_heads: int, *, is_causal: bool) -> Vectors:
    num_tokens, width = q.shape
    size = width // num_heads
    mask = np.triu(np.full((num_tokens, num_tokens), -np.inf), 1) if is_causal else np.zeros((num_tokens, num_tokens))
    heads = []
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        heads.append(_softmax(q[:, part] @ k[:, part].T / np.sqrt(size) + mask) @ v[:, part])
    return np.concatenate(heads, axis=1)


def bert_states(tokens: list[int], seed: int, n_ctx: int = 128, *, is_ranker: bool = False) -> Vectors:
    """The last layer's output, one row for each token."""
    weights = make_tensors(seed, n_ctx, is_ranker=is_ranker)

    def linear(x: Vectors, name: str) -> Vectors:
        out: Vectors = x @ weights[f"{name}.weight"].T.astype(np.float64) + weights[f"{name}.bias"]
        return out

    def norm(x: Vectors, name: str) -> Vectors:
        return _layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    x: Vectors = weights["token_embd.weight"][tokens].astype(np.float64)
    x = norm(x + weights["token_types.weight"][0] + weights["position_embd.weight"][: len(tokens)], "token_embd_norm")
    for layer in range(NUM_LAYERS):
        block = f"blk.{layer}"
        q, k, v = (linear(x, f"{block}.{name}") for name in ("attn_q", "attn_k", "attn_v"))
        x = norm(x + linear(_attention(q, k, v, NUM_HEADS, is_causal=False), f"{block}.attn_output"), f"{block}.attn_output_norm")
        inner = linear(x, f"{block}.ffn_up")
        inner = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        x = norm(x + linear(inner, f"{block}.ffn_down"), f"{block}.layer_output_norm")
    return x


def bert_score(tokens: list[int], seed: int, n_ctx: int = 128) -> float:
    """The result of a reranker's head for the first token."""
    weights = make_tensors(seed, n_ctx, is_ranker=True)
    first = bert_states(tokens, seed, n_ctx, is_ranker=True)[0]
    inner = np.tanh(weights["cls.weight"].astype(np.float64) @ first + weights["cls.bias"])
    return float((weights["cls.output.weight"].astype(np.float64) @ inner + weights["cls.output.bias"])[0])


def llama_states(tokens: list[int], seed: int) -> Vectors:
    """The last layer's normalised output of tiny_models' llama, one row for each token."""
    weights = make_llama_tensors(len(make_llama_vocabulary()[0]), seed)

    def norm(x: Vectors) -> Vectors:  # all its weights are ones
        scaled: Vectors = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        return scaled

    def linear(x: Vectors, name: str) -> Vectors:
        out: Vectors = x @ weights[f"{name}.weight"].T.astype(np.float64)
        return out

    def rotate(x: Vectors) -> Vectors:
        size = x.shape[1] // LLAMA_HEADS
        angles = np.arange(len(x))[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
        turned = x.reshape(len(x), LLAMA_HEADS, size // 2, 2) @ np.eye(2)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        even, odd = turned[..., 0], turned[..., 1]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)

    x: Vectors = weights["token_embd.weight"][tokens].astype(np.float64)
    for layer in range(LLAMA_LAYERS):
        block = f"blk.{layer}"
        q, k, v = (linear(norm(x), f"{block}.{name}") for name in ("attn_q", "attn_k", "attn_v"))
        x = x + linear(_attention(rotate(q), rotate(k), v, LLAMA_HEADS, is_causal=True), f"{block}.attn_output")
        gate, up = linear(norm(x), f"{block}.ffn_gate"), linear(norm(x), f"{block}.ffn_up")
        x = x + linear(gate / (1 + np.exp(-gate)) * up, f"{block}.ffn_down")
    return norm(x)


def unit(vector: Vectors) -> Vectors:
    length: Vectors = vector / np.sqrt((vector**2).sum())
    return length
