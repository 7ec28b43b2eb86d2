"""`python -m bench.router [--streams 512] [--seconds 5]`: what the router alone can handle, from ring to sockets, without a model.

The real router runs in a separate process with a scripted worker (tests/support/fake_worker.py, flood mode) that writes tokens as fast
as the ring takes them. Client processes open all streams together and count text events. Writes results/router.json. In `lockstep` the
worker waits until the tokens of each step have been taken, like a model: then every token is an event, a write and a system call, which
is the highest possible cost of a token.
"""

import argparse
import json
import multiprocessing
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fastrouter.cli.bench.load_client import call, request_bytes
from fastrouter.cli.bench.servers import free_port
from fastrouter.system.machine import cpu_name

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from tiny_models import make_llama

WORKER = Path(__file__).parent.parent / "tests" / "support" / "fake_worker.py"
EVENT = b'"delta":{"content":"'
END = b"data: [DONE]"
CALIBRATION_TOKENS = 200  # for each stream, in the run that shows how many the measured run needs
ROUTER = """
import os
import sys
from fastrouter.app.router import run
from fastrouter.config.config import parse
from fastrouter.supervisor.workers.launch import Launched, environment_of
config = parse(sys.argv[2:], {})
sys.exit(run(config, Launched([sys.executable, sys.argv[1]], environment_of(os.environ, config.poll))))
"""


def start_router(models: Path, port: int) -> "subprocess.Popen[bytes]":
    flags = ["--port", str(port), "--models-dir", str(models)]
    process = subprocess.Popen([sys.executable, "-c", ROUTER, str(WORKER), *flags], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if call(port, "GET", "/health")[0] == 200:
                return process
        except OSError:
            time.sleep(0.01)
    raise RuntimeError("the router did not become healthy")


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_all(port: int, model: str, num_streams: int, num_tokens: int, pipe: Connection) -> None:
    """One client process: connect, wait for the start, read to the end. Sends (tokens, whole streams)."""
    selector = selectors.DefaultSelector()
    tails: dict[socket.socket, bytes] = {}
    for _ in range(num_streams):
        sock = socket.create_connection(("127.0.0.1", port))
        tails[sock] = b""
        selector.register(sock, selectors.EVENT_READ)
    pipe.send("connected")
    pipe.recv()
    request = request_bytes(model, "x", num_tokens)
    for sock in tails:
        sock.sendall(request)
        sock.setblocking(False)
    num_events = num_whole = 0
    while tails:
        for key, _ in selector.select(60.0):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            data = sock.recv(1 << 20)
            if not data:
                num_whole += END in tails.pop(sock)
                selector.unregister(sock)
                sock.close()
                continue
            text = tails[sock] + data
            num_events += text.count(EVENT)
            kept = text[-len(EVENT) + 1 :]
            tails[sock] = text[-64:] if END in text[-64:] else kept  # no event is counted twice: less than one is kept
    pipe.send((num_events, num_whole))


def flood(port: int, router: int, model: str, num_streams: int, num_tokens: int, num_clients: int) -> tuple[float, float]:
    """(seconds, CPU seconds of the router) for `num_tokens` on each stream. Raises RuntimeError when a token is missing."""
    context = multiprocessing.get_context("fork")
    pipes, clients = [], []
    for index in range(num_clients):
        ours, theirs = context.Pipe()
        share = num_streams // num_clients + (index < num_streams % num_clients)
        clients.append(context.Process(target=read_all, args=(port, model, share, num_tokens, theirs)))
        clients[-1].start()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    begun, begun_cpu_s = time.perf_counter(), cpu_s(router)
    for pipe in pipes:
        pipe.send("go")
    counts = [pipe.recv() for pipe in pipes]
    took = time.perf_counter() - begun, cpu_s(router) - begun_cpu_s
    for client in clients:
        client.join()
    found = sum(count[0] for count in counts), sum(count[1] for count in counts)
    if found != (num_streams * num_tokens, num_streams):
        raise RuntimeError(f"{found[0]} of {num_streams * num_tokens} tokens, {found[1]} of {num_streams} whole streams")
    return took


def measure(port: int, router: int, model: str, num_streams: int, seconds: float, num_clients: int) -> dict[str, float]:
    num_tokens = CALIBRATION_TOKENS
    for _ in range(2):  # the first run also loads the model
        wall_s, _ = flood(port, router, model, num_streams, num_tokens, num_clients)
        num_tokens = max(CALIBRATION_TOKENS, int(num_tokens * seconds / wall_s))
    wall_s, router_s = flood(port, router, model, num_streams, num_tokens, num_clients)
    total = num_streams * num_tokens
    return {"num_tokens": total, "tokens_per_s": total / wall_s, "tokens_per_cpu_s": total / router_s, "router_load": router_s / wall_s}


def run(num_streams: int, seconds: float, num_clients: int) -> dict[str, Any]:
    """Figures of tokens at full speed, and in `lockstep`."""
    with tempfile.TemporaryDirectory() as folder:
        for model in ("flood", "lockstep"):
            make_llama(Path(folder) / f"{model}.gguf")
        port = free_port()
        process = start_router(Path(folder), port)
        try:
            full, step = (measure(port, process.pid, model, num_streams, seconds, num_clients) for model in ("flood", "lockstep"))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    return {"num_streams": num_streams, **full, "lockstep": step}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.router", description=__doc__)
    parser.add_argument("--streams", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long the measured run takes")
    parser.add_argument("--clients", type=int, default=4, help="client processes")
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    result = {
        **run(arguments.streams, arguments.seconds, arguments.clients),
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=1))
    if not arguments.no_save:
        results = Path(__file__).parent / "results"
        results.mkdir(exist_ok=True)
        (results / "router.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
