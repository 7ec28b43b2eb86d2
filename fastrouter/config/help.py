"""The text of --help, made from the table of flags."""

from fastrouter.config.flag import Flag, Kind, Scope
from fastrouter.config.table import TABLE

_PLACEHOLDERS = {
    **dict.fromkeys((Kind.INT, Kind.FLOAT), "N"),
    Kind.MEMORY: "MIB|auto",
    Kind.LAYERS: "N|all|auto",
    Kind.THREE_WAY: "on|off|auto",
    Kind.LIST: "A,B",
    Kind.FILES: "FILE,...",
    Kind.SCALED_FILES: "FILE:SCALE,...",
    Kind.SAMPLERS: "NAME;...",
    Kind.GUESSERS: "TYPE,...",
    Kind.TEXTS: "TEXT",
    Kind.BIAS: "ID+BIAS",
    Kind.FOLDER: "DIR",
    Kind.CPU_MASK: "MASK",
    Kind.CPU_RANGE: "LO-HI",
    Kind.METADATA: "KEY=TYPE:VALUE,...",
    Kind.BUFFERS: "PATTERN=BUFFER,...",
    Kind.DEVICES: "NAME,...|none",
    Kind.SERVERS: "HOST:PORT,...",
    Kind.DEVICE_MEMORY: "auto|MIB|DEVICE=MIB,...",
    Kind.PROPORTIONS: "N,N,...",
    Kind.LAYER_RANGE: "FIRST LAST",
    Kind.NEW_FOLDER: "DIR",
    Kind.SIZES: "N,N,...",
}


def placeholder(flag: Flag) -> str:
    """What is shown for the value in the help."""
    if flag.kind is Kind.SWITCH:
        return ""
    return " " + ("|".join(flag.choices) or _PLACEHOLDERS.get(flag.kind, flag.kind.name))


def help_text() -> str:
    lines = [
        "fastrouter [serve] [flags]                      start the router",
        "fastrouter list|ps|load|unload|chat|logs ...    talk to a running router",
        "fastrouter pull|rm MODEL                        download or remove a model, with or without a running router",
        "fastrouter preset check FILE                    check a preset file and explain it",
        "fastrouter template check FILE|MODEL            test a chat template, and show what it can do",
        "fastrouter bench [MODEL ...]                    measure how long switching models takes here",
        "fastrouter simulate TRACE                       what a run recorded with --record would have been with other limits",
        "fastrouter devices                              what models can compute on, with its memory",
        "fastrouter rpc-worker                           lend the devices of this machine to models of a router elsewhere",
        "fastrouter completion bash|zsh|fish             a script for the shell",
        "fastrouter help [VERB]                          this text, or the help of a verb",
        "",
        "The same flags without dashes can be in /etc/fastrouter/config.ini and in ~/.config/fastrouter/config.ini. Environment variables",
        "come before these files, and flags before both.",
        "(4): the default. [LLAMA_ARG_...]: an environment variable that sets the same. In preset files, flags without dashes are keys.",
    ]
    for scope in Scope:
        flags = [flag for flag in TABLE if flag.scope is scope]
        lines += ["", f"{scope.value}:"]
        for flag in flags:
            names = ", ".join(flag.names + flag.off_names) + placeholder(flag)
            lines += [f"  {names}", f"  {'':<44}"] if len(names) > 44 else [f"  {names:<44}"]
            lines[-1] += f" {flag.help}" + (f" [{flag.env}]" if flag.env else "")
    return "\n".join(lines)
