"""The list of what is inside an executable: valid CycloneDX, complete, with every licence's text, the same bytes twice."""

import gzip
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

from fastrouter.system.build import LLAMA_BUILD

pytest.importorskip("cyclonedx", reason="needs cyclonedx-python-lib")


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


def test_packages_of_debian_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for package in ("zlib1g", "libssl-dev", "libssl1.1"):
        docs = root / "usr/share/doc" / package
        docs.mkdir(parents=True)
        source = "zlib" if package == "zlib1g" else "openssl"
        (docs / "copyright").write_text(f"License: {source} licence\n\nLicense: GPL-2+\n\nThe text of {source}.\n")
        with gzip.open(docs / "changelog.Debian.gz", "wt") as changelog:
            changelog.write(f"{source} (1:1.2.11.dfsg-2+deb11u2) bullseye-security; urgency=high\n")
    packages = ("--root", str(root), "--debian", "zlib1g", "--debian", "libssl-dev", "--debian", "libssl1.1")
    distributions = ("--without", "MarkupSafe", "--without", "orjson", "jinja2", "orjson", "uvloop")
    result = run("--into", str(tmp_path), "--name", "fastrouter-demo", *packages, *distributions)
    assert (result.returncode, result.stderr) == (0, "")
    parts = {part["name"]: part for part in read(tmp_path, "fastrouter-demo")["components"]}
    assert {"Python", "uvloop", "jinja2", "zlib", "openssl"} <= parts.keys()
    assert {"markupsafe", "orjson"}.isdisjoint(parts)
    assert parts["zlib"]["purl"] == "pkg:deb/debian/zlib@1:1.2.11.dfsg-2%2Bdeb11u2?arch=source"
    assert parts["zlib"]["licenses"] == [{"license": {"name": "zlib licence, GPL-2+"}}]
    assert "\nThe text of openssl.\n" in (tmp_path / "THIRD-PARTY-NOTICES").read_text()
    result = run("--into", str(tmp_path), "--root", str(root), "--debian", "libnobody1", "uvloop")
    assert (result.returncode, result.stderr) == (1, "sbom: the text of the licence of libnobody1 is not here\n")
    assert run("--into", str(tmp_path), "no-such-thing").stderr == "sbom: no-such-thing is not installed here\n"


def test_what_pyinstaller_has_packed(tmp_path: Path) -> None:
    """The files decide, not the names: a module of ours may replace a distribution that is installed here."""
    uvloop, markupsafe = (str(metadata.distribution(name).locate_file(f"{name}/__init__.py")) for name in ("uvloop", "markupsafe"))
    modules = [("uvloop", uvloop, "PYMODULE"), ("orjson", str(tmp_path / "orjson.py"), "PYMODULE")]
    (tmp_path / "PYZ-00.toc").write_text(repr(("PYZ-00.pyz", modules)))
    (tmp_path / "COLLECT-00.toc").write_text(repr(([("markupsafe/x", markupsafe, "DATA"), ("link", "elsewhere", "SYMLINK")],)))
    result = run("--into", str(tmp_path), "--packed", str(tmp_path), "httptools")
    assert (result.returncode, result.stderr) == (0, "")
    inside = {part["name"] for part in read(tmp_path)["components"] if part.get("purl", "").startswith("pkg:pypi/")}
    assert inside == {"uvloop", "markupsafe", "httptools"}
    (tmp_path / "empty").mkdir()
    assert run("--into", str(tmp_path), "--packed", str(tmp_path / "empty")).stderr.startswith("sbom: PyInstaller has not worked in ")


def test_the_package_is_not_needed() -> None:
    """The packer's Python does not have it."""
    code = "import sys, inventory; sys.modules['fastrouter'] = None; print(inventory.llama_part().version)"
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY / "packaging", capture_output=True, text=True, timeout=60)
    assert found.stdout == f"b{LLAMA_BUILD}\n", found.stderr


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
