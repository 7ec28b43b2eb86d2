"""The list of llama.cpp's own tests that do not pass: it is well formed, the page agrees with it, and a run that differs is noticed."""

from collections import Counter
from pathlib import Path

import pytest
from conftest import REPOSITORY
from llama_cpp_outcomes import (
    BEGIN,
    END,
    KINDS,
    Outcome,
    Reason,
    read_expected,
    read_outcomes,
    surprises,
    table,
    with_table,
)

PAGE = REPOSITORY / "docs" / "llama-server.md"
EXPECTED = {"unit/test_a.py::test_one[x]": Reason("differs", "on purpose"), "unit/test_a.py::test_two": Reason("words", "a story")}
OUTCOMES = {
    "unit/test_a.py::test_one[x]": Outcome("failed", "assert 200 == 400"),
    "unit/test_a.py::test_one[y]": Outcome("passed"),
    "unit/test_a.py::test_two": Outcome("words"),
    "unit/test_b.py::test_three": Outcome("skipped", "no podman"),
}


def test_every_reason_has_a_kind_and_a_sentence() -> None:
    expected = read_expected()
    assert len(expected) > 50
    for test, reason in expected.items():
        assert reason.kind in KINDS, test
        assert len(reason.why) > 20, test
        assert test.startswith("unit/test_"), test


def test_the_page_has_the_same_numbers() -> None:
    """A row for each file: `make llama-cpp-tests ARGS='--report docs/llama-server.md'` writes them. A listed test may have been skipped."""
    _, _, rest = PAGE.read_text().partition(BEGIN)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rest.partition(END)[0].splitlines()]
    head, rows = lines[0], lines[2:-1]
    listed = Counter((test.partition("::")[0].removeprefix("unit/"), reason.kind) for test, reason in read_expected().items())
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        for kind, title in KINDS.items():
            num_missing = listed[cells["file"].strip("`"), kind] - int(cells.get(title) or 0)
            assert 0 <= num_missing <= int(cells["skipped"] or 0), (cells["file"], title)
        assert not cells.get("failed")
    assert {row[0].strip("`") for row in rows} >= {file for file, _ in listed}


def test_a_run_as_expected() -> None:
    assert surprises(OUTCOMES, EXPECTED) == []
    assert table(OUTCOMES, EXPECTED).splitlines() == [
        "| file | tests | passed | other words | differs on purpose | skipped |",
        "|---|---|---|---|---|---|",
        "| `test_a.py` | 3 | 1 | 1 | 1 |  |",
        "| `test_b.py` | 1 |  |  |  | 1 |",
        "| all | 4 | 1 | 1 | 1 | 1 |",
    ]


@pytest.mark.parametrize(
    ("test", "outcome", "says"),
    [
        ("unit/test_a.py::test_new", Outcome("failed", "assert 1 == 2"), "failed, and not in the list: assert 1 == 2"),
        ("unit/test_a.py::test_new", Outcome("words", ""), "words, and not in the list"),
        ("unit/test_a.py::test_one[x]", Outcome("passed"), "passes; take it off the list (on purpose)"),
        ("unit/test_a.py::test_two", Outcome("passed"), "passes; take it off the list (a story)"),
        ("unit/test_a.py::test_two", Outcome("failed", "500"), "failed, but the list says: words (500)"),
        ("unit/test_a.py::test_one[x]", Outcome("words"), "words, but the list says: differs"),
    ],
)
def test_a_surprise(test: str, outcome: Outcome, says: str) -> None:
    [line] = surprises({**OUTCOMES, test: outcome}, EXPECTED)
    assert line.startswith(f"{test}: {says}")


def test_a_listed_test_that_is_gone() -> None:
    assert surprises({}, EXPECTED, is_whole=False) == []
    assert surprises({}, EXPECTED) == [f"{test}: in the list, but there is no such test" for test in EXPECTED]


def test_with_trained_models_the_words_may_be_right() -> None:
    passed = {**OUTCOMES, "unit/test_a.py::test_two": Outcome("passed")}
    assert surprises(passed, EXPECTED, is_trained=True) == []
    assert len(surprises({**passed, "unit/test_a.py::test_one[x]": Outcome("passed")}, EXPECTED, is_trained=True)) == 1


def test_the_worst_of_a_test_counts(tmp_path: Path) -> None:
    lines = ['{"test": "a", "outcome": "passed", "why": ""}', '{"test": "a", "outcome": "failed", "why": "teardown"}']
    path = tmp_path / "outcomes.jsonl"
    for order in (lines, lines[::-1]):
        path.write_text("\n".join(order))
        assert read_outcomes(path) == {"a": Outcome("failed", "teardown")}


def test_the_table_of_a_page_is_replaced() -> None:
    page = f"before\n{BEGIN}old\n{END}after\n"
    assert with_table(page, "new\n") == f"before\n{BEGIN}new\n{END}after\n"
