"""The verbs for a running router: their arguments, and the code of the short ones (load, unload). Never imports: http, supervisor, api.

Invariant: a failed call ends with the server's message on stderr and exit code 1, never with a traceback.
"""

import argparse
import time
from urllib.parse import quote

from fastrouter.cli.arguments import Parser
from fastrouter.cli.chat import chat
from fastrouter.cli.client import LOAD_TIMEOUT_S, CallFailed, Client, perform, shared_options
from fastrouter.cli.listing import list_models, list_running
from fastrouter.cli.logs import show_logs

CHAT_TEXT = "talk to a model; /help in a conversation lists its commands"


def load(client: Client, options: argparse.Namespace) -> None:
    start = time.monotonic()
    client.call("POST", "/models/load", {"model": options.model})
    while time.monotonic() - start < LOAD_TIMEOUT_S:
        status = client.call("GET", f"/v1/models/{quote(options.model)}")["status"]
        if status["value"] in ("loaded", "sleeping"):
            print(f"{options.model} is loaded ({time.monotonic() - start:.2f} s)")
            return
        if status.get("failed") and status["value"] == "unloaded":
            raise CallFailed(f"{options.model} failed to load: {status.get('error') or status.get('exit_code')}")
        time.sleep(0.05)
    raise CallFailed(f"{options.model} did not load in {LOAD_TIMEOUT_S:g} s")


def unload(client: Client, options: argparse.Namespace) -> None:
    client.call("POST", "/models/unload", {"model": options.model})
    print(f"{options.model} is unloading")


# ---------------------------------------------------------------- arguments


def make_parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(prog="fastrouter")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, action, text in (
        ("list", list_models, "all models: state, size, aliases, and why a model cannot be loaded"),
        ("ps", list_running, "models that are in memory or loading"),
        ("load", load, "load a model and wait until it is ready"),
        ("unload", unload, "remove a model from memory"),
        ("chat", chat, CHAT_TEXT),
        ("logs", show_logs, "output of a model's workers"),
    ):
        verb = verbs.add_parser(name, parents=[shared_options()], help=text, description=text)
        verb.set_defaults(action=action)
        if name in ("load", "unload", "chat"):
            verb.add_argument("model")
        _add_own(name, verb)
    return parser


def _add_own(name: str, verb: argparse.ArgumentParser) -> None:
    if name in ("list", "ps"):
        verb.add_argument("-v", "--verbose", action="store_true", help="do not shorten lines to the width of the terminal")
    if name == "logs":
        verb.add_argument("model", nargs="?", help="default: all models")
        verb.add_argument("-f", "--follow", action="store_true", help="continue with new lines")
        verb.add_argument("-n", "--lines", type=int, help="only the last N lines")
    if name == "chat":
        verb.add_argument("prompt", nargs="*", default=[], help="one question; without it, a conversation")
        verb.add_argument("--system", help="system message")
        verb.add_argument("--max-tokens", type=int)
        verb.add_argument("--temperature", type=float)
        verb.add_argument("--seed", type=int)


def run_verb(arguments: list[str]) -> int:
    return perform(make_parser().parse_args(arguments))
