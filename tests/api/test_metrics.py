"""/metrics of a real router with scripted workers, read by Prometheus' own parsers; and the counts alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter, eventually
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from fastrouter import metrics
from fastrouter.api.operations.exposition import FORMATS, Exposition, Fleet
from fastrouter.api.serving.timeline import header_value
from fastrouter.metrics import MAX_MODELS, OTHERS, SECONDS, Histogram, ModelCounts

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
HOSTILE = 'a "b" \\ \n# HELP fastrouter_requests_total {x}'
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples_of(router: Router, query: str = "", accept: str = "") -> Samples:
    answer = router.get(f"/metrics{query}", {"Accept": accept})
    assert answer.status == 200, answer.body
    parse = parse_openmetrics if "openmetrics" in accept else parse_plain
    found: Samples = {}
    for family in parse(answer.body.decode()):
        assert family.documentation, family.name
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def total(samples: Samples, name: str, **labels: str) -> float:
    """Sum of the samples with these labels."""
    return sum(each for (found, has), each in samples.items() if found == name and set(labels.items()) <= set(has))


def ask(router: Router, model: str, path: str = "/completion", **script: Any) -> Any:
    prompt = json.dumps({"tokens": 3, **script})
    said = {"messages": [{"role": "user", "content": prompt}]} if "chat" in path else {"prompt": prompt}
    return router.post(path, {"model": model, **said})


@pytest.fixture
def start(router: StartRouter, tmp_path: Path) -> Any:
    """`start(*flags, a={...}, b={...})`: a router with these models."""

    def start(*flags: str, **scripts: dict[str, Any]) -> Router:
        for name, script in scripts.items():
            (tmp_path / f"{name}.gguf").write_text(json.dumps(script))
        return router(*flags, models_dir=tmp_path, is_fake=True)

    return start


# ---------------------------------------------------------------- counts


def test_requests_and_tokens_by_model_and_flavour(start: Any) -> None:
    router = start(a={}, b={})
    for path in ("/completion", "/v1/completions", "/v1/chat/completions", "/v1/chat/completions"):
        assert ask(router, "a", path).status == 200
    assert ask(router, "b", error="no").status == 400
    found = samples_of(router)
    for flavour, count in (("completion", 1), ("completions", 1), ("chat", 2)):
        assert value(found, "fastrouter_requests_total", model="a", flavour=flavour, outcome="ok") == count
    assert value(found, "fastrouter_requests_total", model="b", flavour="completion", outcome="client_error") == 1
    assert value(found, "fastrouter_generated_tokens_total", model="a") == 12
    assert value(found, "fastrouter_prompt_tokens_total", model="a") == 4
    assert value(found, "fastrouter_cached_tokens_total", model="a") == 0
    assert value(found, "llamacpp:tokens_predicted_total", model="a") == 12
    assert value(found, "llamacpp:prompt_tokens_total", model="a") == 4
    assert value(found, "llamacpp:n_tokens_max", model="a") == 4
    assert value(found, "llamacpp:n_decode_total", model="a") == 12
    assert value(found, "llamacpp:n_busy_slots_per_decode", model="a") == 2
    assert value(found, "fastrouter_loads_total", model="a", outcome="ok") == 1
    for name in ("queue", "ttft", "prefill"):
        assert value(found, f"fastrouter_{name}_seconds_count", model="a") == 4
    assert value(found, "fastrouter_itl_seconds_count", model="a") == 8
    assert value(found, "fastrouter_itl_seconds_bucket", model="a", le="+Inf") == 8
    assert value(found, "fastrouter_load_seconds_count", model="a") == 1
    assert value(found, "fastrouter_switch_seconds_count", model="a", evicted="false") == 1


def test_times_land_in_their_buckets(start: Any) -> None:
    router = start(a={"load_s": 0.3})
    assert ask(router, "a", wait_s=0.06, delay_s=0.12, tokens=2).status == 200
    found = samples_of(router)
    for name, low in (("load", 0.25), ("ttft", 0.25), ("prefill", 0.05), ("itl", 0.1)):
        assert value(found, f"fastrouter_{name}_seconds_sum", model="a") > low
        assert value(found, f"fastrouter_{name}_seconds_bucket", model="a", le=str(low)) == 0
    buckets = [each for (name, _), each in found.items() if name == "fastrouter_ttft_seconds_bucket"]
    assert len(buckets) == len(SECONDS) + 1
    assert buckets == sorted(buckets)


def test_evictions_by_reason(start: Any, tmp_path: Path) -> None:
    router = start("--models-max", "1", a={}, b={}, c={})
    assert ask(router, "a").status == ask(router, "b").status == 200
    router.unload("b")
    assert ask(router, "c").status == 200
    (tmp_path / "c.gguf").unlink()
    assert router.get("/models?reload=1").status == 200
    eventually(lambda: total(samples_of(router), "fastrouter_evictions_total", model="c", reason="reload") == 1, "the reload")
    found = samples_of(router)
    assert value(found, "fastrouter_evictions_total", model="a", reason="count") == 1
    assert value(found, "fastrouter_evictions_total", model="b", reason="unload") == 1
    assert total(found, "fastrouter_evictions_total") == 3
    assert value(found, "fastrouter_switch_seconds_count", model="b", evicted="true") == 1
    assert value(found, "fastrouter_switch_seconds_count", model="a", evicted="false") == 1


def test_failures(start: Any) -> None:
    router = start(broken={"fail": "no"}, a={})
    assert ask(router, "broken").status == 400
    assert ask(router, "a", die="SIGKILL", tokens=3, die_after=1).status in (503, 422)
    eventually(lambda: total(samples_of(router), "fastrouter_worker_deaths_total", model="a") >= 1, "the death")
    found = samples_of(router)
    assert value(found, "fastrouter_loads_total", model="broken", outcome="failed") == 1
    assert value(found, "fastrouter_loads_total", model="broken", outcome="ok") == 0
    assert value(found, "fastrouter_evictions_total", model="a", reason="crash") >= 1
    assert value(found, "fastrouter_requests_total", model="broken", flavour="completion", outcome="client_error") == 1


def test_clients_that_leave(start: Any) -> None:
    router = start(a={})
    body = {"model": "a", "prompt": json.dumps({"tokens": 2, "die_after": 2, "hang": True}), "stream": True}
    with router.stream("/completion", body) as stream:
        events = iter(stream)
        next(events)
        next(events)
        found = samples_of(router)
        assert value(found, "fastrouter_requests_running", model="a") == 1
        assert value(found, "llamacpp:requests_processing", model="a") == 1
    left = {"model": "a", "flavour": "completion", "outcome": "cancelled"}
    eventually(lambda: total(samples_of(router), "fastrouter_requests_total", **left) == 1, "the end of the request")
    found = samples_of(router)
    assert value(found, "fastrouter_requests_running", model="a") == 0
    assert value(found, "fastrouter_generated_tokens_total", model="a") == 2


def test_what_is_there_now(start: Any) -> None:
    router = start("--models-max", "1", a={}, b={"load_s": 0.2})
    hang = {"model": "a", "prompt": json.dumps({"tokens": 1, "die_after": 1, "hang": True}), "stream": True}
    with (
        router.stream("/completion", hang),
        router.stream("/v1/completions", {"model": "b", "prompt": "x", "stream": True, "sse_ping_interval": 0.1}),
    ):
        found = samples_of(router)
        assert value(found, "fastrouter_instance_state", model="a", state="loaded") == 1
        assert value(found, "fastrouter_worker_resident_memory_bytes", model="a") > 1 << 20
        assert value(found, "fastrouter_budgeted_memory_bytes", model="a", kind="host") >= 0
        assert value(found, "fastrouter_queue_length") == value(found, "fastrouter_requests_waiting", model="b") == 1
        assert value(found, "llamacpp:requests_deferred", model="b") == 1
        assert value(found, "fastrouter_models_resident") == value(found, "fastrouter_models_max") == 1
    assert value(found, "process_resident_memory_bytes") > 1 << 20
    assert value(found, "process_open_fds") > 5
    assert total(found, "fastrouter_build_info") == 1


def test_a_model_asleep_has_a_place_and_no_worker(start: Any) -> None:
    router = start("--sleep-idle-seconds", "1", a={})
    assert ask(router, "a").status == 200
    router.await_status("a", "sleeping")
    eventually(
        lambda: ("fastrouter_instance_state", (("model", "a"), ("state", "sleeping"))) in samples_of(router), "the end of the worker"
    )
    found = samples_of(router)
    assert value(found, "fastrouter_models_resident") == 1
    assert value(found, "fastrouter_evictions_total", model="a", reason="sleep") == 1
    assert not [name for name, _ in found if name == "fastrouter_worker_resident_memory_bytes"]
    assert router.status("a") == "sleeping"


# ---------------------------------------------------------------- formats


def test_both_formats(start: Any, tmp_path: Path) -> None:
    (tmp_path / f"{HOSTILE.replace('/', '')}.gguf").write_text("{}")
    router = start(a={})
    names = [model["id"] for model in router.get("/models").json["data"]]
    assert len(names) == 2
    for name in names:
        answer = ask(router, name)
        assert answer.status == 200
        assert answer.headers["X-Model"] == header_value(name)
    for accept, content_type in (("", "text/plain; version=0.0.4"), (OPENMETRICS, "application/openmetrics-text; version=1.0.0")):
        answer = router.get("/metrics", {"Accept": accept})
        assert answer.headers["Content-Type"].startswith(content_type)
        assert answer.body.endswith(b"# EOF\n") == bool(accept)
        assert answer.body.count(b"# TYPE fastrouter_ttft_seconds ") == 1
        found = samples_of(router, accept=accept)
        for name in names:
            assert value(found, "fastrouter_requests_total", model=name, flavour="completion", outcome="ok") == 1
            assert value(found, "llamacpp:tokens_predicted_total", model=name) == 3
    assert router.get("/metrics", {"Accept": "application/openmetrics-text; version=x, text/plain; version=y"}).status == 200


def test_one_model(start: Any) -> None:
    router = start(a={}, b={})
    assert ask(router, "a").status == ask(router, "b").status == 200
    found = samples_of(router, "?model=a")
    assert {dict(labels)["model"] for _, labels in found} == {"a"}
    assert value(found, "fastrouter_requests_total", model="a", flavour="completion", outcome="ok") == 1
    assert router.get("/metrics?model=nobody").status == 400


def test_unknown_names_become_no_label(start: Any) -> None:
    router = start(a={})
    for number in range(20):
        assert ask(router, f"nobody{number}").status == 400
        assert router.get(f"/metrics?model=nobody{number}").status == 400
    assert b"nobody" not in router.get("/metrics").body


def test_off_and_locked(start: Any) -> None:
    off = start("--no-metrics", a={}).get("/metrics")
    assert (off.status, off.error["type"]) == (501, "not_supported_error")
    locked = start("--api-key", "secret")
    assert locked.get("/metrics").status == 401
    assert locked.get("/metrics", {"Authorization": "Bearer secret"}).status == 200


def test_a_scrape_loads_and_orders_nothing(start: Any) -> None:
    """Of two idle models the least recently used one is evicted, for any number of metrics requests."""
    router = start("--models-max", "2", a={}, b={}, c={})
    assert samples_of(router, "?model=c") == {}
    assert [router.status(name) for name in "abc"] == ["unloaded"] * 3
    assert ask(router, "a").status == ask(router, "b").status == 200
    for _ in range(5):
        samples_of(router)
        samples_of(router, "?model=a")
    assert ask(router, "c").status == 200
    assert [router.status(name) for name in "abc"] == ["unloaded", "loaded", "loaded"]


def test_fifty_models(start: Any) -> None:
    router = start("--models-max", "3", **{f"m{number}": {} for number in range(50)})
    for number in range(50):
        assert ask(router, f"m{number}").status == 200
    for _ in range(2):
        assert router.get("/metrics").body.count(b"fastrouter_ttft_seconds_count{") == 50
    assert ask(router, "m7").status == 200
    found = samples_of(router)
    assert value(found, "fastrouter_requests_total", model="m7", flavour="completion", outcome="ok") == 2
    assert value(found, "fastrouter_requests_total", model="m8", flavour="completion", outcome="ok") == 1


def test_what_did_not_change_is_not_rendered_again() -> None:
    for encode in FORMATS.values():
        exposition, counts = Exposition(encode), ModelCounts()
        assert exposition.refresh("a", counts)
        before = exposition.text(Fleet(), "a")
        assert not exposition.refresh("a", counts)
        counts.queue.observe(1.0)
        counts.num_changes += 1
        assert exposition.refresh("a", counts)
        assert not exposition.refresh("a", counts)
        assert exposition.text(Fleet(), "a") != before


# ---------------------------------------------------------------- the counts


def test_histogram_bounds_are_inclusive() -> None:
    histogram = Histogram()
    for seconds in (0.001, 0.0010001, 60.0, 61.0):
        histogram.observe(seconds)
    assert histogram.counts == [1, 1, *[0] * 12, 1, 1]
    assert histogram.sum == pytest.approx(121.0020001)


def test_models_beyond_the_limit_share_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_models", {})
    for number in range(MAX_MODELS + 5):
        metrics.evicted(f"m{number}", "count")
    assert len(metrics.by_model()) == MAX_MODELS + 1
    assert metrics.by_model()[OTHERS].evictions["count"] == 5
    before = metrics.by_model()["m0"].version
    metrics.died("m0")
    assert metrics.by_model()["m0"].version > before


@pytest.mark.parametrize(
    ("model_id", "said"),
    [
        ("user/repo:Q4_K_M", "user/repo:Q4_K_M"),
        ("ä/b c", "%C3%A4/b c"),
        ("a\r\nX: y", "a%0D%0AX: y"),
        ("100%", "100%"),
        ("ä%", "%C3%A4%25"),
    ],
)
def test_model_ids_in_a_header(model_id: str, said: str) -> None:
    assert header_value(model_id) == said
