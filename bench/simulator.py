"""What the supervisor does with a trace of requests: the real one, with a fake clock and fake workers. An hour of requests takes seconds.

    python -m bench.simulator trace.json --models-max 2 --queue-patience 2

The router's flags about who is in memory count; without --models-memory there is no limit of memory. The trace is JSON; times are seconds:

    {"models": {"a": {"mib": 4000, "load_s": 2.5}, "b": {"mib": 800, "load_s": 0.6, "ttl_s": 300}},
     "requests": [{"at": 0, "model": "a", "answer_s": 3}, {"at": 1.5, "model": "b", "answer_s": 1, "priority": 5}]}

A model's other fields are those of ModelSpec, such as `is_pinned` and `min_resident_s`. Requests run at the same time, each as long as it
says: no model is slowed down by another.
"""

import json
import os
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from fastrouter.config.config import Config, parse
from fastrouter.errors import FastrouterError
from fastrouter.supervisor.memory.limits import AUTO
from fastrouter.supervisor.supervisor import Event, Supervisor
from fastrouter.supervisor.timers import Timers

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from fake_time import FakeLoop
from fake_workers import FakeMaker
from specs import spec_of

MAX_S = 7 * 86400.0  # when a request has not ended this long after the last one came, it never will


@dataclass
class Outcome:
    loads: Counter[str] = field(default_factory=Counter)  # by model
    evictions: Counter[tuple[str, str]] = field(default_factory=Counter)  # by (model, what was scarce or ttl)
    waits: dict[str, list[float]] = field(default_factory=dict)  # by model, of the requests that got it
    refusals: list[str] = field(default_factory=list)


class Simulation:
    def __init__(self, models: dict[str, dict[str, Any]], config: Config, log: TextIO | None = None) -> None:
        self.outcome = Outcome(waits={model: [] for model in models})
        self._log = log
        self._loop = FakeLoop()
        self._begun = self._loop.now
        maker = FakeMaker(self._loop, 1.0)
        self._specs = {}
        for model, wanted in models.items():
            num_bytes, load_s = int(wanted.get("mib", 0)) << 20, float(wanted.get("load_s", 1.0))
            maker.load_s[model] = load_s
            maker.meta[model] = {"memory": {"host_bytes": num_bytes, "device_bytes": 0}, "load_ms": load_s * 1e3}
            fields = {name: value for name, value in wanted.items() if name not in ("mib", "load_s")}
            self._specs[model] = spec_of(model, f"/models/{model}", size_bytes=num_bytes, **fields)
        timers = Timers(self._loop.time, self._loop)
        self._supervisor = Supervisor(config, on_event=self._note, maker=maker, timers=timers)

    def run(self, requests: list[dict[str, Any]]) -> Outcome:
        self._loop.create_task(self._supervisor.start())
        tasks = [self._loop.create_task(self._request(**request)) for request in requests]
        ends_at = self._loop.now + max((request["at"] for request in requests), default=0.0) + MAX_S
        for task in tasks:
            while not task.done() and self._loop.now < ends_at:
                self._loop.advance(1.0)
        stopping = self._loop.create_task(self._supervisor.stop(0.0))
        while not stopping.done():
            self._loop.advance(1.0)
        for task in tasks:  # requests that still wait have been refused
            task.result()
        return self.outcome

    async def _request(self, at: float, model: str, answer_s: float = 1.0, priority: int = 0) -> None:
        await self._sleep(at)
        asked = self._loop.now
        try:
            lease = await self._supervisor.acquire(self._specs[model], autoload=True, priority=priority)
        except FastrouterError as error:
            self.outcome.refusals.append(f"{model}: {error.message}")
            return
        with lease:
            self.outcome.waits[model].append(self._loop.now - asked)
            await self._sleep(answer_s)

    async def _sleep(self, seconds: float) -> None:
        over = self._loop.create_future()
        self._loop.call_later(seconds, over.set_result, None)
        await over

    def _note(self, event: Event) -> None:
        if event.event != "model_status":
            return
        status, reason = event.data["status"], event.data.get("reason", "")
        if status == "loading":
            self.outcome.loads[event.model] += 1
        elif reason:
            self.outcome.evictions[event.model, reason] += 1
        if self._log is not None:
            print(f"{self._loop.now - self._begun:10.2f}  {event.model}: {status} {reason}".rstrip(), file=self._log)


def table(outcome: Outcome) -> str:
    """Loads, waits and evictions of each model."""
    lines = [f"{'model':20} {'requests':>8} {'loads':>6} {'wait p50':>9} {'p99':>8} {'max':>8}  evicted for"]
    for model, waits in outcome.waits.items():
        ordered = sorted(waits) or [0.0]
        p50, p99 = (ordered[round(share * (len(ordered) - 1))] for share in (0.5, 0.99))
        why = ", ".join(f"{reason} {count}" for (name, reason), count in sorted(outcome.evictions.items()) if name == model)
        times = f"{p50:9.2f} {p99:8.2f} {ordered[-1]:8.2f}"
        lines.append(f"{model:20} {len(waits):8} {outcome.loads[model]:6} {times}  {why}".rstrip())
    lines += [f"refused: {refusal}" for refusal in outcome.refusals]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    if not argv or argv[0].startswith("-"):
        print(__doc__)
        return 2
    trace = json.loads(Path(argv[0]).read_text())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # what real loads have shown is not used here, nor the other way round
        config = parse(argv[1:], {})
        if config.models_memory_mib == AUTO:  # this would be the free memory of this machine
            config = replace(config, models_memory_mib=0)
        simulation = Simulation(trace["models"], config, log=sys.stdout)
        print(table(simulation.run(trace["requests"])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
