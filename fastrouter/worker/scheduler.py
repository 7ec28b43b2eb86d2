"""Which sequences and which tokens go into the next batch. Pure: no clock, no llama.cpp.

Invariant: one step is at most one ubatch, so a prompt, however long, holds running streams and new arrivals back for one ubatch.
"""

from collections.abc import Collection, Sequence
from typing import TypeVar

Group = TypeVar("Group")


def take_turns(order: Sequence[Group], present: Collection[Group]) -> list[Group]:
    """The order of turns after one more of them: it was the last one's turn, and now it is. The first time a group is here it comes
    after those that wait already, so nobody waits longer than for one turn of each of the others."""
    waiting = [group for group in order if group in present]
    waiting += [group for group in present if group not in waiting]
    return waiting[1:] + waiting[:1]


def schedule(num_decoding: int, remaining: Sequence[int], num_rows: int) -> list[int]:
    """How many prompt tokens each prefilling sequence (oldest first) gets beside `num_decoding` decode tokens.

    Half of the room is shared out evenly, so a short prompt does not wait behind a long one; what is left goes to the oldest.
    """
    room = num_rows - num_decoding
    if room <= 0 or not remaining:
        return [0] * len(remaining)
    share = max(1, room // (2 * len(remaining)))
    takes = []
    for count in remaining:
        take = min(count, share, room)
        takes.append(take)
        room -= take
    for index, count in enumerate(remaining):
        more = min(count - takes[index], room)
        takes[index] += more
        room -= more
    return takes
