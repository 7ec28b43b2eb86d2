"""`python -m bench [--rival /path/to/llama-server]`: run all scenarios, write results/*.json and bench/README.md."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import fastrouter
from bench import report
from bench.scenarios import FLAGS, SCENARIOS
from fastrouter.system.machine import cpu_name

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from tiny_models import make_llama

QUICK = ("start", "cold", "evict", "back", "hot", "agents")


def make_models(folder: Path) -> None:
    """tiny0..tiny7 (0.5 MB each) and smol0, smol1: two names of the embedded SmolLM2-135M."""
    for index in range(8):
        make_llama(folder / f"tiny{index}.gguf", seed=index)
    demo = Path(__file__).parent.parent / "packaging" / "demo_model.py"
    path = subprocess.run([sys.executable, str(demo)], check=True, capture_output=True, text=True).stdout.strip()
    for index in range(2):
        (folder / f"smol{index}.gguf").symlink_to(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rival", type=Path, help="a llama-server to measure in the same run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--no-save", action="store_true", help="print the table only")
    parser.add_argument("--quick", action="store_true", help="one round of the switches, in about two minutes")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.only = 1, [name for name in QUICK if name in arguments.only]
    names = ["fastrouter"] + (["llama-server"] if arguments.rival else [])
    versions = {"fastrouter": fastrouter.__version__, "llama-cpp-python": version("llama-cpp-python")}
    if arguments.rival:
        said = subprocess.run([str(arguments.rival), "--version"], capture_output=True, text=True)
        versions["llama-server"] = (said.stdout + said.stderr).splitlines()[0]
    samples: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        for round_index in range(arguments.rounds):
            for scenario in arguments.only:
                for name in names if round_index % 2 == 0 else names[::-1]:
                    print(f"round {round_index + 1}: {scenario}, {name}", file=sys.stderr, flush=True)
                    for measure, values in SCENARIOS[scenario](name, arguments.rival, Path(folder)).items():
                        samples[name][measure] += values
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "kernel": platform.release()},
        "versions": versions,
        "flags": FLAGS,
        "rounds": arguments.rounds,
        "samples": samples,
    }
    print(report.table(result))
    for goal in report.missed(result):
        print(f"missed: {goal}")
    if not arguments.no_save:
        results = Path(__file__).parent / "results"
        results.mkdir(exist_ok=True)
        (results / f"switch-{time.strftime('%Y%m%d-%H%M%S')}.json").write_text(json.dumps(result, indent=1))
        report.main()


if __name__ == "__main__":
    main()
