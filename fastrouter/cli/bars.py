"""Progress of several files together: bars on a terminal, now and then a line elsewhere. Never imports: hub, cli.client.

Invariant: progress goes to stderr, so that the output of a command is only its result.
"""

import sys
from typing import Any
from urllib.parse import unquote, urlsplit

from fastrouter.system.words import size_text

STEP_PERCENT = 10  # between two lines


class Bars:
    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._bars: dict[str, Any] = {}  # tqdm by URL
        self._shown: dict[str, int] = {}  # percent by URL

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def show(self, files: dict[str, dict[str, int]]) -> None:
        """`files` as {url: {done, total}}."""
        for url, file in files.items():
            if self._is_terminal:
                self._draw(url, file["done"], file["total"])
            else:
                self._print(url, file["done"], file["total"])

    def _draw(self, url: str, done: int, total: int) -> None:
        from tqdm import tqdm  # takes 40 ms that other verbs need not spend

        bar = self._bars.get(url)
        if bar is None:
            bar = self._bars[url] = tqdm(desc=_name_of(url), initial=done, total=total, unit="B", unit_scale=True, dynamic_ncols=True)
        bar.update(done - bar.n)

    def _print(self, url: str, done: int, total: int) -> None:
        percent = 100 * done // total if total else 100
        if percent >= self._shown.get(url, -STEP_PERCENT) + STEP_PERCENT or (percent == 100 and self._shown.get(url) != 100):
            self._shown[url] = percent
            print(f"{_name_of(url)}: {percent}% of {size_text(total)}", file=sys.stderr, flush=True)


def _name_of(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]
