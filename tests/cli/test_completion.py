"""Completion scripts, called by the shells themselves; model names come from a real router."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY, Router, StartRouter, environment
from tiny_models import make_llama

from fastrouter.cli.completion import all_verbs
from fastrouter.cli.shells import SCRIPTS
from fastrouter.cli.verb_names import ALL_VERBS, DOWNLOAD_VERBS, VERBS
from fastrouter.config.config import read_arguments
from fastrouter.config.values import BY_NAME
from fastrouter.errors import ConfigError

Complete = Callable[[str], list[str]]
NAMES = ["tiny0", "user/repo:Q4_K_M", "zero$HOME"]
ASK_BASH = """
source "$1"
COMP_LINE=$2 COMP_POINT=${#2} COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
COMPREPLY=()
_fastrouter
((${#COMPREPLY[@]})) && printf '%s\\n' "${COMPREPLY[@]}"
exit 0
"""
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
needs_fish = pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("named")
    make_llama(folder / "tiny0.gguf")
    presets = folder / "p.ini"
    presets.write_text(f"[user/repo:Q4_K_M]\nmodel = {folder / 'tiny0.gguf'}\n[zero$HOME]\nmodel = {folder / 'tiny0.gguf'}\n")
    return module_router("--models-preset", str(presets), models_dir=folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, server: Router) -> Path:
    """A folder with the program, its scripts, and files to complete; shells run in it."""
    folder = tmp_path_factory.mktemp("place")
    program = folder / "fastrouter"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m fastrouter "$@"\n')
    program.chmod(0o755)
    for shell in SCRIPTS:
        made = subprocess.run([program, "completion", shell], capture_output=True, text=True, check=True, timeout=60)
        (folder / f"script.{shell}").write_text(made.stdout)
    (folder / "models").mkdir()
    (folder / "models.txt").touch()
    return folder


def ask(place: Path, server: Router, *command: str) -> list[str]:
    env = environment(place, FASTROUTER_URL=server.url, PATH=f"{place}:{os.environ['PATH']}", XDG_CONFIG_HOME=str(place))
    result = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, ""), result
    return result.stdout.splitlines()


@pytest.fixture
def bash(place: Path, server: Router) -> Complete:
    return lambda line: sorted(ask(place, server, "bash", "-c", ASK_BASH, "bash", f"{place}/script.bash", line))


@pytest.fixture
def fish(place: Path, server: Router) -> Complete:
    def complete(line: str) -> list[str]:
        program = f"source {place}/script.fish; complete -C {line!r}"
        return sorted(answer.partition("\t")[0] for answer in ask(place, server, "fish", "--no-config", "-c", program))

    return complete


@needs_bash
def test_bash(bash: Complete, server: Router) -> None:
    assert set(VERBS) < set(bash("fastrouter "))
    assert bash("fastrouter un") == ["unload"]
    assert bash("fastrouter --models-d") == ["--models-dir"]
    assert bash("fastrouter --models-dir mod") == ["models"]
    assert bash("fastrouter --models-dir=mod") == ["models"]
    assert bash("fastrouter --models-preset mod") == ["models", "models.txt"]
    assert bash("fastrouter -c 512 --log-format ") == ["json", "text"]
    assert bash("fastrouter --ctx-size ") == []
    assert bash("fastrouter chat --s") == ["--seed", "--system"]
    assert bash("fastrouter preset ch") == ["check"]
    assert bash("fastrouter completion ") == ["bash", "fish", "zsh"]


@needs_bash
def test_bash_asks_the_router(bash: Complete, server: Router) -> None:
    assert bash("fastrouter load ") == ["tiny0", "user/repo:Q4_K_M", r"zero\$HOME"]
    assert bash("fastrouter chat --system hello user/repo:Q") == ["Q4_K_M"]  # bash replaces what follows the colon
    assert bash("fastrouter unload --url http://127.0.0.1:1 ") == []
    assert bash(f"fastrouter unload --url {server.url} ti") == ["tiny0"]


@needs_fish
def test_fish(fish: Complete) -> None:
    assert set(VERBS) < set(fish("fastrouter "))
    assert fish("fastrouter un") == ["unload"]
    assert "--models-dir" in fish("fastrouter --models-d")
    assert fish("fastrouter --log-format ") == ["json", "text"]
    assert "--models-dir" not in fish("fastrouter list --")
    assert fish("fastrouter load ") == NAMES
    assert fish("fastrouter load --url http://127.0.0.1:1 ") == []


@pytest.mark.parametrize("shell", SCRIPTS)
def test_syntax(place: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    result = subprocess.run([shell, "-n", place / f"script.{shell}"], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


def test_llama_servers_flag_prints_the_script_of_bash(place: Path) -> None:
    made = subprocess.run([place / "fastrouter", "--completion-bash"], capture_output=True, text=True, check=True, timeout=60)
    assert made.stdout == (place / "script.bash").read_text()


def test_names_of_a_router_that_is_not_there(place: Path, tmp_path: Path) -> None:
    command = [place / "fastrouter", "completion", "models", "--url", "http://127.0.0.1:1"]
    result = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (1, "")


def test_a_shell_it_does_not_know(place: Path) -> None:
    result = subprocess.run([place / "fastrouter", "completion", "tcsh"], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", "usage: fastrouter completion bash|zsh|fish\n")


# ---------------------------------------------------------------- complete, and no wrong names


def test_every_verb_is_there() -> None:
    text = (REPOSITORY / "fastrouter" / "cli" / "__init__.py").read_text()
    special = set(re.findall(r'arguments\[0\] == "([\w-]+)"', text))
    assert {verb.name for verb in all_verbs()} == {"", *VERBS, *DOWNLOAD_VERBS, *special} == {"", *ALL_VERBS}


def test_every_flag_is_accepted() -> None:
    serve, *_ = all_verbs()
    names = {name for option in serve.options for name in option.names}
    assert names - set(BY_NAME) == {"-h", "--help", "--version"}
    for option in serve.options:
        if option.takes is None or option.names[0] not in BY_NAME:
            continue
        for word in option.takes:
            if not word.startswith("<"):
                read_arguments([option.names[0], word])
        if option.takes and not option.takes[0].startswith("<") and "on" not in option.takes:
            with pytest.raises(ConfigError):
                read_arguments([option.names[0], "no-such-word"])


def test_a_name_takes_the_same_everywhere() -> None:
    """The scripts look at the word before it, whatever the verb is."""
    seen: dict[str, object] = {}
    for verb in all_verbs():
        for option in verb.options:
            for name in option.names:
                assert seen.setdefault(name, option.takes) == option.takes, (verb, name)
