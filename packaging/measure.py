"""`measure.py EXECUTABLE MODEL.gguf [ROUNDS]`: compares the executable with `python -m fastrouter` of this environment, in turns in one
run.

Prints medians: seconds from the start of the process to the first /health (first start: nothing is unpacked yet); memory of the idle
router with its fork server and spare (private memory: pages of files are shared with other users of the same files); time to the first
token after a switch with --models-max 1. Its caches are in a temporary folder.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path


def ask(port: int, path: str, body: dict[str, object] | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: bytes = answer.readline() if body else answer.read()
        return found


class Router:
    def __init__(self, command: list[str], models: Path, cache: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        command = [*command, "--port", str(self.port), "--models-dir", str(models), "--models-max", "1", "-c", "2048"]
        started = time.perf_counter()
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                ask(self.port, "/health")
                break
            except OSError:
                time.sleep(0.002)
        self.health_s = time.perf_counter() - started

    def memory_mib(self) -> float:
        """Of the process and its children."""
        pids = [self.process.pid]
        for pid in pids:
            pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")) / 1024

    def switch_s(self, model: str) -> float:
        body: dict[str, object] = {"model": model, "prompt": "Once upon", "max_tokens": 1, "stream": True}
        started = time.perf_counter()
        ask(self.port, "/v1/completions", body)
        return time.perf_counter() - started

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def measure(command: list[str], models: Path, cache: Path, found: dict[str, list[float]], *, is_first: bool) -> None:
    if is_first:
        shutil.rmtree(cache / "fastrouter/runtime", ignore_errors=True)
    router = Router(command, models, cache)
    found.setdefault("first start, s to /health" if is_first else "start, s to /health", []).append(router.health_s)
    if not is_first:
        time.sleep(3)  # the spare has started, and is idle
        found.setdefault("idle, MiB", []).append(router.memory_mib())
        router.switch_s("a")
        for model in "baba":
            time.sleep(1)
            found.setdefault("cold switch, s to the first token", []).append(router.switch_s(model))
    router.stop()


def main() -> None:
    executable, model, rounds = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), int(sys.argv[3]) if sys.argv[3:] else 5
    commands = {"executable": [str(executable)], "package": [sys.executable, "-m", "fastrouter"]}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder, "models")
        models.mkdir()
        for name in "ab":
            shutil.copy(model, models / f"{name}.gguf")
        for _ in range(rounds):
            for is_first in (True, False):
                for name, command in commands.items():
                    measure(command, models, Path(folder, name), found[name], is_first=is_first)
    load = f"{os.getloadavg()[0]:.1f} processes waited for {os.cpu_count()} cores"
    print(f"{executable.stat().st_size / 1e6:.1f} MB; medians of {rounds} rounds, {load}")
    for what in found["package"]:
        ours, theirs = (statistics.median(found[name][what]) for name in commands)
        print(f"{what}: executable {ours:.3f}, package {theirs:.3f}, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
