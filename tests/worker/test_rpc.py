"""RPC servers: what a dial finds out, how they become devices of this process, and several clients of one RPC worker."""

import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FASTROUTER
from rpc_workers import RpcWorker, free_port, hello, pretender, rpc_worker
from tiny_models import make_llama

from fastrouter.cli.rpc_worker import run_rpc_worker
from fastrouter.options.endpoints import split_endpoint
from fastrouter.system.machine import total_bytes
from fastrouter.system.rpc_dial import Unreachable, dial, dial_all
from fastrouter.worker.llama.log import LlamaLog

# What a process of its own does: RPC devices stay in a process for good.
IN_A_PROCESS = """
    from fastrouter.errors import FastrouterError
    from fastrouter.options.load import LoadOptions
    from fastrouter.worker.llama import devices, placement, rpc
    from fastrouter.worker.llama.binding import api, log, start_backends
    from fastrouter.worker.llama.context import Context
    from fastrouter.worker.llama.model import Model
    start_backends()
    def placed(**options):
        try:
            made = placement.place(api.llama_model_default_params(), LoadOptions(**options))
            return [0 if each is None else sum(map(bool, each)) for each in made]
        except FastrouterError as error:
            return f"{type(error).__name__}: {error.message}"
    def opened(**options):
        model = Model(PATH, LoadOptions(ctx_size=256, parallel=1, **options))
        context = Context(model, LoadOptions(ctx_size=256, parallel=1, **options))
        return {name: size for (kind, name), size in log.buffers.items() if kind == "model"}
"""


@pytest.fixture(scope="module")
def worker() -> Iterator[RpcWorker]:
    with rpc_worker() as found:
        yield found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("remote") / "tiny.gguf")


