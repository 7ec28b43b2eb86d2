"""Which residents leave so that another model fits: the cheapest set. Pure.

When only places are scarce, the least recently used models leave, as in llama-server. When memory is scarce, the set with the lowest cost
leaves: the time that its models need to load again; a model that has been idle for longer counts for less.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Protocol, TypeVar

from fastrouter.supervisor.decide.need import Need, total

_ANY_LOAD_S = 0.2  # a few milliseconds must not decide between models that load almost immediately
_JUST_USED_S = 0.05
MAX_COMBINED = 12  # with so many candidates every set is tried: 4,096 sets


class Candidate(Protocol):
    """A resident that may leave."""

    @property
    def need(self) -> Need: ...
    @property
    def last_used(self) -> float: ...
    @property
    def reload_s(self) -> float: ...
    @property
    def is_asleep(self) -> bool: ...
    @property
    def is_ahead(self) -> bool: ...


T = TypeVar("T", bound=Candidate)


def choose_victims(candidates: Sequence[T], num_places: int, lacking: Need, now: float) -> list[T] | None:
    """The candidates that leave to free `num_places` and the `lacking` memory, least recently used first. None: all of them together are
    not enough. Models that sleep go first, because they hold a place and no memory; then models that no request has asked for."""
    ordered = sorted(candidates, key=lambda candidate: (not candidate.is_asleep, not candidate.is_ahead, candidate.last_used))
    num_places = max(0, num_places)
    if not lacking.is_some:
        return ordered[:num_places] if len(ordered) >= num_places else None
    if len(ordered) < num_places or not _frees(ordered, lacking):
        return None
    few = sorted(ordered, key=lambda candidate: cost(candidate, now))[:MAX_COMBINED]
    sets = (chosen for size in range(max(1, num_places), len(few) + 1) for chosen in combinations(few, size) if _frees(chosen, lacking))
    best = min(sets, key=lambda chosen: sum(cost(candidate, now) for candidate in chosen), default=None)
    if best is None:  # the models are so small that the cheapest twelve are not enough
        best = tuple(_greedy(ordered, num_places, lacking, now))
    return sorted(best, key=lambda candidate: candidate.last_used)


def cost(candidate: Candidate, now: float) -> float:
    """Seconds to load it again, times how likely that is: the longer it has been idle, the less likely."""
    if candidate.is_asleep or candidate.is_ahead:
        return 0.0
    return (_ANY_LOAD_S + candidate.reload_s) / (_JUST_USED_S + max(0.0, now - candidate.last_used))


def _frees(chosen: Sequence[Candidate], lacking: Need) -> bool:
    return total(candidate.need for candidate in chosen).covers(lacking)


def _greedy(candidates: Sequence[T], num_places: int, lacking: Need, now: float) -> list[T]:
    """Take the cheapest first until it is enough; then keep those that turn out not to be needed."""
    chosen: list[T] = []
    for candidate in sorted(candidates, key=lambda candidate: cost(candidate, now)):
        if len(chosen) >= num_places and _frees(chosen, lacking):
            break
        chosen.append(candidate)
    for candidate in sorted(chosen, key=lambda candidate: cost(candidate, now), reverse=True):
        others = [other for other in chosen if other is not candidate]
        if len(others) >= num_places and _frees(others, lacking):
            chosen = others
    return chosen
