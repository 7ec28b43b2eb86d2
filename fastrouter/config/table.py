"""The one table of flags: those that work (router_flags.py, model_flags.py) and those that are not supported yet.

Never imports: config.config, config.presets. Invariant: it holds every flag name of llama-server, so that a flag is either used or refused
by its name; none is silently ignored.
"""

from typing import Any

from fastrouter.config.flag import Kind, Scope, flag
from fastrouter.config.model_flags import cache_flags, model_flags, sampling_flags, speculation_flags
from fastrouter.config.router_flags import lifetime_flags, preset_flags, router_flags, source_flags, tool_flags

# These values ask for what fastrouter does anyway, so existing command lines work: (names, environment, kind, accepted values).
_ONE_WAY: tuple[tuple[str, str, Kind, tuple[Any, ...]], ...] = (
    ("--perf --no-perf", "PERF", Kind.SWITCH, (False,)),
    ("--repack --no-repack -nr", "REPACK", Kind.SWITCH, (True,)),
    ("-kvo --kv-offload -nkvo --no-kv-offload", "KV_OFFLOAD", Kind.SWITCH, (True,)),
    ("--op-offload --no-op-offload", "", Kind.SWITCH, (True,)),
    ("-fit --fit", "FIT", Kind.TEXT, ("off",)),
    ("-sm --split-mode", "SPLIT_MODE", Kind.TEXT, ("layer",)),
    ("--spec-draft-sampling", "SPEC_DRAFT_SAMPLING", Kind.TEXT, ("greedy",)),
    ("-bs --backend-sampling", "BACKEND_SAMPLING", Kind.SWITCH, (True, False)),
    ("--spec-draft-backend-sampling --no-spec-draft-backend-sampling", "SPEC_DRAFT_BACKEND_SAMPLING", Kind.SWITCH, (True, False)),
)

_NOT_YET = """
-cl --cache-list | --poll-batch | -e --escape --no-escape |
--rope-scaling ROPE_SCALING_TYPE | --rope-scale ROPE_SCALE | --rope-freq-base ROPE_FREQ_BASE | --rope-freq-scale ROPE_FREQ_SCALE |
--yarn-orig-ctx YARN_ORIG_CTX | --yarn-ext-factor YARN_EXT_FACTOR | --yarn-attn-factor YARN_ATTN_FACTOR |
--yarn-beta-slow YARN_BETA_SLOW | --yarn-beta-fast YARN_BETA_FAST | --no-host NO_HOST | -dt --defrag-thold DEFRAG_THOLD | --rpc RPC |
-lzm --lazy-mode LAZY_MODE | --numa NUMA | -dev --device DEVICE | --list-devices | -ot --override-tensor OVERRIDE_TENSOR |
-cmoe --cpu-moe CPU_MOE | -ncmoe --n-cpu-moe N_CPU_MOE | -ncffn --n-cpu-ffn N_CPU_FFN | -ts --tensor-split TENSOR_SPLIT |
-mg --main-gpu MAIN_GPU | -fitt --fit-target FIT_TARGET | -fitc --fit-ctx FIT_CTX | --check-tensors | --override-kv |
--control-vector | --control-vector-scaled | --control-vector-layer-range | -mu --model-url MODEL_URL |
-dr --docker-repo DOCKER_REPO |
--adaptive-target | --adaptive-decay | -lcs --lookup-cache-static | -lcd --lookup-cache-dynamic |
--kv-unified-per-slot KV_UNIFIED_PER_SLOT |
-mmu --mmproj-url MMPROJ_URL | -mmdev --mmproj-device | --mtmd-batch-max-tokens MTMD_BATCH_MAX_TOKENS |
--video-fps VIDEO_FPS | --video-timestamp-interval VIDEO_TIMESTAMP_INTERVAL | --video-ffmpeg-dir VIDEO_FFMPEG_DIR |
--tools-runtime TOOLS_RUNTIME | --threads-http THREADS_HTTP |
--prefill-assistant --no-prefill-assistant PREFILL_ASSISTANT |
--log-prompts-dir | --spec-draft-hf -hfd -hfrd --hf-repo-draft SPEC_DRAFT_HF_REPO | --spec-draft-cpu-mask -Cd --cpu-mask-draft |
--spec-draft-cpu-range -Crd --cpu-range-draft | --spec-draft-cpu-strict --cpu-strict-draft | --spec-draft-prio --prio-draft |
--spec-draft-poll --poll-draft | --spec-draft-cpu-mask-batch -Cbd --cpu-mask-batch-draft |
--spec-draft-cpu-strict-batch --cpu-strict-batch-draft | --spec-draft-prio-batch --prio-batch-draft |
--spec-draft-poll-batch --poll-batch-draft | --spec-draft-override-tensor -otd --override-tensor-draft |
--spec-draft-cpu-moe -cmoed --cpu-moe-draft SPEC_DRAFT_CPU_MOE |
--spec-draft-n-cpu-moe --spec-draft-ncmoe -ncmoed --n-cpu-moe-draft SPEC_DRAFT_N_CPU_MOE |
--spec-synth-len SPEC_SYNTH_LEN | --spec-synth-rates SPEC_SYNTH_RATES |
--spec-draft-p-split --draft-p-split SPEC_DRAFT_P_SPLIT | --spec-draft-device -devd --device-draft |
--draft --draft-n --draft-max DRAFT_MAX | --draft-min --draft-n-min DRAFT_MIN | --spec-ngram-size-n |
--spec-ngram-size-m | --spec-ngram-min-hits | --embd-gemma-default | --fim-qwen-1.5b-default | --fim-qwen-3b-default |
--fim-qwen-7b-default | --fim-qwen-7b-spec | --fim-qwen-14b-spec | --fim-qwen-30b-default | --gpt-oss-20b-default |
--gpt-oss-120b-default | --vision-gemma-4b-default | --vision-gemma-12b-default
"""  # names, then the environment name


TABLE = [*router_flags(), *tool_flags(), *source_flags(), *model_flags(), *cache_flags(), *sampling_flags()]
TABLE += [*speculation_flags(), *lifetime_flags(), *preset_flags()]
TABLE += [flag(Scope.NOT_YET, _names, _env, _kind, "", only=_only) for _names, _env, _kind, _only in _ONE_WAY]
for _line in _NOT_YET.split("|"):
    _on, _, _env = _line.strip().rpartition(" ")
    TABLE.append(flag(Scope.NOT_YET, _line if _env.startswith("-") else _on, "" if _env.startswith("-") else _env, Kind.TEXT, ""))
