"""The verbs of the command line, grouped by what they talk to."""

DOWNLOAD_VERBS = ("pull", "rm")
VERBS = ("list", "ps", "load", "unload", "chat", "logs")
# Their names in other programs.
MEANT = {
    "run": "chat",
    "start": "serve",
    "server": "serve",
    "up": "serve",
    "ls": "list",
    "models": "list",
    "status": "ps",
    "stop": "unload",
    "remove": "rm",
    "delete": "rm",
    "download": "pull",
    "version": "--version",
}
ALL_VERBS = ("serve", *VERBS, *DOWNLOAD_VERBS, "preset", "template", "bench", "simulate", "devices", "rpc-worker", "completion", "help")
