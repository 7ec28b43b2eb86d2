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
from collections.abc import Callable
from pathlib import Path

from llama_wheel import VERSION, wheelhouse

SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
PLACE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"


def main(folder: Path) -> int:
    kept = kept_in_cache(f"llama-templates-{VERSION}", name_of_template)
    if kept is None:
        return 1
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    print(f"{len(list(folder.glob('*.jinja')))} chat templates in {folder}")
    return 0


def name_of_template(path: str) -> str:
    return Path(path).name if path.startswith("models/templates/") and path.endswith(".jinja") else ""


def kept_in_cache(name: str, wanted: Callable[[str], str]) -> Path | None:
    """The folder in this user's cache with these files; they are fetched if it is not there. None: pip could not download them."""
    kept = wheelhouse().parent.parent / name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=kept.parent, prefix=".fetching-"))
        try:
            extract(fetch(work), work / "files", wanted)
            if not kept.exists():
                (work / "files").rename(kept)
        except subprocess.CalledProcessError as error:
            print(f"pip could not download llama-cpp-python {VERSION} (exit code {error.returncode})", file=sys.stderr)
            return None
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return kept


def fetch(work: Path) -> Path:
    """The source package. pip looks at its metadata too, which takes some seconds; nothing is compiled."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-cache-dir", "--no-deps", "--no-binary", "llama-cpp-python"]
    subprocess.run([*command, f"llama-cpp-python=={VERSION}", "--dest", str(work)], stdout=sys.stderr, check=True)
    return next(work.glob("*.tar.gz"))


def extract(archive: Path, folder: Path, wanted: Callable[[str], str]) -> None:
    """Files of llama.cpp into a new folder. `wanted`: a path in its source -> the path below the folder; empty: left out."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{archive.name} has the hash {found}, not {SHA256}")
    folder.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            path = wanted(member.name.removeprefix(PLACE)) if member.isfile() and member.name.startswith(PLACE) else ""
            source = tar.extractfile(member) if path else None
            if source is not None:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(source.read())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python packaging/llama_templates.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
