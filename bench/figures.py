"""Medians, percentiles and the interval of a ratio. Pure."""

import random
from collections.abc import Sequence
from statistics import median

NUM_RESAMPLES = 1000


def percentile(samples: Sequence[float], share: float) -> float:
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * share))]


def interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """95 % of the ratios of the medians, when the samples are drawn again from themselves (bootstrap)."""
    chance = random.Random(0)

    def drawn(samples: Sequence[float]) -> float:
        return median(chance.choices(samples, k=len(samples)))

    ratios = [drawn(ours) / drawn(theirs) for _ in range(NUM_RESAMPLES)]
    return percentile(ratios, 0.025), percentile(ratios, 0.975)


def tails(samples: Sequence[float], *, is_less_better: bool) -> tuple[float, float, float]:
    """p50, p95 and p99; of rates, the values that 95 % and 99 % of the samples reach."""
    if is_less_better:
        return median(samples), percentile(samples, 0.95), percentile(samples, 0.99)
    return median(samples), percentile(samples, 0.05), percentile(samples, 0.01)
