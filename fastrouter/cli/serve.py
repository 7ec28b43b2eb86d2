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
        if config.cache_list:
            return list_cache(config)
        if config.names_other_machines:
            from fastrouter.hub.before_start import fetch_named  # most starts do without

            config = fetch_named(config)
        check_adapters(config)
        os.environ.pop("LLAMA_API_KEY", None)  # no worker needs it
        return _run(config, Launched(FORK_SERVER_COMMAND, environment_of(os.environ, config.poll)))
    except FastrouterError as error:
        print(f"fastrouter: {error}", file=sys.stderr)
        return 1


def _run(config: Config, launched: Launched) -> int:
    from fastrouter.app.router import run  # the fork server is running by now

    return run(config, launched)


def list_cache(config: Config) -> int:
    """As llama-server writes it."""
    from fastrouter.catalog.sources import scan_cache

    names = dict.fromkeys(found.id for cache in config.cache_dirs for found in scan_cache(os.path.abspath(cache)))
    print(f"number of models in cache: {len(names)}")
    for number, name in enumerate(names, 1):
        print(f"{number:4}. {name}")
    return 0
