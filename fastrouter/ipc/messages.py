"""The messages between router and worker on the wire: frozen dataclasses, JSON fields only, no pickle.

Tokens are not sent here: they go through the ring (`_core.TokenRing`) as records.
"""

from dataclasses import dataclass, field
from typing import Any, get_args

from fastrouter.options.load import QUIET, LoadOptions

DECODING_CALLS = ("embed", "rerank")  # the model computes these, so they take time
SLOT_CALLS = ("slot_save", "slot_restore", "slot_erase")  # these wait until the slot is idle


# ---------------------------------------------------------------- router -> worker


@dataclass(frozen=True, slots=True)
class Load:
    """To a spare, the first message: become the worker of this model."""

    model_id: str
    path: str  # the first shard
    options: LoadOptions
    safe_mode: bool = False  # no extra buffer types: the second attempt after a crash in the first decode
    verbosity: int = QUIET  # llama-server's levels; above QUIET, llama.cpp's lines are shown too
    num_dropped: int = 0  # CPU variants of llama.cpp to leave out, the best first, because they crash even in the safe mode
    files: list[str] = field(default_factory=list)  # all that it reads: shards, projector, adapters, draft model
    is_confined: bool = False  # it gives up the right to other files and to the network
    host_limit_bytes: int = 0  # of the machine's memory, for --fit; 0: no limit
    is_ahead: bool = False  # no request waits for it yet: it loads only while a core is free, until Hurry


@dataclass(frozen=True, slots=True)
class Hurry:
    """To a worker that loads ahead: a request waits for it now. No reply."""


@dataclass(frozen=True, slots=True)
class Prime:
    """To a spare, for a time when a core is free: touch this much memory, open this model. No reply; Load may name something else."""

    heap_bytes: int  # what the next load will probably allocate
    path: str | None  # the model that will probably come next
    options: LoadOptions
    safe_mode: bool = False  # see Load
    num_dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """One generation request, validated; it travels in a Submit. Exactly one of `prompt` and `messages` is set.

    `sampling` holds only what the request has set, with the names of options/sampling.py. `logit_bias` is
    [[token_id | text, bias | None], ...]; None bans the token.
    """

    prompt: str | list[Any] | None = None  # text, token ids, or a mix of both
    messages: list[dict[str, Any]] | None = None
    # [[mark, name of its field], ...]; a mark stands for it in the text. Other files than pictures have their kind there too.
    pictures: list[list[str]] = field(default_factory=list)
    first_picture: int = 0  # the index of its first picture's file among those of the request
    infill: dict[str, Any] | None = None  # {"prefix", "suffix", "extra": [[filename, text], ...]}: `prompt` is in the gap between them
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None  # "auto" | "none" | "required" | {"names": [...], "required": bool}
    parallel_tool_calls: bool | None = None  # False: the answer ends with its first call; None: if the template knows no calls
    holds_calls: bool | None = None  # a tool call is given out when it is complete, not as it comes; None: the model's option
    parses_calls: bool = True  # False: a call stays text
    reasoning_format: str | None = None  # none: thoughts stay text; "" or None: as the model's options say
    reasoning_budget: int = -1  # tokens of a thought; -1: as the model's options say
    reasoning_budget_message: str | None = None  # its end when the budget has ended it; None: as the model's options say
    reasoning_control: bool = False  # its thought can be ended from outside
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None  # the text of a template that replaces the model's
    system: str | None = None  # a system message for chats without one
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    prefill_is_implied: bool = False  # the request does not say it: the model's option decides
    sampling: dict[str, Any] = field(default_factory=dict)
    max_tokens: int = -1  # -1: until EOS or the context is full
    stop: list[str] = field(default_factory=list)
    n_keep: int | None = None  # None: the model's option
    n_discard: int = 0  # tokens that a context shift removes; 0: half of those that it may remove
    n_indent: int = 0  # blanks at the start of every line but the first; a line with fewer ends the answer
    t_max_predict_ms: int = -1  # after this time, the next end of a line ends the answer; -1: never
    n: int = 1
    caller: int = 0  # the number of its API key, 0: a key without limits, or none; callers share the slots
    exchange: int = 0  # the number of its HTTP request, 0: a separate one
    # Both make the answer the same when another worker has to continue it:
    chance: int = 0  # decides what is random: the seed if none is set, the ids of calls; 0: the worker chooses
    asked_at: float = 0.0  # Unix time, for templates that show the date; 0: now
    cache_prompt: bool | None = None  # None: the model's option
    n_cache_reuse: int | None = None
    id_slot: int = -1
    return_tokens: bool = False  # FINISH carries "tokens"
    tokens_per_event: bool = False  # EVENT records carry the "tokens" of their text
    return_progress: bool = False  # PROGRESS records while the prompt is computed
    timings_per_token: bool = False
    logprobs: bool = False  # EVENT records carry "probabilities", with the n_probs (see `sampling`) most likely tokens at each place
    echoes: bool = False  # the answer begins with the prompt; with `logprobs`, also with the probabilities of its tokens
    verbose: bool = False  # FINISH carries "prompt" and "generation_settings" (native /completion)
    # The form of the answer: {"kind": json_schema | gbnf | regex, "text", "field": the field or flag that set it}
    constraint: dict[str, str] | None = None
    json_whitespace: str | None = None  # None: the model's option
    lora: list[list[Any]] | None = None  # [[adapter id, scale], ...], all other adapters have scale 0; None: the scales of the server
    speculation: dict[str, Any] = field(default_factory=dict)  # what the request has set: types, n_max, ngram_size_n ...


