"""results/*.json -> the table in bench/README.md. Every number printed comes from a run."""

import json
import random
import statistics
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MEASURES = {  # measure: (what it is, unit, factor, goal as a ratio to the rival, True when less is better)
    "cold_135m_s": ("cold switch, SmolLM2-135M", "ms", 1e3, 0.25, True),
    "cold_tiny_s": ("cold switch, 0.5 MB model", "ms", 1e3, 0.35, True),
    "evict_135m_s": ("evict-and-switch, SmolLM2-135M", "ms", 1e3, 0.30, True),
    "evict_tiny_s": ("evict-and-switch, 0.5 MB model", "ms", 1e3, 0.25, True),
    "back_500_s": ("back to a conversation of 500 tokens whose model was evicted, SmolLM2-135M: first token", "ms", 1e3, None, True),
    "back_500_share": ("the same as a part of its first turn", "%", 1e2, None, True),
    "back_2000_s": ("the same with 2,000 tokens", "ms", 1e3, 0.05, True),
    "back_2000_share": ("the same as a part of its first turn", "%", 1e2, None, True),
    "back_7500_s": ("the same with 7,500 tokens", "ms", 1e3, 0.03, True),
    "back_7500_share": ("the same as a part of its first turn", "%", 1e2, None, True),
    "hot_stay_tiny_s": ("TTFT staying on a tiny model", "ms", 1e3, 0.3, True),
    "hot_switch_tiny_s": ("TTFT alternating two resident tiny models", "ms", 1e3, None, True),
    "hot_stay_135m_s": ("TTFT staying on SmolLM2-135M", "ms", 1e3, 0.75, True),
    "tiny_1_streams_tokens_per_s": ("tiny model, 1 stream", "tokens/s", 1, 2.0, False),
    "tiny_4_streams_tokens_per_s": ("tiny model, 4 streams", "tokens/s", 1, None, False),
    "tiny_8_streams_tokens_per_s": ("tiny model, 8 streams", "tokens/s", 1, None, False),
    "tiny_16_streams_tokens_per_s": ("tiny model, 16 streams", "tokens/s", 1, 3.0, False),
    "135m_1_streams_tokens_per_s": ("SmolLM2-135M, 1 stream", "tokens/s", 1, 1.0, False),
    "135m_4_streams_tokens_per_s": ("SmolLM2-135M, 4 streams", "tokens/s", 1, 1.0, False),
    "135m_8_streams_tokens_per_s": ("SmolLM2-135M, 8 streams", "tokens/s", 1, None, False),
    "135m_16_streams_tokens_per_s": ("SmolLM2-135M, 16 streams", "tokens/s", 1, None, False),
    "both_135m_tokens_per_s": ("two SmolLM2-135M at the same time, together", "tokens/s", 1, None, False),
    "135m_prefill_tokens_per_s": ("prefill, SmolLM2-135M", "tokens/s", 1, 1.0, False),
    "beside_itl_p99_s": ("three streams while a 1,100-token prompt is read, SmolLM2-135M: p99 between two tokens", "ms", 1e3, None, True),
    "beside_ttft_s": ("the same: first token of that prompt", "ms", 1e3, None, True),
    "repeat_off_tokens_per_s": ("SmolLM2-135M copies a listing", "tokens/s", 1, None, False),
    "repeat_on_tokens_per_s": ("the same with --spec-type ngram-simple", "tokens/s", 1, None, False),
    "repeat_held_share": ("the same: guesses that were accepted", "%", 1e2, None, False),
    "agents_s": ("21 turns of three agents with a model each, room for two models", "s", 1, 0.3, True),
    "agents_ttft_s": ("the same: first token", "ms", 1e3, None, True),
    "storm_s": ("storm: 240 requests of 24 clients to 3 tiny models, room for one model", "s", 1, None, True),
    "storm_swaps": ("storm: loads", "", 1, None, True),
    "storm_p95_ttft_s": ("storm: p95 of the wait for the first token", "ms", 1e3, None, True),
    "start_s": ("start to /health", "ms", 1e3, 1.5, True),
    "start_to_token_s": ("start to the first token of a tiny model", "ms", 1e3, 1.0, True),
    "router_rss_bytes": ("router memory, idle", "MB", 1e-6, 1.5, True),
}


