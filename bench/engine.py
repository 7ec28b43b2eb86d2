"""`python -m bench.engine`: what a token costs in the worker in addition to llama_decode, in one process, without a router.

Three tables: the step without llama_decode, by the number of streams; sampling, by the size of the vocabulary, compared with llama.cpp's
own `llama_sampler_sample` on the same logits in the same run; and the parser of thoughts and tool calls, as tokens/s of 16 chats with and
without it. Writes results/engine.json. Each number is the best of many short runs: it shows the cost of the code, not the other load of the
machine.
"""

import ctypes
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp

from bench.__main__ import cpu_name
from fastrouter._core import TextCollector, TokenRing
from fastrouter.ipc.messages import Generate
from fastrouter.options.load import LoadOptions
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
PARSING_RUNS, PARSING_BLOCKS = 5, 10


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


def parsing_costs(folder: Path) -> dict[str, float]:
    """Tokens a second of the thread's own time, llama_decode included, of many chats, parsed and not; the best of runs in turn."""
    template = "{# <tool_call> tool_calls <think> </think> #}{{ messages[0].content }}"
    path = make_llama(folder / "parsed.gguf", chat_template=template)
    best = dict.fromkeys(("plain", "parsed"), 0.0)
    for _ in range(PARSING_RUNS):
        for name in best:
            best[name] = max(best[name], _chat_speed(path, is_parsed=name == "parsed"))
    return {**{f"{name}_tokens_per_s": round(speed, 1) for name, speed in best.items()}, "ratio": round(best["parsed"] / best["plain"], 4)}


def _chat_speed(path: Path, *, is_parsed: bool) -> float:
    num_streams = STREAMS[-1]
    options = LoadOptions(threads=1, parallel=num_streams, ctx_size=2048 * num_streams, skip_chat_parsing=not is_parsed)
    model = Model(str(path), options)
    context = Context(model, options)
    ring = TokenRing.create(1 << 22)
    writer = TokenRing.open(os.dup(ring.memory_fd), os.dup(ring.doorbell_fd))
    engine = Engine(model, context, Outbox(writer), options)
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]
    for number in range(num_streams):
        messages = [{"role": "user", "content": f"the cat {number}"}]
        generate = Generate(messages=messages, tools=tools, max_tokens=1500, sampling={"temperature": 0})
        engine.submit(ring.attach(TextCollector()), generate)
    while len([running for running in engine.running if running.sequence.num_generated]) < num_streams:
        engine.step()
    speed = 0.0
    for _ in range(PARSING_BLOCKS):
        begun = time.thread_time()
        for _ in range(STEPS):
            engine.step()
        speed = max(speed, num_streams * STEPS / (time.thread_time() - begun))
        ring.drain()
    for closable in (writer, ring, context, model):
        closable.close()
    return speed


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
