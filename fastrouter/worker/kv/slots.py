"""Which sequence id belongs to which slot, and which tokens its KV cache holds. Chooses the slot for a new prompt.

Calls no llama.cpp: `Slot.tokens` mirrors the KV cache, and the engine keeps it correct. A slot has at most one sequence at a time; after
its end the tokens stay, for the next prompt with the same start and the same adapters.
"""

from array import array
from typing import Any, NamedTuple

import numpy as np

from fastrouter.worker.llama.picture_tokens import count_in_place
from fastrouter.worker.llama.sequence_state import SavedState

SIMILARITY = 0.1  # a shared start that is a smaller part of the prompt is not worth the loss of another conversation's cache
MIN_KEPT = 0.5  # while a slot is empty, the start must also be this part of the prompt or of what would be lost

ALL = 1 << 31  # more tokens than any slot holds

AdapterSet = tuple[tuple[int, float], ...]  # (adapter id, scale) by id, no scale is 0: equal sets compute equal KV


class Checkpoint(NamedTuple):
    """The part of a slot's memory that cannot be cut, as it was after this many tokens."""

    length: int
    state: SavedState


class Slot:
    """One sequence id. `tokens` are in its KV, which was computed with `adapters`; `tokens[i]` is at position `pos_of(i)`."""

    __slots__ = (
        *("adapters", "checkpoints", "has_shared_cells", "id", "is_busy", "last_task", "last_used"),
        *("num_exact", "num_in_place", "tokens"),
    )

    def __init__(self, slot_id: int) -> None:
        self.id = slot_id
        self.tokens: array[int] = array("i")
        self.num_in_place = 0  # of its tokens, those that do not advance the position: of pictures, in models with M-RoPE
        self.adapters: AdapterSet = ()
        self.checkpoints: list[Checkpoint] = []  # of its tokens, the shortest first
        self.is_busy = False
        self.has_shared_cells = False  # shared with other slots of a unified KV cache: what moves one moves the others
        self.num_exact = ALL  # later tokens were moved, and computed with tokens that are gone, so no other prompt may start with them
        self.last_task: dict[str, Any] = {}  # what is reported about the last sequence
        self.last_used = 0  # a tick of Slots, not a time

    def __repr__(self) -> str:
        return f"<Slot {self.id} {'busy' if self.is_busy else 'idle'} {len(self.tokens)} tokens>"

    @property
    def next_pos(self) -> int:
        """The position of the next token."""
        return len(self.tokens) - self.num_in_place

    def pos_of(self, length: int) -> int:
        """The position after this many of its tokens."""
        return length - (count_in_place(self.tokens[:length]) if self.num_in_place else 0)

    def shared_with(self, prompt: "array[int]", adapters: AdapterSet, *, is_exact: bool = True) -> int:
        """How much of the prompt's start this KV holds."""
        length = common_prefix(self.tokens, prompt) if self.adapters == adapters else 0
        return min(length, self.num_exact) if is_exact else length


def common_prefix(held: "array[int]", prompt: "array[int]") -> int:
    """Length of the shared start."""
    length = min(len(held), len(prompt))
    if not length or held[0] != prompt[0]:
        return 0
    different = np.frombuffer(held, dtype=np.int32)[:length] != np.frombuffer(prompt, dtype=np.int32)[:length]
    first = int(different.argmax())
    return first if different[first] else length


class Slots:
    """All slots of a context."""

    def __init__(self, count: int, similarity: float = SIMILARITY) -> None:
        """`similarity`: --slot-prompt-similarity; 0: the least recently used one, whatever it holds."""
        self.all = [Slot(slot_id) for slot_id in range(count)]
        self._similarity = similarity
        self._tick = 0

    def __len__(self) -> int:
        return len(self.all)

    def __repr__(self) -> str:
        return f"<Slots {' '.join(f'{len(s.tokens)}{chr(42) if s.is_busy else str()}' for s in self.all)}>"

    @property
    def idle(self) -> list[Slot]:
        return [slot for slot in self.all if not slot.is_busy]

    def choose(self, prompt: "array[int]", slot_id: int = -1, adapters: AdapterSet = ()) -> Slot | None:
        """The idle slot with the longest start of `prompt`, otherwise the least recently used one; `slot_id` asks for one slot. None:
        wait. The slot is not taken yet."""
        if slot_id >= 0:
            slot = self.all[slot_id % len(self.all)]
            return None if slot.is_busy else slot
        idle = self.idle
        if not idle:
            return None
        shared, best = max(((slot.shared_with(prompt, adapters), slot) for slot in idle), key=_longest_then_oldest)
        free = min(idle, key=lambda slot: (bool(slot.tokens), slot.last_used))
        if not self._similarity:
            return free
        if free.tokens:
            return best if shared > self._similarity * len(prompt) else free
        return best if shared and shared >= MIN_KEPT * min(len(prompt), len(best.tokens)) else free

    def take(self, slot: Slot) -> None:
        assert not slot.is_busy, slot
        slot.is_busy = True

    def release(self, slot: Slot) -> None:
        """Idempotent; the tokens stay."""
        if slot.is_busy:
            slot.is_busy = False
            self._tick += 1
            slot.last_used = self._tick

    def to_purge(self) -> Slot | None:
        """The idle slot whose KV is least useful, for a full cache."""
        holding = [slot for slot in self.idle if slot.tokens]
        return min(holding, key=lambda slot: slot.last_used) if holding else None


def _longest_then_oldest(entry: tuple[int, Any]) -> tuple[int, int]:
    shared, slot = entry
    return shared, -slot.last_used
