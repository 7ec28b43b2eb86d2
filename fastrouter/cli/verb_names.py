"""The verbs of the command line, by what they talk to."""

DOWNLOAD_VERBS = ("pull", "rm")
VERBS = ("list", "ps", "load", "unload", "chat", "logs")
ALL_VERBS = ("serve", *VERBS, *DOWNLOAD_VERBS, "preset", "bench", "completion", "help")
