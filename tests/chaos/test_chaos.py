"""A short form of the matrix of faults; `make chaos` runs all of it, `make soak` half an hour of F19. See run_chaos.py."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from chaos_client import BROKEN, KEPT, LOST, REFUSED, Events, judge, percentile
from chaos_faults import ROWS, slope
from chaos_real import real
from chaos_report import page, with_rows
from conftest import StartRouter

SHARES = {"F4": 0.07, "F5": 0.1, "F6": 0.2, "F7": 0.03, "F8": 0.1, "F17": 0.1, "F19": 0.03}
SEED = 7


@pytest.mark.parametrize("name", ROWS)
def test_nothing_is_lost(name: str, router: StartRouter, tmp_path: Path) -> None:

    counts = asyncio.run(ROWS[name](router, tmp_path / "models", SEED, SHARES[name]))
    print(counts)
    assert not counts.problems, f"{counts}: {counts.problems}"
    assert counts.num_lost == 0
    assert sum(counts.faults.values()) >= 2
    text = page([counts], SEED, SHARES[name], 1.0)
    assert f"| {counts.row} |" in text
    assert with_rows(text, [counts]) == text
    other = replace(counts, row="soak")
    assert with_rows(with_rows(text, [other]), [other]).count("| soak |") == 1


def test_nothing_is_lost_with_real_workers(router: StartRouter, tmp_path: Path) -> None:

    counts = asyncio.run(real(router, tmp_path / "real", SEED, 0.1))
    assert not counts.problems, f"{counts}: {counts.problems}"


# ---------------------------------------------------------------- the checker itself


@pytest.mark.parametrize(
    ("status", "data", "kind"),
    [
        (200, b'data: {"choices":[{"delta":{"content":"a b"}}]}\n\ndata: [DONE]\n\n', KEPT),
        (200, b'data: {"choices":[{"delta":{"content":"a "}}]}\n\ndata: [DONE]\n\n', LOST),  # a part is missing
        (200, b'data: {"choices":[{"delta":{"content":"a a b"}}]}\n\ndata: [DONE]\n\n', LOST),  # doubled
        (200, b'data: {"choices":[{"delta":{"content":"a "}}]}\n\n', LOST),  # neither an end nor an error
        (200, b'data: {"choices":[{"delta":{"content":"a "}}]}\n\ndata: {"error":{"message":"m"}}\n\n', BROKEN),
        (200, b'data: {"choices":[{"delta":{"content":"b "}}]}\n\ndata: {"error":{"message":"m"}}\n\n', LOST),  # wrong before it
        (200, b'data: {"error":{"message":"m"}}\n\ndata: [DONE]\n\n', LOST),  # looks like success
        (503, b'{"error":{"message":"m"}}', REFUSED),
        (503, b"", LOST),
    ],
)
def test_what_counts_as_lost(status: int, data: bytes, kind: str) -> None:

    async def judged() -> str:
        events = Events(lambda count: None)
        events.status = status
        (events.feed if status == 200 else events.take_refusal)(data)
        return judge(events, "a b", "")[0]

    assert asyncio.run(judged()) == kind


def test_numbers() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([float(value) for value in range(100)], 99) == 99.0
    assert slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == 2.0
