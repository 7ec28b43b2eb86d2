"""`fastrouter simulate TRACE`: what a recorded run would have been with other limits. Starts nothing, needs no running router.

Invariant: exit code 0 only when every setting has been simulated.
"""

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from fastrouter.cli.arguments import Parser
from fastrouter.cli.terminal import pad, plain
from fastrouter.errors import ConfigError, FastrouterError
from fastrouter.simulator.grid import Tried, best_of, least_memory, next_step, settings_of, usual_axes
from fastrouter.simulator.simulation import RECORDED, Outcome, Setting, Simulation, recorded, with_load_times
from fastrouter.simulator.trace import Trace, read_trace
from fastrouter.system.near_names import did_you_mean
from fastrouter.system.words import in_words

TEXT = "what a run that was recorded with `serve --record FILE` would have been with other limits"
EPILOG = """Lists are comma-separated, and every combination is simulated. Memory is in MiB, or in GiB with a G: 32768 and 32G are the same;
+8G is 8 GiB more than recorded; 0 is no limit."""
AGREES = 0.05
AGREES_S = 0.05  # of each load: a busy machine takes that long from one event to the next
MAX_SETTINGS = 500
MIB = 1 << 20
_NAMES = {
    "models_max": "models-max",
    "memory_mib": "models-memory",
    "device_mib": "models-memory-device",
    "queue_patience_s": "queue-patience",
    "queue_timeout_s": "queue-timeout",
    "ttl_s": "ttl",
    "min_resident_s": "min-resident",
}
_HEAD = ("SETTING", "REQUESTS", "LOADS", "EVICTIONS", "RELOADING", "WAIT P50", "P95", "MAX", "TOTAL", "REFUSED")


def make_parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(prog="fastrouter simulate", description=TEXT, epilog=EPILOG)
    parser.add_argument("trace", metavar="TRACE", help="a file that --record has written")
    for name, metavar, text in (
        ("models-max", "N,...", "models in memory at a time"),
        ("models-memory", "SIZE,...", "memory of all models"),
        ("models-memory-device", "SIZE,...", "the same for GPU memory"),
        ("queue-patience", "SECONDS,...", "how long models in memory may go before one that waits"),
        ("queue-timeout", "SECONDS,...", "how long a request may wait; 0: no limit"),
        ("ttl", "SECONDS,...", "idle seconds until a model is unloaded; -1: never"),
        ("min-resident", "SECONDS,...", "seconds a loaded model is not evicted"),
    ):
        parser.add_argument(f"--{name}", metavar=metavar, help=text)
    parser.add_argument("--pin", metavar="MODEL", action="append", default=[], help="pin this model too; may be given again")
    parser.add_argument("--in-turn", action="store_true", help="a client asks again as long after its last answer as in the recording")
    parser.add_argument("--grid", action="store_true", help="try less and more memory and places")
    parser.add_argument("--load-time", metavar="MODEL=SECONDS", action="append", default=[], help="of a model that the trace never loaded")
    parser.add_argument("--events", action="store_true", help="print what happens to models, with the times of the recording")
    parser.add_argument("--json", action="store_true", help="the result, as JSON")
    return parser


