"""`make chaos` runs all rows in full and writes docs/reliability.md; `make soak` runs the random one for half an hour.

python tests/chaos/run_chaos.py [--rows F4,F5] [--share 0.1] [--seed N] [--soak SECONDS] [--rival LLAMA_SERVER] [--report FILE]

With `--rival`, some of the faults hit llama-server's router too; `--rows none` does nothing else.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE.parent / "support")]

from chaos_client import Counts  # noqa: E402
from chaos_clients import CLIENT_ROWS  # noqa: E402
from chaos_faults import ROWS, Row, f19  # noqa: E402
from chaos_real import real  # noqa: E402
from chaos_report import machine, page, rival_of, when_and_how, with_rival, with_rows  # noqa: E402
from chaos_rival import compare, section  # noqa: E402
from conftest import running  # noqa: E402

ALL: dict[str, Row] = {**CLIENT_ROWS, **ROWS, "real": real}


def main() -> int:
    asked = _arguments()
    rows = {"F19": partial(f19, seconds=asked.soak)} if asked.soak else {name: ALL[name] for name in asked.rows}
    begun, done = time.monotonic(), []
    for name, row in rows.items():
        done.append(run_row(name, row, asked.seed, asked.share))
        print(done[-1], flush=True)
        for problem in done[-1].problems:
            print(f"    {problem}", flush=True)
        if asked.soak or len(rows) < len(ALL):
            done[-1].notes["measured"] = when_and_how(asked.seed, asked.share)
    if asked.soak:
        done[0].row = "soak"
    took_s = time.monotonic() - begun
    rival = _compare(asked) if asked.rival else None
    if asked.report is not None:
        asked.report.write_text(_report(asked, done, took_s, rival))
    return int(any(counts.problems for counts in done))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=_rows, default=list(ALL), help=f"none, or some of {','.join(ALL)}")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--soak", type=float, help="only F19, for this many seconds")
    parser.add_argument("--rival", type=Path, help="a llama-server")
    parser.add_argument("--report", type=Path)
    return parser.parse_args()


def _rows(text: str) -> list[str]:
    names = [] if text == "none" else text.split(",")
    if set(names) - set(ALL):
        raise argparse.ArgumentTypeError(f"the rows are {', '.join(ALL)}")
    return names


def run_row(name: str, row: Row, seed: int, share: float) -> Counts:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as start:
        return asyncio.run(row(start, Path(folder) / name, seed, share))


def _compare(asked: argparse.Namespace) -> str:
    begun = time.monotonic()
    found = compare(asked.rival, asked.seed, asked.share)
    how = f"Measured {when_and_how(asked.seed, asked.share)}, in {time.monotonic() - begun:.0f} s: {machine()}."
    text = section(asked.rival, found, how)
    print(text, flush=True)
    return text


def _report(asked: argparse.Namespace, done: list[Counts], took_s: float, rival: str | None) -> str:
    old = asked.report.read_text() if asked.report.exists() else ""
    is_part = len(done) < len(ALL) and old
    text = with_rows(old, done) if is_part else page(done, asked.seed, asked.share, took_s, rival_of(old))
    return with_rival(text, rival) if rival is not None else text


if __name__ == "__main__":
    sys.exit(main())