@dataclass(frozen=True, slots=True)
class Submit:
    """Begin a request. Its records carry the id, which is one of the ring's."""

    request_id: int
    generate: Generate
    # Another worker has died with it: {"elapsed_ms": since its first text, "choices": [[words, number of records, is finished], ...]}
    resumed: dict[str, Any] | None = None
    files: list[Any] | None = None  # of its pictures: [number of a descriptor with one after the other, [bytes of each]]


@dataclass(frozen=True, slots=True)
class Share:
    """How many models have requests now, including this one: they share the cores."""

    num_busy: int


@dataclass(frozen=True, slots=True)
class Shrink:
    """Another model needs memory: at most this many bytes may stay in the prompt cache."""

    num_bytes: int


@dataclass(frozen=True, slots=True)
class Lend:
    """Prompts that were parked for this model, as descriptors with these numbers; the worker may park more from now on."""

    key: str  # of the model, its options and llama.cpp: other prompts are of no use
    limit_bytes: int  # one prompt may have at most this many; 0: none is parked
    entry_ids: list[int]


@dataclass(frozen=True, slots=True)
class Drop:
    """These parked prompts are gone: the worker lets their memory go."""

    entry_ids: list[int]


@dataclass(frozen=True, slots=True)
class Park:
    """Park what is worth it, the most recently used first, then end. Only to a worker without requests."""

    max_bytes: int
    max_ms: int


@dataclass(frozen=True, slots=True)
class Abort:
    request_id: int


@dataclass(frozen=True, slots=True)
class Call:
    """A question with one answer: tokenize, detokenize, apply_template, count_tokens, props, slots, lora_adapters, set_lora, embed, rerank,
    slot_save, slot_restore, slot_erase, end_thought."""

    request_id: int
    method: str
    params: dict[str, Any]  # `pictures`: as in Generate
    files: list[Any] | None = None  # as in Submit


@dataclass(frozen=True, slots=True)
class Forget:
    """The answer to this Call is not needed any more."""

    request_id: int


# ---------------------------------------------------------------- worker -> router


@dataclass(frozen=True, slots=True)
class Hello:
    """A spare is ready: everything is imported, backends are loaded."""

    pid: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a load, 0.0 to 1.0."""

    value: float


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded. `meta`: vocab_type, n_vocab, n_ctx, n_ctx_train, n_embd, n_params, size, ftype, total_slots, chat_template,
    bos_token, eos_token, and `load_ms`."""

    meta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The load failed for a reason that the worker knows; it exits after this."""

    error: str
    may_work_later: bool = False  # True: there was not enough memory; False: it fails every time


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a Call; `error` is FastrouterError.to_wire()."""

    request_id: int
    result: Any = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PromptCacheSize:
    """About this many bytes are in the prompt cache: memory beyond what the model needs, which Shrink makes it give back."""

    num_bytes: int


@dataclass(frozen=True, slots=True)
class Parked:
    """A prompt with its part of the KV cache is in a sealed memory file: the descriptor with this number."""

    entry_id: int
    num_tokens: int
    saves_ms: float  # the time that computing it takes
    replaces: list[int]  # parked prompts that are starts of it


@dataclass(frozen=True, slots=True)
class Restoring:
    """The worker is about to use a parked prompt."""

    entry_id: int
    num_tokens: int  # of it that the new prompt starts with


@dataclass(frozen=True, slots=True)
class Unusable:
    """A parked prompt cannot be used, and never will."""

    entry_id: int
    cause: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a Call of this method would be answered now. The worker sends it without being asked, before a long computation or after a
    change."""

    method: str  # props | slots | lora_adapters
    result: Any


@dataclass(frozen=True, slots=True)
class Notice:
    """A line that the user should see (for example: safe mode is on)."""

    level: str
    text: str


Message = (
    Load
    | Hurry
    | Prime
    | Submit
    | Share
    | Shrink
    | Lend
    | Drop
    | Park
    | Abort
    | Call
    | Forget
    | Hello
    | Progress
    | Ready
    | Failed
    | Reply
    | PromptCacheSize
    | Parked
    | Restoring
    | Unusable
    | Snapshot
    | Notice
)
MESSAGE_TYPES: dict[str, type[Any]] = {cls.__name__: cls for cls in get_args(Message)}
