"""GET /openapi.json: a description of the API, made from the table of routes and the tables of fields.

Invariant: it contains exactly the routes that answer. A route without a line below has only its path, and a test fails.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from fastrouter import __version__
from fastrouter._core import Request
from fastrouter.api.answer_shapes import ANSWERS, ERRORS, Schema
from fastrouter.api.requests import known
from fastrouter.api.requests.known import Fields
from fastrouter.api.requests.known_parts import LORA
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Rendered, Response, json_response

JSON, EVENTS, LINES, PLAIN = "application/json", "text/event-stream", "application/x-ndjson", "text/plain"
FORM = "multipart/form-data"


class About(NamedTuple):
    """One operation."""

    summary: str
    fields: Fields | None = None  # of its body
    required: tuple[str, ...] = ()
    is_stream: bool = False  # its answer is a stream of events, or becomes one with `stream`
    query: tuple[str, ...] = ()
    rests: tuple[str, ...] = ("{name}",)  # the text in place of the "*" of a path
    answer: str = ""  # a name in ANSWERS, or PLAIN; empty: any JSON
    example: dict[str, Any] | list[Any] | None = None  # a body that works
    errors: str = "Error"  # a name in ERRORS
    is_lines: bool = False  # its answer can be lines of JSON
    is_optional: bool = False  # its body
    body: Schema | None = None  # a body that is no object with `fields`
    is_upload: bool = False  # its body is a file
    is_form: bool = False
    has_body: bool = True  # its answer


_MODEL_QUERY = ("model", "autoload")
_HELLO = [{"role": "user", "content": "Say hello."}]
_NAME: dict[str, Any] = {"model": "my-model"}
_ITEMS_OF_ADAPTERS: Schema = {"type": "array", "items": LORA["items"]}


def _ollama(summary: str, answer: str, fields: Fields | None = None, **more: Any) -> About:
    example = {**_NAME, **more.pop("example", {})} if fields is not None else None
    return About(summary, fields, answer=answer, example=example, errors="OllamaError", **more)


_CHAT = About(
    "Answer a chat",
    known.CHAT,
    ("messages",),
    is_stream=True,
    answer="ChatCompletion",
    example={**_NAME, "messages": _HELLO, "max_tokens": 64},
)
_COUNT = About("Count the tokens of a chat", known.CHAT, ("messages",), answer="InputTokens", example={**_NAME, "messages": _HELLO})
_EMBEDDINGS = About("Embed texts", known.EMBEDDINGS, answer="NativeEmbeddings", example={**_NAME, "content": "hello"})
_RERANK = About(
    "Rank documents by a query",
    known.RERANK,
    ("query",),
    answer="Ranking",
    example={**_NAME, "query": "hello", "documents": ["good morning", "good night"]},
)
_RESPONSE = About(
    "Answer a request of the Responses API",
    known.RESPONSES,
    is_stream=True,
    answer="Response",
    example={**_NAME, "input": "Say hello.", "max_output_tokens": 64},
    errors="ResponseError",
)
_COUNT_INPUT = _RESPONSE._replace(
    summary="Count the tokens of a request of the Responses API",
    answer="InputTokens",
    example={**_NAME, "input": "Say hello."},
    is_stream=False,
)
_STORED = About(
    "A stored response, or the items that led to it",
    query=("stream", "limit", "order", "after"),
    answer="StoredResponse",
    errors="ResponseError",
    rests=("{name}", "{name}/input_items"),
)
_DELETE_STORED = About("Delete a stored response", answer="DeletedResponse", errors="ResponseError")
_COMPLETION = About(
    "Continue a text",
    known.COMPLETION,
    ("prompt",),
    is_stream=True,
    answer="Completion",
    example={**_NAME, "prompt": "Once upon", "n_predict": 64},
)
_INFILL = About(
    "Fill a gap in a text",
    known.INFILL,
    ("input_prefix", "input_suffix"),
    is_stream=True,
    answer="Completion",
    example={**_NAME, "input_prefix": "def f(", "input_suffix": "return x", "n_predict": 64},
)
_TRANSCRIPTION = About(
    "The words of an audio file",
    known.TRANSCRIPTION,
    ("file",),
    is_stream=True,
    answer="Transcription",
    is_form=True,
)
_LISTING = About("All models", query=("reload", "limit", "after_id", "before_id", "client_version"), answer="Models")
_ONE_MODEL = About("One model", answer="Model")


def _of_model(summary: str, answer: str = "Success", fields: Fields = known.MODEL) -> About:
    return About(summary, fields, ("model",), answer=answer, example=_NAME)


ABOUT: dict[tuple[str, str], About] = {
    **{("POST", path): _CHAT for path in ("/chat/completions", "/v1/chat/completions")},
    **{("POST", path): _COUNT for path in ("/chat/completions/input_tokens", "/v1/chat/completions/input_tokens")},
    **{("POST", path): _EMBEDDINGS for path in ("/embedding", "/embeddings")},
    **{("POST", path): _RERANK for path in ("/rerank", "/reranking", "/v1/rerank", "/v1/reranking")},
    **{("POST", path): _RESPONSE for path in ("/responses", "/v1/responses")},
    **{("POST", path): _COUNT_INPUT for path in ("/responses/input_tokens", "/v1/responses/input_tokens")},
    **{("GET", path): _STORED for path in ("/responses/*", "/v1/responses/*")},
    **{("DELETE", path): _DELETE_STORED for path in ("/responses/*", "/v1/responses/*")},
    **{("POST", path): _COMPLETION for path in ("/completion", "/completions")},
    **{("POST", path): _TRANSCRIPTION for path in ("/audio/transcriptions", "/v1/audio/transcriptions")},
    **{("GET", path): _LISTING for path in ("/models", "/v1/models")},
    **{("GET", path): _ONE_MODEL for path in ("/models/*", "/v1/models/*")},
    ("POST", "/v1/embeddings"): _EMBEDDINGS._replace(answer="Embeddings", example={**_NAME, "input": "hello"}),
    ("POST", "/v1/completions"): _COMPLETION._replace(
        summary="Continue a text, in OpenAI's shape", answer="TextCompletion", example={**_NAME, "prompt": "Once upon", "max_tokens": 64}
    ),
    ("POST", "/v1/chat/completions/control"): About(
        "End the thought of a chat that is running",
        known.CHAT_CONTROL,
        ("id", "action"),
        answer="Control",
        example={**_NAME, "id": "chatcmpl-1", "action": "reasoning_end"},
    ),
    ("POST", "/infill"): _INFILL,
    ("POST", "/tokenize"): About("Text to tokens", known.TOKENIZE, answer="Tokens", example={**_NAME, "content": "hello"}),
    ("POST", "/detokenize"): About("Tokens to text", known.DETOKENIZE, answer="Content", example={**_NAME, "tokens": [1, 2]}),
    ("POST", "/apply-template"): _COUNT._replace(summary="The prompt of a chat", answer="Prompt"),
    ("GET", "/v1/stream"): About(
        "The rest of a named stream (X-Conversation-Id)", is_stream=True, query=("conv_id", "from", "wait"), answer=PLAIN
    ),
    ("DELETE", "/v1/stream"): About("Stop a named stream", query=("conv_id",), has_body=False),
    ("POST", "/v1/streams/lookup"): About("Which of these streams there are", known.LOOKUP, example={"conversation_ids": ["chat-1"]}),
    ("GET", "/props"): About("Properties of the router or of a model", query=_MODEL_QUERY, answer="Props"),
    ("POST", "/props"): About("Change properties", {}, answer="Success", is_optional=True),
    ("GET", "/slots"): About("What a model's slots are doing", query=(*_MODEL_QUERY, "fail_on_no_slot"), answer="Slots"),
    ("POST", "/slots/*"): About(
        "Save, restore or erase a slot",
        known.SLOT_FILE,
        query=("model", "action"),
        answer="SlotFile",
        example={**_NAME, "filename": "slot.bin"},
        is_optional=True,
    ),
    ("GET", "/lora-adapters"): About("The LoRA adapters of a model", query=_MODEL_QUERY, answer="Adapters"),
    ("POST", "/lora-adapters"): About(
        "Set the scales of LoRA adapters", query=_MODEL_QUERY, answer="Success", example=[{"id": 0, "scale": 1.0}], body=_ITEMS_OF_ADAPTERS
    ),
    ("GET", "/metrics"): About("Metrics for Prometheus", answer=PLAIN),
    ("GET", "/health"): About("Whether the router is ready", answer="Health"),
    ("GET", "/v1/health"): About("Whether the router is ready", answer="Health"),
    ("GET", "/openapi.json"): About("This document", answer="Document"),
    ("POST", "/models"): _of_model("Download a model"),
    ("DELETE", "/models"): About("Remove a downloaded model", query=("model",), answer="Success"),
    ("DELETE", "/models/parked"): About("Forget parked prompts", query=_MODEL_QUERY, answer="Forgotten"),
    ("GET", "/models/sse"): About("What happens to models, as a stream", is_stream=True, query=("usage",), answer=PLAIN),
    ("GET", "/models/logs"): About("The last lines of a model's log", is_stream=True, query=("model", "tail", "follow"), answer=PLAIN),
    ("POST", "/models/load"): _of_model("Load a model"),
    ("POST", "/models/unload"): _of_model("Unload a model"),
    ("POST", "/models/plan"): _of_model("What a load would do", "Plan"),
    ("POST", "/models/warm"): _of_model("Prepare for a model that will be asked for soon"),
    ("POST", "/models/pin"): _of_model("Never evict a model", fields=known.PIN),
    ("GET", "/tools"): About("The tools that models may use on this machine"),
    ("POST", "/tools"): About("Use a tool", known.TOOL_CALL, ("tool",), is_stream=True),
    **{(method, "/cors-proxy"): About("Pass a request on to an MCP server", query=("url",)) for method in ("GET", "POST", "DELETE")},
    ("POST", "/v1/messages"): About(
        "Answer a chat, in Anthropic's shape",
        known.MESSAGES,
        ("messages",),
        is_stream=True,
        answer="Message",
        example={**_NAME, "messages": _HELLO, "max_tokens": 64},
        errors="AnthropicError",
    ),
    ("POST", "/v1/messages/count_tokens"): About(
        "Count the tokens of a chat, in Anthropic's shape",
        known.MESSAGES,
        ("messages",),
        answer="TokenCount",
        example={**_NAME, "messages": _HELLO},
        errors="AnthropicError",
    ),
    ("GET", "/api/version"): _ollama("The version, in Ollama's shape", "OllamaVersion"),
    ("GET", "/api/tags"): _ollama("All models, in Ollama's shape", "OllamaModels"),
    ("GET", "/api/ps"): _ollama("Loaded models, in Ollama's shape", "OllamaRunning"),
    ("POST", "/api/show"): _ollama("One model, in Ollama's shape", "OllamaModel", known.OLLAMA_MODEL),
    ("POST", "/api/chat"): _ollama(
        "Answer a chat, in Ollama's shape", "OllamaChat", known.OLLAMA_CHAT, example={"messages": _HELLO}, is_lines=True
    ),
    ("POST", "/api/generate"): _ollama(
        "Continue a text, in Ollama's shape", "OllamaText", known.OLLAMA_GENERATE, example={"prompt": "Say hello."}, is_lines=True
    ),
    ("POST", "/api/embed"): _ollama(
        "Embed texts, in Ollama's shape", "OllamaEmbeddings", known.OLLAMA_EMBED, required=("input",), example={"input": "hello"}
    ),
    ("POST", "/api/embeddings"): _ollama(
        "Embed a text, in Ollama's old shape", "OllamaEmbedding", known.OLLAMA_EMBEDDINGS, required=("prompt",), example={"prompt": "hello"}
    ),
    ("POST", "/api/pull"): _ollama("Download a model, in Ollama's shape", "OllamaStatus", known.OLLAMA_MODEL, is_lines=True),
    ("POST", "/api/create"): _ollama(
        "Make a model from another one or from an uploaded file, in Ollama's shape",
        "OllamaStatus",
        known.OLLAMA_CREATE,
        required=("model",),
        example={"model": "my-assistant", "from": "my-model", "system": "You are brief.", "parameters": {"temperature": 0.2}},
        is_lines=True,
    ),
    ("POST", "/api/copy"): _ollama(
        "Give a model a second name, in Ollama's shape",
        "Nothing",
        known.OLLAMA_COPY,
        required=("source", "destination"),
        example={"source": "my-model", "destination": "my-copy"},
    ),
    ("POST", "/api/push"): _ollama("Not possible: models cannot be uploaded from this server", "OllamaStatus", known.OLLAMA_MODEL),
    ("GET", "/api/blobs/*"): _ollama("Whether a file with this digest was uploaded", PLAIN),
    ("POST", "/api/blobs/*"): _ollama("Upload a GGUF file; the path ends with sha256: and its hash", PLAIN, is_upload=True),
    ("DELETE", "/api/delete"): _ollama("Remove a downloaded model, in Ollama's shape", "Success", known.OLLAMA_MODEL),
}

_DONE: Schema = {"204": {"description": "It is done"}}


def document(routes: Iterable[tuple[str, str]], prefix: str) -> Schema:
    """`routes`: (method, path), without the prefix."""
    paths: dict[str, Schema] = {}
    for method, path in sorted(routes, key=lambda route: (route[1], route[0])):
        about = ABOUT.get((method, path), About(f"{method} {path}", answer=PLAIN))
        for full in [path[:-1] + rest for rest in about.rests] if path.endswith("/*") else [path]:
            paths.setdefault(full, {})[method.lower()] = _operation(method, full, about)
    return {
        "openapi": "3.1.0",
        "info": {"title": "fastrouter", "version": __version__},
        "servers": [{"url": prefix or "/"}],
        "security": [{}, {"bearer": []}, {"header": []}],
        "paths": paths,
        "components": {
            "schemas": {**ERRORS, **ANSWERS},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }


def _operation(method: str, path: str, about: About) -> Schema:
    parameters: list[Schema] = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in about.query]
    if "{name}" in path:
        parameters.append({"name": "name", "in": "path", "required": True, "schema": {"type": "string"}})
    return {
        "summary": about.summary,
        "operationId": f"{method.lower()}{path}",
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": _body(about)} if about.fields is not None or about.body is not None or about.is_upload else {}),
        "responses": {
            **({"200": {"description": "The answer", "content": _content(about)}} if about.has_body else _DONE),
            "default": {"description": "An error", "content": {JSON: {"schema": _named(about.errors)}}},
        },
    }


def _named(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(about: About) -> Schema:
    content: Schema = {JSON: {"schema": _named(about.answer) if about.answer else {}}}
    if about.answer == PLAIN:
        content = {PLAIN: {"schema": {"type": "string"}}}
    streams = [kind for kind, is_there in ((EVENTS, about.is_stream), (LINES, about.is_lines)) if is_there]
    return {**content, **{kind: {"schema": {"type": "string"}} for kind in streams}}


def _body(about: About) -> Schema:
    """All other fields are ignored."""
    if about.is_upload:
        return {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    schema = about.body or {"type": "object", "properties": about.fields, **({"required": list(about.required)} if about.required else {})}
    example = {"example": about.example} if about.example is not None else {}
    return {"required": not about.is_optional, "content": {FORM if about.is_form else JSON: {"schema": schema, **example}}}


class OpenApi:
    """The route."""

    def __init__(self, routes: Iterable[tuple[str, str]], prefix: str) -> None:
        """`routes` is read at the first request."""
        self._routes = routes
        self._prefix = prefix
        self._response: Response | None = None

    def show(self, request: Request, exchange: Exchange) -> Response:
        if self._response is None:
            self._response = Rendered.of(json_response(orjson.dumps(document(self._routes, self._prefix))))
        return self._response
