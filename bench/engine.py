"""`python -m bench.engine`: what a token costs in the worker in addition to llama_decode, in one process, without a router.

Three tables: the step without llama_decode, by the number of streams; sampling, by the size of the vocabulary, compared with llama.cpp's
own `llama_sampler_sample` on the same logits in the same run; and the parser of thoughts and tool calls, as tokens/s of 16 chats with
tools, with and without it: in short answers, in short thoughts, and in long answers, where nearly all of the time is llama_decode's.
Writes results/engine.json. Each number of the first two is the best of many short runs: it shows the cost of the code, not the other load
of the machine. `python -m bench.engine parsing` measures the parser only, and writes nothing.
"""

import ctypes
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import llama_cpp

from fastrouter._core import TextCollector, TokenRing
from fastrouter.ipc.messages import Generate
from fastrouter.options.load import LoadOptions
from fastrouter.system.machine import cpu_name
from fastrouter.worker.engine.engine import Engine
from fastrouter.worker.engine.outbox import Outbox
from fastrouter.worker.llama.binding import start_backends
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model
from fastrouter.worker.sampling.sampler import Sampler

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from tiny_models import make_llama

STREAMS = (1, 4, 8, 16)
VOCABULARIES = (32_000, 128_000, 256_000)
SETTINGS: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0.0}, "default": {}}
RUNS, STEPS = 30, 100
PARSING_STREAMS, PARSING_RUNS, PARSING_STEPS = 16, 5, 20
PROMPT_TOKENS = 600  # at most: the tools are described in it
# (what opens the answers, tokens of each)
PARSED = {"short answers": ("", 320), "short thoughts": ("<think>", 320), "long answers": ("", 1500)}
BOOTSTRAPS = 2000


def step_costs(model_path: Path) -> dict[str, float]:
    """Microseconds of `step()` without its llama_decode, by the number of streams."""
    found = {}
    for num_streams in STREAMS:
        options = LoadOptions(threads=1, parallel=num_streams, ctx_size=2048 * num_streams)
        model = Model(str(model_path), options)
        context = Context(model, options)
        ring = TokenRing.create(1 << 22)
        writer = TokenRing.open(os.dup(ring.memory_fd), os.dup(ring.doorbell_fd))
        engine = Engine(model, context, Outbox(writer), options)
        found[str(num_streams)] = min(_one_run(engine, context, ring, num_streams) for _ in range(RUNS)) / 1e3
        for closable in (writer, ring, context, model):
            closable.close()
    return found


def _one_run(engine: Engine, context: Any, ring: TokenRing, num_streams: int) -> float:
    """Nanoseconds of a step without its llama_decode."""
    decode, decode_ns = context.decode, 0

    def timed(num_rows: int) -> int:
        nonlocal decode_ns
        begun = time.perf_counter_ns()
        code: int = decode(num_rows)
        decode_ns += time.perf_counter_ns() - begun
        return code

    ids = [ring.attach(TextCollector()) for _ in range(num_streams)]
    for request_id in ids:
        engine.submit(request_id, Generate(prompt=f"the cat {request_id}", max_tokens=1000, sampling={"temperature": 0}))
    while len([running for running in engine.running if running.sequence.num_generated]) < num_streams:
        engine.step()
    context.decode = timed
    begun = time.perf_counter_ns()
    for _ in range(STEPS):
        engine.step()
    taken = time.perf_counter_ns() - begun
    context.decode = decode
    for request_id in ids:
        engine.abort(request_id)
        ring.detach(request_id)
    ring.drain()
    return (taken - decode_ns) / STEPS


class Chats:
    """Chats in one engine, whose answers are parsed or not."""

    def __init__(self, path: Path, num_tokens: int, *, is_parsed: bool) -> None:
        n_ctx = (num_tokens + PROMPT_TOKENS) * PARSING_STREAMS
        options = LoadOptions(threads=1, parallel=PARSING_STREAMS, ctx_size=n_ctx, skip_chat_parsing=not is_parsed)
        self._num_tokens = num_tokens
        self._model = Model(str(path), options)
        self._context = Context(self._model, options)
        self._ring = TokenRing.create(1 << 22)
        self._writer = TokenRing.open(os.dup(self._ring.memory_fd), os.dup(self._ring.doorbell_fd))
        self._engine = Engine(self._model, self._context, Outbox(self._writer), options)

    def begin(self) -> None:
        """All streams write."""
        tools = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]
        for number in range(PARSING_STREAMS):
            messages = [{"role": "user", "content": f"the cat {number}"}]
            generate = Generate(messages=messages, tools=tools, max_tokens=self._num_tokens, sampling={"temperature": 0})
            self._engine.submit(self._ring.attach(TextCollector()), generate)
        while len([running for running in self._engine.running if running.sequence.num_generated]) < PARSING_STREAMS:
            self._engine.step()
            self._check()
        self._ring.drain()

    def block(self) -> float:
        """Seconds of the thread's own time for each token of some steps, llama_decode included."""
        begun = time.thread_time()
        for _ in range(PARSING_STEPS):
            self._engine.step()
        taken = time.thread_time() - begun
        self._check()
        self._ring.drain()
        return taken / (PARSING_STEPS * PARSING_STREAMS)

    def _check(self) -> None:
        if len(self._engine.running) < PARSING_STREAMS:
            raise RuntimeError("a stream has ended too early")

    def close(self) -> None:
        for closable in (self._writer, self._ring, self._context, self._model):
            closable.close()


