"""All counts: plain numbers for each model, written only by the router's thread. Imports only `_core` of this package.

Invariant: counting once costs a few dictionary look-ups and no lock, and the number of models with counts of their own is limited, whatever
names come and go. api/operations/exposition.py formats the numbers for Prometheus.
"""

from bisect import bisect_left
from collections import Counter

from fastrouter._core import ItlHistogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MAX_MODELS = 1000
OTHERS = "(others)"  # all models beyond MAX_MODELS together


class Histogram:
    """Seconds, by upper bound; the last bucket has none."""

    __slots__ = ("counts", "sum")
    bounds = SECONDS

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def __repr__(self) -> str:
        return f"<Histogram {sum(self.counts)} in {self.sum:.3f} s>"

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds


class ModelCounts:
    """All counts of one model."""

    def __init__(self) -> None:
        self.num_changes = 0  # grows with every change except those of `itl`
        self.requests: Counter[tuple[str, str]] = Counter()  # by (flavour, outcome)
        self.queue = Histogram()
        self.load = Histogram()
        self.ttft = Histogram()
        self.prefill = Histogram()
        self.switch = {False: Histogram(), True: Histogram()}  # by whether another model was evicted for it
        self.itl = ItlHistogram()
        self.prompt_tokens = 0  # including those from the cache
        self.cached_tokens = 0
        self.generated_tokens = 0
        self.drafts = 0  # guesses of speculative decoding
        self.draft_tokens = 0  # in these guesses
        self.draft_tokens_accepted = 0
        self.prompt_s = 0.0  # as measured by the worker
        self.generated_s = 0.0
        self.num_decodes = 0  # calls of llama_decode
        self.num_busy_decodes = 0  # the same, counted once for each sequence that had a slot
        self.most_tokens = 0  # of one request, prompt and answer
        self.evictions: Counter[str] = Counter()  # by reason
        self.foreseen: Counter[str] = Counter()  # turns to this model by whether it was expected: right | wrong
        self.ahead: Counter[str] = Counter()  # loads before a request came, by what became of them: used | unused
        self.ahead_saved_s = 0.0  # that requests did not wait because of them
        self.num_failed_loads = 0
        self.num_deaths = 0
        self.num_restored = 0  # parked prompts that a new worker has used
        self.restored_tokens = 0

    @property
    def version(self) -> tuple[int, int]:
        """Differs after any change."""
        return self.num_changes, sum(self.itl.counts)


_models: dict[str, ModelCounts] = {}


def of(model_id: str) -> ModelCounts:
    """The counts of a model in the catalog, for writing; each call counts as a change."""
    counts = _models.get(model_id)
    if counts is None:
        counts = _models.setdefault(model_id if len(_models) < MAX_MODELS else OTHERS, ModelCounts())
    counts.num_changes += 1
    return counts


def by_model() -> dict[str, ModelCounts]:
    """For reading only."""
    return _models


# ---------------------------------------------------------------- calls of the supervisor


def loaded(model_id: str, seconds: float) -> None:
    of(model_id).load.observe(seconds)


def load_failed(model_id: str) -> None:
    of(model_id).num_failed_loads += 1


def evicted(model_id: str, reason: str) -> None:
    """It leaves memory. `reason` is one of a few fixed words: count, memory, ttl, unload, reload, crash ..."""
    of(model_id).evictions[reason] += 1


def restored(model_id: str, num_tokens: int) -> None:
    """A worker has used a parked prompt."""
    counts = of(model_id)
    counts.num_restored += 1
    counts.restored_tokens += num_tokens


def foreseen(model_id: str, is_right: bool) -> None:
    """A client has turned to this model while the router had foreseen this one, or another one."""
    of(model_id).foreseen["right" if is_right else "wrong"] += 1


def used_ahead(model_id: str, saved_s: float) -> None:
    """A request has come for a model that was loaded, or began to load, before it."""
    counts = of(model_id)
    counts.ahead["used"] += 1
    counts.ahead_saved_s += saved_s


def unused_ahead(model_id: str) -> None:
    """It was loaded for nothing."""
    of(model_id).ahead["unused"] += 1


def died(model_id: str) -> None:
    """Its worker ended by itself while it was loaded."""
    of(model_id).num_deaths += 1
