"""Puts the chat templates that llama.cpp's source ships into a folder, for the tests: `python packaging/llama_templates.py FOLDER`.

They come from the source package of llama-cpp-python, once for each user: the cache folder keeps them. They are not part of this project.
Invariant: a source package whose hash is not the one below is refused.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from llama_wheel import VERSION, wheelhouse

SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
PLACE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/models/templates/"


def main(folder: Path) -> int:
    kept = wheelhouse().parent.parent / f"llama-templates-{VERSION}"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=kept.parent, prefix=".fetching-"))
        try:
            extract(fetch(work), work / "templates")
            if not kept.exists():
                (work / "templates").rename(kept)
        except subprocess.CalledProcessError as error:
            print(f"pip could not download llama-cpp-python {VERSION} (exit code {error.returncode})", file=sys.stderr)
            return 1
        finally:
            shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    print(f"{len(list(folder.glob('*.jinja')))} chat templates in {folder}")
    return 0


def fetch(work: Path) -> Path:
    """The source package. pip looks at its metadata too, which takes some seconds; nothing is compiled."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-cache-dir", "--no-deps", "--no-binary", "llama-cpp-python"]
    subprocess.run([*command, f"llama-cpp-python=={VERSION}", "--dest", str(work)], stdout=sys.stderr, check=True)
    return next(work.glob("*.tar.gz"))


def extract(archive: Path, folder: Path) -> None:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{archive.name} has the hash {found}, not {SHA256}")
    folder.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.startswith(PLACE) and member.name.endswith(".jinja"):
                source = tar.extractfile(member)
                assert source is not None
                (folder / Path(member.name).name).write_bytes(source.read())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python packaging/llama_templates.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
