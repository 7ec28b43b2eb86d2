"""argparse, with the nearest option for one that is misspelt."""

import argparse
from typing import NoReturn

from fastrouter.system.near_names import did_you_mean

_UNKNOWN = "unrecognized arguments: "


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.startswith(_UNKNOWN):
            word = next((word for word in message.removeprefix(_UNKNOWN).split() if word.startswith("-")), "")
            message += did_you_mean(word.partition("=")[0], self._all_options())
        super().error(message)

    def _all_options(self) -> list[str]:
        """Its options and those of its verbs; argparse has no public list of them."""
        parsers: list[argparse.ArgumentParser] = [self]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
        return [name for parser in parsers for action in parser._actions for name in action.option_strings]
