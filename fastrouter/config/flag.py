"""What a flag is: names, environment name, kind, range, and where its value goes.

Never imports: config.table. Invariant: the tables make flags only with `flag()`, so that all of them look alike.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple


class Scope(Enum):
    """Where a value goes; the text is the title of a group in the help."""

    ROUTER = "The router"  # a field of Config
    SOURCE = "The default model (in a preset: this model)"
    MODEL = "How models are loaded"  # a field of LoadOptions
    SAMPLING = "Sampling, if a request does not set it"  # a key of LoadOptions.sampling
    SPECULATION = "Speculative decoding"  # a key of LoadOptions.speculation
    LIFETIME = "When models are loaded and unloaded"  # a field of ModelSpec
    PRESET = "Preset files only"
    READY_MADE = "A known model with its settings; other flags change them"
    NO_EFFECT = "Accepted without effect"
    REMOVED = "Removed from llama-server"
    REFUSED = "Not possible here"


class Kind(Enum):
    SWITCH = "switch"
    INT = "a whole number"
    FLOAT = "a number"
    TEXT = "text"
    PATH = "path"
    FOLDER = "folder"
    LIST = "a comma-separated list"
    FILES = "a comma-separated list of files"
    SCALED_FILES = "a comma-separated list of FILE:SCALE"
    JSON = "a JSON object"
    SAMPLERS = "names of samplers, semicolon-separated"
    LETTERS = "letters of samplers"
    GUESSERS = "types of speculative decoding, comma-separated"
    TEXTS = "text; may be given again"
    BIAS = "a token id and a signed bias, as 15043-1; may be given again"
    LAYERS = "auto, all or a whole number"
    THREE_WAY = "on, off or auto"
    MEMORY = "auto or a number of MiB"
    DEVICE_MEMORY = "auto, a number of MiB, or DEVICE=MIB of single devices, comma-separated"
    CPU_MASK = "a hexadecimal mask of CPUs"
    CPU_RANGE = "a range of CPUs, as 0-3"
    METADATA = "KEY=TYPE:VALUE, comma-separated; TYPE is int, float, bool or str"
    BUFFERS = "PATTERN=BUFFER, comma-separated; PATTERN is a regular expression for names of tensors"
    DEVICES = "names of devices, comma-separated, or none"
    SERVERS = "HOST:PORT of servers, comma-separated; HOST is a name or an IPv4 address"
    PROPORTIONS = "numbers of 0 or more, comma-separated"
    LAYER_RANGE = "two layers, the first and the last, as 4 20"
    NEW_FOLDER = "a folder, which is made if it is not there"
    SIZES = "whole numbers of 0 or more, comma-separated"


@dataclass(frozen=True, slots=True)
class Flag:
    names: tuple[str, ...]  # with dashes; the last one is shown in lists
    off_names: tuple[str, ...]  # --no-x of a switch
    env: str | None
    kind: Kind
    scope: Scope
    target: str  # "": checked, then dropped
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    silent: tuple[Any, ...] = ()  # values that ask for what fastrouter does anyway: no warning
    help: str = ""
    instead: str = ""  # it is accepted without effect; what happens instead, for a warning

    @property
    def name(self) -> str:
        return self.names[-1].lstrip("-")

    @property
    def is_repeated(self) -> bool:
        """Given once for each value."""
        return self.kind in (Kind.TEXTS, Kind.BIAS)

    @property
    def keeps_quotes(self) -> bool:
        """Its value has quotes of its own, for names with a comma."""
        return self.kind in (Kind.FILES, Kind.SCALED_FILES)

    @property
    def is_list(self) -> bool:
        """Given again, it adds to what was given before."""
        return self.is_repeated or self.kind in (Kind.LIST, Kind.SCALED_FILES, Kind.GUESSERS, Kind.METADATA, Kind.BUFFERS)


class Setting(NamedTuple):
    """The value of a flag, wherever it was given."""

    flag: Flag
    value: Any


_NO_OFF_NAMES = ("--no-host", "--no-config")  # flags of their own

Layer = Mapping[str, Setting]  # by the flag's target: two flags with one target (a template and its file) replace each other


def _names_of(names: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    words = names.split()
    off = tuple(word for word in words if word.startswith(("--no-", "-no-", "-nocb", "-nkvo", "-nr")) and word not in _NO_OFF_NAMES)
    return tuple(word for word in words if word not in off), off


def flag(scope: Scope, names: str, env: str, kind: Kind, target: str, help: str = "", **limits: Any) -> Flag:
    on_names, off_names = _names_of(names)
    full = env if not env or env.startswith(("LLAMA_", "HF_TOKEN", "MTMD_")) else f"LLAMA_ARG_{env}"
    return Flag(on_names, off_names, full or None, kind, scope, target, help=help, **limits)
