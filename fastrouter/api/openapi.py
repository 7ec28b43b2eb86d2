"""GET /openapi.json: a description of the API, made from the table of routes and the tables of fields.

Invariant: it contains exactly the routes that answer. A route without a line below has only its path.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from fastrouter import __version__
from fastrouter._core import Request
from fastrouter.api.requests.known import CHAT, COMPLETION, DETOKENIZE, EMBEDDINGS, INFILL, MODEL, RERANK, RESPONSES, TOKENIZE, Fields
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Rendered, Response, json_response

Schema = dict[str, Any]


class About(NamedTuple):
    """One operation."""

    summary: str
    fields: Fields | None = None  # of its body
    required: tuple[str, ...] = ()
    is_stream: bool = False  # its answer is a stream, or becomes one with `stream`
    query: tuple[str, ...] = ()
    rests: tuple[str, ...] = ("{name}",)  # the text in place of the "*" of a path


_MODEL_QUERY = ("model",)
_CHAT = About("Answer a chat", CHAT, ("messages",), is_stream=True)
_COUNT = About("Count the tokens of a chat", CHAT, ("messages",))
_EMBEDDINGS = About("Embed texts", EMBEDDINGS)
_RERANK = About("Rank documents by a query", RERANK, ("query",))
_RESPONSE = About("Answer a request of the Responses API", RESPONSES, is_stream=True)
_COUNT_INPUT = About("Count the tokens of a request of the Responses API", RESPONSES)
_STORED = About("A stored response, or the items that led to it", rests=("{name}", "{name}/input_items"))
_DELETE_STORED = About("Delete a stored response")
_LISTING = About("All models", query=("reload",))
_ONE_MODEL = About("One model")

ABOUT: dict[tuple[str, str], About] = {
    **{("POST", path): _CHAT for path in ("/chat/completions", "/v1/chat/completions")},
    **{("POST", path): _COUNT for path in ("/chat/completions/input_tokens", "/v1/chat/completions/input_tokens")},
    **{("POST", path): _EMBEDDINGS for path in ("/v1/embeddings", "/embedding", "/embeddings")},
    **{("POST", path): _RERANK for path in ("/rerank", "/reranking", "/v1/rerank", "/v1/reranking")},
    **{("POST", path): _RESPONSE for path in ("/responses", "/v1/responses")},
    **{("POST", path): _COUNT_INPUT for path in ("/responses/input_tokens", "/v1/responses/input_tokens")},
    **{("GET", path): _STORED for path in ("/responses/*", "/v1/responses/*")},
    **{("DELETE", path): _DELETE_STORED for path in ("/responses/*", "/v1/responses/*")},
    **{("POST", path): About("Continue a text", COMPLETION, ("prompt",), is_stream=True) for path in ("/completion", "/completions")},
    **{("GET", path): _LISTING for path in ("/models", "/v1/models")},
    **{("GET", path): _ONE_MODEL for path in ("/models/*", "/v1/models/*")},
    ("POST", "/v1/completions"): About("Continue a text, in OpenAI's shape", COMPLETION, ("prompt",), is_stream=True),
    ("POST", "/infill"): About("Fill a gap in a text", INFILL, ("input_prefix", "input_suffix"), is_stream=True),
    ("POST", "/tokenize"): About("Text to tokens", TOKENIZE),
    ("POST", "/detokenize"): About("Tokens to text", DETOKENIZE),
    ("POST", "/apply-template"): About("The prompt of a chat", CHAT, ("messages",)),
    ("GET", "/props"): About("Properties of the router or of a model", query=_MODEL_QUERY),
    ("POST", "/props"): About("Change properties"),
    ("GET", "/slots"): About("What a model's slots are doing", query=_MODEL_QUERY),
    ("POST", "/slots/*"): About("Save, restore or erase a slot", query=("model", "action")),
    ("GET", "/lora-adapters"): About("The LoRA adapters of a model", query=_MODEL_QUERY),
    ("POST", "/lora-adapters"): About("Set the scales of LoRA adapters", query=_MODEL_QUERY),
    ("GET", "/metrics"): About("Metrics for Prometheus"),
    ("GET", "/health"): About("Whether the router is ready"),
    ("GET", "/v1/health"): About("Whether the router is ready"),
    ("GET", "/openapi.json"): About("This document"),
    ("POST", "/models"): About("Download a model", MODEL, ("model",)),
    ("DELETE", "/models"): About("Remove a downloaded model", query=_MODEL_QUERY),
    ("GET", "/models/sse"): About("What happens to models, as a stream", is_stream=True, query=("usage",)),
    ("GET", "/models/logs"): About("The last lines of a model's log", query=_MODEL_QUERY),
    ("POST", "/models/load"): About("Load a model", MODEL, ("model",)),
    ("POST", "/models/unload"): About("Unload a model", MODEL, ("model",)),
    ("POST", "/models/plan"): About("What a load would do", MODEL, ("model",)),
    ("POST", "/models/warm"): About("Prepare for a model that will be asked for soon", MODEL, ("model",)),
    ("POST", "/models/pin"): About("Never evict a model", MODEL, ("model",)),
    ("POST", "/v1/messages"): About("Answer a chat, in Anthropic's shape", is_stream=True),
    ("POST", "/v1/messages/count_tokens"): About("Count the tokens of a chat, in Anthropic's shape"),
    ("GET", "/api/version"): About("The version, in Ollama's shape"),
    ("GET", "/api/tags"): About("All models, in Ollama's shape"),
    ("GET", "/api/ps"): About("Loaded models, in Ollama's shape"),
    ("POST", "/api/show"): About("One model, in Ollama's shape"),
    ("POST", "/api/chat"): About("Answer a chat, in Ollama's shape"),
    ("POST", "/api/generate"): About("Continue a text, in Ollama's shape"),
    ("POST", "/api/embed"): About("Embed texts, in Ollama's shape"),
    ("POST", "/api/embeddings"): About("Embed a text, in Ollama's old shape"),
    ("POST", "/api/pull"): About("Download a model, in Ollama's shape"),
    ("DELETE", "/api/delete"): About("Remove a downloaded model, in Ollama's shape"),
}
_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "code": {"type": ["integer", "string", "null"]}},
        }
    },
}


def document(routes: Iterable[tuple[str, str]], prefix: str) -> Schema:
    """`routes`: (method, path), without the prefix."""
    paths: dict[str, Schema] = {}
    for method, path in sorted(routes, key=lambda route: (route[1], route[0])):
        about = ABOUT.get((method, path), About(f"{method} {path}"))
        for full in [path[:-1] + rest for rest in about.rests] if path.endswith("/*") else [path]:
            paths.setdefault(full, {})[method.lower()] = _operation(method, full, about)
    return {
        "openapi": "3.1.0",
        "info": {"title": "fastrouter", "version": __version__},
        "servers": [{"url": prefix or "/"}],
        "security": [{}, {"bearer": []}, {"header": []}],
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }


def _operation(method: str, path: str, about: About) -> Schema:
    kinds = ["application/json", *(["text/event-stream"] if about.is_stream else [])]
    parameters: list[Schema] = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in about.query]
    if "{name}" in path:
        parameters.append({"name": "name", "in": "path", "required": True, "schema": {"type": "string"}})
    return {
        "summary": about.summary,
        "operationId": f"{method.lower()}{path}",
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": _body(about.fields, about.required)} if about.fields is not None else {}),
        "responses": {
            "200": {"description": "The answer", "content": {kind: {} for kind in kinds}},
            "default": {
                "description": "An error",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }


def _body(fields: Fields, required: tuple[str, ...]) -> Schema:
    """All other fields are ignored."""
    schema = {"type": "object", "properties": fields, **({"required": list(required)} if required else {})}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


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
