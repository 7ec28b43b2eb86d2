"""What a model that is not loaded can do, according to its header and the features of its chat template. Pure.

Invariant: a name that llama-server uses has the same meaning here.
"""

from dataclasses import dataclass, replace
from typing import Any

from fastrouter.catalog.gguf import Header
from fastrouter.options.limits import POOLING
from fastrouter.options.load import LoadOptions

# The names of llama.cpp (llama_ftype_name), so that a model looks the same before and after it is loaded.
_FILE_TYPES = {
    0: "all F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K - Medium", 11: "Q3_K - Small",
    12: "Q3_K - Medium", 13: "Q3_K - Large", 14: "Q4_K - Small", 15: "Q4_K - Medium", 16: "Q5_K - Small", 17: "Q5_K - Medium",
    18: "Q6_K", 19: "IQ2_XXS - 2.0625 bpw", 20: "IQ2_XS - 2.3125 bpw", 21: "Q2_K - Small", 22: "IQ3_XS - 3.3 bpw",
    23: "IQ3_XXS - 3.0625 bpw", 24: "IQ1_S - 1.5625 bpw", 25: "IQ4_NL - 4.5 bpw", 26: "IQ3_S - 3.4375 bpw", 27: "IQ3_S mix - 3.66 bpw",
    28: "IQ2_S - 2.5 bpw", 29: "IQ2_M - 2.7 bpw", 30: "IQ4_XS - 4.25 bpw", 31: "IQ1_M - 1.75 bpw", 32: "BF16",
    36: "TQ1_0 - 1.69 bpw ternary", 37: "TQ2_0 - 2.06 bpw ternary", 38: "MXFP4 MoE", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}  # fmt: skip
_ENCODERS = ("t5encoder", "gemma-embedding", "llama-embed")
_CELLS_AT_ONCE = 256  # llama.cpp rounds contexts up to a multiple of this
_DEFAULT_CONTEXT = 8192  # tokens, for a decoder that makes embeddings: a cache for its whole training context may take gigabytes


@dataclass(frozen=True, slots=True)
class TemplateFeatures:
    """What a chat template supports."""

    tools: bool = False
    thinking: bool = False
    system: bool = True
    kwargs: tuple[str, ...] = ()  # variables that it reads in addition to those that every request sets
    is_understood: bool = True  # False: too long, or not Jinja
    problem: str | None = None  # why no chat can use it, as far as its syntax shows

    def to_json(self) -> dict[str, Any]:
        """With the names of llama-server's `chat_template_caps`, and the variables that a client may set with `chat_template_kwargs`."""
        return {
            "supports_tools": self.tools,
            "supports_system_role": self.system,
            "supports_thinking": self.thinking,
            "supports_reasoning_effort": "reasoning_effort" in self.kwargs,
            "kwargs": list(self.kwargs),
        }


def file_type_name(file_type: int) -> str:
    return _FILE_TYPES.get(file_type & ~1024, "unknown, may not work")


def is_encoder(header: Header) -> bool:
    return "bert" in header.architecture or header.architecture in _ENCODERS


def is_reranker(header: Header, options: LoadOptions) -> bool:
    return options.reranking or options.pooling == "rank" or (options.pooling is None and header.pooling_type == POOLING["rank"])


def is_embedder(header: Header, options: LoadOptions) -> bool:
    pooling = POOLING[options.pooling] if options.pooling is not None else header.pooling_type
    is_pooled = pooling in (POOLING["mean"], POOLING["cls"], POOLING["last"])
    return not is_reranker(header, options) and (options.embedding or is_pooled or is_encoder(header))


def reads_only_text(header: Header | None, options: LoadOptions) -> bool:
    """A projector is of no use: rerankers compare texts, and an encoder computes a text as a whole."""
    return options.embedding and (options.reranking or header is None or is_encoder(header) or is_reranker(header, options))


def embedding_options(header: Header, options: LoadOptions) -> LoadOptions:
    """How a model that makes embeddings is loaded; all other models keep their options. An encoder computes each text in one micro-batch,
    so the micro-batch is large, and the context is no larger, because it stores nothing. For other models llama.cpp also computes the
    logits of every token, so the micro-batch stays as it is; models that look at the last token take longer texts in pieces, through the
    context."""
    is_ranked = is_reranker(header, options)
    if not is_ranked and not is_embedder(header, options):
        return options
    asked = options.ctx_size or (0 if is_encoder(header) else _DEFAULT_CONTEXT)
    context = min((size for size in (asked, header.context_length) if size), default=0)
    num_tokens = max(options.batch_size, options.ubatch_size) if is_encoder(header) else min(options.batch_size, options.ubatch_size)
    num_tokens = min(num_tokens, context) if context else num_tokens
    return replace(
        options,
        embedding=True,
        reranking=is_ranked,
        pooling="rank" if is_ranked else options.pooling,
        ctx_size=num_tokens if is_encoder(header) else context,
        batch_size=num_tokens,
        ubatch_size=num_tokens,
        kv_unified=True,
    )


def input_modalities(projector: Header | None, *, has_projector: bool = False) -> list[str]:
    """What a model understands and requests may contain. `projector`: the header of its mmproj file. `has_projector` without a header: the
    file cannot be read; most such files are for images."""
    understood = ["text"]
    if projector is None:
        understood += ["image"] * has_projector
    else:
        has_image = projector.has_vision_encoder or not projector.has_audio_encoder  # old projectors say neither, and are for images
        understood += ["image"] * has_image + ["audio"] * projector.has_audio_encoder
    return understood


def capabilities(header: Header, template: TemplateFeatures | None, projector: Header | None, options: LoadOptions) -> list[str]:
    if is_reranker(header, options):
        return ["rerank"]
    if is_embedder(header, options):
        return ["embedding"]
    heard = input_modalities(projector)
    has_template = options.chat_template is not None if template is None else template.problem is None
    found = {
        "completion": True,
        "chat": has_template,
        "tools": template is not None and template.tools,
        "thinking": template is not None and template.thinking,
        "vision": "image" in heard,
        "audio": "audio" in heard,
        "infill": header.has_infill_tokens,
    }
    return [name for name, is_there in found.items() if is_there]


def context_of(header: Header, options: LoadOptions) -> int | None:
    """How many tokens one sequence will have, like `n_ctx` of a loaded model; None: the header does not say it."""
    trained = header.context_length
    num_tokens = options.ctx_size if options.ctx_size > 0 else trained
    if not num_tokens:
        return None
    share = num_tokens if options.is_unified else num_tokens // options.num_slots
    padded = -(-max(share, 1) // _CELLS_AT_ONCE) * _CELLS_AT_ONCE
    return min(padded, trained) if trained else padded


def facts(header: Header, options: LoadOptions) -> dict[str, Any]:
    """`meta` of the listing, as far as the header and the flags show it."""
    found = {
        "n_vocab": header.vocab_size,
        "n_ctx": context_of(header, options),
        "n_ctx_train": header.context_length,
        "n_embd": header.embedding_length,
        "n_params": header.num_params,
        "size": header.size_bytes,
        "ftype": file_type_name(header.file_type) if header.file_type is not None else None,
    }
    return {name: value for name, value in found.items() if value}
