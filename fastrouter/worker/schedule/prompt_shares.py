"""Which tokens go into the next batch. Pure: numbers in, numbers out; no clock, no llama.cpp.

Invariant: one step is at most one ubatch, so a prompt, however long, holds running streams and new arrivals back for one ubatch.
"""

from collections.abc import Sequence


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
