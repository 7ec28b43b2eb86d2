"""A short form of the matrix of faults; `make chaos` runs all of it, `make soak` half an hour of F19. See run_chaos.py."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from chaos_client import BROKEN, KEPT, LOST, PATIENCE_S, REFUSED, Answer, Events, judge, percentile
from chaos_clients import CLIENT_ROWS
from chaos_faults import ROWS, slope
from chaos_real import real
from chaos_report import NO_RIVAL, page, rival_of, with_rival, with_rows
from chaos_rival import ending_of, make_models, measure, table
from conftest import StartRouter

SHARES = {"F1": 0.02, "F3": 0.03, "F4": 0.07, "F5": 0.1, "F6": 0.2, "F7": 0.03, "F8": 0.1, "F17": 0.1, "F19": 0.03}
SEED = 7
ALL = CLIENT_ROWS | ROWS


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_lost(name: str, router: StartRouter, tmp_path: Path) -> None:

    counts = asyncio.run(ALL[name](router, tmp_path / "models", SEED, SHARES[name]))
    print(counts)
    assert not counts.problems, f"{counts}: {counts.problems}"
    assert counts.num_lost == 0
    assert sum(counts.faults.values()) >= 2
    text = page([counts], SEED, SHARES[name], 1.0)
    assert f"| {counts.row} |" in text
    assert with_rows(text, [counts]) == text
    other = replace(counts, row="soak")
    assert with_rows(with_rows(text, [other]), [other]).count("| soak |") == 1
    assert rival_of(text) == NO_RIVAL
    assert rival_of(with_rival(with_rows(text, [other]), "a table\n\nand a line")) == "a table\n\nand a line"


def test_nothing_is_lost_with_real_workers(router: StartRouter, tmp_path: Path) -> None:

    counts = asyncio.run(real(router, tmp_path / "real", SEED, 0.1))
    assert not counts.problems, f"{counts}: {counts.problems}"


def test_what_is_compared_with_a_rival(tmp_path: Path) -> None:
    """The part of the comparison that hits this router."""
    folder = make_models(tmp_path)
    found = measure(None, folder, SEED, 0.1, PATIENCE_S)
    assert sum(endings.streams.total() for endings in found) == 4 + 2 + 8
    *workers, router = found
    for endings in workers:
        assert endings.streams["went on"] == endings.streams.total(), endings
        assert endings.num_served == endings.num_next
    assert (router.streams["cut"], router.left[True]) == (8, 0)
    lines = table({"ours": found, "theirs": found}).splitlines()
    assert len(lines) == 2 + 2 * len(found)
    assert {line.count("|") for line in lines} == {len(lines[0].split("|")) - 1}


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


@pytest.mark.parametrize(
    ("answer", "ending"),
    [
        (Answer(KEPT), "went on"),
        (Answer(BROKEN), "error"),
        (Answer(REFUSED), "error"),
        (Answer(LOST, status=500), "error"),
        (Answer(LOST, is_hung=True), "hung"),
        (Answer(LOST, is_cut=True), "cut"),
        (Answer(LOST), "looks complete"),
    ],
)
def test_how_a_stream_ends(answer: Answer, ending: str) -> None:
    assert ending_of(answer) == ending


def test_numbers() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([float(value) for value in range(100)], 99) == 99.0
    assert slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == 2.0
