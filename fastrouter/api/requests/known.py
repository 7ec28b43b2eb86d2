"""The fields that a body may have, with their JSON types: for /openapi.json, and for the header that names ignored fields.

Invariant: every field that a reader uses is here. The readers decide which fields are read; this table does not.
"""

from functools import lru_cache
from typing import Any

from fastrouter.api.requests import known_parts as parts
from fastrouter.api.requests.anthropic_messages import NOT_PASSED
from fastrouter.api.requests.fields import FIELDS
from fastrouter.api.requests.known_parts import LIST as _LIST
from fastrouter.api.requests.known_parts import NUMBER as _NUMBER
from fastrouter.api.requests.known_parts import OBJECT as _OBJECT
from fastrouter.api.requests.known_parts import SWITCH as _SWITCH
from fastrouter.api.requests.known_parts import TEXT as _TEXT
from fastrouter.api.requests.known_parts import TEXT_OR_TEXTS as _TEXT_OR_TEXTS
from fastrouter.api.requests.known_parts import TEXTS as _TEXTS
from fastrouter.api.requests.known_parts import WHOLE as _WHOLE
from fastrouter.api.requests.known_parts import Schema
from fastrouter.api.requests.ollama_bodies import OPTIONS
from fastrouter.options.sampling import SAMPLING, Outside, SamplingField, Shape

Fields = dict[str, Schema]

MAX_NAMED = 16  # ignored fields in a header
MAX_NAME = 64  # characters of each
_ANY: Schema = {}
_INPUT: Schema = {"type": ["string", "array", "object", "null"]}
_DURATION: Schema = {"type": ["number", "string", "null"]}

_SHAPES: dict[Shape, Schema] = {
    Shape.NUMBER: _NUMBER,
    Shape.WHOLE: _WHOLE,
    Shape.SWITCH: _SWITCH,
    Shape.SEED: _WHOLE,
    Shape.SAMPLERS: _TEXT_OR_TEXTS,
    Shape.TEXTS: _TEXTS,
    Shape.BIAS: {"type": ["array", "object", "null"]},
}


def _each(schema: Schema, names: str) -> Fields:
    return dict.fromkeys(names.split(), schema)


# The fields of fields.py without those for sampling. A field without a type here may have any value.
_GENERATION: Fields = {
    **_each(_SWITCH, "stream verbose cache_prompt return_tokens return_progress timings_per_token backend_sampling echo"),
    **_each(_SWITCH, "parallel_tool_calls parse_tool_calls hold_tool_calls reasoning_control"),
    **_each(_WHOLE, "priority n_predict max_completion_tokens max_tokens n_cmpl n best_of n_cache_reuse id_slot n_keep n_indent n_discard"),
    **_each(_WHOLE, "t_max_predict_ms top_logprobs speculative.n_max speculative.n_min speculative.ngram_size_n speculative.ngram_size_m"),
    **_each(_WHOLE, "speculative.ngram_min_hits reasoning_budget_tokens thinking_budget_tokens"),
    **_each(_NUMBER, "sse_ping_interval speculative.p_min"),
    **_each(_TEXT, "next_model grammar regex json_whitespace suffix reasoning_format reasoning_budget_message"),
    **_each(_DURATION, "keep_alive ttl"),
    **_each(_TEXT_OR_TEXTS, "stop speculative.type"),
    **_each(_OBJECT, "response_format json_schema"),
    **_each(_TEXTS, "response_fields"),
    "stream_options": parts.STREAM_OPTIONS,
    "lora": parts.LORA,
    **_each({"type": ["boolean", "integer", "null"]}, "logprobs"),
}
# Fields that OpenAI's clients send and that a local server does not need.
_ACCEPTED: Fields = {
    **_each(_TEXT, "user service_tier safety_identifier prompt_cache_key prompt_cache_retention"),
    **_each(_OBJECT, "metadata prompt_cache_options client_metadata"),
    **_each(_SWITCH, "store"),
}
_MODEL: Fields = {"model": _TEXT}


def _schema_of(field: SamplingField) -> Schema:
    schema = {**_SHAPES[field.shape], "description": field.flag_help or field.name}
    is_bounded = field.outside is Outside.REFUSED and field.shape in (Shape.NUMBER, Shape.WHOLE)
    return {**schema, "minimum": field.low, "maximum": field.high} if is_bounded else schema


