"""What llama.cpp's own tests gave, compared with the list of those that do not pass. Pure, but for the two files."""

import json
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

EXPECTED = Path(__file__).parent / "expected.toml"
WORDS = "words"
KINDS = {  # as the page's table calls them
    WORDS: "other words",
    "trained": "needs the trained model",
    "differs": "differs on purpose",
    "missing": "not there yet",
}
LARGE = "large model, not run"
BEGIN, END = "<!-- llama.cpp's tests: begin -->\n", "<!-- llama.cpp's tests: end -->\n"


@dataclass(frozen=True, slots=True)
class Reason:
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class Outcome:
    outcome: str  # passed | words | failed | skipped | large: it was not run
    why: str = ""


def read_expected(path: Path = EXPECTED) -> dict[str, Reason]:
    """By test."""
    groups = tomllib.loads(path.read_text())["reason"]
    return {test: Reason(group["kind"], group["why"]) for group in groups for test in group["tests"]}


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """The worse of a test and its teardown."""
    found: dict[str, Outcome] = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        if found.get(entry["test"], Outcome("passed")).outcome != "failed":
            found[entry["test"]] = Outcome(entry["outcome"], entry["why"])
    return found


def surprises(outcomes: dict[str, Outcome], expected: dict[str, Reason], *, is_trained: bool = False, is_whole: bool = True) -> list[str]:
    """A line for each test that did what the list does not say. `is_trained`: with the real models, more may pass. `is_whole`: all tests
    were run."""
    lines = [surprise(test, outcome, expected.get(test), is_trained=is_trained) for test, outcome in outcomes.items()]
    gone = [f"{test}: in the list, but there is no such test" for test in expected if is_whole and test not in outcomes]
    return [line for line in lines if line] + gone


def surprise(test: str, outcome: Outcome, reason: Reason | None, *, is_trained: bool) -> str:
    if outcome.outcome in ("skipped", "large") or (is_trained and reason is not None and reason.kind in (WORDS, "trained")):
        return ""
    if reason is None:
        return "" if outcome.outcome == "passed" else f"{test}: {outcome.outcome}, and not in the list: {outcome.why}"
    if outcome.outcome == "passed":
        return f"{test}: passes; take it off the list ({reason.why})"
    wanted = WORDS if reason.kind == WORDS else "failed"
    return "" if outcome.outcome == wanted else f"{test}: {outcome.outcome}, but the list says: {reason.kind} ({outcome.why})"


def table(outcomes: dict[str, Outcome], expected: dict[str, Reason]) -> str:
    """Markdown: a row for each file, and their sum."""
    rows: dict[str, Counter[str]] = {}
    for test, outcome in outcomes.items():
        name = test.partition("::")[0].removeprefix("unit/")
        rows.setdefault(name, Counter())[column(test, outcome, expected)] += 1
    head = ["passed", *KINDS.values(), "failed", "skipped", LARGE]
    used = [name for name in head if any(row[name] for row in rows.values())]
    lines = [["file", "tests", *used]]
    lines += [[f"`{name}`", sum(row.values()), *(row[each] or "" for each in used)] for name, row in sorted(rows.items())]
    total = sum(rows.values(), Counter())
    lines.append(["all", sum(total.values()), *(total[each] for each in used)])
    text = [f"| {' | '.join(map(str, line))} |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(lines[0]), *text[1:]]) + "\n"


def column(test: str, outcome: Outcome, expected: dict[str, Reason]) -> str:
    if outcome.outcome in ("passed", "skipped"):
        return outcome.outcome
    if outcome.outcome == "large":
        return LARGE
    reason = expected.get(test)
    return KINDS[reason.kind] if reason is not None else "failed"


def with_table(page: str, table: str) -> str:
    """The page with this table between its two marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, "the page has no place for the table"
    assert end, "the page has no end of the table"
    return before + begin + table + end + after
