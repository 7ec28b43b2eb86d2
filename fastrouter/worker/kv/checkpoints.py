"""Checkpoints: copies of the part of a slot's memory that cannot be cut (windows, recurrent states), after a start of its tokens.

Checkpoints are taken while a prompt is computed, so that another prompt with the same start can continue there. Never imports:
worker.kv.prefixes. Invariant: a slot's checkpoints are of starts of its own tokens; the slot's owner drops all others.
"""

from collections.abc import Sequence

from fastrouter.options.load import LoadOptions
from fastrouter.system.machine import available_bytes
from fastrouter.worker.kv.slots import Checkpoint, Slot
from fastrouter.worker.llama.sequence_state import States

NUM_LAST = 4  # tokens after the last one of a prompt, as in llama-server: the same prompt again, or with another end, begins there
MIN_PROMPT = 64  # tokens; a shorter prompt gets no checkpoint: it would cost one more step, and the prompt is computed again quickly
MEMORY_SHARE = 16  # all together take at most this part of the available memory


def longest(checkpoints: Sequence[Checkpoint], length: int) -> Checkpoint | None:
    """The last one of at most that length."""
    return next((checkpoint for checkpoint in reversed(checkpoints) if checkpoint.length <= length), None)


def to_drop(checkpoints: Sequence[Checkpoint]) -> int:
    """The one that is least useful, but never the last one: it is nearest to the one before it."""
    starts = [0, *(checkpoint.length for checkpoint in checkpoints)]
    return min(range(max(1, len(checkpoints) - 1)), key=lambda index: starts[index + 1] - starts[index])


def stop_at_checkpoint(num_prompt: int, start: int, end: int) -> int:
    """The end of the prompt's piece from `start` to `end`: not after the place of its last checkpoint."""
    last = num_prompt - NUM_LAST
    return last if start < last < end and num_prompt >= MIN_PROMPT else end


class Checkpoints:
    """For all slots of one context."""

    def __init__(self, states: States, options: LoadOptions, num_slots: int, *, is_needed: bool) -> None:
        self.is_on = is_needed and options.ctx_checkpoints > 0
        self._states = states
        self._most = options.ctx_checkpoints
        self._min_step = max(1, options.checkpoint_min_step)
        self._num_slots = num_slots

    def note(self, slot: Slot, num_prompt: int) -> None:
        """The slot holds this much of its prompt now."""
        length, kept = len(slot.tokens), slot.checkpoints
        previous = kept[-1].length if kept else 0
        is_last = length == num_prompt - NUM_LAST and num_prompt >= MIN_PROMPT
        if length <= previous or length >= num_prompt or not (is_last or length - previous >= self._min_step):
            return
        if slot.tokens[-1] < 0:  # its KV may not be cut inside of a picture; the next piece of text is after it
            return
        state = self._states.save(slot.id, is_part=True)
        if state is None:
            return
        kept.append(Checkpoint(length, state))
        room = available_bytes() // MEMORY_SHARE // self._num_slots
        while len(kept) > 1 and (len(kept) > self._most or sum(one.state.nbytes for one in kept) > room):
            del kept[to_drop(kept)]
