"""Records llama-server's answers to the table of rival_cases.py: python tests/rival/record_rival.py --rival PATH. Uses nothing of
fastrouter.
"""

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rival import BUILD, MARKER, SERVERS, Case, ask, flags_of, make_models
from rival_cases import CASES

RECORDED = Path(__file__).parent / "recorded"
HEALTH = Case("", "health", "/health")


@contextlib.contextmanager
def llama_server(program: str, flags: list[str], cwd: Path) -> Iterator[int]:
    """Its port, once it is healthy."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "LLAMA_CACHE": str(cwd), "LLAMA_MEDIA_MARKER": MARKER}
    process = subprocess.Popen(
        [program, *flags, "--port", str(port)], cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                if ask(port, HEALTH)["status"] == 200:
                    break
            assert process.poll() is None, f"llama-server ended with {process.returncode}: {flags}"
            assert time.monotonic() < deadline, f"llama-server does not answer: {flags}"
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def version_of(program: str) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    lines = (said.stdout + said.stderr).splitlines()
    return next(line for line in lines if line.startswith("version"))


def record(program: str, server: str, folder: Path, smollm2: Path) -> dict[str, Any]:
    """Its answers by the name of the case."""
    with llama_server(program, flags_of(server, folder, smollm2), folder) as port:
        return {case.name: ask(port, case) for case in CASES if case.server == server}


def _without_paths(answer: Any, folder: str, smollm2: Path) -> str:
    return json.dumps(answer).replace(folder, "MODELS").replace(str(smollm2), smollm2.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rival", required=True, help=f"llama-server, {BUILD}")
    parser.add_argument("servers", nargs="*", default=SERVERS, metavar="SERVER", help=f"some of {', '.join(SERVERS)}")
    asked = parser.parse_args()
    program = asked.rival
    found = subprocess.run(
        [sys.executable, RECORDED.parents[2] / "packaging" / "demo_model.py"], capture_output=True, text=True, check=True
    )
    smollm2 = Path(found.stdout.strip())
    RECORDED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_models(folder)
        for server in asked.servers:
            flags = [flag.replace(name, "MODELS").replace(str(smollm2), smollm2.name) for flag in flags_of(server, folder, smollm2)]
            about = {"build": BUILD, "version": version_of(program), "flags": " ".join(flags)}
            answers = record(program, server, folder, smollm2)
            lines = [f"{json.dumps(case)}: {_without_paths(answer, name, smollm2)}" for case, answer in {"": about, **answers}.items()]
            (RECORDED / f"{server}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
            print(f"{server}: {len(answers)} answers")


if __name__ == "__main__":
    main()
