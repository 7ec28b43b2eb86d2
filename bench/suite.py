"""All scenarios in the order in which they run: which servers can do each, and whether `--quick` includes it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import devices, floors, large, phases, scale, scenarios
from bench.others import LLAMA_SWAP, OLLAMA
from bench.running import Samples
from fastrouter.cli.bench.servers import OURS, RIVAL

ROUTERS = (OURS, RIVAL)
ALL = (*ROUTERS, OLLAMA, LLAMA_SWAP)


@dataclass(frozen=True, slots=True)
class Scenario:
    run: Callable[[str, Path | None, Path], Samples]
    servers: tuple[str, ...] = ROUTERS
    is_quick: bool = False
    short_run: Callable[[str, Path | None, Path], Samples] | None = None  # for `--quick`, and for all rounds but the first
    is_once: bool = False  # one round is enough: it repeats itself inside


SCENARIOS: dict[str, Scenario] = {
    "floors": Scenario(floors.floors, (OURS,), is_quick=True, is_once=True),
    "start": Scenario(scenarios.start_and_memory, is_quick=True),
    "cold": Scenario(scenarios.cold_switch, ALL, is_quick=True),
    "phases": Scenario(phases.phases, (OURS,), is_quick=True, is_once=True),
    "evict": Scenario(scenarios.evict_and_switch, ALL, is_quick=True),
    "back": Scenario(scenarios.switch_back, ALL, is_quick=True, short_run=scenarios.short_switch_back),
    "hot": Scenario(scenarios.hot_switch, ALL, is_quick=True),
    "foreseen": Scenario(scenarios.foreseen_switch, (OURS,), is_once=True),
    "agents": Scenario(scenarios.agents, (*ROUTERS, OLLAMA)),
    "throughput": Scenario(scenarios.throughput, (*ROUTERS, LLAMA_SWAP)),
    "beside": Scenario(scenarios.beside_a_prompt, (*ROUTERS, LLAMA_SWAP)),
    "repeat": Scenario(scenarios.repeat),
    "parsing": Scenario(scale.parsing, (OURS,), is_once=True),
    "storm": Scenario(scenarios.storm),
    "large": Scenario(large.large),
    "devices": Scenario(devices.on_rpc_devices),
    "mixed": Scenario(scale.mixed),
    "catalogue": Scenario(scale.catalogue),
    "requests": Scenario(scale.router_requests),
    "memory": Scenario(scale.memory),
    "scripted": Scenario(scale.scripted, (OURS,), is_once=True),
}
