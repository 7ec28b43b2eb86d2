"""What the standalone executable runs: the command line, or one of its modules as a separate process (see system/reexec.py).

An executable that contains a model serves it when the user names none.
"""

import os
import runpy
import sys

MODULES = ("fastrouter.worker", "fastrouter.hub", "fastrouter.api.tools")
RUN_MODULE = "--run-module"
NAMES_A_MODEL = ("-m", "--model", "-hf", "-hfr", "--hf-repo", "-hff", "--hf-file")
MODEL_VARIABLES = ("LLAMA_ARG_MODEL", "LLAMA_ARG_HF_REPO")


def with_own_model(arguments: list[str], environment: dict[str, str]) -> list[str]:
    """The arguments to serve with; verbs and questions (--help) stay as they are."""
    model = environment.get("FASTROUTER_MODEL_FILE")
    serves = not arguments or arguments[0].startswith("-")
    is_named = any(word.split("=")[0] in NAMES_A_MODEL for word in arguments) or any(environment.get(name) for name in MODEL_VARIABLES)
    return [*arguments, "--model", model] if model and serves and not is_named else arguments


def main() -> int:
    from fastrouter.system.standard_streams import open_missing

    open_missing()
    if sys.argv[1:2] == [RUN_MODULE]:
        if not set(sys.argv[2:3]) & set(MODULES):
            sys.stderr.write(f"fastrouter: {RUN_MODULE} is for fastrouter itself\n")
            return 2
        name = sys.argv[2]
        del sys.argv[1:3]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        return 0
    sys.argv[1:] = with_own_model(sys.argv[1:], dict(os.environ))
    from fastrouter.cli import main as command_line

    return command_line()


if __name__ == "__main__":
    sys.exit(main())
