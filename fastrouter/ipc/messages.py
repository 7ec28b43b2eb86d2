"""What crosses between router and worker over the wire: frozen dataclasses, JSON fields only, no pickle.

Tokens do not travel here: they ride the ring (`_core.TokenRing`) as records.
"""

from dataclasses import dataclass, field
from typing import Any, get_args

from fastrouter.options.load import QUIET, LoadOptions

DECODING_CALLS = ("embed", "rerank")  # they are computed by the model, and take as long as that takes
SLOT_CALLS = ("slot_save", "slot_restore", "slot_erase")  # they wait until the slot is idle


# ---------------------------------------------------------------- router -> worker


@dataclass(frozen=True, slots=True)
class Load:
    """First message to a spare: become this model's worker."""

    model_id: str
    path: str  # first shard
    options: LoadOptions
    safe_mode: bool = False  # no extra buffer types: the retry after a crash in the first decode
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """One generation request, validated; it travels in a Submit. Exactly one of `prompt` and `messages` is set.

    `sampling` holds only what the request set, by the names in options/sampling.py. `logit_bias` is [[token_id | text, bias | None], ...];
    None bans.
    """

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
class Submit:
    """Begin a request. Its records carry the id, which is one of the ring's."""

    request_id: int
    generate: Generate


@dataclass(frozen=True, slots=True)
class Share:
    """How many models have requests at this moment, this one included: they share the cores."""

    num_busy: int


@dataclass(frozen=True, slots=True)
class Shrink:
    """Another model needs memory: no more than so many bytes may stay in the prompt cache."""

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
class PromptCacheSize:
    """So many bytes are in the prompt cache, about: memory beyond what the model needs, which it gives back when told to Shrink."""

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
    | Submit
    | Share
    | Shrink
    | Abort
    | Call
    | Forget
    | Hello
    | Progress
    | Ready
    | Failed
    | Reply
    | PromptCacheSize
    | Snapshot
    | Notice
)
MESSAGE_TYPES: dict[str, type[Any]] = {cls.__name__: cls for cls in get_args(Message)}
