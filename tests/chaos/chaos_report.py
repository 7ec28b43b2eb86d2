"""docs/reliability.md: page.md with the counts. Written by `make chaos`; `make soak`, or a run of some rows, replaces those rows. Never by
hand."""

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

from chaos_client import BROKEN, KEPT, REFUSED, Counts, milliseconds

from fastrouter.system.machine import cpu_name

PAGE = Path(__file__).with_name("page.md")
HEADER = "| row | what | faults | streams | kept | broken | refused | lost | calm | recovery p50, p99 | /health p99 | more |"
RIVAL = re.compile(r"(?<=\n## Beside llama-server's router\n\n).*?(?=\n\n## )", re.S)
NO_RIVAL = "Not measured yet: `make chaos RIVAL=/path/to/llama-server` does it."


def page(rows: list[Counts], seed: int, share: float, took_s: float, rival: str = NO_RIVAL) -> str:
    """The whole file."""
    table = [HEADER, "|" + "---|" * HEADER.count(" | ") + "---|", *map(_line, rows)]
    measured = f"Measured {when_and_how(seed, share)}, in {took_s:.0f} s: {machine()}."
    return PAGE.read_text().replace("{rows}", "\n".join(table)).replace("{measured}", measured).replace("{rival}", rival)


def when_and_how(seed: int, share: float) -> str:
    how_much = "" if share == 1 else f", {share:g} of the full number of faults"
    return f"{datetime.now(UTC).date().isoformat()} with seed {seed}{how_much}"


def machine() -> str:
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{cpu_name()}, {os.cpu_count()} cores, {system}, load average {os.getloadavg()[2]:.1f}"


def rival_of(text: str) -> str:
    """The comparison on a page."""
    found = RIVAL.search(text)
    return found[0] if found else NO_RIVAL


def with_rival(text: str, rival: str) -> str:
    return RIVAL.sub(lambda _: rival, text)


def with_rows(text: str, rows: list[Counts]) -> str:
    """The page with these rows in place of older ones."""
    lines = text.splitlines()
    for row in rows:
        begin = lines.index(HEADER)
        end = next(number for number in range(begin, len(lines)) if not lines[number])
        old = [number for number in range(begin, end) if lines[number].startswith(f"| {row.row} |")]
        lines[old[0] if old else end : old[0] + 1 if old else end] = [_line(row)]
    return "\n".join(lines) + "\n"


def _line(row: Counts) -> str:
    faults = ", ".join(f"{name} {count}" for name, count in sorted(row.faults.items()))
    recovery = f"{milliseconds(row.recovery_s, 50)}, {milliseconds(row.recovery_s, 99)}" if row.recovery_s else ""
    cells = [row.row, row.what, f"{sum(row.faults.values())}: {faults}", sum(row.streams.values())]
    cells += [
        *(row.streams[kind] for kind in (KEPT, BROKEN, REFUSED)),
        row.num_lost,
        f"{row.calm[KEPT]} of {sum(row.calm.values())} kept" if row.calm else "",
        recovery,
    ]
    cells += [milliseconds(row.health_s, 99), "; ".join(f"{name} {value}" for name, value in row.notes.items())]
    return "| " + " | ".join(map(str, cells)) + " |"
