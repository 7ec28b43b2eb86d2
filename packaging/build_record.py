"""`python packaging/build_record.py [LLAMA_BUILD]`: prints the build.json that tells a package or an executable its origin.

It uses only the repository: the last commit and its date. The same commit gives the same bytes.
"""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def git(*arguments: str) -> str:
    """Its output; nothing outside of a repository."""
    if not (REPOSITORY / ".git").exists():
        return ""
    command = ["git", "-C", str(REPOSITORY), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def source_date_epoch() -> int:
    """The time of the last commit in seconds; outside of a repository 1980, the earliest time of zip files."""
    return int(git("log", "-1", "--format=%ct") or 315532800)


def build_record(llama_build: str = "") -> dict[str, str]:
    """`llama_build`: the key of the included build of llama.cpp, as in the name of its wheelhouse; empty: there is none."""
    commit = git("describe", "--always", "--exclude=*", "--abbrev=12", "--dirty")
    record = {"commit": commit, "date": git("log", "-1", "--format=%cs"), "llama_build": llama_build}
    return {name: value for name, value in record.items() if value}


if __name__ == "__main__":
    print(json.dumps(build_record(*sys.argv[1:2]), indent=1))
