"""From the samples of a run to SVG plots. Each function returns the drawing's text; None: this run has not measured it.

Colours: fastrouter has the first one, the rivals follow in the order in which they stand in the results.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

from bench.figures import percentile
from bench.svg import Drawing, LinearScale, LogScale
from fastrouter.cli.bench.servers import OURS

Samples = dict[str, list[float]]
MAX_DOTS = 80  # of one measure of one server
PHASES = (  # in the order in which they happen; `else` is what no clock inside has counted
    ("queue", "waits for a place"),
    ("process", "worker takes the load"),
    ("model", "opens the model"),
    ("context", "makes the context"),
    ("engine", "engine, warm-up"),
    ("prompt", "reads the prompt"),
    ("else", "HTTP, template, sockets"),
)
LATENCIES = (
    ("cold_tiny_s", "cold, 0.5 MB"),
    ("evict_tiny_s", "evict-and-switch, 0.5 MB"),
    ("hot_switch_tiny_s", "hot, 0.5 MB"),
    ("cold_135m_s", "cold, 135M"),
    ("evict_135m_s", "evict-and-switch, 135M"),
    ("hot_stay_135m_s", "hot, 135M"),
)
BACK_TOKENS = (500, 2000, 7500)
STREAMS = (1, 4, 8, 16)


def servers_of(result: dict[str, Any]) -> dict[str, Samples]:
    """fastrouter first."""
    samples: dict[str, Samples] = result["samples"]
    return {name: samples[name] for name in sorted(samples, key=lambda name: name != OURS)}


def _legend(drawing: Drawing, y: float, names: list[str]) -> None:
    drawing.legend(16, y, [(name, number) for number, name in enumerate(names)])


def _ms(value_ms: float) -> str:
    return f"{value_ms:,.0f} ms" if value_ms >= 100 else f"{value_ms:.3g} ms"


def waterfall(result: dict[str, Any]) -> str | None:
    """The phases of one cold switch to SmolLM2-135M, one below the other; the rival's whole time is the last bar."""
    servers = servers_of(result)
    ours = servers[OURS]
    if "phase_135m_model_s" not in ours:
        return None
    phases = [(label, 1e3 * median(ours[f"phase_135m_{name}_s"])) for name, label in PHASES]
    rivals = [(name, 1e3 * median(one["cold_135m_s"])) for name, one in servers.items() if name != OURS and one.get("cold_135m_s")]
    total = sum(ms for _, ms in phases)
    bottom = 56 + 26 * (len(phases) + 1 + len(rivals))
    drawing = Drawing(720, bottom + 30, "One cold switch to SmolLM2-135M, from before connect to the first text")
    scale = LinearScale(max([total, *(ms for _, ms in rivals)]), (190, 640))
    _vertical_grid(drawing, scale.ticks(), scale, 46, bottom, "ms")
    at_ms, y = 0.0, 50.0
    for series, (label, ms) in enumerate(phases):
        _row(drawing, y, label, scale(at_ms), scale(at_ms + ms) - scale(at_ms), series, ms)
        at_ms, y = at_ms + ms, y + 26
    for series, (name, ms) in enumerate([(OURS, total), *rivals]):
        _row(drawing, y, f"{name}, whole", scale(0), scale(ms) - scale(0), series, ms)
        y += 26
    return drawing.to_text()


def _row(drawing: Drawing, y: float, label: str, x: float, width: float, series: int, ms: float) -> None:
    drawing.text(182, y + 14, label, "ink", "end")
    drawing.bar(x, y + 2, max(1.0, width), 16, series, f"{label}: {_ms(ms)}")
    drawing.text(x + max(1.0, width) + 6, y + 14, _ms(ms), "muted")


def _vertical_grid(drawing: Drawing, ticks: list[float], scale: Callable[[float], float], top: float, bottom: float, unit: str) -> None:
    for value in ticks:
        drawing.line([(scale(value), top), (scale(value), bottom)])
        drawing.text(scale(value), bottom + 16, f"{value:,g}", "muted", "middle")
    drawing.text(scale(ticks[-1]) + 24, bottom + 16, unit, "muted")


def latencies(result: dict[str, Any]) -> str | None:
    """Every sample is a dot; the long mark is p50, the short one p95."""
    servers = servers_of(result)
    shown = [(measure, label) for measure, label in LATENCIES if servers[OURS].get(measure)]
    found = [1e3 * value for one in servers.values() for measure, _ in shown for value in one.get(measure, [])]
    if not found:
        return None
    lane = 16
    height = 14 + lane * len(servers)
    bottom = 66 + height * len(shown)
    drawing = Drawing(720, bottom + 30, "Time to the first text of a request, all samples")
    _legend(drawing, 48, list(servers))
    drawing.text(400, 48, "long mark p50, short mark p95", "muted")
    scale = LogScale(found, (190, 660))
    _vertical_grid(drawing, scale.ticks(), scale, 60, bottom, "ms")
    for number, (measure, label) in enumerate(shown):
        top = 66.0 + height * number
        drawing.text(182, top + (height + 4) / 2, label, "ink", "end")
        for series, one in enumerate(servers.values()):
            _lane(drawing, top + 8 + lane * series, [1e3 * value for value in one.get(measure, [])], scale, series)
    return drawing.to_text()


