"""A model whose layers are on two RPC workers of this machine: the first token after a load, and tokens per second."""

import contextlib
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from bench.running import FLAGS, Samples, running, timings_of, without_foresight
from fastrouter.cli.bench.load_client import BenchFailed, request_bytes, stream_all
from fastrouter.cli.bench.servers import RIVAL
from fastrouter.cli.bench.switching import SHORT, cold, ttft
from fastrouter.system.reexec import command_of

NUM_WORKERS = 2


def on_rpc_devices(name: str, rival: Path | None, models: Path) -> Samples:
    """Both servers use fastrouter's RPC workers. A llama-server that was built without GGML_RPC is left out."""
    try:
        return _measure(name, rival, models)
    except BenchFailed as error:
        if name != RIVAL:
            raise
        print(f"{name} is left out: {error}", file=sys.stderr)
        return {}


def _measure(name: str, rival: Path | None, models: Path) -> Samples:
    samples: Samples = defaultdict(list)
    with _rpc_workers() as endpoints:
        flags = [*FLAGS, "--rpc", ",".join(endpoints), "--tensor-split", "1,1", "-fit", "off", "--models-max", "1"]
        with running(name, rival, models, *flags, *without_foresight(name)) as server:
            time.sleep(1)
            samples["rpc_cold_135m_s"] = cold(server, "smol0", 4)
            ttft(server, "smol0")
            for index in range(3):
                stream = stream_all(server.port, [request_bytes("smol0", f"{SHORT} {index}", 48)])[0]
                samples["rpc_135m_tokens_per_s"].append(timings_of(stream)["predicted_per_second"])
    return samples


@contextlib.contextmanager
def _rpc_workers() -> Iterator[list[str]]:
    """Their addresses. Each computes with one thread."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_rpc_worker()) for _ in range(NUM_WORKERS)]


@contextlib.contextmanager
def _rpc_worker() -> Iterator[str]:
    command = [*command_of("fastrouter"), "rpc-worker", "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            if words[:3] != ["RPC", "worker", "on"]:
                raise BenchFailed("an RPC worker did not start")
            yield words[3].rstrip(":")
        finally:
            process.terminate()
