"""Where the time of one cold switch goes: the client's clock, the router's times of the request, and the worker's times of the load."""

import contextlib
import http.client
import socket
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench.running import FLAGS, Samples, running, timings_of, without_foresight
from fastrouter.cli.bench.load_client import BenchFailed, request_bytes, stream_all
from fastrouter.cli.bench.switching import PAUSE_S, SHORT
from fastrouter.cli.sse import read_events

NUM_LOADS = 5
OF_THE_LOAD = ("model", "context", "engine")


class LoadReports:
    """What the router says on /models/sse about each load that has ended."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._connection.request("GET", "/models/sse")
        self._sock = self._connection.sock
        self.infos: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException), self._connection.getresponse() as response:
            for event in filter(None, read_events(response)):
                if event["data"].get("status") == "loaded" and event["data"].get("info"):
                    self.infos.append(event["data"]["info"])

    def wait_for(self, num_infos: int) -> dict[str, Any]:
        deadline = time.monotonic() + 10
        while len(self.infos) < num_infos:
            if time.monotonic() > deadline:
                raise BenchFailed("the router did not report a load")
            time.sleep(0.01)
        return self.infos[num_infos - 1]

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()


def phases(name: str, program: Path | None, models: Path) -> Samples:
    """Of cold switches to SmolLM2-135M, with room. The first one is the warm-up."""
    samples: Samples = defaultdict(list)
    with running(name, program, models, *FLAGS, *without_foresight(name)) as server:
        time.sleep(1)
        reports = LoadReports(server.port)
        for number in range(NUM_LOADS + 1):
            stream = stream_all(server.port, [request_bytes("smol0", SHORT, 4)])[0]
            info = reports.wait_for(number + 1)
            if number:
                for phase, seconds in split(stream.ttft_s, timings_of(stream), info["load_phases_ms"]).items():
                    samples[f"phase_135m_{phase}_s"].append(seconds)
            server.unload("smol0")
            time.sleep(PAUSE_S)
        reports.close()
    return samples


def split(ttft_s: float, timings: dict[str, Any], load_phases_ms: dict[str, float]) -> dict[str, float]:
    """Seconds by phase; together they are `ttft_s`, if no clock counts anything twice."""
    queue_s, load_s, prompt_s = (timings[key] / 1e3 for key in ("queue_ms", "load_ms", "prompt_ms"))
    of_load = {phase: load_phases_ms.get(phase, 0.0) / 1e3 for phase in OF_THE_LOAD}
    return {
        "queue": queue_s,
        "process": max(0.0, load_s - sum(of_load.values())),
        **of_load,
        "prompt": prompt_s,
        "else": max(0.0, ttft_s - queue_s - load_s - prompt_s),
    }
