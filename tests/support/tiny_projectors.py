"""Writes small projectors (mmproj files) with random weights for the models of tiny_models.py, and small pictures. Uses nothing of
fastrouter.

`make_llava`: a CLIP encoder and two layers, as LLaVA has; its pictures have 16 tokens and are read like text. `make_gemma3`: a SigLIP
encoder whose patches are averaged, as Gemma 3 has; its pictures have 4 tokens, which all look at each other. `make_qwen2vl`,
`make_qwen25vl`, `make_qwen3vl`: pictures of any size, whose tokens have a row and a column (M-RoPE). `make_pixtral`: pictures of any size,
with a token at the end of each row. `make_gemma4`: pictures of any size, whose tokens see each other. `make_smolvlm`, `make_internvl`,
`make_llava16`: pictures that are cut into tiles.
"""

import base64
import struct
import zlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tiny_models import CONTROL_PIECES, WIDTH, make_llama, make_tensors, make_vocabulary

INNER, NUM_HEADS, NUM_LAYERS, FEED_FORWARD = 32, 2, 2, 48
IMAGE_SIZE, PATCH_SIZE = 56, 14
NUM_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
LLAVA_TOKENS = NUM_PATCHES
MERGED = 2  # patches of each side that Gemma 3 averages
GEMMA3_TOKENS = NUM_PATCHES // MERGED**2

PICTURE_NUMBERS = {
    "embedding_length": INNER,
    "feed_forward_length": FEED_FORWARD,
    "block_count": NUM_LAYERS,
    "projection_dim": WIDTH,
    "attention.head_count": NUM_HEADS,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
    "projector.scale_factor": MERGED,
}

Matrix = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def make_llava(
    path: Path | str, *, seed: int = 0, width: int = WIDTH, image_size: int = IMAGE_SIZE, more: dict[str, Any] | None = None
) -> Path:
    """`width`: of the text model. A larger `image_size` makes more tokens. `more`: other keys of its encoder."""
    random = np.random.default_rng(3000 + seed)
    tensors = _encoder(random, image_size)
    tensors |= {"v.pre_ln.weight": np.ones(INNER, np.float32), "v.pre_ln.bias": np.zeros(INNER, np.float32)}
    for name, rows, columns, scale in (("mm.0", FEED_FORWARD, INNER, 0.3), ("mm.2", width, FEED_FORWARD, 0.03)):
        tensors |= {f"{name}.weight": _matrix(random, rows, columns, scale), f"{name}.bias": np.zeros(rows, np.float32)}
    return _write(path, "mlp", tensors, image_size, use_gelu=False, more=more)


def make_llava16(path: Path | str, *, seed: int = 0) -> Path:
    """As LLaVA 1.6 has: an overview and tiles, with nothing between them."""
    sizes = [IMAGE_SIZE, 2 * IMAGE_SIZE]
    candidates = [side for width in sizes for height in sizes for side in (width, height)][2:]
    return make_llava(path, seed=seed, more={"image_grid_pinpoints": candidates})


def make_gemma3(path: Path | str, *, seed: int = 0, width: int = WIDTH, image_size: int = IMAGE_SIZE) -> Path:
    """See make_llava."""
    return _write(path, "gemma3", gemma3_tensors(seed, width, image_size), image_size, use_gelu=True)


def gemma3_tensors(seed: int, width: int = WIDTH, image_size: int = IMAGE_SIZE) -> dict[str, Matrix]:
    random = np.random.default_rng(4000 + seed)
    tensors = _encoder(random, image_size)
    tensors |= {"v.post_ln.weight": np.ones(INNER, np.float32), "v.post_ln.bias": np.zeros(INNER, np.float32)}
    tensors["mm.input_projection.weight"] = _matrix(random, INNER, width, 0.15)
    tensors["mm.soft_emb_norm.weight"] = np.ones(INNER, np.float32)
    return tensors


# ---------------------------------------------------------------- pictures of any size, tiles

QWEN_MERGED = 2  # patches of each side that become one token
TILE_TOKENS = NUM_PATCHES // MERGED**2
LONGEST_EDGE = 2 * IMAGE_SIZE  # of a picture that is cut into tiles
SMOLVLM_PIECES = (
    *("<fake_token_around_image>", "<global-img>", "\n\n"),
    *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
)


