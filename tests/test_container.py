"""The container's recipe: what it names exists, and its health check works against a real router. It is not built here."""

import json
import os
import re
import subprocess
import sys

from conftest import REPOSITORY, StartRouter

from fastrouter.flags import BY_ENV

TEXT = (REPOSITORY / "packaging" / "Dockerfile").read_text()


def test_what_it_names_exists() -> None:
    for name in re.findall(r"^COPY (?!--from)(\S+) ", TEXT, re.M):
        assert (REPOSITORY / name).exists(), name
    for name in re.findall(r"packaging/\w+\.py", TEXT):
        assert (REPOSITORY / name).is_file(), name
    variables = set(re.findall(r"LLAMA_ARG_\w+[A-Z]", TEXT))
    assert variables
    assert variables <= set(BY_ENV)


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
