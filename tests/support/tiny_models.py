"""Writes small, valid llama-architecture GGUF files that llama.cpp loads, and LoRA adapters for them. Uses nothing of fastrouter.

Invariant: output is printable ASCII and never ends by itself, greedy or sampled; a logit bias of 200 on token 2 still ends it. Channel 0
of the residual stream is a constant: every embedding row holds 0.5 there and no layer writes to it, and a large negative output weight
on it prevents byte and control tokens from being chosen.
"""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

WIDTH = 64
NUM_LAYERS = 2
NUM_HEADS = 4
FEED_FORWARD = 128
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ("the", "a", "of", "and", "to", "in", "is", "on", "it", "he", "she", "we", "you", "not", "all", "one", "two", "red", "cat", "dog")
CONTROL_PIECES = (("<unk>", gguf.TokenType.UNKNOWN), ("<s>", gguf.TokenType.CONTROL), ("</s>", gguf.TokenType.CONTROL))
NUM_SILENT = len(CONTROL_PIECES) + 256  # tokens that greedy output never holds

Matrix = NDArray[np.float32]
Vocabulary = tuple[list[bytes], list[float], list[int]]


def make_vocabulary(num_tokens: int = 0) -> Vocabulary:
    """(pieces, scores, types) of a SentencePiece vocabulary with byte fallback; filled up to `num_tokens`."""
    entries = [(piece, 0.0, kind) for piece, kind in CONTROL_PIECES]
    entries += [(f"<0x{byte:02X}>", 0.0, gguf.TokenType.BYTE) for byte in range(256)]
    merges = [f"▁{word[: length + 1]}" for word in WORDS for length in range(len(word))]
    pieces = list(dict.fromkeys([*merges, *LETTERS, "▁", ".", ","]))
    # Longer pieces score higher: the tokenizer merges the best pair first.
    entries += [(piece, float(len(piece) * 100 - rank - 1000), gguf.TokenType.NORMAL) for rank, piece in enumerate(pieces)]
    entries += [(f"▁{index}", -1e6, gguf.TokenType.NORMAL) for index in range(num_tokens - len(entries))]
    return [piece.encode() for piece, _, _ in entries], [score for _, score, _ in entries], [int(kind) for _, _, kind in entries]