def _lane(drawing: Drawing, y: float, values_ms: list[float], scale: LogScale, series: int) -> None:
    ordered = sorted(values_ms)
    step = max(1, len(ordered) // MAX_DOTS)
    for value in (*ordered[::step], *ordered[-1:]):
        drawing.dot(scale(value), y, series, 2.5, 0.45)
    if ordered:
        for share, half in ((0.5, 7), (0.95, 4)):
            x = scale(percentile(ordered, share))
            drawing.line([(x, y - half), (x, y + half)], series)


def throughput(result: dict[str, Any]) -> str | None:
    """Tokens per second by the number of streams, a panel for each model. Bars are medians; a thin line goes from the lowest to the
    highest sample."""
    servers = servers_of(result)
    panels = [("tiny", "0.5 MB model"), ("135m", "SmolLM2-135M")]
    if not any(servers[OURS].get(f"{key}_{count}_streams_tokens_per_s") for key, _ in panels for count in STREAMS):
        return None
    drawing = Drawing(720, 330, "Tokens per second by the number of streams")
    _legend(drawing, 48, list(servers))
    for number, (key, label) in enumerate(panels):
        _streams_panel(drawing, 70.0 + 350 * number, label, key, servers)
    return drawing.to_text()


def _streams_panel(drawing: Drawing, left: float, label: str, key: str, servers: dict[str, Samples]) -> None:
    values = {
        (series, count): one[f"{key}_{count}_streams_tokens_per_s"]
        for series, one in enumerate(servers.values())
        for count in STREAMS
        if one.get(f"{key}_{count}_streams_tokens_per_s")
    }
    if not values:
        return
    scale = LinearScale(max(max(samples) for samples in values.values()), (280, 90))
    drawing.text(left, 76, label)
    for value in scale.ticks():
        drawing.line([(left, scale(value)), (left + 270, scale(value))])
        drawing.text(left - 6, scale(value) + 4, f"{value:,g}", "muted", "end")
    width = 56 / len(servers)
    for place, count in enumerate(STREAMS):
        drawing.text(left + 34 + 67 * place, 298, str(count), "muted", "middle")
        for series in range(len(servers)):
            samples = values.get((series, count))
            if samples:
                x, y = left + 6 + 67 * place + width * series, scale(median(samples))
                drawing.bar(x, y, width - 2, scale(0) - y, series, f"{count} streams: {median(samples):,.0f} tokens/s")
                middle = x + width / 2 - 1
                drawing.line([(middle, scale(min(samples))), (middle, scale(max(samples)))], 6, 1.0)
    drawing.text(left + 135, 316, "streams", "muted", "middle")


Line = tuple[str, int, list[tuple[int, float]]]  # label, series, (tokens, ms)


def restore(result: dict[str, Any]) -> str | None:
    """The first token of a conversation's next turn after its model was evicted, and of its whole prompt, by its length."""
    lines = [line for series, (name, one) in enumerate(servers_of(result).items()) for line in _lines_of(name, one, series)]
    if not lines:
        return None
    drawing = Drawing(720, 360, "First token after an eviction against reading the whole prompt, SmolLM2-135M")
    points = [point for _, _, found in lines for point in found]
    x_of, y_of = LogScale([float(count) for count, _ in points], (90, 480)), LogScale([ms for _, ms in points], (310, 50))
    for value in y_of.ticks():
        drawing.line([(80, y_of(value)), (490, y_of(value))])
        drawing.text(74, y_of(value) + 4, _ms(value), "muted", "end")
    for count in sorted({count for count, _ in points}):
        drawing.text(x_of(count), 330, f"{count:,}", "muted", "middle")
    drawing.text(285, 348, "tokens of history", "muted", "middle")
    for _, series, found in lines:
        drawing.line([(x_of(count), y_of(ms)) for count, ms in found], series)
        for count, ms in found:
            drawing.dot(x_of(count), y_of(ms), series)
    _label_ends(drawing, [(y_of(found[-1][1]), label, series) for label, series, found in lines])
    return drawing.to_text()


def _lines_of(name: str, samples: Samples, series: int) -> list[Line]:
    lengths = [count for count in BACK_TOKENS if samples.get(f"back_{count}_s") and samples.get(f"back_{count}_share")]
    if not lengths:
        return []
    back = [(count, 1e3 * median(samples[f"back_{count}_s"])) for count in lengths]
    whole = [(count, 1e3 * median(_whole_s(samples, count))) for count in lengths]
    return [(f"{name}: whole prompt", series + 4, whole), (f"{name}: back", series, back)]


def _whole_s(samples: Samples, count: int) -> list[float]:
    """The first turn of the conversation."""
    return [back / share for back, share in zip(samples[f"back_{count}_s"], samples[f"back_{count}_share"], strict=True)]


def _label_ends(drawing: Drawing, ends: list[tuple[float, str, int]]) -> None:
    """One below the other."""
    y = 0.0
    for wanted, label, series in sorted(ends):
        y = max(wanted + 4, y + 16)
        drawing.text(498, y, label, f"f{series}")


PLOTS: dict[str, tuple[str, Callable[[dict[str, Any]], str | None]]] = {
    "waterfall": ("One cold switch by its phases", waterfall),
    "latencies": ("Time to the first text", latencies),
    "throughput": ("Tokens per second by the number of streams", throughput),
    "restore": ("Restoring a conversation against reading it again", restore),
}
