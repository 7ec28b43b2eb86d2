"""`fastrouter rpc-worker`: lend the devices of this machine to models of a router on another one.

The connection has neither a password nor encryption, and llama.cpp's server trusts its clients; so it listens on the loopback interface
unless a flag allows more. It starts a process for each client, so that several models use a device at the same time; a process that
waits for the next client is always there. Invariant: the processes end with this one.
"""

import argparse
import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

from fastrouter.cli.arguments import Parser
from fastrouter.ipc.served import LOST_CLIENT, TOOK_CLIENT, Served
from fastrouter.options.endpoints import DEFAULT_PORT
from fastrouter.options.load import QUIET
from fastrouter.system.reexec import command_of, environment_for_own, start
from fastrouter.worker.llama.params import physical_cores

_WHAT = "lend the devices of this machine to models of a router elsewhere (--rpc there)"
_MAX_CLIENTS = 64
_WARNING = """\
WARNING: {host} can be reached from other machines. There is no password and no encryption, and llama.cpp's RPC server trusts its
         clients: whoever can connect can take over this process. Use it only in a network of machines that you trust, best in a tunnel."""
_DEVICE = re.compile(r"  (\S+: .+ \(\d+ MiB, \d+ MiB free\))")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="fastrouter rpc-worker", description=_WHAT)
    parser.add_argument("--host", default="127.0.0.1", help="the IPv4 address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"the port (0: a free one; {DEFAULT_PORT})")
    parser.add_argument("--allow-network", action="store_true", help="listen also on an address that other machines can reach")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: one for each core)")
    parser.add_argument("--device", default="", help="names of devices, comma-separated (all GPUs, or the CPU)")
    parser.add_argument("--cache", action="store_true", help="keep large tensors on disk, so that the next load need not send them")
    parser.add_argument("--verbose", action="store_true", help="all that llama.cpp logs")
    return parser


def run_rpc_worker(arguments: Sequence[str]) -> int:
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        address = ipaddress.IPv4Address(options.host)
    except ValueError:
        parser.error(f"--host {options.host}: must be an IPv4 address of this machine")
    if not 0 <= options.port < 1 << 16 or options.threads < 0:
        parser.error("--port must be between 0 and 65535, --threads 0 or more")
    if not address.is_loopback:
        if not options.allow_network:
            parser.error(f"--host {options.host}: other machines can reach this address; a tunnel is safer, or add --allow-network")
        print(_WARNING.format(host=options.host), file=sys.stderr)
    try:
        with _listen(options.host, options.port) as listener:
            return Pool(listener, options).run()
    except OSError as error:
        print(f"fastrouter: {options.host}:{options.port}: {error.strerror or error}", file=sys.stderr)
        return 1


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.create_server((host, port), backlog=_MAX_CLIENTS)
    listener.set_inheritable(True)
    return listener


def _cache_folder() -> str:
    """llama.cpp's."""
    own = os.environ.get("LLAMA_CACHE")
    root = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama.cpp"
    folder = root / "rpc"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


class _Process:
    """It starts, waits for a client, or has one. A thread passes its lines on: an empty one is its end."""

    def __init__(self, served: Served, pass_on: Callable[["_Process", str], None]) -> None:
        command = [*command_of("fastrouter.worker"), "--rpc-server", served.to_argument()]
        environment = {"GGML_NO_BACKTRACE": "1", **environment_for_own(os.environ)}
        self._process = start(command, environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=[served.listener])
        self._pass_on = pass_on
        self._num_taken = self._num_lost = 0  # clients; the first one is the process itself
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._pass_on(self, line.decode("utf-8", "replace"))
        self._pass_on(self, "")

    @property
    def is_up(self) -> bool:
        return self._num_lost > 0

    @property
    def is_busy(self) -> bool:
        return self._num_taken > max(1, self._num_lost)

    def take(self, line: str) -> None:
        self._num_taken += line.startswith(TOOK_CLIENT)
        self._num_lost += line.startswith(LOST_CLIENT)

    def end(self) -> int:
        self._process.kill()
        return self._process.wait()


class Pool:
    """One process more than there are clients."""

    def __init__(self, listener: socket.socket, options: argparse.Namespace) -> None:
        cache = _cache_folder() if options.cache else None
        names = [name for name in options.device.split(",") if name]
        verbosity = QUIET + 2 if options.verbose else QUIET
        threads = options.threads or physical_cores()
        self._served = Served(listener.fileno(), os.getpid(), threads, names, cache, verbosity)
        self._address = "{}:{}".format(*listener.getsockname())
        self._lines: SimpleQueue[tuple[_Process, str]] = SimpleQueue()
        self._processes: list[_Process] = []
        self._devices: list[str] = []  # as llama.cpp describes them
        self._is_known = False

    def run(self) -> int:
        """Until a signal ends it. Returns the exit code."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            self._add()
            while self._processes:
                self._take(*self._lines.get())
            return 1  # none could start
        except KeyboardInterrupt:
            return 0
        finally:
            for process in self._processes:
                process.end()

    def _add(self) -> None:
        self._processes.append(_Process(self._served, lambda process, line: self._lines.put((process, line))))

    def _take(self, process: _Process, line: str) -> None:
        if not line:
            self._note_end(process)
            return
        if not self._is_known and (found := _DEVICE.match(line)):
            self._devices.append(found[1])
        process.take(line)
        if process.is_up and not self._is_known:
            self._is_known = True
            print(f"RPC worker on {self._address}: {', '.join(self._devices)}", flush=True)
        self._keep_one_free()

    def _note_end(self, process: _Process) -> None:
        self._processes.remove(process)
        code = process.end()
        if self._is_known:
            print(f"fastrouter: the process of a client has ended with code {code}; its model is lost", file=sys.stderr)
            self._keep_one_free()

    def _keep_one_free(self) -> None:
        if all(process.is_busy for process in self._processes) and len(self._processes) < _MAX_CLIENTS:
            self._add()