def make_tensors(num_tokens: int, seed: int, num_silent: int = NUM_SILENT) -> dict[str, Matrix]:
    """Weights by name, rows are outputs."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float) -> Matrix:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    embedding, output = matrix(num_tokens, WIDTH, 0.5), matrix(num_tokens, WIDTH, 0.5)
    embedding[:, 0] = 0.5
    output[:, 0] = 0.0
    output[:num_silent] = 0.0
    output[:num_silent, 0] = -1000.0
    ones: Matrix = np.ones(WIDTH, np.float32)
    tensors: dict[str, Matrix] = {"token_embd.weight": embedding, "output_norm.weight": ones, "output.weight": output}
    for layer in range(NUM_LAYERS):
        named: dict[str, Matrix] = {"attn_norm": ones, "ffn_norm": ones}
        named |= {name: matrix(WIDTH, WIDTH, 0.25) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        named |= {"ffn_gate": matrix(FEED_FORWARD, WIDTH, 0.2), "ffn_up": matrix(FEED_FORWARD, WIDTH, 0.2)}
        named["ffn_down"] = matrix(WIDTH, FEED_FORWARD, 0.2)
        for name in ("attn_output", "ffn_down"):
            named[name][0] = 0.0
        tensors |= {f"blk.{layer}.{name}.weight": tensor for name, tensor in named.items()}
    return tensors


ADAPTED = ("attn_q", "attn_v", "ffn_up")  # none of them writes to the residual stream, so channel 0 does not change
LORA_RANK = 4
LORA_ALPHA = 8.0


def make_lora_tensors(seed: int) -> dict[str, tuple[Matrix, Matrix]]:
    """(A, B) by the name of the weight they are for."""
    random = np.random.default_rng(1000 + seed)
    rows = {"attn_q": WIDTH, "attn_v": WIDTH, "ffn_up": FEED_FORWARD}
    return {
        f"blk.{layer}.{name}.weight": (
            random.standard_normal((LORA_RANK, WIDTH)).astype(np.float32) * np.float32(0.25),
            random.standard_normal((rows[name], LORA_RANK)).astype(np.float32) * np.float32(0.25),
        )
        for layer in range(NUM_LAYERS)
        for name in ADAPTED
    }


def make_lora(
    path: Path | str,
    *,
    seed: int = 0,
    architecture: str = "llama",
    width: int = WIDTH,
    task_name: str | None = None,
    invocation_tokens: list[int] | None = None,
) -> Path:
    """A LoRA adapter for make_llama's models of any seed; with another `width` it fits none of them."""
    path = Path(path)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, LORA_ALPHA)
    if task_name is not None:
        writer.add_string("adapter.lora.task_name", task_name)
        writer.add_string("adapter.lora.prompt_prefix", f"{task_name}: ")
    if invocation_tokens is not None:
        writer.add_key_value("adapter.alora.invocation_tokens", invocation_tokens, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32)
    for name, (a, b) in make_lora_tensors(seed).items():
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(a[:, :width]))
        writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make_control_vector(path: Path | str, *, seed: int = 0, width: int = WIDTH, num_layers: int = 1) -> Path:
    """For make_llama's models; with another `width` it fits none of them. llama.cpp's layers are numbered from 0, and it adds nothing to
    the first one."""
    path, random = Path(path), np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    for layer in range(1, num_layers + 1):
        writer.add_tensor(f"direction.{layer}", random.normal(size=width).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(tensors: dict[str, Matrix], adapters: list[tuple[int, float]]) -> dict[str, Matrix]:
    """The weights with these adapters (seed, scale) merged in: what llama.cpp must compute when it applies the adapters."""
    tensors = dict(tensors)
    for seed, scale in adapters:
        for name, (a, b) in make_lora_tensors(seed).items():
            tensors[name] = (tensors[name] + np.float32(scale * LORA_ALPHA / LORA_RANK) * (b @ a)).astype(np.float32)
    return tensors


def make_llama(
    path: Path | str,
    *,
    seed: int = 0,
    n_ctx: int = 2048,
    chat_template: str | None = None,
    name: str | None = None,
    half: bool = False,
    tensors_per_shard: int = 0,
    adapters: list[tuple[int, float]] | None = None,
    sampling: dict[str, float | str] | None = None,
    num_silent: int = NUM_SILENT,
    num_tokens: int = 0,
    fim: tuple[str, ...] = (),
    vocabulary: Vocabulary | None = None,
    architecture: str = "llama",
    tensors: dict[str, Matrix] | None = None,
) -> Path:
    """A model of about 0.5 MB at `path`; other seeds say other things. `half`: F16 matrices.

    `adapters`: make_lora's (seed, scale), merged into the weights. `sampling`: values of general.sampling.* keys. `num_silent`: so many
    tokens, from the first on, are never chosen. `num_tokens`: size of the vocabulary, at least. `fim`: control tokens to fill gaps with
    (of "pre suf mid pad rep sep"), behind all others; they are never chosen either. `architecture`: llama, or qwen2vl or qwen3vl, whose
    positions have several parts and cannot be shifted. `tensors`: instead of random ones.

    With `tensors_per_shard` (there are 21 tensors) the files are `path`'s stem + `-0000i-of-0000n.gguf`; the first one is returned.
    """
    path = Path(path)
    pieces, scores, kinds = vocabulary or make_vocabulary(num_tokens)
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_per_shard)
    if architecture in ("qwen2vl", "qwen3vl"):
        writer.add_rope_dimension_sections([2, 3, 3, 0])
    if architecture == "qwen3vl":
        writer.add_uint32("qwen3vl.n_deepstack_layers", 1)
    for role in fim:
        writer.add_uint32(f"tokenizer.ggml.fim_{role}_token_id", len(pieces))
        pieces, scores, kinds = [*pieces, f"<fim_{role}>".encode()], [*scores, 0.0], [*kinds, int(gguf.TokenType.CONTROL)]
    writer.add_name(name or f"tiny-{seed}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(NUM_LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // NUM_HEADS)
    writer.add_vocab_size(len(pieces))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    for role, token in (("unk", 0), ("bos", 1), ("eos", 2)):
        getattr(writer, f"add_{role}_token_id")(token)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for key, value in (sampling or {}).items():
        add = {int: writer.add_int32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"general.sampling.{key}", value)
    for tensor_name, tensor in merged(tensors or make_tensors(len(pieces), seed, num_silent), adapters or []).items():
        if fim and tensor_name == "output.weight":
            tensor[-len(fim) :] = tensor[0]
        writer.add_tensor(tensor_name, tensor.astype(np.float16) if half and tensor.ndim == 2 else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if not tensors_per_shard else sorted(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))[-1]
