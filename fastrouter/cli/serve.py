"""No verb: run the router in this process. Knows no flag by name."""

import os
import sys

from fastrouter.app import run
from fastrouter.config import parse
from fastrouter.errors import ConfigError


def serve(arguments: list[str]) -> int:
    try:
        return run(parse(arguments, os.environ))
    except ConfigError as error:
        print(f"fastrouter: {error}", file=sys.stderr)
        return 1
