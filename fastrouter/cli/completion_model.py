"""What can be completed: verbs, options and kinds of values. Plain data."""

from dataclasses import dataclass

FILES, FOLDERS, MODELS = "<files>", "<folders>", "<models>"  # what may follow, in addition to words


@dataclass(frozen=True)
class Option:
    names: tuple[str, ...]
    takes: tuple[str, ...] | None  # None: no value; otherwise words, or one of the three above; (): anything
    help: str


@dataclass(frozen=True)
class Verb:
    name: str  # "": no verb, serve
    help: str
    options: tuple[Option, ...]
    follow: tuple[str, ...] = ()  # what may follow, other than options

    @property
    def option_names(self) -> tuple[str, ...]:
        return tuple(name for option in self.options for name in option.names)
