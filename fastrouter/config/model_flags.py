"""The flags of a model: how it is loaded, what its caches keep, how it samples. Only a table."""

from fastrouter.config.flag import Flag, Kind, Scope, flag
from fastrouter.options.limits import INT32_MAX, POOLING
from fastrouter.options.load import REASONING_FORMATS
from fastrouter.options.samplers import LETTERS
from fastrouter.options.sampling import SAMPLING, SamplingField, Shape

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
JSON_WHITESPACE = ("compact", "free")
LOAD_MODES = ("auto", "none", "mmap", "mlock", "mmap+mlock", "dio")


def model_flags() -> list[Flag]:
    scope = Scope.MODEL
    return [
        flag(scope, "-c --ctx-size", "CTX_SIZE", Kind.INT, "ctx_size", "context in tokens (0: the model's own)", low=0, high=INT32_MAX),
        flag(
            scope, "-n --predict --n-predict", "N_PREDICT", Kind.INT, "n_predict", "tokens to answer (-1: no limit)", low=-1, high=INT32_MAX
        ),
        flag(
            scope, "--keep", "", Kind.INT, "n_keep", "tokens of the prompt that a context shift keeps (0; -1: all)", low=-1, high=INT32_MAX
        ),
        flag(
            scope,
            "--context-shift --no-context-shift",
            "CONTEXT_SHIFT",
            Kind.SWITCH,
            "context_shift",
            "an answer that fills the context drops a part of it and continues (off)",
        ),
        flag(scope, "-np --parallel", "N_PARALLEL", Kind.INT, "parallel", "requests at a time (-1: auto)", low=-1, high=256),
        flag(scope, "-kvu --kv-unified -no-kvu --no-kv-unified", "KV_UNIFIED", Kind.SWITCH, "kv_unified", "one KV cache for all requests"),
        flag(
            scope,
            "--kv-unified-per-slot",
            "KV_UNIFIED_PER_SLOT",
            Kind.INT,
            "kv_unified_per_slot",
            "tokens that one request may use; without --ctx-size the KV cache has room for that in each slot (0: off)",
            low=0,
            high=INT32_MAX,
        ),
        flag(scope, "-b --batch-size", "BATCH", Kind.INT, "batch_size", "tokens of a batch (2048)", low=1, high=INT32_MAX),
        flag(scope, "-ub --ubatch-size", "UBATCH", Kind.INT, "ubatch_size", "tokens computed together (512)", low=1, high=INT32_MAX),
        flag(scope, "-t --threads", "THREADS", Kind.INT, "threads", "CPU threads (-1: all cores)", low=-1, high=4096),
        flag(scope, "-tb --threads-batch", "", Kind.INT, "threads_batch", "CPU threads for prompts (same as --threads)", low=-1, high=4096),
        flag(
            scope,
            "-ngl --gpu-layers --n-gpu-layers",
            "N_GPU_LAYERS",
            Kind.LAYERS,
            "gpu_layers",
            "layers on the GPU",
            low=-2,
        ),
        flag(scope, "-fa --flash-attn", "FLASH_ATTN", Kind.THREE_WAY, "flash_attn", "flash attention (auto)"),
        flag(scope, "-ctk --cache-type-k", "CACHE_TYPE_K", Kind.TEXT, "cache_type_k", "type of the K cache (f16)", choices=CACHE_TYPES),
        flag(scope, "-ctv --cache-type-v", "CACHE_TYPE_V", Kind.TEXT, "cache_type_v", "type of the V cache (f16)", choices=CACHE_TYPES),
        flag(scope, "-lm --load-mode", "LOAD_MODE", Kind.TEXT, "load_mode", "how the file is read (auto)", choices=LOAD_MODES),
        flag(scope, "--mmap --no-mmap", "MMAP", Kind.SWITCH, "mmap", "map the file into memory (on)"),
        flag(
            scope,
            "-dio --direct-io --no-direct-io",
            "DIO",
            Kind.SWITCH,
            "direct_io",
            "read the file past the page cache, into memory of the worker's own; implies --no-mmap (off)",
        ),
        flag(scope, "--mlock --no-mlock", "MLOCK", Kind.SWITCH, "mlock", "keep the model from being swapped out"),
        flag(
            scope,
            "-cb --cont-batching -nocb --no-cont-batching",
            "CONT_BATCHING",
            Kind.SWITCH,
            "cont_batching",
            "requests share batches (on)",
        ),
        flag(
            scope,
            "--mmproj-offload --no-mmproj-offload",
            "MMPROJ_OFFLOAD",
            Kind.SWITCH,
            "mmproj_offload",
            "the projector may use a GPU (on)",
        ),
        flag(
            scope,
            "-mmdev --mmproj-device",
            "MTMD_BACKEND_DEVICE",
            Kind.TEXT,
            "mmproj_device",
            "device of the projector (the model's first one); none: the CPU",
        ),
        flag(
            scope,
            "--mtmd-batch-max-tokens",
            "MTMD_BATCH_MAX_TOKENS",
            Kind.INT,
            "mtmd_batch_max_tokens",
            "tokens of pictures that the projector computes together, at most (1024)",
            low=1,
            high=INT32_MAX,
        ),
        *(
            flag(
                scope,
                f"--image-{end}-tokens",
                f"IMAGE_{end.upper()}_TOKENS",
                Kind.INT,
                f"image_{end}_tokens",
                f"tokens of a picture, at {word}, if its size is free (as the projector says)",
                low=1,
                high=INT32_MAX,
            )
            for end, word in (("min", "least"), ("max", "most"))
        ),
        flag(scope, "--embeddings --embedding", "EMBEDDINGS", Kind.SWITCH, "embedding", "the model makes embeddings"),
        flag(scope, "--rerank --reranking", "RERANKING", Kind.SWITCH, "reranking", "the model ranks documents"),
        flag(scope, "--embd-normalize", "", Kind.INT, "embd_normalize", "norm of embeddings (2; -1: none)", low=-1, high=INT32_MAX),
        flag(scope, "--pooling", "POOLING", Kind.TEXT, "pooling", "how embeddings are pooled", choices=tuple(POOLING)),
        flag(scope, "--jinja --no-jinja", "JINJA", Kind.SWITCH, "jinja", "use the model's own chat template (on)"),
        flag(scope, "--chat-template", "CHAT_TEMPLATE", Kind.TEXT, "chat_template", "text of a template, or a built-in name"),
        flag(scope, "--chat-template-file", "CHAT_TEMPLATE_FILE", Kind.PATH, "chat_template", "a file with a template"),
        flag(scope, "--chat-template-kwargs", "CHAT_TEMPLATE_KWARGS", Kind.JSON, "chat_template_kwargs", "variables for the template"),
        *_reasoning_flags(),
        flag(scope, "--lora", "", Kind.FILES, "lora", "LoRA adapters, comma-separated; may be given again"),
        flag(scope, "--lora-scaled", "", Kind.SCALED_FILES, "lora", "LoRA adapters with their scales, FILE:SCALE"),
        flag(scope, "--lora-init-without-apply", "", Kind.SWITCH, "lora_init_without_apply", "scales are 0 until POST /lora-adapters"),
        *_core_flags(),
        flag(
            scope,
            "--json-whitespace",
            "",
            Kind.TEXT,
            "json_whitespace",
            "JSON from schemas: compact has at most a blank after ':' and ',', free may be indented (compact)",
            choices=JSON_WHITESPACE,
        ),
        flag(scope, "-r --reverse-prompt", "", Kind.TEXTS, "stop", "text that ends an answer, if a request names none"),
        flag(
            scope,
            "-e --escape --no-escape",
            "",
            Kind.SWITCH,
            "escape",
            "\\n, \\t ... in -r and --dry-sequence-breaker are such characters (on)",
        ),
        flag(
            scope,
            "--prefill-assistant --no-prefill-assistant",
            "PREFILL_ASSISTANT",
            Kind.SWITCH,
            "prefill_assistant",
            "an answer continues the assistant's message at the end of a chat (on)",
        ),
        flag(
            scope,
            "--log-prompts-dir",
            "",
            Kind.NEW_FOLDER,
            "log_prompts_dir",
            "folder where each prompt is written into a file of its own; for debugging, and it grows without limit",
        ),
        flag(scope, "-sp --special", "", Kind.SWITCH, "special", "answers show special tokens"),
        flag(scope, "--spm-infill", "", Kind.SWITCH, "spm_infill", "/infill: put the suffix before the prefix, as some models need it"),
        flag(scope, "--warmup --no-warmup", "", Kind.SWITCH, "warmup", "decode once after loading (off)"),
    ]