def parsing_costs(folder: Path) -> dict[str, dict[str, float]]:
    """Tokens/s of many chats, plain and parsed. Blocks of both alternate in one process, so other load slows both; each pair of blocks
    gives one ratio. `ratio` is their median, `low` and `high` are the ends of its 95 % interval."""
    found = {}
    for number, (name, (begun, num_tokens)) in enumerate(PARSED.items()):
        template = "{# <tool_call> tool_calls <think> </think> #}{{ messages[0].content }}" + begun
        path = make_llama(folder / f"parsed{number}.gguf", chat_template=template, n_ctx=4096)
        pairs = [pair for _ in range(PARSING_RUNS) for pair in _parsing_run(path, num_tokens)]
        low, high = median_interval([plain / parsed for plain, parsed in pairs])
        found[name] = {
            "plain_tokens_per_s": round(1 / median(plain for plain, _ in pairs), 1),
            "parsed_tokens_per_s": round(1 / median(parsed for _, parsed in pairs), 1),
            "ratio": round(median(plain / parsed for plain, parsed in pairs), 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "pairs": len(pairs),
        }
    return found


def _parsing_run(path: Path, num_tokens: int) -> list[tuple[float, float]]:
    """(seconds of a token that is not parsed, of one that is) for many blocks of steps."""
    chats = {is_parsed: Chats(path, num_tokens, is_parsed=is_parsed) for is_parsed in (False, True)}
    pairs = []
    for one in chats.values():
        one.begin()
    for number in range(num_tokens // PARSING_STEPS - 4):
        first = number % 2 == 0
        taken = {is_parsed: chats[is_parsed].block() for is_parsed in (first, not first)}
        pairs.append((taken[False], taken[True]))
    for one in chats.values():
        one.close()
    return pairs


def median_interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of their median, found by a bootstrap."""
    chance = random.Random(1)
    medians = sorted(median(chance.choices(values, k=len(values))) for _ in range(BOOTSTRAPS))
    return medians[BOOTSTRAPS // 40], medians[-BOOTSTRAPS // 40 - 1]


def sampling_costs(folder: Path) -> list[dict[str, Any]]:
    """Rows with microseconds for each token."""
    rows = []
    for num_tokens in VOCABULARIES:
        options = LoadOptions(threads=1, ctx_size=64, parallel=1)
        model = Model(str(make_llama(folder / f"vocabulary{num_tokens}.gguf", half=True, num_tokens=num_tokens)), options)
        context = Context(model, options)
        context.warm_up()
        address = context.logits()
        for name, settings in SETTINGS.items():
            ours = Sampler(model.vocab, {"seed": 1, **settings}, {})
            chain = _llama_chain(num_tokens, settings)
            row = {
                "vocabulary": model.vocab.n_tokens,
                "settings": name,
                "llama_us": _best_us(lambda: llama_cpp.llama_sampler_sample(chain, context.pointer, -1)),  # noqa: B023
                "us": _best_us(lambda: ours.accept(ours.sample(address, context.n_vocab))),  # noqa: B023
            }
            rows.append(row)
            llama_cpp.llama_sampler_free(chain)
        context.close()
        model.close()
    return rows


def _llama_chain(num_tokens: int, settings: dict[str, Any]) -> Any:
    """What llama-server builds for these settings, without the steps that do nothing."""
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    if settings.get("temperature") == 0.0:
        samplers = [llama_cpp.llama_sampler_init_greedy()]
    else:
        samplers = [
            llama_cpp.llama_sampler_init_penalties(num_tokens, 64, 1.0, 0.0, 0.0),
            llama_cpp.llama_sampler_init_top_k(40),
            llama_cpp.llama_sampler_init_top_p(0.95, 0),
            llama_cpp.llama_sampler_init_min_p(0.05, 0),
            llama_cpp.llama_sampler_init_temp(0.8),
            llama_cpp.llama_sampler_init_dist(1),
        ]
    for sampler in samplers:
        llama_cpp.llama_sampler_chain_add(chain, ctypes.cast(sampler, llama_cpp.llama_sampler_p_ctypes))
    return chain


def _best_us(sample: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(RUNS):
        begun = time.perf_counter_ns()
        for _ in range(STEPS):
            sample()
        best = min(best, (time.perf_counter_ns() - begun) / STEPS / 1e3)
    return best


def main() -> None:
    start_backends()
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:] == ["parsing"]:
            print(json.dumps(parsing_costs(Path(folder)), indent=1))
            return
        result = {
            "step_us": step_costs(make_llama(Path(folder) / "tiny.gguf")),
            "sampling": sampling_costs(Path(folder)),
            "parsing": parsing_costs(Path(folder)),
            "date": time.strftime("%Y-%m-%d"),
            "cpu": cpu_name(),
        }
    print(json.dumps(result, indent=1))
    (Path(__file__).parent / "results" / "engine.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
