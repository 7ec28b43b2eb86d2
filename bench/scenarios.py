"""What is measured: switches, streams, agents. suite.py lists all scenarios.

Each is a function of (server name, its program, model folder) -> {measure: [samples]}. Samples are seconds, bytes or rates, as the
measure's name says; report.py makes the statistics.
"""

import itertools
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.running import FLAGS, Samples, running, timings_of, without_foresight
from fastrouter.cli.bench.load_client import LoadCounter, request_bytes, run_clients, stream_all
from fastrouter.cli.bench.switching import PAUSE_S, SHORT, cold, hot, in_turn, ttft


def start_and_memory(name: str, rival: Path | None, models: Path) -> Samples:
    samples: Samples = defaultdict(list)
    for _ in range(3):
        with running(name, rival, models, *FLAGS) as server:
            samples["start_s"].append(server.start_s)
            samples["start_to_token_s"].append(server.start_s + ttft(server, "tiny0"))
            time.sleep(0.7)
            samples["router_rss_bytes"].append(server.rss_bytes())
    return samples


def cold_switch(name: str, rival: Path | None, models: Path) -> Samples:
    """First token from a model that is not loaded, with room for it."""
    samples: Samples = defaultdict(list)
    with running(name, rival, models, *FLAGS, "--models-max", "16", *without_foresight(name)) as server:
        time.sleep(1)
        samples["cold_tiny_s"] = in_turn(server, [f"tiny{index}" for index in range(8)], 8)
        samples["cold_135m_s"] = cold(server, "smol0", 4)
    return samples


def evict_and_switch(name: str, rival: Path | None, models: Path) -> Samples:
    """First token when another model must leave first (models-max 1)."""
    samples: Samples = defaultdict(list)
    with running(name, rival, models, *FLAGS, "--models-max", "1") as server:
        time.sleep(1)
        ttft(server, "tiny0")
        samples["evict_tiny_s"] = in_turn(server, ("tiny1", "tiny2"), 8)
        ttft(server, "smol0")
        samples["evict_135m_s"] = in_turn(server, ("smol1", "smol0"), 4)
    return samples


BACK_TOKENS = (500, 2000, 7500)
SHORT_BACK_TOKENS = (500, 2000)  # reading 7,500 tokens takes a minute and more
SENTENCE = "the quick brown fox jumps over a lazy dog "  # 9 tokens


def switch_back(name: str, rival: Path | None, models: Path, lengths: tuple[int, ...] = BACK_TOKENS) -> Samples:
    """First token of the next turn of a conversation whose model was evicted meanwhile (models-max 1), beside that of the whole prompt."""
    samples: Samples = defaultdict(list)
    with running(name, rival, models, *FLAGS[:-2], "-np", "1", "--models-max", "1") as server:  # all of the context for one slot
        time.sleep(1)
        for num_tokens in lengths:
            prompt = f"{num_tokens} {SENTENCE * (num_tokens // 9)}"
            ttft(server, "smol0")
            whole = ttft(server, "smol0", prompt)
            time.sleep(PAUSE_S)
            ttft(server, "tiny0")
            time.sleep(PAUSE_S)
            back = ttft(server, "smol0", f"{prompt} and then?")
            samples[f"back_{num_tokens}_s"].append(back)
            samples[f"back_{num_tokens}_share"].append(back / whole)
            ttft(server, "tiny0")
            time.sleep(PAUSE_S)
    return samples


def short_switch_back(name: str, rival: Path | None, models: Path) -> Samples:
    return switch_back(name, rival, models, SHORT_BACK_TOKENS)


def hot_switch(name: str, rival: Path | None, models: Path) -> Samples:
    """Staying on one resident model and alternating between two."""
    samples: Samples = defaultdict(list)
    with running(name, rival, models, *FLAGS) as server:
        for model in ("tiny0", "tiny1", "smol0"):
            ttft(server, model)
        samples["hot_stay_tiny_s"], samples["hot_switch_tiny_s"] = hot(server, "tiny0", ("tiny0", "tiny1"), 300)
        samples["hot_stay_135m_s"] = in_turn(server, ("smol0",), 10, pause_s=0)
    return samples


