"""Puts llama.cpp's own server tests, with the files they read, into a folder: `python packaging/llama_tests.py FOLDER`.

They come from the source package of llama-cpp-python, as its chat templates do (llama_templates.py). They are not part of this project.
"""

import shutil
import sys
from pathlib import Path

from llama_templates import VERSION, kept_in_cache

TESTS = "tools/server/tests"
READ = ("models/templates/", "models/ggml-vocab-bert-bge.gguf", "tools/mtmd/test-1.jpeg")  # by the tests and our models for them


def main(folder: Path) -> int:
    kept = kept_in_cache(f"llama-tests-{VERSION}", same_path)
    if kept is None:
        return 1
    copy(kept, folder)
    print(f"llama.cpp's own server tests are in {folder / TESTS}")
    return 0


def same_path(path: str) -> str:
    return path if path.startswith((f"{TESTS}/", *READ)) else ""


def copy(source: Path, folder: Path) -> None:
    """From the cache, or from any source tree of llama.cpp."""
    for path in (TESTS, *READ):
        if (source / path).is_dir():
            shutil.copytree(source / path, folder / path, dirs_exist_ok=True)
        else:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, folder / path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python packaging/llama_tests.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
