"""What a reload brought: which models are new, changed, gone, or only updated.

Pure. Invariant: each id is in one group at most.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fastrouter.catalog.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Difference:
    """What a reload brought, by id."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # in what a running process was started with
    removed: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()  # in names, times and the like: what runs goes on

    def __str__(self) -> str:
        parts = [(word, ids) for word in ("added", "changed", "removed", "updated") if (ids := getattr(self, word))]
        return "; ".join(f"{word} {', '.join(ids[:10])}{f' and {len(ids) - 10} more' * (len(ids) > 10)}" for word, ids in parts)

    @property
    def stale(self) -> tuple[str, ...]:
        """What runs of these is no longer what its source says."""
        return self.changed + self.removed


def compare(old: Mapping[str, ModelSpec], new: Mapping[str, ModelSpec]) -> Difference:
    """What has not changed at all is the same object in both."""
    both = [(model_id, old[model_id], spec) for model_id, spec in new.items() if model_id in old]
    return Difference(
        added=tuple(model_id for model_id in new if model_id not in old),
        changed=tuple(model_id for model_id, was, spec in both if was.fingerprint != spec.fingerprint),
        removed=tuple(model_id for model_id in old if model_id not in new),
        updated=tuple(model_id for model_id, was, spec in both if was is not spec and was.fingerprint == spec.fingerprint),
    )
