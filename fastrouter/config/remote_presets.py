"""What a preset file from the hub may set: how a model computes and answers. Only a table.

Invariant: nothing here names a file, a folder, a device, a socket, a key or a command of this machine. A new flag is not allowed until it
is put here.
"""

from fastrouter.config.flag import Flag, Kind, Scope

OF_MODELS = frozenset(
    (
        *("hf_repo", "hf_file", "aliases", "tags", "mmproj_auto"),
        *("ctx_size", "n_predict", "n_keep", "context_shift", "parallel", "kv_unified", "kv_unified_per_slot", "batch_size", "ubatch_size"),
        *("flash_attn", "cache_type_k", "cache_type_v", "swa_full", "fit", "fit_ctx", "gpu_layers", "cpu_moe", "n_cpu_moe", "n_cpu_ffn"),
        *("embedding", "reranking", "embd_normalize", "pooling", "image_min_tokens", "image_max_tokens", "mtmd_batch_max_tokens"),
        *("jinja", "chat_template", "chat_template_kwargs", "skip_chat_parsing", "hold_tool_calls", "prefill_assistant", "spm_infill"),
        *("reasoning", "reasoning_format", "reasoning_effort", "reasoning_preserve", "reasoning_budget", "reasoning_budget_message"),
        *("stop", "escape", "special", "json_whitespace", "cont_batching", "warmup", "check_tensors", "lazy_mode"),
        *("rope_scaling", "rope_scale", "rope_freq_base", "rope_freq_scale", "yarn_orig_ctx", "yarn_ext_factor", "yarn_attn_factor"),
        *("yarn_beta_slow", "yarn_beta_fast", "cache_prompt", "cache_reuse", "slot_prompt_similarity", "ctx_checkpoints"),
        "checkpoint_min_step",
    )
)
OF_GUESSES = frozenset(("types", "spec_default", "draft_hf", "n_max", "n_min", "p_min"))
OF_FILES = frozenset(("load_on_startup", "base", "system", "hides_cached", ""))
_LOCAL_KINDS = (Kind.PATH, Kind.FOLDER, Kind.NEW_FOLDER, Kind.FILES, Kind.SCALED_FILES)


def is_allowed(flag: Flag) -> bool:
    if flag.kind in _LOCAL_KINDS:
        return False
    if flag.scope in (Scope.MODEL, Scope.SOURCE):
        return flag.target in OF_MODELS
    if flag.scope is Scope.SPECULATION:
        return flag.target in OF_GUESSES or flag.target.startswith("ngram_")
    return flag.scope in (Scope.SAMPLING, Scope.LIFETIME, Scope.NO_EFFECT) or (flag.scope is Scope.PRESET and flag.target in OF_FILES)
