"""What goes into the packages: nothing is forgotten, and the same files make the same bytes. The builds themselves are `make wheel`."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from conftest import REPOSITORY
from setuptools import PackageFinder


@pytest.fixture(scope="module")
def wheel() -> ModuleType:
    sys.path.insert(0, str(REPOSITORY / "packaging"))
    try:
        import make_wheel as module  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    assert Path(module.__file__) == REPOSITORY / "packaging" / "make_wheel.py"
    return module


def test_every_folder_is_a_package_of_the_wheel() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    folders = {".".join(path.parent.relative_to(REPOSITORY).parts) for path in (REPOSITORY / "fastrouter").rglob("*.py")}
    assert set(PackageFinder.find(str(REPOSITORY), include=settings["include"])) == folders


def test_every_part_of_the_core_is_known_to_its_build() -> None:
    parts = {str(path.relative_to(REPOSITORY / "fastrouter")) for path in (REPOSITORY / "fastrouter").rglob("*.pxi")}
    assert set(re.findall(r'include "(.+)"', (REPOSITORY / "fastrouter" / "_core.pyx").read_text())) == parts
    assert 'glob("fastrouter/core/*.pxi")' in (REPOSITORY / "setup.py").read_text()


def test_the_sources_are_what_git_knows(wheel: ModuleType, tmp_path: Path) -> None:
    wheel.copy_sources(tmp_path / "copy")
    copied = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert {"setup.py", "pyproject.toml", "MANIFEST.in", "fastrouter/_core.pyx", "tests/conftest.py", "packaging/make_wheel.py"} <= copied
    assert not [name for name in copied if name.endswith((".so", ".pyc")) or name == "fastrouter/_core.c"]


def test_the_source_package_is_the_same_whoever_packs_it(wheel: ModuleType, tmp_path: Path) -> None:
    made = []
    for index, names in enumerate((["one", "two.sh"], ["two.sh", "one"])):
        folder = tmp_path / str(index)
        folder.mkdir()
        for name in names:
            (folder / name).write_text(name)
            os.utime(folder / name, (index, index))
        (folder / "two.sh").chmod(0o755)
        path = tmp_path / f"archive-{index}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name in names:
                archive.add(folder / name, f"package/{name}")
        wheel.normalise(path, 1_700_000_000)
        made.append(path)
    assert made[0].read_bytes() == made[1].read_bytes()
    with tarfile.open(made[0]) as archive:
        members = archive.getmembers()
        assert [(member.name, member.mtime, member.uid, oct(member.mode)) for member in members] == [
            ("package/one", 1_700_000_000, 0, "0o644"),
            ("package/two.sh", 1_700_000_000, 0, "0o755"),
        ]
        file = archive.extractfile("package/two.sh")
        assert file is not None
        assert file.read() == b"two.sh"


def test_the_wheel_carries_a_list_of_its_parts(wheel: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx", reason="needs cyclonedx-python-lib")
    parts_list = wheel.to_bom("fastrouter", wheel.vendored_parts()).encode()
    made = []
    for index in range(2):
        path = tmp_path / f"{index}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo("fastrouter/a.py"), "pass")
            archive.writestr(zipfile.ZipInfo("fastrouter-1.dist-info/RECORD"), "fastrouter/a.py,,\nfastrouter-1.dist-info/RECORD,,\n")
        wheel.add_parts_list(path, parts_list, 1_700_000_000)
        made.append(path)
    assert made[0].read_bytes() == made[1].read_bytes()
    with zipfile.ZipFile(made[0]) as archive:
        name = "fastrouter-1.dist-info/sboms/fastrouter.cdx.json"
        assert archive.namelist() == ["fastrouter/a.py", name, "fastrouter-1.dist-info/RECORD"]
        assert archive.read(name) == parts_list
        digest = base64.urlsafe_b64encode(hashlib.sha256(parts_list).digest()).decode().rstrip("=")
        lines = archive.read("fastrouter-1.dist-info/RECORD").decode().splitlines()
        assert lines == [f"{name},sha256={digest},{len(parts_list)}", "fastrouter/a.py,,", "fastrouter-1.dist-info/RECORD,,"]
    listed = {part["name"] for part in json.loads(parts_list)["components"]}
    scripts = json.loads((REPOSITORY / "fastrouter" / "web" / "vendor" / "vendor.json").read_text())
    assert listed == {script["name"] for script in scripts}
    assert listed


def test_the_pinned_tools_are_what_the_build_asks_for() -> None:
    wanted = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["build-system"]["requires"]
    pinned = re.findall(r"^(\w+)==[\d.]+$", (REPOSITORY / "packaging" / "build-constraints.txt").read_text(), re.M)
    assert {re.split(r"\W", requirement)[0] for requirement in wanted} == set(pinned)


def test_its_date_is_the_last_commits(wheel: ModuleType) -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this is no checkout")
    said = subprocess.run(["git", "-C", REPOSITORY, "log", "-1", "--format=%ct"], capture_output=True, text=True, check=True)
    assert wheel.source_date_epoch() == int(said.stdout)
