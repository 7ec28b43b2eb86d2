"""A model of some gigabytes whose file is not in the page cache: how long its load takes beside reading the file once.

The file is written to a temporary folder, and deleted when the program ends. Only its own pages are dropped from the page cache.
"""

import functools
import mmap
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from fastrouter.cli.bench import servers
from fastrouter.cli.bench.load_client import call
from fastrouter.cli.bench.servers import MeasuredServer
from fastrouter.system.machine import available_bytes
from fastrouter.system.read_ahead import is_missing, read_ahead

Samples = dict[str, list[float]]
FLAGS = ("-c", "1024", "-t", "2", "-np", "1")
SIZES_GIB = (4, 2, 1)  # the first for which there is twice the memory and twice the disk
WIDTH, FEED_FORWARD, NUM_HEADS, NUM_KV_HEADS, HEAD = 2048, 8192, 16, 2, 128
BLOCK = 32  # weights of a Q8_0 block: a half as its scale, and as many signed bytes
NUM_READERS, READ_BYTES = 8, 4 << 20
Bytes = NDArray[np.uint8]


def large(name: str, rival: Path | None, models: Path) -> Samples:
    """Cold, cached, and (fastrouter only) cold but announced by POST /models/warm. `models` is not used."""
    samples: Samples = defaultdict(list)
    folder = _folder()
    if folder is None:
        print("large: not enough free disk or memory for a file of 1 GiB, so it is not measured", file=sys.stderr)
        return samples
    path = folder / "large.gguf"
    log = Path(tempfile.gettempdir()) / f"bench-{name}.log"
    environ = {**os.environ, "LLAMA_CACHE": "/nonexistent", "HF_HUB_CACHE": "/nonexistent"}
    with servers.running(rival if name == servers.RIVAL else None, ["--models-dir", str(folder), *FLAGS], environ, log) as server:
        time.sleep(1)
        drop(path)
        floor_s = read_once(path)
        samples["large_read_once_s"].append(floor_s)
        for measure, is_cold, is_announced in (("cold", True, False), ("cached", False, False), ("foreseen", True, True)):
            if is_cold:
                drop(path)
            if is_announced and name == servers.RIVAL:
                continue
            if is_announced:
                call(server.port, "POST", "/models/warm", {"model": "large"})
                _wait_until_cached(path, 10 * floor_s)
            ready_s, token_s = load_and_ask(server)
            samples[f"large_{measure}_s"].append(ready_s)
            samples[f"large_{measure}_share"].append(ready_s / floor_s)
            samples[f"large_{measure}_token_s"].append(token_s)
            server.unload("large")
            time.sleep(1)
    return samples


def load_and_ask(server: MeasuredServer) -> tuple[float, float]:
    """(until it is loaded, until it has answered a prompt of two tokens with one), from before the load."""
    start = time.perf_counter()
    call(server.port, "POST", "/models/load", {"model": "large"})
    while server.status("large") != "loaded":
        time.sleep(0.002)
    ready_s = time.perf_counter() - start
    answer = call(server.port, "POST", "/completion", {"model": "large", "prompt": "a", "n_predict": 1}, timeout_s=120)
    assert answer[0] == 200, answer
    return ready_s, time.perf_counter() - start


def _wait_until_cached(path: Path, limit_s: float) -> None:
    deadline = time.perf_counter() + limit_s
    while is_missing(str(path)) and time.perf_counter() < deadline:
        time.sleep(0.05)


