"""fastrouter with llama-server's flags, as llama.cpp's own tests start it: where a default differs on purpose, llama-server's is asked for.

A flag of the test comes later and wins. docs/llama-server.md lists these defaults.
"""

import os
import sys

METRICS = ["--no-metrics"]
ORIGINS = ["--cors-origins", "*"]
TOOLS = ["--tools-dir", "/"]  # llama-server's tools may use every file, and pages of other sites may not use them
PICTURES = ["--media-hosts", "127.0.0.1"]  # where the stand-ins of their pictures are; llama-server fetches from every host
TOOL_FLAGS = {"--tools", "--mcp-servers-config", "--mcp-servers-json", "--ui-mcp-proxy"}


def main(given: list[str]) -> None:
    flags = METRICS + PICTURES + ([] if TOOL_FLAGS & set(given) else ORIGINS) + (TOOLS if "--tools" in given else [])
    os.execv(sys.executable, [sys.executable, "-m", "fastrouter", *flags, *given])


if __name__ == "__main__":
    main(sys.argv[1:])
