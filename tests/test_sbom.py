"""The list of what is inside an executable: valid CycloneDX, complete, with every licence's text, the same bytes twice."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import REPOSITORY

pytest.importorskip("cyclonedx", reason="needs cyclonedx-python-lib")
SYSTEM_LIBRARIES = sorted(Path("/usr/lib").glob("*-linux-gnu/libz.so.1.*")) + sorted(Path("/lib").glob("*-linux-gnu/libz.so.1.*"))


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", str(REPOSITORY / "packaging" / "sbom.py"), *arguments]
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)


def read(folder: Path, name: str = "fastrouter") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.cdx.json").read_text())
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    (folder / "fastrouter").write_bytes(b"an executable")
    result = run("--into", str(folder))
    assert (result.returncode, result.stderr) == (0, "")
    return folder


@pytest.fixture
def inventory() -> ModuleType:
    sys.path.insert(0, str(REPOSITORY / "packaging"))
    try:
        import inventory  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    assert isinstance(inventory, ModuleType)
    return inventory


def test_it_follows_the_schema(made: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str((made / "fastrouter.cdx.json").read_text())
    assert error is None, str(error)[:500]
    assert read(made)["specVersion"] == "1.6"


def test_all_that_fastrouter_needs_is_there(made: Path) -> None:
    parts = {part["name"]: part for part in read(made)["components"]}
    assert {"Python", "llama.cpp", "llama-cpp-python", "numpy", "uvloop", "httptools", "orjson", "jinja2", "markupsafe"} <= parts.keys()
    assert {"pytest", "ruff", "fastrouter"}.isdisjoint(parts)
    assert parts["uvloop"]["version"] == metadata.version("uvloop")
    assert parts["llama.cpp"]["purl"] == "pkg:github/ggml-org/llama.cpp@b11434"
    assert all(part["licenses"] and part["purl"] for part in parts.values())
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in read(made)["dependencies"]}
    assert len(needs["fastrouter"]) == len(parts)
    [markupsafe] = [ref for ref in needs if ref.startswith("markupsafe@")]
    [jinja2] = [ref for ref in needs if ref.startswith("jinja2@")]
    assert needs[jinja2] == [markupsafe]


def test_every_licence_is_there_in_full(made: Path) -> None:
    text = (made / "THIRD-PARTY-NOTICES").read_text()
    for part in read(made)["components"]:
        assert f"\n{part['name']} {part['version']} (" in text
    assert "Copyright (c) 2023-2026 The ggml authors" in text
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in text


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_the_sums_are_right(made: Path) -> None:
    checked = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=made, capture_output=True, text=True, timeout=60)
    assert checked.stdout.splitlines() == ["THIRD-PARTY-NOTICES: OK", "fastrouter: OK", "fastrouter.cdx.json: OK"]


def test_the_same_parts_give_the_same_bytes(made: Path, tmp_path: Path) -> None:
    assert run("--into", str(tmp_path)).returncode == 0
    for name in ("fastrouter.cdx.json", "THIRD-PARTY-NOTICES"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


@pytest.mark.skipif(shutil.which("dpkg-query") is None or not SYSTEM_LIBRARIES, reason="needs Debian's packages, and libz")
def test_libraries_of_the_system_inside(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    shutil.copy(SYSTEM_LIBRARIES[0], inside)
    result = run("--into", str(tmp_path), "--name", "fastrouter-demo", "--inside", str(inside), "uvloop", "orjson")
    assert (result.returncode, result.stderr) == (0, "")
    parts = {part["name"]: part for part in read(tmp_path, "fastrouter-demo")["components"]}
    assert parts.keys() - {"marked", "dompurify"} >= {"Python", "uvloop", "orjson", "zlib1g"}
    assert parts["zlib1g"]["purl"].startswith("pkg:deb/debian/zlib1g@")
    assert [digest["alg"] for digest in parts["zlib1g"]["hashes"]] == ["SHA-256"]
    (inside / "libnobody-knows.so.1").touch()
    result = run("--into", str(tmp_path), "--inside", str(inside), "uvloop")
    assert (result.returncode, result.stderr) == (1, "sbom: libnobody-knows.so.1 belongs to no package of this system\n")


def test_javascript_of_the_page(inventory: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "VENDORED", tmp_path)
    assert inventory.vendored_parts() == []
    entry = {
        "name": "@scope/part", "version": "1.2.3", "licence": "MPL-2.0 OR Apache-2.0", "source": "https://registry.npmjs.org/x.tgz",
        "integrity": "sha512-AAEC", "files": {"part.js": "sha512-", "LICENSE-part.txt": "sha512-"},
    }  # fmt: skip
    (tmp_path / "vendor.json").write_text(json.dumps([entry]))
    with pytest.raises(inventory.Unlicensed, match="the text of the licence of @scope/part is not here"):
        inventory.vendored_parts()
    (tmp_path / "LICENSE-part.txt").write_text("Do what you like.\n")
    [part] = inventory.vendored_parts()
    assert (part.purl, part.texts, part.hashes) == ("pkg:npm/%40scope/part@1.2.3", ("Do what you like.",), {"sha512": "000102"})
