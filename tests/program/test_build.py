"""What --version prints, for a checkout, a package and an executable."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, StartRouter, environment

import fastrouter

LINES = re.compile(
    r"fastrouter 0\.1\.0 \((?P<origin>.*)\)\n"
    r"llama\.cpp b\d+ \(llama-cpp-python [\d.]+, (?P<build>portable build [0-9a-f]{12}|a build of its own)\)\n"
    r"Python 3\.\d+\.\d+\S*, Linux \w+\n"
)


def shown(cwd: Path, *program: str) -> re.Match[str]:
    env = {**environment(cwd), "PYTHONPATH": str(cwd)}
    result = subprocess.run([sys.executable, *program, "--version"], cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    match = LINES.fullmatch(result.stdout)
    assert match, result.stdout
    return match


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the package as pip would install it: no repository around it."""
    shutil.copytree(Path(fastrouter.__file__).parent, tmp_path / "fastrouter", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "fastrouter" / "build.json").unlink(missing_ok=True)
    return tmp_path


def test_a_checkout_names_its_commit() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this is no checkout")
    commit = subprocess.run(["git", "-C", REPOSITORY, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    origin = shown(REPOSITORY, "-m", "fastrouter")["origin"]
    assert origin.removesuffix("-dirty") == f"checkout, commit {commit[:12]}"


def test_a_package_says_what_its_record_says(package: Path) -> None:
    assert shown(package, "-m", "fastrouter")["origin"] == "package"
    (package / "fastrouter" / "build.json").write_text(json.dumps({"commit": "abc", "date": "2026-01-02", "llama_build": "0123456789ab"}))
    match = shown(package, "-m", "fastrouter")
    assert match.groups() == ("package, commit abc of 2026-01-02", "portable build 0123456789ab")
    (package / "fastrouter" / "build.json").write_text("{")
    assert shown(package, "-m", "fastrouter")["origin"] == "package"


def test_an_executable_says_that_it_is_one(package: Path) -> None:
    program = "import sys; sys.frozen = True; from fastrouter.cli import main; sys.exit(main())"
    assert shown(package, "-c", program)["origin"] == "executable"


def test_it_loads_nothing(tmp_path: Path) -> None:
    program = "import sys; from fastrouter.system.build import version_text; version_text(); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    assert {"llama_cpp", "numpy", "uvloop"}.isdisjoint(result.stdout.split())


def test_props_call_it_by_the_same_release(router: StartRouter) -> None:
    assert router().get("/props").json["build_info"] == "b11434-fastrouter-0.1.0"


def test_the_record_of_this_repository() -> None:
    made = subprocess.run(
        [sys.executable, "packaging/build_record.py", "0123456789ab"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    record = json.loads(made.stdout)
    assert record["llama_build"] == "0123456789ab"
    if (REPOSITORY / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?", record["commit"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
