"""What is inside an executable, with licences: Python, its distributions, llama.cpp, vendored JavaScript, libraries of the system.

Everything is read from what is installed here. Invariant: a part whose licence nobody states, or whose text is missing, is an error.
"""

import base64
import hashlib
import importlib.util
import json
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
VENDORED = HERE.parent / "fastrouter" / "web" / "vendor"
BINDING = "llama-cpp-python"
SPDX = {  # what metadata says -> what it means
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
}


@dataclass(frozen=True)
class Part:
    name: str
    version: str
    kind: str  # library, platform, machine-learning-model
    licence: str  # an SPDX expression, or in words
    texts: tuple[str, ...]  # of the licences
    purl: str  # pkg:type/namespace/name@version
    source: str = ""  # where it was fetched
    hashes: dict[str, str] = field(default_factory=dict)  # hexadecimal, by algorithm
    needs: tuple[str, ...] = ()  # names of other parts


class Unlicensed(Exception):
    """A part may not be given away as it is."""


def collect(distributions: Iterable[str], folder: Path | None = None) -> list[Part]:
    """Parts by name. `folder`: an unpacked executable, for the libraries of the system inside it. Raises Unlicensed."""
    names = sorted({str(canonicalize_name(name)) for name in distributions})
    parts = [python_part(), *(distribution_part(name, names) for name in names)]
    if BINDING in names:
        parts.append(llama_part())
    parts += vendored_parts()
    if folder is not None:
        parts += system_parts(folder, names)
    return sorted(parts, key=lambda part: (part.name.lower(), part.version))


def closure(names: Iterable[str]) -> set[str]:
    """The distributions and all they need here, without extras."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = str(canonicalize_name(waiting.pop()))
        if name not in found:
            found.add(name)
            waiting += _needs_of(metadata.distribution(name))
    return found


def _needs_of(distribution: metadata.Distribution) -> list[str]:
    required = [Requirement(line) for line in distribution.requires or []]
    return [item.name for item in required if item.marker is None or item.marker.evaluate({"extra": ""})]


# ---------------------------------------------------------------- Python and its distributions


def python_part() -> Part:
    text = Path(sysconfig.get_path("stdlib"), "LICENSE.txt")
    if not text.is_file():
        text = next(Path("/usr/share/doc").glob(f"python{sys.version_info.major}.{sys.version_info.minor}*/copyright"), text)
    version = platform.python_version()
    return Part("Python", version, "platform", "PSF-2.0", _read([text], "Python"), f"pkg:generic/python@{version}")


def distribution_part(name: str, all_names: Iterable[str]) -> Part:
    distribution = metadata.distribution(name)
    files = [Path(str(distribution.locate_file(file))) for file in distribution.files or [] if _is_licence(str(file))]
    kind = "machine-learning-model" if any(file.name.endswith(".gguf") for file in distribution.files or []) else "library"
    needs = {str(canonicalize_name(needed)) for needed in _needs_of(distribution)} & set(all_names)
    if name == BINDING:
        needs.add("llama.cpp")
    version = distribution.version
    return Part(name, version, kind, licence_of(distribution), _read(files, name), f"pkg:pypi/{name}@{version}", needs=tuple(sorted(needs)))


def _is_licence(path: str) -> bool:
    name = path.partition(".dist-info/")[2]
    return bool(name) and (name.startswith("licenses/") or re.match(r"(licen[cs]e|copying|notice)", name, re.IGNORECASE) is not None)


def licence_of(distribution: metadata.Distribution) -> str:
    said = distribution.metadata
    classified = [line.rpartition(" :: ")[2] for line in said.get_all("Classifier") or [] if line.startswith("License :: ")]
    words = [said.get("License-Expression"), said.get("License"), *classified]
    found = next((word.strip() for word in words if word and word.strip() and len(word) < 100), None)
    if found is None:
        raise Unlicensed(f"{said['Name']} {distribution.version} does not say under which licence it is")
    return SPDX.get(found, found)


def _read(files: Iterable[Path], name: str) -> tuple[str, ...]:
    texts = tuple(dict.fromkeys(file.read_text(errors="replace").strip() for file in sorted(files) if file.is_file()))
    if not texts:
        raise Unlicensed(f"the text of the licence of {name} is not here")
    return texts


# ---------------------------------------------------------------- what is inside of others


def llama_part() -> Part:
    spec = importlib.util.spec_from_file_location("build", HERE.parent / "fastrouter" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    version = f"b{build.LLAMA_BUILD}"
    text = _read([HERE / "licences" / "llama.cpp.txt"], "llama.cpp")
    return Part("llama.cpp", version, "library", "MIT", text, f"pkg:github/ggml-org/llama.cpp@{version}")


def vendored_parts() -> list[Part]:
    """JavaScript of the web page, where there is one."""
    listed = VENDORED / "vendor.json"
    return [_vendored_part(entry) for entry in json.loads(listed.read_text())] if listed.is_file() else []


def _vendored_part(entry: dict[str, object]) -> Part:
    name, version, files = str(entry["name"]), str(entry["version"]), entry["files"]
    assert isinstance(files, dict)
    texts = _read([VENDORED / file for file in files if "LICEN" in file.upper()], name)
    algorithm, _, digest = str(entry.get("integrity", "")).partition("-")
    hashes = {algorithm: base64.b64decode(digest).hex()} if digest else {}
    purl = f"pkg:npm/{name.replace('@', '%40')}@{version}"
    return Part(name, version, "library", str(entry["licence"]), texts, purl, str(entry.get("source", "")), hashes)


def system_parts(folder: Path, distributions: Iterable[str]) -> list[Part]:
    """Shared libraries that came from the system, by the packages that own them here."""
    known = {Path(str(file)).name for name in distributions for file in metadata.distribution(name).files or []}
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("lib*.so*")):
        if path.is_file() and not path.is_symlink() and path.name not in known and not path.name.startswith("libpython"):
            found.setdefault(_owner(path.name), []).append(path)
    return [_system_part(package, paths) for package, paths in sorted(found.items())]


def _owner(library: str) -> str:
    said = subprocess.run(["dpkg-query", "--search", f"*/{library}"], capture_output=True, text=True).stdout
    packages = sorted({line.partition(":")[0] for line in said.splitlines() if not line.startswith("diversion")})
    if not packages:
        raise Unlicensed(f"{library} belongs to no package of this system")
    return packages[0]


def _system_part(package: str, paths: list[Path]) -> Part:
    asked = ["dpkg-query", "--show", "--showformat=${Version}\n", package]
    version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    texts = _read([Path("/usr/share/doc", package, "copyright")], package)
    names = re.findall(r"^License: *(\S.*)$", texts[0], re.MULTILINE)
    licence = ", ".join(dict.fromkeys(name.strip() for name in names)) or "see the text"
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    return Part(package, version, "library", licence, texts, f"pkg:deb/debian/{package}@{version}", hashes={"sha256": digest})
