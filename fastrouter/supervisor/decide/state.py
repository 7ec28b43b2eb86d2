"""States of an instance, and which may follow which. A change that is not in the table raises: it is a mistake in this program.

A model without an instance is unloaded or asleep; when asleep it keeps its place, and the next request loads it. An instance exists from
the start of its load until its process is gone.
"""

from enum import Enum


class State(Enum):
    LOADING = "loading"
    LOADED = "loaded"
    DRAINING = "draining"  # admits nothing, so that a waiting model gets its turn; may be undone
    STOPPING = "stopping"  # admits nothing, finishes its requests, then ends
    DYING = "dying"  # killed, or parking its prompts; the process has not ended yet, and its memory is being freed


TRANSITIONS: dict[State, frozenset[State]] = {
    State.LOADING: frozenset({State.LOADED, State.DYING}),
    State.LOADED: frozenset({State.DRAINING, State.STOPPING, State.DYING}),
    State.DRAINING: frozenset({State.LOADED, State.STOPPING, State.DYING}),
    State.STOPPING: frozenset({State.DYING}),
    State.DYING: frozenset(),
}

PUBLIC = {  # the words of llama-server
    State.LOADING: "loading",
    State.LOADED: "loaded",
    State.DRAINING: "loaded",
    State.STOPPING: "loaded",
    State.DYING: "unloaded",
}


def check(old: State, new: State) -> None:
    if new not in TRANSITIONS[old]:
        raise AssertionError(f"an instance cannot go from {old.value} to {new.value}")
