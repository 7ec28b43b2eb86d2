"""Writes small projectors with random weights that take audio, and small audio files. Uses nothing of fastrouter.

`make_ultravox`: a Whisper encoder and two layers, as Ultravox has; each half minute has 15 tokens. `make_both`: the same together with the
pictures of Gemma 3, in one file, as models have that see and hear.
"""

import base64
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tiny_models import WIDTH
from tiny_projectors import FEED_FORWARD, INNER, NUM_HEADS, NUM_LAYERS, PICTURE_NUMBERS, Matrix, add_pixel_ranges, finish, gemma3_tensors

NUM_BINS = 16  # of a spectrum
NUM_POSITIONS = 1500  # of half a minute, in the encoder
STACKED = 100  # of these positions, in one token
CHUNK_TOKENS = NUM_POSITIONS // STACKED
CHUNK_SECONDS = 30
RATE = 16000

Sound = NDArray[np.int16]


def make_ultravox(path: Path | str, *, seed: int = 0, width: int = WIDTH) -> Path:
    """`width`: of the text model."""
    return _write(path, {"clip.projector_type": "ultravox"}, _audio_tensors(seed, width))


def make_both(path: Path | str, *, seed: int = 0) -> Path:
    kinds = {"clip.vision.projector_type": "gemma3", "clip.audio.projector_type": "ultravox"}
    return _write(path, kinds, {**gemma3_tensors(seed), **_audio_tensors(seed, WIDTH)})


def _audio_tensors(seed: int, width: int) -> dict[str, Any]:
    random = np.random.default_rng(6000 + seed)

    def matrix(rows: int, columns: int, scale: float = 0.3) -> Matrix:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    tensors: dict[str, Any] = {}
    for number, size, scale in ((1, NUM_BINS, 0.5), (2, INNER, 0.3)):
        tensors[f"a.conv1d.{number}.weight"] = (random.standard_normal((INNER, size, 3)) * scale).astype(np.float16)
        tensors[f"a.conv1d.{number}.bias"] = np.zeros((INNER, 1), np.float32)
    tensors["a.position_embd.weight"] = matrix(NUM_POSITIONS, INNER)
    for layer in range(NUM_LAYERS):
        block = f"a.blk.{layer}"
        for name in ("ln1", "ln2"):
            tensors |= {f"{block}.{name}.weight": np.ones(INNER, np.float32), f"{block}.{name}.bias": np.zeros(INNER, np.float32)}
        shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (INNER, INNER))
        shapes |= {"ffn_up": (FEED_FORWARD, INNER), "ffn_down": (INNER, FEED_FORWARD)}
        for name, (rows, columns) in shapes.items():
            tensors[f"{block}.{name}.weight"] = matrix(rows, columns)
            if name != "attn_k":
                tensors[f"{block}.{name}.bias"] = np.zeros(rows, np.float32)
    tensors["mm.a.norm_pre.weight"] = np.ones(INNER * STACKED, np.float32)
    tensors["mm.a.mlp.1.weight"] = matrix(2 * FEED_FORWARD, INNER * STACKED, 0.05)
    tensors["mm.a.norm_mid.weight"] = np.ones(FEED_FORWARD, np.float32)
    tensors["mm.a.mlp.2.weight"] = matrix(width, FEED_FORWARD, 0.03)
    return tensors


def _write(path: Path | str, kinds: dict[str, str], tensors: dict[str, Any]) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name("tiny ultravox")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_bool("clip.has_audio_encoder", True)
    writer.add_bool("clip.use_gelu", True)
    numbers = {
        "embedding_length": INNER,
        "feed_forward_length": FEED_FORWARD,
        "block_count": NUM_LAYERS,
        "projection_dim": WIDTH,
        "attention.head_count": NUM_HEADS,
        "num_mel_bins": NUM_BINS,
        "projector.stack_factor": STACKED,
    }
    fields = {f"clip.audio.{key}": value for key, value in numbers.items()}
    if len(kinds) > 1:
        writer.add_bool("clip.has_vision_encoder", True)
        add_pixel_ranges(writer)
        fields |= {f"clip.vision.{key}": value for key, value in PICTURE_NUMBERS.items()}
    for key, value in fields.items():
        writer.add_uint32(key, value)
    writer.add_float32("clip.audio.attention.layer_norm_epsilon", 1e-5)
    for key, text in kinds.items():
        writer.add_string(key, text)
    finish(writer, tensors)
    return path