def make_qwen2vl(path: Path | str, *, seed: int = 0) -> Path:
    """For make_llama(architecture="qwen2vl")."""
    random = np.random.default_rng(6000 + seed)
    return _write(path, "qwen2vl_merger", _qwen(random), IMAGE_SIZE, use_gelu=False)


def make_qwen25vl(path: Path | str, *, seed: int = 0) -> Path:
    """For make_llama(architecture="qwen2vl"). Its first layer looks at parts of the picture."""
    random = np.random.default_rng(6100 + seed)
    tensors = {name: tensor for name, tensor in _qwen(random).items() if ".ln" not in name or "bias" not in name}
    del tensors["v.post_ln.bias"]
    for layer in range(NUM_LAYERS):
        tensors[f"v.blk.{layer}.ffn_gate.weight"] = _matrix(random, FEED_FORWARD, INNER, 0.3)
        tensors[f"v.blk.{layer}.ffn_gate.bias"] = np.zeros(FEED_FORWARD, np.float32)
    return _write(path, "qwen2.5vl_merger", tensors, IMAGE_SIZE, use_gelu=False, more={"n_wa_pattern": 2})


def make_qwen3vl(path: Path | str, *, seed: int = 0) -> Path:
    """For make_qwen3vl_text, which also reads the output of the first layer."""
    random = np.random.default_rng(6200 + seed)
    places = _encoder(random, IMAGE_SIZE)
    tensors = _qwen(random) | {name: places[name] for name in ("v.position_embd.weight", "v.patch_embd.bias")}
    for layer in range(NUM_LAYERS):
        for kind in ("weight", "bias"):
            parts = [tensors.pop(f"v.blk.{layer}.attn_{name}.{kind}") for name in "qkv"]
            tensors[f"v.blk.{layer}.attn_qkv.{kind}"] = np.concatenate(parts)
    merged = INNER * QWEN_MERGED**2
    tensors |= {"v.deepstack.0.norm.weight": np.ones(merged, np.float32), "v.deepstack.0.norm.bias": np.zeros(merged, np.float32)}
    tensors |= _two_layers(random, "v.deepstack.0.fc1", "v.deepstack.0.fc2", merged)
    return _write(path, "qwen3vl_merger", tensors, IMAGE_SIZE, use_gelu=True)


def make_qwen3vl_text(path: Path | str, *, seed: int = 0, chat_template: str | None = None) -> Path:
    tensors = make_tensors(len(make_vocabulary()[0]), seed)
    for layer in range(2):
        tensors |= {f"blk.{layer}.attn_{name}_norm.weight": np.ones(16, np.float32) for name in "qk"}
    return make_llama(path, seed=seed, chat_template=chat_template, architecture="qwen3vl", tensors=tensors)


def make_pixtral(path: Path | str, *, seed: int = 0) -> Path:
    random = np.random.default_rng(6300 + seed)
    tensors = {name: tensor for name, tensor in _encoder(random, IMAGE_SIZE).items() if ".ln" not in name or "bias" not in name}
    del tensors["v.position_embd.weight"], tensors["v.patch_embd.bias"]
    tensors |= {"v.pre_ln.weight": np.ones(INNER, np.float32), "v.token_embd.img_break": _matrix(random, 1, WIDTH, 0.5)[0]}
    return _write(path, "pixtral", tensors | _two_layers(random, "mm.1", "mm.2", INNER), IMAGE_SIZE, use_gelu=True)


def make_smolvlm(path: Path | str, *, seed: int = 0) -> Path:
    """For make_smolvlm_text, whose vocabulary has the tokens between the tiles. Its kind is called idefics3."""
    random = np.random.default_rng(6400 + seed)
    tensors = _encoder(random, IMAGE_SIZE)
    tensors |= {"v.post_ln.weight": np.ones(INNER, np.float32), "v.post_ln.bias": np.zeros(INNER, np.float32)}
    tensors["mm.model.fc.weight"] = _matrix(random, WIDTH, INNER * MERGED**2, 0.05)
    return _write(path, "idefics3", tensors, IMAGE_SIZE, use_gelu=True, more={"preproc_image_size": LONGEST_EDGE})


