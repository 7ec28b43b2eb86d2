"""Starts and ends one server under test on a loopback port: fastrouter or llama-server, with the same flags."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.client import call


@dataclass
class Server:
    name: str
    port: int
    process: subprocess.Popen[bytes]
    start_s: float  # spawn -> first 200 of /health

    def rss_bytes(self) -> int:
        """Resident memory of the router process itself."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def unload(self, model: str) -> None:
        """Unload and wait until it is gone."""
        call(self.port, "POST", "/models/unload", {"model": model})
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            listing = call(self.port, "GET", "/v1/models")[1]["data"]
            if next(m for m in listing if m["id"] == model)["status"]["value"] == "unloaded":
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name}: {model} did not unload")


def log_of(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"bench-{name}.log"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def command_of(name: str, rival: Path | None) -> list[str]:
    if name == "fastrouter":
        return [sys.executable, "-m", "fastrouter"]
    assert rival is not None
    return [str(rival), "--no-ui"]


@contextlib.contextmanager
def running(name: str, rival: Path | None, models_dir: Path, *flags: str) -> Iterator[Server]:
    """The server, answering /health. Ended with SIGTERM, by pid."""
    port = free_port()
    command = [*command_of(name, rival), "--host", "127.0.0.1", "--port", str(port), "--models-dir", str(models_dir), *flags]
    env = {**os.environ, "LLAMA_CACHE": "/nonexistent", "HF_HUB_CACHE": "/nonexistent"}
    with log_of(name).open("ab") as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        yield Server(name, port, process, wait_healthy(process, port, start))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_healthy(process: subprocess.Popen[bytes], port: int, start: float) -> float:
    while time.perf_counter() - start < 30:
        if process.poll() is not None:
            raise RuntimeError(f"server ended with {process.returncode}; see {log_of('*')}")
        try:
            if call(port, "GET", "/health")[0] == 200:
                return time.perf_counter() - start
        except OSError:
            pass
        time.sleep(0.001)
    raise RuntimeError("server did not become healthy")
