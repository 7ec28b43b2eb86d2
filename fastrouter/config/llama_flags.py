"""Flags that llama.cpp itself obeys: positions (RoPE), metadata, control vectors, and where a model computes. Only a table."""

from fastrouter.config.flag import Flag, Kind, Scope, flag
from fastrouter.options.limits import INT32_MAX

ROPE_SCALINGS = ("none", "linear", "yarn")
LAZY_MODES = ("on", "auto", "off")
NUMA_STRATEGIES = ("distribute", "isolate", "numactl")
SPLIT_MODES = ("none", "layer", "row", "tensor")


def llama_flags() -> list[Flag]:
    return [*_position_flags(), *_file_flags(), *_fit_flags(), *_placement_flags()]


def _position_flags() -> list[Flag]:
    scope = Scope.MODEL
    floats = [
        ("--rope-scale", "ROPE_SCALE", "rope_scale", "the context is this many times the training context; same as --rope-freq-scale 1/N"),
        ("--rope-freq-base", "ROPE_FREQ_BASE", "rope_freq_base", "RoPE base frequency (the model's own)"),
        ("--rope-freq-scale", "ROPE_FREQ_SCALE", "rope_freq_scale", "RoPE frequency factor (the model's own)"),
    ]
    of_yarn = [
        ("--yarn-ext-factor", "YARN_EXT_FACTOR", "yarn_ext_factor", "YaRN: mix of extrapolation, 0 is full interpolation"),
        ("--yarn-attn-factor", "YARN_ATTN_FACTOR", "yarn_attn_factor", "YaRN: scale of attention"),
        ("--yarn-beta-slow", "YARN_BETA_SLOW", "yarn_beta_slow", "YaRN: high correction dimension"),
        ("--yarn-beta-fast", "YARN_BETA_FAST", "yarn_beta_fast", "YaRN: low correction dimension"),
    ]
    return [
        flag(
            scope,
            "--rope-scaling",
            "ROPE_SCALING_TYPE",
            Kind.TEXT,
            "rope_scaling",
            "how RoPE is scaled (the model's)",
            choices=ROPE_SCALINGS,
        ),
        *(flag(scope, name, env, Kind.FLOAT, into, help, low=0, high=1e12) for name, env, into, help in floats),
        flag(
            scope,
            "--yarn-orig-ctx",
            "YARN_ORIG_CTX",
            Kind.INT,
            "yarn_orig_ctx",
            "YaRN: the training context (0: the model's)",
            low=0,
            high=INT32_MAX,
        ),
        *(flag(scope, name, env, Kind.FLOAT, into, f"{help} (-1: the model's)", low=-1, high=1e12) for name, env, into, help in of_yarn),
    ]


def _file_flags() -> list[Flag]:
    scope = Scope.MODEL
    return [
        flag(scope, "--override-kv", "", Kind.METADATA, "override_kv", "other values of the file's metadata, comma-separated"),
        flag(scope, "--check-tensors", "", Kind.SWITCH, "check_tensors", "refuse a file that has invalid numbers in its weights (off)"),
        flag(
            scope,
            "-lzm --lazy-mode",
            "LAZY_MODE",
            Kind.TEXT,
            "lazy_mode",
            "read some tensors when they are needed (auto: those above 4 GiB)",
            choices=LAZY_MODES,
        ),
        flag(scope, "--control-vector", "", Kind.FILES, "control_vectors", "control vectors, comma-separated; may be given again"),
        flag(scope, "--control-vector-scaled", "", Kind.SCALED_FILES, "control_vectors", "the same with scales, FILE:SCALE"),
        flag(scope, "--control-vector-layer-range", "", Kind.LAYER_RANGE, "control_vector_layers", "their layers (all)"),
    ]


def _placement_flags() -> list[Flag]:
    scope = Scope.MODEL
    return [
        flag(scope, "--rpc", "RPC", Kind.SERVERS, "rpc", "RPC servers whose devices this model may use, HOST:PORT, comma-separated"),
        flag(scope, "-dev --device", "DEVICE", Kind.DEVICES, "devices", "devices of this model (all of them); none: only the CPU"),
        flag(scope, "-sm --split-mode", "SPLIT_MODE", Kind.TEXT, "split_mode", "how devices share a model (layer)", choices=SPLIT_MODES),
        flag(scope, "-ts --tensor-split", "TENSOR_SPLIT", Kind.PROPORTIONS, "tensor_split", "what each device gets, e.g. 3,1"),
        flag(scope, "-mg --main-gpu", "MAIN_GPU", Kind.INT, "main_gpu", "the device with --split-mode none (0)", low=0, high=255),
        flag(scope, "-ot --override-tensor", "OVERRIDE_TENSOR", Kind.BUFFERS, "override_tensor", "where tensors are, by their names"),
        flag(scope, "-cmoe --cpu-moe", "CPU_MOE", Kind.SWITCH, "cpu_moe", "all experts stay in the memory of the CPU (off)"),
        flag(scope, "-ncmoe --n-cpu-moe", "N_CPU_MOE", Kind.INT, "n_cpu_moe", "the same for the first N layers", low=0, high=4096),
        flag(scope, "-ncffn --n-cpu-ffn", "N_CPU_FFN", Kind.INT, "n_cpu_ffn", "the same for dense FFN weights", low=0, high=4096),
        flag(
            scope, "-kvo --kv-offload -nkvo --no-kv-offload", "KV_OFFLOAD", Kind.SWITCH, "kv_offload", "the KV cache is on the device (on)"
        ),
        flag(scope, "--op-offload --no-op-offload", "", Kind.SWITCH, "op_offload", "devices also compute with the CPU's tensors (on)"),
        flag(scope, "--repack --no-repack -nr", "REPACK", Kind.SWITCH, "repack", "store weights in the order that is quickest here (on)"),
        flag(scope, "--no-host", "NO_HOST", Kind.SWITCH, "no_host", "no buffers of the host, so that weights can be repacked (off)"),
        flag(scope, "--numa", "NUMA", Kind.TEXT, "numa", "for machines with several memory nodes", choices=NUMA_STRATEGIES),
    ]


def _fit_flags() -> list[Flag]:
    scope = Scope.MODEL
    return [
        flag(scope, "-fit --fit", "FIT", Kind.THREE_WAY, "fit", "choose context and layers, if they are not set, so that all fits (on)"),
        flag(scope, "-fitt --fit-target", "FIT_TARGET", Kind.SIZES, "fit_target", "MiB that --fit leaves free, on each device (1024)"),
        flag(scope, "-fitc --fit-ctx", "FIT_CTX", Kind.INT, "fit_ctx", "least context that --fit chooses (4096)", low=0, high=INT32_MAX),
    ]
