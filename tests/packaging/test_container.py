"""The container's recipe: all that it names exists, and its health check works with a real router. It is not built here."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY, StartRouter

from fastrouter.config.values import BY_ENV

TEXT = (REPOSITORY / "packaging" / "Dockerfile").read_text()


def test_what_it_names_exists() -> None:
    for names in re.findall(r"^COPY (?!--from)(.+) \S+$", TEXT, re.M):
        assert all((REPOSITORY / name).exists() for name in names.split()), names
    for name in re.findall(r"packaging/\w+\.py", TEXT):
        assert (REPOSITORY / name).is_file(), name
    variables = set(re.findall(r"LLAMA_ARG_\w+[A-Z]", TEXT))
    assert variables
    assert variables <= set(BY_ENV)


def test_the_wheel_is_built_with_what_was_copied_for_it(tmp_path: Path) -> None:
    [copied] = [names.split() for names in re.findall(r"^COPY (.*llama_wheel.*) packaging/$", TEXT, re.M)]
    for name in copied:
        shutil.copy(REPOSITORY / name, tmp_path)
    subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import llama_wheel"], check=True)


def test_it_runs_as_nobody_special() -> None:
    last = TEXT.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.M)
    assert "USER" not in last.partition("\nUSER ")[2]


def test_the_health_check(router: StartRouter) -> None:
    found = re.search(r"^HEALTHCHECK (?:.*\\\n)*\s+CMD (\[.*\])$", TEXT, re.M)
    assert found is not None
    _, *arguments = json.loads(found[1])
    port = str(router().port)

    def ask(port: str) -> int:
        environ = {**os.environ, "LLAMA_ARG_PORT": port}
        return subprocess.run([sys.executable, *arguments], env=environ, capture_output=True, timeout=60).returncode

    assert ask(port) == 0
    assert ask("1") == 1
