"""What is inside an executable, with licences: Python, its distributions, llama.cpp, vendored JavaScript, packages of Debian.

All of it is read from what is installed here. Invariant: a part without a stated licence, or without its text, is an error.
"""

import ast
import base64
import gzip
import json
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
VENDORED = HERE.parent / "fastrouter" / "web" / "vendor"
OWN = "fastrouter"
BINDING = "llama-cpp-python"
SPDX = {  # words of the metadata -> their meaning
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
    source: str = ""  # where it was downloaded
    hashes: dict[str, str] = field(default_factory=dict)  # hexadecimal, by algorithm
    needs: tuple[str, ...] = ()  # names of other parts


class Unlicensed(Exception):
    """A part may not be distributed in this state."""


def collect(distributions: Iterable[str], packages: Iterable[str] = (), root: Path = Path("/")) -> list[Part]:
    """Parts by name. `packages`: of the Debian system in `root`, whose libraries are inside too. Raises Unlicensed."""
    names = sorted({str(canonicalize_name(name)) for name in distributions})
    parts = [python_part(root), *(distribution_part(name, names) for name in names)]
    if BINDING in names:
        parts.append(llama_part())
    parts += vendored_parts()
    parts += {part.name: part for part in (debian_part(package, root / "usr/share/doc") for package in packages)}.values()
    return sorted(parts, key=lambda part: (part.name.lower(), part.version))


def closure(names: Iterable[str], without: Iterable[str] = ()) -> set[str]:
    """The distributions and all they need, without extras, if it is installed here: nothing else can be inside. Raises Unlicensed."""
    found: set[str] = set()
    names = [str(canonicalize_name(name)) for name in names]
    left_out = {str(canonicalize_name(name)) for name in without}
    waiting = [*names]
    while waiting:
        name = str(canonicalize_name(waiting.pop()))
        if name in found | left_out:
            continue
        try:
            waiting += _needs_of(metadata.distribution(name))
        except metadata.PackageNotFoundError:
            if name in names:
                raise Unlicensed(f"{name} is not installed here") from None
            left_out.add(name)
        else:
            found.add(name)
    return found


def packed(work: Path) -> set[str]:
    """The distributions of which PyInstaller has packed at least one file, according to its notes in its work folder."""
    sources: set[Path] = set()
    for noted in [path for kind in ("PYZ", "PKG", "COLLECT") for path in work.glob(f"{kind}-*.toc")]:
        sources |= {Path(entry[1]) for entry in _entries(ast.literal_eval(noted.read_text()))}
    owners = {
        Path(str(distribution.locate_file(file))): str(canonicalize_name(distribution.name))
        for distribution in metadata.distributions()
        for file in distribution.files or []
    }
    found = {owners[source] for source in sources if source in owners}
    if not found:
        raise Unlicensed(f"PyInstaller has not worked in {work}")
    return found


def _entries(noted: object) -> Iterator[tuple[str, str, str]]:
    """(name, path, kind), wherever they are in the folder."""
    if isinstance(noted, tuple) and len(noted) == 3 and all(isinstance(word, str) for word in noted):
        yield noted
    elif isinstance(noted, tuple | list):
        for inner in noted:
            yield from _entries(inner)


def _needs_of(distribution: metadata.Distribution) -> list[str]:
    required = [Requirement(line) for line in distribution.requires or []]
    return [item.name for item in required if item.marker is None or item.marker.evaluate({"extra": ""})]


# ---------------------------------------------------------------- Python and its distributions


def python_part(root: Path) -> Part:
    """The Python that runs this."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    texts = [Path(sysconfig.get_path("stdlib"), "LICENSE.txt"), *sorted((root / "usr/share/doc").glob(f"{name}*/copyright"))]
    version = platform.python_version()
    return Part("Python", version, "platform", "PSF-2.0", _read(texts, "Python"), f"pkg:generic/python@{version}")


def distribution_part(name: str, all_names: Iterable[str]) -> Part:
    distribution = metadata.distribution(name)
    files = [Path(str(distribution.locate_file(file))) for file in distribution.files or [] if _is_licence(str(file))]
    if name == OWN and not files:  # an editable install is described by a folder without licences
        files = [HERE.parent / "LICENSE"]
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


# ---------------------------------------------------------------- parts of other origin


def llama_part() -> Part:
    found = re.search(r"^LLAMA_BUILD = (\d+)", (HERE.parent / "fastrouter/system/build.py").read_text(), re.MULTILINE)
    assert found is not None
    version = f"b{found[1]}"
    text = _read([HERE / "licences" / "llama.cpp.txt"], "llama.cpp")
    return Part("llama.cpp", version, "library", "MIT", text, f"pkg:github/ggml-org/llama.cpp@{version}")


def vendored_parts() -> list[Part]:
    """JavaScript of the web page, if there is any."""
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


def debian_part(package: str, docs: Path) -> Part:
    """Named after its source package; several packages of one source are one part."""
    texts = _read([docs / package / "copyright"], package)
    try:
        with gzip.open(docs / package / "changelog.Debian.gz", "rt", errors="replace") as changelog:
            found = re.match(r"(\S+) \(([^)]+)\)", changelog.readline())
    except OSError:
        found = None
    if found is None:
        raise Unlicensed(f"{package} has no changelog in {docs} that names its version")
    source, version = found.groups()
    said = dict.fromkeys(name.strip() for name in re.findall(r"^License: *(\S.*)$", texts[0], re.MULTILINE))
    return Part(source, version, "library", ", ".join(said) or "see the text", texts, f"pkg:deb/debian/{source}@{version}?arch=source")
