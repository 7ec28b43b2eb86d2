"""Which settings are tried, and which one is the best. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from fastrouter.simulator.simulation import RECORDED, Outcome, Setting
from fastrouter.simulator.trace import Trace

MEMORY_SHARES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)  # of the recorded limit
AS_GOOD = 0.01  # a total wait that is larger by this share of the recorded one is not worse
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Tried:
    setting: Setting
    outcome: Outcome

    @property
    def total_wait_s(self) -> float:
        return sum(self.outcome.waits)


def settings_of(axes: dict[str, Sequence[Any]]) -> list[Setting]:
    """All combinations of these fields."""
    return list(dict.fromkeys(replace(RECORDED, **dict(zip(axes, values, strict=True))) for values in product(*axes.values())))


def usual_axes(trace: Trace) -> dict[str, Sequence[Any]]:
    """Less and more memory and places, up to the step at which all models fit."""
    axes: dict[str, Sequence[Any]] = {}
    loads = {load.model_id: load for load in trace.loads}
    for name, limit, needs in (
        ("memory_mib", trace.host_bytes, [load.host_bytes for load in loads.values()]),
        ("device_mib", trace.device_bytes, [load.device_bytes for load in loads.values()]),
    ):
        if limit is not None and any(needs):
            axes[name] = [None if size is None else size // MIB for size in _sizes(limit, sum(needs))]
    axes["models_max"] = _places(trace.models_max, len(trace.models))
    return axes


def _sizes(limit: int, needed: int) -> list[int | None]:
    """None: the recorded one."""
    sizes = [int(share * limit) for share in MEMORY_SHARES]
    enough = next((size for size in sizes if size >= max(needed, limit)), sizes[-1])
    return [None if size == limit else size for size in sizes if size <= enough]


def _places(recorded: int, num_models: int) -> list[int | None]:
    """None: the recorded number; 0: no limit."""
    found = {recorded // 2, recorded, recorded + 1, 2 * recorded} if recorded else {num_models // 2, num_models - 1}
    numbers = sorted(number for number in found if 0 < number < num_models or number == recorded)
    return [None if number == recorded else number for number in numbers] + ([0] if recorded else [None])


def best_of(tried: Sequence[Tried], trace: Trace) -> Tried:
    """The fewest refusals, then the shortest waits; of settings that are as good, the one that adds least to the recorded one."""
    return min(_as_good(tried), key=lambda one: (*_added(one, trace), _num_changes(one), one.total_wait_s))


def _as_good(tried: Sequence[Tried]) -> list[Tried]:
    """All that are as good as the best."""
    fewest = min(one.outcome.num_refused for one in tried)
    good = [one for one in tried if one.outcome.num_refused == fewest]
    shortest = min(one.total_wait_s for one in good)
    margin_s = AS_GOOD * max(one.total_wait_s for one in tried)
    return [one for one in good if one.total_wait_s <= shortest + margin_s]


def next_step(tried: Sequence[Tried], of: Tried, trace: Trace) -> Tried | None:
    """The same setting with the next larger memory that was tried."""
    larger = [one for one in _same_but_memory(tried, of) if _memory(one, trace) > _memory(of, trace)]
    return min(larger, key=lambda one: _memory(one, trace), default=None)


def least_memory(tried: Sequence[Tried], best: Tried, trace: Trace) -> Tried | None:
    """The same setting with the least memory that is as good; None: the best one has it."""
    smaller = [one for one in _same_but_memory(_as_good(tried), best) if _memory(one, trace) < _memory(best, trace)]
    return min(smaller, key=lambda one: _memory(one, trace), default=None)


def _same_but_memory(tried: Sequence[Tried], of: Tried) -> list[Tried]:
    return [one for one in tried if _without_memory(one) == _without_memory(of)]


def _without_memory(one: Tried) -> Setting:
    return replace(one.setting, memory_mib=None, device_mib=None)


def _memory(one: Tried, trace: Trace) -> tuple[float, float]:
    """MiB of devices and of the host."""
    sizes = ((one.setting.device_mib, trace.device_bytes), (one.setting.memory_mib, trace.host_bytes))
    device, host = (_or_inf((limit or 0) // MIB if wanted is None else wanted) for wanted, limit in sizes)
    return device, host


def _added(one: Tried, trace: Trace) -> list[float]:
    """Memory and places that the recorded router did not have."""
    wanted = one.setting.models_max
    mine = (*_memory(one, trace), _or_inf(trace.models_max if wanted is None else wanted))
    recorded = (*_memory(Tried(RECORDED, one.outcome), trace), _or_inf(trace.models_max))
    return [max(0.0, size - before) if size != before else 0.0 for size, before in zip(mine, recorded, strict=True)]


def _num_changes(one: Tried) -> int:
    return sum(getattr(one.setting, field.name) != getattr(RECORDED, field.name) for field in fields(one.setting))


def _or_inf(limit: int) -> float:
    return limit or math.inf
