"""What loads have shown: the memory and the load time of a model, for each file and its options. Kept on disk, see fact_file.py.

Never imports: supervisor.workers. Invariant: without a measurement the answer is the estimate from the file's header, and the answer says
so.
"""

import hashlib
from dataclasses import asdict
from functools import lru_cache
from typing import Any, TypeGuard

import orjson

from fastrouter.catalog.spec import ModelSpec
from fastrouter.supervisor.decide.need import Need
from fastrouter.supervisor.memory.estimate import estimate, unmapped_bytes
from fastrouter.supervisor.memory.fitting import fitted, within_devices
from fastrouter.supervisor.memory.placement import is_remote
from fastrouter.supervisor.memory.repacking import Repacking, repacking_of
from fastrouter.supervisor.remedies import Remedy
from fastrouter.system.fact_file import FactFile
from fastrouter.system.machine import cpu_features

MAX_ENTRIES = 4096
MAX_BYTES = 1 << 50
_BYTES_PER_S = 1 << 30  # a guess for models that were never loaded
_LEAST_LOAD_S = 0.2
_NOT_FOR_MEMORY = (
    *("sampling", "n_predict", "chat_template", "chat_template_kwargs", "jinja", "warmup", "skip_chat_parsing", "hold_tool_calls"),
    *("prefill_assistant", "log_prompts_dir"),
    *("reasoning", "reasoning_format", "reasoning_effort", "reasoning_preserve", "reasoning_budget", "reasoning_budget_message"),
)


class Measures:
    def __init__(self, remembered: FactFile | None = None) -> None:
        self._facts = remembered or FactFile("loads", 2, MAX_ENTRIES)
        self.devices: dict[str, int] = {}  # their memory, by name, as workers have reported it
        self.repacking = repacking_of(cpu_features())
        self.host_limit_bytes = 0  # of the machine's memory, for one model; 0: no limit

    def __repr__(self) -> str:
        return f"<Measures {self._facts!r}>"

    @property
    def has_device(self) -> bool:
        """Of this machine."""
        return not all(map(is_remote, self.devices))

    def need(self, spec: ModelSpec) -> Need:
        known = self._known(spec)
        if known is not None:
            return Need(known["host_bytes"], known["device_bytes"], tuple(sorted(known.get("devices", {}).items())))
        if self.devices:
            return within_devices(estimate(spec, devices=self.devices, repacking=self.repacking), spec.options, self.devices)
        return estimate(_fitted(spec, self.host_limit_bytes, self.repacking), repacking=self.repacking)

    def is_measured(self, spec: ModelSpec) -> bool:
        return self._known(spec) is not None

    def load_s(self, spec: ModelSpec) -> float | None:
        """Seconds that its last load took; None: it was never loaded."""
        known = self._known(spec)
        return known["load_s"] if known else None

    def expected_load_s(self, spec: ModelSpec) -> float:
        known = self.load_s(spec)
        return known if known is not None else _LEAST_LOAD_S + spec.size_bytes / _BYTES_PER_S

    def note(self, spec: ModelSpec, meta: dict[str, Any], load_s: float) -> None:
        """A load has succeeded. `meta` is what the worker reported; it may hold anything."""
        memory = meta.get("memory")
        if not isinstance(memory, dict):
            return
        host, device, by_device = memory.get("host_bytes"), memory.get("device_bytes"), memory.get("devices", {})
        if _is_size(host) and _is_size(device) and _are_sizes(by_device):
            host = max(0, host - self.unmapped_bytes(spec))  # the worker counts the whole file
            of_devices = {"devices": by_device} if by_device else {}
            self._facts.put(self._key(spec), {"host_bytes": host, "device_bytes": device, **of_devices, "load_s": round(load_s, 4)})

    def use(self, remedy: Remedy) -> None:
        """Set the build of llama.cpp that loads models from now on."""
        self.repacking = repacking_of(cpu_features(), remedy)

    def unmapped_bytes(self, spec: ModelSpec) -> int:
        """The part of its file that is repacked into other memory."""
        has_devices = self.has_device or bool(spec.options.rpc)
        return 0 if has_devices and spec.options.gpu_layers else unmapped_bytes(spec, self.repacking)

    def save(self) -> None:
        """Blocks until it is written to disk."""
        self._facts.save()

    def _key(self, spec: ModelSpec) -> str:
        return _key(spec, 0 if self.devices else self.host_limit_bytes, self.repacking)

    def _known(self, spec: ModelSpec) -> dict[str, Any] | None:
        found = self._facts.get(self._key(spec))
        if not isinstance(found, dict):
            return None
        values: list[Any] = [found.get(name) for name in ("host_bytes", "device_bytes", "load_s")]
        is_complete = all(type(value) in (int, float) and value >= 0 for value in values)
        return found if is_complete and _are_sizes(found.get("devices", {})) else None


def _is_size(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < MAX_BYTES


def _are_sizes(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) and _is_size(size) for name, size in value.items())


@lru_cache(MAX_ENTRIES)  # specs do not change, and each decision asks for every loaded model
def _key(spec: ModelSpec, limit_bytes: int, repacking: Repacking) -> str:
    """Equal for the same files with the same options that matter for memory. `fingerprint` holds sizes and times of the files. A model
    that --fit makes smaller is another one with another limit."""
    spec = _fitted(spec, limit_bytes, repacking)
    options = {name: value for name, value in asdict(spec.options).items() if name not in _NOT_FOR_MEMORY}
    path, mmproj, states = (*spec.fingerprint, None, None, None)[:3]
    content = orjson.dumps([path or spec.path, mmproj, [state[:2] for state in states or ()], options], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:32]


def _fitted(spec: ModelSpec, limit_bytes: int, repacking: Repacking) -> ModelSpec:
    return fitted(spec, lambda each: estimate(each, repacking=repacking), limit_bytes) if limit_bytes else spec
