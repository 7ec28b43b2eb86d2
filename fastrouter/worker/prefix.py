"""How much of a prompt is in the KV cache already: in the slot it gets, or in another one that it can be copied from.

Owns what KV operations do to `Slot.tokens` and `Slot.adapters`. Knows no sequence. Invariant: after every call `slot.tokens` is what the KV
holds, computed with `slot.adapters`; nothing is shared between different adapters.
"""

from array import array

from fastrouter.worker.llama import Context, Model
from fastrouter.worker.slots import ALL, AdapterSet, Slot, Slots, common_prefix

MIN_COPIED = 8  # tokens; fewer are prefilled as fast
COPY_BYTES_PER_NS = 2.0  # of a split cache, whose slots lie apart in memory: half of what one core copies


class Prefixes:
    """Of all slots of one context."""

    def __init__(self, model: Model, context: Context, slots: Slots) -> None:
        self._model = model
        self._context = context
        self._slots = slots
        self._prefill_ns = 0.0  # per token, smoothed; 0: not measured yet

    def note_prefill(self, num_tokens: int, duration_ns: int) -> None:
        """A step that was a prompt's, mostly."""
        if num_tokens >= MIN_COPIED:
            measured = duration_ns / num_tokens
            self._prefill_ns = 0.8 * self._prefill_ns + 0.2 * measured if self._prefill_ns else measured

    def keep(self, slot: Slot, prompt: "array[int]", adapters: AdapterSet) -> int:
        """Make the slot hold nothing but a start of the prompt, as long as can be had. Returns its length, less than the prompt's."""
        most = len(prompt) - 1  # the last token must be evaluated for its logits
        shared = min(slot.shared_with(prompt, adapters), most)
        if shared and self._context.oldest_pos(slot.id) > max(0, shared - self._model.n_swa):
            shared = 0  # a sliding window has moved past what this prompt needs
        donor, longest = self._donor(slot, prompt, adapters)
        if donor is not None and self._is_worth_a_copy(min(longest, most) - shared):
            shared = min(longest, most)
            self.copy(donor, slot)
        if not shared:
            self.start_over(slot, adapters)
        return self.cut(slot, shared)

    def cut(self, slot: Slot, length: int) -> int:
        """Forget what comes after. Returns what is left: some memories can only forget everything."""
        if length < len(slot.tokens):
            if not length or not self._context.remove(slot.id, length):
                self.forget(slot)
                return 0
            del slot.tokens[length:]
        if length <= slot.num_exact:
            slot.num_exact = ALL
        return length

    def forget(self, slot: Slot) -> None:
        if slot.tokens:
            self._context.remove(slot.id)
            del slot.tokens[:]
        slot.num_exact = ALL

    def start_over(self, slot: Slot, adapters: AdapterSet) -> None:
        """The slot is empty, and what comes will be computed with these adapters."""
        self.forget(slot)
        slot.adapters = adapters

    def copy(self, donor: Slot, slot: Slot) -> None:
        """`slot` holds the same as `donor`, which may be busy."""
        self.forget(slot)
        self._context.copy(donor.id, slot.id)
        slot.tokens.extend(donor.tokens)
        slot.adapters, slot.num_exact = donor.adapters, donor.num_exact

    def shift(self, slot: Slot, num_kept: int, num_gone: int) -> bool:
        """Forget tokens behind a start; what comes after moves there. False: it cannot be done, and the slot may have lost its KV."""
        end = num_kept + num_gone
        if not self._own(slot, end) or not self._context.remove(slot.id, num_kept, end):
            return False
        self._context.move(slot.id, end, -num_gone)
        del slot.tokens[num_kept:end]
        slot.num_exact = min(slot.num_exact, num_kept)
        return True

    def _own(self, slot: Slot, start: int) -> bool:
        """Make sure that no other slot has cells from `start` on in common with this one: a unified cache shares what was copied."""
        others = [other for other in self._slots.all if other is not slot]
        if not self._context.is_unified or all(common_prefix(other.tokens, slot.tokens) <= start for other in others):
            return True
        state = self._context.save(slot.id)
        while not self._context.restore(slot.id, state):
            idle = self._slots.to_purge()
            if idle is None:
                self.forget(slot)
                return False
            self.forget(idle)
        return True

    def _donor(self, slot: Slot, prompt: "array[int]", adapters: AdapterSet) -> tuple[Slot | None, int]:
        """(another slot that shares the longest start, its length)"""
        others = [(other.shared_with(prompt, adapters), other) for other in self._slots.all if other is not slot]
        longest, donor = max(others, key=lambda entry: entry[0], default=(0, None))
        return (donor, longest) if longest and not self._model.n_swa else (None, 0)

    def _is_worth_a_copy(self, num_tokens: int) -> bool:
        """In a unified cache a copy only marks cells; in a split one it moves a slot's whole memory."""
        if num_tokens < MIN_COPIED:
            return False
        return self._context.is_unified or num_tokens * self._prefill_ns > self._context.slot_bytes / COPY_BYTES_PER_NS
