"""How much of a prompt is already in memory: in its slot, in another slot to copy from, in the prompt cache in RAM, or parked.

Owns all changes of `Slot.tokens` and `Slot.adapters`. Never imports: worker.llama.batch. Invariant: after every call `slot.tokens` is
what the KV holds, computed with `slot.adapters`; different adapters share nothing; what a memory cannot give exactly is computed again.
"""

from array import array

from fastrouter.options.load import LoadOptions
from fastrouter.worker.kv import parked_file
from fastrouter.worker.kv.checkpoints import Checkpoints, longest
from fastrouter.worker.kv.parking import Parking
from fastrouter.worker.kv.prompt_cache import CachedPrompt, PromptCache
from fastrouter.worker.kv.slots import ALL, AdapterSet, Slot, Slots, common_prefix
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model
from fastrouter.worker.llama.picture_tokens import count_in_place, start_outside
from fastrouter.worker.prefill_speed import PrefillSpeed

MIN_COPIED = 8  # tokens; fewer are computed as quickly
MIN_CACHED = 32  # tokens; fewer are not worth a search in the prompt cache
MIN_KEPT = 0.5  # of what a slot holds: with less, the rest is another conversation and goes to the prompt cache
COPY_BYTES_PER_NS = 2.0  # half of what one core copies


