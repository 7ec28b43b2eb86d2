"""Without a verb: run the router in this process."""

import os
import sys

from fastrouter.app.router import run
from fastrouter.config.config import check_adapters, parse
from fastrouter.errors import ConfigError


def serve(arguments: list[str]) -> int:
    try:
        try:
            config = parse(arguments, os.environ)
        except BrokenPipeError:  # the reader of --help has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        if config.list_devices:
            from fastrouter.cli.devices import list_devices  # loads llama.cpp

            return list_devices(config)
        check_adapters(config)
        os.environ.pop("LLAMA_API_KEY", None)  # no worker needs it
        return run(config)
    except ConfigError as error:
        print(f"fastrouter: {error}", file=sys.stderr)
        return 1