_GENERATED: Fields = {
    **_MODEL,
    **{name: _GENERATION.get(name, _ANY) for name in FIELDS},
    **{field.name: _schema_of(field) for field in SAMPLING},
    **_ACCEPTED,
}
_TEMPLATE: Fields = {
    "messages": parts.MESSAGES,
    "tools": parts.TOOLS,
    "functions": parts.FUNCTIONS,
    **_each(_SWITCH, "add_generation_prompt continue_final_message"),
    **_each({"type": ["string", "object", "null"]}, "tool_choice function_call"),
    **_each(_OBJECT, "chat_template_kwargs"),
    **_each(_TEXT, "reasoning_effort"),
}
CHAT: Fields = {
    **_GENERATED,
    **_TEMPLATE,
    **_each(_OBJECT, "prediction web_search_options audio"),
    **_each(_TEXTS, "modalities"),
    **_each(_TEXT, "verbosity"),
}
COMPLETION: Fields = {**_GENERATED, "prompt": _INPUT, "prediction": _OBJECT}
INFILL: Fields = {**COMPLETION, "input_prefix": _INPUT, "input_suffix": _INPUT, "input_extra": parts.EXTRA}
TRANSCRIPTION: Fields = {
    **_GENERATED,
    "file": {"type": "string", "format": "binary", "description": "WAV, MP3 or FLAC"},
    **_each(_TEXT, "prompt language"),
    "response_format": {"enum": ["json", "text", "verbose_json"]},
}
RESPONSES: Fields = {
    **CHAT,
    **_each(parts.ITEMS, "input instructions"),
    "tools": parts.RESPONSE_TOOLS,
    "text": parts.RESPONSE_TEXT,
    "reasoning": parts.REASONING,
    "prompt": _OBJECT,
    **_each(_LIST, "context_management"),
    **_each(_WHOLE, "max_output_tokens max_tool_calls"),
    **_each(_TEXTS, "include"),
    **_each(_TEXT, "truncation previous_response_id"),
    **_each(_SWITCH, "background"),
    **_each(_ANY, "conversation"),
}
_TERMS: Fields = {**_MODEL, "priority": _WHOLE, "keep_alive": _DURATION, "ttl": _DURATION, **_ACCEPTED}
EMBEDDINGS: Fields = {**_TERMS, **_each(_INPUT, "input content"), **_each(_WHOLE, "dimensions embd_normalize"), "encoding_format": _TEXT}
RERANK: Fields = {
    **_TERMS,
    **_each(_LIST, "documents texts"),
    **_each(_SWITCH, "return_text return_documents"),
    "query": _TEXT,
    "top_n": _WHOLE,
}
TOKENIZE: Fields = {**_TERMS, "content": _INPUT, **_each(_SWITCH, "add_special parse_special with_pieces")}
DETOKENIZE: Fields = {**_TERMS, "tokens": _LIST}
MODEL: Fields = {"model": {"type": "string"}}
TOOL_CALL: Fields = {"tool": {"type": "string"}, "params": _OBJECT, "stream": _SWITCH}
PIN: Fields = {**MODEL, "pin": _SWITCH}
SLOT_FILE: Fields = {**_MODEL, "filename": _TEXT}
CHAT_CONTROL: Fields = {**_MODEL, "id": {"type": "string"}, "action": {"enum": ["reasoning_end"]}}
LOOKUP: Fields = {"conversation_ids": {"type": "array", "items": {"type": "string"}}}
# ---------------------------------------------------------------- Anthropic

_OF_ANTHROPIC: Fields = {
    **_MODEL,
    "messages": parts.ANTHROPIC_MESSAGES,
    "system": parts.BLOCKS,
    "tools": parts.ANTHROPIC_TOOLS,
    "tool_choice": parts.ANTHROPIC_CHOICE,
    "thinking": parts.THINKING,
    "output_config": parts.OUTPUT_CONFIG,
    **_each(_OBJECT, "output_format metadata context_management"),
    **_each(_TEXTS, "stop_sequences betas"),
    **_each(_TEXT, "service_tier speed"),
    **_each(_LIST, "mcp_servers"),
    **_each(_ANY, "container"),
}
MESSAGES: Fields = {**{name: schema for name, schema in CHAT.items() if name not in NOT_PASSED}, **_OF_ANTHROPIC}

