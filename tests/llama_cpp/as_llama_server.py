"""fastrouter with llama-server's flags, as llama.cpp's own tests start it: where a default differs on purpose, llama-server's is asked for.

A flag of the test comes later and wins. docs/llama-server.md lists these defaults.
"""

import os
import sys

THEIRS = ["--no-metrics", "--cors-origins", "*"]
TOOLS = ["--tools-dir", "/"]  # llama-server's tools may use every file


def main(given: list[str]) -> None:
    flags = THEIRS + (TOOLS if "--tools" in given else [])
    os.execv(sys.executable, [sys.executable, "-m", "fastrouter", *flags, *given])


if __name__ == "__main__":
    main(sys.argv[1:])
