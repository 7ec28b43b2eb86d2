"""States of a connection, and which may follow which. Anything not in the table raises: that is a bug of ours.

Whether a request is being answered is not told here: an open or a refusing connection has an exchange then.
"""

from enum import Enum


class State(Enum):
    OPEN = "open"  # reads requests and answers them
    REFUSING = "refusing"  # bytes came that are not acceptable: reads no more, answers what came before them, then says so
    LINGERING = "lingering"  # the last byte is written; the client may still be sending, and closing now would reset the answer away
    CUT = "cut"  # an answer has ended too early: closes soon
    LOST = "lost"  # the transport is gone


TRANSITIONS: dict[State, frozenset[State]] = {
    State.OPEN: frozenset({State.REFUSING, State.LINGERING, State.CUT, State.LOST}),
    State.REFUSING: frozenset({State.LINGERING, State.CUT, State.LOST}),
    State.LINGERING: frozenset({State.LOST}),
    State.CUT: frozenset({State.LOST}),
    State.LOST: frozenset(),
}


class Wait(Enum):
    """What a connection waits for when the server looks at it, once a second. For all but an answer there is a limit."""

    ANSWER = "an answer"  # of ours
    REQUEST = "a request"  # nothing of it has come
    HEAD = "the rest of a head"
    BODY = "the rest of a body"
    DELIVERY = "delivery"  # of the last bytes, before it closes
    GOODBYE = "the client's goodbye"


def check(old: State, new: State) -> None:
    if new not in TRANSITIONS[old]:
        raise AssertionError(f"a connection cannot go from {old.value} to {new.value}")
