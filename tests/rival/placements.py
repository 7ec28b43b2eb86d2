"""Ways to place a model on two RPC devices, for llama-server and for fastrouter: what each logs of its buffers, and what it says. Buffers
for intermediate results are left out: fastrouter's have room for the probabilities of a prompt's tokens.

python tests/rival/placements.py --rival PATH records llama-server's (b11434 built with -DGGML_RPC=ON) in recorded/placements.json; the
RPC workers are fastrouter's for both.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from record_rival import RECORDED, llama_server, version_of
from rival import BUILD, Case, ask
from rpc_workers import rpc_worker

PLACEMENTS: dict[str, list[str]] = {
    "all-devices": [],
    "all-layers-by-shares": ["-ngl", "99", "-ts", "3,1"],
    "some-layers": ["-ngl", "10", "-ts", "1,1"],
    "no-layer": ["-ngl", "0"],
    "one-device": ["-dev", "RPC1"],
    "the-other-order": ["-dev", "RPC1,RPC0", "-ts", "2,1"],
    "no-device": ["-dev", "none"],
    "a-main-device": ["-sm", "none", "-mg", "1"],
    "the-cache-on-the-host": ["-nkvo", "-ts", "1,1"],
    "tensors-on-the-host": ["-ts", "1,1", "-ot", r"blk\.[0-4]\.ffn_.*=CPU,output_norm=CPU"],
    "tensors-on-a-device": ["-ts", "1,0", "-ot", r"ffn_up=RPC0[SECOND]"],
    "dense-layers-on-the-host": ["-ts", "1,1", "-ncffn", "12"],
}
SHARED = ["-c", "1024", "-np", "1", "-t", "1", "-fit", "off", "-lv", "4"]
ASKED = {"prompt": "The capital of France is", "n_predict": 24, "temperature": 0, "seed": 1, "cache_prompt": False}
_BUFFER = re.compile(r"(\S+) +(model|KV|output) buffer size = +([\d.]+) MiB")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers")


def flags_of(name: str, endpoints: list[str]) -> list[str]:
    return ["--rpc", ",".join(endpoints), *(flag.replace("SECOND", endpoints[1]) for flag in PLACEMENTS[name])]


def placed(log: str, endpoints: list[str]) -> dict[str, Any]:
    """MiB by buffer and kind, and how many layers are on devices, as llama.cpp says it."""
    for number, endpoint in enumerate(endpoints):
        log = log.replace(endpoint, f"SERVER{number}")
    buffers = {f"{found[1]} {found[2]}": float(found[3]) for found in _BUFFER.finditer(log)}
    layers = _OFFLOADED.search(log)
    return {"buffers": buffers, "layers": [int(layers[1]), int(layers[2])] if layers else None}


def say(port: int, model: str | None = None) -> str:
    answer = ask(port, Case("", "", "/completion", ASKED | ({"model": model} if model else {})))
    text: str = answer["json"]["content"]
    return text


def record(program: str, name: str, endpoints: list[str], smollm2: Path, folder: Path) -> dict[str, Any]:
    log = folder / f"{len(list(folder.iterdir()))}.log"
    flags = ["-m", str(smollm2), *SHARED, *flags_of(name, endpoints), "--host", "127.0.0.1", "--log-file", str(log)]
    with llama_server(program, flags, folder) as port:
        text = say(port)
    return {**placed(log.read_text(), endpoints), "text": text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rival", required=True, help=f"llama-server, {BUILD}, with the RPC backend")
    program = parser.parse_args().rival
    demo = [sys.executable, RECORDED.parents[2] / "packaging" / "demo_model.py"]
    smollm2 = Path(subprocess.run(demo, capture_output=True, text=True, check=True).stdout.strip())
    lines = [f'"": {json.dumps({"build": BUILD, "version": version_of(program), "model": smollm2.name})}']
    with tempfile.TemporaryDirectory() as name:
        for placement in PLACEMENTS:  # llama-server has no other way to be sure that a device is free
            with rpc_worker() as one, rpc_worker() as two:
                found = record(program, placement, [one.endpoint, two.endpoint], smollm2, Path(name))
            lines.append(f"{json.dumps(placement)}: {json.dumps(found)}")
            print(lines[-1])
    (RECORDED / "placements.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
