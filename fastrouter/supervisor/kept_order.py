"""The order of models that was learned, over a restart: a small file beside what loads have shown, see fact_file.py.

Clients are stored as hashes only. Invariant: an entry that makes no sense is ignored, with one line in the log for all of them.
"""

import hashlib
import logging
from typing import Any

from fastrouter.supervisor.decide.model_order import MAX_CLIENTS, MAX_KEPT_TURNS, Record
from fastrouter.system.fact_file import FactFile

log = logging.getLogger("fastrouter.supervisor")

MAX_NAME_CHARS = 1024  # of a model
MAX_TIMES = 1000
MAX_FOLLOWERS = 64  # of one or two models


class KeptOrder:
    def __init__(self, place: str, facts: FactFile | None = None) -> None:
        """`place`: where the models come from. Routers with other models do not share what they learn."""
        self._place = place
        self._facts = facts or FactFile("order", 1, MAX_CLIENTS)
        self._has_complained = False

    def __repr__(self) -> str:
        return f"<KeptOrder {self._facts!r}>"

    def get(self, client: str) -> Record:
        found = self._facts.get(self._key(client))
        if found is None:
            return []
        record = _read(found)
        if record is None and not self._has_complained:
            self._has_complained = True
            log.warning("%s: what it says about the order of models makes no sense and is ignored", self._facts.path)
        return record or []

    def put(self, client: str, record: Record) -> None:
        self._facts.put(self._key(client), [[list(context), seen] for context, seen in record])

    def save(self) -> None:
        """Blocks until it is written to disk. May run in a thread."""
        self._facts.save()

    def _key(self, client: str) -> str:
        return hashlib.sha256(f"{self._place}\0{client}".encode(errors="surrogateescape")).hexdigest()[:32]


def _read(found: Any) -> Record | None:
    """None: it is not a record."""
    if not isinstance(found, list) or len(found) > MAX_KEPT_TURNS:
        return None
    record: Record = []
    for entry in found:
        if not isinstance(entry, list) or len(entry) != 2 or not _is_context(entry[0]) or not _are_followers(entry[1]):
            return None
        record.append((tuple(entry[0]), entry[1]))
    return record


def _is_context(found: Any) -> bool:
    return isinstance(found, list) and 1 <= len(found) <= 2 and all(map(_is_name, found))


def _are_followers(found: Any) -> bool:
    if not isinstance(found, dict) or len(found) > MAX_FOLLOWERS:
        return False
    return all(_is_name(model_id) and type(times) is int and 0 < times <= MAX_TIMES for model_id, times in found.items())


def _is_name(found: Any) -> bool:
    return isinstance(found, str) and 0 < len(found) <= MAX_NAME_CHARS
