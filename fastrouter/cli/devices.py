"""`fastrouter devices`: what models can compute on, with its memory: this CPU, its GPUs, and the devices of RPC servers. `--list-devices`
prints llama-server's list.

Needs no running router and loads no model. Invariant: a server that does not answer is listed with the reason.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from fastrouter.catalog.catalog import Catalog
from fastrouter.cli.arguments import Parser
from fastrouter.config.config import Config, parse
from fastrouter.config.layers import merge
from fastrouter.errors import FastrouterError
from fastrouter.system.machine import available_bytes, total_bytes
from fastrouter.system.words import in_words
from fastrouter.worker.llama import devices, rpc
from fastrouter.worker.llama.binding import Scarcity, start_backends

_WHAT = "what models can compute on, with its memory"
_EPILOG = "Flags of the router may follow: --rpc names servers, --models-preset a file whose models name some."


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="fastrouter devices", description=_WHAT, epilog=_EPILOG)
    parser.add_argument("--json", action="store_true", help="the list, as JSON")
    return parser


def run_devices(arguments: Sequence[str]) -> int:
    options, flags = make_parser().parse_known_args(arguments)
    try:
        config = parse(flags, os.environ)
        found = _find(_servers_of(config))
    except FastrouterError as error:
        print(f"fastrouter: {error.message}", file=sys.stderr)
        return 1
    print(json.dumps({"devices": found}, ensure_ascii=False, indent=2) if options.json else _in_words(found))
    return 0


def list_devices(config: Config) -> int:
    """For --list-devices, in llama-server's form: without the CPU."""
    found = [each for each in _find(_servers_of(config)) if each["kind"] != "cpu"]
    print("Available devices:")
    for each in found:
        if "error" in each:
            print(f"fastrouter: --rpc {each['description']}: {each['error']}", file=sys.stderr)
        else:
            total, free = each["total_bytes"] >> 20, each["free_bytes"] >> 20
            print(f"  {each['name']}: {each['description']} ({total} MiB, {free} MiB free)")
    if not any("error" not in each for each in found):
        print("  (none)")
    return 0


def _servers_of(config: Config) -> list[str]:
    """Of the command line or the environment, then those of models in a preset file."""
    setting = merge(config.environment, config.command_line).get("rpc")
    found = list(setting.value) if setting is not None else []
    for model in Catalog(config).models() if config.models_preset is not None else ():
        found += model.options.rpc
    return list(dict.fromkeys(found))


def _find(endpoints: Sequence[str]) -> list[dict[str, Any]]:
    """Raises LlamaError."""
    start_backends()
    with contextlib.suppress(Scarcity):  # none of them answers: each has its own reason
        rpc.servers.connect(endpoints)
    found = [devices.describe(handle).to_json() for handle in devices.handles() if devices.kind_of(handle) != "rpc"]
    missing = iter(rpc.servers.missing.items())
    for name, handle in rpc.servers.names.items():
        found.append(devices.describe(handle, name).to_json() if handle else _missing(name, *next(missing)))
    return [_without_guess(each) for each in found]


def _missing(name: str, endpoint: str, why: str) -> dict[str, Any]:
    return {"name": name, "kind": "rpc", "description": endpoint, "error": why}


def _without_guess(device: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp calls all memory of a CPU free."""
    return {**device, "free_bytes": available_bytes(), "total_bytes": total_bytes()} if device["kind"] == "cpu" else device


def _in_words(found: Sequence[dict[str, Any]]) -> str:
    rows = [("NAME", "KIND", "MEMORY", "FREE", "DESCRIPTION")]
    for each in found:
        memory = ("-", "-") if "error" in each else (in_words(each["total_bytes"]), in_words(each["free_bytes"]))
        rows.append((each["name"], each["kind"], *memory, each["description"] + (f": {each['error']}" if "error" in each else "")))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows)
