"""Router properties, load and unload; and the table of all routes. Knows no generation's inside.

Invariant: a path of llama-server that is not there yet says so, so that nobody takes it for a typing error: with a 404, because clients
repeat a request that got a 5xx.
"""

import contextlib
from typing import Any

from fastrouter._core import Request
from fastrouter.api.bodies import parse_large, parse_optional
from fastrouter.api.downloads import ModelDownloads
from fastrouter.api.embeddings import Embeddings
from fastrouter.api.fields import boolean
from fastrouter.api.generation import Generator
from fastrouter.api.identity import BUILD_INFO
from fastrouter.api.logs import WorkerLogs
from fastrouter.api.lora import Lora
from fastrouter.api.metrics import MetricsPage
from fastrouter.api.models import Models
from fastrouter.api.native import Native
from fastrouter.api.openai import OpenAi
from fastrouter.api.peek import Peek
from fastrouter.api.slot_actions import SlotActions
from fastrouter.api.ui import files_of
from fastrouter.api.wrong_paths import hint
from fastrouter.config import EVERYTHING, Config
from fastrouter.errors import FastrouterError, InvalidRequest, NotFound, NotSupported
from fastrouter.http.exchange import Exchange
from fastrouter.http.keys import Caller
from fastrouter.http.response import encode_json
from fastrouter.http.routes import MAX_BODY, Routes
from fastrouter.spec import ModelSpec
from fastrouter.supervisor.supervisor import Supervisor

_SUCCESS = encode_json({"success": True})

_NOT_YET = {
    "GET": ("/tools", "/cors-proxy", "/v1/stream"),
    "DELETE": ("/v1/stream",),
    "POST": (
        *("/tools", "/responses", "/v1/responses", "/cors-proxy"),
        *("/v1/messages", "/v1/messages/count_tokens", "/responses/input_tokens", "/v1/responses/input_tokens"),
        "/v1/chat/completions/control",
        *("/audio/transcriptions", "/v1/audio/transcriptions", "/v1/streams/lookup"),
    ),
}


# Paths below which a POST changes what others have, too.
_CHANGED = ("/models", "/props", "/lora-adapters", "/slots")
_CHANGES_NOTHING = frozenset(("/models/plan",))


def is_change(method: str, path: str) -> bool:
    """What a read-only key may not ask for. A path that comes new below one of these counts as a change until it is named above."""
    if method in ("GET", "HEAD"):
        return False
    path = path.removeprefix("/v1")
    return method != "POST" or (path not in _CHANGES_NOTHING and any(path == root or path.startswith(root + "/") for root in _CHANGED))


def not_yet(request: Request, exchange: Exchange) -> bytes:
    raise NotFound(f"{request.method} {request.path} is an endpoint of llama-server that fastrouter does not have yet")


def is_not_yet(request: Request, prefix: str) -> bool:
    return request.path.removeprefix(prefix) in _NOT_YET.get(request.method, ())


class Admin:
    def __init__(self, models: Models, supervisor: Supervisor, downloads: ModelDownloads, config: Config) -> None:
        self._models = models
        self._supervisor = supervisor
        self._downloads = downloads
        self._config = config

    def router_props(self) -> dict[str, Any]:
        return {
            "role": "router",
            "max_instances": self._config.models_max,
            "models_autoload": self._config.models_autoload,
            "model_alias": "fastrouter",
            "model_path": "none",
            "default_generation_settings": {"params": None, "n_ctx": 0},
            "ui_settings": self._config.ui_settings,
            "build_info": BUILD_INFO,
            "cors_proxy_enabled": False,
        }

    def change_props(self, request: Request, exchange: Exchange) -> bytes:
        """As in llama-server: there is nothing to change yet, but it says whether it would be allowed."""
        if not self._config.props_endpoint:
            raise NotSupported("This server does not support changing global properties. Start it with `--props`")
        return _SUCCESS

    async def load(self, request: Request, exchange: Exchange) -> bytes:
        spec = self._named(request, NotFound)
        await self._supervisor.load(spec)
        return _SUCCESS

    async def unload(self, request: Request, exchange: Exchange) -> bytes:
        if not await self._downloads.cancel(request):
            self._supervisor.unload(self._named(request, InvalidRequest).runner.id)
        return _SUCCESS

    def pin(self, request: Request, exchange: Exchange) -> bytes:
        """POST /models/pin: `{"model", "pin": true | false}`."""
        spec, wanted = self._named(request, NotFound), parse_optional(request).get("pin")
        self._supervisor.pin(spec, True if wanted is None else boolean("pin", wanted))
        return _SUCCESS

    def plan(self, request: Request, exchange: Exchange) -> bytes:
        """POST /models/plan: what a request for the model would lead to now."""
        spec = self._named(request, NotFound)
        outlook = {**self._supervisor.outlook(spec), "model": spec.id}
        if request.caller is not None:
            self._hide_others(outlook, request.caller)
        return encode_json(outlook)

    def _hide_others(self, outlook: dict[str, Any], caller: Caller) -> None:
        """Names of models that are not there for the caller; their bytes still say what will happen."""

        def visible(model_ids: list[str]) -> list[str]:
            return [model_id for model_id in model_ids if self._models.may_see_id(caller, model_id)]

        for evicted in outlook["evict"]:
            if not visible([evicted["model"]]):
                evicted["model"] = None
        outlook["queued_models"] = visible(outlook["queued_models"])
        if "waits_for" in outlook:
            outlook["waits_for"]["models"] = visible(outlook["waits_for"]["models"])

    def _named(self, request: Request, unknown: type[NotFound] | type[InvalidRequest]) -> ModelSpec:
        """The model that the body or the query names; there is no default here, and no name for just any model."""
        body = parse_optional(request)
        name = self._models.name_in(request, body)
        if not name:
            raise InvalidRequest("model name is missing from the request")
        try:
            self._models.find(name, request.caller)
            return self._models.choose(request, body)[0]
        except InvalidRequest as error:
            raise unknown(error.message) from None


