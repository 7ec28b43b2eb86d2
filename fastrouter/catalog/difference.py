"""The result of a reload: which models are new, changed, gone, or only updated. Pure.

Invariant: each id is in at most one group.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fastrouter.catalog.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Difference:
    """The result of a reload, by id."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # in something that a running process was started with
    removed: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()  # in names, times and the like: running processes continue

    def __str__(self) -> str:
        parts = [(word, ids) for word in ("added", "changed", "removed", "updated") if (ids := getattr(self, word))]
        return "; ".join(f"{word} {', '.join(ids[:10])}{f' and {len(ids) - 10} more' * (len(ids) > 10)}" for word, ids in parts)

    @property
    def stale(self) -> tuple[str, ...]:
        """Their running processes no longer match their sources."""
        return self.changed + self.removed


def compare(old: Mapping[str, ModelSpec], new: Mapping[str, ModelSpec]) -> Difference:
    """A model that has not changed is the same object in both."""
    both = [(model_id, old[model_id], spec) for model_id, spec in new.items() if model_id in old]
    return Difference(
        added=tuple(model_id for model_id in new if model_id not in old),
        changed=tuple(model_id for model_id, was, spec in both if was.fingerprint != spec.fingerprint),
        removed=tuple(model_id for model_id in old if model_id not in new),
        updated=tuple(model_id for model_id, was, spec in both if was is not spec and was.fingerprint == spec.fingerprint),
    )
