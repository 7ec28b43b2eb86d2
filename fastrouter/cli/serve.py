"""Without a verb: run the router in this process."""

import os
import sys

from fastrouter.app.router import run
from fastrouter.catalog.sources import scan_cache
from fastrouter.config.config import Config, check_adapters, parse
from fastrouter.errors import ConfigError
from fastrouter.hub.before_start import fetch_named


def serve(arguments: list[str]) -> int:
    try:
        try:
            config = parse(arguments, os.environ)
        except BrokenPipeError:  # the reader of --help has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        if config.cache_list:
            return list_cache(config)
        config = fetch_named(config)
        check_adapters(config)
        os.environ.pop("LLAMA_API_KEY", None)  # no worker needs it
        return run(config)
    except ConfigError as error:
        print(f"fastrouter: {error}", file=sys.stderr)
        return 1


def list_cache(config: Config) -> int:
    """As llama-server writes it."""
    names = dict.fromkeys(found.id for cache in config.cache_dirs for found in scan_cache(os.path.abspath(cache)))
    print(f"number of models in cache: {len(names)}")
    for number, name in enumerate(names, 1):
        print(f"{number:4}. {name}")
    return 0
