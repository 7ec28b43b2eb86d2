"""The numbers that stand for the tokens of pictures in prompts. They are negative, and made from a hash: equal pictures, equal numbers.

Pure. A token of text is one position after the token before it. In models with M-RoPE, all tokens of a picture have the position of its
first one, and a picture of 6 x 4 tokens takes 6 positions. So 18 of its numbers say that they are in place, and 6 that they advance.
"""

import hashlib
from array import array

import numpy as np

_SIGN = np.int32(-(1 << 31))
_ADVANCES = np.int32(1 << 30)
_FIRST_ADVANCING = -(1 << 30)  # all smaller numbers are in place


def tokens_of(key: tuple[str, int], num_tokens: int, num_positions: int) -> "array[int]":
    """`key`: equal for equal pictures."""
    digest = hashlib.shake_128(f"{key[0]} {key[1]} {num_tokens}".encode()).digest(4 * num_tokens)
    numbers = np.frombuffer(digest, np.int32) | _SIGN
    num_in_place = max(0, num_tokens - num_positions)
    numbers[:num_in_place] &= ~_ADVANCES
    numbers[num_in_place:] |= _ADVANCES
    return array("i", numbers.tobytes())


def count_in_place(tokens: "array[int]") -> int:
    """How many of these tokens do not advance the position."""
    return int(np.count_nonzero(np.frombuffer(tokens, np.int32) < _FIRST_ADVANCING)) if tokens else 0


def start_outside(tokens: "array[int]", length: int) -> int:
    """The longest start of at most this length that does not end between two tokens of pictures."""
    while 0 < length < len(tokens) and tokens[length - 1] < 0 and tokens[length] < 0:
        length -= 1
    return length
