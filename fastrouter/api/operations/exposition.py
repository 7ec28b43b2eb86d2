"""The counts in Prometheus' text formats, with prometheus_client. It is slow to import, so only a scrape imports this file. Never imports:
supervisor, http.

Invariant: the samples of a model are rendered again only after it has changed, so in a scrape of many models only the busy models need
time.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

from prometheus_client import PROCESS_COLLECTOR
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from fastrouter import __version__
from fastrouter._core import ItlHistogram
from fastrouter.metrics import Histogram, ModelCounts
from fastrouter.system.build import LLAMA_BUILD

Encode = Callable[[Any], bytes]  # of any object with collect()
Row = tuple[Sequence[str], float]  # values of the labels after `model`, and the sample

_SWITCH = "Seconds from a request to its first text when its model had to be loaded; evicted: another model was evicted for it."
_NAMED_SAMPLE = re.compile(rb'^(llamacpp:\w+)\{model="(?:[^"\\]|\\.)*"\}', re.MULTILINE)
_HISTOGRAMS = (
    ("queue", "Seconds that requests waited for a place, without the time to load their model."),
    ("load", "Seconds to load the model."),
    ("ttft", "Seconds from a request to its first text."),
    ("prefill", "Seconds from when the worker took a request to its first text."),
    ("itl", "Seconds between two texts of an answer."),
)


@dataclass(frozen=True, slots=True)
class ResidentFigures:
    """A model that has a place, or that requests wait for, now."""

    model_id: str
    state: str  # "": it has no place
    num_running: int
    num_waiting: int
    resident_bytes: int = 0
    host_bytes: int = 0  # the memory that the router counts for it
    device_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Fleet:
    """Values that are measured at the scrape, not counted."""

    residents: list[ResidentFigures] = field(default_factory=list)
    models_max: int = 0
    parked: dict[str, tuple[int, int]] = field(default_factory=dict)  # (entries, bytes) by model


def content_type_for(accept: str) -> str:
    """One of FORMATS, by an Accept header."""
    try:
        is_open = choose_encoder(accept)[1].startswith("application/openmetrics-text")
    except (ValueError, TypeError):  # an invalid version
        is_open = False
    return openmetrics.CONTENT_TYPE_LATEST if is_open else CONTENT_TYPE_PLAIN_0_0_4


FORMATS: dict[str, Encode] = {
    CONTENT_TYPE_PLAIN_0_0_4: generate_latest,
    # No name here needs an escape, but the default one would replace the colon of `llamacpp:` in samples.
    openmetrics.CONTENT_TYPE_LATEST: partial(openmetrics.generate_latest, escaping=openmetrics.ALLOWUTF8),
}


class _Families:
    """Encoders use it like a registry."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Exposition:
    """The text in one format."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._end = encode(_Families(()))  # the text after all families
        self._models: dict[str, tuple[tuple[int, int], dict[bytes, bytes]]] = {}  # version, samples by family

    def __repr__(self) -> str:
        return f"<Exposition {len(self._models)} models>"

    def refresh(self, model_id: str, counts: ModelCounts) -> bool:
        """True when something was rendered."""
        version = counts.version
        known = self._models.get(model_id)
        if known is not None and known[0] == version:
            return False
        self._models[model_id] = version, self._render(collect_counts(model_id, counts))
        return True

    def text(self, fleet: Fleet, only: str | None, *, has_one_model: bool = False) -> bytes:
        """All samples, or those of the model `only`. `has_one_model`: llama-server's own samples have no model label, as there."""
        counted = [samples for model_id, (_, samples) in self._models.items() if only in (None, model_id)]
        families: dict[bytes, list[bytes]] = {}
        for samples in (self._render(collect_fleet(fleet, is_whole=only is None)), *counted):
            for head, lines in samples.items():
                families.setdefault(head, []).append(lines)
        whole = b"".join(head + b"".join(lines) for head, lines in families.items()) + self._end
        return _NAMED_SAMPLE.sub(rb"\1", whole) if has_one_model else whole

    def _render(self, families: Iterable[Metric]) -> dict[bytes, bytes]:
        """Samples by the first two lines of their family. A label value cannot contain the separator, because line feeds are escaped."""
        text = b"\n" + self._encode(_Families(families)).removesuffix(self._end)
        blocks = [block.rstrip(b"\n").split(b"\n", 2) for block in text.split(b"\n# HELP ")[1:]]
        return {b"# HELP %s\n%s\n" % (name, kind): b"".join(line + b"\n" for line in samples) for name, kind, *samples in blocks}


