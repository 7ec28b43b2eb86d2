"""Parked prompts of all models: the memory files that outlive the workers, who may use them, and how much memory they take.

The files are opaque here: workers write and read them. Never imports: supervisor.decide.planner. Invariant: an entry is lent only to a
worker of the same model, with the same options and the same llama.cpp; its memory is only lent to it: a load that needs it gets it.
"""

import fcntl
import hashlib
import logging
import os
import resource
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import orjson

from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import ProtocolError
from fastrouter.ipc.messages import Drop, Lend, Parked, Restoring, Unusable
from fastrouter.supervisor.decide.parking import to_drop
from fastrouter.supervisor.timers import Clock
from fastrouter.supervisor.workers.instance import Instance
from fastrouter.system.build import LLAMA_BUILD
from fastrouter.system.machine import available_bytes

log = logging.getLogger("fastrouter.supervisor")

AUTO = -1
AUTO_MOST_BYTES = 8192 << 20
AUTO_SHARE = 4  # of the memory that would be available without parked prompts
MOST_LENT = 64  # entries that one worker gets, the most recently used ones
DESCRIPTOR_SHARE = 16  # of those that this process may open
MOST_ENTRIES = 1024
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_OF_KV = ("cache_type_k", "cache_type_v", "flash_attn", "swa_full", "lora", "gpu_layers")  # options that change what is in a KV cache


def key_of(spec: ModelSpec) -> str:
    """Equal for models whose KV caches are equal: the same files, the same options, the same llama.cpp."""
    options = [getattr(spec.options, name) for name in _OF_KV]
    content = orjson.dumps([LLAMA_BUILD, spec.path, [state[:2] for state in spec.states], options])
    return hashlib.sha256(content).hexdigest()[:32]


@dataclass(slots=True, eq=False)
class Entry:
    """One parked prompt. It owns its descriptor."""

    id: int
    model_id: str
    key: str
    fd: int
    num_bytes: int
    num_tokens: int
    saves_ms: float
    used_at: float
    user: Instance | None = None  # the last one that restored it


class Parking:
    def __init__(self, limit_mib: int, now: Clock, instances: Callable[[], Iterable[Instance]], on_change: Callable[[str], None]) -> None:
        """`limit_mib`: AUTO, or 0: off. `on_change` is called with the id of a model whose entries have changed."""
        self._limit_mib = limit_mib
        self._now = now
        self._instances = instances
        self._on_change = on_change
        self._entries: dict[int, Entry] = {}
        self._most_entries = min(MOST_ENTRIES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // DESCRIPTOR_SHARE)

    def __repr__(self) -> str:
        return f"<Parking {len(self._entries)} entries, {self.num_bytes} bytes>"

    @property
    def is_on(self) -> bool:
        return self._limit_mib != 0

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self._entries.values())

    def limit_bytes(self) -> int:
        """The limit now."""
        if self._limit_mib == AUTO:
            return min(AUTO_MOST_BYTES, (available_bytes() + self.num_bytes) // AUTO_SHARE)
        return self._limit_mib << 20

    # ------------------------------------------------------------ workers

    def lend(self, instance: Instance) -> None:
        """Give a worker that loads its model all that was parked for it."""
        if not self.is_on or instance.spec.options.embedding:
            return
        key, descriptors = key_of(instance.spec), instance.process.descriptors
        mine = sorted((entry for entry in self._entries.values() if entry.key == key), key=lambda entry: -entry.used_at)
        sent = [entry.id for entry in mine[:MOST_LENT] if descriptors.send(entry.id, entry.fd)]
        instance.process.send(Lend(key, self.limit_bytes(), sent))

    def take(self, instance: Instance, message: Parked | Restoring | Unusable) -> None:
        """What a worker reports. Raises ProtocolError."""
        if isinstance(message, Parked):
            self._add(instance, message)
        elif (entry := self._entries.get(message.entry_id)) is None or entry.key != key_of(instance.spec):
            return  # it was dropped meanwhile
        elif isinstance(message, Restoring):
            entry.used_at, entry.user = self._now(), instance
        else:
            log.warning("%s: a parked prompt cannot be used: %s", entry.model_id, message.cause, extra={"model": entry.model_id})
            self._drop([entry])

    def _add(self, instance: Instance, message: Parked) -> None:
        fd = instance.process.descriptors.take(message.entry_id)
        try:
            if message.entry_id in self._entries or not self.is_on:
                raise ProtocolError(f"prompt {message.entry_id} cannot be parked")
            num_bytes = _size_of_sealed(fd)
        except ProtocolError:
            os.close(fd)
            raise
        key, now = key_of(instance.spec), self._now()
        replaced = [self._entries[entry_id] for entry_id in message.replaces if entry_id in self._entries]
        self._drop([entry for entry in replaced if entry.key == key], is_known=True)
        self._entries[message.entry_id] = Entry(
            message.entry_id, instance.spec.id, key, fd, num_bytes, message.num_tokens, message.saves_ms, now
        )
        self.shrink(self.num_bytes - self.limit_bytes())
        self._on_change(instance.spec.id)

    def note_end(self, instance: Instance, *, has_crashed: bool) -> None:
        """Its worker has ended. `has_crashed`: by a fault in its code; if what it restored was the cause, the next one must not die too."""
        mine = [entry for entry in self._entries.values() if entry.user is instance]
        for entry in mine:
            entry.user = None
        self._drop(mine if has_crashed else [])

    # ------------------------------------------------------------ room

    def shrink(self, num_bytes: int) -> int:
        """Drop at least this much, or all. Returns how much was dropped."""
        dropped = to_drop(self._entries.values(), num_bytes, len(self._entries) - self._most_entries, self._now())
        self._drop(dropped)
        return sum(entry.num_bytes for entry in dropped)

    def drop(self, model_ids: Collection[str]) -> tuple[int, int]:
        """All entries of these models. Returns (entries, bytes)."""
        dropped = [entry for entry in self._entries.values() if entry.model_id in model_ids]
        self._drop(dropped)
        return len(dropped), sum(entry.num_bytes for entry in dropped)

    def _drop(self, entries: list[Entry], *, is_known: bool = False) -> None:
        """`is_known`: the worker has dropped them itself."""
        for entry in entries:
            del self._entries[entry.id]
            os.close(entry.fd)
        for instance in self._instances() if entries and not is_known else ():
            if mine := [entry.id for entry in entries if entry.model_id == instance.spec.id]:
                instance.process.send(Drop(mine))
        for model_id in {entry.model_id for entry in entries}:
            self._on_change(model_id)

    def model_ids(self) -> set[str]:
        return {entry.model_id for entry in self._entries.values()}

    def held(self, model_id: str) -> tuple[int, int]:
        """(entries, bytes) of a model."""
        mine = [entry.num_bytes for entry in self._entries.values() if entry.model_id == model_id]
        return len(mine), sum(mine)

    def close(self) -> None:
        """Idempotent."""
        while self._entries:
            os.close(self._entries.popitem()[1].fd)


def _size_of_sealed(fd: int) -> int:
    """Raises ProtocolError for a file that may still change."""
    try:
        is_sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # it is not in memory
        is_sealed = False
    if not is_sealed:
        raise ProtocolError("a parked prompt is not a sealed memory file")
    return os.fstat(fd).st_size
