"""docs/reliability.md: written by `make chaos`; `make soak`, or a run of some rows, replaces those rows. Never by hand."""

import os
import platform
from datetime import UTC, datetime

from chaos_client import BROKEN, KEPT, REFUSED, Counts, milliseconds

from fastrouter.system.machine import cpu_name

HEAD = """# Reliability

What happens to requests when workers die, hang or lie. This page is written by `make chaos`; the numbers are those of the last run.
A short form of the same rows runs in `make test`.

A stream is **lost** when it ends without `[DONE]` and without an explicit error, or when its text is not exactly what was expected:
something missing, doubled or changed. **Kept**: it was complete and right, although its worker died or hung; the client saw a pause
at most. **Broken**: it ended with an explicit error after a right beginning. **Refused**: an error status instead of a stream.
**Calm** streams run beside it on another model and must all be kept. **Recovery**: the longest pause of a stream that went on, or
the time until the next answer.

"""
RULE = """
After each row the router is the same process, `/health` has answered throughout, and children and descriptors are as before.

## How a hung worker is found

A worker writes two numbers into the memory that it shares with the router: one grows with each turn of its loop, one with each
piece of work, even in the middle of a long `llama_decode`. While a worker has a request, a call or a load, the router reads both
once a second. It kills a worker

- that is stopped by a signal for 5 seconds,
- that gives no sign of life for `--worker-hang-timeout` seconds (30): while it computes, only its processor time counts, so a busy
  machine is not its fault,
- whose loop turns without any progress for as long.

Time in which a worker waits for a disk, computes a load, or is in a debugger does not count, and neither does time in which the
router itself did not run (Ctrl-Z, a suspended machine). An idle worker is not watched: it costs nothing, and if it hangs, its next
request finds out. What follows is the same as after a crash. `--worker-hang-timeout 0` switches this off.

A stopped spare worker or fork server is replaced when a load needs it."""


def page(rows: list[Counts], seed: int, share: float, took_s: float) -> str:
    """The whole file."""
    table = ["| row | what | faults | streams | kept | broken | refused | lost | calm | recovery p50, p99 | /health p99 | more |"]
    table.append("|" + "---|" * 12)
    table += [_line(row) for row in rows]
    day = datetime.now(UTC).date().isoformat()
    where = f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    how_much = "" if share == 1 else f", {share:g} of the full number of faults"
    footer = f"\nMeasured {day} with seed {seed}{how_much}, in {took_s:.0f} s: {where}.\n"
    return HEAD + "\n".join(table) + "\n" + footer + RULE + "\n"


def with_rows(text: str, rows: list[Counts]) -> str:
    """The page with these rows in place of older ones."""
    lines = text.splitlines()
    for row in rows:
        old = [number for number, line in enumerate(lines) if line.startswith(f"| {row.row} |")]
        if old:
            lines[old[0]] = _line(row)
        else:
            lines.insert(max(number for number, line in enumerate(lines) if line.startswith("| ")) + 1, _line(row))
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