class Prefixes:
    """For all slots of one context."""

    def __init__(self, model: Model, context: Context, slots: Slots, options: LoadOptions) -> None:
        self._context = context
        self._states = context.states
        self._slots = slots
        self.speed = PrefillSpeed(model.n_params)
        self.prompt_cache = PromptCache(options.cache_ram_mib)
        self.parking = Parking(context.n_ctx_slot)
        self._n_swa = model.n_swa
        self._loses_tokens = bool(model.n_swa) and not options.swa_full
        self._can_cut = context.can_cut
        self._has_parts = context.num_position_parts > 1
        self._can_move = self._can_cut and not self._n_swa and self._states.can_shift
        self.checkpoints = Checkpoints(self._states, options, len(slots), is_needed=not self._can_cut or bool(self._n_swa))

    # ------------------------------------------------------------ the start of a prompt

    def keep(self, slot: Slot, prompt: "array[int]", adapters: AdapterSet, min_chunk: int = 0) -> int:
        """Make the slot hold only a start of the prompt, as long as possible. Returns its length, which is less than the prompt's.
        `min_chunk`: runs of this many tokens that come later in the prompt are moved to their place there (0: off)."""
        most = len(prompt) - 1  # the last token must be computed for its logits
        length = self._usable_of(slot, min(slot.shared_with(prompt, adapters, is_exact=not min_chunk), most))
        source: Slot | CachedPrompt = slot
        donor, copied = self._donor(slot, prompt, adapters, most)
        if donor is not None and self._is_worth_a_copy(donor, copied - length):
            source, length = donor, copied
        kept, cached = self.prompt_cache.best(prompt, adapters, self._usable_of_kept)
        if kept is not None and self._is_worth(cached - length, kept.num_bytes):
            source, length = kept, cached
        parked, restored = self.parking.best(prompt, adapters, self._usable_of_kept)
        if parked is not None and self._is_worth(restored - length, parked.num_bytes):
            source, length = parked, restored
        if isinstance(source, CachedPrompt):
            length = self._bring_back(source, slot, length)
        elif source is not slot:
            length = length if self.copy(source, slot) else 0
        else:
            if length < MIN_KEPT * len(slot.tokens):
                self.put_away(slot)
            if min_chunk and self._can_move:
                length = min(most, self._move_chunks(slot, prompt, adapters, length, min_chunk))
        if not length:
            self.start_over(slot, adapters)
        return self.cut(slot, length)

    def _can_cut_to(self, tokens: "array[int]", oldest: int, length: int) -> bool:
        if length == len(tokens):
            return True
        # Otherwise a recurrent state covers all tokens, or a window has moved past the next one. Cells outside of a window are freed in any
        # order, so the oldest token may still be there when a later one is gone.
        if not self._can_cut or (self._loses_tokens and len(tokens) > self._n_swa):
            return False
        pos = length - count_in_place(tokens[:length]) if self._has_parts and self._n_swa else length
        return oldest <= max(0, pos - self._n_swa + 1)

    def _usable(self, held: Slot | CachedPrompt, oldest: int, shared: int) -> int:
        """How much of a shared start is usable: all of it, or up to a checkpoint, or up to a picture whose tokens share a position."""
        if self._has_parts:
            shared = start_outside(held.tokens, shared)
        if self._can_cut_to(held.tokens, oldest, shared):
            return shared
        found = longest(held.checkpoints, shared)
        return found.length if found else 0

    def _usable_of_kept(self, kept: CachedPrompt, shared: int) -> int:
        return self._usable(kept, kept.oldest, shared)

    def _usable_of(self, slot: Slot, shared: int, *, is_copy: bool = False) -> int:
        if not shared:
            return 0
        oldest = self._oldest_in_state(slot) if is_copy else self._context.oldest_pos(slot.id)
        return self._usable(slot, oldest, shared)

    def _oldest_in_state(self, slot: Slot) -> int:
        """The first position that `States.save` stores: of a window, only what the next token sees."""
        oldest = self._context.oldest_pos(slot.id)
        return max(oldest, slot.next_pos - self._n_swa + 1) if self._n_swa else oldest

    def _donor(self, slot: Slot, prompt: "array[int]", adapters: AdapterSet, most: int) -> tuple[Slot | None, int]:
        """(another slot that holds the longest start, its length)"""
        others = [other for other in self._slots.all if other is not slot]
        lengths = [(self._usable_of(other, min(other.shared_with(prompt, adapters), most), is_copy=True), other) for other in others]
        length, donor = max(lengths, key=lambda entry: entry[0], default=(0, None))
        return (donor, length) if length else (None, 0)

    def _is_worth_a_copy(self, donor: Slot, num_tokens: int) -> bool:
        """In a unified cache a copy only marks cells; in a split one it moves bytes, twice."""
        if num_tokens < MIN_COPIED:
            return False
        return self._context.is_unified or self._is_worth(num_tokens, 2 * self._states.size(donor.id))

    def _is_worth(self, num_tokens: int, num_bytes: int) -> bool:
        """True: moving this many bytes is faster than computing this many tokens."""
        return self.speed.expected_ns(num_tokens) > num_bytes / COPY_BYTES_PER_NS

    def _move_chunks(self, slot: Slot, prompt: "array[int]", adapters: AdapterSet, length: int, least: int) -> int:
        """Move runs of at least `least` tokens after `length` to their places in the prompt, in order, as in llama-server. They were
        computed after another text, so the answer may differ. Returns the new length."""
        if slot.adapters != adapters or not self.own(slot):
            return min(length, len(slot.tokens))
        held, source = slot.tokens, length
        while source < len(held) and length < len(prompt):
            run = common_prefix(held[source:], prompt[length:]) if held[source] == prompt[length] else 0
            if run < least:
                source += 1
                continue
            if source > length:
                self._context.remove(slot.id, length, source)
                self._states.shift(slot.id, source, source + run, length - source)
                slot.num_exact = min(slot.num_exact, length)
                held[length : length + run] = prompt[length : length + run]
            length, source = length + run, source + run
        return length

    # ------------------------------------------------------------ content of slots

    def cut(self, slot: Slot, length: int) -> int:
        """Remove all tokens after `length`. Returns what is left: some memories can only remove everything."""
        if length < len(slot.tokens):
            pos = slot.pos_of(length)
            if not (length and self._go_back(slot, length) and self._context.remove(slot.id, pos)):
                self.forget(slot)
                return 0
            del slot.tokens[length:]
            slot.num_in_place = length - pos
            slot.checkpoints = [checkpoint for checkpoint in slot.checkpoints if checkpoint.length <= length]
        if length <= slot.num_exact:
            slot.num_exact = ALL
        return length

    def _go_back(self, slot: Slot, length: int) -> bool:
        """The part that cannot be cut becomes what it was then. False: it is lost."""
        if self._can_cut_to(slot.tokens, self._context.oldest_pos(slot.id), length):
            return True
        found = longest(slot.checkpoints, length)
        return found is not None and found.length == length and self._states.restore(slot.id, found.state, is_part=True)

    def forget(self, slot: Slot) -> None:
        if slot.tokens:
            self._context.remove(slot.id)
            del slot.tokens[:]
        slot.has_shared_cells, slot.num_exact, slot.num_in_place = False, ALL, 0
        slot.checkpoints = []

    def start_over(self, slot: Slot, adapters: AdapterSet) -> None:
        """The slot is empty, and the next tokens are computed with these adapters."""
        self.forget(slot)
        slot.adapters = adapters

    def copy(self, donor: Slot, slot: Slot) -> bool:
        """`slot` holds the same as `donor`, which may be busy. False: there is no room, and it is empty."""
        self.put_away(slot)
        self.forget(slot)
        if not (self._share_cells(donor, slot) if self._context.is_unified else self._copy_state(donor, slot, is_part=False)):
            self._context.remove(slot.id)
            return False
        slot.tokens.extend(donor.tokens)
        slot.adapters, slot.num_exact, slot.num_in_place = donor.adapters, donor.num_exact, donor.num_in_place
        slot.checkpoints = donor.checkpoints[:]
        return True

    def _share_cells(self, donor: Slot, slot: Slot) -> bool:
        self._context.copy(donor.id, slot.id)
        donor.has_shared_cells = slot.has_shared_cells = True
        # Cells of a window that two sequences share are never freed: each needs its own, or the cache fills up.
        return not self._n_swa or self._copy_state(donor, slot, is_part=True)

    def _copy_state(self, donor: Slot, slot: Slot, *, is_part: bool) -> bool:
        """Between the parts of a split cache, llama.cpp's own copy moves all of a slot's memory, and only with the next decode."""
        state = self._states.save(donor.id, is_part=is_part)
        return state is not None and self._states.restore(slot.id, state, is_part=is_part)

    def shift(self, slot: Slot, num_kept: int, num_gone: int) -> bool:
        """Remove tokens after a start; the later ones move there. False: this is not possible, and the slot may have lost its KV."""
        end = num_kept + num_gone
        if not self.own(slot) or not self._context.remove(slot.id, num_kept, end):
            return False
        self._states.shift(slot.id, end, -1, -num_gone)
        del slot.tokens[num_kept:end]
        slot.num_exact = min(slot.num_exact, num_kept)
        slot.checkpoints = [checkpoint for checkpoint in slot.checkpoints if checkpoint.length <= num_kept]
        return True

    def own(self, slot: Slot) -> bool:
        """Before positions are moved: give it cells that no other sequence has. False: there is no room, or it is empty."""
        if not slot.has_shared_cells:
            return True
        while not self._has_room(0) and (idle := self._slots.to_purge()) is not None:
            self.purge(idle)
        state = self._states.save(slot.id) if self._has_room(0) else None
        if state is None:
            return False
        self._context.remove(slot.id)
        if not self._states.restore(slot.id, state):
            self.forget(slot)
        slot.has_shared_cells = False
        return bool(slot.tokens)

    # ------------------------------------------------------------ the prompt cache

    def start_uncached(self, slot: Slot, adapters: AdapterSet) -> None:
        """For a prompt that must not use the cache."""
        self.put_away(slot)
        self.start_over(slot, adapters)

    def purge(self, slot: Slot) -> None:
        """Its memory is needed."""
        self.put_away(slot)
        self.forget(slot)

    def put_idle_away(self) -> None:
        """--cache-idle-slots: what no sequence uses goes to the prompt cache; in a unified cache this frees its cells."""
        for slot in self._slots.idle:
            if self.put_away(slot) and self._context.is_unified:
                self.forget(slot)

    def put_away(self, slot: Slot) -> bool:
        """Store in RAM what will be overwritten, if that is cheaper than computing it again. True: it is stored."""
        if not self.prompt_cache.is_open or not MIN_CACHED <= len(slot.tokens) <= slot.num_exact:
            return False
        there = self.prompt_cache.find(slot.tokens, slot.adapters, self._usable_of_kept)
        if there is not None:
            self.prompt_cache.touch(there)
            return True
        if self.parking.gives(slot.tokens, slot.adapters, self._usable_of_kept):
            return True
        num_bytes, limit_bytes = self._states.size(slot.id), self.prompt_cache.limit_bytes()
        if (limit_bytes is not None and num_bytes > limit_bytes) or not self._is_worth(len(slot.tokens), 2 * num_bytes):
            return False
        state = self._states.save(slot.id)
        if state is None:
            return False
        kept = CachedPrompt(slot.tokens[:], slot.adapters, self._oldest_in_state(slot), state, tuple(slot.checkpoints))
        return self.prompt_cache.put(kept, self._usable_of_kept, limit_bytes)

    def _bring_back(self, kept: CachedPrompt, slot: Slot, length: int) -> int:
        """From the prompt cache, or from where it is parked, into the slot. Returns how much of a start of that length it holds."""
        if self.parking.has(kept):  # it stays there until the slot has been parked again
            if not self.parking.begin_use(kept, length):
                return 0
        elif length < MIN_KEPT * len(kept.tokens):
            self.prompt_cache.touch(kept)  # a part of it is used, and the whole may be used again
        else:
            self.prompt_cache.take(kept)
        self.make_room(slot, len(kept.tokens))
        if not (self._has_room(len(kept.tokens)) and self._states.restore(slot.id, kept.state)):
            self._context.remove(slot.id)
            if not any(other.is_busy for other in self._slots.all if other is not slot):
                self.parking.give_up(kept, "llama.cpp cannot read it")  # there was room
            return 0
        slot.tokens.extend(kept.tokens)
        slot.num_in_place = count_in_place(kept.tokens)
        slot.adapters, slot.checkpoints = kept.adapters, list(kept.checkpoints)
        return self._usable_of(slot, length)

    # ------------------------------------------------------------ parking

    def to_park(self) -> list[Slot | CachedPrompt]:
        """What is worth parking and is not parked yet, the most recently used first."""
        if not self.parking.is_open:
            return []
        slots = sorted(self._slots.idle, key=lambda slot: -slot.last_used)
        held: list[Slot | CachedPrompt] = [slot for slot in slots if MIN_CACHED <= len(slot.tokens) <= slot.num_exact]
        held += reversed(list(self.prompt_cache))
        return [one for one in held if self._is_to_park(one)]

    def _is_to_park(self, held: Slot | CachedPrompt) -> bool:
        num_bytes = self.num_bytes_of(held)
        if num_bytes > self.parking.limit_bytes or not self._is_worth(len(held.tokens), 2 * num_bytes):
            return False
        return not self.parking.gives(held.tokens, held.adapters, self._usable_of_kept)

    def num_bytes_of(self, held: Slot | CachedPrompt) -> int:
        """The memory that it takes when it is parked."""
        if isinstance(held, CachedPrompt):
            return held.num_bytes
        return self._states.size(held.id) + sum(checkpoint.state.nbytes for checkpoint in held.checkpoints)

    def park(self, held: Slot | CachedPrompt) -> bool:
        """False: it is not possible now. A slot keeps its content; an entry of the prompt cache moves."""
        if isinstance(held, CachedPrompt):
            oldest, state = held.oldest, parked_file.copy_of(held.state)
        else:
            slot_id = held.id
            oldest = self._oldest_in_state(held)
            state = self._states.size(slot_id), lambda target: self._states.save_into(slot_id, target)
        is_parked = self.parking.put(held.tokens[:], held.adapters, oldest, state, list(held.checkpoints), self._usable_of_kept)
        if is_parked and isinstance(held, CachedPrompt):
            self.prompt_cache.take(held)
        return is_parked

    # ------------------------------------------------------------ room

    def make_room(self, slot: Slot, num_tokens: int) -> None:
        """For this many tokens in this slot, which loses its content; idle slots lose theirs if needed."""
        self.purge(slot)
        while not self._has_room(num_tokens) and (idle := self._slots.to_purge()) is not None:
            self.purge(idle)

    def _has_room(self, num_tokens: int) -> bool:
        """For this many more, even if no cell is shared."""
        held = sum(len(slot.tokens) for slot in self._slots.all) if self._context.is_unified else 0
        return held + num_tokens <= self._context.n_ctx
