"""Processes of this program that the program starts: what they import, what they get, what a terminal's Ctrl-C does to them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import FASTROUTER, Router, StartRouter, descendants, environ_of, environment, eventually

from fastrouter.cli.bench import servers
from fastrouter.hub.job import COMMAND as HUB
from fastrouter.supervisor.workers.launch import FORK_SERVER_COMMAND
from fastrouter.system import reexec

SCRIPT = FASTROUTER if "FASTROUTER_PROGRAM" in os.environ else [str(Path(sys.executable).with_name("fastrouter"))]
NAMES = ("fastrouter", "json", "numpy", "orjson", "llama_cpp", "jinja2", "huggingface_hub", "signal", "sitecustomize")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder with files named like the modules that are imported."""
    folder = tmp_path / "trap"
    (folder / "fastrouter").mkdir(parents=True)
    for name in NAMES:
        path = folder / name / "__init__.py" if name == "fastrouter" else folder / f"{name}.py"
        path.write_text(f"open({str(folder / name)!r} + '.mark', 'w')\nraise ImportError('this is not the real {name}')\n")
    return folder


def marks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.mark"))


@pytest.mark.parametrize(
    ("command", "code"),
    [(FORK_SERVER_COMMAND, 2), (HUB, 1), ([*servers.command_of(None), "--version"], 0), ([*SCRIPT, "--version"], 0)],
    ids=["worker", "hub", "bench", "script"],
)
def test_the_working_directory_is_no_code(trap: Path, command: list[str], code: int) -> None:
    environ = reexec.environment_for_own(environment(trap.parent))
    done = subprocess.run(command, cwd=trap, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (done.returncode, marks(trap)) == (code, []), done.stderr
    assert "Traceback" not in done.stderr


def test_a_router_in_such_a_folder_answers(trap: Path, models: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        command = [*SCRIPT, "--port", "0", "--models-dir", str(models)]
        process = subprocess.Popen(command, cwd=trap, env=environment(tmp_path), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        found = eventually(lambda: re.search(r"is listening on http://127\.0\.0\.1:(\d+)", log.read_text()), "the first line")
        server = Router(process, int(found[1]), log, log, models)
        assert server.post("/completion", {"model": "tiny0", "prompt": "the", "n_predict": 2}).json["content"]
        assert marks(trap) == []
    finally:
        process.terminate()
        process.wait(60)


def test_no_worker_is_told_a_secret(models: Path, router: StartRouter) -> None:
    secrets = {"HF_TOKEN": "hf_s3cr3t", "LLAMA_API_KEY": "key-s3cr3t", "SOME_PASSWORD": "word-s3cr3t", "OPENAI_API_KEY": "other-s3cr3t"}
    server = router(models_dir=models, env={**secrets, "HARMLESS_KEYBOARD": "de"})
    body = {"model": "tiny0", "prompt": "the", "n_predict": 2}
    assert server.post("/completion", body, {"Authorization": "Bearer key-s3cr3t"}).status == 200
    environs = [told for pid in descendants(server.process.pid) if (told := environ_of(pid))]
    assert len(environs) >= 2  # the fork server and the model's worker, at least
    for told in environs:
        assert b"s3cr3t" not in told
        assert b"HARMLESS_KEYBOARD=de" in told
        assert b"GGML_NO_BACKTRACE=1" in told


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.05, 0.15])
def test_ctrl_c_while_a_fork_server_starts(delay_s: float) -> None:
    """A terminal sends it to the whole group; the parent decides about the child."""
    environ = reexec.environment_for_own(os.environ)
    child = reexec.start(FORK_SERVER_COMMAND, environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(delay_s)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert (child.returncode, b"Traceback" in said) == (2, False), said
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []), "ours comes as before"
