"""results/*.json -> bench/README.md, plots/*.svg and the table in the README. Every number comes from a run.

`switch-*.json` are whole runs, `part-*.json` runs of some scenarios. The page shows the newest whole run, and from newer parts what that
run has not measured, each with its own machine and date.
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import interval, tails
from bench.measures import HOT, MEASURES, SECTIONS, Measure, Section
from bench.plots import PLOTS
from fastrouter.cli.bench.servers import OURS, RIVAL

HERE = Path(__file__).parent
Result = dict[str, Any]
Samples = dict[str, list[float]]


# ---------------------------------------------------------------- tables


def rivals_in(result: Result) -> list[str]:
    return sorted((name for name in result["samples"] if name != OURS), key=lambda name: name != RIVAL)


def section_table(result: Result, section: Section, without: frozenset[str] = frozenset()) -> str:
    """Markdown; empty when the run has none of its measures. `without`: measures that are shown elsewhere."""
    ours: Samples = result["samples"][OURS]
    shown = {name: measure for name, measure in section.measures.items() if ours.get(name) and name not in without}
    if not shown:
        return ""
    rivals = rivals_in(result)
    heads = ["measure", "n", *(f"{name}: p50 / p95 / p99" for name in (*rivals, OURS)), *(["ratio (95 %)"] if rivals else []), "goal"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for name, measure in shown.items():
        cells = [_tails_text(result["samples"][server].get(name, []), measure) for server in (*rivals, OURS)]
        ratio = [_ratio_text(ours[name], result["samples"].get(RIVAL, {}).get(name, []))] if rivals else []
        lines.append(_line([measure.label, str(len(ours[name])), *cells, *ratio, _goal_text(measure)]))
    if section is HOT and "hot_switch_tiny_s" in shown:
        lines.append(_line(_penalty_cells(result, rivals)))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _tails_text(samples: list[float], measure: Measure) -> str:
    if not samples:
        return "-"
    found = [value * measure.factor for value in tails(samples, is_less_better=measure.is_less_better)]
    if len(samples) == 1:
        del found[1:]
    return f"{' / '.join(map(_number, found))} {measure.unit}".rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _ratio_text(ours: list[float], theirs: list[float]) -> str:
    """Of the medians, to llama-server; the interval from three samples on."""
    if not theirs or not median(theirs):
        return "-"
    shown = f"{median(ours) / median(theirs):.2f}x"
    if min(len(ours), len(theirs)) < 3 or not all(theirs):
        return shown
    low, high = interval(ours, theirs)
    return f"{shown} ({low:.2f} to {high:.2f})"


def _goal_text(measure: Measure) -> str:
    sign = "<=" if measure.is_less_better else ">="
    texts = [] if measure.goal is None else [f"{sign} {measure.goal:g}x"]
    if measure.own_goal is not None:
        texts.append(f"{sign} {measure.own_goal:,g} {measure.unit}")
    return ", ".join(texts) or "-"


def _penalty(samples: Samples) -> float | None:
    """Milliseconds that a switch between loaded models adds."""
    if not samples.get("hot_switch_tiny_s") or not samples.get("hot_stay_tiny_s"):
        return None
    return (median(samples["hot_switch_tiny_s"]) - median(samples["hot_stay_tiny_s"])) * 1e3


def _penalty_cells(result: Result, rivals: list[str]) -> list[str]:
    found = {name: _penalty(result["samples"][name]) for name in (*rivals, OURS)}
    cells = ["-" if value is None else f"{value:.3f} ms" for value in found.values()]
    num_samples = len(result["samples"][OURS]["hot_switch_tiny_s"])
    return ["penalty of a switch (alternating minus staying, p50)", str(num_samples), *cells, *(["-"] if rivals else []), "about 0"]


def missed(result: Result) -> list[str]:
    """Goals that this run has not reached."""
    ours, theirs = result["samples"][OURS], result["samples"].get(RIVAL, {})
    found = []
    for name, measure in MEASURES.items():
        if not ours.get(name):
            continue
        value = median(ours[name]) * measure.factor
        if measure.own_goal is not None and not measure.reaches(value, measure.own_goal):
            found.append(f"{measure.label}: {_number(value)} {measure.unit} instead of {measure.own_goal:,g} {measure.unit}")
        rival = median(theirs[name]) * measure.factor if theirs.get(name) else 0.0
        if measure.goal is not None and rival and not measure.reaches(value / rival, measure.goal):
            found.append(f"{measure.label}: {value / rival:.2f}x instead of {measure.goal:g}x{_floor_text(measure, ours, rival)}")
    return found


def _floor_text(measure: Measure, ours: Samples, rival: float) -> str:
    """How near to the goal anything of this shape could come; `rival`: llama-server's median, in the measure's unit."""
    if measure.floor is None or not ours.get(measure.floor):
        return ""
    floor = MEASURES[measure.floor]
    value = median(ours[measure.floor]) * floor.factor
    return f" (limit {value / rival:.2f}x: {floor.label}, {_number(value)} {floor.unit})"


def conditions(result: Result, section: Section) -> str:
    """The line below each table: CPU, versions, flags, warm-up."""
    machine, versions = result["machine"], result["versions"]
    built = result.get("built", {})
    names = ", ".join(f"{name} {_version(version)}{_built_text(built.get(name))}" for name, version in versions.items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, {result['date']}. {names}. "
        f"Flags: `{' '.join(result['flags'])}`. Rounds: {result['rounds']}. Warm-up: {section.warm_up}."
    )


def _built_text(flags: str | None) -> str:
    return f" (built with {flags})" if flags else ""


def _version(said: str) -> str:
    return said.removeprefix("version: ")


def tables(result: Result, without: frozenset[str] = frozenset()) -> str:
    """All sections of a run."""
    parts = []
    for section in SECTIONS:
        table = section_table(result, section, without)
        if table:
            parts.append(f"### {section.title}\n\n{table}\n\n{conditions(result, section)}\n")
    return "\n".join(parts)


# ---------------------------------------------------------------- the page

PAGE = """# Benchmarks

