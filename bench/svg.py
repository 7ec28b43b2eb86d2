"""Writes small SVG drawings that can be read on a light and on a dark page. Knows nothing of benchmarks.

Invariant: no script and no font from elsewhere; the same calls give the same bytes.
"""

import math
from collections.abc import Iterable
from xml.sax.saxutils import escape

NUM_SERIES = 7
_LIGHT = ("#2563eb", "#c2570c", "#0f8a5f", "#8b3fc7", "#b3261e", "#0e7c8c", "#6b7280")
_DARK = ("#6ea8fe", "#f0a35e", "#4fd1a5", "#c79bf2", "#ff8a80", "#5fcfdf", "#a3acb9")


def _style() -> str:
    def rules(paper: str, ink: str, muted: str, grid: str, series: Iterable[str]) -> str:
        plain = f".paper{{fill:{paper}}}.ink{{fill:{ink}}}.muted{{fill:{muted}}}.grid{{stroke:{grid}}}"
        return plain + "".join(f".f{number}{{fill:{colour}}}.l{number}{{stroke:{colour}}}" for number, colour in enumerate(series))

    light = rules("#ffffff", "#1c2430", "#5b6675", "#e1e5ea", _LIGHT)
    dark = rules("#12171f", "#e6eaf0", "#9aa5b4", "#2c3542", _DARK)
    return (
        f"text{{font:12px system-ui,sans-serif}}.head{{font-size:15px;font-weight:600}}{light}@media(prefers-color-scheme:dark){{{dark}}}"
    )


class Drawing:
    """Coordinates are pixels from the upper left corner. `series` 0 to NUM_SERIES - 1 has a colour."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size = width, height
        self._title = title
        self._parts = [f'<rect class="paper" width="{width}" height="{height}" rx="8"/>']
        self.text(16, 26, title, "ink head")

    def text(self, x: float, y: float, words: str, classes: str = "ink", anchor: str = "start") -> None:
        self._parts.append(f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>')

    def bar(self, x: float, y: float, width: float, height: float, series: int, hint: str = "") -> None:
        inner = f"<title>{escape(hint)}</title>" if hint else ""
        self._parts.append(f'<rect class="f{series}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}">{inner}</rect>')

    def dot(self, x: float, y: float, series: int, radius: float = 3.0, opacity: float = 1.0) -> None:
        self._parts.append(f'<circle class="f{series}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill-opacity="{opacity:g}"/>')

    def line(self, points: Iterable[tuple[float, float]], series: int | None = None, width: float = 2.0) -> None:
        """`series` None: a line of the grid."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        name, thickness = ("grid", 1.0) if series is None else (f"l{series}", width)
        self._parts.append(f'<polyline class="{name}" fill="none" stroke-width="{thickness:g}" points="{path}"/>')

    def legend(self, x: float, y: float, entries: Iterable[tuple[str, int]]) -> None:
        """In one row; 6.5 pixels are a character, roughly."""
        for words, series in entries:
            self.bar(x, y - 10, 11, 11, series)
            self.text(x + 16, y, words, "muted")
            x += 34 + 6.5 * len(words)

    def to_text(self) -> str:
        width, height = self._size
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
        return "\n".join([head, f"<title>{escape(self._title)}</title><style>{_style()}</style>", *self._parts, "</svg>", ""])


class LogScale:
    """From values to pixels; equal ratios are equal distances."""

    def __init__(self, values: Iterable[float], pixels: tuple[float, float]) -> None:
        found = [value for value in values if value > 0]
        low, high = min(found), max(found)
        self._low, self._high = math.log10(low) - 0.05, math.log10(high) + 0.05
        self._from, self._to = pixels

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._from + share * (self._to - self._from)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times a power of ten; only powers of ten where these would be too many."""
        powers = range(math.floor(self._low), math.ceil(self._high) + 1)
        steps = (1, 2, 5) if self._high - self._low < 2.5 else (1,)
        found = [step * 10.0**power for power in powers for step in steps]
        return [value for value in found if self._low <= math.log10(value) <= self._high]


class LinearScale:
    """From 0 and values to pixels."""

    def __init__(self, highest: float, pixels: tuple[float, float]) -> None:
        self._step = self._step_of(highest)
        self._highest = max(highest, self._step)
        self._from, self._to = pixels

    @staticmethod
    def _step_of(highest: float) -> float:
        rough = highest / 5
        power = 10.0 ** math.floor(math.log10(rough))
        return next(step * power for step in (1, 2, 5, 10) if step * power >= rough)

    def __call__(self, value: float) -> float:
        return self._from + value / self._highest * (self._to - self._from)

    def ticks(self) -> list[float]:
        return [self._step * number for number in range(int(self._highest / self._step) + 1)]
