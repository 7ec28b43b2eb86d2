"""States of a connection, and which may follow which. A change that is not in the table raises: it is our own bug.

A state does not show whether a request is being answered: then an open or a refusing connection has an exchange.
"""

from enum import Enum


class State(Enum):
    OPEN = "open"  # reads requests and answers them
    REFUSING = "refusing"  # unacceptable bytes arrived: stops reading, answers the earlier requests, then sends the error
    LINGERING = "lingering"  # the last byte is written; the client may still send, and if we closed now, a reset would delete the answer
    CUT = "cut"  # an answer has ended too early: closes soon
    LOST = "lost"  # the transport has ended


TRANSITIONS: dict[State, frozenset[State]] = {
    State.OPEN: frozenset({State.REFUSING, State.LINGERING, State.CUT, State.LOST}),
    State.REFUSING: frozenset({State.LINGERING, State.CUT, State.LOST}),
    State.LINGERING: frozenset({State.LOST}),
    State.CUT: frozenset({State.LOST}),
    State.LOST: frozenset(),
}


class Wait(Enum):
    """What a connection waits for when the server looks at it, once a second. Every wait except ANSWER has a limit."""

    ANSWER = "an answer"  # of ours
    REQUEST = "a request"  # no byte of it has arrived
    HEAD = "the rest of a head"
    BODY = "the rest of a body"
    DELIVERY = "delivery"  # of the last bytes, before the connection closes
    GOODBYE = "the client's goodbye"


def check(old: State, new: State) -> None:
    if new not in TRANSITIONS[old]:
        raise AssertionError(f"a connection cannot go from {old.value} to {new.value}")
