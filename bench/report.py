"""results/*.json -> the table in bench/README.md. Every number printed comes from a run."""

import json
import statistics
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MEASURES = {  # measure: (what it is, unit, factor, goal as a ratio to the rival, True when less is better)
    "cold_135m_s": ("cold switch, SmolLM2-135M", "ms", 1e3, 0.40, True),
    "cold_tiny_s": ("cold switch, 0.5 MB model", "ms", 1e3, 0.5, True),
    "evict_135m_s": ("evict-and-switch, SmolLM2-135M", "ms", 1e3, 0.40, True),
    "evict_tiny_s": ("evict-and-switch, 0.5 MB model", "ms", 1e3, 0.25, True),
    "back_500_s": ("back to a conversation of 500 tokens whose model was evicted, SmolLM2-135M: first token", "ms", 1e3, None, True),
    "back_500_share": ("the same as a part of its first turn", "%", 1e2, None, True),
    "back_2000_s": ("the same with 2,000 tokens", "ms", 1e3, 0.05, True),
    "back_2000_share": ("the same as a part of its first turn", "%", 1e2, None, True),
    "back_7500_s": ("the same with 7,500 tokens", "ms", 1e3, 0.03, True),
    "back_7500_share": ("the same as a part of its first turn", "%", 1e2, None, True),
    "hot_stay_tiny_s": ("TTFT staying on a tiny model", "ms", 1e3, 0.7, True),
    "hot_switch_tiny_s": ("TTFT alternating two resident tiny models", "ms", 1e3, None, True),
    "hot_stay_135m_s": ("TTFT staying on SmolLM2-135M", "ms", 1e3, None, True),
    "tiny_1_streams_tokens_per_s": ("tiny model, 1 stream", "tokens/s", 1, 1.2, False),
    "tiny_4_streams_tokens_per_s": ("tiny model, 4 streams", "tokens/s", 1, None, False),
    "tiny_8_streams_tokens_per_s": ("tiny model, 8 streams", "tokens/s", 1, None, False),
    "tiny_16_streams_tokens_per_s": ("tiny model, 16 streams", "tokens/s", 1, 2.0, False),
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
    "storm_s": ("storm: 240 requests of 24 clients to 3 tiny models, room for one model", "s", 1, None, True),
    "storm_swaps": ("storm: loads", "", 1, None, True),
    "storm_p95_ttft_s": ("storm: p95 of the wait for the first token", "ms", 1e3, None, True),
    "start_s": ("start to /health", "ms", 1e3, 4.0, True),
    "router_rss_bytes": ("router memory, idle", "MB", 1e-6, 2.5, True),
}


def percentile_99(samples: list[float]) -> float:
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * 0.99))]


def table(result: dict[str, Any]) -> str:
    """Markdown. p50 of each server, p99 if there are 20 samples, the ratio and the goal."""
    ours, theirs = result["samples"]["fastrouter"], result["samples"].get("llama-server", {})
    lines = ["| measure | n | llama-server p50 | fastrouter p50 (p99) | ratio | goal |", "|---|---|---|---|---|---|"]
    for measure, (label, unit, factor, goal, less) in MEASURES.items():
        if measure not in ours:
            continue
        mine = statistics.median(ours[measure])
        tail = f" ({percentile_99(ours[measure]) * factor:.3g})" if len(ours[measure]) >= 20 else ""
        rival = statistics.median(theirs[measure]) if measure in theirs else None
        ratio = f"{mine / rival:.2f}x" if rival else "-"
        wanted = "-" if goal is None else f"{'<=' if less else '>='} {goal:g}x"
        shown = f"{rival * factor:,.4g} {unit}" if rival else "-"
        lines.append(f"| {label} | {len(ours[measure])} | {shown} | {mine * factor:,.4g} {unit}{tail} | {ratio} | {wanted} |")
    if "hot_switch_tiny_s" in ours:
        lines.append(hot_penalty_row(ours, theirs))
    return "\n".join(lines)


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
    )


SHOWN_FIRST = (
    *("cold_135m_s", "evict_135m_s", "evict_tiny_s", "storm_p95_ttft_s", "tiny_16_streams_tokens_per_s", "both_135m_tokens_per_s"),
)
BEGIN, END = "<!-- bench:begin -->\n", "<!-- bench:end -->\n"


def short_table(result: dict[str, Any]) -> str:
    """For the top of the README: a few measures, and their origin."""
    ours, theirs = result["samples"]["fastrouter"], result["samples"].get("llama-server", {})
    machine = f"{result['machine']['cpu']}, {result['machine']['cores']} cores"
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
