"""Writes small GGUF files whose context stores tokens in another way than llama's: in a sliding window, in a recurrent state, or in a
state together with a KV cache. Uses nothing of fastrouter.

Invariant: as in tiny_models, output is printable ASCII and never ends by itself: no layer writes to channel 0.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_models import FEED_FORWARD, NUM_HEADS, NUM_SILENT, WIDTH, make_tensors, make_vocabulary

WINDOW = 24
INNER, STATE, RANK, KERNEL = 2 * WIDTH, 16, 4, 4


class _Weights:
    """Random matrices by name, rows are outputs."""

    def __init__(self, seed: int, num_tokens: int) -> None:
        self._random = np.random.default_rng(500 + seed)
        outer = make_tensors(num_tokens, seed, NUM_SILENT)
        self.tensors = {name: outer[name] for name in ("token_embd.weight", "output_norm.weight", "output.weight")}

    def matrix(self, name: str, rows: int, columns: int, scale: float, *, is_silent: bool = False) -> None:
        """`is_silent`: it writes to the residual stream, but not to channel 0."""
        matrix = (self._random.standard_normal((rows, columns)) * scale).astype(np.float32)
        if is_silent:
            matrix[0] = 0.0
        self.tensors[name] = matrix

    def vector(self, name: str, size: int, value: float = 1.0, *, is_silent: bool = False) -> None:
        vector = np.full(size, value, np.float32)
        vector[0] = 0.0 if is_silent else value
        self.tensors[name] = vector

    def attention(self, layer: int) -> None:
        for name in ("q", "k", "v"):
            self.matrix(f"blk.{layer}.attn_{name}.weight", WIDTH, WIDTH, 0.25)
        self.matrix(f"blk.{layer}.attn_output.weight", WIDTH, WIDTH, 0.25, is_silent=True)

    def feed_forward(self, layer: int) -> None:
        for name in ("gate", "up"):
            self.matrix(f"blk.{layer}.ffn_{name}.weight", FEED_FORWARD, WIDTH, 0.2)
        self.matrix(f"blk.{layer}.ffn_down.weight", WIDTH, FEED_FORWARD, 0.2, is_silent=True)

    def mamba(self, layer: int) -> None:
        block = f"blk.{layer}.ssm_"
        self.matrix(f"{block}in.weight", 2 * INNER, WIDTH, 0.25)
        self.matrix(f"{block}conv1d.weight", INNER, KERNEL, 0.5)
        self.vector(f"{block}conv1d.bias", INNER, 0.1)
        self.matrix(f"{block}x.weight", RANK + 2 * STATE, INNER, 0.2)
        self.matrix(f"{block}dt.weight", INNER, RANK, 0.3)
        self.vector(f"{block}dt.bias", INNER, -2.0)  # small steps: the state forgets slowly
        self.tensors[f"{block}a"] = -np.tile(np.arange(1, STATE + 1, dtype=np.float32) * 0.05, (INNER, 1))
        self.vector(f"{block}d", INNER)
        self.matrix(f"{block}out.weight", WIDTH, INNER, 0.25, is_silent=True)


def _write(path: Path, architecture: str, num_layers: int, weights: _Weights, n_ctx: int, **keys: Any) -> Path:
    pieces, scores, kinds = make_vocabulary()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"tiny {architecture}")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(num_layers)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(pieces))
    for key, value in keys.items():
        getattr(writer, f"add_{key}")(value)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    for role, token in (("unk", 0), ("bos", 1), ("eos", 2)):
        getattr(writer, f"add_{role}_token_id")(token)
    for name, tensor in weights.tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _ssm_keys() -> dict[str, int]:
    return {"ssm_conv_kernel": KERNEL, "ssm_inner_size": INNER, "ssm_state_size": STATE, "ssm_time_step_rank": RANK}


def make_sliding(path: Path, *, seed: int = 0, n_ctx: int = 2048, window: int = WINDOW) -> Path:
    """olmo2: three layers see the last WINDOW tokens, the fourth sees all."""
    weights = _Weights(seed, len(make_vocabulary()[0]))
    for layer in range(4):
        block = f"blk.{layer}."
        weights.attention(layer)
        weights.feed_forward(layer)
        for name in ("attn_q_norm", "attn_k_norm"):
            weights.vector(f"{block}{name}.weight", WIDTH)
        for name in ("post_attention_norm", "post_ffw_norm"):
            weights.vector(f"{block}{name}.weight", WIDTH, 0.7, is_silent=True)
    keys = {"feed_forward_length": FEED_FORWARD, "head_count": NUM_HEADS, "head_count_kv": NUM_HEADS, "sliding_window": window}
    return _write(path, "olmo2", 4, weights, n_ctx, **keys)


def make_recurrent(path: Path, *, seed: int = 0, n_ctx: int = 2048) -> Path:
    """mamba: two layers, each with a state of fixed size."""
    weights = _Weights(seed, len(make_vocabulary()[0]))
    for layer in range(2):
        weights.vector(f"blk.{layer}.attn_norm.weight", WIDTH)
        weights.mamba(layer)
    return _write(path, "mamba", 2, weights, n_ctx, feed_forward_length=0, head_count=0, **_ssm_keys())


def make_hybrid(path: Path, *, seed: int = 0, n_ctx: int = 2048) -> Path:
    """jamba: a recurrent layer, then one with attention."""
    weights = _Weights(seed, len(make_vocabulary()[0]))
    for layer in range(2):
        weights.vector(f"blk.{layer}.attn_norm.weight", WIDTH)
        weights.vector(f"blk.{layer}.ffn_norm.weight", WIDTH)
        weights.feed_forward(layer)
    weights.mamba(0)
    for name, size in (("dt", RANK), ("b", STATE), ("c", STATE)):
        weights.vector(f"blk.0.ssm_{name}_norm.weight", size)
    weights.attention(1)
    keys = {"feed_forward_length": FEED_FORWARD, "head_count": NUM_HEADS, "head_count_kv": [0, NUM_HEADS]}
    return _write(path, "jamba", 2, weights, n_ctx, **keys, **_ssm_keys())


def make_qwen35(path: Path, *, seed: int = 0, n_ctx: int = 2048, chat_template: str | None = None) -> Path:
    """qwen35: a recurrent layer, then one with attention, whose positions have several parts (M-RoPE). Its pictures can come from
    tiny_projectors.make_qwen2vl."""
    weights = _Weights(seed, len(make_vocabulary()[0]))
    heads, groups, size = 4, 2, WIDTH // 4
    for layer in range(2):
        weights.vector(f"blk.{layer}.attn_norm.weight", WIDTH)
        weights.vector(f"blk.{layer}.post_attention_norm.weight", WIDTH)
        weights.feed_forward(layer)
    mixed = (2 * groups + heads) * size
    weights.matrix("blk.0.attn_qkv.weight", mixed, WIDTH, 0.25)
    weights.matrix("blk.0.attn_gate.weight", WIDTH, WIDTH, 0.25)
    weights.matrix("blk.0.ssm_conv1d.weight", mixed, KERNEL, 0.5)
    weights.vector("blk.0.ssm_dt.bias", heads, -2.0)
    weights.vector("blk.0.ssm_a", heads, -0.2)
    weights.matrix("blk.0.ssm_beta.weight", heads, WIDTH, 0.25)
    weights.matrix("blk.0.ssm_alpha.weight", heads, WIDTH, 0.25)
    weights.vector("blk.0.ssm_norm.weight", size)
    weights.matrix("blk.0.ssm_out.weight", WIDTH, WIDTH, 0.25, is_silent=True)
    weights.attention(1)
    weights.matrix("blk.1.attn_q.weight", 2 * WIDTH, WIDTH, 0.25)  # and a gate for each
    for name in ("attn_q_norm", "attn_k_norm"):
        weights.vector(f"blk.1.{name}.weight", size)
    keys: dict[str, Any] = {"feed_forward_length": FEED_FORWARD, "head_count": NUM_HEADS, "head_count_kv": NUM_HEADS}
    keys |= {"key_length": size, "value_length": size, "rope_dimension_count": size, "rope_dimension_sections": [2, 3, 3, 0]}
    keys |= {"ssm_conv_kernel": KERNEL, "ssm_inner_size": WIDTH, "ssm_state_size": size, "ssm_time_step_rank": heads}
    keys |= {"ssm_group_count": groups, "full_attention_interval": 2}
    if chat_template is not None:
        keys["chat_template"] = chat_template
    return _write(path, "qwen35", 2, weights, n_ctx, **keys)


MAKERS = {"sliding": make_sliding, "recurrent": make_recurrent, "hybrid": make_hybrid}