def throughput(name: str, rival: Path | None, models: Path) -> Samples:
    """Tokens per second over all streams, and prefill."""
    samples: Samples = defaultdict(list)
    with running(name, rival, models, *FLAGS) as server:
        for model, num_streams, max_tokens, repeat in (
            ("tiny0", 1, 400, 3),
            ("tiny0", 4, 400, 3),
            ("tiny0", 8, 200, 3),
            ("tiny0", 16, 200, 3),
            ("smol0", 1, 48, 2),
            ("smol0", 4, 48, 2),
            ("smol0", 8, 48, 1),
            ("smol0", 16, 32, 1),
        ):
            ttft(server, model)
            for round_index in range(repeat):
                requests = [request_bytes(model, f"{SHORT} {i} {round_index}", max_tokens) for i in range(num_streams)]
                start = time.perf_counter()
                streams = stream_all(server.port, requests)
                rate = sum(s.num_tokens for s in streams) / (time.perf_counter() - start)
                samples[f"{'tiny' if model == 'tiny0' else '135m'}_{num_streams}_streams_tokens_per_s"].append(rate)
        ttft(server, "smol1")
        for round_index in range(2):
            requests = [request_bytes(f"smol{i}", f"{SHORT} {round_index}", 48) for i in range(2)]
            start = time.perf_counter()
            streams = stream_all(server.port, requests)
            samples["both_135m_tokens_per_s"].append(sum(s.num_tokens for s in streams) / (time.perf_counter() - start))
        for index in range(2):
            prompt = f"{index} " + "the quick brown fox jumps over a lazy dog " * 60
            stream = stream_all(server.port, [request_bytes("smol0", prompt, 1)])[0]
            samples["135m_prefill_tokens_per_s"].append(timings_of(stream)["prompt_per_second"])
    return samples


def beside_a_prompt(name: str, rival: Path | None, models: Path) -> Samples:
    """How long streams wait for their next token while another client's long prompt is computed, and how long that client waits for its
    first."""
    samples: Samples = defaultdict(list)
    prompt = "the quick brown fox jumps over a lazy dog " * 120
    with running(name, rival, models, *FLAGS) as server, ThreadPoolExecutor(1) as pool:
        ttft(server, "smol0")
        for index in range(2):
            requests = [request_bytes("smol0", f"{SHORT} {i} {index}", 400) for i in range(3)]
            streams = pool.submit(stream_all, server.port, requests)
            time.sleep(0.7)
            start = time.perf_counter()
            long = stream_all(server.port, [request_bytes("smol0", f"{index} {prompt}", 1)])[0]
            waited = long.ttft_s
            samples["beside_ttft_s"].append(waited)
            samples["beside_prompt_tokens_per_s"].append(timings_of(long)["prompt_n"] / waited)
            gaps = [
                after - before
                for stream in streams.result()
                for before, after in itertools.pairwise(stream.reads)
                if after > start and before < start + waited
            ]
            samples["beside_itl_p99_s"].append(sorted(gaps)[int(0.99 * len(gaps))])
    return samples


NUM_PAIRS = 5


def foreseen_switch(name: str, rival: Path | None, models: Path) -> Samples:
    """A client says which model comes next, while it reads the answer of another one. With the hint and without it in turns: what the hint
    saves, and what the load costs the model that answers."""
    samples: Samples = defaultdict(list)
    with running(name, rival, models, *FLAGS, "--models-max", "2") as server:
        ttft(server, "smol0")
        for pair in range(NUM_PAIRS):
            rates = {}
            for is_hinted in (True, False) if pair % 2 == 0 else (False, True):
                hint = {"next_model": "smol1"} if is_hinted else {}
                stream = stream_all(server.port, [request_bytes("smol0", f"{SHORT} {pair}", 100, **hint)])[0]
                rates[is_hinted] = timings_of(stream)["predicted_per_second"]
                time.sleep(2 * PAUSE_S)
                samples["foreseen_135m_s" if is_hinted else "not_foreseen_135m_s"].append(ttft(server, "smol1"))
                server.unload("smol1")
                time.sleep(PAUSE_S)
            samples["foreseen_rate_share"].append(rates[True] / rates[False])
    return samples


