"""The worker's part of parking: entries come from the router, and idle sequences go there, so that they outlive this process.

Owns when a prompt is parked: a while after the last work, and at the end. Invariant: what runs is never slowed down, because nothing is
parked while there is work; while there is none, parking takes at most SHARE of a core.
"""

import time
from collections.abc import Callable

from fastrouter.ipc.descriptors import Descriptors
from fastrouter.ipc.messages import Drop, Lend, Message, Park, Parked, Restoring, Unusable
from fastrouter.system.machine import available_bytes
from fastrouter.worker.kv.prefixes import Prefixes
from fastrouter.worker.kv.prompt_cache import CachedPrompt
from fastrouter.worker.kv.slots import Slot
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model

IDLE_S = 3.0  # after the last work; a client that reads a short answer and asks again comes earlier
SHARE = 0.02
MEMORY_SHARE = 2  # an entry takes at most this part of the available memory
BYTES_PER_NS = 0.4  # a guess: a new page costs more than the copy into it
MIN_MEASURED_BYTES = 1 << 20


def kind_of(model: Model, context: Context) -> str:
    """What the size of the context changes in a KV cache: some models have other position factors for long contexts. Empty: nothing."""
    original = model.meta_value(f"{model.meta_value('general.architecture')}.rope.scaling.original_context_length")
    return "" if not original.isdigit() else "long" if context.n_ctx_slot > int(original) else "short"


class Parker:
    """For one loaded model. `kind`: see `kind_of`; None: its context computes no text."""

    def __init__(
        self, prefixes: Prefixes, descriptors: Descriptors, send: Callable[[Message], None], kind: str | None, *, idle_s: float = IDLE_S
    ) -> None:
        self._prefixes = prefixes
        self._parking = prefixes.parking
        self._descriptors = descriptors
        self._send = send
        self._kind = kind
        self._idle_s = idle_s
        self._due: float | None = None  # when the next one is parked; None: there is nothing new
        self._has_worked = False
        self._ns_per_byte = 1 / BYTES_PER_NS
        self._parking.on_parked = self._give
        self._parking.on_use = lambda entry_id, num_tokens: send(Restoring(entry_id, num_tokens))
        self._parking.on_broken = lambda entry_id, cause: send(Unusable(entry_id, cause))

    def __repr__(self) -> str:
        return f"<Parker {self._parking!r}>"

    # ------------------------------------------------------------ messages

    def take(self, lend: Lend) -> None:
        """Raises ProtocolError when a descriptor is missing."""
        arrived = {entry_id: self._descriptors.take(entry_id) for entry_id in lend.entry_ids}
        self._parking.open(f"{lend.key} {self._kind}", lend.limit_bytes if self._kind is not None else 0, arrived)

    def drop(self, drop: Drop) -> None:
        self._parking.drop(drop.entry_ids)

    def park_all(self, park: Park) -> None:
        """What fits, the most recently used first. The process ends after this."""
        deadline, room = time.monotonic_ns() + park.max_ms * 1_000_000, park.max_bytes
        for held in self._prefixes.to_park():
            num_bytes = self._prefixes.num_bytes_of(held)
            is_in_time = time.monotonic_ns() + num_bytes * self._ns_per_byte <= deadline
            if num_bytes <= room and is_in_time and self._park(held):
                room -= num_bytes

    def _give(self, entry_id: int, fd: int, entry: CachedPrompt, replaced: list[int]) -> bool:
        if not self._descriptors.send(entry_id, fd):
            return False
        saves_ms = round(self._prefixes.speed.expected_ns(len(entry.tokens)) / 1e6, 3)
        self._send(Parked(entry_id, len(entry.tokens), saves_ms, replaced))
        return True

    # ------------------------------------------------------------ idle sequences

    def note_work(self) -> None:
        self._has_worked = True

    def wait_ms(self) -> int | None:
        """Until the next one is parked. None: nothing is due."""
        if self._has_worked:
            self._has_worked = False
            self._due = time.monotonic() + self._idle_s if self._parking.is_open else None
        return max(0, round(1e3 * (self._due - time.monotonic()))) if self._due is not None else None

    def step(self) -> None:
        """Park one, if it is time. Call it only when there is no work."""
        if self._due is None or time.monotonic() < self._due:
            return
        began = time.monotonic()
        held = next(iter(self._prefixes.to_park()), None)
        is_parked = held is not None and self._park(held)
        now = time.monotonic()
        self._due = now + (now - began) / SHARE if is_parked else None

    def _park(self, held: Slot | CachedPrompt) -> bool:
        num_bytes = self._prefixes.num_bytes_of(held)
        if num_bytes > available_bytes() // MEMORY_SHARE:
            return False
        began_ns = time.monotonic_ns()
        is_parked = self._prefixes.park(held)
        if is_parked and num_bytes >= MIN_MEASURED_BYTES:
            self._ns_per_byte = (time.monotonic_ns() - began_ns) / num_bytes
        return is_parked