def run_simulate(arguments: Sequence[str]) -> int:
    options = make_parser().parse_args(arguments)
    logger = logging.getLogger("fastrouter")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # not what the simulated router would log
    try:
        trace, num_runs = read_trace(options.trace)
        trace = with_load_times(trace, _load_times(options.load_time))
        settings = _settings(options, trace)
        tried = [Tried(setting, _simulate(trace, setting, options)) for setting in settings]
        print(json.dumps(_as_json(trace, tried), indent=1) if options.json else "\n".join(_in_words(trace, tried, num_runs)), flush=True)
    except FastrouterError as error:
        print(f"fastrouter: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        logger.setLevel(level)
    return 0


def _simulate(trace: Trace, setting: Setting, options: argparse.Namespace) -> Outcome:
    if not options.events or options.json:
        return Simulation(trace, setting, is_in_turn=options.in_turn).run()
    print(f"{_name_of(setting)}:")
    return Simulation(trace, setting, lambda at, text: print(f"{at:10.2f}  {plain(text)}"), is_in_turn=options.in_turn).run()


# ---------------------------------------------------------------- which settings


def _settings(options: argparse.Namespace, trace: Trace) -> list[Setting]:
    """The recorded one first. Raises ConfigError."""
    axes = _axes(options, trace)
    if options.grid:
        axes = {**usual_axes(trace), **axes}
    for model_id in options.pin:
        if model_id not in trace.models:
            raise ConfigError(f"--pin {model_id}: the trace has no such model{did_you_mean(model_id, trace.models)}")
    if options.pin:
        axes["pinned"] = [tuple(options.pin)]
    settings = list(dict.fromkeys((RECORDED, *settings_of(axes))))
    if len(settings) > MAX_SETTINGS:
        raise ConfigError(f"these lists have {len(settings)} combinations, more than {MAX_SETTINGS}: give shorter lists")
    return settings


def _axes(options: argparse.Namespace, trace: Trace) -> dict[str, Sequence[Any]]:
    """By field of Setting, what the user has named."""
    readers: dict[str, Callable[[str, str], Any]] = dict.fromkeys(_NAMES, _seconds)
    readers["models_max"] = _count
    readers["memory_mib"] = lambda text, place: _mib(text, place, trace.host_bytes)
    readers["device_mib"] = lambda text, place: _mib(text, place, trace.device_bytes)
    recorded_values: dict[str, Any] = {name: getattr(trace, name) for name in ("models_max", "queue_patience_s", "queue_timeout_s")}
    recorded_values |= {"memory_mib": (trace.host_bytes or 0) // MIB, "device_mib": (trace.device_bytes or 0) // MIB}
    axes: dict[str, Sequence[Any]] = {}
    for field, name in _NAMES.items():
        given = getattr(options, name.replace("-", "_"))
        if given is not None:
            values = [readers[field](part.strip(), f"--{name} {given}") for part in given.split(",")]
            axes[field] = [None if value == recorded_values.get(field) else value for value in values]
    return axes


def _count(text: str, place: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigError(f"{place}: must be whole numbers, with commas between them")
    return int(text)


def _seconds(text: str, place: str) -> float:
    if not re.fullmatch(r"-1|\d{1,9}(\.\d{1,9})?", text, re.ASCII) or (text == "-1" and not place.startswith("--ttl")):
        raise ConfigError(f"{place}: must be seconds, with commas between them")
    return float(text)


def _mib(text: str, place: str, limit: int | None) -> int:
    match = re.fullmatch(r"(\+?)(\d{1,9})(G|GiB|M|MiB)?", text, re.ASCII)
    if match is None:
        raise ConfigError(f"{place}: must be sizes in MiB, or in GiB as in 24G, or a difference as in +24G, with commas between them")
    mib = int(match[2]) * (1024 if (match[3] or "").startswith("G") else 1)
    if not match[1]:
        return mib
    if limit is None:
        raise ConfigError(f"{place}: the recorded router had no limit that {text} could be added to; give a size without +")
    return limit // MIB + mib


def _load_times(given: Sequence[str]) -> dict[str, float]:
    times = {}
    for text in given:
        model_id, equals, seconds = text.rpartition("=")
        if not equals or not model_id:
            raise ConfigError(f"--load-time {text}: must be MODEL=SECONDS")
        times[model_id] = _seconds(seconds, f"--load-time {text}")
    return times


def _name_of(setting: Setting) -> str:
    parts = []
    for field, name in _NAMES.items():
        value = getattr(setting, field)
        if value is not None:
            shown = in_words(value * MIB) if field.endswith("_mib") else f"{value:g}"
            parts.append(f"{name} {'no limit' if value == 0 and field in ('models_max', 'memory_mib', 'device_mib') else shown}")
    parts += [f"pin {model_id}" for model_id in setting.pinned]
    return ", ".join(parts) or "as recorded"


# ---------------------------------------------------------------- what is printed


def _in_words(trace: Trace, tried: Sequence[Tried], num_runs: int) -> list[str]:
    simulated, real = tried[0].outcome, recorded(trace)
    rows = [_HEAD, _row("recorded", real, trace), *(_row(_name_of(one.setting), one.outcome, trace) for one in tried)]
    numbers = frozenset(range(1, len(_HEAD)))
    lines = [_about(trace, num_runs), "", *("  ".join(row).rstrip() for row in pad(rows, numbers)), ""]
    return [*lines, _agreement(real, simulated), *_advice(trace, tried)]


def _about(trace: Trace, num_runs: int) -> str:
    limits = ["1 model" if trace.models_max == 1 else f"{trace.models_max or 'any number of'} models"]
    limits += [f"{in_words(size)}{what}" for size, what in ((trace.host_bytes, ""), (trace.device_bytes, " of device memory")) if size]
    which = f"the last of {num_runs} runs, " if num_runs > 1 else ""
    end = "" if trace.is_whole else "; its end is missing, because the router was killed or still runs"
    what = f"{_time_text(trace.ended_at)} from {plain(trace.began)}, {len(trace.models)} models, {len(trace.requests)} requests"
    return f"recording: {which}{what}, limits: {', '.join(limits)}{end}"


def _time_text(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _row(name: str, outcome: Outcome, trace: Trace) -> tuple[str, ...]:
    waits = [outcome.wait(share) for share in (0.5, 0.95, 1.0)]
    times = [f"{seconds:.2f} s" for seconds in (outcome.reload_s, *waits, sum(outcome.waits))]
    return plain(name), str(len(trace.requests)), str(outcome.num_loads), str(outcome.num_evictions), *times, str(outcome.num_refused)


def differences(real: Outcome, simulated: Outcome) -> dict[str, tuple[float, float]]:
    """What differs by more than AGREES: (recorded, simulated). Waits may also differ by AGREES_S for each load."""
    pairs: dict[str, tuple[float, float]] = {
        "loads": (real.num_loads, simulated.num_loads),
        "evictions": (real.num_evictions, simulated.num_evictions),
        "seconds of reloading": (real.reload_s, simulated.reload_s),
        "seconds of waiting": (sum(real.waits), sum(simulated.waits)),
        "refused requests": (real.num_refused, simulated.num_refused),
    }
    blur_s = {"seconds of waiting": AGREES_S * real.num_loads}
    return {name: (a, b) for name, (a, b) in pairs.items() if abs(a - b) > max(AGREES * max(a, b), blur_s.get(name, 0.0))}


def _agreement(real: Outcome, simulated: Outcome) -> str:
    found = differences(real, simulated)
    if not found:
        return f"The simulation of the recorded setting agrees with the recording within {AGREES:.0%}."
    shown = ", ".join(f"{name} {b:.5g} instead of {a:.5g}" for name, (a, b) in found.items())
    return f"The simulation of the recorded setting differs from the recording: {shown}. Take the other rows as estimates."


def _advice(trace: Trace, tried: Sequence[Tried]) -> list[str]:
    """Which setting is the best, and whether still more memory would help."""
    if len(tried) < 2:
        return ["Try others: --grid, or for example --models-memory +8G --models-max 4,8."]
    best, now = best_of(tried, trace), tried[0]
    more = [*_more_memory(tried, best, trace), *_less_memory(tried, best, trace)]
    if best is now:
        return ["The recorded setting is the best of these.", *more]
    saved_s = now.total_wait_s - best.total_wait_s
    gains = [
        f"waits are {_time_text(saved_s)} shorter together" if saved_s >= 1 else "waits are the same",
        f"{best.outcome.num_loads} loads instead of {now.outcome.num_loads}",
    ]
    if best.outcome.num_refused != now.outcome.num_refused:
        gains.append(f"{best.outcome.num_refused} refused requests instead of {now.outcome.num_refused}")
    return [f"Best of these: {plain(_name_of(best.setting))}: {', '.join(gains)}.", *more]


def _more_memory(tried: Sequence[Tried], best: Tried, trace: Trace) -> list[str]:
    step = next_step(tried, best, trace)
    if step is None:
        return []
    saved_s, num_saved = best.total_wait_s - step.total_wait_s, best.outcome.num_loads - step.outcome.num_loads
    gain = f"make waits {_time_text(saved_s)} shorter and save {num_saved} loads" if saved_s >= 1 else "not make waits shorter"
    return [f"The next step of memory ({plain(_name_of(step.setting))}) would {gain}."]


def _less_memory(tried: Sequence[Tried], best: Tried, trace: Trace) -> list[str]:
    less = least_memory(tried, best, trace)
    return [] if less is None else [f"Less memory would do as well: {plain(_name_of(less.setting))}."]


def _as_json(trace: Trace, tried: Sequence[Tried]) -> dict[str, Any]:
    real = recorded(trace)
    best, step = best_of(tried, trace), next_step(tried, best_of(tried, trace), trace)
    about = {"began": trace.began, "seconds": trace.ended_at, "is_whole": trace.is_whole, "num_requests": len(trace.requests)}
    limits = {name: getattr(trace, name) for name in ("models_max", "host_bytes", "device_bytes", "queue_patience_s", "queue_timeout_s")}
    return {
        **about,
        "limits": limits,
        "recorded": _figures(real),
        "agrees": not differences(real, tried[0].outcome),
        "simulated": [{"setting": _changed(one.setting), **_figures(one.outcome)} for one in tried],
        "best": _changed(best.setting),
        "next_step_of_memory": _changed(step.setting) if step is not None else None,
    }


def _changed(setting: Setting) -> dict[str, Any]:
    """The fields that differ from the recorded setting."""
    return {name: value for name, value in asdict(setting).items() if value not in (None, ())}


def _figures(outcome: Outcome) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    for (_, reason), count in outcome.departures.items():
        reasons[reason] = reasons.get(reason, 0) + count
    return {
        "loads": outcome.num_loads,
        "evictions": outcome.num_evictions,
        "departures": reasons,
        "reload_s": round(outcome.reload_s, 3),
        "wait_s": {name: round(outcome.wait(share), 3) for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))},
        "total_wait_s": round(sum(outcome.waits), 3),
        "refused": dict(outcome.refused),
        "left": outcome.num_left,
        "loads_by_model": dict(outcome.loads),
    }
