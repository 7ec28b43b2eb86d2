"""The one table of flags: names, environment names, kind, range, and where a value goes. Must never know files, layers or precedence.

Invariant: every name llama-server has is here, so that a flag is either obeyed or refused by name; none is silently ignored.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

INT32_MAX = 2**31 - 1


class Scope(Enum):
    """Where a value goes; the text heads a group of the help."""

    ROUTER = "The router"  # a field of Config
    SOURCE = "The default model (in a preset: this model)"
    MODEL = "How models are loaded"  # a field of LoadOptions
    SAMPLING = "Sampling, where a request says nothing"  # a key of LoadOptions.sampling
    SPECULATION = "Speculative decoding"  # a key of LoadOptions.speculation
    LIFETIME = "When models come and go"  # a field of ModelSpec
    PRESET = "Preset files only"
    NOT_YET = "Not there yet"


class Kind(Enum):
    SWITCH = "switch"
    INT = "a whole number"
    FLOAT = "a number"
    TEXT = "text"
    PATH = "path"
    FOLDER = "folder"
    LIST = "a comma-separated list"
    FILES = "a comma-separated list of files"
    SCALED_FILES = "a comma-separated list of FILE:SCALE"
    JSON = "a JSON object"
    SAMPLERS = "names of samplers, semicolon-separated"
    LETTERS = "letters of samplers"
    GUESSERS = "types of speculative decoding, comma-separated"
    TEXTS = "text; may be given again"
    BIAS = "a token id and a signed bias, as 15043-1; may be given again"
    LAYERS = "auto, all or a whole number"
    THREE_WAY = "on, off or auto"
    MEMORY = "auto or a number of MiB"
    CPU_MASK = "a hexadecimal mask of CPUs"
    CPU_RANGE = "a range of CPUs, as 0-3"


@dataclass(frozen=True, slots=True)
class Flag:
    names: tuple[str, ...]  # with dashes; the last is the one it is listed under
    off_names: tuple[str, ...]  # --no-x of a switch
    env: str | None
    kind: Kind
    scope: Scope
    target: str  # "": checked, then dropped
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    only: tuple[Any, ...] = ()  # what fastrouter does anyway; every other value is not there yet
    help: str = ""

    @property
    def name(self) -> str:
        return self.names[-1].lstrip("-")

    @property
    def is_repeated(self) -> bool:
        """Said once for each value."""
        return self.kind in (Kind.TEXTS, Kind.BIAS)


def _names_of(names: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    words = names.split()
    off = tuple(word for word in words if word.startswith(("--no-", "-no-", "-nocb", "-nkvo", "-nr")) and word != "--no-host")
    return tuple(word for word in words if word not in off), off


def _flag(scope: Scope, names: str, env: str, kind: Kind, target: str, help: str = "", **limits: Any) -> Flag:
    on_names, off_names = _names_of(names)
    full = env if not env or env.startswith(("LLAMA_", "HF_TOKEN")) else f"LLAMA_ARG_{env}"
    return Flag(on_names, off_names, full or None, kind, scope, target, help=help, **limits)


def _router_flags() -> list[Flag]:
    scope = Scope.ROUTER
    return [
        _flag(scope, "--models-dir", "MODELS_DIR", Kind.PATH, "models_dir", "folder of GGUF files, searched with its sub-folders"),
        _flag(scope, "--models-preset", "MODELS_PRESET", Kind.PATH, "models_preset", "INI file of presets"),
        _flag(scope, "--models-max", "MODELS_MAX", Kind.INT, "models_max", "models in memory at a time (4; 0: no limit)", low=0),
        _flag(scope, "--models-memory", "MODELS_MEMORY", Kind.MEMORY, "models_memory_mib", "memory for them (auto; 0: no limit)", low=-1),
        _flag(scope, "--models-memory-device", "MODELS_MEMORY_DEVICE", Kind.MEMORY, "models_memory_device_mib", "the same on GPUs", low=-1),
        _flag(
            scope,
            "--queue-timeout",
            "QUEUE_TIMEOUT",
            Kind.FLOAT,
            "queue_timeout_s",
            "seconds of waiting until 503 (0: none)",
            low=0,
        ),
        _flag(
            scope,
            "--queue-patience",
            "QUEUE_PATIENCE",
            Kind.FLOAT,
            "queue_patience_s",
            "seconds that requests for models in memory may overtake one that waits for its model (1)",
            low=0,
        ),
        _flag(scope, "--models-autoload --no-models-autoload", "MODELS_AUTOLOAD", Kind.SWITCH, "models_autoload", "load what is asked for"),
        _flag(scope, "--watch --no-watch", "WATCH", Kind.SWITCH, "watch", "reload when presets, folders or caches change"),
        _flag(scope, "--offline", "OFFLINE", Kind.SWITCH, "offline", "never use the network"),
        _flag(scope, "-hft --hf-token", "HF_TOKEN", Kind.TEXT, "hf_token", "token for the hub; better given as HF_TOKEN"),
        _flag(scope, "--host", "HOST", Kind.TEXT, "host", "addresses or .sock paths, comma-separated (127.0.0.1)"),
        _flag(scope, "--port", "PORT", Kind.INT, "port", "port (8080; 0: any free one)", low=0, high=65535),
        _flag(scope, "--api-prefix", "API_PREFIX", Kind.TEXT, "api_prefix", "path all routes begin with"),
        _flag(scope, "-to --timeout", "TIMEOUT", Kind.FLOAT, "timeout_s", "seconds to read an answer (10), or to be idle (75)", low=1),
        _flag(scope, "--api-key", "LLAMA_API_KEY", Kind.LIST, "api_keys", "keys, comma-separated; a file is safer: ps shows these"),
        _flag(
            scope, "--api-key-file", "API_KEY_FILE", Kind.PATH, "api_key_file", "a key and its limits a line; read again when it changes"
        ),
        _flag(scope, "--ssl-key-file", "SSL_KEY_FILE", Kind.PATH, "ssl_key_file", "PEM file of the private key: serve HTTPS"),
        _flag(scope, "--ssl-cert-file", "SSL_CERT_FILE", Kind.PATH, "ssl_cert_file", "PEM file of the certificate and its chain"),
        _flag(scope, "--reuse-port", "REUSE_PORT", Kind.SWITCH, "reuse_port", "share the port with other routers"),
        _flag(scope, "--insecure", "", Kind.SWITCH, "insecure", "allow other machines in without a key"),
        _flag(scope, "--cors-origins", "CORS_ORIGINS", Kind.TEXT, "cors_origins", "sites whose pages may ask (localhost)"),
        _flag(scope, "--cors-methods", "CORS_METHODS", Kind.TEXT, "cors_methods", "methods they may use"),
        _flag(scope, "--cors-headers", "CORS_HEADERS", Kind.TEXT, "cors_headers", "headers they may send"),
        _flag(scope, "--cors-credentials --no-cors-credentials", "CORS_CREDENTIALS", Kind.SWITCH, "cors_credentials", "with credentials"),
        _flag(scope, "--slots --no-slots", "ENDPOINT_SLOTS", Kind.SWITCH, "slots_endpoint", "GET /slots (on)"),
        _flag(scope, "--props", "ENDPOINT_PROPS", Kind.SWITCH, "props_endpoint", "POST /props"),
        _flag(scope, "--metrics --no-metrics", "ENDPOINT_METRICS", Kind.SWITCH, "metrics_endpoint", "GET /metrics (on)"),
        _flag(
            scope,
            "--sse-ping-interval",
            "SSE_PING_INTERVAL",
            Kind.FLOAT,
            "sse_ping_interval_s",
            "seconds of silence until a stream gets a comment (3; -1: never)",
            low=-1,
        ),
        _flag(scope, "--poll", "", Kind.INT, "poll", "how long threads spin for work: 0 not at all, 100 about 1 ms (50)", low=0, high=100),
        _flag(scope, "--webui --ui --no-webui --no-ui", "UI", Kind.SWITCH, "ui", "the web page at / (on)"),
        _flag(scope, "--path", "STATIC_PATH", Kind.PATH, "static_path", "folder of files to serve at / instead"),
        _flag(scope, "--webui-config --ui-config", "UI_CONFIG", Kind.JSON, "ui_settings", "defaults of the page's settings"),
        _flag(scope, "--webui-config-file --ui-config-file", "UI_CONFIG_FILE", Kind.PATH, "ui_settings", "a file that holds them"),
        _flag(scope, "--log-file", "LOG_FILE", Kind.PATH, "log_file", "log to a file instead of stderr"),
        _flag(scope, "--log-format", "LOG_FORMAT", Kind.TEXT, "log_format", "text or json", choices=("text", "json")),
        _flag(scope, "--log-jsonl --no-log-jsonl", "LOG_JSONL", Kind.SWITCH, "log_jsonl", "as --log-format json"),
        _flag(scope, "--log-colors", "LOG_COLORS", Kind.THREE_WAY, "log_colors", "on, off or auto: on a terminal, unless NO_COLOR is set"),
        _flag(scope, "--log-timestamps --no-log-timestamps", "LOG_TIMESTAMPS", Kind.SWITCH, "log_timestamps", "lines begin with the time"),
        _flag(scope, "--log-prefix --no-log-prefix", "LOG_PREFIX", Kind.SWITCH, "log_prefix", "warnings and errors say that they are"),
        _flag(scope, "--log-disable", "", Kind.SWITCH, "log_disable", "log nothing"),
        _flag(scope, "--log-requests --no-log-requests", "LOG_REQUESTS", Kind.SWITCH, "log_requests", "a line for each request"),
        _flag(scope, "-lv --log-verbosity --verbosity", "LOG_VERBOSITY", Kind.INT, "verbosity", "0 nothing, 1 errors, 5 all (3)", low=-1),
        _flag(scope, "-v --log-verbose --verbose", "", Kind.SWITCH, "verbose", "log everything"),
        _flag(scope, "--completion-bash", "", Kind.SWITCH, "", "print a script for bash, as `fastrouter completion bash`"),
        _flag(scope, "--shutdown-timeout", "", Kind.FLOAT, "shutdown_timeout_s", "seconds for running requests at the end (10)", low=0),
    ]


def _source_flags() -> list[Flag]:
    scope = Scope.SOURCE
    return [
        _flag(scope, "-m --model", "MODEL", Kind.PATH, "model", "GGUF file"),
        _flag(scope, "-hf -hfr --hf-repo", "HF_REPO", Kind.TEXT, "hf_repo", "user/repo[:quant]; downloaded if it is not in the cache"),
        _flag(scope, "-hff --hf-file", "HF_FILE", Kind.TEXT, "hf_file", "a file of --hf-repo"),
        _flag(
            scope, "--mmproj-auto --no-mmproj --no-mmproj-auto", "MMPROJ_AUTO", Kind.SWITCH, "mmproj_auto", "use the projector beside it"
        ),
        _flag(scope, "-a --alias", "ALIAS", Kind.LIST, "aliases", "other names, comma-separated"),
        _flag(scope, "--tags", "TAGS", Kind.LIST, "tags", "shown in the listing, comma-separated"),
    ]


MAX_GUESSED = 1024  # tokens at a time
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
POOLING_TYPES = ("none", "mean", "cls", "last", "rank")
LOAD_MODES = ("auto", "none", "mmap", "mlock", "mmap+mlock")


def _model_flags() -> list[Flag]:
    scope = Scope.MODEL
    return [
        _flag(scope, "-c --ctx-size", "CTX_SIZE", Kind.INT, "ctx_size", "context in tokens (0: the model's own)", low=0, high=INT32_MAX),
        _flag(
            scope, "-n --predict --n-predict", "N_PREDICT", Kind.INT, "n_predict", "tokens to answer (-1: no limit)", low=-1, high=INT32_MAX
        ),
        _flag(
            scope, "--keep", "", Kind.INT, "n_keep", "tokens of the prompt that a context shift keeps (0; -1: all)", low=-1, high=INT32_MAX
        ),
        _flag(
            scope,
            "--context-shift --no-context-shift",
            "CONTEXT_SHIFT",
            Kind.SWITCH,
            "context_shift",
            "an answer that fills the context forgets a part of it and goes on (off)",
        ),
        _flag(scope, "-np --parallel", "N_PARALLEL", Kind.INT, "parallel", "requests at a time (-1: auto)", low=-1, high=256),
        _flag(scope, "-kvu --kv-unified -no-kvu --no-kv-unified", "KV_UNIFIED", Kind.SWITCH, "kv_unified", "one KV cache for all of them"),
        _flag(scope, "-b --batch-size", "BATCH", Kind.INT, "batch_size", "tokens of a batch (2048)", low=1, high=INT32_MAX),
        _flag(scope, "-ub --ubatch-size", "UBATCH", Kind.INT, "ubatch_size", "tokens computed at once (512)", low=1, high=INT32_MAX),
        _flag(scope, "-t --threads", "THREADS", Kind.INT, "threads", "CPU threads (-1: all cores)", low=-1, high=4096),
        _flag(scope, "-tb --threads-batch", "", Kind.INT, "threads_batch", "CPU threads for prompts (as --threads)", low=-1, high=4096),
        _flag(
            scope,
            "-ngl --gpu-layers --n-gpu-layers",
            "N_GPU_LAYERS",
            Kind.LAYERS,
            "gpu_layers",
            "layers on the GPU: auto, all or N",
            low=-2,
        ),
        _flag(scope, "-fa --flash-attn", "FLASH_ATTN", Kind.THREE_WAY, "flash_attn", "flash attention (auto)"),
        _flag(scope, "-ctk --cache-type-k", "CACHE_TYPE_K", Kind.TEXT, "cache_type_k", "type of the K cache (f16)", choices=CACHE_TYPES),
        _flag(scope, "-ctv --cache-type-v", "CACHE_TYPE_V", Kind.TEXT, "cache_type_v", "type of the V cache (f16)", choices=CACHE_TYPES),
        _flag(scope, "-lm --load-mode", "LOAD_MODE", Kind.TEXT, "load_mode", "how the file is read (auto)", choices=LOAD_MODES),
        _flag(scope, "--mmap --no-mmap", "MMAP", Kind.SWITCH, "mmap", "map the file into memory (on)"),
        _flag(scope, "--mlock --no-mlock", "MLOCK", Kind.SWITCH, "mlock", "keep the model from being swapped out"),
        _flag(scope, "-cb --cont-batching -nocb --no-cont-batching", "CONT_BATCHING", Kind.SWITCH, "cont_batching", "share batches (on)"),
        _flag(scope, "--embeddings --embedding", "EMBEDDINGS", Kind.SWITCH, "embedding", "the model makes embeddings"),
        _flag(scope, "--rerank --reranking", "RERANKING", Kind.SWITCH, "reranking", "the model ranks documents"),
        _flag(scope, "--embd-normalize", "", Kind.INT, "embd_normalize", "norm of embeddings (2; -1: none)", low=-1, high=INT32_MAX),
        _flag(scope, "--pooling", "POOLING", Kind.TEXT, "pooling", "how embeddings are pooled", choices=POOLING_TYPES),
        _flag(scope, "--jinja --no-jinja", "JINJA", Kind.SWITCH, "jinja", "use the model's own chat template (on)"),
        _flag(scope, "--chat-template", "CHAT_TEMPLATE", Kind.TEXT, "chat_template", "a template's text or a built-in name"),
        _flag(scope, "--chat-template-file", "CHAT_TEMPLATE_FILE", Kind.PATH, "chat_template", "a file that holds a template"),
        _flag(scope, "--chat-template-kwargs", "CHAT_TEMPLATE_KWARGS", Kind.JSON, "chat_template_kwargs", "variables for the template"),
        _flag(scope, "--lora", "", Kind.FILES, "lora", "LoRA adapters, comma-separated; may be given again"),
        _flag(scope, "--lora-scaled", "", Kind.SCALED_FILES, "lora", "LoRA adapters with their scales, FILE:SCALE"),
        _flag(scope, "--lora-init-without-apply", "", Kind.SWITCH, "lora_init_without_apply", "scales are 0 until POST /lora-adapters"),
        *_core_flags(),
        _flag(scope, "-r --reverse-prompt", "", Kind.TEXTS, "stop", "text that ends an answer, where a request names none"),
        _flag(scope, "-sp --special", "", Kind.SWITCH, "special", "answers show special tokens"),
        _flag(scope, "--spm-infill", "", Kind.SWITCH, "spm_infill", "/infill: the suffix before the prefix, as some models want it"),
        _flag(scope, "--warmup --no-warmup", "", Kind.SWITCH, "warmup", "decode once after loading (off)"),
    ]


def _core_flags() -> list[Flag]:
    scope = Scope.MODEL
    found = []
    for end, short, of, said in (("", "", "", ""), ("-batch", "b", "_batch", " for prompts (as without -batch)")):
        found += [
            _flag(scope, f"-C{short} --cpu-mask{end}", "", Kind.CPU_MASK, f"cpu_mask{of}", f"CPUs to run on, as f0{said}"),
            _flag(scope, f"-Cr{short} --cpu-range{end}", "", Kind.CPU_RANGE, f"cpu_range{of}", f"the same as a range, as 0-3{said}"),
            _flag(scope, f"--cpu-strict{end}", "", Kind.INT, f"cpu_strict{of}", f"1: each thread stays on one CPU{said}", low=0, high=1),
            _flag(scope, f"--prio{end}", "", Kind.INT, f"prio{of}", f"-1 low, 1 medium, 2 high, 3 real time{said}", low=-1, high=3),
        ]
    return found


def _cache_flags() -> list[Flag]:
    """Of prompts, beside the KV cache's own flags."""
    scope = Scope.MODEL
    return [
        _flag(scope, "--cache-prompt --no-cache-prompt", "CACHE_PROMPT", Kind.SWITCH, "cache_prompt", "reuse starts of prompts (on)"),
        _flag(
            scope,
            "--cache-reuse",
            "CACHE_REUSE",
            Kind.INT,
            "cache_reuse",
            "tokens in a run that may move (0: none does)",
            high=INT32_MAX,
            low=0,
        ),
        _flag(
            scope,
            "-cram --cache-ram",
            "CACHE_RAM",
            Kind.INT,
            "cache_ram_mib",
            "MiB for prompts that have lost their slot (8192, or a quarter of what is free; -1: no limit, 0: off)",
            low=-1,
            high=INT32_MAX,
        ),
        _flag(
            scope,
            "--cache-idle-slots --no-cache-idle-slots",
            "CACHE_IDLE_SLOTS",
            Kind.SWITCH,
            "cache_idle_slots",
            "move what idle slots hold there when a request begins (off)",
        ),
        _flag(
            scope,
            "-sps --slot-prompt-similarity",
            "",
            Kind.FLOAT,
            "slot_prompt_similarity",
            "part of a prompt that a slot must hold to be taken for it (0.1; 0: the least recently used)",
            low=0,
            high=1,
        ),
        _flag(
            scope,
            "-ctxcp --swa-checkpoints --ctx-checkpoints",
            "CTX_CHECKPOINTS",
            Kind.INT,
            "ctx_checkpoints",
            "states kept of a slot whose memory is a window or recurrent (8; 0: none)",
            low=0,
            high=1024,
        ),
        _flag(
            scope,
            "-cms --checkpoint-min-step",
            "CHECKPOINT_MIN_SPACING_NT",
            Kind.INT,
            "checkpoint_min_step",
            "tokens between them (256)",
            low=0,
            high=INT32_MAX,
        ),
        _flag(scope, "--slot-save-path", "", Kind.FOLDER, "slot_save_path", "where POST /slots/{id} keeps files"),
        _flag(scope, "--swa-full", "SWA_FULL", Kind.SWITCH, "swa_full", "full-size cache for sliding windows"),
    ]