# A role, its model, and how many sentences its instructions and each of its turns have. The tiny model has a token for each character.
ROLES = (("planner", "smol0", 100, 8), ("coder", "smol1", 100, 8), ("critic", "tiny0", 15, 2))
NUM_AGENT_TURNS = 7


def agents(name: str, rival: Path | None, models: Path) -> Samples:
    """Three agents take turns. Each has its own model, long instructions, and a conversation that grows a little with each turn, as agents
    have. There is room for two models."""
    samples: Samples = defaultdict(list)
    with running(name, rival, models, *FLAGS, "--models-max", "2") as server:
        time.sleep(1)
        start = time.perf_counter()
        for num_turns in range(1, NUM_AGENT_TURNS + 1):
            for role, model, instructions, sentences in ROLES:
                turns = " ".join(f"{number}: {SENTENCE * sentences}" for number in range(num_turns))
                samples["agents_ttft_s"].append(ttft(server, model, f"{role}: {SENTENCE * instructions} {turns}", 8))
        samples["agents_s"].append(time.perf_counter() - start)
    return samples


NUM_CLIENTS, NUM_TURNS = 24, 10


def storm(name: str, rival: Path | None, models: Path) -> Samples:
    """Agents that take turns: many clients; with every request each asks another of three models, and there is room for one."""
    samples: Samples = defaultdict(list)
    with running(name, rival, models, *FLAGS, "--models-max", "1") as server:
        time.sleep(1)
        ttft(server, "tiny0")
        counter = LoadCounter(server.port)
        scripts = [[request_bytes(f"tiny{(i + turn) % 3}", f"{SHORT} {i}", 8) for turn in range(NUM_TURNS)] for i in range(NUM_CLIENTS)]
        start = time.perf_counter()
        streams = run_clients(server.port, scripts)
        samples["storm_s"].append(time.perf_counter() - start)
        waits = sorted(stream.ttft_s for stream in streams)
        samples["storm_p95_ttft_s"].append(waits[int(0.95 * len(waits))])
        samples["storm_swaps"].append(counter.close())
    return samples


SHAPES = (("square", 1.0), ("triangle", 0.5), ("ellipse", 0.785), ("hexagon", 0.75), ("diamond", 0.5), ("star", 0.29))
FUNCTION = 'def area_of_{}(width, height):\n    """The area in square metres."""\n    return width * height * {}\n\n'
LISTING = "".join(FUNCTION.format(*shape) for shape in SHAPES)
COPY = f"Repeat this code exactly as it is, without any change:\n\n```python\n{LISTING}```"


def repeat(name: str, rival: Path | None, models: Path) -> Samples:
    """A text that repeats itself: a listing is copied, without and with guesses from the text itself (the same flags for both servers)."""
    samples: Samples = defaultdict(list)
    for kind, flags in (("off", ()), ("on", ("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "6"))):
        with running(name, rival, models, *FLAGS, *flags) as server:
            ttft(server, "smol0", COPY, 1)
            for _ in range(2):
                stream = stream_all(server.port, [request_bytes("smol0", COPY, 160)])[0]
                timings = timings_of(stream)
                samples[f"repeat_{kind}_tokens_per_s"].append(timings["predicted_per_second"])
                if kind == "on":
                    samples["repeat_held_share"].append(timings.get("draft_n_accepted", 0) / max(1, timings.get("draft_n", 0)))
    return samples
