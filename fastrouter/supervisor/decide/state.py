"""States of an instance, and which may follow which. Anything not in the table raises: that is a bug of ours.

A model without an instance is unloaded, or asleep: then it keeps its place and wakes with the next request. An instance exists from the
start of its load until its process is gone.
"""

from enum import Enum


class State(Enum):
    LOADING = "loading"
    LOADED = "loaded"
    DRAINING = "draining"  # admits nothing so that a waiting model gets its turn; may be called back
    STOPPING = "stopping"  # admits nothing, finishes what it has, then ends
    DYING = "dying"  # killed, not yet reaped; its memory is on its way back


TRANSITIONS: dict[State, frozenset[State]] = {
    State.LOADING: frozenset({State.LOADED, State.DYING}),
    State.LOADED: frozenset({State.DRAINING, State.STOPPING, State.DYING}),
    State.DRAINING: frozenset({State.LOADED, State.STOPPING, State.DYING}),
    State.STOPPING: frozenset({State.DYING}),
    State.DYING: frozenset(),
}

PUBLIC = {  # llama-server's words
    State.LOADING: "loading",
    State.LOADED: "loaded",
    State.DRAINING: "loaded",
    State.STOPPING: "loaded",
    State.DYING: "unloaded",
}


def check(old: State, new: State) -> None:
    if new not in TRANSITIONS[old]:
        raise AssertionError(f"an instance cannot go from {old.value} to {new.value}")