def _reasoning_flags() -> list[Flag]:
    scope = Scope.MODEL
    return [
        flag(scope, "-rea --reasoning", "REASONING", Kind.THREE_WAY, "reasoning", "ask templates for thoughts (auto: if they know them)"),
        flag(
            scope,
            "--reasoning-format",
            "THINK",
            Kind.TEXT,
            "reasoning_format",
            "where thoughts go: none: content; deepseek: reasoning_content; deepseek-legacy: both (auto: deepseek)",
            choices=REASONING_FORMATS,
        ),
        flag(scope, "--reasoning-effort", "REASONING_EFFORT", Kind.TEXT, "reasoning_effort", "low, medium ...: for templates (default)"),
        flag(
            scope,
            "--reasoning-preserve --no-reasoning-preserve",
            "REASONING_PRESERVE",
            Kind.SWITCH,
            "reasoning_preserve",
            "templates that can show the thoughts of earlier turns do (on)",
        ),
        flag(
            scope,
            "--reasoning-budget",
            "THINK_BUDGET",
            Kind.INT,
            "reasoning_budget",
            "tokens of a thought (-1: no limit)",
            low=-1,
            high=INT32_MAX,
        ),
        flag(
            scope,
            "--reasoning-budget-message",
            "THINK_BUDGET_MESSAGE",
            Kind.TEXT,
            "reasoning_budget_message",
            "text at the end of a thought that the budget has ended",
        ),
        flag(
            scope,
            "--skip-chat-parsing --no-skip-chat-parsing",
            "SKIP_CHAT_PARSING",
            Kind.SWITCH,
            "skip_chat_parsing",
            "thoughts and tool calls stay in the content (off)",
        ),
        flag(
            scope,
            "--hold-tool-calls --no-hold-tool-calls",
            "",
            Kind.SWITCH,
            "hold_tool_calls",
            "streams get a tool call when it is complete, not as it is written (off)",
        ),
    ]