# ---------------------------------------------------------------- families


def collect_counts(model_id: str, counts: ModelCounts) -> Iterator[Metric]:
    def counter(name: str, help: str, *labels: str, rows: Iterable[Row]) -> CounterMetricFamily:
        family = CounterMetricFamily(name, help, labels=("model", *labels))
        for values, value in rows:
            family.add_metric((model_id, *values), value)
        return family

    yield counter("fastrouter_requests", "Requests that have ended.", "flavour", "outcome", rows=counts.requests.items())
    for name, help in _HISTOGRAMS:
        yield _histogram(f"fastrouter_{name}_seconds", help, ("model",), [((model_id,), getattr(counts, name))])
    switches = [((model_id, str(evicted).lower()), histogram) for evicted, histogram in counts.switch.items()]
    yield _histogram("fastrouter_switch_seconds", _SWITCH, ("model", "evicted"), switches)
    loads = [(("ok",), float(sum(counts.load.counts))), (("failed",), float(counts.num_failed_loads))]
    yield counter("fastrouter_loads", "Loads that have ended.", "outcome", rows=loads)
    yield counter("fastrouter_evictions", "Times that the model was removed from memory.", "reason", rows=_by_one(counts.evictions))
    foreseen = "Turns of clients to this model, by whether the router had foreseen them."
    yield counter("fastrouter_foreseen_turns", foreseen, "outcome", rows=_by_one(counts.foreseen))
    ahead = "Loads before a request came, by what became of them."
    yield counter("fastrouter_ahead_loads", ahead, "outcome", rows=_by_one(counts.ahead))
    num_processed = counts.prompt_tokens - counts.cached_tokens
    plain = (
        ("fastrouter_ahead_saved_seconds", "Seconds that requests did not wait because of loads ahead.", counts.ahead_saved_s),
        ("fastrouter_worker_deaths", "Workers that died while they served.", counts.num_deaths),
        ("fastrouter_parked_prompts_restored", "Parked prompts that a new worker has used.", counts.num_restored),
        (
            "fastrouter_parked_tokens_restored",
            "Tokens that were not computed again because they were parked.",
            counts.restored_tokens,
        ),
        ("fastrouter_prompt_tokens", "Tokens of prompts, including those from the cache.", counts.prompt_tokens),
        ("fastrouter_cached_tokens", "Tokens of prompts that came from the cache.", counts.cached_tokens),
        ("fastrouter_generated_tokens", "Tokens of answers.", counts.generated_tokens),
        ("fastrouter_draft_tokens", "Tokens guessed by speculative decoding.", counts.draft_tokens),
        ("fastrouter_draft_tokens_accepted", "Guessed tokens that became part of an answer.", counts.draft_tokens_accepted),
        ("llamacpp:prompt_tokens", "Number of prompt tokens processed.", num_processed),
        ("llamacpp:prompt_tokens_cached", "Number of prompt tokens reused from the cache.", counts.cached_tokens),
        ("llamacpp:prompt_seconds", "Prompt process time in seconds.", counts.prompt_s),
        ("llamacpp:tokens_predicted", "Number of generation tokens processed.", counts.generated_tokens),
        ("llamacpp:tokens_predicted_seconds", "Predict process time in seconds.", counts.generated_s),
        ("llamacpp:n_decode", "Number of llama_decode() calls, counted when answers end.", counts.num_decodes),
        ("llamacpp:spec_decode_num_drafts", "Speculative: guesses that were tried.", counts.drafts),
        ("llamacpp:spec_decode_num_draft_tokens", "Speculative: tokens in these guesses.", counts.draft_tokens),
        ("llamacpp:spec_decode_num_accepted_tokens", "Speculative: those that became part of an answer.", counts.draft_tokens_accepted),
    )
    for name, help, value in plain:
        yield counter(name, help, rows=[((), value)])
    speeds = (
        (
            "llamacpp:prompt_tokens_seconds",
            "Average prompt throughput in tokens/s.",
            counts.prompt_tokens - counts.cached_tokens,
            counts.prompt_s,
        ),
        ("llamacpp:predicted_tokens_seconds", "Average generation throughput in tokens/s.", counts.generated_tokens, counts.generated_s),
    )
    for name, help, num_tokens, seconds in speeds:
        yield _gauge(name, help, ("model",), [((model_id,), num_tokens / seconds if seconds else 0.0)])
    busy = counts.num_busy_decodes / counts.num_decodes if counts.num_decodes else 0.0
    yield _gauge("llamacpp:n_busy_slots_per_decode", "Average number of busy slots in these calls.", ("model",), [((model_id,), busy)])
    yield _gauge("llamacpp:n_tokens_max", "Most tokens of one request, prompt and answer.", ("model",), [((model_id,), counts.most_tokens)])


