"""The real router over fake workers: `python fake_router.py [flags]`. A model is then a script, see fake_worker.py."""

import os
import sys
from pathlib import Path

from fastrouter.app import run
from fastrouter.config import parse

if __name__ == "__main__":
    nursery = [sys.executable, str(Path(__file__).parent / "fake_worker.py")]
    sys.exit(run(parse(sys.argv[1:], os.environ), nursery_command=nursery))