`make rival` builds the llama-server to compare with, `make bench RIVAL=build/rival/llama-server` measures both servers in one run (about
20 minutes), with the same client, models and flags. `python -m bench --quick` measures the switches only, in about two minutes. Both print
the goals that were missed. A whole run writes `results/*.json`; `python -m bench.report` makes this page, the plots and the table in the
README from the newest. Absolute times depend on the machine; compare the ratios.

`python -m bench --ollama PATH` and `--llama-swap PATH` add these servers to the scenarios that they can do. They are driven as their
documentation says, and tested with stand-ins; no result on this page comes from them.

`fastrouter bench` measures your own models, with the executable too: see [operations](../docs/operations.md#what-switching-costs-here).

How to read the tables: temperature 0, a new connection for each request, servers take turns in each round. Times to the first token are
from before connect to the first character of text. Of times, p95 and p99 are the slow end; of rates, the low end. With fewer than 20
samples both are the worst one. A ratio is fastrouter's p50 to llama-server's p50, with its 95 % interval from 1,000 resamples (bootstrap).
"""


def page(results: list[Result], plots: list[str], engine: Result | None, router: Result | None) -> str:
    """`results`: a whole run, and newer parts."""
    whole, parts = results[0], results[1:]
    lines = [PAGE, *(f"![{PLOTS[name][0]}](plots/{name}.svg)\n" for name in plots)]
    lines += [f"## The run of {whole['date']}\n", tables(whole), _in_words(missed(whole))]
    shown = {name for name in MEASURES if whole["samples"][OURS].get(name)}
    for part in parts:
        found = tables(part, frozenset(shown))
        if found:
            only_new = {name: values for name, values in part["samples"][OURS].items() if name not in shown}
            less = {**part, "samples": {**part["samples"], OURS: only_new}}
            lines += [f"## Measured on {part['date']}\n", found, _in_words(missed(less))]
            shown |= {name for name in only_new if name in MEASURES}
    if router is not None and "scripted_512_tokens_per_s" not in shown:
        lines.append(ROUTER_SECTION.format(**router))
    if engine is not None:
        lines.append(engine_section(engine, has_parsing="parsing_ratio" in shown))
    return "\n".join(lines).rstrip() + "\n"


def _in_words(goals: list[str]) -> str:
    if not goals:
        return "This run reached all its goals.\n"
    return "Goals that this run missed:\n\n" + "\n".join(f"- {goal}" for goal in goals) + "\n"


ROUTER_SECTION = """## The router alone

`python -m bench.router`: scripted workers send tokens at full speed; the router passes them through ring, SSE and sockets.

{num_streams} parallel streams: **{tokens_per_s:,.0f} tokens/s** per second of wall time, **{tokens_per_cpu_s:,.0f} tokens/s** per second
of the router's CPU time (goal: 500,000 on one core). {cpu}, {cores} cores, {date}.
"""


ENGINE_SECTION = """## The engine alone

`python -m bench.engine`: one process, best of many runs. {cpu}, {date}. Time of a step without llama_decode
(goal: 60 us + 8 us per stream): {steps}.

| vocabulary | sampling | llama_sampler_sample | fastrouter | ratio |
|---|---|---|---|---|
{rows}
{parsing}"""


def engine_section(result: Result, *, has_parsing: bool) -> str:
    """`has_parsing`: the page has these figures already."""
    steps = ", ".join(f"{us:.1f} us with {num_streams}" for num_streams, us in result["step_us"].items())
    rows = []
    for row in result["sampling"]:
        llama_us, our_us = row["llama_us"], row["us"]
        rows.append(f"| {row['vocabulary']:,} | {row['settings']} | {llama_us:.1f} us | {our_us:.1f} us | {our_us / llama_us:.2f}x |")
    parsing = "" if has_parsing else _parsing(result.get("parsing"))
    return ENGINE_SECTION.format(cpu=result["cpu"], date=result["date"], steps=steps, rows="\n".join(rows), parsing=parsing)


def _parsing(found: dict[str, float] | None) -> str:
    """Absent in older results."""
    if found is None:
        return ""
    plain, parsed, ratio = found["plain_tokens_per_s"], found["parsed_tokens_per_s"], found["ratio"]
    ends = f", 95 % interval {found['low']:.3f} to {found['high']:.3f}" if "low" in found else ""
    words = f"16 chats: {plain:,.0f} tokens/s, and {parsed:,.0f} with their thoughts and tool calls parsed"
    return f"\n{words}: {ratio:.3f}x (goal: 0.98x{ends}).\n"


SHOWN_FIRST = (
    *("cold_135m_s", "evict_135m_s", "evict_tiny_s", "storm_p95_ttft_s", "tiny_16_streams_tokens_per_s", "both_135m_tokens_per_s"),
)
BEGIN, END = "<!-- bench:begin -->\n", "<!-- bench:end -->\n"


def short_table(result: Result) -> str:
    """For the top of the README: a few measures, and their origin."""
    ours, theirs = result["samples"][OURS], result["samples"].get(RIVAL, {})
    machine = f"{result['machine']['cpu']}, {result['machine']['cores']} cores, {result['date']}"
    lines = [f"| {machine}, medians of one run ([more](bench/README.md)) | llama-server | fastrouter | ratio |", "|---|---|---|---|"]
    for name in SHOWN_FIRST:
        if ours.get(name) and theirs.get(name):
            measure = MEASURES[name]
            mine, rival = median(ours[name]), median(theirs[name])
            cells = [f"{value * measure.factor:,.0f} {measure.unit}" for value in (rival, mine)]
            lines.append(_line([measure.label, *cells, f"{mine / rival:.2f}x"]))
    return "\n".join(lines) + "\n"


def renew_readme(result: Result) -> None:
    readme = HERE.parent / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(before + BEGIN + short_table(result) + END + after)


# ---------------------------------------------------------------- files


def results_in(folder: Path) -> list[Result]:
    """The newest whole run, then newer parts, the newest first."""
    whole = max(folder.glob("switch-*.json"))
    parts = sorted((path for path in folder.glob("part-*.json") if _time_of(path) > _time_of(whole)), reverse=True)
    return [json.loads(path.read_text()) for path in (whole, *parts)]


def _time_of(path: Path) -> str:
    return path.stem.partition("-")[2]


def draw(results: list[Result], folder: Path) -> list[str]:
    """Writes each plot from the first result that has its samples. Returns the names of the plots."""
    folder.mkdir(exist_ok=True)
    drawn = []
    for name, (_, plot) in PLOTS.items():
        text = next((text for result in results if (text := plot(result)) is not None), None)
        if text is not None:
            (folder / f"{name}.svg").write_text(text)
            drawn.append(name)
    return drawn


def _optional(path: Path) -> Result | None:
    return json.loads(path.read_text()) if path.exists() else None


def main() -> None:
    folder = HERE / "results"
    results = results_in(folder)
    plots = draw(results, HERE / "plots")
    (HERE / "README.md").write_text(page(results, plots, _optional(folder / "engine.json"), _optional(folder / "router.json")))
    renew_readme(results[0])


if __name__ == "__main__":
    main()
