"""What to do when llama.cpp's build crashes on this CPU: first no repacked weights (the safe mode), then a CPU variant that uses fewer
features.

A remedy that has helped one model is used for all, and is stored for this build of llama.cpp on this CPU, so that the crash happens only
once. Invariant: while the router runs, remedies are only added.
"""

import logging
from dataclasses import dataclass
from typing import Any

from fastrouter.system.build import cpu_build_id
from fastrouter.system.fact_file import FactFile

log = logging.getLogger("fastrouter.supervisor")

MAX_DROPPED = 2  # CPU variants; when a request crashes all of them, the request is the cause
MAX_ENTRIES = 64


@dataclass(frozen=True, slots=True)
class Remedy:
    safe_mode: bool = False
    num_dropped: int = 0  # CPU variants that are left out, the best first

    def __str__(self) -> str:
        parts = ["in the safe mode (no repacked weights)"] * self.safe_mode
        parts += ["with llama.cpp's build for simpler CPUs"] * bool(self.num_dropped)
        return " and ".join(parts) or "as usual"

    def joined(self, other: "Remedy") -> "Remedy":
        return Remedy(self.safe_mode or other.safe_mode, max(self.num_dropped, other.num_dropped))

    def next(self) -> "Remedy | None":
        """What to try when this one has not helped; None: all has been tried."""
        if not self.safe_mode:
            return Remedy(True, self.num_dropped)
        return Remedy(True, self.num_dropped + 1) if self.num_dropped < MAX_DROPPED else None


NONE = Remedy()


class Remedies:
    def __init__(self) -> None:
        self._facts = FactFile("cpu", 1, MAX_ENTRIES)
        self._known: Remedy | None = None

    def __repr__(self) -> str:
        return f"<Remedies {self._known or 'not read'}>"

    @property
    def known(self) -> Remedy:
        """For all models. The first call reads the file, and logs what it finds there."""
        if self._known is None:
            fact: Any = self._facts.get(cpu_build_id())
            self._known = _read(fact)
            if self._known != NONE:
                self._warn(f"llama.cpp crashed on this CPU in an earlier run ({fact.get('cause')}): models run {self._known}")
        return self._known

    def learn(self, remedy: Remedy, cause: str, *, is_certain: bool) -> bool:
        """It has helped. True: this is new. A result that may be chance counts only the second time."""
        known = self.known.joined(remedy)
        if known == self._known:
            return False
        fact = self._facts.get(cpu_build_id())
        if not is_certain and not (isinstance(fact, dict) and fact.get("is_suspected") is True):
            self._put(self.known, cause, is_suspected=True)
            return True
        self.settle(known, cause)
        self._warn(f"llama.cpp crashes on this CPU ({cause}): from now on all models run {known}")
        return True

    def _warn(self, text: str) -> None:
        path = self._facts.path
        log.warning("%s, which is slower%s", text, f". To try the usual way again, delete {path}" if path is not None else "")

    def settle(self, remedy: Remedy, cause: str) -> None:
        """Use this from now on."""
        self._known = remedy
        self._put(remedy, cause, is_suspected=False)

    def _put(self, remedy: Remedy, cause: str, *, is_suspected: bool) -> None:
        fact = {"safe_mode": remedy.safe_mode, "num_dropped": remedy.num_dropped, "cause": cause, "is_suspected": is_suspected}
        self._facts.put(cpu_build_id(), fact)

    def save(self) -> None:
        """Blocks until it is written to disk."""
        self._facts.save()


def _read(fact: Any) -> Remedy:
    """The file may hold anything."""
    if not isinstance(fact, dict):
        return NONE
    num_dropped = fact.get("num_dropped")
    return Remedy(fact.get("safe_mode") is True, min(num_dropped, MAX_DROPPED) if type(num_dropped) is int and num_dropped > 0 else 0)
