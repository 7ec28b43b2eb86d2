"""Parked prompts of all models: the memory files that outlive the workers, who may use them, how much memory and disk they take.

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

from fastrouter import metrics
from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.errors import ProtocolError
from fastrouter.ipc.messages import Drop, Lend, Parked, Restoring, Unusable
from fastrouter.ipc.parked import Foot
from fastrouter.supervisor.decide.parking import to_drop
from fastrouter.supervisor.parked_files import Job, ParkedFiles
from fastrouter.supervisor.timers import Timers
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
MOST_FILES = 4096
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
# Options that change what is in a KV cache.
_OF_KV = (
    *("cache_type_k", "cache_type_v", "flash_attn", "swa_full", "lora", "gpu_layers", "override_kv", "control_vectors"),
    *("control_vector_layers", "rope_scaling", "rope_scale", "rope_freq_scale", "rope_freq_base", "yarn_orig_ctx", "yarn_ext_factor"),
    *("yarn_attn_factor", "yarn_beta_slow", "yarn_beta_fast", "devices", "kv_offload"),
)


def key_of(spec: ModelSpec) -> str:
    """Equal for models whose KV caches are equal: the same files, the same options, the same llama.cpp."""
    options = [getattr(spec.options, name) for name in _OF_KV]
    content = orjson.dumps([LLAMA_BUILD, spec.path, [state[:2] for state in spec.states], options])
    return hashlib.sha256(content).hexdigest()[:32]


@dataclass(slots=True, eq=False)
class Entry:
    """One parked prompt, in memory, on disk, or both. It owns its descriptor."""

    id: int
    model_id: str
    key: str
    fd: int  # -1: it is not in memory
    num_bytes: int
    num_tokens: int
    saves_ms: float
    used_at: float
    file_bytes: int = 0  # 0: it is not on disk
    user: Instance | None = None  # the last one that restored it


class Parking:
    def __init__(
        self, config: Config, timers: Timers, instances: Callable[[], Iterable[Instance]], on_change: Callable[[str, int, int], None]
    ) -> None:
        """`on_change` is called with a model, its number of entries and their bytes."""
        self._limit_mib = config.park_ram_mib
        self._disk_bytes = config.park_disk_mib << 20
        self._now = timers.now
        self._instances = instances
        self._on_change = on_change
        self._entries: dict[int, Entry] = {}
        self._most_entries = min(MOST_ENTRIES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // DESCRIPTOR_SHARE)
        self.files = ParkedFiles(config.park_dir if self.is_on and self._disk_bytes else None, timers)
        self.files.open_memory = self._copy_descriptor
        self.files.on_written = self._written

    def __repr__(self) -> str:
        return f"<Parking {len(self._entries)} entries, {self.num_bytes} bytes>"

    def start(self) -> None:
        self.files.start(self._find)

    def close(self) -> None:
        """Idempotent. Files stay."""
        self.files.close()
        for entry in self._in_memory():
            os.close(entry.fd)
        self._entries.clear()

    @property
    def is_on(self) -> bool:
        return self._limit_mib != 0

    @property
    def num_bytes(self) -> int:
        """Of memory."""
        return sum(entry.num_bytes for entry in self._in_memory())

    def _in_memory(self) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.fd >= 0]

    def limit_bytes(self) -> int:
        """Of memory, now."""
        if self._limit_mib == AUTO:
            return min(AUTO_MOST_BYTES, (available_bytes() + self.num_bytes) // AUTO_SHARE)
        return self._limit_mib << 20

    # ------------------------------------------------------------ workers

    def lend(self, instance: Instance) -> None:
        """Give a worker that loads its model all that was parked for it."""
        if not self.is_on or instance.spec.options.embedding:
            return
        key = key_of(instance.spec)
        mine = sorted((entry for entry in self._entries.values() if entry.key == key), key=lambda entry: -entry.used_at)
        self._lend(instance, key, mine[:MOST_LENT])

    def _lend(self, instance: Instance, key: str, entries: list[Entry]) -> None:
        sent = [entry.id for entry in entries if self._send(instance, entry)]
        instance.process.send(Lend(key, self.limit_bytes(), sent))

    def _lend_more(self, entries: list[Entry]) -> None:
        """To workers that have loaded their models already."""
        for instance in self._instances() if entries else ():
            key = key_of(instance.spec)
            if mine := [entry for entry in entries if entry.key == key]:
                self._lend(instance, key, mine)

    def _send(self, instance: Instance, entry: Entry) -> bool:
        descriptors = instance.process.descriptors
        if entry.fd >= 0:
            return descriptors.send(entry.id, entry.fd)
        fd = self.files.open(entry.id) if entry.file_bytes else None
        if fd is None:
            return False
        try:
            return descriptors.send(entry.id, fd)
        finally:
            os.close(fd)

    def take(self, instance: Instance, message: Parked | Restoring | Unusable) -> None:
        """What a worker reports. Raises ProtocolError."""
        if isinstance(message, Parked):
            self._add(instance, message)
        elif (entry := self._entries.get(message.entry_id)) is None or entry.key != key_of(instance.spec):
            return  # it was dropped meanwhile
        elif isinstance(message, Restoring):
            entry.used_at, entry.user = self._now(), instance
            metrics.restored(instance.spec.id, max(0, message.num_tokens))
        else:
            log.warning("%s: a parked prompt cannot be used: %s", entry.model_id, message.cause, extra={"model": entry.model_id})
            self._drop([entry])

    def _add(self, instance: Instance, message: Parked) -> None:
        fd, entry_id = instance.process.descriptors.take(message.entry_id), message.entry_id
        try:
            if entry_id in self._entries or not self.is_on:
                raise ProtocolError(f"prompt {entry_id} cannot be parked")
            num_bytes = _size_of_sealed(fd)
        except ProtocolError:
            os.close(fd)
            raise
        model_id, key, now = instance.spec.id, key_of(instance.spec), self._now()
        num_tokens, saves_ms = max(0, message.num_tokens), max(0.0, message.saves_ms)
        self._drop([entry for entry in self._entries.values() if entry.id in message.replaces and entry.key == key], is_known=True)
        self._entries[entry_id] = Entry(entry_id, model_id, key, fd, num_bytes, num_tokens, saves_ms, now)
        self.shrink(self.num_bytes - self.limit_bytes())
        if entry_id in self._entries:
            self.files.write(Job(entry_id, model_id, key, num_tokens, saves_ms))
        self._on_change(model_id, *self.held(model_id))

    def note_end(self, instance: Instance, *, has_crashed: bool) -> None:
        """Its worker has ended. `has_crashed`: by a fault in its code; if what it restored was the cause, the next one must not die too."""
        mine = [entry for entry in self._entries.values() if entry.user is instance]
        for entry in mine:
            entry.user = None
        self._drop(mine if has_crashed else [])

    # ------------------------------------------------------------ disk

    def _find(self, found: list[tuple[int, Foot, float]]) -> None:
        """Files of an earlier run."""
        now = self._now()
        for entry_id, foot, age_s in found:
            self._entries[entry_id] = Entry(
                entry_id, foot.model_id, foot.key, -1, foot.num_bytes, foot.num_tokens, foot.saves_ms, now - age_s, foot.num_bytes
            )
        self._shrink_disk()
        self._lend_more([self._entries[entry_id] for entry_id, _, _ in found if entry_id in self._entries])
        for model_id in self.model_ids():
            self._on_change(model_id, *self.held(model_id))

    def _copy_descriptor(self, entry_id: int) -> int | None:
        entry = self._entries.get(entry_id)
        return os.dup(entry.fd) if entry is not None and entry.fd >= 0 else None

    def _written(self, entry_id: int, num_bytes: int) -> None:
        entry = self._entries.get(entry_id)
        if entry is None:
            self.files.remove([entry_id])
            return
        entry.file_bytes = num_bytes
        if not num_bytes and entry.fd < 0:
            self._drop([entry])
        self._shrink_disk()

    def _shrink_disk(self) -> None:
        on_disk = [entry for entry in self._entries.values() if entry.file_bytes]
        lack = sum(entry.file_bytes for entry in on_disk) - self._disk_bytes
        for entry in to_drop(on_disk, lack, len(on_disk) - MOST_FILES, self._now()):
            entry.file_bytes = 0
            self.files.remove([entry.id])
            if entry.fd < 0:
                self._drop([entry])

    # ------------------------------------------------------------ room

    def shrink(self, num_bytes: int) -> int:
        """Take at least this much out of memory, or all. What is on disk stays there. Returns how much was taken."""
        here = self._in_memory()
        leaving = to_drop(here, num_bytes, len(here) - self._most_entries, self._now())
        kept = [entry for entry in leaving if entry.file_bytes or self.files.is_writing(entry.id)]
        self._drop([entry for entry in leaving if entry not in kept])
        for entry in kept:
            os.close(entry.fd)
            entry.fd = -1
        self._tell(kept)
        self._lend_more(kept)
        return sum(entry.num_bytes for entry in leaving)

    def drop(self, model_ids: Collection[str]) -> tuple[int, int]:
        """All entries of these models. Returns (entries, bytes)."""
        dropped = [entry for entry in self._entries.values() if entry.model_id in model_ids]
        self._drop(dropped)
        return len(dropped), sum(entry.num_bytes for entry in dropped)

    def _drop(self, entries: list[Entry], *, is_known: bool = False) -> None:
        """`is_known`: the worker has dropped them itself."""
        for entry in entries:
            del self._entries[entry.id]
            if entry.fd >= 0:
                os.close(entry.fd)
        self.files.remove([entry.id for entry in entries if entry.file_bytes])
        if not is_known:
            self._tell(entries)
        for model_id in {entry.model_id for entry in entries}:
            self._on_change(model_id, *self.held(model_id))

    def _tell(self, entries: list[Entry]) -> None:
        """Workers must let this memory go."""
        for instance in self._instances() if entries else ():
            if mine := [entry.id for entry in entries if entry.model_id == instance.spec.id]:
                instance.process.send(Drop(mine))

    # ------------------------------------------------------------ reading

    def model_ids(self) -> set[str]:
        return {entry.model_id for entry in self._entries.values()}

    def held(self, model_id: str) -> tuple[int, int]:
        """(entries, bytes) of a model, in memory or on disk."""
        mine = [entry.num_bytes for entry in self._entries.values() if entry.model_id == model_id]
        return len(mine), sum(mine)


def _size_of_sealed(fd: int) -> int:
    """Raises ProtocolError for a file that may still change."""
    try:
        is_sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # it is not in memory
        is_sealed = False
    if not is_sealed:
        raise ProtocolError("a parked prompt is not a sealed memory file")
    return os.fstat(fd).st_size
