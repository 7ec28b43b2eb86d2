"""What is measured of many clients and many models, of memory, and of the router alone. suite.py lists all scenarios."""

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from bench import router
from bench.figures import percentile
from bench.running import FLAGS, Samples, running, without_foresight
from fastrouter.cli.bench.load_client import request_bytes, run_clients
from fastrouter.cli.bench.switching import SHORT, in_turn, ttft

NUM_CLIENTS, NUM_TURNS = 16, 3
MIXED = ("tiny0", "tiny1", "smol0")
NUM_LISTED = 1000
NUM_CONNECTIONS, WRK_S = 16, 2
_RATE = re.compile(r"Requests/sec:\s*([\d.]+)")


def mixed(name: str, program: Path | None, models: Path) -> Samples:
    """16 clients at the same time; with each turn a client asks another of three models. All are in memory."""
    samples: Samples = defaultdict(list)
    with running(name, program, models, *FLAGS, "--models-max", "3") as server:
        for model in MIXED:
            ttft(server, model)
        scripts = [
            [request_bytes(MIXED[(client + turn) % 3], f"{SHORT} {client} {turn}", 32) for turn in range(NUM_TURNS)]
            for client in range(NUM_CLIENTS)
        ]
        start = time.perf_counter()
        streams = run_clients(server.port, scripts)
        samples["mixed_tokens_per_s"].append(sum(stream.num_tokens for stream in streams) / (time.perf_counter() - start))
        samples["mixed_ttft_s"] = [stream.ttft_s for stream in streams]
        gaps = [after - before for stream in streams for before, after in itertools.pairwise(stream.reads)]
        samples["mixed_itl_p99_s"].append(percentile(gaps, 0.99))
    return samples


def catalogue(name: str, program: Path | None, models: Path) -> Samples:
    """A folder with 1,000 models. The first start only fills the caches of the system and of the server."""
    samples: Samples = defaultdict(list)
    folder = models.parent / "catalogue"
    if not folder.exists():
        folder.mkdir()
        for number in range(NUM_LISTED):
            (folder / f"model{number:04}.gguf").symlink_to(models / f"tiny{number % 8}.gguf")
    flags = (*FLAGS, "--models-max", "16", *without_foresight(name))
    with running(name, program, folder, *flags) as server:
        server.models()
    with running(name, program, folder, *flags) as server:
        samples["catalogue_start_s"].append(server.start_s)
        time.sleep(1)
        for _ in range(20):
            start = time.perf_counter()
            if len(server.models()) != NUM_LISTED:
                raise RuntimeError(f"{name} does not list {NUM_LISTED} models")
            samples["catalogue_list_s"].append(time.perf_counter() - start)
        samples["catalogue_cold_tiny_s"] = in_turn(server, [f"model{number:04}" for number in range(0, 800, 100)], 8)
    return samples


def router_requests(name: str, program: Path | None, models: Path) -> Samples:
    """Small requests per second on 16 connections that stay open. Without wrk nothing is measured."""
    samples: Samples = defaultdict(list)
    wrk = shutil.which("wrk")
    if wrk is None:
        print("not measured: /health and /v1/models per second need wrk", file=sys.stderr)
        return samples
    with running(name, program, models, *FLAGS) as server:
        time.sleep(1)
        for measure, path in (("health_per_s", "/health"), ("models_per_s", "/v1/models")):
            for seconds in (1, WRK_S, WRK_S):
                command = [wrk, "-t1", f"-c{NUM_CONNECTIONS}", f"-d{seconds}s", f"http://127.0.0.1:{server.port}{path}"]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                samples[measure].append(float(_RATE.findall(said)[0]))
            del samples[measure][0]  # the warm-up
    return samples


def memory(name: str, program: Path | None, models: Path) -> Samples:
    """Of all processes of the server together: each shared page counts once."""
    samples: Samples = defaultdict(list)
    with running(name, program, models, *FLAGS) as server:
        time.sleep(2)
        samples["idle_pss_bytes"].append(pss_bytes(server.process.pid))
        for model in MIXED:
            ttft(server, model)
        time.sleep(2)
        samples["three_models_pss_bytes"].append(pss_bytes(server.process.pid))
    return samples


def pss_bytes(pid: int) -> float:
    """Of a process and all below it."""
    family = {pid}
    parents = _parents()
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return float(sum(map(_own_pss_bytes, family)))


def _parents() -> dict[int, int]:
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            found[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return found


def _own_pss_bytes(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:")[1].split()[0]) * 1024
    return 0


def scripted(name: str, program: Path | None, models: Path) -> Samples:
    """512 streams of scripted workers: the router's own work, see router.py."""
    found = router.run(num_streams=512, seconds=3.0, num_clients=4)
    return {
        "scripted_512_tokens_per_s": [found["tokens_per_s"]],
        "scripted_512_tokens_per_cpu_s": [found["tokens_per_cpu_s"]],
        "scripted_512_lockstep_tokens_per_s": [found["lockstep"]["tokens_per_s"]],
    }


def parsing(name: str, program: Path | None, models: Path) -> Samples:
    """Thoughts and tool calls, in a process of its own, see engine.py."""
    said = subprocess.run([sys.executable, "-m", "bench.engine", "parsing"], check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(said)
    return {
        "parsing_plain_tokens_per_s": [found["plain_tokens_per_s"]],
        "parsing_parsed_tokens_per_s": [found["parsed_tokens_per_s"]],
        "parsing_ratio": [found["ratio"]],
    }
