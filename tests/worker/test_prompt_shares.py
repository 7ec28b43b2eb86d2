"""The scheduler: which prompt tokens go into the next batch. Pure numbers."""

from hypothesis import given
from hypothesis import strategies as st

from fastrouter.worker.schedule.prompt_shares import schedule

remaining = st.lists(st.integers(1, 5000), max_size=20)


@given(st.integers(0, 300), remaining, st.integers(1, 2048))
def test_invariants(num_decoding: int, counts: list[int], num_rows: int) -> None:
    takes = schedule(num_decoding, counts, num_rows)
    assert len(takes) == len(counts)
    assert all(0 <= take <= count for take, count in zip(takes, counts, strict=True))
    room = max(0, num_rows - num_decoding)
    # No row stays empty while a prompt waits.
    assert sum(takes) == min(room, sum(counts))
    # The oldest always gets on.
    assert not counts or not room or takes[0] > 0


@given(st.integers(0, 100), st.lists(st.integers(1, 5000), min_size=1, max_size=8), st.integers(256, 2048))
def test_short_prompts_do_not_wait_behind_long_ones(num_decoding: int, counts: list[int], num_rows: int) -> None:
    takes = schedule(num_decoding, counts, num_rows)
    share = (num_rows - num_decoding) // (2 * len(counts))
    for take, count in zip(takes, counts, strict=True):
        assert take >= min(count, share)


@given(remaining, st.integers(1, 512), st.integers(0, 400))
def test_everything_is_done_in_the_end(counts: list[int], num_rows: int, num_decoding: int) -> None:
    left = list(counts)
    num_decoding = min(num_decoding, num_rows - 1)
    num_steps = 0
    while any(left):
        alive = [count for count in left if count]
        takes = iter(schedule(num_decoding, alive, num_rows))
        left = [count - next(takes) if count else 0 for count in left]
        num_steps += 1
        assert num_steps <= sum(counts)
    room = num_rows - num_decoding
    assert num_steps == -(-sum(counts) // room)


def test_examples() -> None:
    assert schedule(0, [], 512) == []
    assert schedule(0, [100], 512) == [100]
    assert schedule(4, [5000], 512) == [508]
    assert schedule(512, [5], 512) == [0]
    assert schedule(600, [5, 5], 512) == [0, 0]
    assert schedule(0, [5000, 10], 512) == [502, 10]
    assert schedule(0, [5000, 5000], 512) == [384, 128]
    assert schedule(510, [9, 9, 9], 512) == [1, 1, 0]
