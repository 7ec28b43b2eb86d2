"""JSON schemas of the parts of bodies: messages, blocks, items, tools. For /openapi.json only: the readers check what they read.

Each nested object has an example that is valid. Tests put other values into its fields.
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": ["string", "null"]}
WHOLE: Schema = {"type": ["integer", "null"]}
NUMBER: Schema = {"type": ["number", "null"]}
SWITCH: Schema = {"type": ["boolean", "null"]}
OBJECT: Schema = {"type": ["object", "null"]}
LIST: Schema = {"type": ["array", "null"]}
TEXTS: Schema = {"type": ["array", "null"], "items": {"type": "string"}}
TEXT_OR_TEXTS: Schema = {"type": ["string", "array", "null"], "items": {"type": "string"}}


def object_of(example: dict[str, Any], required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    found: Schema = {"type": "object", "properties": fields, "examples": [example]}
    return {**found, "required": list(required)} if required else found


def list_of(items: Schema) -> Schema:
    return {"type": ["array", "null"], "items": items}


def or_text(items: Schema) -> Schema:
    return {"type": ["string", "array", "null"], "items": items}


# ---------------------------------------------------------------- chats of OpenAI

_CALLED = object_of({"name": "f", "arguments": "{}"}, ("name",), name={"type": "string"}, arguments={"type": ["string", "object", "null"]})
_CALL = object_of(
    {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    ("function",),
    id=TEXT,
    type={"const": "function"},
    function=_CALLED,
)
_URL = object_of({"url": "data:image/png;base64,iVBORw0KGgo="}, ("url",), url={"type": "string"}, detail=TEXT)
_SOUND = object_of({"data": "UklGRg==", "format": "wav"}, data=TEXT, url=TEXT, format=TEXT)
_VIDEO = object_of({"url": "data:video/mp4;base64,AAAAGGZ0eXA="}, data=TEXT, url=TEXT)
_PART = object_of(
    {"type": "text", "text": "hello"},
    ("type",),
    type={"enum": ["text", "image_url", "input_audio", "input_video", "video_url"]},
    text={"type": "string", "description": "of the type text"},
    image_url={**_URL, "type": ["object", "string", "null"], "description": "a picture: a data URL, base64 or file://"},
    input_audio={**_SOUND, "type": ["object", "null"], "description": "an audio file (WAV, MP3, FLAC): base64, a data URL or file://"},
    input_video={**_VIDEO, "type": ["object", "null"], "description": "a video, which ffmpeg reads: base64, a data URL or file://"},
    video_url={**_VIDEO, "type": ["object", "null"], "description": "the same as input_video"},
)
_MESSAGE = object_of(
    {"role": "user", "content": "hello"},
    ("role", "content"),
    role={"type": "string", "examples": ["system", "user", "assistant", "tool"]},
    content=or_text(_PART),
    name=TEXT,
    reasoning_content=TEXT,
    tool_calls=list_of(_CALL),
    tool_call_id=TEXT,
    function_call={**_CALLED, "type": ["object", "null"]},
)
MESSAGES: Schema = {"type": "array", "items": _MESSAGE, "minItems": 1}
_FUNCTION = object_of(
    {"name": "f", "parameters": {"type": "object", "properties": {}}},
    ("name",),
    name={"type": "string", "minLength": 1},
    description=TEXT,
    parameters=OBJECT,
    strict=SWITCH,
)
TOOLS = list_of(object_of({"type": "function", "function": {"name": "f"}}, ("function",), type={"const": "function"}, function=_FUNCTION))
FUNCTIONS = list_of(_FUNCTION)
STREAM_OPTIONS: Schema = {**object_of({}, include_usage=SWITCH), "type": ["object", "null"]}
LORA = list_of(object_of({"id": 0, "scale": 1.0}, id={"type": "integer", "minimum": 0}, scale=NUMBER))
EXTRA = list_of(object_of({"filename": "a.py", "text": "x = 1"}, filename=TEXT, text={"type": "string"}))

# ---------------------------------------------------------------- Anthropic

_SOURCE = object_of({"type": "text", "data": "hello"}, ("type",), type={"type": "string"}, media_type=TEXT, data=TEXT)
_BLOCK = object_of(
    {"type": "text", "text": "hello"},
    ("type",),
    type={"type": "string", "examples": ["text", "image", "thinking", "tool_use", "tool_result", "document", "search_result"]},
    text={"type": "string"},
    thinking=TEXT,
    signature=TEXT,
    id=TEXT,
    name=TEXT,
    input=OBJECT,
    tool_use_id=TEXT,
    content={"type": ["string", "array", "null"]},
    is_error=SWITCH,
    source={**_SOURCE, "type": ["object", "null"]},
    title=TEXT,
    cache_control=OBJECT,
)
BLOCKS = or_text(_BLOCK)
ANTHROPIC_MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": object_of(
        {"role": "user", "content": "hello"},
        ("role", "content"),
        role={"enum": ["user", "assistant", "system"]},
        content={"type": ["string", "array"], "items": _BLOCK},
    ),
}
ANTHROPIC_TOOLS = list_of(
    object_of(
        {"name": "f", "input_schema": {"type": "object"}},
        ("name",),
        name={"type": "string", "minLength": 1},
        type=TEXT,
        description=TEXT,
        input_schema={"type": "object"},
    )
)
ANTHROPIC_CHOICE: Schema = {
    **object_of({"type": "auto"}, ("type",), type={"enum": ["auto", "any", "tool", "none"]}, name=TEXT, disable_parallel_tool_use=SWITCH),
    "type": ["object", "null"],
}
THINKING: Schema = {
    **object_of({"type": "enabled"}, ("type",), type={"enum": ["enabled", "adaptive", "disabled"]}, budget_tokens=WHOLE),
    "type": ["object", "null"],
}
OUTPUT_CONFIG: Schema = {**object_of({"effort": "low"}, effort=TEXT, format=OBJECT), "type": ["object", "null"]}

# ---------------------------------------------------------------- Responses

_INPUT_PART = object_of(
    {"type": "input_text", "text": "hello"},
    ("type",),
    type={"type": "string", "examples": ["input_text", "output_text", "input_image", "input_audio", "refusal"]},
    text=TEXT,
    refusal=TEXT,
    image_url=TEXT,
    detail=TEXT,
    input_audio={**_SOUND, "type": ["object", "null"]},
)
_ITEM = object_of(
    {"type": "message", "role": "user", "content": "hello"},
    type={"type": ["string", "null"], "examples": ["message", "reasoning", "function_call", "function_call_output", "item_reference"]},
    id=TEXT,
    role=TEXT,
    status=TEXT,
    content=or_text(_INPUT_PART),
    summary=or_text(_INPUT_PART),
    encrypted_content=TEXT,
    call_id=TEXT,
    name=TEXT,
    namespace=TEXT,
    arguments=TEXT,
    input=TEXT,
    output=or_text(_INPUT_PART),
    action=OBJECT,
)
ITEMS = or_text(_ITEM)
RESPONSE_TOOLS = list_of(
    object_of(
        {"type": "function", "name": "f", "parameters": {"type": "object"}},
        ("type",),
        type={"type": "string", "examples": ["function", "custom", "local_shell", "namespace"]},
        name=TEXT,
        description=TEXT,
        parameters=OBJECT,
        strict=SWITCH,
        format=OBJECT,
        tools=LIST,
    )
)
RESPONSE_TEXT: Schema = {**object_of({"format": {"type": "text"}}, format=OBJECT, verbosity=TEXT), "type": ["object", "null"]}
REASONING: Schema = {**object_of({"effort": "low"}, effort=TEXT, summary=TEXT, generate_summary=TEXT), "type": ["object", "null"]}

# ---------------------------------------------------------------- Ollama

_OLLAMA_CALLED = object_of({"name": "f", "arguments": {}}, ("name",), name={"type": "string"}, arguments=OBJECT)
_OLLAMA_CALL = object_of({"function": {"name": "f", "arguments": {}}}, ("function",), id=TEXT, function=_OLLAMA_CALLED)
_OLLAMA_MESSAGE = object_of(
    {"role": "user", "content": "hello"},
    ("role",),
    role={"type": "string"},
    content=TEXT,
    thinking=TEXT,
    images=LIST,
    tool_calls=list_of(_OLLAMA_CALL),
    tool_call_id=TEXT,
    tool_name=TEXT,
    name=TEXT,
)
OLLAMA_MESSAGES = list_of(_OLLAMA_MESSAGE)
OLLAMA_FORMAT: Schema = {"type": ["string", "object", "null"], "examples": ["json", {"type": "object"}]}
