"""--fit with two RPC workers as devices: a part of the layers goes there, and the model says the same."""

import os
import re
from pathlib import Path

from conftest import StartRouter
from rpc_workers import rpc_worker

MIB = 1 << 20
ASKED = {"prompt": "The capital of France is", "n_predict": 16, "temperature": 0, "seed": 1, "cache_prompt": False}
SHARED = ("-c", "1024", "-np", "1", "-t", "1", "-fa", "on")


def test_layers_that_fit(router: StartRouter, smollm2: Path) -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB  # what an RPC worker says of its device
    plain = router("-m", str(smollm2), *SHARED, "-dev", "none")
    words = plain.post("/completion", ASKED).json["content"]
    plain.stop()
    with rpc_worker() as one, rpc_worker() as two:
        rpc = f"{one.endpoint},{two.endpoint}"
        running = router("-m", str(smollm2), *SHARED, "--rpc", rpc, "-fitt", f"{total - 40},{total - 140}", "-lv", "4")
        found = re.search(r"--fit: (\d+) of 31 layers on devices \((\d+) on RPC0, (\d+) on RPC1\)", running.log)
        assert found, running.log
        num_layers, first, second = map(int, found.groups())
        assert 0 < num_layers == first + second < 31
        log = running.get("/models/logs?model=" + smollm2.stem).body.decode()
        assert f"offloaded {num_layers}/31 layers" in log
        used = {name: float(size) for name, size in re.findall(r"RPC0\[(\S+)\] model buffer size = +([\d.]+) MiB", log)}
        assert used.get(one.endpoint, 0.0) <= 40
        assert used.get(two.endpoint, 0.0) <= 140
        assert running.post("/completion", ASKED).json["content"] == words
        running.stop()