NUM_RESAMPLES = 1000


def percentile(samples: list[float], share: float) -> float:
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * share))]


def interval(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """95 % of the ratios of the medians, when the samples are drawn again from themselves (bootstrap)."""
    chance = random.Random(0)

    def median(samples: list[float]) -> float:
        return statistics.median(chance.choices(samples, k=len(samples)))

    ratios = [median(ours) / median(theirs) for _ in range(NUM_RESAMPLES)]
    return percentile(ratios, 0.025), percentile(ratios, 0.975)


def table(result: dict[str, Any]) -> str:
    """Markdown. p50 of each server; p95 and p99 if there are 20 samples; the ratio with its interval if there are 3; the goal."""
    ours, theirs = result["samples"]["fastrouter"], result["samples"].get("llama-server", {})
    lines = ["| measure | n | llama-server p50 | fastrouter p50 (p95, p99) | ratio (95 %) | goal |", "|---|---|---|---|---|---|"]
    for measure, (label, unit, factor, goal, less) in MEASURES.items():
        if measure not in ours:
            continue
        mine = ours[measure]
        tail = f" ({', '.join(f'{percentile(mine, share) * factor:.3g}' for share in (0.95, 0.99))})" if len(mine) >= 20 else ""
        wanted = "-" if goal is None else f"{'<=' if less else '>='} {goal:g}x"
        shown = f"{statistics.median(theirs[measure]) * factor:,.4g} {unit}" if theirs.get(measure) else "-"
        found = f"{statistics.median(mine) * factor:,.4g} {unit}{tail}"
        lines.append(f"| {label} | {len(mine)} | {shown} | {found} | {_ratio(mine, theirs.get(measure, []))} | {wanted} |")
    if "hot_switch_tiny_s" in ours:
        lines.append(hot_penalty_row(ours, theirs))
    return "\n".join(lines)


def _ratio(ours: list[float], theirs: list[float]) -> str:
    if not theirs or not statistics.median(theirs):
        return "-"
    shown = f"{statistics.median(ours) / statistics.median(theirs):.2f}x"
    if min(len(ours), len(theirs)) < 3 or not all(theirs):
        return shown
    low, high = interval(ours, theirs)
    return f"{shown} ({low:.2f} to {high:.2f})"


def missed(result: dict[str, Any]) -> list[str]:
    """Goals that this run has not reached."""
    ours, theirs = result["samples"]["fastrouter"], result["samples"].get("llama-server", {})
    found = []
    for measure, (label, _, _, goal, less) in MEASURES.items():
        if goal is None or measure not in ours or not theirs.get(measure):
            continue
        ratio = statistics.median(ours[measure]) / statistics.median(theirs[measure])
        if ratio > goal if less else ratio < goal:
            found.append(f"{label}: {ratio:.2f}x instead of {goal:g}x")
    return found


def hot_penalty_row(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> str:
    def penalty(samples: dict[str, list[float]]) -> float:
        return (statistics.median(samples["hot_switch_tiny_s"]) - statistics.median(samples["hot_stay_tiny_s"])) * 1e3

    mine = penalty(ours)
    rival = penalty(theirs) if "hot_switch_tiny_s" in theirs else None
    ratio = f"{mine / rival:.2f}x" if rival else "-"
    shown = f"{rival:.3f} ms" if rival is not None else "-"
    return (
        f"| hot switch penalty (alternating minus staying) | {len(ours['hot_stay_tiny_s'])} | {shown} | {mine:.3f} ms | {ratio} | <= 0.1x |"
    )


PAGE = """# Benchmarks

`make bench RIVAL=/path/to/llama-server` measures both servers in one run, with the same client, models and flags.
It writes `results/*.json`; `bench/report.py` makes this page from the newest. Absolute times depend on the machine; compare the ratios.

Machine: {cpu}, {cores} cores, Linux {kernel}. Date: {date}.
fastrouter {fastrouter} on llama.cpp of llama-cpp-python {binding}; rival: {rival}.
Flags of both: `{flags}`; temperature 0, a new connection per request, {rounds} rounds, in which the servers take turns.
TTFT is the time from before connect to the first character of text.

{table}

{missed}
"""

ROUTER_SECTION = """
## The router alone

`python -m bench.router`: scripted workers send tokens at full speed; the router passes them through ring, SSE and sockets.

{num_streams} parallel streams: **{tokens_per_s:,.0f} tokens/s** per second of wall time, **{tokens_per_cpu_s:,.0f} tokens/s** per second
of the router's CPU time (goal: 500,000 on one core).
"""


ENGINE_SECTION = """
## The engine alone

`python -m bench.engine`: one process, best of many runs. Time of a step without llama_decode (goal: 60 us + 8 us per stream):
{steps}.

| vocabulary | sampling | llama_sampler_sample | fastrouter | ratio |
|---|---|---|---|---|
{rows}
{parsing}"""


def engine_section(result: dict[str, Any]) -> str:
    steps = ", ".join(f"{us:.1f} us with {num_streams}" for num_streams, us in result["step_us"].items())
    rows = []
    for row in result["sampling"]:
        llama_us, our_us = row["llama_us"], row["us"]
        rows.append(f"| {row['vocabulary']:,} | {row['settings']} | {llama_us:.1f} us | {our_us:.1f} us | {our_us / llama_us:.2f}x |")
    return ENGINE_SECTION.format(steps=steps, rows="\n".join(rows), parsing=_parsing(result.get("parsing")))


def _parsing(found: dict[str, float] | None) -> str:
    """Absent in older results."""
    if found is None:
        return ""
    plain, parsed, ratio = found["plain_tokens_per_s"], found["parsed_tokens_per_s"], found["ratio"]
    interval = f", 95 % interval {found['low']:.3f} to {found['high']:.3f}" if "low" in found else ""
    words = f"16 chats: {plain:,.0f} tokens/s, and {parsed:,.0f} with their thoughts and tool calls parsed"
    return f"\n{words}: {ratio:.3f}x (goal: 0.98x{interval}).\n"


def render(result: dict[str, Any]) -> str:
    return PAGE.format(
        **result["machine"],
        date=result["date"],
        fastrouter=result["versions"]["fastrouter"],
        binding=result["versions"]["llama-cpp-python"],
        rival=result["versions"].get("llama-server", "none"),
        flags=" ".join(result["flags"]),
        rounds=result["rounds"],
        table=table(result),
        missed=_in_words(missed(result)),
    )


def _in_words(goals: list[str]) -> str:
    return "Goals that this run missed:\n" + "\n".join(f"- {goal}" for goal in goals) if goals else "This run reached all goals."


SHOWN_FIRST = (
    *("cold_135m_s", "evict_135m_s", "evict_tiny_s", "storm_p95_ttft_s", "tiny_16_streams_tokens_per_s", "both_135m_tokens_per_s"),
)
BEGIN, END = "<!-- bench:begin -->\n", "<!-- bench:end -->\n"


def short_table(result: dict[str, Any]) -> str:
    """For the top of the README: a few measures, and their origin."""
    ours, theirs = result["samples"]["fastrouter"], result["samples"].get("llama-server", {})
    machine = f"{result['machine']['cpu']}, {result['machine']['cores']} cores, {result['date']}"
    lines = [f"| {machine}, medians of one run ([more](bench/README.md)) | llama-server | fastrouter | ratio |", "|---|---|---|---|"]
    for measure in SHOWN_FIRST:
        if measure in ours and measure in theirs:
            label, unit, factor, _, _ = MEASURES[measure]
            mine, rival = statistics.median(ours[measure]), statistics.median(theirs[measure])
            lines.append(f"| {label} | {rival * factor:,.0f} {unit} | {mine * factor:,.0f} {unit} | {mine / rival:.2f}x |")
    return "\n".join(lines) + "\n"


def renew_readme(result: dict[str, Any]) -> None:
    readme = HERE.parent / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(before + BEGIN + short_table(result) + END + after)


def main() -> None:
    newest = max((HERE / "results").glob("switch-*.json"))
    router = HERE / "results" / "router.json"
    result = json.loads(newest.read_text())
    page = render(result)
    if router.exists():
        page += ROUTER_SECTION.format(**json.loads(router.read_text()))
    engine = HERE / "results" / "engine.json"
    if engine.exists():
        page += engine_section(json.loads(engine.read_text()))
    (HERE / "README.md").write_text(page)
    renew_readme(result)


if __name__ == "__main__":
    main()
