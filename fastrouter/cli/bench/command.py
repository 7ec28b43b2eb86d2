"""`fastrouter bench`: what switching between models costs on this machine, measured with a new router. Does not touch a running router.

Invariant: each measured server gets the same models, the same flags and the same client, and has ended when the table is printed.
"""

import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastrouter.catalog.catalog import Catalog
from fastrouter.catalog.file_names import group_files, is_gguf
from fastrouter.cli.bench.load_client import BenchFailed
from fastrouter.cli.bench.servers import OURS, RIVAL, MeasuredServer, running
from fastrouter.cli.bench.switching import back, cold, hot, in_turn, ttft
from fastrouter.cli.terminal import print_table
from fastrouter.config.config import parse
from fastrouter.config.flag import Kind, Scope
from fastrouter.config.values import BY_ENV, find_argument
from fastrouter.errors import ConfigError
from fastrouter.system.build import version_text
from fastrouter.system.machine import cpu_name

USAGE = """usage: fastrouter bench [MODEL ...] [--rival FILE] [--rounds N] [--json] [flags of the router]

Starts its own router on a free port and measures the first token after a start, cold, evicting and hot switches, and the way back to a
conversation whose model was evicted. MODEL: names as a router lists them, or GGUF files;
default: the smallest models that a router finds. --rival: a llama-server to measure in the same run with the same flags."""
NO_MODEL = "there is no model that could be measured: name GGUF files, or a folder with --models-dir"
MAX_MODELS = 4  # when the user names none
NUM_COLD, NUM_HOT = 2, 50  # in a round
WARM_UP = "the server has run for 1 s; hot: one request to each model; evict-and-switch: one request to the model that leaves"
ENOUGH_FOR_A_TAIL = 20  # samples
MAX_HISTORY_CHARS = 6000
SENTENCE = "the quick brown fox jumps over a lazy dog "
_OURS_TO_SAY = {"hosts", "port", "api_prefix", "api_keys", "api_key_file", "ssl_key_file", "ssl_cert_file", "models_max", "log_file"}
Samples = dict[str, list[float]]  # seconds by measure


@dataclass
class BenchPlan:
    models: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    folder: list[str] = field(default_factory=list)  # the flag that names our temporary folder
    history: str = ""  # a long prompt that fits into the context of the first model
    rival: Path | None = None
    rounds: int = 3
    is_json: bool = False

    @property
    def names(self) -> list[str]:
        return [OURS] + ([RIVAL] if self.rival else [])


