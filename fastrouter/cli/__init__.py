"""The `fastrouter` command: flags serve, verbs talk to a running router. It imports only what the chosen one needs."""

import gc
import os
import signal
import sys

from fastrouter.cli.verb_names import ALL_VERBS, DOWNLOAD_VERBS, MEANT, VERBS
from fastrouter.system.standard_streams import open_missing


def main() -> int:
    open_missing()
    arguments = sys.argv[1:]
    if arguments and arguments[0] == "help":
        arguments = [*arguments[1:2], "--help"]
    if arguments and arguments[0] == "serve":
        arguments = arguments[1:]
    elif arguments and arguments[0] not in ALL_VERBS and not arguments[0].startswith("-"):
        return refuse(arguments[0])
    if arguments and (arguments[0] in ALL_VERBS or "--completion-bash" in arguments):
        try:
            try:
                return run_verb(arguments)
            finally:  # also when a help text has ended the program
                sys.stdout.flush()
        except BrokenPipeError:  # the reader of the output has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    gc.disable()  # until the catalog has been read: imports make no garbage, and collections take a tenth of the start
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during imports ends it without a traceback; the router has its own handler
    from fastrouter.cli.serve import serve

    return serve(arguments)


def run_verb(arguments: list[str]) -> int:
    if arguments[0] in VERBS:
        from fastrouter.cli import verbs

        return verbs.run_verb(arguments)
    if arguments[0] in DOWNLOAD_VERBS:
        from fastrouter.cli import pull

        return pull.run_verb(arguments)
    if arguments[0] == "preset":
        from fastrouter.cli.presets import run_preset

        return run_preset(arguments)
    if arguments[0] == "template":
        from fastrouter.cli.template import run_template

        return run_template(arguments[1:])
    if arguments[0] == "devices":
        from fastrouter.cli.devices import run_devices

        return run_devices(arguments[1:])
    if arguments[0] == "rpc-worker":
        from fastrouter.cli.rpc_worker import run_rpc_worker

        return run_rpc_worker(arguments[1:])
    if arguments[0] == "simulate":
        from fastrouter.cli.simulate import run_simulate

        return run_simulate(arguments[1:])
    if arguments[0] == "bench":
        from fastrouter.cli.bench.command import run_bench

        return run_bench(arguments[1:])
    from fastrouter.cli.completion import run_completion

    return run_completion(arguments[1:] if arguments[0] == "completion" else ["bash"])


def refuse(word: str) -> int:
    """A first word that is neither a verb nor a flag."""
    from fastrouter.system.near_names import did_you_mean

    if word.lower().endswith(".gguf"):
        hint = f", did you mean --model {word}?"
    elif os.path.isdir(word):
        hint = f", did you mean --models-dir {word}?"
    else:
        hint = f", did you mean {MEANT[word]}?" if word in MEANT else did_you_mean(word, ALL_VERBS)
    print(f"fastrouter: there is no verb {word!r}{hint or '.'} The verbs are {', '.join(ALL_VERBS)}", file=sys.stderr)
    return 1
