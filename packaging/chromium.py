"""Debian's Chromium for the browser tests: found, or installed if this user may do that. Prints its path, or why there is none.

Invariant: it never fails a build; without a browser those tests are skipped with the reason.
"""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
INSTALL = ("apt-get", "install", "-y", "--no-install-recommends", "chromium")


def find() -> str | None:
    """$CHROMIUM, otherwise the first one on the path."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


def install() -> str:
    """Returns why it could not be installed; empty: it is installed."""
    if shutil.which("apt-get") is None:
        return "there is no apt-get"
    if os.geteuid() != 0:
        return f"only root may run: {' '.join(INSTALL)}"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (("apt-get", "update"), INSTALL):
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        if ended.returncode:
            return f"{' '.join(command)} failed: {ended.stderr.strip().splitlines()[-1:]}"
    return ""


def main() -> None:
    why = "" if find() else install()
    print(find() or f"no Chromium, so the browser tests will be skipped: {why or 'it was installed under another name'}")


if __name__ == "__main__":
    sys.exit(main())
