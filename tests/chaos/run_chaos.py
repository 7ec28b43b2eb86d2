"""`make chaos` runs all rows in full and writes docs/reliability.md; `make soak` runs the random one for half an hour.

python tests/chaos/run_chaos.py [--rows F4,F5] [--share 0.1] [--seed N] [--soak SECONDS] [--report FILE]
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
from chaos_faults import ROWS, Row, f19  # noqa: E402
from chaos_real import real  # noqa: E402
from chaos_report import page, with_rows  # noqa: E402
from conftest import running  # noqa: E402

ALL: dict[str, Row] = {**ROWS, "real": real}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default=",".join(ALL))
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--soak", type=float, help="only F19, for this many seconds")
    parser.add_argument("--report", type=Path)
    asked = parser.parse_args()
    rows = {"F19": partial(f19, seconds=asked.soak)} if asked.soak else {name: ALL[name] for name in asked.rows.split(",")}
    begun, done = time.monotonic(), []
    for name, row in rows.items():
        done.append(run_row(name, row, asked.seed, asked.share))
        print(done[-1], flush=True)
        for problem in done[-1].problems:
            print(f"    {problem}", flush=True)
    if asked.soak:
        done[0].row = "soak"
    if asked.report is not None and len(rows) < len(ALL) and asked.report.exists():
        asked.report.write_text(with_rows(asked.report.read_text(), done))
    elif asked.report is not None:
        asked.report.write_text(page(done, asked.seed, asked.share, time.monotonic() - begun))
    return int(any(counts.problems for counts in done))


def run_row(name: str, row: Row, seed: int, share: float) -> Counts:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as start:
        return asyncio.run(row(start, Path(folder) / name, seed, share))


if __name__ == "__main__":
    sys.exit(main())
