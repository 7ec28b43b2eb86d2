"""`fastrouter bench`: real servers, tiny models; what it prints, what it refuses, and that it leaves nothing behind."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DEADLINE_S, FASTROUTER, descendants, environment, eventually, is_alive
from tiny_models import make_llama

Run = Callable[..., "subprocess.CompletedProcess[str]"]
MEASURED = {
    "cold switch to tiny0",
    "cold switch to tiny1",
    "evict-and-switch to tiny0",
    "evict-and-switch to tiny1",
    "hot, staying on tiny0",
    "hot, alternating with tiny1",
    "start to /health",
    "start to the first token of tiny0",
}


def command(*arguments: str) -> list[str]:
    return [*FASTROUTER, "bench", *arguments]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        environ = environment(tmp_path, TMPDIR=str(tmp_path), **env)
        return subprocess.run(command(*arguments), env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=100)

    return run


@pytest.fixture
def rival(tmp_path: Path) -> Path:
    """For the bench, llama-server is a program with flags. This one is fastrouter under another name."""
    path = tmp_path / "llama-server"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m fastrouter "$@"\n')
    path.chmod(0o755)
    return path


def test_files(run: Run, models: Path, tmp_path: Path) -> None:
    files = [str(models / f"tiny{index}.gguf") for index in range(2)]
    result = run(*files, "--rounds", "1", "-c", "512", "--json")
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert (said["models"], said["flags"], said["rounds"], said["rival"]) == (["tiny0", "tiny1"], ["-c", "512"], 1, None)
    [samples] = said["samples_s"].values()
    [back] = [measured for measured in samples if measured.startswith("back to ")]
    [reading] = [measured for measured in samples if measured.startswith("reading these ")]
    assert set(samples) == {*MEASURED, back, reading}
    assert back.removeprefix("back to ") == reading.removeprefix("reading these ")
    assert back.endswith("0 tokens on tiny0")
    assert all(0 < sample < DEADLINE_S for values in samples.values() for sample in values)
    assert not list(tmp_path.glob("fastrouter-bench-*"))


def test_the_models_a_router_finds_against_a_rival(run: Run, rival: Path, tmp_path: Path) -> None:
    """Also: its client can reach it whatever the user's settings are; one model has no other to alternate with."""
    folder = tmp_path / "one"
    folder.mkdir()
    make_llama(folder / "only.gguf")
    closed = {"LLAMA_API_KEY": "secret", "LLAMA_ARG_PORT": "1", "LLAMA_ARG_MODELS_MAX": "1"}
    result = run("--rounds=1", "--rival", str(rival), LLAMA_ARG_MODELS_DIR=str(folder), **closed)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1].startswith("fastrouter 0.1.0 (")
    head, *rows = [[cell for cell in line.split("  ") if cell.strip()] for line in result.stdout.splitlines()[7:]]
    assert [cell.strip() for cell in head] == ["N", "fastrouter p50", "p95", "p99", "llama-server p50", "p95", "p99", "RATIO"]
    assert sorted(row[0] for row in rows) == [
        "cold switch to only",
        "hot, staying on only",
        "start to /health",
        "start to the first token of only",
    ]
    assert all(len(row) == 9 and row[-1].endswith("x") for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "80"), "--port: bench sets this itself"),
        (("-m", "x.gguf"), "name models without a flag"),
        (("--no-such-flag",), "unknown flag --no-such-flag"),
        (("-c",), "-c: a value is missing"),
        (("-c", "many"), "-c many: must be a whole number"),
        (("--rounds", "0"), "--rounds 0: must be a whole number, 1 or more"),
        (("--rival", "/no/such"), "--rival /no/such: there is no such program"),
        (("nobody", "--rounds", "1"), "does not list the model nobody"),
        (("--rounds", "1"), "there is no model that could be measured"),
    ],
)
def test_what_makes_no_sense(run: Run, arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (1, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("fastrouter: "), result.stderr
    assert words in last
    assert "round 1" not in result.stderr, "found before anything is measured"


def test_a_rival_that_ends_at_once(run: Run, models: Path, rival: Path) -> None:
    rival.write_text("#!/bin/sh\necho I will not; exit 3\n")
    result = run(str(models / "tiny0.gguf"), "--rounds", "1", "--rival", str(rival))
    assert (result.returncode, result.stderr.splitlines()[-1]) == (1, "fastrouter: llama-server ended with exit code 3: I will not")


def test_a_model_that_does_not_load(run: Run, tmp_path: Path) -> None:
    path = make_llama(tmp_path / "cut.gguf")
    path.write_bytes(path.read_bytes()[:-100_000])
    result = run(str(path), "--rounds", "1")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("fastrouter: the answer is incomplete: model name=cut failed to load: "), result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_its_router_ends_with_it(models: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    environ = environment(tmp_path, TMPDIR=str(tmp_path))
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command("--models-dir", str(models)), env=environ, stdout=quiet, stderr=quiet) as process:
        try:
            children: list[int] = eventually(lambda: len(found := descendants(process.pid)) > 2 and found, "a router and its workers")
            process.send_signal(number)
            assert process.wait(DEADLINE_S) == code
        finally:
            process.kill()
    eventually(lambda: not any(map(is_alive, children)), "the end of all of them")
    assert len(list(tmp_path.glob("fastrouter-bench-*"))) == (1 if number == signal.SIGKILL else 0)
