"""What crosses between router and worker over the wire: frozen dataclasses, JSON fields only, no pickle.

Tokens do not travel here: they ride the ring (`_core.TokenRing`) as records.
"""

from dataclasses import dataclass, field, replace
from typing import Any, get_args

QUIET = 3  # verbosity: what happens, and no more
DECODING_CALLS = ("embed", "rerank")  # they are computed by the model, and take as long as that takes
SLOT_CALLS = ("slot_save", "slot_restore", "slot_erase")  # they wait until the slot is idle
AUTO_SLOTS = 4  # of a model whose `parallel` is auto


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is loaded. Sizes in tokens; 0 or None means "llama.cpp's default"; names follow llama-server's flags."""

    ctx_size: int = 0  # 0: the model's training context
    parallel: int = -1  # slots; -1: auto = 4 with a unified KV cache
    kv_unified: bool | None = None  # None: unified when parallel is auto
    batch_size: int = 2048
    ubatch_size: int = 512
    threads: int = -1  # decode; -1: all cores
    threads_batch: int = -1  # prefill; -1: as `threads`
    cpu_mask: str | None = None  # hexadecimal; the CPUs of mask and range together; neither: all
    cpu_range: str | None = None  # "0-3", either end may be left out
    cpu_strict: int = 0  # 1: each thread stays on one of them
    prio: int = 0  # of the threads: -1 low, 0 normal, 1 medium, 2 high, 3 real time
    cpu_mask_batch: str | None = None  # prefill; None, here and below: as decode
    cpu_range_batch: str | None = None
    cpu_strict_batch: int | None = None
    prio_batch: int | None = None
    gpu_layers: int = -1  # -1: all that fit
    flash_attn: str = "auto"  # on | off | auto
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    mmap: bool = True
    mlock: bool = False
    embedding: bool = False  # the context makes vectors, and no text
    reranking: bool = False
    pooling: str | None = None  # none | mean | cls | last | rank
    embd_normalize: int = 2  # -1 none, 0 largest value to int16, 1 taxicab, 2 euclidean, more: p-norm
    chat_template: str | None = None  # text of a template, or a built-in name
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    jinja: bool = True
    cont_batching: bool = True
    warmup: bool = False  # llama-server decodes once after load; fastrouter does not make the first user wait for it
    sampling: dict[str, Any] = field(default_factory=dict)  # preset/flag defaults, keys as in Generate.sampling
    constraint: dict[str, str] | None = None  # what answers must look like, as in Generate
    json_whitespace: str = "compact"  # between the tokens of JSON that follows a schema, where a request does not say: compact | free
    stop: list[str] = field(default_factory=list)  # of requests that name none
    special: bool = False  # answers show special tokens as their text
    n_predict: int = -1  # default max_tokens
    cache_prompt: bool = True  # where a request does not say
    cache_reuse: int = 0  # least number of tokens in a run that is moved to where a prompt has it; 0: none is
    cache_ram_mib: int | None = None  # for what slots held; None: what the machine can spare, -1: no limit, 0: nothing is kept
    cache_idle_slots: bool = False  # what idle slots hold goes there when a request begins
    slot_prompt_similarity: float = 0.1
    swa_full: bool = False
    ctx_checkpoints: int = 8  # states kept of a slot, where a memory cannot go back to a start by itself
    checkpoint_min_step: int = 256  # tokens between them
    slot_save_path: str | None = None  # folder of files with what slots held; None: there are none
    spm_infill: bool = False  # /infill: what is behind the gap comes first
    n_keep: int = 0  # tokens of a prompt that stay when the context shifts; -1: all
    context_shift: bool = False  # a sequence that fills its context forgets a part of it and goes on
    lora: list[list[Any]] = field(default_factory=list)  # [[path, scale], ...]: adapters, loaded with the model; an id is an index here
    lora_init_without_apply: bool = False  # all scales are 0 at first
    speculation: dict[str, Any] = field(default_factory=dict)  # types, n_max, n_min, p_min, draft_model, draft_*, ngram_*_size_n ...

    @property
    def num_slots(self) -> int:
        return self.parallel if self.parallel > 0 else AUTO_SLOTS

    def num_cells(self, n_ctx_train: int) -> int:
        """Tokens of the KV cache: as asked for, but no more than the slots can use. `n_ctx_train` 0: unknown."""
        if self.ctx_size <= 0:
            return n_ctx_train
        return min(self.ctx_size, self.num_slots * n_ctx_train) if n_ctx_train and not self.embedding else self.ctx_size

    def num_cells_of_slot(self, n_ctx_train: int) -> int:
        """What one request may fill: never more than the model was trained for, as in llama-server."""
        num_cells = self.num_cells(n_ctx_train) // (1 if self.is_unified else self.num_slots)
        return min(num_cells, n_ctx_train or num_cells)

    @property
    def of_draft(self) -> "LoadOptions":
        """How the draft model is loaded."""
        asked = self.speculation
        threads = asked.get("draft_threads", self.threads)
        return replace(
            self,
            threads=threads,
            threads_batch=asked.get("draft_threads_batch", threads if "draft_threads" in asked else self.threads_batch),
            gpu_layers=asked.get("draft_gpu_layers", -1),
            cache_type_k=asked.get("draft_cache_type_k", "f16"),
            cache_type_v=asked.get("draft_cache_type_v", "f16"),
            embedding=False,
            lora=[],
            speculation={},
        )

    @property
    def is_unified(self) -> bool:
        """One KV cache for all slots."""
        return self.parallel < 1 if self.kv_unified is None else self.kv_unified


# ---------------------------------------------------------------- router -> worker


