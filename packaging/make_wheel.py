"""`python packaging/make_wheel.py [FOLDER]`: source package and wheel of the files that git tracks, the same bytes every time, into
dist/.

The wheel is built from the source package, so that the source package is known to be complete. It carries a list of the foreign code inside
(CycloneDX, where PEP 770 wants it). Times are those of the last commit, tools those of build-constraints.txt. Needs the packages of the
`release` extra.
"""

import base64
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from build_record import REPOSITORY, build_record, git, source_date_epoch
from inventory import OWN, vendored_parts
from sbom import to_bom

CONSTRAINTS = Path(__file__).parent / "build-constraints.txt"
EARLIEST = 315532800  # 1980: zip files know no earlier time
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", "*.so", "_core.c", ".*_cache")


def copy_sources(into: Path) -> None:
    """The files that git tracks, in their present state; all files if the repository is an unpacked source package."""
    names = git("ls-files", "-z").split("\0")
    if names == [""]:
        shutil.copytree(REPOSITORY, into, ignore=LEFT_OUT)
    for name in filter(None, names):
        if (REPOSITORY / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, into / name)
    record = build_record()
    if record:
        (into / "fastrouter" / "build.json").write_text(json.dumps(record, indent=1) + "\n")


def build(kind: str, source: Path, into: Path, epoch: int) -> Path:
    """`kind`: sdist or wheel. Returns the file."""
    flags = f"-g0 -ffile-prefix-map={source}=."
    environ = {
        **os.environ,
        "SOURCE_DATE_EPOCH": str(epoch),
        "PYTHONHASHSEED": "0",
        "PIP_CONSTRAINT": str(CONSTRAINTS),
        "CFLAGS": f"{os.environ.get('CFLAGS', '')} {flags}".strip(),
        "LDFLAGS": f"{os.environ.get('LDFLAGS', '')} -s".strip(),
    }
    into.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "build", f"--{kind}", "--outdir", str(into), str(source)], env=environ, stdout=sys.stderr, check=True
    )
    [made] = into.iterdir()
    return made


def normalise(path: Path, epoch: int) -> None:
    """The same archive on any machine and at any time: sorted, without owners, times or the name of the packed file."""
    with tarfile.open(path) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name)
        contents = {member.name: file.read() for member in members if (file := archive.extractfile(member))}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            clean = tarfile.TarInfo(member.name)
            clean.type, clean.mtime, clean.size = member.type, epoch, len(contents.get(member.name, b""))
            clean.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            archive.addfile(clean, io.BytesIO(contents[member.name]) if member.isfile() else None)
    path.write_bytes(gzip.compress(packed.getvalue(), mtime=epoch))


@contextmanager
def unpacked(path: Path, into: Path) -> Iterator[Path]:
    with tarfile.open(path) as archive:
        archive.extractall(into, filter="data")
    [folder] = into.iterdir()
    yield folder


def add_parts_list(wheel: Path, parts_list: bytes, epoch: int) -> None:
    """Put the list into the wheel, and its sum into the wheel's RECORD."""
    with zipfile.ZipFile(wheel) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    [record] = [entry.filename for entry, _ in entries if entry.filename.endswith(".dist-info/RECORD")]
    name = f"{record.rpartition('/')[0]}/sboms/fastrouter.cdx.json"
    digest = base64.urlsafe_b64encode(hashlib.sha256(parts_list).digest()).rstrip(b"=").decode()
    added = zipfile.ZipInfo(name, time.gmtime(max(epoch, EARLIEST))[:6])
    added.external_attr, added.compress_type = 0o100644 << 16, zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(wheel, "w") as archive:
        for entry, content in entries:
            if entry.filename == record:
                archive.writestr(added, parts_list)
                content = f"{name},sha256={digest},{len(parts_list)}\n".encode() + content
            archive.writestr(entry, content)


def with_portable_tag(wheel: Path, epoch: int) -> Path:
    """The wheel, named after the oldest glibc that its symbols need (an index refuses a plain linux tag); unchanged with another libc."""
    said = subprocess.run([sys.executable, "-m", "auditwheel", "show", str(wheel)], capture_output=True, text=True)
    found = re.search(r"platform tag:\s+\"(manylinux_\w+)\"", said.stdout)
    if found is None:
        print(f"no portable tag: {said.stderr.strip() or said.stdout.strip()}", file=sys.stderr)
        return wheel
    command = [sys.executable, "-m", "wheel", "tags", "--remove", "--platform-tag", found[1], str(wheel)]
    subprocess.run(command, env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}, stdout=sys.stderr, check=True)
    [made] = wheel.parent.iterdir()
    return made


def main(arguments: list[str]) -> int:
    target = Path(arguments[0] if arguments else REPOSITORY / "dist")
    epoch = source_date_epoch()
    with tempfile.TemporaryDirectory(prefix="fastrouter-wheel-") as folder:
        work = Path(folder)
        copy_sources(work / "copy")
        sdist = build("sdist", work / "copy", work / "sdist", epoch)
        normalise(sdist, epoch)
        with unpacked(sdist, work / "unpacked") as source:
            wheel = build("wheel", source, work / "wheel", epoch)
        add_parts_list(wheel, to_bom(OWN, vendored_parts()).encode(), epoch)
        made = [sdist, with_portable_tag(wheel, epoch)]
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, made)], stdout=sys.stderr, check=True)
        target.mkdir(parents=True, exist_ok=True)
        for path in made:
            print(shutil.copy(path, target))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
