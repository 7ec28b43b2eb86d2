"""Slots: which prompt gets which slot. Pure: no model, no clock."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrouter.worker.kv.slots import Slots, common_prefix

tokens = st.lists(st.integers(0, 3), max_size=12).map(lambda values: array("i", values))


def slots_of(*held: list[int]) -> Slots:
    """Slots with these tokens, the least recently used first."""
    slots = Slots(len(held))
    for slot, values in zip(slots.all, held, strict=True):
        slots.take(slot)
        slot.tokens.extend(values)
        slots.release(slot)
    return slots


def chosen(slots: Slots, prompt: list[int], slot_id: int = -1) -> int | None:
    slot = slots.choose(array("i", prompt), slot_id)
    return None if slot is None else slot.id


@given(tokens, tokens)
def test_common_prefix(a: "array[int]", b: "array[int]") -> None:
    length = common_prefix(a, b)
    assert length == common_prefix(b, a)
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]


def test_empty_slots_first_in_order() -> None:
    slots = Slots(3)
    for expected in (0, 1, 2):
        slot = slots.choose(array("i", [1, 2, 3]))
        assert slot is not None
        assert slot.id == expected
        slots.take(slot)
    assert slots.choose(array("i", [1, 2, 3])) is None


def test_longest_shared_start() -> None:
    slots = slots_of([1, 2, 3], [1, 2, 3, 4, 5], [1, 2])
    assert chosen(slots, [1, 2, 3, 4, 5, 6]) == 1
    assert chosen(slots, [1, 2, 3, 9]) == 0


def test_least_recently_used_when_nothing_is_shared() -> None:
    slots = slots_of([1], [2], [3])
    assert chosen(slots, [9, 9]) == 0
    slots.take(slots.all[0])
    slots.release(slots.all[0])
    assert chosen(slots, [9, 9]) == 1


def test_a_short_shared_start_takes_no_cache_from_others() -> None:
    begin = list(range(100, 105))
    slots = slots_of([7] * 60, begin + [8] * 60)
    assert chosen(slots, begin + [9] * 200) == 0  # 5 of 205
    assert chosen(slots, begin + [9] * 20) == 1  # 5 of 25


def test_an_empty_slot_before_another_conversation() -> None:
    held = [1, *range(100, 160)]
    slots = slots_of(held, [])
    assert chosen(slots, [1, 5, 6]) == 1  # BOS alone
    assert chosen(slots, held[:30]) == 0  # most of the prompt
    assert chosen(slots, [*held, *range(200, 400)]) == 0  # all that is held
    assert chosen(slots, [*held[:20], *range(200, 260)]) == 1


def test_busy_slots_are_left_alone() -> None:
    slots = slots_of([1, 2, 3], [4])
    slots.take(slots.all[0])
    assert chosen(slots, [1, 2, 3]) == 1
    assert slots.to_purge() is slots.all[1]
    with pytest.raises(AssertionError):
        slots.take(slots.all[0])


def test_insisting_on_a_slot() -> None:
    slots = slots_of([1], [2], [3])
    assert chosen(slots, [1], 2) == 2
    assert chosen(slots, [1], 7) == 1
    slots.take(slots.all[2])
    assert chosen(slots, [1], 2) is None


def test_purge_takes_the_oldest_that_holds_something() -> None:
    slots = slots_of([], [1], [2])
    purged = slots.to_purge()
    assert purged is slots.all[1]
    del slots.all[1].tokens[:], slots.all[2].tokens[:]
    assert slots.to_purge() is None


@given(st.lists(tokens, min_size=1, max_size=5), st.lists(st.booleans(), min_size=5, max_size=5), tokens)
def test_always_an_idle_slot_or_none(held: list["array[int]"], busy: list[bool], prompt: "array[int]") -> None:
    slots = slots_of(*(list(values) for values in held))
    for slot, is_busy in zip(slots.all, busy, strict=False):
        if is_busy:
            slots.take(slot)
    slot = slots.choose(prompt)
    if not slots.idle:
        assert slot is None
        return
    assert slot in slots.idle
    if any(not other.tokens for other in slots.idle) and slot.tokens:
        assert 2 * common_prefix(slot.tokens, prompt) >= min(len(prompt), len(slot.tokens))


def test_release_is_idempotent() -> None:
    slots = slots_of([1], [2])
    slots.take(slots.all[0])
    slots.release(slots.all[0])
    last_used = slots.all[0].last_used
    slots.release(slots.all[0])
    assert slots.all[0].last_used == last_used
    assert repr(slots) == "<Slots 1 1>"
