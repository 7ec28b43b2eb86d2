"""The HTTP parser: the same bytes give the same result however they come, and h11 reads what we take in the same way."""

from http_oracle import is_agreed, ours, splits

SPLITS = 2


def check(data: bytes) -> None:
    whole, *others = (ours(pieces) for pieces in splits(data, count=SPLITS, max_single=300))
    assert all(other == whole for other in others), "the result depends on the pieces"
    assert is_agreed(whole, data), "h11 reads this in another way"