# ---------------------------------------------------------------- audio files

# A half second of sound, and less of it.
MP3 = base64.b64decode(
    "SUQzBAAAAAAACgAAAAAAAAAAAAD/81jAAAAAAAAAAAAASW5mbwAAAA8AAAAQAAAFNAAwMDAwMDA+Pj4+Pj5MTExMTExZWVlZWVlnZ2dnZ2dndXV1dXV1g4ODg4OD"
    "kZGRkZGRn5+fn5+fn6ysrKysrLq6urq6usjIyMjIyNbW1tbW1tbk5OTk5OTy8vLy8vL///////8AAAAATGF2ZiBsYW1lAAAAAAAAAAAAAAAAJAKAAAAAAAAABTQS"
    "QjnkAAAAAAAAAAAAAAD/8yjEAAyw+sGdQRAAVr6oCYEAAAAAAsCzGP5ED+c/5CEb1U/qcOBgYGBnf3Vh/iA5/+D4Pg4CH///1icHAQBB/Ob5fqunp6L/8yjECA8b"
    "CuQBgVAAdTaHPm33mgVDqtAv1wLO++3f99/oaaYKLaPQUX0eoo3/120+u2uur0Nxe9P8vjDt/Mx/XQoAYDDbaa3/8yjEBg5q6yJfx1ACsoH/C6/43/0J/9C/9SQb"
    "fQVhFBuS/7/6l/9X/1/0If8PRVJf5T/mf9v+3/LfzRqNv8l8hYNxv/vXWmj/8yjEBw7ixwZeaEui8N+tgSUU29eCSfbH8Ksn/OCR/WcEcl+xmCun/80/ys2/7/y/"
    "5v8aD/4z/v///b/Vv8Z/+XWy1oN/UKP/8yjEBg5q6szKOBsg/55n9S39GLk40/nAB6b+pH/M0P84bv/Tb+ss/zQM3+ZIv/MW/rV/qTf+dKH9Y8yz+o18spLWgZ/4"
    "G3//8yjEBw4qytDKEBsiii/ygn/nGMiz+VgPr/1G/+s//nX/uSaP9Zb/j4Mr9SitB/1H0f9X+tD/ln9YxT/l/L0v3YDFYO0Ndn//8yjECQ8KxtwAAI5IN3ZUKA8I"
    "r/qa7OYilCICg9nT6fHyaf+32X/6s1o41RUWdv1bV/X/tz383/U2Z6KUJO7EKvkP5r6yg+D/8yjEBw6K9swAC9SE8q/VvVtLAfb2f7+gFrec/p8Xk30+reIxf0f7"
    "fH5b7ff4s/Nf0O9R9876fKH+i/PbypbJVS//gh9+gmD/8yjEBwzi9tjKA1QwPw8H6ftrggv6/T8N3+/r8qJn3+d8Rjvt9viSf6fv8ffX6/lv/r9C/2+nyraVP/5Q"
    "4BcIX9/t8A5vf6f/8yjEDgxC9tAAAo481AZ+/mfMBFvX7fEH7+n40L/f7/Gv3+rehP1t5n1Gfp9vlej5L67AAtnVe30PWH39vmegQ/v7/FA19W//8yjEGAyS9tAA"
    "C06sv8QN6N9/iD9vv8Vft6fUe/bz/j53r+f8q+TV+6qDSCs/T+2uFA5n/X54XzdV+3yg3/+zbIMDSdDG/V//8yjEIAyqXtgACBQo1PLf/f5D+3p9i30aznr5MQCc"
    "csYypV6b6iIDB4xv/8rG//9Sl847/7VeYpoAREKnH6+uq///R///////8yjEKAzTDtwAKBVh9Wp/ttfPOPEJIHwqqLGlq21dtq/////////v952fV5ErgAyx42lW"
    "s87ben////////7U+1e02pmCRgj/8yjELwwrDtQBQlABzZ0DKA0kbeUMhme29rUtJn2+r3//ZV/Z96q7Vu7O7JmzOgpbmy1IKWXzMJqHGSqSKKVEJoG8ZLd2TWD/"
    "8yjEORe7ItABhmgA4hTdJt6q//////XUtak1mBJiXk802ruyaaBmHJLpv/prmgzCdGgcM//VkJ6/5h/kLpyl5WzG0M+UupT/8yjEFQzRdrGRwRAAuYzTGNVS/zGz"
    "GNKFAXKJOh2sFQ0o9//////qBoYHakxBTUU0LjEgKGFscGhhIDApqqqqqqqqqqqqqqo="
)
FLAC = base64.b64decode(
    "ZkxhQ4AAACIEAAQAAACQAAGEA+gA8AAACWDplpEUIh8SUEesygMxZCW///ilCACqSwA874AR8/nscFbj4cNxf6uBkAJmATMgJmATMgJ4BySAngHJICeAckgPgTJI"
    "D4EySA+BMmA7AJkwHYBMmA7AJ8BeAT4C8AnwF4B+D4B+D4B+D0A8wegHmD0A8wbQDMwbQDMwbQDMwCZkBMwCZkBMwCZkBPAOSQE8A5JAfAmSQHwJkkB8CZMB2ATJ"
    "gOwCZMB2AT4C8AnwF4BPgLwD8HwD8HwD8HoB5g9APMHoB5g2gGZg2gGZg2gGZgEzICZgEzICZgEzICeAckgJ4BySAngHJID4EySA+BMkgPgTJgOwCZMB2AT4C8An"
    "wF4BPgLwD8HwD8HwD8HoB5g9APMHoB5g2gGZg2gGZg2gGZgEzICZgEzICZgEzICeAckgJ4BySAngHJID4EySA+BMkgPgTJgOwCZMB2ATJgOwCfAXgE+AvAPwfAPw"
    "fAPwegHmD0A8wegHmDaAZmDaAZmDaAZmATMgJmATMgJmATMgJ4BySAngHJICeAckgPBwVf/4pQgBrUsAIh98APP8JO1450O8lYNjQBAAgPgSSSA+BJJgPgEkmA+A"
    "SSYD4BJ4C8Ak8BeASeAvAPwfAPwfAPwegFzB6AXMG0ApmDaAUzBtAKZgHMgJmAcyAmYBzICeAckgJ4BySAngHJID4EkkgPgSSSA+BJJgPgEkmA+ASSYD4BJ4C8Ak"
    "8BeASeAvAPwfAPwfAPwegFzB6AXMHoBcwbQCmYNoBTMA5kBMwDmQEzAOZATwDkkBPAOSQE8A5JAfAkkkB8CSSQHwJJMB8AkkwHwCSTAfAJPAXgEngLwCTwF4B+D4"
    "B+D4B+D0AuYPQC5g9ALmDaAUzBtAKZg2gFMwDmQEzAOZATMA5kBPAOSQE8A5JAfAkkkB8CSSQHwJJMB8AkkwHwCSTAfAJPAXgEngLwCTwF4B+D4B+D4B+D0AuYPQ"
    "C5g9ALmDaAUzBtAKZg2gFMwDmQEzAOZATMA5kBPAOSQE8A5JATwDkkB8CSSQHwJJJAfAkkwHwCSTAfAJPAXgEngL1fz/+HUIAgFfrk0AIBD774ef45dWzsKMwWop"
    "1tFyCgAgPgF8HwC+D4BfB6BaYPQLTB6BaYNUC5g1QLmDVAuYBzIJmAcyCZgHMgngckgngckgngckg7AmSQdgTJIOwJkwHYByYDsA5MB2AeYD4B5gPgF8HwC+D4Bf"
    "B6BaYPQLTB6BaYNUC5g1QLmDVAuYBzIJZlI="
)


def sound(seed: int = 0, seconds: float = 1.0, rate: int = RATE) -> Sound:
    """A few tones, one after the other. Whole numbers only, so it is the same on every machine."""
    pitches = np.random.default_rng(7000 + seed).integers(200, 3000, 8)
    at = np.arange(int(seconds * rate), dtype=np.int64)
    pitch = pitches[at * 5 // rate % len(pitches)]
    found: Sound = ((at * pitch * 65536 // rate % 65536 - 32768) // 4).astype(np.int16)
    return found


def wav(samples: NDArray[Any], rate: int = RATE, *, encoding: int = 1, num_channels: int = 1) -> bytes:
    """`encoding`: as in the file: 1 are whole numbers, 3 floats."""
    size = samples.itemsize
    head = struct.pack("<HHIIHH", encoding, num_channels, rate, rate * num_channels * size, num_channels * size, 8 * size)
    content = samples.tobytes()
    chunks = b"fmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def audio_part(content: bytes, kind: str = "wav") -> dict[str, Any]:
    """A part of a message of OpenAI's chat API."""
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(content).decode(), "format": kind}}
