"""Without a verb: run the router in this process. The fork server starts first, so that both import at the same time."""

import os
import sys

from fastrouter.config.config import Config, check_adapters, parse
from fastrouter.errors import FastrouterError
from fastrouter.supervisor.workers.launch import FORK_SERVER_COMMAND, Launched, environment_of


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
        return _run(config, Launched(FORK_SERVER_COMMAND, environment_of(os.environ, config.poll)))
    except FastrouterError as error:
        print(f"fastrouter: {error}", file=sys.stderr)
        return 1


def _run(config: Config, launched: Launched) -> int:
    from fastrouter.app.router import run  # the fork server is running by now

    return run(config, launched)