def collect_fleet(fleet: Fleet, *, is_whole: bool) -> Iterator[Metric]:
    """`is_whole`: also samples that belong to no model."""
    residents = [resident for resident in fleet.residents if resident.state]

    def gauge(name: str, help: str, rows: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
        return _gauge(name, help, ("model",), [((model_id,), value) for model_id, value in rows])

    running = [(each.model_id, each.num_running) for each in residents]
    waiting = [(each.model_id, each.num_waiting) for each in fleet.residents]
    yield gauge("fastrouter_requests_running", "Requests that use the model now.", running)
    yield gauge("fastrouter_requests_waiting", "Requests that wait for the model now.", waiting)
    yield gauge("llamacpp:requests_processing", "Number of requests processing.", running)
    yield gauge("llamacpp:requests_deferred", "Number of requests deferred.", waiting)
    awake = [each for each in residents if each.resident_bytes]
    rss = [(each.model_id, each.resident_bytes) for each in awake]
    yield gauge("fastrouter_worker_resident_memory_bytes", "Resident memory of the model's worker, the mapped file included.", rss)
    kinds = (("host", "host_bytes"), ("device", "device_bytes"))
    budgeted = [((each.model_id, kind), getattr(each, name)) for each in awake for kind, name in kinds]
    yield _gauge("fastrouter_budgeted_memory_bytes", "Memory that the router counts for the model.", ("model", "kind"), budgeted)
    states = [((each.model_id, each.state), 1.0) for each in residents]
    yield _gauge("fastrouter_instance_state", "1 for the state of the model; absent when it has no place.", ("model", "state"), states)
    counts = [(model_id, float(count)) for model_id, (count, _) in fleet.parked.items()]
    sizes = [(model_id, float(num_bytes)) for model_id, (_, num_bytes) in fleet.parked.items()]
    yield gauge("fastrouter_parked_prompts", "Prompts that are parked for the model, in memory or on disk.", counts)
    yield gauge("fastrouter_parked_bytes", "Bytes of these prompts.", sizes)
    if is_whole:
        yield GaugeMetricFamily("fastrouter_models_resident", "Models that have a place: loading, loaded or asleep.", len(residents))
        yield GaugeMetricFamily("fastrouter_models_max", "Places (--models-max); 0: no limit.", fleet.models_max)
        yield GaugeMetricFamily("fastrouter_queue_length", "Requests that wait for a model.", sum(count for _, count in waiting))
        build = {"version": __version__, "llama_cpp": f"b{LLAMA_BUILD}"}
        yield InfoMetricFamily("fastrouter_build", "Versions of fastrouter and llama.cpp.", build)
        yield from PROCESS_COLLECTOR.collect()


def _by_one(counts: dict[str, int]) -> list[Row]:
    return [((name,), count) for name, count in counts.items()]


def _gauge(name: str, help: str, labels: Sequence[str], rows: Iterable[Row]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _histogram(
    name: str, help: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Histogram | ItlHistogram]]
) -> HistogramMetricFamily:
    """Only rows that are not 0."""
    family = HistogramMetricFamily(name, help, labels=labels)
    for values, histogram in rows:
        total, buckets = 0, []
        for bound, count in zip((*histogram.bounds, inf), histogram.counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == inf else str(bound), total))
        if total:
            family.add_metric(values, buckets, histogram.sum)
    return family
