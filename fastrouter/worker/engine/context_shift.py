"""What a sequence removes when its context is full, so that it can continue: llama-server's rule for `--context-shift` and `n_keep`.

Decides how many tokens; kv/prefixes.py changes the KV cache and `Slot.tokens`. Never imports: worker.llama.batch. Invariant: the start
that is kept is exact. Tokens that moved were computed with removed ones, so no other prompt may start with them.
"""

from fastrouter.options.load import LoadOptions
from fastrouter.worker.kv.prefixes import Prefixes
from fastrouter.worker.llama.context import Context
from fastrouter.worker.sequence import Running

_NUM_SPARED = 4  # tokens after the start that is kept, at least


def plan_shift(num_tokens: int, n_ctx: int, num_keep: int, num_discard: int) -> tuple[int, int]:
    """(how many tokens stay, how many after them are removed) in a full sequence; `num_discard` 0: half of what can be removed."""
    num_kept = min(n_ctx - _NUM_SPARED, num_keep)
    num_left = num_tokens - num_kept
    return num_kept, max(0, min(num_discard or num_left // 2, num_left - 1))


class ContextShift:
    """For all sequences of one context."""

    def __init__(self, context: Context, prefixes: Prefixes, options: LoadOptions, *, adds_bos: bool) -> None:
        self.is_on = options.context_shift and context.states.can_shift
        self._context = context
        self._prefixes = prefixes
        self._n_keep = options.n_keep
        self._num_added = int(adds_bos)

    def __repr__(self) -> str:
        return f"<ContextShift {'on' if self.is_on else 'off'} keep {self._n_keep}>"

    def make_room(self, running: Running) -> bool:
        """Remove a part from the middle of the sequence. False: that is not possible, so the sequence has to end."""
        sequence, slot = running.sequence, running.slot
        if not self.is_on or sequence.request.pictures:  # a part of a picture means nothing
            return False
        asked = sequence.request.generate
        n_keep = self._n_keep if asked.n_keep is None else asked.n_keep
        num_keep = (len(sequence.prompt) if n_keep < 0 else n_keep) + self._num_added
        num_kept, num_gone = plan_shift(len(slot.tokens), self._context.n_ctx_slot, num_keep, asked.n_discard)
        if num_gone <= 0 or not self._prefixes.shift(slot, num_kept, num_gone):
            return False
        sequence.is_truncated = True
        return True
