"""`python packaging/build_record.py`: prints the build.json that tells a package or an executable where it comes from.

Only what the repository says: the last commit, its date, and the key of llama.cpp's portable build. The same commit gives the same bytes.
"""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def git(*arguments: str) -> str:
    """Its first words; empty outside of a repository."""
    command = ["git", "-C", str(REPOSITORY), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def source_date_epoch() -> int:
    """Seconds: when the last commit was made. 1980, where zip files begin, outside of a repository."""
    return int(git("log", "-1", "--format=%ct") or 315532800)


def build_record(*, with_llama: bool) -> dict[str, str]:
    """`with_llama`: the build that llama_wheel.py makes is inside, as in an executable."""
    commit = git("describe", "--always", "--exclude=*", "--abbrev=12", "--dirty")
    record = {"commit": commit, "date": git("log", "-1", "--format=%cs")}
    if with_llama:
        from llama_wheel import wheelhouse

        record["llama_build"] = wheelhouse().name.rpartition("-")[2]
    return {name: value for name, value in record.items() if value}


if __name__ == "__main__":
    print(json.dumps(build_record(with_llama="--with-llama" in sys.argv[1:]), indent=1))
