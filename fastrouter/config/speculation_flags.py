"""The flags of speculative decoding: how tokens are guessed, and the draft model. Only a table."""

from fastrouter.config.flag import Flag, Kind, Scope, flag
from fastrouter.config.model_flags import CACHE_TYPES
from fastrouter.options.guess_types import MAX_GUESSED

_DRAFT_NGL = "--spec-draft-ngl -ngld --gpu-layers-draft --n-gpu-layers-draft"


def speculation_flags() -> list[Flag]:
    scope = Scope.SPECULATION
    draft = [
        ("--spec-draft-n-max", "SPEC_DRAFT_N_MAX", "n_max", "tokens the draft model guesses at a time (3)", 0, MAX_GUESSED),
        ("--spec-draft-n-min", "SPEC_DRAFT_N_MIN", "n_min", "shorter guesses are not tried (0)", 0, MAX_GUESSED),
        ("--spec-draft-threads -td --threads-draft", "", "draft_threads", "CPU threads of the draft model (same as --threads)", -1, 4096),
        ("--spec-draft-threads-batch -tbd --threads-batch-draft", "", "draft_threads_batch", "the same for prompts", -1, 4096),
    ]
    made = [
        flag(scope, "--spec-type", "SPEC_TYPE", Kind.GUESSERS, "types", "how tokens are guessed: ngram-simple, draft-simple ... (none)"),
        flag(scope, "--spec-default", "", Kind.SWITCH, "spec_default", "same as --spec-type ngram-mod"),
        flag(scope, "--spec-draft-model -md --model-draft", "SPEC_DRAFT_MODEL", Kind.PATH, "draft_model", "GGUF file of a smaller model"),
        flag(
            scope,
            "--spec-draft-hf -hfd -hfrd --hf-repo-draft",
            "SPEC_DRAFT_HF_REPO",
            Kind.TEXT,
            "draft_hf",
            "the draft model as user/repo[:quant]; downloaded if it is not in the cache",
        ),
        flag(
            scope,
            "--spec-draft-p-min --draft-p-min",
            "SPEC_DRAFT_P_MIN",
            Kind.FLOAT,
            "p_min",
            "how sure the draft model must be (0)",
            low=0,
            high=1,
        ),
        flag(
            scope,
            _DRAFT_NGL,
            "N_GPU_LAYERS_DRAFT",
            Kind.LAYERS,
            "draft_gpu_layers",
            "layers of the draft model on the GPU",
            low=-2,
        ),
    ]
    made += [flag(scope, names, env, Kind.INT, into, help, low=low, high=high) for names, env, into, help, low, high in draft]
    made += [*_draft_placement_flags(), *_draft_core_flags()]
    for letter in "kv":
        names, env = f"--spec-draft-type-{letter} -ct{letter}d --cache-type-{letter}-draft", f"SPEC_DRAFT_CACHE_TYPE_{letter.upper()}"
        into, help = f"draft_cache_type_{letter}", f"type of the draft model's {letter.upper()} cache (f16)"
        made.append(flag(scope, names, env, Kind.TEXT, into, help, choices=CACHE_TYPES))
    for name in ("simple", "map-k", "map-k4v"):
        made += [
            _lookup_flag(f"{name}-size-n", "tokens that must be the same (12)", 1),
            _lookup_flag(f"{name}-size-m", "tokens guessed at most (48)", 1),
            _lookup_flag(f"{name}-min-hits", "how often they must have appeared before (1)", 1),
        ]
    made.append(_lookup_flag("mod-n-match", "tokens that must be the same (24)", 1))
    made.append(_lookup_flag("mod-n-max", "tokens guessed at most (64)", 0))
    made.append(_lookup_flag("mod-n-min", "accepted, but not used: the length adapts by itself", 0, is_dropped=True))
    return made


def _draft_placement_flags() -> list[Flag]:
    scope, moe = Scope.SPECULATION, "--spec-draft-n-cpu-moe --spec-draft-ncmoe -ncmoed --n-cpu-moe-draft"
    names, buffers = "--spec-draft-device -devd --device-draft", "--spec-draft-override-tensor -otd --override-tensor-draft"
    experts = ("--spec-draft-cpu-moe -cmoed --cpu-moe-draft", "SPEC_DRAFT_CPU_MOE")
    return [
        flag(scope, names, "", Kind.DEVICES, "draft_devices", "devices of the draft model (same as --device)"),
        flag(scope, buffers, "", Kind.BUFFERS, "draft_override_tensor", "where its tensors are, by their names"),
        flag(scope, *experts, Kind.SWITCH, "draft_cpu_moe", "its experts stay in the memory of the CPU (off)"),
        flag(scope, moe, "SPEC_DRAFT_N_CPU_MOE", Kind.INT, "draft_n_cpu_moe", "the same for its first N layers", low=0, high=4096),
    ]


def _draft_core_flags() -> list[Flag]:
    scope, found = Scope.SPECULATION, []
    for end, short, of in (("", "", ""), ("-batch", "b", "_batch")):
        what = f" of the draft model{', for prompts' if of else ''}"
        strict, prio = f"--spec-draft-cpu-strict{end} --cpu-strict{end}-draft", f"--spec-draft-prio{end} --prio{end}-draft"
        mask = f"--spec-draft-cpu-mask{end} -C{short}d --cpu-mask{end}-draft"
        found += [
            flag(scope, mask, "", Kind.CPU_MASK, f"draft_cpu_mask{of}", f"CPUs{what}"),
            flag(scope, strict, "", Kind.INT, f"draft_cpu_strict{of}", f"1: each thread{what} stays on one CPU", low=0, high=1),
            flag(scope, prio, "", Kind.INT, f"draft_prio{of}", f"priority of the threads{what}", low=-1, high=3),
        ]
    ranges = "--spec-draft-cpu-range -Crd --cpu-range-draft"
    return [*found, flag(scope, ranges, "", Kind.CPU_RANGE, "draft_cpu_range", "CPUs of the draft model as a range")]


def _lookup_flag(name: str, help: str, low: int, *, is_dropped: bool = False) -> Flag:
    target = "" if is_dropped else f"ngram_{name.replace('-', '_')}"
    return flag(Scope.SPECULATION, f"--spec-ngram-{name}", "", Kind.INT, target, help, low=low, high=MAX_GUESSED)