def _sampling_flags() -> list[Flag]:
    scope = Scope.SAMPLING
    return [
        _flag(scope, "--temperature --temp", "TEMPERATURE", Kind.FLOAT, "temperature", "temperature (0.8)", low=0),
        _flag(scope, "-s --seed", "", Kind.INT, "seed", "seed (-1: random)", low=-1, high=2**32 - 1),
        _flag(scope, "--top-k", "TOP_K", Kind.INT, "top_k", "best k tokens (40; 0: off)", low=-1, high=INT32_MAX),
        _flag(scope, "--top-p", "TOP_P", Kind.FLOAT, "top_p", "nucleus (0.95; 1: off)", low=0, high=1),
        _flag(scope, "--min-p", "MIN_P", Kind.FLOAT, "min_p", "least probability beside the best (0.05; 0: off)", low=0, high=1),
        _flag(scope, "--repeat-last-n", "", Kind.INT, "repeat_last_n", "tokens the penalties look at (64)", low=-1, high=INT32_MAX),
        _flag(scope, "--repeat-penalty", "REPEAT_PENALTY", Kind.FLOAT, "repeat_penalty", "(1: off)", low=1e-3, high=1e3),
        _flag(scope, "--presence-penalty", "PRESENCE_PENALTY", Kind.FLOAT, "presence_penalty", "(0: off)", low=-1e4, high=1e4),
        _flag(scope, "--frequency-penalty", "FREQUENCY_PENALTY", Kind.FLOAT, "frequency_penalty", "(0: off)", low=-1e4, high=1e4),
        _flag(scope, "--ignore-eos", "", Kind.SWITCH, "ignore_eos", "go on after the end token"),
        _flag(scope, "-bs --backend-sampling", "BACKEND_SAMPLING", Kind.SWITCH, "", "accepted; there is one way to sample"),
        _flag(scope, "--samplers", "", Kind.SAMPLERS, "samplers", "order, as penalties;top_k;temperature"),
        _flag(scope, "--sampler-seq --sampling-seq", "", Kind.LETTERS, "samplers", "the same in letters (edskypmxt)"),
        *_chain_flags(),
        _flag(scope, "--grammar", "", Kind.TEXT, "constraint", "GBNF that answers follow"),
        _flag(scope, "--grammar-file", "", Kind.PATH, "constraint", "a file that holds it"),
        _flag(scope, "-j --json-schema", "", Kind.JSON, "constraint", "JSON schema that answers follow"),
        _flag(scope, "-jf --json-schema-file", "", Kind.PATH, "constraint", "a file that holds it"),
    ]


