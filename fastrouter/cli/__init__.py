"""The `fastrouter` command: flags serve, verbs talk to a running router. Knows no flag; imports only what the chosen one needs."""

import sys

from fastrouter.streams import open_missing

DOWNLOAD_VERBS = ("pull", "rm")
VERBS = ("list", "ps", "load", "unload", "chat", "logs")


def main() -> int:
    open_missing()
    arguments = sys.argv[1:]
    if arguments and arguments[0] in VERBS:
        from fastrouter.cli.client import run_verb

        return run_verb(arguments)
    if arguments and arguments[0] in DOWNLOAD_VERBS:
        from fastrouter.cli import pull

        return pull.run_verb(arguments)
    if arguments and arguments[0] == "preset":
        from fastrouter.cli.presets import run_preset

        return run_preset(arguments)
    if arguments and arguments[0] == "bench":
        from fastrouter.cli.bench import run_bench

        return run_bench(arguments[1:])
    if (arguments and arguments[0] == "completion") or "--completion-bash" in arguments:
        from fastrouter.cli.completion import run_completion

        return run_completion(arguments[1:] if arguments[0] == "completion" else ["bash"])
    from fastrouter.cli.serve import serve

    return serve(arguments)
