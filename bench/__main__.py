"""`python -m bench [--rival /path/to/llama-server]`: run the scenarios, print the tables and the goals that were missed.

A whole run writes results/switch-*.json, and makes bench/README.md and the plots; `--only` writes results/part-*.json, which the page shows
beside the newest whole run. `--quick` writes nothing.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fastrouter
from bench import report
from bench.build_rival import build_flags_of
from bench.others import LLAMA_SERVER, LLAMA_SWAP, OLLAMA
from bench.running import FLAGS, Samples
from bench.suite import SCENARIOS
from fastrouter.cli.bench.servers import OURS, RIVAL
from fastrouter.system.machine import cpu_name

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from tiny_models import make_llama

Programs = dict[str, Path | None]  # by server, in the order in which they are measured
ROUNDS = 3


def make_models(folder: Path) -> None:
    """tiny0..tiny7 (0.5 MB each) and smol0, smol1: two names of the embedded SmolLM2-135M."""
    folder.mkdir()
    for index in range(8):
        make_llama(folder / f"tiny{index}.gguf", seed=index)
    demo = Path(__file__).parent.parent / "packaging" / "demo_model.py"
    path = subprocess.run([sys.executable, str(demo)], check=True, capture_output=True, text=True).stdout.strip()
    for index in range(2):
        (folder / f"smol{index}.gguf").symlink_to(path)


def read_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", type=program, metavar="PATH", help="a llama-server to measure in the same run (make rival builds one)")
    parser.add_argument("--ollama", type=program, metavar="PATH", help="an ollama, for the scenarios that it can do")
    parser.add_argument("--llama-swap", type=program, metavar="PATH", help="a llama-swap, which starts the llama-server of --rival")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"in each round the servers take turns ({ROUNDS})")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="SCENARIO", help=f"some of: {', '.join(SCENARIOS)}")
    parser.add_argument("--no-save", action="store_true", help="print the tables only")
    parser.add_argument("--quick", action="store_true", help="one round of the switches, in about two minutes")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if arguments.llama_swap and not arguments.rival:
        parser.error("--llama-swap needs --rival: it starts that llama-server")
    return arguments


def program(text: str) -> Path:
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text}: there is no such program")
    return Path(found).absolute()


def programs_of(arguments: argparse.Namespace) -> Programs:
    given = {RIVAL: arguments.rival, OLLAMA: arguments.ollama, LLAMA_SWAP: arguments.llama_swap}
    return {OURS: None, **{name: path for name, path in given.items() if path is not None}}


def version_of(path: Path) -> str:
    said = subprocess.run([str(path), "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    lines = (said.stdout + said.stderr).splitlines()
    return lines[0] if lines else "unknown"


def run(arguments: argparse.Namespace, programs: Programs, folder: Path) -> dict[str, Samples]:
    chosen = [name for name in (arguments.only or SCENARIOS) if SCENARIOS[name].is_quick or not arguments.quick]
    samples: dict[str, Samples] = {name: defaultdict(list) for name in programs}
    for number in range(1 if arguments.quick else arguments.rounds):
        for scenario_name in chosen:
            scenario = SCENARIOS[scenario_name]
            if number and scenario.is_once:
                continue
            is_short = scenario.short_run is not None and (arguments.quick or number > 0)
            measure = scenario.short_run if is_short else scenario.run
            names = [name for name in programs if name in scenario.servers]
            for name in names if number % 2 == 0 else names[::-1]:
                print(f"round {number + 1}: {scenario_name}, {name}", file=sys.stderr, flush=True)
                for measured, values in measure(name, programs[name], folder / "models").items():
                    samples[name][measured] += values
    return samples


def main() -> None:
    arguments = read_arguments(sys.argv[1:])
    programs = programs_of(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server and the folder are removed too
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it each start would compile all files again
    versions = {OURS: fastrouter.__version__, "llama-cpp-python": version("llama-cpp-python")}
    versions |= {name: version_of(path) for name, path in programs.items() if path is not None}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        make_models(Path(folder) / "models")
        if arguments.rival:
            (Path(folder) / LLAMA_SERVER).symlink_to(arguments.rival)
        samples = run(arguments, programs, Path(folder))
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "kernel": platform.release()},
        "versions": versions,
        "flags": FLAGS,
        "built": {name: flags for name, path in programs.items() if path is not None and (flags := build_flags_of(path))},
        "rounds": 1 if arguments.quick else arguments.rounds,
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "samples": samples,
    }
    print(report.tables(result))
    for goal in report.missed(result):
        print(f"missed: {goal}")
    if not arguments.no_save and not arguments.quick:
        save(result, is_whole=arguments.only is None)


def save(result: dict[str, Any], *, is_whole: bool) -> None:
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / f"{'switch' if is_whole else 'part'}-{time.strftime('%Y%m%d-%H%M%S')}.json").write_text(json.dumps(result, indent=1))
    report.main()


if __name__ == "__main__":
    main()