def make_smolvlm_text(path: Path | str, *, seed: int = 0, chat_template: str | None = None) -> Path:
    pieces, scores, kinds = make_vocabulary()
    num_plain = len(pieces)
    pieces = [*pieces, *(piece.encode() for piece in SMOLVLM_PIECES)]
    scores, kinds = scores + [0.0] * len(SMOLVLM_PIECES), kinds + [int(gguf.TokenType.USER_DEFINED)] * len(SMOLVLM_PIECES)
    tensors = make_tensors(len(pieces), seed)
    tensors["output.weight"][num_plain:] = tensors["output.weight"][len(CONTROL_PIECES)]  # they are never chosen
    return make_llama(path, seed=seed, chat_template=chat_template, vocabulary=(pieces, scores, kinds), tensors=tensors)


def make_gemma4(path: Path | str, *, seed: int = 0) -> Path:
    """Pictures of any size, whose tokens all see each other."""
    random = np.random.default_rng(6600 + seed)
    tensors = {name: tensor for name, tensor in _encoder(random, IMAGE_SIZE).items() if not name.endswith("bias")}
    tensors["v.position_embd.weight"] = (random.standard_normal((2, 512, INNER)) * 0.3).astype(np.float32)
    tensors["mm.input_projection.weight"] = _matrix(random, WIDTH, INNER, 0.1)
    return _write(path, "gemma4v", tensors, IMAGE_SIZE, use_gelu=True)


def make_internvl(path: Path | str, *, seed: int = 0) -> Path:
    random = np.random.default_rng(6500 + seed)
    tensors = _encoder(random, IMAGE_SIZE)
    tensors["v.class_embd"] = _matrix(random, 1, INNER, 0.3)[0]
    tensors["v.position_embd.weight"] = _matrix(random, NUM_PATCHES + 1, INNER, 0.3)
    merged = INNER * MERGED**2
    tensors |= {"mm.model.mlp.0.weight": np.ones(merged, np.float32), "mm.model.mlp.0.bias": np.zeros(merged, np.float32)}
    tensors |= _two_layers(random, "mm.model.mlp.1", "mm.model.mlp.3", merged)
    return _write(path, "internvl", tensors, IMAGE_SIZE, use_gelu=True, more={"preproc_max_tiles": 4})


def _qwen(random: np.random.Generator) -> dict[str, Matrix]:
    tensors = _encoder(random, IMAGE_SIZE)
    del tensors["v.position_embd.weight"], tensors["v.patch_embd.bias"]
    tensors["v.patch_embd.weight.1"] = tensors["v.patch_embd.weight"] * np.float32(0.5)
    tensors |= {"v.post_ln.weight": np.ones(INNER, np.float32), "v.post_ln.bias": np.zeros(INNER, np.float32)}
    return tensors | _two_layers(random, "mm.0", "mm.2", INNER * QWEN_MERGED**2)


def _two_layers(random: np.random.Generator, first: str, second: str, columns: int) -> dict[str, Matrix]:
    """From so many columns to the width of the text model."""
    return {
        f"{first}.weight": _matrix(random, FEED_FORWARD, columns, 0.15),
        f"{first}.bias": np.zeros(FEED_FORWARD, np.float32),
        f"{second}.weight": _matrix(random, WIDTH, FEED_FORWARD, 0.08),
        f"{second}.bias": np.zeros(WIDTH, np.float32),
    }


# ---------------------------------------------------------------- parts of projectors


def _matrix(random: np.random.Generator, rows: int, columns: int, scale: float) -> Matrix:
    return (random.standard_normal((rows, columns)) * scale).astype(np.float32)


def _encoder(random: np.random.Generator, image_size: int) -> dict[str, Matrix]:
    num_patches = (image_size // PATCH_SIZE) ** 2
    patches = (random.standard_normal((INNER, 3, PATCH_SIZE, PATCH_SIZE)) * 0.1).astype(np.float32)
    tensors: dict[str, Matrix] = {"v.patch_embd.weight": patches, "v.patch_embd.bias": np.zeros(INNER, np.float32)}
    tensors["v.position_embd.weight"] = _matrix(random, num_patches, INNER, 0.3)
    for layer in range(NUM_LAYERS):
        block = f"v.blk.{layer}"
        for name in ("ln1", "ln2"):
            tensors |= {f"{block}.{name}.weight": np.ones(INNER, np.float32), f"{block}.{name}.bias": np.zeros(INNER, np.float32)}
        shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (INNER, INNER))
        shapes |= {"ffn_up": (FEED_FORWARD, INNER), "ffn_down": (INNER, FEED_FORWARD)}
        for name, (rows, columns) in shapes.items():
            tensors[f"{block}.{name}.weight"] = _matrix(random, rows, columns, 0.3)
            tensors[f"{block}.{name}.bias"] = np.zeros(rows, np.float32)
    return tensors