def drop(path: Path) -> None:
    """Its pages leave the page cache, unless a process has mapped them."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def read_once(path: Path) -> float:
    """Seconds that the faster of two ways to read the file takes: nothing can load it faster. Afterwards it is dropped again."""
    found = []
    for read in (_read_directly, lambda path: read_ahead([str(path)])):
        drop(path)
        start = time.perf_counter()
        read(path)
        found.append(time.perf_counter() - start)
    drop(path)
    return min(found)


def _read_directly(path: Path) -> None:
    """Past the page cache, with many requests at the same time."""
    fd, size = os.open(path, os.O_RDONLY | os.O_DIRECT), path.stat().st_size

    def read(first: int) -> None:
        with mmap.mmap(-1, READ_BYTES) as pages:
            for start in range(first * READ_BYTES, size, NUM_READERS * READ_BYTES):
                os.preadv(fd, [pages], start)

    with ThreadPoolExecutor(NUM_READERS) as pool:
        list(pool.map(read, range(NUM_READERS)))
    os.close(fd)


# ---------------------------------------------------------------- the file


@functools.cache
def _temporary() -> "tempfile.TemporaryDirectory[str]":
    """It is deleted when the program ends."""
    return tempfile.TemporaryDirectory(prefix="fastrouter-bench-")


@functools.cache
def _folder() -> Path | None:
    """With the model. None: there is too little room."""
    room = min(available_bytes(), shutil.disk_usage(tempfile.gettempdir()).free)
    fitting = [size for size in SIZES_GIB if 2 * size << 30 <= room]
    if not fitting:
        return None
    folder = Path(_temporary().name)
    make_large(folder / "large.gguf", fitting[0] << 30)
    return folder


def _blocks(rows: int, columns: int, random: np.random.Generator) -> Bytes:
    """A matrix in Q8_0 with small random weights. A part of it repeats, so that it is made at the speed of the disk."""
    num_blocks = rows * columns // BLOCK
    some = np.empty((min(num_blocks, 1 << 18), 2 + BLOCK), np.uint8)
    some[:, :2] = np.frombuffer(np.float16(2e-4).tobytes(), np.uint8)
    some[:, 2:] = random.integers(0, 256, (len(some), BLOCK), np.uint8)
    return np.resize(some, (rows, columns // BLOCK * (2 + BLOCK)))


def _layer(random: np.random.Generator) -> Iterator[tuple[str, tuple[int, int], Bytes]]:
    kv = NUM_KV_HEADS * HEAD
    for name, rows, columns in (
        ("attn_q", WIDTH, WIDTH),
        ("attn_k", kv, WIDTH),
        ("attn_v", kv, WIDTH),
        ("attn_output", WIDTH, WIDTH),
        ("ffn_gate", FEED_FORWARD, WIDTH),
        ("ffn_up", FEED_FORWARD, WIDTH),
        ("ffn_down", WIDTH, FEED_FORWARD),
    ):
        weights = _blocks(rows, columns, random)
        if name in ("attn_output", "ffn_down"):
            weights[0] = 0  # no layer writes to channel 0 of the residual stream: see tiny_models.py
        yield name, (rows, columns), weights


def make_large(path: Path, num_bytes: int) -> None:
    """A llama with about this size that says something printable. It is on the disk when this returns."""
    from tiny_models import NUM_SILENT, make_vocabulary  # on the path since __main__

    random = np.random.default_rng(0)
    pieces, scores, kinds = make_vocabulary()
    embedding = (random.standard_normal((len(pieces), WIDTH)) * 0.5).astype(np.float16)
    output = embedding[::-1].copy()
    embedding[:, 0], output[:, 0], output[:NUM_SILENT] = 0.5, 0.0, 0.0
    output[:NUM_SILENT, 0] = -1000.0
    layer = list(_layer(random))
    num_layers = max(1, num_bytes // sum(weights.nbytes for _, _, weights in layer))
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, num_layers, pieces, scores, kinds)
    norm = np.ones(WIDTH, np.float32)
    whole: list[tuple[str, NDArray[np.generic], gguf.GGMLQuantizationType | None]] = [
        ("token_embd", embedding, None),
        ("output_norm", norm, None),
        ("output", output, None),
    ]
    for index in range(num_layers):
        whole += [(f"blk.{index}.{name}", norm, None) for name in ("attn_norm", "ffn_norm")]
        whole += [(f"blk.{index}.{name}", weights, gguf.GGMLQuantizationType.Q8_0) for name, _, weights in layer]
    for name, weights, kind in whole:
        writer.add_tensor_info(f"{name}.weight", weights.shape, weights.dtype, weights.nbytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, weights, _ in whole:
        writer.write_tensor_data(weights)
    writer.close()
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def _describe(writer: gguf.GGUFWriter, num_layers: int, pieces: list[bytes], scores: list[float], kinds: list[int]) -> None:
    writer.add_name("large")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(num_layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(len(pieces))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    for role, token in (("unk", 0), ("bos", 1), ("eos", 2)):
        getattr(writer, f"add_{role}_token_id")(token)
