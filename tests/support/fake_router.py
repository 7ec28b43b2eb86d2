"""The real router over fake workers: `python fake_router.py [flags]`. A model is then a script, see fake_worker.py."""

import os
import sys
from pathlib import Path
from typing import Any

from fastrouter.app.router import run
from fastrouter.catalog import header_cache
from fastrouter.catalog.gguf import GgufError, Unusual
from fastrouter.config.config import parse
from fastrouter.supervisor.workers.launch import Launched, environment_of


def _try_all(path: str) -> Any:
    """A script is not a GGUF file, and must be given to a worker anyway."""
    found = _read(path)
    return Unusual(found.message) if isinstance(found, GgufError) else found


_read = header_cache._read_or_say

if __name__ == "__main__":
    header_cache._read_or_say = _try_all
    fork_server = [sys.executable, str(Path(__file__).parent / "fake_worker.py")]
    config = parse(sys.argv[1:], os.environ)
    sys.exit(run(config, Launched(fork_server, environment_of(os.environ, config.poll))))
