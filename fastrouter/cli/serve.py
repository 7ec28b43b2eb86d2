"""Without a verb: run the router in this process."""

import os
import sys

from fastrouter.supervisor.workers.launch import Launched, launch_early

PRINTING = {"-h", "--help", "--usage", "--version"}


def serve(arguments: list[str]) -> int:
    launched = None if PRINTING.intersection(arguments) else launch_early(os.environ)
    try:
        return _serve(arguments, launched)
    finally:
        if launched is not None:
            launched.close()


def _serve(arguments: list[str], launched: Launched | None) -> int:
    """What it imports takes as long as the fork server's start, which goes on meanwhile."""
    from fastrouter.app.router import run
    from fastrouter.config.config import check_adapters, parse
    from fastrouter.errors import ConfigError

    try:
        try:
            config = parse(arguments, os.environ)
        except BrokenPipeError:  # the reader of --help has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        check_adapters(config)
        os.environ.pop("LLAMA_API_KEY", None)  # no worker needs it
        return run(config, launched=launched)
    except ConfigError as error:
        print(f"fastrouter: {error}", file=sys.stderr)
        return 1
