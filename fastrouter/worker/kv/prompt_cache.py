"""The prompt cache in RAM: what slots held before other prompts took their place. The least recently used entry goes first.

Never imports: worker.kv.prefixes, worker.llama.context.
A CachedPrompt needs nothing else (tokens, adapters, bytes). Invariant: together they were within the limit when the last one came.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from fastrouter.system.machine import available_bytes
from fastrouter.worker.kv.slots import AdapterSet, Checkpoint, common_prefix
from fastrouter.worker.llama.sequence_state import SavedState

AUTO_MOST_BYTES = 8192 << 20  # the default of llama-server
AUTO_SHARE = 4  # of the memory that would be available without it: small machines keep less


class CachedPrompt(NamedTuple):
    """The former content of a slot. `oldest` is its first position (more than 0 in a sliding window)."""

    tokens: "array[int]"
    adapters: AdapterSet
    oldest: int
    state: SavedState
    checkpoints: tuple[Checkpoint, ...] = ()

    def __repr__(self) -> str:
        return f"<CachedPrompt {len(self.tokens)} tokens {self.num_bytes} bytes>"

    @property
    def num_bytes(self) -> int:
        return self.state.nbytes + sum(checkpoint.state.nbytes for checkpoint in self.checkpoints)

    def gives(self, tokens: "array[int]", adapters: AdapterSet, usable: "Usable") -> bool:
        """True: it holds all these tokens at its start."""
        length = len(tokens)
        return self.adapters == adapters and common_prefix(self.tokens, tokens) == length and usable(self, length) == length


Usable = Callable[[CachedPrompt, int], int]  # (entry, length of a shared start) -> how much of that is usable


def best_of(entries: Iterable[CachedPrompt], prompt: "array[int]", adapters: AdapterSet, usable: Usable) -> tuple[CachedPrompt | None, int]:
    """(the one that holds the longest start of the prompt, its length)"""
    found: CachedPrompt | None = None
    longest = 0
    most = len(prompt) - 1  # the last token must be computed for its logits
    for kept in entries:
        if kept.adapters == adapters:
            shared = min(common_prefix(kept.tokens, prompt), most)
            length = usable(kept, shared) if shared > longest else 0
            if length > longest:
                found, longest = kept, length
    return found, longest


class PromptCache:
    """`limit_mib`: None is automatic, -1 no limit, 0 off."""

    def __init__(self, limit_mib: int | None) -> None:
        self._limit_mib = limit_mib
        self._kept: list[CachedPrompt] = []  # the least recently used first
        self.on_change: Callable[[int], None] = lambda num_bytes: None  # it is called with the new size

    def __repr__(self) -> str:
        return f"<PromptCache {len(self._kept)} kept, {self.num_bytes} bytes>"

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[CachedPrompt]:
        """The least recently used first."""
        return iter(self._kept[:])

    @property
    def is_open(self) -> bool:
        return self._limit_mib != 0

    @property
    def num_bytes(self) -> int:
        return sum(kept.num_bytes for kept in self._kept)

    def limit_bytes(self) -> int | None:
        """The limit now; None: there is none."""
        if self._limit_mib is None:
            return min(AUTO_MOST_BYTES, (available_bytes() + self.num_bytes) // AUTO_SHARE)
        return self._limit_mib << 20 if self._limit_mib >= 0 else None

    def best(self, prompt: "array[int]", adapters: AdapterSet, usable: Usable) -> tuple[CachedPrompt | None, int]:
        """See `best_of`."""
        return best_of(self._kept, prompt, adapters, usable)

    def find(self, tokens: "array[int]", adapters: AdapterSet, usable: Usable) -> CachedPrompt | None:
        """One that holds all of this."""
        return next((kept for kept in self._kept if kept.gives(tokens, adapters, usable)), None)

    def put(self, kept: CachedPrompt, usable: Usable, limit_bytes: int | None) -> bool:
        """Entries that the new one can replace go, then the oldest until all fit. False: the new one alone is too large."""
        self._kept = [other for other in self._kept if not kept.gives(other.tokens, other.adapters, usable)]
        self._kept.append(kept)
        self.shrink(limit_bytes)
        return bool(self._kept)

    def shrink(self, limit_bytes: int | None) -> None:
        """The oldest go until all fit."""
        while limit_bytes is not None and self._kept and self.num_bytes > limit_bytes:
            del self._kept[0]
        self.on_change(self.num_bytes)

    def touch(self, kept: CachedPrompt) -> None:
        """It was used."""
        self._kept = [*(other for other in self._kept if other is not kept), kept]

    def take(self, kept: CachedPrompt) -> None:
        self._kept = [other for other in self._kept if other is not kept]
        self.on_change(self.num_bytes)
