"""Parked prompts: what slots and the prompt cache held, in memory files that outlive this process. The router keeps them; this process
maps them, finds the best one for a prompt, and parks more.

Never imports: worker.kv.prefixes, worker.llama.context. Invariant: an entry that is known here was told to the router, or came from it;
the router may drop it at any time, and then it can still be read until `drop` is called.
"""

import contextlib
import os
import secrets
from array import array
from collections.abc import Callable

from fastrouter.worker.kv import parked_file
from fastrouter.worker.kv.parked_file import Part
from fastrouter.worker.kv.prompt_cache import CachedPrompt, Usable, best_of
from fastrouter.worker.kv.slots import AdapterSet, Checkpoint, common_prefix

MIN_REPLACED = 0.5  # a new entry that still gives this part of an older one takes its place
_ID_BITS = 52  # JSON's numbers


class Parking:
    """For one context. Without `open` nothing is parked and nothing is found."""

    def __init__(self, most_tokens: int) -> None:
        """`most_tokens`: a longer prompt does not fit a slot."""
        self._most_tokens = most_tokens
        self._key = ""
        self.limit_bytes = 0  # of one entry
        self._entries: dict[int, CachedPrompt] = {}
        self._is_intact: dict[int, Callable[[], bool]] = {}  # of entries that were lent, until they are used
        self._arrived: dict[int, int] = {}  # id -> descriptor of an entry that was not read yet
        self.on_parked: Callable[[int, int, CachedPrompt, list[int]], bool] = lambda *_: False  # (id, descriptor, entry, ids it replaces)
        self.on_use: Callable[[int, int], None] = lambda *_: None  # (id, tokens)
        self.on_broken: Callable[[int, str], None] = lambda *_: None  # (id, cause)

    def __repr__(self) -> str:
        return f"<Parking {len(self._entries)} entries, {len(self._arrived)} not read>"

    def __len__(self) -> int:
        return len(self._entries) + len(self._arrived)

    @property
    def is_open(self) -> bool:
        return self.limit_bytes > 0

    # ------------------------------------------------------------ what the router says

    def open(self, key: str, limit_bytes: int, arrived: dict[int, int]) -> None:
        """`arrived`: id -> descriptor, which belongs to this object now."""
        self._key, self.limit_bytes = key, limit_bytes
        self._arrived |= arrived

    def drop(self, entry_ids: list[int]) -> None:
        for entry_id in entry_ids:
            self._entries.pop(entry_id, None)
            self._is_intact.pop(entry_id, None)
            if (fd := self._arrived.pop(entry_id, None)) is not None:
                os.close(fd)

    def _read_arrived(self) -> None:
        """Not before a prompt needs them: a load does not wait for it."""
        while self._arrived:
            entry_id, fd = self._arrived.popitem()
            try:
                found = parked_file.read(fd, self._key)
            except (ValueError, OSError) as error:
                self.on_broken(entry_id, str(error))
                continue
            finally:
                os.close(fd)
            if len(found.prompt.tokens) <= self._most_tokens:
                self._entries[entry_id] = found.prompt
                self._is_intact[entry_id] = found.is_intact

    # ------------------------------------------------------------ finding

    def best(self, prompt: "array[int]", adapters: AdapterSet, usable: Usable) -> tuple[CachedPrompt | None, int]:
        """See `prompt_cache.best_of`."""
        self._read_arrived()
        return best_of(self._entries.values(), prompt, adapters, usable)

    def gives(self, tokens: "array[int]", adapters: AdapterSet, usable: Usable) -> bool:
        """One of them holds all of this."""
        self._read_arrived()
        return any(entry.gives(tokens, adapters, usable) for entry in self._entries.values())

    def has(self, entry: CachedPrompt) -> bool:
        return self._id_of(entry) is not None

    def begin_use(self, entry: CachedPrompt, num_tokens: int) -> bool:
        """It is about to be restored. False: it is damaged, and is given up."""
        entry_id = self._id_of(entry)
        assert entry_id is not None
        self.on_use(entry_id, num_tokens)
        is_intact = self._is_intact.pop(entry_id, None)
        if is_intact is not None and not is_intact():
            self.give_up(entry, "it is damaged")
            return False
        return True

    def give_up(self, entry: CachedPrompt, cause: str) -> None:
        """It could not be restored."""
        entry_id = self._id_of(entry)
        if entry_id is not None:
            self.drop([entry_id])
            self.on_broken(entry_id, cause)

    def _id_of(self, entry: CachedPrompt) -> int | None:
        return next((entry_id for entry_id, other in self._entries.items() if other is entry), None)

    # ------------------------------------------------------------ parking

    def put(
        self, tokens: "array[int]", adapters: AdapterSet, oldest: int, state: Part, checkpoints: list[Checkpoint], usable: Usable
    ) -> bool:
        """Save it in a memory file and give that to the router. False: there is no room for it."""
        fd = parked_file.write(self._key, tokens, adapters, oldest, state, checkpoints)
        if fd is None:
            return False
        try:
            entry = parked_file.read(fd, self._key).prompt
            entry_id, replaced = secrets.randbits(_ID_BITS), self._replaced_by(entry, usable)
            if not self.on_parked(entry_id, fd, entry, replaced):
                return False
        finally:
            os.close(fd)
        self.drop(replaced)
        self._entries[entry_id] = entry
        return True

    def _replaced_by(self, entry: CachedPrompt, usable: Usable) -> list[int]:
        """Starts of it that are not needed any more: the conversation has gone on."""
        found = []
        for entry_id, other in self._entries.items():
            length = len(other.tokens)
            is_start = other.adapters == entry.adapters and common_prefix(other.tokens, entry.tokens) == length
            if is_start and usable(entry, length) >= MIN_REPLACED * length:
                found.append(entry_id)
        return found

    def close(self) -> None:
        """Idempotent."""
        self._entries.clear()
        self._is_intact.clear()
        while self._arrived:
            with contextlib.suppress(OSError):
                os.close(self._arrived.popitem()[1])