def in_a_process(path: Path, text: str, *lines: str) -> str:
    code = textwrap.dedent(IN_A_PROCESS).replace("PATH", repr(str(path))) + textwrap.dedent(text)
    done = subprocess.run([sys.executable, "-c", code, *lines], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---------------------------------------------------------------- dialling


@pytest.mark.parametrize("text", ["host", "host:", ":1", "host:0", "host:65536", "host:x", "host:1:2", "[::1]:5"])
def test_what_is_not_an_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        split_endpoint(text)


def test_a_dial_finds_the_devices(worker: RpcWorker) -> None:
    [device] = dial(worker.endpoint)
    assert 0 < device.free_bytes <= device.total_bytes
    assert device.total_bytes >= total_bytes()
    assert dial(worker.endpoint) == [device], "it is free for the next client"


def test_why_a_server_cannot_be_used() -> None:
    with pytest.raises(Unreachable, match=r"^connection refused$"):
        dial(f"127.0.0.1:{free_port()}")
    with pretender(None) as endpoint, pytest.raises(Unreachable, match=r"does not answer within 0\.2 s; perhaps it serves another client"):
        dial(endpoint, 0.2)
    for answer in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", hello(7, 0)[:9]):
        with pretender(answer) as endpoint, pytest.raises(Unreachable, match="what answers there is not an RPC server of this version"):
            dial(endpoint)
    for major, minor in ((6, 0), (8, 0), (7, 1)):
        with (
            pretender(hello(major, minor)) as endpoint,
            pytest.raises(Unreachable, match=rf"it speaks version {major}\.{minor}\.0 of the protocol, and this llama.cpp 7\.0"),
        ):
            dial(endpoint)
    with pytest.raises(Unreachable):
        dial("no-such-host.invalid:1")


def test_all_servers_are_dialled_at_the_same_time(worker: RpcWorker) -> None:
    with pretender(None) as one, pretender(None) as two:
        found = dial_all([one, worker.endpoint, two], 1.0)
    assert list(found) == [one, worker.endpoint, two]
    assert [isinstance(answer, Unreachable) for answer in found.values()] == [True, False, True]


# ---------------------------------------------------------------- devices of a process


def test_no_start_loads_the_library(path: Path) -> None:
    said = in_a_process(path, "opened()\nprint([line for line in open('/proc/self/maps') if 'ggml-rpc' in line])")
    assert said == "[]\n"


def test_names_and_places_stay_when_a_server_is_missing(worker: RpcWorker, path: Path) -> None:
    """RPC1 is the second server, also when the first one is missing; shares and buffers of the missing one are left out."""
    missing = f"127.0.0.1:{free_port()}"
    said = in_a_process(
        path,
        """
        import sys
        missing, there = sys.argv[1:]
        rpc.servers.connect([missing, there])
        names = rpc.servers.by_name()
        print([*names], [name for name, handle in names.items() if handle], rpc.servers.missing[missing])
        print(devices.describe(names["RPC1"]).key == f"RPC0[{there}]", devices.describe(names["RPC1"]).kind)
        print(placed(devices=["RPC0"]))
        print(placed(devices=["RPC0", "RPC1"]))
        print(placed(devices=["RPC7"]))
        print(placed(split_mode="none", main_gpu=0))
        print(placed(tensor_split=[3.0, 1.0]), placed(tensor_split=[1.0, 0.0]))
        print(placed(override_tensor=[["a", f"RPC0[{missing}]"]]), placed(override_tensor=[["a", "RPC0[else:1]"]]))
        print(sorted(opened(devices=["RPC0", "RPC1"])) == ["CPU_Mapped", f"RPC0[{there}]"])
        """,
        missing,
        worker.endpoint,
    ).splitlines()
    assert said[0] == "['RPC0', 'RPC1'] ['RPC1'] connection refused"
    assert said[1] == "True rpc"
    assert said[2] == f"Scarcity: --device RPC0: the RPC server {missing} cannot be used: connection refused"
    assert said[3] == "[1, 0, 0, 0]", "one device, and the NULL at the end"
    assert said[4] == "LlamaError: --device RPC7: there is no such device; the devices are RPC0, RPC1"
    assert said[5] == f"Scarcity: --main-gpu 0: the RPC server {missing} cannot be used: connection refused"
    assert said[6] == "[0, 0, 0, 1] [0, 0, 0, 0]", "the share of RPC1 is left; without any, llama.cpp chooses"
    assert said[7].startswith("[0, 0, 0, 0] LlamaError: --override-tensor RPC0[else:1]: there is no such buffer type; there are CPU, RPC0[")
    assert said[8] == "True"


def test_without_any_server_there_is_an_error(path: Path) -> None:
    ends = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    said = in_a_process(
        path,
        """
        import sys
        try:
            rpc.servers.connect(sys.argv[1:])
        except FastrouterError as error:
            print(type(error).__name__, error.message)
        """,
        *ends,
    )
    assert said == f"Scarcity --rpc: no server can be used: {ends[0]}: connection refused; {ends[1]}: connection refused\n"


def test_the_log_tells_what_is_where() -> None:
    log = LlamaLog()
    for line in (
        b"load_tensors:   CPU_Mapped model buffer size =     1.50 MiB\n",
        b"load_tensors: RPC0[127.0.0.1:5] model buffer size =     0.25 MiB\n",
        b"llama_kv_cache: RPC0[127.0.0.1:5] KV buffer size =     0.50 MiB\n",
        b"llama_kv_cache: RPC0[127.0.0.1:5] KV buffer size =     0.50 MiB\n",
        b"sched_reserve: RPC0[127.0.0.1:5] compute buffer size =    16.00 MiB\n",
        b"a buffer size = of another kind\n",
    ):
        log.take(2, line)
    mib = 1 << 20
    assert log.buffers == {
        ("model", "CPU_Mapped"): 1.5 * mib,
        ("model", "RPC0[127.0.0.1:5]"): mib // 4,
        ("KV", "RPC0[127.0.0.1:5]"): mib,
        ("compute", "RPC0[127.0.0.1:5]"): 16 * mib,
    }


# ---------------------------------------------------------------- the RPC worker


HOLDS = "import sys\nrpc.servers.connect(sys.argv[1:])\nopened(rpc=sys.argv[1:])\nprint('holds', flush=True)\nsys.stdin.read()"


def hold(path: Path, worker: RpcWorker) -> "subprocess.Popen[str]":
    """A process that has a model on this worker, until its input ends."""
    code = textwrap.dedent(IN_A_PROCESS).replace("PATH", repr(str(path))) + HOLDS
    return subprocess.Popen([sys.executable, "-c", code, worker.endpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_several_clients_at_the_same_time(worker: RpcWorker, path: Path) -> None:
    """llama.cpp's own server lets the second one wait for the end of the first."""
    with hold(path, worker) as one, hold(path, worker) as two:
        for each in (one, two):
            assert each.stdout is not None
            assert each.stdout.readline() == "holds\n"
        assert dial(worker.endpoint)
        for each in (one, two):
            each.communicate()
    assert dial(worker.endpoint)


def test_one_client_that_breaks_does_not_end_the_others(worker: RpcWorker, path: Path) -> None:
    with hold(path, worker) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        for answer in (b"\x00" * 64, b"GET / HTTP/1.1\r\n\r\n", b"\x0e" + b"\xff" * 40):
            with socket.create_connection(split_endpoint(worker.endpoint)) as connection:
                connection.sendall(answer)
        assert dial(worker.endpoint)
        assert holder.poll() is None
        holder.communicate()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: other machines can reach this address; a tunnel is safer, or add --allow-network"),
        (["--host", "localhost"], "--host localhost: must be an IPv4 address"),
        (["--host", "::1"], "--host ::1: must be an IPv4 address"),
        (["--port", "70000"], "--port must be between 0 and 65535"),
        (["--threads", "-1"], "--threads 0 or more"),
        (["--devcie", "x"], "did you mean --device"),
    ],
)
def test_what_the_rpc_worker_refuses(flags: list[str], message: str) -> None:
    done = subprocess.run([*FASTROUTER, "rpc-worker", *flags], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_device_that_does_not_exist_ends_it() -> None:
    done = subprocess.run([*FASTROUTER, "rpc-worker", "--port", "0", "--device", "CUDA9"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--device CUDA9: there is no such device; there are CPU" in done.stderr


def test_a_network_address_is_allowed_with_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(host: str, port: int) -> socket.socket:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr("fastrouter.cli.rpc_worker._listen", refuse)
    assert run_rpc_worker(["--host", "0.0.0.0", "--allow-network"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("WARNING: 0.0.0.0 can be reached from other machines.")
    assert said.endswith("fastrouter: 0.0.0.0:50052: Address already in use\n")
    assert run_rpc_worker(["--host", "127.0.0.1"]) == 1
    assert "WARNING" not in capsys.readouterr().err


def test_the_cache_keeps_tensors(tmp_path: Path, smollm2: Path) -> None:
    """Large ones: those of SmolLM2's vocabulary."""
    with rpc_worker("--cache", env={"LLAMA_CACHE": str(tmp_path)}) as caching:
        in_a_process(smollm2, "import sys\nrpc.servers.connect(sys.argv[1:])\nopened(rpc=sys.argv[1:])", caching.endpoint)
        kept = list((tmp_path / "rpc").iterdir())
        assert kept
        assert all(file.stat().st_size > 10 << 20 for file in kept)
