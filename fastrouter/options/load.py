"""How a model is loaded: the options of a worker. Plain data."""

from dataclasses import dataclass, field, replace
from typing import Any

QUIET = 3  # verbosity: events, and no more
REASONING_FORMATS = ("none", "auto", "deepseek", "deepseek-legacy")
AUTO_SLOTS = 4  # of a model with `parallel` auto

_OF_DRAFT_THREADS = tuple(f"{name}{of}" for name in ("cpu_mask", "cpu_range", "cpu_strict", "prio") for of in ("", "_batch"))


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is loaded. Sizes are in tokens; 0 or None means llama.cpp's default; the names are those of llama-server's flags."""

    ctx_size: int = 0  # 0: the model's training context
    parallel: int = -1  # slots; -1: auto = 4 with a unified KV cache
    has_full_context: bool = False  # --ctx-size 0 was asked for: nothing makes it shorter
    kv_unified_per_slot: int = 0  # what one request may use, and without `ctx_size` the size of each slot; 0: no limit
    kv_unified: bool | None = None  # None: unified when parallel is auto
    batch_size: int = 2048
    ubatch_size: int = 512
    threads: int = -1  # for decoding; -1: all cores
    threads_batch: int = -1  # for prompts; -1: like `threads`
    cpu_mask: str | None = None  # hexadecimal; the CPUs of mask and range together; without both: all
    cpu_range: str | None = None  # "0-3"; either end may be left out
    cpu_strict: int = 0  # 1: each thread stays on one of them
    prio: int = 0  # of the threads: -1 low, 0 normal, 1 medium, 2 high, 3 real time
    cpu_mask_batch: str | None = None  # for prompts; None, here and below: as for decoding
    cpu_range_batch: str | None = None
    cpu_strict_batch: int | None = None
    prio_batch: int | None = None
    fit: str = "off"  # on or auto, which is the flag's default: what is not set is chosen so that it fits into memory
    fit_target: list[int] = field(default_factory=lambda: [1024])  # MiB that stay free, on each device (one number: on all of them)
    fit_ctx: int = 4096  # `fit` makes the context of a request not shorter than this
    keeps_cache_types: bool = False  # they were asked for: `fit` does not change them
    gpu_layers: int = -1  # -1: all that fit
    rpc: list[str] = field(default_factory=list)  # HOST:PORT of RPC servers, whose devices come before all others
    devices: list[str] | None = None  # names; ["none"]: only the CPU; None: all
    split_mode: str = "layer"  # none | layer | row | tensor
    tensor_split: list[float] = field(default_factory=list)  # proportions of the devices; none: by their free memory
    main_gpu: int = 0
    override_tensor: list[list[str]] = field(
        default_factory=list
    )  # [[regular expression, buffer type], ...]: the first that matches counts
    cpu_moe: bool = False  # experts stay in the host's memory
    n_cpu_moe: int = 0  # those of the first layers
    n_cpu_ffn: int = 0  # dense FFN weights of the first layers, likewise
    kv_offload: bool = True
    op_offload: bool = True
    repack: bool = True
    no_host: bool = False
    numa: str | None = None  # distribute | isolate | numactl
    check_tensors: bool = False
    lazy_mode: str = "auto"  # on | auto | off
    override_kv: list[list[Any]] = field(default_factory=list)  # [[key, int | float | bool | str, value], ...]
    rope_scaling: str | None = None  # none | linear | yarn; None, here and below: the model's own
    rope_scale: float = 0.0  # 0: the model's own; `rope_freq_scale`, its reciprocal, wins
    rope_freq_scale: float = 0.0
    rope_freq_base: float = 0.0
    yarn_orig_ctx: int = 0
    yarn_ext_factor: float = -1.0
    yarn_attn_factor: float = -1.0
    yarn_beta_slow: float = -1.0
    yarn_beta_fast: float = -1.0
    control_vectors: list[list[Any]] = field(default_factory=list)  # [[path, scale], ...]: their sum is added to the layers' outputs
    control_vector_layers: list[int] | None = None  # [first, last]; None: all
    flash_attn: str = "auto"  # on | off | auto
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    mmap: bool = True
    mlock: bool = False
    direct_io: bool = False  # without mmap only
    embedding: bool = False  # the context computes embeddings, and no text
    reranking: bool = False
    pooling: str | None = None  # none | mean | cls | last | rank
    embd_normalize: int = 2  # -1 none, 0 largest value to int16, 1 taxicab, 2 euclidean, more: p-norm
    chat_template: str | None = None  # the text of a template, or a built-in name
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    jinja: bool = True
    skip_chat_parsing: bool = False  # thoughts and tool calls stay in the text
    hold_tool_calls: bool = False  # streams get a tool call when it is complete, not as it comes
    reasoning: str = "auto"  # on | off | auto: whether templates are asked for thoughts; auto: as on, where a template knows them
    reasoning_format: str = "auto"  # as a request's, where it says nothing
    reasoning_effort: str = "default"  # of templates that know it; default: the template's own
    reasoning_preserve: bool = True  # templates that can show the thoughts of earlier turns do
    reasoning_budget: int = -1  # tokens of a thought; -1: no limit
    reasoning_budget_message: str = ""  # its end when the budget has ended it
    cont_batching: bool = True
    warmup: bool = False  # llama-server decodes once after a load; fastrouter does not, so that the first user need not wait for it
    sampling: dict[str, Any] = field(default_factory=dict)  # defaults of presets and flags, keys like those of Generate.sampling
    constraint: dict[str, str] | None = None  # the form of answers, like Generate.constraint
    json_whitespace: str = "compact"  # between the tokens of JSON that follows a schema, unless a request sets it: compact | free
    stop: list[str] = field(default_factory=list)  # of requests without any
    prefill_assistant: bool = True  # unless a request says it, an answer continues the assistant's message at the end of a chat
    log_prompts_dir: str | None = None  # folder for a file of each prompt
    special: bool = False  # answers show special tokens as their text
    n_predict: int = -1  # default max_tokens
    cache_prompt: bool = True  # unless a request sets it
    cache_reuse: int = 0  # least number of tokens in a run that is moved to its place in another prompt; 0: off
    cache_ram_mib: int | None = None  # for prompts without a slot; None: what the machine can spare, -1: no limit, 0: off
    cache_idle_slots: bool = False  # prompts of idle slots go there when a request begins
    slot_prompt_similarity: float = 0.1
    swa_full: bool = False
    mmproj: str | None = None  # the file of its projector
    mmproj_offload: bool = True  # the projector may use a GPU
    mmproj_device: list[str] | None = None  # the name of its device; ["none"]: the CPU; None: llama.cpp chooses
    mtmd_batch_max_tokens: int = 1024  # of pictures that are computed together
    image_min_tokens: int = -1  # of a picture, for projectors that take pictures of any size; -1: as the projector says
    image_max_tokens: int = -1
    ctx_checkpoints: int = 8  # stored states of a slot, for memories that cannot go back to an earlier token; 0: none
    checkpoint_min_step: int = 256  # tokens between them
    slot_save_path: str | None = None  # folder for files of slots; None: there are no such files
    spm_infill: bool = False  # /infill: the text after the gap comes first
    n_keep: int = 0  # tokens of a prompt that stay when the context shifts; -1: all
    context_shift: bool = False  # a sequence that fills its context drops a part of it and continues
    lora: list[list[Any]] = field(default_factory=list)  # [[path, scale], ...]: adapters loaded with the model; an id is an index here
    lora_init_without_apply: bool = False  # all scales are 0 at the start
    speculation: dict[str, Any] = field(default_factory=dict)  # types, n_max, n_min, p_min, draft_model, draft_*, ngram_*_size_n ...

    @property
    def num_slots(self) -> int:
        return self.parallel if self.parallel > 0 else AUTO_SLOTS

    @property
    def num_caches(self) -> int:
        """Parts of the KV cache that cannot lend each other room."""
        return 1 if self.is_unified else self.num_slots

    def num_cells(self, n_ctx_train: int) -> int:
        """Tokens of the KV cache: as asked for, but not more than the slots can use. `n_ctx_train` 0: unknown."""
        asked = self.ctx_size
        if asked <= 0 and not self.has_full_context:
            asked = self.num_slots * self.kv_unified_per_slot
        if asked <= 0:
            return n_ctx_train * (self.num_caches if self.fit != "off" and not self.embedding else 1)
        return min(asked, self.num_slots * n_ctx_train) if n_ctx_train and not self.embedding else asked

    def num_cells_of_slot(self, n_ctx_train: int) -> int:
        """What one request may fill: at most the training context of the model, as in llama-server."""
        num_cells = self.num_cells(n_ctx_train) // (1 if self.is_unified else self.num_slots)
        return min(num_cells, n_ctx_train or num_cells, self.kv_unified_per_slot or num_cells)

    @property
    def of_draft(self) -> "LoadOptions":
        """How the draft model is loaded."""
        asked = self.speculation
        threads = asked.get("draft_threads", self.threads)
        return replace(
            self,
            threads=threads,
            threads_batch=asked.get("draft_threads_batch", threads if "draft_threads" in asked else self.threads_batch),
            fit="off",
            gpu_layers=asked.get("draft_gpu_layers", -1),
            devices=asked.get("draft_devices", self.devices),
            override_tensor=asked.get("draft_override_tensor", []),
            cpu_moe=asked.get("draft_cpu_moe", False),
            n_cpu_moe=asked.get("draft_n_cpu_moe", 0),
            n_cpu_ffn=0,
            override_kv=[],
            control_vectors=[],
            cache_type_k=asked.get("draft_cache_type_k", "f16"),
            cache_type_v=asked.get("draft_cache_type_v", "f16"),
            embedding=False,
            lora=[],
            speculation={},
            **{name: asked[f"draft_{name}"] for name in _OF_DRAFT_THREADS if f"draft_{name}" in asked},
        )

    @property
    def is_unified(self) -> bool:
        """One KV cache for all slots."""
        return self.parallel < 1 if self.kv_unified is None else self.kv_unified
