"""`fastrouter completion bash|zsh|fish`: a script for the shell, made from the existing flags and verbs. `completion models` lists names.

Invariant: what it offers is accepted by the program.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from fastrouter.cli import client, pull, simulate
from fastrouter.cli.client import Client, perform
from fastrouter.cli.completion_model import FILES, FOLDERS, MODELS, Option, Verb
from fastrouter.cli.rpc_worker import make_parser as rpc_worker_parser
from fastrouter.cli.verb_names import ALL_VERBS
from fastrouter.cli.verbs import make_parser
from fastrouter.config.flag import Flag, Kind, Scope
from fastrouter.config.table import TABLE

USAGE = "usage: fastrouter completion bash|zsh|fish"
MODELS_TIMEOUT_S = 2  # a shell waits for this while the user watches


def run_completion(arguments: Sequence[str]) -> int:
    from fastrouter.cli.shells import SCRIPTS

    match arguments:
        case [shell] if shell in SCRIPTS:
            print(SCRIPTS[shell](all_verbs()), end="")
            return 0
        case ["models", *rest]:
            return _print_models(rest)
        case ["-h" | "--help"]:
            print(USAGE)
            return 0
    print(USAGE, file=sys.stderr)
    return 2


def _print_models(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="fastrouter completion models", parents=[client.shared_options()])
    parser.set_defaults(action=_list_names)
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(MODELS_TIMEOUT_S)
    return perform(parser.parse_args(arguments))


def _give_up(*_: object) -> NoReturn:
    os._exit(1)


def _list_names(router: Client, options: argparse.Namespace) -> None:
    for model in router.call("GET", "/v1/models")["data"]:
        names = [model["id"], *(name for name in model["aliases"] if name not in model.get("spellings", ()))]
        print(*[name for name in names if name.isprintable() and " " not in name], sep="\n")


# ---------------------------------------------------------------- what can be completed


def all_verbs() -> list[Verb]:
    """The first one is not a verb: the router's flags."""
    flags = tuple(_of_flag(flag) for flag in TABLE if flag.scope is not Scope.PRESET)
    own = (
        Option(("--rival",), (FILES,), "a llama-server to measure too"),
        Option(("--rounds",), (), "how often (3)"),
        Option(("--json",), None, "all samples, as JSON"),
    )
    meta = (Option(("-h", "--help"), None, "all flags"), Option(("--version",), None, "versions and build"))
    found = [Verb("", "start the router", (*meta, *flags)), Verb("serve", "start the router, same as without a verb", (*meta, *flags))]
    for parser in (make_parser(), pull.make_parser()):
        found += _of_parser(parser)
    return [
        *found,
        Verb("preset", "check a preset file and explain it", flags, ("check", FILES)),
        Verb("template", "what a chat template can do", _template_options() + flags, ("check", "parse", FILES, MODELS)),
        Verb("bench", "measure how long switching models takes", own + flags, (FILES, MODELS)),
        Verb("simulate", "a recorded run with other limits", _options_of(simulate.make_parser()), (FILES,)),
        Verb("devices", "what models can compute on", (Option(("--json",), None, "the list, as JSON"), *flags)),
        Verb("rpc-worker", "lend the devices of this machine", _options_of(rpc_worker_parser())),
        Verb("completion", "a script for a shell", (), ("bash", "zsh", "fish")),
        Verb("help", "all flags, or the help of a verb", (), tuple(verb for verb in ALL_VERBS if verb != "help")),
    ]


def _template_options() -> tuple[Option, ...]:
    return (
        Option(("--template",), (FILES,), "a template, or a GGUF file that has one"),
        Option(("--tools",), (), "tools as JSON"),
        Option(("--json",), None, "the result, as JSON"),
    )


def _of_flag(flag: Flag) -> Option:
    takes: tuple[str, ...] | None = flag.choices
    if flag.kind is Kind.SWITCH:
        takes = None
    elif flag.kind is Kind.THREE_WAY:
        takes = ("on", "off", "auto")
    elif flag.kind in (Kind.PATH, Kind.FILES, Kind.SCALED_FILES):
        takes = (FOLDERS if flag.name.endswith("-dir") else FILES,)
    return Option(flag.names + flag.off_names, takes, flag.help)


def _of_parser(parser: argparse.ArgumentParser) -> list[Verb]:
    """Verbs of argparse, which has no public list of them."""
    [verbs] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    helps = {choice.dest: choice.help or "" for choice in verbs._choices_actions}
    made = []
    for name, verb in verbs.choices.items():
        options = _options_of(verb)
        takes_model = name != "pull" and any(action.dest == "model" for action in verb._actions if not action.option_strings)
        made.append(Verb(name, helps[name], options, (MODELS,) if takes_model else ()))
    return made


def _options_of(parser: argparse.ArgumentParser) -> tuple[Option, ...]:
    return tuple(_of_action(action) for action in parser._actions if action.option_strings)


def _of_action(action: argparse.Action) -> Option:
    option = Option(tuple(action.option_strings), None if action.nargs == 0 else (), action.help or "")
    return replace(option, takes=(FILES,)) if action.metavar == "FILE" else option
