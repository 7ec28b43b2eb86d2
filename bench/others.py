"""Ollama and llama-swap as measured servers, driven as their documentation says. Both take GGUF files and speak OpenAI's chat API.

Their flags are translated from llama-server's: Ollama gets environment variables and a Modelfile for each model, llama-swap a configuration
that starts llama-server for each model. What cannot be translated raises BenchFailed; suite.py asks them only for what they can do.
"""

import contextlib
import http.client
import json
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fastrouter.cli.bench.load_client import BenchFailed, call
from fastrouter.cli.bench.servers import START_S, MeasuredServer, free_port, started

OLLAMA, LLAMA_SWAP = "ollama", "llama-swap"
LLAMA_SERVER = "llama-server"  # a link to it, beside the folder of models; llama-swap starts it
Starter = Callable[[Path, Path, Sequence[str], Path], AbstractContextManager[MeasuredServer]]


class OtherServer(MeasuredServer, ABC):
    """A model is loaded, or unloaded."""

    @abstractmethod
    def loaded(self) -> set[str]: ...

    @abstractmethod
    def send_away(self, model: str) -> None: ...

    def status(self, model: str) -> str:
        return "loaded" if model in self.loaded() else "unloaded"

    def unload(self, model: str) -> None:
        self.send_away(model)
        deadline = time.monotonic() + 30
        while model in self.loaded():
            if time.monotonic() > deadline:
                raise BenchFailed(f"{self.name}: {model} did not unload")
            time.sleep(0.05)


def value_of(flags: Sequence[str], name: str, default: int) -> int:
    return int(flags[flags.index(name) + 1]) if name in flags else default


def _check(name: str, flags: Sequence[str], known: set[str]) -> None:
    unknown = [flag for flag in flags if flag.startswith("-") and flag not in known]
    if unknown:
        raise BenchFailed(f"{name} has nothing like {' '.join(unknown)}")


def _files(models: Path) -> dict[str, Path]:
    return {path.stem: path.resolve() for path in sorted(models.glob("*.gguf"))}


def _wait_for(name: str, process: "subprocess.Popen[bytes]", port: int, path: str, start: float) -> float:
    while time.perf_counter() - start < START_S:
        if process.poll() is not None:
            raise BenchFailed(f"{name} ended with exit code {process.returncode}")
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as one,
        ):
            one.request("GET", path)
            if one.getresponse().status == 200:
                return time.perf_counter() - start
        time.sleep(0.001)
    raise BenchFailed(f"{name} did not answer {path} within {START_S:g} s")


# ---------------------------------------------------------------- Ollama


class Ollama(OtherServer):
    def loaded(self) -> set[str]:
        return {str(model["name"]).removesuffix(":latest") for model in call(self.port, "GET", "/api/ps")[1]["models"]}

    def send_away(self, model: str) -> None:
        call(self.port, "POST", "/api/generate", {"model": model, "keep_alive": 0})


def ollama_environment(models: Path, flags: Sequence[str], port: int) -> dict[str, str]:
    """`-c` is for all slots together; Ollama's length is that of one."""
    num_slots = value_of(flags, "-np", 1)
    return {
        **os.environ,
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(models.parent / "ollama"),
        "OLLAMA_CONTEXT_LENGTH": str(value_of(flags, "-c", 4096) // num_slots),
        "OLLAMA_NUM_PARALLEL": str(num_slots),
        "OLLAMA_MAX_LOADED_MODELS": str(value_of(flags, "--models-max", 16)),
        "OLLAMA_KEEP_ALIVE": "-1",
    }


@contextlib.contextmanager
def run_ollama(program: Path, models: Path, flags: Sequence[str], log: Path) -> Iterator[MeasuredServer]:
    """`ollama serve`; the models are created at the first start of a run, and stay in a folder beside the files."""
    _check(OLLAMA, flags, {"-c", "-t", "-np", "--models-max"})
    port = free_port()
    environ = ollama_environment(models, flags, port)
    with started([str(program), "serve"], environ, log) as (process, start):
        start_s = _wait_for(OLLAMA, process, port, "/api/version", start)
        server = Ollama(OLLAMA, port, process, start_s)
        known = {str(model["name"]).removesuffix(":latest") for model in call(port, "GET", "/api/tags")[1]["models"]}
        for name, path in _files(models).items():
            if name not in known:
                modelfile = models.parent / f"{name}.modelfile"
                modelfile.write_text(f"FROM {path}\nPARAMETER num_thread {value_of(flags, '-t', 2)}\n")
                _run([str(program), "create", name, "-f", str(modelfile)], environ, log)
        yield server


def _run(command: list[str], environ: dict[str, str], log: Path) -> None:
    with log.open("ab") as output:
        done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    if done.returncode:
        raise BenchFailed(f"{' '.join(command)} ended with exit code {done.returncode}; see {log}")


# ---------------------------------------------------------------- llama-swap


class LlamaSwap(OtherServer):
    def loaded(self) -> set[str]:
        return {str(one["model"]) for one in call(self.port, "GET", "/running")[1]["running"]}

    def send_away(self, model: str) -> None:
        call(self.port, "POST", f"/api/models/unload/{model}")


def llama_swap_configuration(models: Path, flags: Sequence[str], llama_server: Path) -> dict[str, Any]:
    """JSON is YAML. Without a group llama-swap keeps one model; the members of a group without `swap` stay in memory together."""
    num_models = value_of(flags, "--models-max", 16)
    files = _files(models)
    if 1 < num_models < len(files):
        raise BenchFailed(f"{LLAMA_SWAP} has no limit of {num_models} models")
    at = flags.index("--models-max") if "--models-max" in flags else len(flags)
    own = " ".join((*flags[:at], *flags[at + 2 :]))
    entries = {name: {"cmd": f"{llama_server} --port ${{PORT}} --no-ui -m {path} {own}"} for name, path in files.items()}
    groups = {} if num_models == 1 else {"groups": {"all": {"swap": False, "exclusive": True, "members": list(files)}}}
    return {"healthCheckTimeout": 60, "models": entries, **groups}


@contextlib.contextmanager
def run_llama_swap(program: Path, models: Path, flags: Sequence[str], log: Path) -> Iterator[MeasuredServer]:
    """It starts the llama-server that the bench compares with."""
    _check(LLAMA_SWAP, flags, {"-c", "-t", "-np", "--models-max"})
    port = free_port()
    configuration = models.parent / "llama-swap.yaml"
    configuration.write_text(json.dumps(llama_swap_configuration(models, flags, (models.parent / LLAMA_SERVER).resolve())))
    command = [str(program), "--config", str(configuration), "--listen", f"127.0.0.1:{port}"]
    with started(command, os.environ, log) as (process, start):
        yield LlamaSwap(LLAMA_SWAP, port, process, _wait_for(LLAMA_SWAP, process, port, "/health", start))


STARTERS: dict[str, Starter] = {OLLAMA: run_ollama, LLAMA_SWAP: run_llama_swap}
