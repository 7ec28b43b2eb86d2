"""Turns of groups that cannot share a batch: each gets its turn, whatever groups come and go. Pure: no clock."""

from hypothesis import given
from hypothesis import strategies as st

from fastrouter.worker.schedule.adapter_turns import TURN_NS, Turns


def served(turns: Turns[str], present: str, start_ns: int, step_ns: int, num_steps: int) -> str:
    return "".join(turns.next(present, start_ns + step_ns * number) for number in range(num_steps))


def test_long_steps_alternate() -> None:
    assert served(Turns(), "abc", 0, TURN_NS, 7) == "abcabca"


def test_short_steps_stay_together() -> None:
    assert served(Turns(), "ab", 0, TURN_NS // 3 + 1, 9) == "aaabbbaaa"


def test_alone_it_is_always_its_turn() -> None:
    assert served(Turns(), "a", 0, TURN_NS, 5) == "aaaaa"


def test_a_newcomer_comes_after_those_that_wait() -> None:
    turns: Turns[str] = Turns()
    assert turns.next("ab", 0) == "a"
    assert served(turns, "cab", TURN_NS, TURN_NS, 4) == "bcab"


def test_a_group_that_has_gone_gives_its_turn_up_at_once() -> None:
    turns: Turns[str] = Turns()
    assert turns.next("ab", 0) == "a"
    assert turns.next("b", 1) == "b"
    assert served(turns, "ba", 2, TURN_NS, 3) == "bab"


def test_endless_new_groups_keep_none_waiting() -> None:
    turns: Turns[int] = Turns()
    chosen = [turns.next([number, number + 1, -1], TURN_NS * number) for number in range(1, 60)]
    assert chosen.count(-1) >= 59 // 3


@given(st.lists(st.tuples(st.sets(st.integers(0, 5), min_size=1), st.integers(0, 2 * TURN_NS)), min_size=1, max_size=60))
def test_a_wait_is_one_turn_of_each_that_was_there_before(steps: list[tuple[set[int], int]]) -> None:
    turns: Turns[int] = Turns()
    ahead: dict[int, set[int]] = {}  # of a waiting group: those that may still have a turn before it
    now, last = 0, None
    for present, duration in steps:
        chosen = turns.next(sorted(present), now)
        assert chosen in present
        ahead = {group: rest & present for group, rest in ahead.items() if group in present}
        for group in present - {chosen}:
            if group not in ahead:
                ahead[group] = present - {group}
            elif chosen != last:
                assert chosen in ahead[group], "a second turn before somebody's first"
                ahead[group].discard(chosen)
        ahead.pop(chosen, None)
        now, last = now + duration, chosen
