"""The ring's protocol, in all interleavings of a small model; and that the model speaks of the ring that there is."""

import re
from pathlib import Path

import pytest
from ring_model import BUGS, CANCEL_BUGS, STEPS, Broken, explore, explore_cancels

SOURCE = (Path(__file__).parent.parent.parent / "fastrouter" / "core" / "ring.pxi").read_text()
SHARED = re.compile(r"fr_load\(|fr_store\(|fr_set_asleep\(|fr_take_asleep\(|fr_signal\(|fr_clear\(|__atomic_|memcpy\(")


def body_of(function: str) -> list[str]:
    """Its lines below the first one; of a C function on one line, what is in the braces."""
    lines = SOURCE.splitlines()
    [start] = [n for n, line in enumerate(lines) if re.search(rf"(def|static)\b.*\b{function}\(.*(:|\{{|\}})$", line)]
    if lines[start].endswith("}"):
        return [lines[start].partition("{")[2].removesuffix("}").strip()]
    indent = len(lines[start]) - len(lines[start].lstrip())
    ends = (n for n in range(start + 1, len(lines)) if lines[n].strip() and len(lines[n]) - len(lines[n].lstrip()) <= indent)
    return [line.strip() for line in lines[start + 1 : next(ends)]]


@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_a_line_of_the_ring(step: str) -> None:
    function, line = STEPS[step]
    assert line in body_of(function), f"{function} has changed: ring_model.py must follow"


@pytest.mark.parametrize("function", sorted({function for function, _ in STEPS.values()}))
def test_each_shared_access_of_the_ring_is_a_step(function: str) -> None:
    quoted = {line for of, line in STEPS.values() if of == function}
    assert {line for line in body_of(function) if SHARED.search(line)} <= quoted, "ring_model.py must follow"


@pytest.mark.parametrize("can_die", [False, True])
def test_every_interleaving_is_right(can_die: bool) -> None:
    assert explore(can_die=can_die) > 10_000


@pytest.mark.parametrize("bug", BUGS)
def test_every_seeded_bug_is_found(bug: str) -> None:
    with pytest.raises(Broken) as found:
        explore(bug, can_die=bug == "no last drain")
    assert found.value.path, BUGS[bug]


def test_a_cancel_stops_only_the_decode_of_its_request() -> None:
    assert explore_cancels() > 20


@pytest.mark.parametrize("bug", CANCEL_BUGS)
def test_every_seeded_bug_of_cancels_is_found(bug: str) -> None:
    with pytest.raises(Broken):
        explore_cancels(bug)
