"""`python packaging/audit.py`: pip-audit looks for known vulnerabilities in what fastrouter needs, in the versions that are installed here.

Exit code 1 when there are some. When no database of vulnerabilities can be reached, one line says so, and the exit code is 0: a machine
without a network must be able to run `make check`.
"""

import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from inventory import OWN, closure

DATABASES = ("pypi", "osv")
ANSWER_S, ALL_S = 10, 120


def pins(names: set[str]) -> str:
    return "".join(f"{name}=={metadata.version(name)}\n" for name in sorted(names - {OWN}))


def ask(requirements: Path, database: str) -> list[dict[str, Any]] | str:
    """Of each distribution, what is known about it; in words why there is no answer."""
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", str(ANSWER_S), "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *options, "--vulnerability-service", database, "--requirement", str(requirements)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ALL_S)
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return f"{database}: no answer in {ALL_S} s"
    except (ValueError, LookupError, TypeError):
        return f"{database}: {(done.stderr.strip().splitlines() or ['no answer'])[-1][:200]}"
    return found if any("vulns" in entry for entry in found) else f"{database}: it knows none of them"


def report(found: list[dict[str, Any]]) -> int:
    """Returns the exit code."""
    unsafe = [(entry, known) for entry in found for known in entry.get("vulns", [])]
    for entry, known in unsafe:
        fixed = ", ".join(known.get("fix_versions", [])) or "no version"
        print(f"{entry['name']} {entry['version']}: {known['id']}, fixed in {fixed}: {known.get('description', '')[:200]}")
    unknown = [entry["name"] for entry in found if "skip_reason" in entry]
    if unknown:
        print(f"not in the database: {', '.join(unknown)}")
    print(f"audited {len(found) - len(unknown)} dependencies: {len(unsafe)} known vulnerabilities")
    return int(bool(unsafe))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(pins(closure([OWN])))
        problems = []
        for database in DATABASES:
            found = ask(requirements, database)
            if isinstance(found, list):
                return report(found)
            problems.append(found)
    print(f"dependencies are not audited, because no database of vulnerabilities can be reached ({'; '.join(problems)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
