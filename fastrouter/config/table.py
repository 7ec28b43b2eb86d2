"""The one table of flags: those that work (router_flags.py, model_flags.py, llama_flags.py), those that are accepted and do nothing, those
that are refused.

Never imports: config.config, config.presets. Invariant: it holds every flag name of llama-server, so that a flag is either used or refused
by its name; none is silently ignored.
"""

from typing import Any

from fastrouter.config.flag import Kind, Scope, flag
from fastrouter.config.llama_flags import llama_flags
from fastrouter.config.model_flags import cache_flags, model_flags, sampling_flags
from fastrouter.config.ready_made import READY_MADE
from fastrouter.config.router_flags import lifetime_flags, preset_flags, router_flags, source_flags, tool_flags
from fastrouter.config.speculation_flags import speculation_flags

_NO_LOOKUP_FILE = "ngram-cache looks into the conversation's own tokens only; answers do not depend on it"
_WRONG_ANSWERS = "it makes up which guesses are right, so answers would be wrong; it is for llama.cpp's own benchmarks"

# Accepted, with a warning that says what happens instead: (names, environment, kind, what happens, values without a warning).
_INSTEAD: tuple[tuple[str, str, Kind, str, tuple[Any, ...]], ...] = (
    ("--threads-http", "THREADS_HTTP", Kind.INT, "one thread serves all connections", ()),
    ("--poll-batch", "", Kind.INT, "--poll is for prompts too", ()),
    ("--spec-draft-poll --poll-draft", "", Kind.INT, "--poll is for the draft model too", ()),
    ("--spec-draft-poll-batch --poll-batch-draft", "", Kind.INT, "--poll is for the draft model too", ()),
    ("-dt --defrag-thold", "DEFRAG_THOLD", Kind.FLOAT, "llama.cpp does not need it any more", ()),
    ("--spec-draft-p-split --draft-p-split", "SPEC_DRAFT_P_SPLIT", Kind.FLOAT, "the draft model makes one guess, not a tree", ()),
    ("--perf --no-perf", "PERF", Kind.SWITCH, "the times of loads and answers are always measured", (False,)),
    ("-bs --backend-sampling", "BACKEND_SAMPLING", Kind.SWITCH, "tokens are sampled on the CPU", (False,)),
    (
        "--spec-draft-backend-sampling --no-spec-draft-backend-sampling",
        "SPEC_DRAFT_BACKEND_SAMPLING",
        Kind.SWITCH,
        "guesses are sampled on the CPU",
        (False, True),  # it is on in llama-server
    ),
    (
        "--spec-draft-sampling",
        "SPEC_DRAFT_SAMPLING",
        Kind.TEXT,
        "the draft model's guess is its most likely token; answers do not depend on it",
        ("greedy",),
    ),
    ("-lcs --lookup-cache-static", "", Kind.TEXT, _NO_LOOKUP_FILE, ()),
    ("-lcd --lookup-cache-dynamic", "", Kind.TEXT, _NO_LOOKUP_FILE, ()),
)

# Refused: (names, environment, why).
_REFUSED: tuple[tuple[str, str, str], ...] = (
    (
        "--tools-runtime",
        "TOOLS_RUNTIME",
        "tools run on this machine, below --tools-dir; for tools in a container or on another machine, name an MCP server there in"
        " --mcp-servers-config",
    ),
    ("--spec-synth-len", "SPEC_SYNTH_LEN", _WRONG_ANSWERS),
    ("--spec-synth-rates", "SPEC_SYNTH_RATES", _WRONG_ANSWERS),
)

# llama-server has removed these too: (names, environment, what to use).
_REMOVED: tuple[tuple[str, str, str], ...] = (
    ("--draft --draft-n --draft-max", "DRAFT_MAX", "--spec-draft-n-max or --spec-ngram-mod-n-max"),
    ("--draft-min --draft-n-min", "DRAFT_MIN", "--spec-draft-n-min"),
    ("--spec-ngram-size-n", "", "--spec-ngram-simple-size-n, or that of another type"),
    ("--spec-ngram-size-m", "", "--spec-ngram-simple-size-m, or that of another type"),
    ("--spec-ngram-min-hits", "", "--spec-ngram-simple-min-hits, or that of another type"),
)


TABLE = [*router_flags(), *tool_flags(), *source_flags(), *model_flags(), *llama_flags(), *cache_flags(), *sampling_flags()]
TABLE += [*speculation_flags(), *lifetime_flags(), *preset_flags()]
TABLE += [
    flag(Scope.NO_EFFECT, _names, _env, _kind, "", f"accepted: {_what}", instead=_what, silent=_silent)
    for _names, _env, _kind, _what, _silent in _INSTEAD
]
TABLE += [flag(Scope.REFUSED, _names, _env, Kind.TEXT, "", _why) for _names, _env, _why in _REFUSED]
TABLE += [flag(Scope.REMOVED, _names, _env, Kind.TEXT, "", f"use {_what}") for _names, _env, _what in _REMOVED]
for _name, _words in READY_MADE.items():
    _repo = _words["--hf-repo"]
    TABLE.append(
        flag(Scope.READY_MADE, _name, "", Kind.SWITCH, "ready_made", f"{_repo} on port {_words['--port']}, as llama-server sets it")
    )