def _write(
    path: Path | str, kind: str, tensors: dict[str, Matrix], image_size: int, *, use_gelu: bool, more: dict[str, Any] | None = None
) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name(f"tiny {kind}")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", kind)
    writer.add_bool("clip.use_gelu", use_gelu)
    for key, value in (PICTURE_NUMBERS | {"image_size": image_size} | (more or {})).items():
        add = writer.add_array if isinstance(value, list) else writer.add_uint32
        add(f"clip.vision.{key}", value)
    add_pixel_ranges(writer)
    finish(writer, tensors)
    return path


def add_pixel_ranges(writer: gguf.GGUFWriter) -> None:
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])


def finish(writer: gguf.GGUFWriter, tensors: dict[str, Matrix]) -> None:
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---------------------------------------------------------------- pictures

# Both are picture(3, 24, 16).
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYVpQYEpRUk//"
    "2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0//wAARCAAQABgDASIAAhEBAxEB/8QA"
    "HwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkK"
    "FhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXG"
    "x8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/8QAHwEAAwEBAQEBAQEBAQAAAAAAAAECAwQFBgcICQoL/8QAtREAAgECBAQDBAcFBAQAAQJ3AAEC"
    "AxEEBSExBhJBUQdhcRMiMoEIFEKRobHBCSMzUvAVYnLRChYkNOEl8RcYGRomJygpKjU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6goOE"
    "hYaHiImKkpOUlZaXmJmaoqOkpaanqKmqsrO0tba3uLm6wsPExcbHyMnK0tPU1dbX2Nna4uPk5ebn6Onq8vP09fb3+Pn6/9oADAMBAAIRAxEAPwDRbWklG2KN"
    "XI5wsmf6UxXhuJlZ5kidiB5ZYZHatGHRdNVibK28uTHJZ2PH5n2rLu7a2g1fa8ZLq6nIJx0HvWnuzrycVJadl/meU6M6Evdlyyemy2ZJqEr2Hl+TC1zvznZ/"
    "DjHpn1/SirMrRtjYpHrmiuRYFVPeVH72/wDMfLiaH7uK5kup/9k="
)
GIF = base64.b64decode(
    "R0lGODdhGAAQAIIAAKTmdWPlpzDugyrHUMGbvMJk1jakxCBXsiwAAAAAGAAQAEAIfgADCBQooGDBAggRDli4EIBDAAciRiRAkaLEiAMFMhxgoGPHjQMMFswY"
    "4OLDkw89dkQpkqRIAQkVbjyp0gDIlyRNoqSpkqXBihRJ1gRKIKZLkTELgDx51GDSpSlV3myZ8aJVolZJbrwKNGvGmTujevRZkKhQlURjms04FGjMgAA7"
)


def picture(seed: int = 0, width: int = 40, height: int = 30) -> Pixels:
    """Rows of RGB pixels: a few large areas, so that resizing keeps most of it."""
    random = np.random.default_rng(5000 + seed)
    blocks = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    rows, columns = np.arange(height) * 5 // height, np.arange(width) * 5 // width
    found: Pixels = np.ascontiguousarray(blocks[rows][:, columns])
    return found


def png(pixels: Pixels) -> bytes:
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", head) + _png_chunk(b"IDAT", zlib.compress(rows)) + _png_chunk(b"IEND", b"")


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bmp(pixels: Pixels) -> bytes:
    height, width, _ = pixels.shape
    padding = b"\0" * (-3 * width % 4)
    rows = b"".join(row[:, ::-1].tobytes() + padding for row in pixels[::-1])
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(rows), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + info + rows


def data_url(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def image_part(content: bytes, **more: Any) -> dict[str, Any]:
    """A part of a message of OpenAI's chat API."""
    return {"type": "image_url", "image_url": {"url": data_url(content), **more}}
