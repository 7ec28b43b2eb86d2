"""What no program of this shape can go below, measured in the same run: Python with its libraries, and llama.cpp's own calls.

Nothing of fastrouter's router, processes or scheduling is in these times, so a goal below a floor cannot be reached by better code here.
"""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from bench.running import FLAGS, Samples
from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama.binding import start_backends
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model

NUM_RUNS = 5
NUM_STEPS = 80
PROMPT_TOKENS, SLOT_TOKENS = 20, 512
LIBRARIES = "import asyncio, uvloop, httptools, orjson\nprint(open('/proc/self/statm').read().split()[1], flush=True)"


def floors(name: str, program: Path | None, models: Path) -> Samples:
    samples: Samples = defaultdict(list)
    for _ in range(NUM_RUNS):
        seconds, pages = first_line([sys.executable, "-c", LIBRARIES])
        samples["floor_libraries_s"].append(seconds)
        samples["floor_libraries_bytes"].append(float(pages) * os.sysconf("SC_PAGE_SIZE"))
        seconds, _ = first_line([sys.executable, "-m", "bench.floors", "first", str(models / "tiny0.gguf")])
        samples["floor_first_token_s"].append(seconds)
    for kind, model in (("tiny", "tiny0"), ("135m", "smol0")):
        _, line = first_line([sys.executable, "-m", "bench.floors", "loads", str(models / f"{model}.gguf")])
        samples[f"floor_load_{kind}_s"] = json.loads(line)
    for kind, model, streams in (("tiny", "tiny0", 1), ("tiny", "tiny0", 16), ("135m", "smol0", 1)):
        _, line = first_line([sys.executable, "-m", "bench.floors", "decode", str(models / f"{model}.gguf"), str(streams)])
        samples[f"floor_{kind}_{streams}_tokens_per_s"] = json.loads(line)
    return samples


def first_line(command: list[str]) -> tuple[float, str]:
    """Seconds from the start of the process to its first line, and the line."""
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - begun
    if not line:
        raise RuntimeError(f"{' '.join(command)} printed nothing")
    return seconds, line


# ---------------------------------------------------------------- the measured processes


class Decoding:
    """llama.cpp alone: a model loaded with the benchmark's flags, a prompt decoded for each stream, then a token for each at a time."""

    def __init__(self, path: str, num_streams: int = 1) -> None:
        ctx_size, threads, parallel = (int(FLAGS[index]) for index in (1, 3, 5))
        slots = max(parallel, num_streams)
        options = LoadOptions(ctx_size=max(ctx_size, SLOT_TOKENS * slots), threads=threads, parallel=slots)
        self._context = Context(Model(path, options), options)
        self._num_streams, self._position = num_streams, 0
        self._decode(PROMPT_TOKENS)

    def _decode(self, num_tokens: int) -> None:
        """`num_tokens` more of each stream, with logits for the last."""
        batch, row = self._context.batch, 0
        tokens = np.arange(40, 40 + num_tokens, dtype=np.int32)
        for stream in range(self._num_streams):
            row = batch.put_prompt(row, tokens, self._position, stream, wants_logits=True)
        if code := self._context.decode(row):
            raise RuntimeError(f"llama_decode: {code}")
        self._position += num_tokens

    def rate(self) -> float:
        """Tokens per second of all streams, without sampling."""
        begun = time.perf_counter()
        for _ in range(NUM_STEPS):
            self._decode(1)
        return NUM_STEPS * self._num_streams / (time.perf_counter() - begun)


def load_s(path: str) -> float:
    """Seconds until the first logits, in a process that is forked here and has all libraries."""
    reader, writer = os.pipe()
    begun = time.perf_counter()
    pid = os.fork()
    if not pid:
        Decoding(path)
        os.write(writer, b".")
        os._exit(0)
    os.close(writer)
    has_decoded = os.read(reader, 1)
    seconds = time.perf_counter() - begun
    os.close(reader)
    os.waitpid(pid, 0)
    if not has_decoded:
        raise RuntimeError(f"{path}: no logits")
    return seconds


def main() -> None:
    what, path, *more = sys.argv[1:]
    start_backends()
    if what == "first":
        Decoding(path)
        print("decoded", flush=True)
    elif what == "loads":
        print(json.dumps([load_s(path) for _ in range(NUM_RUNS)]), flush=True)
    else:
        decoding = Decoding(path, int(more[0]))
        print(json.dumps([decoding.rate() for _ in range(NUM_RUNS)]), flush=True)


if __name__ == "__main__":
    main()
