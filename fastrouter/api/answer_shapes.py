"""JSON schemas of answers, for /openapi.json. Tests compare what is served with them.

A field that is named here is always there; a client may ignore all others. Never imports: api.flavours, api.control.
"""

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}
_SWITCH: Schema = {"type": "boolean"}
_OBJECT: Schema = {"type": "object"}
_IDS: Schema = {"type": "array", "items": _COUNT}
_VECTOR: Schema = {"type": "array", "items": _NUMBER}


def _maybe(schema: Schema) -> Schema:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return {**schema, "type": [*kinds, "null"]}


def _is(value: str | bool) -> Schema:
    return {"const": value}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _has(optional: dict[str, Schema] | None = None, /, **fields: Schema) -> Schema:
    """An object. `fields` are always there, `optional` ones sometimes."""
    found: Schema = {"type": "object", "properties": {**fields, **(optional or {})}}
    return {**found, "required": list(fields)} if fields else found


def _any(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


# ---------------------------------------------------------------- errors

_CODE: Schema = {"type": ["integer", "string", "null"]}
ERRORS: dict[str, Schema] = {
    "Error": _has(error=_has({"param": _maybe(_TEXT)}, message=_TEXT, type=_TEXT, code=_CODE)),
    "AnthropicError": _has(type=_is("error"), error=_has(type=_TEXT, message=_TEXT)),
    "OllamaError": _has(error=_TEXT),
    "ResponseError": _has(error=_has(message=_TEXT, type=_TEXT, param=_maybe(_TEXT), code=_CODE)),
}

# ---------------------------------------------------------------- OpenAI and llama-server

_USAGE = _has(completion_tokens=_COUNT, prompt_tokens=_COUNT, total_tokens=_COUNT)
_CALL = _has(id=_TEXT, type=_is("function"), function=_has(name=_TEXT, arguments=_TEXT))
_MESSAGE = _has({"reasoning_content": _TEXT, "tool_calls": _list(_CALL)}, role=_is("assistant"), content=_maybe(_TEXT))
_ENDS: Schema = {"enum": ["stop", "length", "tool_calls"]}
_ENTRY = _has({"logprob": _maybe(_NUMBER), "prob": _NUMBER}, id=_WHOLE, token=_TEXT)
_LOGPROBS = _maybe(_has({"content": _list(_ENTRY)}))
_ENVELOPE = {"created": _WHOLE, "id": _TEXT, "model": _TEXT, "system_fingerprint": _TEXT, "usage": _USAGE}
_COMPLETION = _has(
    {"completion_probabilities": _list(_ENTRY)},
    index=_COUNT,
    content=_TEXT,
    tokens=_IDS,
    id_slot=_WHOLE,
    stop=_is(True),
    model=_TEXT,
    tokens_predicted=_COUNT,
    tokens_evaluated=_COUNT,
    generation_settings=_OBJECT,
    prompt=_TEXT,
    has_new_line=_SWITCH,
    truncated=_SWITCH,
    stop_type={"enum": ["eos", "word", "limit", "none"]},
    stopping_word=_TEXT,
    tokens_cached=_COUNT,
    timings=_OBJECT,
)
_PICKED: Schema = {**_OBJECT, "not": {"required": ["generation_settings"]}, "description": "With `response_fields`: only these"}
_EMBEDDED = _has(index=_COUNT, embedding=_list(_VECTOR))
_RANKED = _has({"document": _OBJECT}, index=_COUNT, relevance_score=_maybe(_NUMBER))
_RANKED_TEI = _has({"text": _TEXT}, index=_COUNT, score=_maybe(_NUMBER))
_TOTAL = _has(prompt_tokens=_COUNT, total_tokens=_COUNT)
_MODEL = _has(
    {"meta": _maybe(_OBJECT), "usage": _OBJECT, "capabilities": _list(_TEXT), "parked": _has(entries=_COUNT, bytes=_COUNT)},
    id=_TEXT,
    aliases=_list(_TEXT),
    tags=_list(_TEXT),
    object=_is("model"),
    owned_by=_TEXT,
    created=_WHOLE,
    status=_has({"error": _TEXT, "failed": _SWITCH}, value=_TEXT, args=_list(_TEXT)),
    architecture=_has(input_modalities=_list(_TEXT), output_modalities=_list(_TEXT)),
    source=_TEXT,
    can_remove=_SWITCH,
)
_ANTHROPIC_MODEL = _has(type=_is("model"), id=_TEXT, display_name=_TEXT, created_at=_TEXT, max_tokens=_maybe(_WHOLE))
_ANTHROPIC_MODELS = _has(data=_list(_ANTHROPIC_MODEL), has_more=_SWITCH, first_id=_maybe(_TEXT), last_id=_maybe(_TEXT))
_MODELS = _has(models=_list(_OBJECT), object=_is("list"), data=_list(_MODEL))
_SPACE = _has(host_bytes=_COUNT, device_bytes=_COUNT, devices=_OBJECT)

# ---------------------------------------------------------------- Responses

_ITEM = _has(type=_TEXT, id=_TEXT)
_RESPONSE = _has(
    {"metadata": _OBJECT, "reasoning": _maybe(_OBJECT), "text": _OBJECT},
    id=_TEXT,
    object=_is("response"),
    created_at=_WHOLE,
    completed_at=_maybe(_WHOLE),
    status={"enum": ["completed", "incomplete", "in_progress", "failed"]},
    model=_TEXT,
    output=_list(_ITEM),
    error=_maybe(_OBJECT),
    incomplete_details=_maybe(_OBJECT),
    tools=_list(_OBJECT),
    tool_choice={"type": ["string", "object"]},
    truncation={"enum": ["auto", "disabled"]},
    parallel_tool_calls=_SWITCH,
    temperature=_NUMBER,
    top_p=_NUMBER,
    usage=_maybe(_has(input_tokens=_COUNT, output_tokens=_COUNT, total_tokens=_COUNT)),
    store=_SWITCH,
)
_ITEMS = _has(object=_is("list"), data=_list(_ITEM), first_id=_maybe(_TEXT), last_id=_maybe(_TEXT), has_more=_SWITCH)

# ---------------------------------------------------------------- Anthropic and Ollama

_BLOCK = _has({"text": _TEXT, "thinking": _TEXT, "input": _OBJECT}, type={"enum": ["text", "thinking", "tool_use"]})
_TIMES = {
    "total_duration": _COUNT,
    "load_duration": _COUNT,
    "prompt_eval_count": _COUNT,
    "prompt_eval_duration": _COUNT,
    "eval_count": _COUNT,
    "eval_duration": _COUNT,
}
_OLLAMA_HEAD = {"model": _TEXT, "created_at": _TEXT, "done": _SWITCH}
_OLLAMA_MESSAGE = _has({"thinking": _TEXT, "tool_calls": _list(_OBJECT)}, role=_is("assistant"), content=_TEXT)
_OLLAMA_DETAILS = _has(format=_TEXT, family=_TEXT, families=_list(_TEXT), parameter_size=_TEXT, quantization_level=_TEXT)
_OLLAMA_MODEL = {"name": _TEXT, "model": _TEXT, "size": _COUNT, "digest": _TEXT, "details": _OLLAMA_DETAILS}

# ---------------------------------------------------------------- by name

ANSWERS: dict[str, Schema] = {
    "Nothing": _has(),
    "Success": _has(success=_is(True)),
    "Forgotten": _has(entries=_COUNT, bytes=_COUNT),
    "Health": _has(status=_TEXT),
    "ChatCompletion": _has(
        {"timings": _OBJECT},
        **_ENVELOPE,
        object=_is("chat.completion"),
        choices=_list(_has({"logprobs": _LOGPROBS}, index=_COUNT, finish_reason=_ENDS, message=_MESSAGE)),
    ),
    "TextCompletion": _has(
        {"timings": _OBJECT},
        **_ENVELOPE,
        object=_is("text_completion"),
        choices=_list(_has(index=_COUNT, finish_reason=_ENDS, text=_TEXT, logprobs=_LOGPROBS)),
    ),
    "Completion": _any(_COMPLETION, _list(_COMPLETION), _PICKED, _list(_PICKED)),
    "Tokens": _has(tokens=_list({"type": ["integer", "object"]})),
    "Content": _has(content=_TEXT),
    "Prompt": _has(prompt=_TEXT),
    "InputTokens": _has(object=_is("response.input_tokens"), input_tokens=_COUNT),
    "Embeddings": _has(
        object=_is("list"),
        data=_list(_has(object=_is("embedding"), index=_COUNT, embedding={"type": ["array", "string"]})),
        model=_TEXT,
        usage=_TOTAL,
    ),
    "NativeEmbeddings": _list(_EMBEDDED),
    "Ranking": _any(_has(model=_TEXT, object=_is("list"), usage=_TOTAL, results=_list(_RANKED)), _list(_RANKED_TEI)),
    "Models": _any(_MODELS, _ANTHROPIC_MODELS),
    "Model": _any(_MODEL, _ANTHROPIC_MODEL),
    "Props": _has({"role": _TEXT}, default_generation_settings=_OBJECT, model_path=_TEXT, model_alias=_TEXT, build_info=_TEXT),
    "Slots": _list(_has(id=_WHOLE, is_processing=_SWITCH)),
    "SlotFile": _has(id_slot=_WHOLE),
    "Adapters": _list(_has(id=_COUNT, path=_TEXT, scale=_NUMBER)),
    "Control": _has({"message": _TEXT}, success=_SWITCH),
    "Plan": _has(
        {"why": _TEXT, "waits_for": _OBJECT},
        model=_TEXT,
        action={"enum": ["use", "wait_load", "load", "evict", "wait", "refuse"]},
        fits=_SWITCH,
        evict=_list(_has(model=_maybe(_TEXT), reason=_TEXT)),
        need=_SPACE,
        used=_SPACE,
        limits=_OBJECT,
        load_s=_NUMBER,
        queued_models=_list(_TEXT),
    ),
    "Document": _has(openapi=_TEXT, info=_OBJECT, paths=_OBJECT),
    "Response": _RESPONSE,
    "StoredResponse": _any(_RESPONSE, _ITEMS),
    "DeletedResponse": _has(id=_TEXT, object=_is("response"), deleted=_is(True)),
    "Message": _has(
        id=_TEXT,
        type=_is("message"),
        role=_is("assistant"),
        model=_TEXT,
        content=_list(_BLOCK),
        stop_reason={"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]},
        stop_sequence=_maybe(_TEXT),
        usage=_has(input_tokens=_COUNT, output_tokens=_COUNT, cache_read_input_tokens=_COUNT),
    ),
    "TokenCount": _has(input_tokens=_COUNT),
    "OllamaVersion": _has(version=_TEXT),
    "OllamaModels": _has(models=_list(_has(modified_at=_TEXT, **_OLLAMA_MODEL))),
    "OllamaRunning": _has(models=_list(_has(expires_at=_TEXT, size_vram=_COUNT, context_length=_COUNT, **_OLLAMA_MODEL))),
    "OllamaModel": _has(
        modelfile=_TEXT, parameters=_TEXT, template=_TEXT, details=_OLLAMA_DETAILS, model_info=_OBJECT, capabilities=_list(_TEXT)
    ),
    "OllamaChat": _has({**_TIMES, "done_reason": _TEXT, "error": _TEXT}, **_OLLAMA_HEAD, message=_OLLAMA_MESSAGE),
    "OllamaText": _has({**_TIMES, "done_reason": _TEXT, "context": _IDS, "thinking": _TEXT}, **_OLLAMA_HEAD, response=_TEXT),
    "OllamaEmbeddings": _has(model=_TEXT, embeddings=_list(_VECTOR), prompt_eval_count=_COUNT),
    "OllamaEmbedding": _has(embedding=_VECTOR),
    "OllamaStatus": _has({"digest": _TEXT, "total": _maybe(_COUNT), "completed": _maybe(_COUNT)}, status=_TEXT),
}