def _chain_flags() -> list[Flag]:
    numbers = [
        ("--top-nsigma --top-n-sigma", "top_n_sigma", "standard deviations below the best (-1: off)", -1e4, 1e4),
        ("--typical --typical-p", "typical_p", "locally typical (1: off)", 0, 1e4),
        ("--xtc-probability", "xtc_probability", "chance that the best choices are left out (0: off)", 0, 1),
        ("--xtc-threshold", "xtc_threshold", "probability that makes a best choice (0.1; more than 0.5: off)", 0, 1),
        ("--dynatemp-range", "dynatemp_range", "how far the temperature may move (0: off)", -1e4, 1e4),
        ("--dynatemp-exp", "dynatemp_exponent", "how it follows the entropy (1)", -1e4, 1e4),
        ("--dry-multiplier", "dry_multiplier", "DRY, against repetitions of several tokens (0: off)", -1e4, 1e4),
        ("--dry-base", "dry_base", "DRY's base (1.75)", 1, 1e4),
        ("--mirostat-lr", "mirostat_eta", "Mirostat's learning rate (0.1)", 0, 1e4),
        ("--mirostat-ent", "mirostat_tau", "Mirostat's target (5)", 0, 1e4),
    ]
    counts = [
        ("--dry-allowed-length", "dry_allowed_length", "repeated tokens that DRY allows (2)", 0, INT32_MAX),
        ("--dry-penalty-last-n", "dry_penalty_last_n", "tokens DRY looks at (64; -1: all)", -1, INT32_MAX),
        ("--mirostat", "mirostat", "Mirostat 1 or 2 instead of other samplers (0: off)", 0, 2),
    ]
    made = [_flag(Scope.SAMPLING, name, "", Kind.FLOAT, into, help, low=low, high=high) for name, into, help, low, high in numbers]
    made += [_flag(Scope.SAMPLING, name, "", Kind.INT, into, help, low=low, high=high) for name, into, help, low, high in counts]
    breaker = "text that ends a repetition (newline, colon, quote, star; none: nothing does)"
    made.append(_flag(Scope.SAMPLING, "--dry-sequence-breaker", "", Kind.TEXTS, "dry_sequence_breakers", breaker))
    made.append(_flag(Scope.SAMPLING, "-l --logit-bias", "", Kind.BIAS, "logit_bias", "TOKEN_ID(+/-)BIAS: more or less of a token"))
    return made


