"""A real worker through its wire and ring: both ways to start one, the likely model opened early, the safe mode, a broken file."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from worker_talk import OPTIONS, Answer, Talk, end, run

from fastrouter.errors import from_wire
from fastrouter.ipc.messages import Call, Failed, Generate, Load, Prime, Ready, Reply, Share, Submit
from fastrouter.supervisor.workers.fork_server import ForkServer
from fastrouter.worker.llama import cpu_variants
from fastrouter.worker.llama.binding import backend_folder

EXECUTED = [sys.executable, str(Path(__file__).parent.parent / "support" / "exec_fork_server.py")]
CURIOUS = [sys.executable, str(Path(__file__).parent.parent / "support" / "curious_fork_server.py")]


@pytest.mark.parametrize("is_confined", [True, False])
def test_a_confined_worker_reaches_its_files_only(models: Path, is_confined: bool) -> None:
    async def scenario(fork_server: ForkServer) -> None:
        talk = Talk(fork_server.spawn())
        path, other = str(models / "tiny0.gguf"), str(models / "tiny1.gguf")
        talk.process.send(Prime(1 << 20, other, OPTIONS))
        talk.process.send(Load("tiny0", path, OPTIONS, files=[path], is_confined=is_confined))
        await talk.hear(Ready)
        assert (await talk.generate(prompt="the cat"))[0]
        talk.process.send(Call(1, "props", {"paths": [path, other, "/etc/passwd", f"/proc/{os.getpid()}/environ"]}))
        reached = (await talk.hear(Reply)).result
        assert reached == {"files": [True, *[not is_confined] * 3], "network": not is_confined}
        await end(talk)

    run(scenario, CURIOUS)


@pytest.mark.parametrize("command", [None, EXECUTED], ids=["forked", "executed"])
def test_a_worker_loads_and_answers(models: Path, command: list[str] | None) -> None:
    async def scenario(fork_server: ForkServer) -> None:
        talk = Talk(fork_server.spawn())
        talk.process.send(Load("tiny0", str(models / "tiny0.gguf"), OPTIONS))
        ready = await talk.hear(Ready)
        assert (ready.meta["n_ctx"], ready.meta["total_slots"]) == (256, 2)
        text, finish = await talk.generate(prompt="the cat", max_tokens=12)
        assert (bool(text), finish["completion_tokens"], finish["stop_type"]) == (True, 12, "limit")
        talk.process.send(Share(2))
        again, finish = await talk.generate(prompt="the cat", max_tokens=12)
        assert (again, finish["cached_tokens"] > 0) == (text, True)
        talk.process.send(Call(7, "tokenize", {"content": "the cat"}))
        reply = await talk.hear(Reply)
        assert (reply.request_id, reply.error, len(reply.result["tokens"])) == (7, None, 2)
        talk.process.send(Call(8, "nonsense", {}))
        assert "unknown call" in from_wire((await talk.hear(Reply)).error).message
        await end(talk)

    run(scenario, command)


def test_the_right_guess_and_the_wrong_one_answer_alike(models: Path) -> None:
    async def scenario(fork_server: ForkServer) -> None:
        texts = []
        for guess in (None, "tiny1.gguf", "tiny0.gguf", "missing.gguf"):
            talk = Talk(fork_server.spawn())
            if guess is not None:
                talk.process.send(Prime(1 << 20, str(models / guess), OPTIONS))
                await asyncio.sleep(0.3)  # it opens the guess when a core is free; the answer does not show whether it has
            talk.process.send(Load("tiny1", str(models / "tiny1.gguf"), OPTIONS))
            await talk.hear(Ready)
            texts.append((await talk.generate(prompt="one two"))[0])
            await asyncio.sleep(2.2 if guess == "tiny0.gguf" else 0)  # long enough to close the wrong guess
            texts.append((await talk.generate(prompt="one two"))[0])
            await end(talk)
        assert len(set(texts)) == 1

    run(scenario)


def test_the_safe_mode_works(models: Path) -> None:
    async def scenario(fork_server: ForkServer) -> None:
        talk = Talk(fork_server.spawn())
        talk.process.send(Load("tiny0", str(models / "tiny0.gguf"), OPTIONS, safe_mode=True))
        assert (await talk.hear(Ready)).meta["cpu"]["is_repacking"] is False
        assert (await talk.generate(prompt="the"))[0]
        await end(talk)

    run(scenario)


def test_without_the_best_cpu_variant_it_works(models: Path) -> None:
    names = [path.stem.removeprefix("libggml-cpu-") for path in cpu_variants.runnable(backend_folder())]
    if len(names) < 2:
        pytest.skip("llama.cpp has one build for this CPU only")

    async def scenario(fork_server: ForkServer) -> None:
        for num_dropped in (1, 99):
            used = names[min(num_dropped, len(names) - 1)]
            talk = Talk(fork_server.spawn())
            talk.process.send(Prime(1 << 20, str(models / "tiny0.gguf"), OPTIONS))
            await asyncio.sleep(0.3)
            talk.process.send(Load("tiny0", str(models / "tiny0.gguf"), OPTIONS, safe_mode=True, num_dropped=num_dropped))
            assert (await talk.hear(Ready)).meta["cpu"]["variant"] == used
            mapped = Path(f"/proc/{talk.process.pid}/maps").read_text()
            assert f"libggml-cpu-{used}.so" in mapped
            assert (await talk.generate(prompt="the"))[0]
            await end(talk)

    run(scenario)


def test_a_broken_file_fails_in_words(tmp_path: Path) -> None:
    async def scenario(fork_server: ForkServer) -> None:
        (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
        talk = Talk(fork_server.spawn())
        talk.process.send(Load("broken", str(tmp_path / "broken.gguf"), OPTIONS))
        assert (await talk.hear(Failed)).error
        await talk.ended.wait()
        assert talk.process.exit_code == 1

    run(scenario)


def test_messages_that_follow_the_load_are_not_lost(models: Path) -> None:
    async def scenario(fork_server: ForkServer) -> None:
        talk = Talk(fork_server.spawn())
        answer = Answer()
        talk.process.send(Load("tiny0", str(models / "tiny0.gguf"), OPTIONS))
        talk.process.send(Submit(talk.process.ring.attach(answer), Generate(prompt="the", max_tokens=3)))
        assert (await answer.end)["completion_tokens"] == 3
        await end(talk)

    run(scenario)


def test_signals_for_the_router_do_not_end_a_worker(models: Path) -> None:
    """A whole process group may get SIGTERM or SIGINT; the router lets its workers finish, then ends them."""

    async def scenario(fork_server: ForkServer) -> None:
        talk = Talk(fork_server.spawn())
        talk.process.send(Load("tiny0", str(models / "tiny0.gguf"), OPTIONS))
        await talk.hear(Ready)
        assert talk.process.pid is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(talk.process.pid, number)
        assert (await talk.generate(prompt="the cat", max_tokens=50))[1]["completion_tokens"] == 50
        await end(talk)
        assert talk.process.exit_code == -signal.SIGKILL

    run(scenario)


def test_a_worker_without_its_router_ends_by_itself(models: Path) -> None:
    async def scenario(fork_server: ForkServer) -> None:
        talk = Talk(fork_server.spawn())
        talk.process.send(Load("tiny0", str(models / "tiny0.gguf"), OPTIONS))
        await talk.hear(Ready)
        assert talk.process.pid is not None
        pid = talk.process.pid
        talk.process.close()
        assert os.waitstatus_to_exitcode(await asyncio.to_thread(lambda: os.waitpid(pid, 0)[1])) == 0

    run(scenario)


def test_a_fork_server_imports_only_what_workers_use() -> None:
    """Each module more makes the first load after a start wait longer. Afterwards llama_cpp can be imported as usual."""
    code = """
import sys
from fastrouter.worker import fork_server
print(*sys.modules)
import llama_cpp
assert llama_cpp.Llama and llama_cpp.llama_backend_init is sys.modules["fastrouter.worker.llama.binding"].api.llama_backend_init
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = set(done.stdout.split())
    assert "llama_cpp.llama_cpp" in found
    assert {"asyncio", "ssl", "diskcache", "llama_cpp", "llama_cpp.llama", "llguidance"}.isdisjoint(found)