# ---------------------------------------------------------------- Ollama

_LOADING = "num_ctx num_batch num_gpu main_gpu num_thread use_mmap use_mlock numa low_vram f16_kv vocab_only penalize_newline"
_OLLAMA_OPTIONS: Schema = {
    "type": ["object", "null"],
    "properties": {**_each(_ANY, _LOADING), **{theirs: _GENERATED[ours] for theirs, ours in OPTIONS.items()}},
    "examples": [{}],
}
_OLLAMA_TERMS: Fields = {**_MODEL, **_each(_TEXT, "name"), **_each(_SWITCH, "stream"), "keep_alive": _DURATION}
_OLLAMA_GENERATED: Fields = {
    **_OLLAMA_TERMS,
    "options": _OLLAMA_OPTIONS,
    "format": parts.OLLAMA_FORMAT,
    "think": {"type": ["boolean", "string", "null"]},
    **_each(_SWITCH, "logprobs verbose"),
    **_each(_WHOLE, "top_logprobs priority"),
}
OLLAMA_CHAT: Fields = {**_OLLAMA_GENERATED, "messages": parts.OLLAMA_MESSAGES, "tools": parts.TOOLS}
OLLAMA_GENERATE: Fields = {
    **_OLLAMA_GENERATED,
    **_each(_TEXT, "prompt suffix system template"),
    **_each(_SWITCH, "raw"),
    **_each(_LIST, "images"),
    "context": {"type": ["array", "null"], "items": {"type": "integer"}},
}
OLLAMA_EMBED: Fields = {
    **_OLLAMA_TERMS,
    **_each({"type": ["string", "array"]}, "input"),
    **_each(_WHOLE, "dimensions priority"),
    **_each(_SWITCH, "truncate"),
    "options": _OBJECT,
}
OLLAMA_EMBEDDINGS: Fields = {**_OLLAMA_TERMS, "prompt": {"type": "string"}, "options": _OBJECT}
OLLAMA_CREATE: Fields = {
    **_MODEL,
    **_each(_TEXT, "name from system template quantize"),
    **_each(_SWITCH, "stream"),
    "files": _OBJECT,
    "adapters": _OBJECT,
    "parameters": {**_OLLAMA_OPTIONS, "description": "as in the options of a request"},
    "messages": parts.OLLAMA_MESSAGES,
    "license": {"type": ["string", "array", "null"]},
}
OLLAMA_COPY: Fields = {"source": {"type": "string"}, "destination": {"type": "string"}}
OLLAMA_MODEL: Fields = {**_MODEL, **_each(_TEXT, "name"), **_each(_SWITCH, "stream verbose insecure")}


# ---------------------------------------------------------------- ignored fields


def ignored_header(body: dict[str, Any], known: Fields) -> bytes:
    """A header line that names the unknown fields of a body, each with the most similar known field. Empty without unknown fields."""
    unknown = [name for name in body if name not in known]
    if not unknown:
        return b""
    named = [_about(name, known) for name in unknown[:MAX_NAMED]]
    more = [f"and {len(unknown) - MAX_NAMED} more"] if len(unknown) > MAX_NAMED else []
    return f"X-Fastrouter-Ignored: {', '.join(named + more)}\r\n".encode()


def _about(name: str, known: Fields) -> str:
    """Only letters that are valid in a header."""
    shown = "".join(letter if letter.isascii() and letter.isprintable() and letter not in ",;" else "?" for letter in name[:MAX_NAME])
    meant = next((other for other in _near(name) if other in known), None) if len(name) <= MAX_NAME else None
    return f"{shown} (did you mean {meant}?)" if meant else shown


@lru_cache(1024)
def _near(name: str) -> list[str]:
    """Best first. The result is cached: clients send the same fields many times."""
    import difflib  # slow to import, and only needed for unknown fields

    return difflib.get_close_matches(name.lower(), sorted({*INFILL, *RESPONSES, *EMBEDDINGS, *RERANK, *TOKENIZE, *DETOKENIZE}), 5, 0.75)
