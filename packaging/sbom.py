"""`python packaging/sbom.py --into FOLDER [--name NAME] [--debian PACKAGE]... [DISTRIBUTION ...]`: lists the content of an executable.

Writes NAME.cdx.json (CycloneDX 1.6), THIRD-PARTY-NOTICES and, at the end, SHA256SUMS of all files in the folder. Distributions: those of
the Python that runs this, and what they need; only fastrouter's if none is named. With --packed: those that PyInstaller has packed, and
the named ones. The same parts give the same bytes. Needs cyclonedx-python-lib and packaging.
"""

import argparse
import datetime
import hashlib
import re
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path

from build_record import REPOSITORY, source_date_epoch
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from inventory import OWN, Part, Unlicensed, closure, collect, packed
from packageurl import PackageURL

HASHES = {"sha256": HashAlgorithm.SHA_256, "sha384": HashAlgorithm.SHA_384, "sha512": HashAlgorithm.SHA_512}
SUMS = "SHA256SUMS"
NOTICES = "THIRD-PARTY-NOTICES"


def own_version() -> str:
    found = re.search(r'__version__ = "(.+)"', (REPOSITORY / "fastrouter" / "__init__.py").read_text())
    assert found is not None
    return found[1]


def to_component(part: Part) -> Component:
    return Component(
        name=part.name,
        version=part.version,
        type=ComponentType(part.kind),
        bom_ref=f"{part.name}@{part.version}",
        licenses=[LicenseFactory().make_from_string(part.licence)],
        purl=PackageURL.from_string(part.purl),
        hashes=[HashType(alg=HASHES[algorithm], content=digest) for algorithm, digest in part.hashes.items()],
        external_references=[ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(part.source))] if part.source else [],
    )


def to_bom(name: str, parts: Iterable[Part]) -> str:
    """As JSON."""
    parts = [part for part in parts if part.name != OWN]
    made = datetime.datetime.fromtimestamp(source_date_epoch(), datetime.UTC)
    application = Component(
        name=name, version=own_version(), type=ComponentType.APPLICATION, bom_ref=name, licenses=[LicenseFactory().make_from_string("MIT")]
    )
    components = {part.name: to_component(part) for part in parts}
    identity = "\n".join(repr(part) for part in [name, own_version(), *parts])
    bom = Bom(
        components=components.values(),
        metadata=BomMetaData(component=application, timestamp=made),
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, identity),
    )
    bom.register_dependency(application, components.values())
    for part in parts:
        bom.register_dependency(components[part.name], [components[needed] for needed in part.needs if needed in components])
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def to_notices(name: str, parts: Iterable[Part]) -> str:
    chapters = [
        f"{name} {own_version()} contains the following software. Their licences are below; what is not listed is fastrouter's own (MIT).\n"
    ]
    listed = [part for part in parts if part.name != OWN]
    chapters.append("\n".join(f"{part.name} {part.version}: {part.licence}" for part in listed) + "\n")
    for part in listed:
        head = f"{part.name} {part.version} ({part.licence})"
        chapters.append("\n".join(["=" * 100, head, "=" * 100, "", "\n\n".join(part.texts), ""]))
    return "\n".join(chapters)


def write_sums(folder: Path) -> None:
    """In the format of `sha256sum -c`."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    (folder / SUMS).write_text("".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files))


def main() -> int:
    parser = argparse.ArgumentParser(prog="sbom.py", description=__doc__)
    parser.add_argument("--into", type=Path, required=True, help="folder of what is given away")
    parser.add_argument("--name", default=OWN, help="the executable's name")
    parser.add_argument("--debian", action="append", default=[], metavar="PACKAGE", help="whose libraries are inside; may be given again")
    parser.add_argument("--root", type=Path, default=Path("/"), help="of the system those packages are from")
    parser.add_argument("--without", action="append", default=[], metavar="DISTRIBUTION", help="needed by others, but not inside")
    parser.add_argument("--packed", type=Path, metavar="FOLDER", help="where PyInstaller has worked (its --workpath, with the spec's name)")
    parser.add_argument("distributions", nargs="*", metavar="DISTRIBUTION")
    options = parser.parse_args()
    try:
        if options.packed:
            distributions = packed(options.packed) | set(options.distributions)
        else:
            distributions = closure(options.distributions or [OWN], options.without)
        parts = collect(distributions, options.debian, options.root)
    except Unlicensed as error:
        print(f"sbom: {error}", file=sys.stderr)
        return 1
    options.into.mkdir(parents=True, exist_ok=True)
    (options.into / f"{options.name}.cdx.json").write_text(to_bom(options.name, parts))
    (options.into / NOTICES).write_text(to_notices(options.name, parts))
    write_sums(options.into)
    print(f"{len(parts)} parts: {options.into / options.name}.cdx.json, {NOTICES}, {SUMS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