def run_bench(arguments: Sequence[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers and the folder are removed too
    try:
        plan = read_plan(arguments)
        environ = _environment()
        parse(["--no-config", *plan.flags], environ)
        with tempfile.TemporaryDirectory(prefix="fastrouter-bench-") as folder:
            _place_files(plan, Path(folder))
            check_models(plan, Catalog(parse(["--no-config", *plan.flags, *plan.folder], environ)))
            result = measure(plan, environ, Path(folder))
    except (ConfigError, BenchFailed) as error:
        print(f"fastrouter: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if plan.is_json:
        print(json.dumps(result, indent=1))
    else:
        _print(result, plan)
    return 0


# ---------------------------------------------------------------- what to measure


def read_plan(arguments: Sequence[str]) -> BenchPlan:
    """Raises ConfigError."""
    plan = BenchPlan()
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--json":
            plan.is_json = True
        elif name in ("--rival", "--rounds"):
            _set(plan, name, value if equals else next(words, ""))
        elif not word.startswith("-"):
            plan.models.append(word)
        else:
            flag, _ = find_argument(name)
            if flag.scope is Scope.SOURCE or flag.target in _OURS_TO_SAY:
                raise ConfigError(
                    f"{name}: bench sets this itself" + ("; name models without a flag" if flag.scope is Scope.SOURCE else "")
                )
            plan.flags += [word] if equals or flag.kind is Kind.SWITCH else [word, *([value] if (value := next(words, "")) else [])]
    return plan


def _set(plan: BenchPlan, name: str, value: str) -> None:
    if name == "--rival":
        plan.rival = Path(value).absolute()
        if not os.access(plan.rival, os.X_OK) or not plan.rival.is_file():
            raise ConfigError(f"--rival {value}: there is no such program")
    elif not value.isascii() or not value.isdigit() or not int(value):
        raise ConfigError(f"--rounds {value}: must be a whole number, 1 or more")
    else:
        plan.rounds = int(value)


def _environment() -> dict[str, str]:
    """The user's, without variables that would keep our client out of the router."""
    not_ours = {name for name, (flag, _) in BY_ENV.items() if flag.scope is Scope.SOURCE or flag.target in _OURS_TO_SAY}
    return {name: value for name, value in os.environ.items() if name not in not_ours}


def _place_files(plan: BenchPlan, folder: Path) -> None:
    """Files become names: both servers find them in a folder of links."""
    files = [Path(model).absolute() for model in plan.models if is_gguf(model) and Path(model).is_file()]
    if not files:
        return
    if len(files) < len(plan.models) or any(word.partition("=")[0] in ("--models-dir", "--models-preset") for word in plan.flags):
        raise ConfigError("bench takes either files, or names together with --models-dir and --models-preset")
    models = folder / "models"
    plan.models = []
    for index, file in enumerate(files):
        name = file.stem if file.stem not in plan.models else f"{file.stem}-{index}"
        groups, _ = group_files(os.listdir(file.parent))
        parts = next(group.names for group in groups if file.name in group.names)
        (models / name).mkdir(parents=True)
        for part in parts:
            (models / name / part).symlink_to(file.parent / part)
        plan.models.append(name)
    plan.folder = ["--models-dir", str(models)]


def check_models(plan: BenchPlan, catalog: Catalog) -> None:
    """Before anything is measured. Raises BenchFailed."""
    for name in plan.models:
        if catalog.get(name) is None:
            raise BenchFailed(f"{OURS} does not list the model {name}")
    if not plan.models and not any(spec.is_listed and not spec.error and "completion" in spec.capabilities for spec in catalog.models()):
        raise BenchFailed(NO_MODEL)


# ---------------------------------------------------------------- measuring


def measure(plan: BenchPlan, environ: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Raises BenchFailed."""
    samples: dict[str, Samples] = {name: defaultdict(list) for name in plan.names}
    for round_index in range(plan.rounds):
        for name in plan.names if round_index % 2 == 0 else plan.names[::-1]:
            rival = plan.rival if name == RIVAL else None
            print(f"round {round_index + 1} of {plan.rounds}: {name}", file=sys.stderr, flush=True)
            ours = [] if rival else ["--no-config"]
            own = [] if rival else [*ours, "--no-foresee"]  # models must not be there before they are asked for
            with running(rival, [*plan.flags, *plan.folder, "--models-max", "0", *own], environ, folder / name) as server:
                samples[name]["start to /health"].append(server.start_s)
                if not plan.models:
                    plan.models = _smallest(server)
                _with_room(server, plan.models, samples[name])
            if len(plan.models) > 1:
                with running(rival, [*plan.flags, *plan.folder, "--models-max", "1", *ours], environ, folder / name) as server:
                    _without_room(server, plan.models, samples[name])
                    plan.history = plan.history or _history(server, plan.models[0])
                    back(server, plan.models[0], plan.models[1], plan.history, samples[name])
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "kernel": os.uname().release},
        "version": version_text().splitlines(),
        "rival": str(plan.rival) if plan.rival else None,
        "models": plan.models,
        "flags": plan.flags,
        "warm_up": WARM_UP,
        "rounds": plan.rounds,
        "samples_s": samples,
    }


def _smallest(server: MeasuredServer) -> list[str]:
    found = [model for model in server.models() if _can_talk(model)]
    found.sort(key=lambda model: (model.get("meta") or {}).get("size", 0))
    if not found:
        raise BenchFailed(NO_MODEL)
    for left_out in found[MAX_MODELS:]:
        print(f"left out: {left_out['id']}", file=sys.stderr)
    return [str(model["id"]) for model in found[:MAX_MODELS]]


def _can_talk(model: dict[str, Any]) -> bool:
    status = model["status"]
    return "error" not in status and "base" not in status and status["value"] != "downloading" and "completion" in model["capabilities"]


def _with_room(server: MeasuredServer, models: Sequence[str], samples: Samples) -> None:
    if server.status(models[0]) == "unloaded":
        samples[f"start to the first token of {models[0]}"].append(server.start_s + ttft(server, models[0]))
    for model in models:
        if server.status(model) != "unloaded":
            server.unload(model)
    time.sleep(1)  # both servers are still busy after their start
    for model in models:
        samples[f"cold switch to {model}"] += cold(server, model, NUM_COLD)
    for model in models[:2]:
        ttft(server, model)
    if len(models) > 1 and any(server.status(model) != "loaded" for model in models[:2]):
        print(f"no hot switches: {' and '.join(models[:2])} do not fit into memory together", file=sys.stderr)
        return
    stay, switch = hot(server, models[0], models[:2], NUM_HOT)
    samples[f"hot, staying on {models[0]}"] += stay
    if len(models) > 1:
        samples[f"hot, alternating with {models[1]}"] += switch


def _without_room(server: MeasuredServer, models: Sequence[str], samples: Samples) -> None:
    ttft(server, models[-1])
    for _ in range(NUM_COLD):
        for model in models:
            samples[f"evict-and-switch to {model}"] += in_turn(server, [model], 1)


def _history(server: MeasuredServer, model: str) -> str:
    """It may have a token for each character."""
    ttft(server, model)
    [meta] = [listed.get("meta") or {} for listed in server.models() if listed["id"] == model]
    return (SENTENCE * MAX_HISTORY_CHARS)[: min(MAX_HISTORY_CHARS, int(meta.get("n_ctx", 512)) // 2)]


# ---------------------------------------------------------------- the table


def _print(result: dict[str, Any], plan: BenchPlan) -> None:
    samples: dict[str, Samples] = result["samples_s"]
    machine = result["machine"]
    print(f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, {result['date']}")
    print("\n".join(result["version"]))
    print(f"flags: {' '.join(plan.flags) or 'none'}; a new connection for each request; times are from before connect to the first text")
    print(f"warm-up: {WARM_UP}\n")
    heads = [head for name in plan.names for head in (f"{name} p50", "p95", "p99")]
    rows: list[tuple[str, ...]] = [("", "N", *heads, *(["RATIO"] if plan.rival else []))]
    for measured in sorted(samples[OURS], key=_order):
        cells = [cell for name in plan.names for cell in _cells(samples[name].get(measured, []))]
        ratio = [_ratio(samples[OURS][measured], samples[RIVAL].get(measured, []))] if plan.rival else []
        rows.append((measured, str(len(samples[OURS][measured])), *cells, *ratio))
    print_table(rows)


def _order(measured: str) -> int:
    return ("cold", "evict-and-switch", "hot,", "back", "reading", "start").index(measured.split()[0])


def _cells(samples: Sequence[float]) -> tuple[str, str, str]:
    if not samples:
        return "-", "-", "-"
    tails = [sorted(samples)[int(share * len(samples))] for share in (0.95, 0.99)] if len(samples) >= ENOUGH_FOR_A_TAIL else []
    p95, p99 = [f"{tail * 1e3:.2f} ms" for tail in tails] or ("-", "-")
    return f"{statistics.median(samples) * 1e3:.2f} ms", p95, p99


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    return f"{statistics.median(ours) / statistics.median(theirs):.2f}x" if theirs else "-"