def add_routes(routes: Routes, models: Models, supervisor: Supervisor, downloads: ModelDownloads, config: Config) -> None:
    """Everything but /health, which answers before there is a catalog."""
    routes.is_change = is_change
    routes.prepare = parse_large
    routes.hint = hint
    routes.files = files_of(config)
    routes.before = lambda request: None if is_not_yet(request, config.api_prefix) else models.before(request)
    generator = Generator(models, supervisor, ping_interval_s=config.sse_ping_interval_s)
    openai = OpenAi(generator, is_verbose=config.verbosity >= EVERYTHING)
    native = Native(models, supervisor, generator)
    embeddings = Embeddings(models, supervisor)
    peek = Peek(models, supervisor, config)
    lora = Lora(native, peek, models)
    admin = Admin(models, supervisor, downloads, config)

    async def props(request: Request, exchange: Exchange) -> bytes:
        """Of the model that is named; of the router, and with it of the default model, as a llama-server with that one model says."""
        spec = models.named(request)
        if spec is not None and models.query(request).get("model"):
            return encode_json(await peek.props_of(request, spec))
        default: dict[str, Any] = {}
        if config.has_one_model and spec is not None:
            return encode_json(await peek.props_of(request, spec))
        if spec is not None:
            with contextlib.suppress(FastrouterError):  # it does not answer, but the router does
                default = await peek.props_of(request, spec)
        return encode_json({**admin.router_props(), **default})

    routes.add("POST", ("/chat/completions", "/v1/chat/completions"), openai.chat, max_body=MAX_BODY)
    routes.add("POST", "/v1/completions", openai.completions, max_body=MAX_BODY)
    routes.add("POST", ("/completion", "/completions"), native.completion, max_body=MAX_BODY)
    routes.add("POST", "/infill", native.infill, max_body=MAX_BODY)
    routes.add("POST", "/tokenize", native.tokenize, max_body=MAX_BODY)
    routes.add("POST", "/detokenize", native.detokenize, max_body=MAX_BODY)
    routes.add("POST", "/apply-template", native.apply_template, max_body=MAX_BODY)
    routes.add("POST", ("/chat/completions/input_tokens", "/v1/chat/completions/input_tokens"), native.count_chat_tokens, max_body=MAX_BODY)
    routes.add("POST", "/v1/embeddings", embeddings.openai, max_body=MAX_BODY)
    routes.add("POST", ("/embedding", "/embeddings"), embeddings.native, max_body=MAX_BODY)
    routes.add("POST", ("/rerank", "/reranking", "/v1/rerank", "/v1/reranking"), embeddings.rerank, max_body=MAX_BODY)
    routes.add("GET", "/props", props)
    routes.add("POST", "/props", admin.change_props)
    routes.add("GET", "/slots", peek.slots)
    routes.add("POST", "/slots/*", SlotActions(native, models, routes).act)
    routes.add("GET", "/lora-adapters", lora.list)
    routes.add("POST", "/lora-adapters", lora.change)
    routes.add("GET", "/metrics", MetricsPage(models, supervisor, config).show)
    routes.add("GET", ("/models", "/v1/models"), models.list)
    routes.add("POST", "/models", downloads.post)
    routes.add("DELETE", "/models", downloads.delete)
    routes.add("GET", "/models/sse", models.feed)
    routes.add("GET", "/models/logs", WorkerLogs(models, supervisor).show)
    routes.add("GET", ("/models/*", "/v1/models/*"), models.show)
    routes.add("POST", "/models/load", admin.load)
    routes.add("POST", "/models/unload", admin.unload)
    routes.add("POST", "/models/plan", admin.plan)
    routes.add("POST", "/models/pin", admin.pin)
    for method, paths in _NOT_YET.items():
        routes.add(method, paths, not_yet, max_body=0)
