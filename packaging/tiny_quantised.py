"""Writes a valid model with matrices of all types that CPU variants of llama.cpp compute with different code.

Needs only Python: a quantised block is random bits with a small scale. Its text means nothing; its numbers stay finite.
"""

import random
import struct
from pathlib import Path

WIDTH, FEED_FORWARD, NUM_HEADS = 256, 512, 4  # whole blocks of 256, and rows for AMX's tiles
NUM_TOKENS = 288
_STRING, _ARRAY, _U32, _I32, _F32 = 8, 9, 4, 5, 6
_F32_TENSOR = 0
_SCALE = struct.pack("<e", 0.004)
_ZERO = struct.pack("<e", 0.0)
# Type -> (values in a block, its bytes as scale or number of random bytes)
QUANTS: dict[str, tuple[int, int, list[bytes | int]]] = {
    "Q4_0": (2, 32, [_SCALE, 16]),
    "Q4_1": (3, 32, [_SCALE, _ZERO, 16]),
    "Q8_0": (8, 32, [_SCALE, 32]),
    "Q2_K": (10, 256, [16, 64, _SCALE, _ZERO]),
    "Q4_K": (12, 256, [_SCALE, _ZERO, 12, 128]),
    "Q5_K": (13, 256, [_SCALE, _ZERO, 12, 32, 128]),
    "Q6_K": (14, 256, [128, 64, 16, _SCALE]),
    "IQ4_NL": (20, 32, [_SCALE, 16]),
}


def write(path: Path, quants: list[str] | None = None, *, num_layers: int | None = None, width: int = WIDTH) -> Path:
    """One layer for each type, in turn."""
    quants = quants or list(QUANTS)
    num_layers = num_layers or len(quants)
    random_ = random.Random(0)
    tensors = [("token_embd.weight", "Q8_0", (width, NUM_TOKENS)), ("output.weight", quants[0], (width, NUM_TOKENS))]
    tensors += [("output_norm.weight", "", (width,))]
    for layer in range(num_layers):
        quant = quants[layer % len(quants)]
        named = {"attn_norm": "", "ffn_norm": ""} | dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), quant)
        tensors += [(f"blk.{layer}.{name}.weight", kind, (width, width) if kind else (width,)) for name, kind in named.items()]
        tensors += [(f"blk.{layer}.ffn_{name}.weight", quant, (width, FEED_FORWARD)) for name in ("gate", "up")]
        tensors += [(f"blk.{layer}.ffn_down.weight", quant, (FEED_FORWARD, width))]
    infos, contents, offset = [], [], 0
    for name, quant, shape in tensors:
        content = _content(quant, shape, random_)
        kind = QUANTS[quant][0] if quant else _F32_TENSOR
        infos.append(_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        contents.append(content + bytes(-len(content) % 32))
        offset += len(contents[-1])
    keys = _keys(num_layers, width)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(infos)
    path.write_bytes(head + bytes(-len(head) % 32) + b"".join(contents))
    return path


def _content(quant: str, shape: tuple[int, ...], random_: random.Random) -> bytes:
    if not quant:
        return struct.pack(f"<{shape[0]}f", *[1.0] * shape[0])
    _, num_values, parts = QUANTS[quant]
    row = [part if isinstance(part, bytes) else random_.randbytes(part) for _ in range(shape[0] // num_values) for part in parts]
    return b"".join(row) * shape[1]


def _keys(num_layers: int, width: int) -> list[bytes]:
    numbers = {
        "context_length": 512,
        "embedding_length": width,
        "block_count": num_layers,
        "feed_forward_length": FEED_FORWARD,
        "attention.head_count": NUM_HEADS,
        "rope.dimension_count": width // NUM_HEADS,
        "vocab_size": NUM_TOKENS,
    }
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(f"t{index}" for index in range(NUM_TOKENS - 259))]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (NUM_TOKENS - 259)]
    return [
        _text("general.architecture") + struct.pack("<I", _STRING) + _text("llama"),
        *(_text(f"llama.{name}") + struct.pack("<II", _U32, number) for name, number in numbers.items()),
        _text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", _F32, 1e-5),
        _text("tokenizer.ggml.model") + struct.pack("<I", _STRING) + _text("llama"),
        _text("tokenizer.ggml.tokens") + struct.pack("<IIQ", _ARRAY, _STRING, len(pieces)) + b"".join(map(_text, pieces)),
        _text("tokenizer.ggml.scores") + struct.pack(f"<IIQ{len(pieces)}f", _ARRAY, _F32, len(pieces), *[0.0] * len(pieces)),
        _text("tokenizer.ggml.token_type") + struct.pack(f"<IIQ{len(kinds)}i", _ARRAY, _I32, len(kinds), *kinds),
        *(_text(f"tokenizer.ggml.{name}_token_id") + struct.pack("<II", _U32, token) for name, token in (("bos", 1), ("eos", 2))),
    ]


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()
