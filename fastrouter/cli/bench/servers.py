"""Starts and ends one measured server on a loopback port: fastrouter itself or llama-server, with the same flags.

Invariant: a server ends with its `with` block, and with the measuring process, however that one ends.
"""

import contextlib
import ctypes
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrouter.cli.bench.load_client import BenchFailed, call
from fastrouter.system import reexec

OURS, RIVAL = "fastrouter", "llama-server"
START_S = 60.0
_PR_SET_PDEATHSIG = 1


@dataclass
class MeasuredServer:
    name: str
    port: int
    process: subprocess.Popen[bytes]
    start_s: float  # from the start of the process to the first 200 of /health

    def rss_bytes(self) -> int:
        """Resident memory of the router process alone."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def models(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = call(self.port, "GET", "/v1/models")[1]["data"]
        return listed

    def status(self, model: str) -> str:
        """Raises BenchFailed when it does not know the model."""
        found = [str(listed["status"]["value"]) for listed in self.models() if listed["id"] == model]
        if not found:
            raise BenchFailed(f"{self.name} does not list the model {model}")
        return found[0]

    def unload(self, model: str) -> None:
        """Unload it, and wait until it has left memory."""
        call(self.port, "POST", "/models/unload", {"model": model})
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.status(model) == "unloaded":
                return
            time.sleep(0.05)
        raise BenchFailed(f"{self.name}: {model} did not unload")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def command_of(rival: Path | None) -> list[str]:
    if rival is not None:
        return [str(rival), "--no-ui"]
    return [sys.executable] if getattr(sys, "frozen", False) else reexec.command_of("fastrouter")


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@contextlib.contextmanager
def _port_for(rival: Path | None) -> Iterator[tuple[int, list[str]]]:
    """A free port and the flags that name it. Ours stays reserved until the server is ready, so that no other program can take it."""
    if rival is not None:
        port = free_port()
        yield port, ["--port", str(port)]
        return
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        port = int(reserved.getsockname()[1])
        yield port, ["--port", str(port), "--reuse-port"]


@contextlib.contextmanager
def running(rival: Path | None, flags: list[str], environ: Mapping[str, str], log: Path) -> Iterator[MeasuredServer]:
    """The rival, or fastrouter when there is none; it answers /health. It is ended with SIGTERM, by pid. Raises BenchFailed."""
    with _port_for(rival) as (port, port_flags), _started(rival, [*port_flags, *flags], environ, log) as (process, start):
        name = OURS if rival is None else RIVAL
        yield MeasuredServer(name, port, process, _wait_healthy(name, process, port, start, log))


@contextlib.contextmanager
def _started(
    rival: Path | None, flags: list[str], environ: Mapping[str, str], log: Path
) -> "Iterator[tuple[subprocess.Popen[bytes], float]]":
    environ = reexec.environment_for_own(environ) if rival is None else reexec.environment_for_others(environ)
    with started([*command_of(rival), "--host", "127.0.0.1", *flags], environ, log) as found:
        yield found


@contextlib.contextmanager
def started(command: list[str], environ: Mapping[str, str], log: Path) -> "Iterator[tuple[subprocess.Popen[bytes], float]]":
    """The process, and the time of its start. It is ended with SIGTERM, by pid. Raises BenchFailed."""
    with log.open("ab") as output:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ, preexec_fn=_end_with_parent
            )
        except OSError as error:
            raise BenchFailed(f"{command[0]} cannot be started: {error.strerror or error}") from None
    try:
        yield process, start
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_healthy(name: str, process: "subprocess.Popen[bytes]", port: int, start: float, log: Path) -> float:
    while time.perf_counter() - start < START_S:
        if process.poll() is not None:
            raise BenchFailed(f"{name} ended with exit code {process.returncode}: {_last_line(log)}")
        with contextlib.suppress(OSError):
            if call(port, "GET", "/health")[0] == 200:
                return time.perf_counter() - start
        time.sleep(0.001)
    raise BenchFailed(f"{name} did not answer /health within {START_S:g} s")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it printed nothing")