_DRAFT_NGL = "--spec-draft-ngl -ngld --gpu-layers-draft --n-gpu-layers-draft"


def _speculation_flags() -> list[Flag]:
    scope = Scope.SPECULATION
    draft = [
        ("--spec-draft-n-max", "SPEC_DRAFT_N_MAX", "n_max", "tokens the draft model guesses at a time (3)", 0, MAX_GUESSED),
        ("--spec-draft-n-min", "SPEC_DRAFT_N_MIN", "n_min", "shorter guesses are not tried (0)", 0, MAX_GUESSED),
        ("--spec-draft-threads -td --threads-draft", "", "draft_threads", "CPU threads of the draft model (as --threads)", -1, 4096),
        ("--spec-draft-threads-batch -tbd --threads-batch-draft", "", "draft_threads_batch", "the same for prompts", -1, 4096),
    ]
    made = [
        _flag(scope, "--spec-type", "SPEC_TYPE", Kind.GUESSERS, "types", "how tokens are guessed: ngram-simple, draft-simple ... (none)"),
        _flag(scope, "--spec-default", "", Kind.SWITCH, "spec_default", "as --spec-type ngram-mod"),
        _flag(scope, "--spec-draft-model -md --model-draft", "SPEC_DRAFT_MODEL", Kind.PATH, "draft_model", "GGUF file of a smaller model"),
        _flag(scope, "--spec-draft-p-min --draft-p-min", "SPEC_DRAFT_P_MIN", Kind.FLOAT, "p_min", "how sure it must be (0)", low=0, high=1),
        _flag(scope, _DRAFT_NGL, "N_GPU_LAYERS_DRAFT", Kind.LAYERS, "draft_gpu_layers", "its layers on the GPU: auto, all or N", low=-2),
    ]
    made += [_flag(scope, names, env, Kind.INT, into, help, low=low, high=high) for names, env, into, help, low, high in draft]
    for letter in "kv":
        names, env = f"--spec-draft-type-{letter} -ct{letter}d --cache-type-{letter}-draft", f"SPEC_DRAFT_CACHE_TYPE_{letter.upper()}"
        into, help = f"draft_cache_type_{letter}", f"type of its {letter.upper()} cache (f16)"
        made.append(_flag(scope, names, env, Kind.TEXT, into, help, choices=CACHE_TYPES))
    for name in ("simple", "map-k", "map-k4v"):
        made += [
            _lookup_flag(f"{name}-size-n", "tokens that must be the same (12)", 1),
            _lookup_flag(f"{name}-size-m", "tokens guessed at most (48)", 1),
            _lookup_flag(f"{name}-min-hits", "how often they must have been there (1)", 1),
        ]
    made.append(_lookup_flag("mod-n-match", "tokens that must be the same (24)", 1))
    made.append(_lookup_flag("mod-n-max", "tokens guessed at most (64)", 0))
    made.append(_lookup_flag("mod-n-min", "accepted; the length follows what holds", 0, is_dropped=True))
    return made


