"""`fastrouter logs [MODEL] [-f] [-n N]`: what a model's workers have said. Knows only the endpoint and the shape of its events."""

import argparse
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Protocol
from urllib.parse import urlencode


class Source(Protocol):
    """Where answers come from."""

    def lines(self, path: str) -> Iterator[str]: ...


def show_logs(client: Source, options: argparse.Namespace) -> None:
    query = {"model": options.model, "tail": options.lines, "follow": 1 if options.follow else None}
    path = "/models/logs?" + urlencode({name: value for name, value in query.items() if value is not None})
    for line in client.lines(path):
        if not options.follow:
            print(line)
        elif line.startswith("data: "):
            _print_event(json.loads(line[6:]), is_named=options.model is None)


def _print_event(event: dict[str, str], *, is_named: bool) -> None:
    """As the server writes it, in local time."""
    clock = datetime.fromisoformat(event["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    print(f"{clock} {event['model'] + ': ' if is_named else ''}{event['line']}", flush=True)
