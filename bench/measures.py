"""What the numbers of a run mean: the label, the unit and the goal of each measure, in the sections of the report."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Measure:
    label: str
    unit: str
    factor: float = 1.0  # from a sample to the unit
    goal: float | None = None  # as a ratio to llama-server
    is_less_better: bool = True
    own_goal: float | None = None  # of the value itself, in its unit; it needs no rival
    floor: str | None = None  # the measure that this one cannot beat, see floors.py

    def reaches(self, value: float, goal: float) -> bool:
        return value <= goal if self.is_less_better else value >= goal


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    warm_up: str
    measures: dict[str, Measure] = field(default_factory=dict)


def _ms(label: str, goal: float | None = None, own_goal: float | None = None, floor: str | None = None) -> Measure:
    return Measure(label, "ms", 1e3, goal, own_goal=own_goal, floor=floor)


def _share(label: str, own_goal: float | None = None, *, is_less_better: bool = True) -> Measure:
    return Measure(label, "%", 1e2, is_less_better=is_less_better, own_goal=own_goal)


def _rate(
    label: str, goal: float | None = None, unit: str = "tokens/s", own_goal: float | None = None, floor: str | None = None
) -> Measure:
    return Measure(label, unit, 1.0, goal, is_less_better=False, own_goal=own_goal, floor=floor)


SWITCHES = Section(
    "Switches",
    "each server has run for 1 s; before an eviction, one request to the model that leaves",
    {
        "cold_135m_s": _ms("cold switch, SmolLM2-135M", 0.25),
        "cold_tiny_s": _ms("cold switch, 0.5 MB model", 0.35, floor="floor_load_tiny_s"),
        "evict_135m_s": _ms("evict-and-switch, SmolLM2-135M", 0.30),
        "evict_tiny_s": _ms("evict-and-switch, 0.5 MB model", 0.25, floor="floor_load_tiny_s"),
        "back_500_s": _ms("back to a conversation of 500 tokens whose model was evicted, SmolLM2-135M: first token"),
        "back_500_share": _share("back to a conversation of 500 tokens: as a part of its first turn"),
        "back_2000_s": _ms("back to a conversation of 2,000 tokens whose model was evicted, SmolLM2-135M: first token", 0.05),
        "back_2000_share": _share("back to a conversation of 2,000 tokens: as a part of its first turn", 5.0),
        "back_7500_s": _ms("back to a conversation of 7,500 tokens whose model was evicted, SmolLM2-135M: first token", 0.03),
        "back_7500_share": _share("back to a conversation of 7,500 tokens: as a part of its first turn", 3.0),
        "not_foreseen_135m_s": _ms("SmolLM2-135M answers, then 0.6 s pause, then a cold switch to another SmolLM2-135M"),
        "foreseen_135m_s": _ms("the same when the first request has said which model comes next"),
        "foreseen_rate_share": _share(
            "tokens/s while the next model is loaded ahead, with / without that load", 98.0, is_less_better=False
        ),
        "agents_s": Measure("agent trace: three agents take turns, each with a model, room for two models; all turns", "s", 1.0, 0.3),
        "agents_ttft_s": _ms("the same: first token of each turn"),
    },
)
LARGE = Section(
    "A model of some GB",
    "the file is dropped from the page cache before each load that is not cached",
    {
        "large_read_once_s": Measure("the file, not in the page cache, read once by parallel reads", "s"),
        "large_cold_s": Measure("load, not in the page cache", "s"),
        "large_cold_share": _share("load, not in the page cache: as a part of reading the file once", 105.0),
        "large_cold_token_s": Measure("load, not in the page cache: until the first token", "s"),
        "large_foreseen_s": Measure("load after POST /models/warm", "s"),
        "large_foreseen_share": _share("load after POST /models/warm: as a part of reading the file once", 20.0),
        "large_foreseen_token_s": Measure("load after POST /models/warm: until the first token", "s"),
        "large_cached_s": Measure("load, in the page cache", "s"),
        "large_cached_share": _share("load, in the page cache: as a part of reading the file once"),
        "large_cached_token_s": Measure("load, in the page cache: until the first token", "s"),
    },
)
DEVICES = Section(
    "A model on two RPC workers of the same machine",
    "one request",
    {
        "rpc_cold_135m_s": _ms("cold switch, SmolLM2-135M, half of its layers on each"),
        "rpc_135m_tokens_per_s": _rate("the same, 1 stream"),
    },
)
HOT = Section(
    "Models in memory: time to the first token",
    "one request to each model",
    {
        "hot_stay_tiny_s": _ms("staying on a tiny model", 0.3),
        "hot_switch_tiny_s": _ms("alternating between two tiny models"),
        "hot_stay_135m_s": _ms("staying on SmolLM2-135M", 0.75),
    },
)
TOKENS = Section(
    "Tokens per second",
    "one request to each model",
    {
        "tiny_1_streams_tokens_per_s": _rate("tiny model, 1 stream", 2.0, floor="floor_tiny_1_tokens_per_s"),
        "tiny_4_streams_tokens_per_s": _rate("tiny model, 4 streams"),
        "tiny_8_streams_tokens_per_s": _rate("tiny model, 8 streams"),
        "tiny_16_streams_tokens_per_s": _rate("tiny model, 16 streams", 3.0, floor="floor_tiny_16_tokens_per_s"),
        "135m_1_streams_tokens_per_s": _rate("SmolLM2-135M, 1 stream", 1.0, floor="floor_135m_1_tokens_per_s"),
        "135m_4_streams_tokens_per_s": _rate("SmolLM2-135M, 4 streams", 1.0),
        "135m_8_streams_tokens_per_s": _rate("SmolLM2-135M, 8 streams"),
        "135m_16_streams_tokens_per_s": _rate("SmolLM2-135M, 16 streams"),
        "both_135m_tokens_per_s": _rate("two SmolLM2-135M at the same time, together"),
        "135m_prefill_tokens_per_s": _rate("prompt alone, SmolLM2-135M", 1.0),
        "beside_prompt_tokens_per_s": _rate("prompt of 1,100 tokens beside three streams of SmolLM2-135M", 0.95),
        "beside_ttft_s": _ms("prompt of 1,100 tokens beside three streams: its first token"),
        "beside_itl_p99_s": _ms("prompt of 1,100 tokens beside three streams: p99 between two tokens of the streams"),
        "repeat_off_tokens_per_s": _rate("SmolLM2-135M copies a listing"),
        "repeat_on_tokens_per_s": _rate("the same with --spec-type ngram-simple"),
        "repeat_held_share": _share("the same: guesses that were accepted", is_less_better=False),
        "parsing_plain_tokens_per_s": _rate("engine alone, 16 chats of a tiny model, answers not parsed"),
        "parsing_parsed_tokens_per_s": _rate("the same with thoughts and tool calls parsed"),
        "parsing_ratio": Measure("engine alone, 16 chats: parsed / not parsed", "x", 1.0, is_less_better=False, own_goal=0.98),
    },
)
MANY = Section(
    "Many clients, many models",
    "storm: one request; mixed: one request to each model; catalogue: the second start in the same folder",
    {
        "storm_s": Measure("storm: 240 requests of 24 clients to 3 tiny models, room for one model", "s"),
        "storm_swaps": Measure("storm: loads", ""),
        "storm_p95_ttft_s": _ms("storm: p95 of the wait for the first token"),
        "mixed_tokens_per_s": _rate("mixed: 16 clients in turn to two tiny models and SmolLM2-135M, 48 requests"),
        "mixed_ttft_s": _ms("mixed: first token"),
        "mixed_itl_p99_s": _ms("mixed: p99 between two reads of a stream"),
        "catalogue_start_s": _ms("1,000 models (links to 8 files): start to /health"),
        "catalogue_list_s": _ms("1,000 models: one GET /v1/models"),
        "catalogue_cold_tiny_s": _ms("1,000 models: cold switch, 0.5 MB model"),
    },
)
ROUTER = Section(
    "Start, memory, the router alone",
    "none for starts; the router's requests: one second; scripted streams: two shorter runs",
    {
        "start_s": _ms("start to /health", 1.5, floor="floor_libraries_s"),
        "start_to_token_s": _ms("start to the first token of a tiny model", 1.0, floor="floor_first_token_s"),
        "router_rss_bytes": Measure("router process, idle (RSS)", "MB", 1e-6, 1.5, floor="floor_libraries_bytes"),
        "idle_pss_bytes": Measure("all processes, no model (PSS)", "MB", 1e-6),
        "three_models_pss_bytes": Measure("all processes, two tiny models and SmolLM2-135M in memory (PSS)", "MB", 1e-6),
        "health_per_s": _rate("GET /health, 16 connections", 1.5, "/s"),
        "models_per_s": _rate("GET /v1/models, 16 connections, 10 models", 8.0, "/s"),
        "scripted_512_tokens_per_s": _rate("512 streams of scripted workers"),
        "scripted_512_tokens_per_cpu_s": _rate("512 streams of scripted workers, per second of the router's CPU time", own_goal=500_000),
        "scripted_512_lockstep_tokens_per_s": _rate("512 streams in lockstep: every token is an event and a write"),
    },
)
FLOORS = Section(
    "What no program of this shape can beat",
    "none",
    {
        "floor_libraries_s": _ms("Python that has imported asyncio, uvloop, httptools and orjson: start to its first line"),
        "floor_libraries_bytes": Measure("the same: RSS", "MB", 1e-6),
        "floor_first_token_s": _ms("Python that decodes with llama.cpp, without any server: start to the first logits of a tiny model"),
        "floor_load_tiny_s": _ms(
            "llama.cpp in a forked process that has its libraries: first logits of a 0.5 MB model that was not loaded ahead"
        ),
        "floor_load_135m_s": _ms("the same, SmolLM2-135M"),
        "floor_tiny_1_tokens_per_s": _rate("llama_decode alone, without sampling: tiny model, 1 stream"),
        "floor_tiny_16_tokens_per_s": _rate("the same, 16 streams"),
        "floor_135m_1_tokens_per_s": _rate("the same, SmolLM2-135M, 1 stream"),
    },
)
SECTIONS = (SWITCHES, LARGE, DEVICES, HOT, TOKENS, MANY, ROUTER, FLOORS)
MEASURES: dict[str, Measure] = {name: measure for section in SECTIONS for name, measure in section.measures.items()}