def _lookup_flag(name: str, help: str, low: int, *, is_dropped: bool = False) -> Flag:
    target = "" if is_dropped else f"ngram_{name.replace('-', '_')}"
    return _flag(Scope.SPECULATION, f"--spec-ngram-{name}", "", Kind.INT, target, help, low=low, high=MAX_GUESSED)


def _lifetime_flags() -> list[Flag]:
    scope = Scope.LIFETIME
    return [
        _flag(scope, "--ttl", "TTL", Kind.FLOAT, "ttl_s", "seconds without a request until a model is unloaded (-1: never)", low=-1),
        _flag(scope, "--sleep-idle-seconds", "SLEEP_IDLE_SECONDS", Kind.INT, "sleep_idle_s", "seconds until it sleeps (-1: never)", low=-1),
        _flag(scope, "--min-resident", "MIN_RESIDENT", Kind.FLOAT, "min_resident_s", "seconds a loaded model is left alone (0)", low=0),
        _flag(scope, "--load-timeout", "LOAD_TIMEOUT", Kind.FLOAT, "load_timeout_s", "seconds a load may take (600; 0: any)", low=0),
        _flag(scope, "--stop-timeout", "STOP_TIMEOUT", Kind.FLOAT, "stop_timeout_s", "seconds until an unload becomes a kill (10)", low=0),
    ]


