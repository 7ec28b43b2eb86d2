"""`fastrouter logs [MODEL] [-f] [-n N]`: what a model's workers have written. Never imports: supervisor, api."""

import argparse
from datetime import datetime
from urllib.parse import urlencode

from fastrouter.cli.client import Client


def show_logs(client: Client, options: argparse.Namespace) -> None:
    query = {"model": options.model, "tail": options.lines, "follow": 1 if options.follow else None}
    path = "/models/logs?" + urlencode({name: value for name, value in query.items() if value is not None})
    if options.follow:
        for event in client.events(path):
            _print_event(event, is_named=options.model is None)
    else:
        for line in client.lines(path):
            print(line)


def _print_event(event: dict[str, str], *, is_named: bool) -> None:
    """As the server writes it, in local time."""
    clock = datetime.fromisoformat(event["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    print(f"{clock} {event['model'] + ': ' if is_named else ''}{event['line']}", flush=True)
