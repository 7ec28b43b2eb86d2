"""The one table of flags: those that work (router_flags.py, model_flags.py, llama_flags.py), those that are accepted and do nothing, and
those that are not supported yet.

Never imports: config.config, config.presets. Invariant: it holds every flag name of llama-server, so that a flag is either used or refused
by its name; none is silently ignored.
"""

from typing import Any

from fastrouter.config.flag import Kind, Scope, flag
from fastrouter.config.llama_flags import llama_flags
from fastrouter.config.model_flags import cache_flags, model_flags, sampling_flags, speculation_flags
from fastrouter.config.ready_made import READY_MADE
from fastrouter.config.router_flags import lifetime_flags, preset_flags, router_flags, source_flags, tool_flags

# These values ask for what fastrouter does anyway, so existing command lines work: (names, environment, kind, accepted values).
_ONE_WAY: tuple[tuple[str, str, Kind, tuple[Any, ...]], ...] = (
    ("--perf --no-perf", "PERF", Kind.SWITCH, (False,)),
    ("-fit --fit", "FIT", Kind.TEXT, ("off",)),
    ("-e --escape --no-escape", "", Kind.SWITCH, (True,)),
    ("--prefill-assistant --no-prefill-assistant", "PREFILL_ASSISTANT", Kind.SWITCH, (True,)),
    ("--spec-draft-sampling", "SPEC_DRAFT_SAMPLING", Kind.TEXT, ("greedy",)),
    ("-bs --backend-sampling", "BACKEND_SAMPLING", Kind.SWITCH, (True, False)),
    ("--spec-draft-backend-sampling --no-spec-draft-backend-sampling", "SPEC_DRAFT_BACKEND_SAMPLING", Kind.SWITCH, (True, False)),
)

# Accepted, with a warning that says what happens instead: (names, environment, kind, what happens).
_INSTEAD: tuple[tuple[str, str, Kind, str], ...] = (
    ("--threads-http", "THREADS_HTTP", Kind.INT, "one thread serves all connections"),
    ("--poll-batch", "", Kind.INT, "--poll is for prompts too"),
    ("--spec-draft-poll --poll-draft", "", Kind.INT, "--poll is for the draft model too"),
    ("--spec-draft-poll-batch --poll-batch-draft", "", Kind.INT, "--poll is for the draft model too"),
    ("-dt --defrag-thold", "DEFRAG_THOLD", Kind.FLOAT, "llama.cpp does not need it any more"),
    ("--spec-draft-p-split --draft-p-split", "SPEC_DRAFT_P_SPLIT", Kind.FLOAT, "the draft model makes one guess, not a tree"),
)

# llama-server has removed these too: (names, environment, what to use).
_REMOVED: tuple[tuple[str, str, str], ...] = (
    ("--draft --draft-n --draft-max", "DRAFT_MAX", "--spec-draft-n-max or --spec-ngram-mod-n-max"),
    ("--draft-min --draft-n-min", "DRAFT_MIN", "--spec-draft-n-min"),
    ("--spec-ngram-size-n", "", "--spec-ngram-simple-size-n, or that of another type"),
    ("--spec-ngram-size-m", "", "--spec-ngram-simple-size-m, or that of another type"),
    ("--spec-ngram-min-hits", "", "--spec-ngram-simple-min-hits, or that of another type"),
)

_NOT_YET = """
-cl --cache-list | --rpc RPC | --list-devices |
-fitt --fit-target FIT_TARGET | -fitc --fit-ctx FIT_CTX | -mu --model-url MODEL_URL | -dr --docker-repo DOCKER_REPO |
--adaptive-target | --adaptive-decay | -lcs --lookup-cache-static | -lcd --lookup-cache-dynamic |
--kv-unified-per-slot KV_UNIFIED_PER_SLOT |
-mmu --mmproj-url MMPROJ_URL | -mmdev --mmproj-device | --mtmd-batch-max-tokens MTMD_BATCH_MAX_TOKENS |
--tools-runtime TOOLS_RUNTIME |
--log-prompts-dir | --spec-draft-hf -hfd -hfrd --hf-repo-draft SPEC_DRAFT_HF_REPO |
--spec-synth-len SPEC_SYNTH_LEN | --spec-synth-rates SPEC_SYNTH_RATES |
--fim-qwen-7b-spec | --fim-qwen-14b-spec | --vision-gemma-4b-default | --vision-gemma-12b-default
"""  # names, then the environment name


TABLE = [*router_flags(), *tool_flags(), *source_flags(), *model_flags(), *llama_flags(), *cache_flags(), *sampling_flags()]
TABLE += [*speculation_flags(), *lifetime_flags(), *preset_flags()]
TABLE += [flag(Scope.NOT_YET, _names, _env, _kind, "", only=_only) for _names, _env, _kind, _only in _ONE_WAY]
TABLE += [flag(Scope.NO_EFFECT, _names, _env, _kind, "", f"accepted: {_what}", instead=_what) for _names, _env, _kind, _what in _INSTEAD]
TABLE += [flag(Scope.REMOVED, _names, _env, Kind.TEXT, "", f"use {_what}") for _names, _env, _what in _REMOVED]
for _name, _words in READY_MADE.items():
    _repo = _words["--hf-repo"]
    TABLE.append(
        flag(Scope.READY_MADE, _name, "", Kind.SWITCH, "ready_made", f"{_repo} on port {_words['--port']}, as llama-server sets it")
    )
for _line in _NOT_YET.split("|"):
    _on, _, _env = _line.strip().rpartition(" ")
    TABLE.append(flag(Scope.NOT_YET, _line if _env.startswith("-") else _on, "" if _env.startswith("-") else _env, Kind.TEXT, ""))