def _preset_flags() -> list[Flag]:
    scope = Scope.PRESET
    return [
        _flag(scope, "load-on-startup", "", Kind.SWITCH, "load_on_startup", "load it when the router starts"),
        _flag(scope, "pin", "", Kind.SWITCH, "is_pinned", "never evict it"),
        _flag(scope, "base", "", Kind.TEXT, "base", "the model whose process it shares; it may differ in what a request can say"),
        _flag(scope, "system-prompt", "", Kind.TEXT, "system", "system message of chats that bring none"),
        _flag(scope, "system-prompt-file", "", Kind.PATH, "system", "a file that holds one"),
        _flag(scope, "dedup-cache-models", "", Kind.SWITCH, "hides_cached", "do not list the cached model that a section uses"),
        _flag(scope, "version", "", Kind.TEXT, "", "accepted"),
    ]


# What fastrouter does anyway is accepted, so that command lines can be kept: (names, environment, kind, accepted values).
_ONE_WAY: tuple[tuple[str, str, Kind, tuple[Any, ...]], ...] = (
    ("--perf --no-perf", "PERF", Kind.SWITCH, (False,)),
    ("--repack --no-repack -nr", "REPACK", Kind.SWITCH, (True,)),
    ("-kvo --kv-offload -nkvo --no-kv-offload", "KV_OFFLOAD", Kind.SWITCH, (True,)),
    ("--op-offload --no-op-offload", "", Kind.SWITCH, (True,)),
    ("-fit --fit", "FIT", Kind.TEXT, ("off",)),
    ("-sm --split-mode", "SPLIT_MODE", Kind.TEXT, ("layer",)),
    ("--spec-draft-sampling", "SPEC_DRAFT_SAMPLING", Kind.TEXT, ("greedy",)),
    ("--spec-draft-backend-sampling --no-spec-draft-backend-sampling", "SPEC_DRAFT_BACKEND_SAMPLING", Kind.SWITCH, (True, False)),
    ("--ui-mcp-proxy --webui-mcp-proxy --no-ui-mcp-proxy --no-webui-mcp-proxy", "UI_MCP_PROXY", Kind.SWITCH, (False,)),
    ("-ag --agent -no-ag --no-agent", "AGENT", Kind.SWITCH, (False,)),
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
--kv-unified-per-slot KV_UNIFIED_PER_SLOT | -mm --mmproj MMPROJ |
-mmu --mmproj-url MMPROJ_URL | --mmproj-offload --no-mmproj-offload MMPROJ_OFFLOAD | -mmdev --mmproj-device |
--image-min-tokens IMAGE_MIN_TOKENS | --image-max-tokens IMAGE_MAX_TOKENS | --mtmd-batch-max-tokens MTMD_BATCH_MAX_TOKENS |
--video-fps VIDEO_FPS | --video-timestamp-interval VIDEO_TIMESTAMP_INTERVAL | --video-ffmpeg-dir VIDEO_FFMPEG_DIR |
--tools TOOLS | --tools-runtime TOOLS_RUNTIME |
--mcp-servers-config MCP_SERVERS_CONFIG | --mcp-servers-json MCP_SERVERS_JSON | --threads-http THREADS_HTTP |
--media-path | --reasoning-format THINK | -rea --reasoning REASONING | --reasoning-effort REASONING_EFFORT |
--reasoning-budget THINK_BUDGET | --reasoning-budget-message THINK_BUDGET_MESSAGE |
--reasoning-preserve --no-reasoning-preserve REASONING_PRESERVE | --skip-chat-parsing --no-skip-chat-parsing SKIP_CHAT_PARSING |
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


TABLE = [*_router_flags(), *_source_flags(), *_model_flags(), *_cache_flags(), *_sampling_flags()]
TABLE += [*_speculation_flags(), *_lifetime_flags(), *_preset_flags()]
TABLE += [_flag(Scope.NOT_YET, _names, _env, _kind, "", only=_only) for _names, _env, _kind, _only in _ONE_WAY]
for _line in _NOT_YET.split("|"):
    _on, _, _env = _line.strip().rpartition(" ")
    TABLE.append(_flag(Scope.NOT_YET, _line if _env.startswith("-") else _on, "" if _env.startswith("-") else _env, Kind.TEXT, ""))