@dataclass(frozen=True, slots=True)
class Load:
    """First message to a spare: become this model's worker."""

    model_id: str
    path: str  # first shard
    options: LoadOptions
    safe_mode: bool = False  # no extra buffer types: the retry after a crash in the first decode
    mmproj: str | None = None
    verbosity: int = QUIET  # llama-server's; above QUIET, llama.cpp's own lines come too
    num_dropped: int = 0  # of the CPU's variants of llama.cpp, best first: those crash even in the safe mode


@dataclass(frozen=True, slots=True)
class Prime:
    """To a spare, to be done while a core is free: touch so much memory, open this model. Not answered; Load may differ."""

    heap_bytes: int  # what the next load is likely to allocate
    path: str | None  # the model that is likely to come next
    options: LoadOptions
    safe_mode: bool = False  # as in Load
    num_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Generate:
    """One generation request, validated. Exactly one of `prompt` and `messages` is set.

    `sampling` holds only what the request set: temperature, top_k, top_p, min_p, seed, repeat_penalty, repeat_last_n,
    presence_penalty, frequency_penalty, logit_bias ([[token_id | text, bias | None], ...]; None bans), ignore_eos, min_keep,
    samplers, dry_*, mirostat_*, n_probs, post_sampling_probs ...
    """

    request_id: int
    prompt: str | list[Any] | None = None  # text, token ids, or a mix of both
    messages: list[dict[str, Any]] | None = None
    infill: dict[str, Any] | None = None  # {"prefix", "suffix", "extra": [[filename, text], ...]}: `prompt` is in the gap between
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None  # a template's text instead of the model's
    system: str | None = None  # a system message for chats that bring none
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)
    max_tokens: int = -1  # -1: until EOS or the context is full
    stop: list[str] = field(default_factory=list)
    n_keep: int | None = None  # None: as the model was loaded
    n_discard: int = 0  # tokens that a context shift forgets; 0: half of what it may
    n_indent: int = 0  # blanks that every line but the first begins with; one that has fewer ends the answer
    t_max_predict_ms: int = -1  # when that is over, the next line end ends the answer; -1: never
    n: int = 1
    caller: int = 0  # whose key it is, 0: one that may do everything, or none; callers share the slots
    exchange: int = 0  # the HTTP request that it came with, 0: one of its own
    cache_prompt: bool | None = None  # None: as the model's options say
    n_cache_reuse: int | None = None
    id_slot: int = -1
    return_tokens: bool = False  # FINISH carries "tokens"
    tokens_per_event: bool = False  # EVENT records carry the "tokens" of their text
    return_progress: bool = False  # PROGRESS records while the prompt is computed
    timings_per_token: bool = False
    logprobs: bool = False  # EVENT records carry "probabilities", with sampling's n_probs rivals of each token
    verbose: bool = False  # FINISH carries "prompt" and "generation_settings" (native /completion)
    # What the answer must be: {"kind": json_schema | gbnf | regex, "text", "field": who asked, a field or a flag}
    constraint: dict[str, str] | None = None
    json_whitespace: str | None = None  # None: as the model's options say
    lora: list[list[Any]] | None = None  # [[adapter id, scale], ...], what is not there has scale 0; None: the scales of the server
    speculation: dict[str, Any] = field(default_factory=dict)  # types, n_max, ngram_size_n ...: what the request set


@dataclass(frozen=True, slots=True)
class Share:
    """How many models have requests at this moment, this one included: they share the cores."""

    num_busy: int


@dataclass(frozen=True, slots=True)
class Shrink:
    """Another model needs memory: no more than so many bytes may stay on the shelf."""

    num_bytes: int


@dataclass(frozen=True, slots=True)
class Abort:
    request_id: int


@dataclass(frozen=True, slots=True)
class Call:
    """A question with one answer: tokenize, detokenize, apply_template, props, slots, lora_adapters, set_lora, embed, rerank, slot_save,
    slot_restore, slot_erase."""

    request_id: int
    method: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Forget:
    """Nobody waits for the answer to this Call any more."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Finish what runs, then exit 0."""


# ---------------------------------------------------------------- worker -> router


@dataclass(frozen=True, slots=True)
class Hello:
    """A spare is up: everything imported, backends loaded."""

    pid: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Load progress, 0.0 to 1.0."""

    value: float


@dataclass(frozen=True, slots=True)
class Ready:
    """Loaded. `meta`: vocab_type, n_vocab, n_ctx, n_ctx_train, n_embd, n_params, size, ftype, total_slots, chat_template, bos_token,
    eos_token, and `load_ms`."""

    meta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The load failed for a reason the worker could name; it exits after this."""

    error: str
    may_work_later: bool = False  # there was no memory for it now; else it is the same every time


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer to a Call: `error` is FastrouterError.to_wire()."""

    request_id: int
    result: Any = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Shelved:
    """So many bytes are on the shelf, about: memory beyond what the model needs, which it gives back when told to Shrink."""

    num_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a Call of this method would be answered now, unasked: the worker is about to compute for long, or it has just changed."""

    method: str  # props | slots | lora_adapters
    result: Any


@dataclass(frozen=True, slots=True)
class Notice:
    """A line the user should see (for example: safe mode is on)."""

    level: str
    text: str


Message = (
    Load
    | Prime
    | Generate
    | Share
    | Shrink
    | Abort
    | Call
    | Forget
    | Stop
    | Hello
    | Progress
    | Ready
    | Failed
    | Reply
    | Shelved
    | Snapshot
    | Notice
)
MESSAGE_TYPES: dict[str, type[Any]] = {cls.__name__: cls for cls in get_args(Message)}