def _core_flags() -> list[Flag]:
    scope = Scope.MODEL
    found = []
    for end, short, of, suffix in (("", "", "", ""), ("-batch", "b", "_batch", ", for prompts (default: same as without -batch)")):
        found += [
            flag(scope, f"-C{short} --cpu-mask{end}", "", Kind.CPU_MASK, f"cpu_mask{of}", f"CPUs to run on, e.g. f0{suffix}"),
            flag(scope, f"-Cr{short} --cpu-range{end}", "", Kind.CPU_RANGE, f"cpu_range{of}", f"the same as a range, e.g. 0-3{suffix}"),
            flag(scope, f"--cpu-strict{end}", "", Kind.INT, f"cpu_strict{of}", f"1: each thread stays on one CPU{suffix}", low=0, high=1),
            flag(scope, f"--prio{end}", "", Kind.INT, f"prio{of}", f"-1 low, 1 medium, 2 high, 3 real time{suffix}", low=-1, high=3),
        ]
    return found


def cache_flags() -> list[Flag]:
    """For prompts; the KV cache itself has other flags."""
    scope = Scope.MODEL
    return [
        flag(scope, "--cache-prompt --no-cache-prompt", "CACHE_PROMPT", Kind.SWITCH, "cache_prompt", "reuse starts of prompts (on)"),
        flag(
            scope,
            "--cache-reuse",
            "CACHE_REUSE",
            Kind.INT,
            "cache_reuse",
            "least tokens of a run that is reused at another place of a prompt (0: off)",
            high=INT32_MAX,
            low=0,
        ),
        flag(
            scope,
            "-cram --cache-ram",
            "CACHE_RAM",
            Kind.INT,
            "cache_ram_mib",
            "MiB for prompts that have lost their slot (8192, or a quarter of the free memory; -1: no limit, 0: off)",
            low=-1,
            high=INT32_MAX,
        ),
        flag(
            scope,
            "--cache-idle-slots --no-cache-idle-slots",
            "CACHE_IDLE_SLOTS",
            Kind.SWITCH,
            "cache_idle_slots",
            "when a request begins, move the prompts of idle slots to --cache-ram (off)",
        ),
        flag(
            scope,
            "-sps --slot-prompt-similarity",
            "",
            Kind.FLOAT,
            "slot_prompt_similarity",
            "part of a prompt that a slot must hold to be chosen for it (0.1; 0: the least recently used slot)",
            low=0,
            high=1,
        ),
        flag(
            scope,
            "-ctxcp --swa-checkpoints --ctx-checkpoints",
            "CTX_CHECKPOINTS",
            Kind.INT,
            "ctx_checkpoints",
            "saved states per slot, for models with sliding windows or recurrent memory (8; 0: none)",
            low=0,
            high=1024,
        ),
        flag(
            scope,
            "-cms --checkpoint-min-step",
            "CHECKPOINT_MIN_SPACING_NT",
            Kind.INT,
            "checkpoint_min_step",
            "tokens between two such states (256)",
            low=0,
            high=INT32_MAX,
        ),
        flag(scope, "--slot-save-path", "", Kind.FOLDER, "slot_save_path", "folder for the files of POST /slots/{id}"),
        flag(scope, "--swa-full", "SWA_FULL", Kind.SWITCH, "swa_full", "full-size cache for sliding windows"),
    ]


_KINDS = {
    Shape.NUMBER: Kind.FLOAT,
    Shape.WHOLE: Kind.INT,
    Shape.SWITCH: Kind.SWITCH,
    Shape.SEED: Kind.INT,
    Shape.SAMPLERS: Kind.SAMPLERS,
    Shape.TEXTS: Kind.TEXTS,
    Shape.BIAS: Kind.BIAS,
}


def sampling_flags() -> list[Flag]:
    scope = Scope.SAMPLING
    return [
        *(_sampling_flag(field) for field in SAMPLING if field.flag),
        flag(scope, "--sampler-seq --sampling-seq", "", Kind.LETTERS, "samplers", f"the same in letters ({''.join(LETTERS)})"),
        flag(scope, "--grammar", "", Kind.TEXT, "constraint", "GBNF that answers follow"),
        flag(scope, "--grammar-file", "", Kind.PATH, "constraint", "the same from a file"),
        flag(scope, "-j --json-schema", "", Kind.JSON, "constraint", "JSON schema that answers follow"),
        flag(scope, "-jf --json-schema-file", "", Kind.PATH, "constraint", "the same from a file"),
    ]


def _sampling_flag(field: SamplingField) -> Flag:
    low = field.low if field.flag_low is None else field.flag_low
    return flag(Scope.SAMPLING, field.flag, field.env, _KINDS[field.shape], field.name, field.flag_help, low=low, high=field.high)
