"""The function that answers each path."""

import contextlib
from collections.abc import Iterable
from typing import Any

from fastrouter._core import Request
from fastrouter.api.control.completions import ChatControl
from fastrouter.api.control.lora import Lora
from fastrouter.api.control.models import Admin
from fastrouter.api.control.ollama import RUNNING, Ollama, is_probe
from fastrouter.api.control.ollama_models import OllamaModels
from fastrouter.api.control.props import Props
from fastrouter.api.control.slot_files import SlotActions
from fastrouter.api.control.streams import StreamRoutes
from fastrouter.api.control.uploads import Uploads
from fastrouter.api.flavours.anthropic import ERRORS, Anthropic, Messages, is_asked
from fastrouter.api.flavours.native import Completion, Infill, Native
from fastrouter.api.flavours.ollama import OLLAMA_ERRORS
from fastrouter.api.flavours.ollama_vectors import OllamaEmbeddings
from fastrouter.api.flavours.openai import V1_ERRORS, Chat, Text
from fastrouter.api.flavours.response_routes import ResponseRoutes
from fastrouter.api.flavours.responses import RESPONSE_ERRORS
from fastrouter.api.flavours.transcriptions import Transcriptions
from fastrouter.api.flavours.vectors import Embeddings
from fastrouter.api.models.access import Models
from fastrouter.api.models.downloads import ModelDownloads
from fastrouter.api.models.worker_logs import WorkerLogs
from fastrouter.api.openapi import ABOUT, OpenApi
from fastrouter.api.operations.metrics_page import MetricsPage
from fastrouter.api.operations.page_files import files_of
from fastrouter.api.requests.bodies import parse_large, parse_object
from fastrouter.api.requests.known import ignored_header
from fastrouter.api.response_store import ResponseStore
from fastrouter.api.serving.flavour import Flavour
from fastrouter.api.serving.media import Media
from fastrouter.api.serving.picture_fetch import Fetcher
from fastrouter.api.serving.recordings import Recordings
from fastrouter.api.serving.start import Generator
from fastrouter.api.tools.video import Videos
from fastrouter.api.wrong_paths import hint
from fastrouter.config.config import EVERYTHING, Config
from fastrouter.config.media_hosts import read_hosts
from fastrouter.errors import FastrouterError, FeatureDisabled
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import OPENAI_ERRORS, ErrorShape, Response, encode_json, text_response
from fastrouter.http.routes import MAX_BODY, MAX_FORM, SMALL_BODY, Files, Handler, Result, Routes
from fastrouter.supervisor.supervisor import Supervisor

_PROXY = "/cors-proxy"
# Below these paths, a POST also changes something for other clients.
_CHANGED = (
    *("/models", "/props", "/lora-adapters", "/slots", "/tools", _PROXY),
    *("/api/pull", "/api/create", "/api/copy", "/api/push", "/api/blobs"),
)
_CHANGES_NOTHING = frozenset(("/models/plan", "/stream"))  # a client stops only its own streams
_ALWAYS_CHANGED = frozenset((_PROXY,))  # a GET too


def is_change(method: str, path: str) -> bool:
    """Whether a read-only key may not send the request. A new path below one of these counts as a change until it is listed above."""
    if method in ("GET", "HEAD"):
        return path in _ALWAYS_CHANGED
    path = path.removeprefix("/v1")
    if method in ("GET", "HEAD") or path in _CHANGES_NOTHING:
        return False
    return method != "POST" or any(path == root or path.startswith(root + "/") for root in _CHANGED)


def add_routes(
    routes: Routes,
    models: Models,
    supervisor: Supervisor,
    downloads: ModelDownloads,
    store: ResponseStore,
    tools: Any,
    recordings: Recordings,
    config: Config,
) -> None:
    """All routes except /health, which answers before the catalog exists. `tools`: ServerTools, if a flag has turned them on."""
    routes.is_change = is_change
    routes.prepare = parse_large
    routes.hint = hint
    routes.files = _with_probe(files_of(config), is_theirs=config.ui and config.static_path is not None)
    routes.before = models.before
    is_verbose = config.verbosity >= EVERYTHING
    ping_s = config.sse_ping_interval_s
    videos = Videos(config.video_ffmpeg_dir, config.video_fps, config.video_timestamp_interval_ms)
    media = Media(config.media_path, Fetcher(read_hosts(config.media_hosts)), videos.read)
    generator = Generator(models, supervisor, ping_interval_s=ping_s, is_verbose=is_verbose, recordings=recordings, media=media)
    native = Native(models, supervisor, media)
    embeddings = Embeddings(models, supervisor, media)
    anthropic = Anthropic(models, supervisor, media)
    peek = Props(models, supervisor, config)
    lora = Lora(native, peek, models)
    admin = Admin(models, supervisor, downloads, config)

    async def props(request: Request, exchange: Exchange) -> Response:
        """The properties of the named model. Without a name: those of the router and of the default model, as in llama-server."""
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

    def post(paths: str | Iterable[str], handler: Handler, errors: ErrorShape = OPENAI_ERRORS) -> None:
        """Routes with large bodies. Below /v1, errors have OpenAI's shape."""
        for path in [paths] if isinstance(paths, str) else paths:
            shape = V1_ERRORS if errors is OPENAI_ERRORS and path.startswith("/v1/") else errors
            routes.add("POST", path, _naming_ignored(path, handler), max_body=MAX_BODY, errors=shape)

    def who_lists(request: Request, exchange: Exchange) -> Models | Anthropic:
        """Clients of OpenAI and of Anthropic use the same paths."""
        if not is_asked(request):
            return models
        exchange.errors = ERRORS
        return anthropic

    def serve(paths: str | Iterable[str], flavour: type[Flavour]) -> None:
        post(paths, generator.handler(flavour), flavour.errors)

    serve(("/chat/completions", "/v1/chat/completions"), Chat)
    routes.add("POST", "/v1/chat/completions/control", ChatControl(generator).act)
    streams = StreamRoutes(models, recordings)
    routes.add("GET", "/v1/stream", streams.show)
    routes.add("DELETE", "/v1/stream", streams.stop)
    routes.add("POST", "/v1/streams/lookup", streams.lookup)
    serve("/v1/completions", Text)
    serve(("/completion", "/completions"), Completion)
    serve("/infill", Infill)
    transcriptions = Transcriptions(models, generator)
    for path in ("/audio/transcriptions", "/v1/audio/transcriptions"):
        routes.add("POST", path, _naming_ignored(path, transcriptions.transcribe), max_body=MAX_FORM, errors=V1_ERRORS)
    serve("/v1/messages", Messages)
    post("/v1/messages/count_tokens", anthropic.count_tokens, ERRORS)
    post("/tokenize", native.tokenize)
    post("/detokenize", native.detokenize)
    post("/apply-template", native.apply_template)
    post(("/chat/completions/input_tokens", "/v1/chat/completions/input_tokens"), native.count_chat_tokens)
    responses = ResponseRoutes(models, supervisor, generator, store, media)
    post(("/responses", "/v1/responses"), responses.create, RESPONSE_ERRORS)
    post(("/responses/input_tokens", "/v1/responses/input_tokens"), responses.count, RESPONSE_ERRORS)
    routes.add("GET", ("/responses/*", "/v1/responses/*"), responses.show, errors=RESPONSE_ERRORS)
    routes.add("DELETE", ("/responses/*", "/v1/responses/*"), responses.delete, errors=RESPONSE_ERRORS)
    post("/v1/embeddings", embeddings.openai)
    post(("/embedding", "/embeddings"), embeddings.native)
    post(("/rerank", "/reranking", "/v1/rerank", "/v1/reranking"), embeddings.rerank)
    routes.add("GET", "/props", props)
    routes.add("POST", "/props", admin.change_props)
    routes.add("GET", "/slots", peek.slots)
    routes.add("POST", "/slots/*", SlotActions(native, models, routes).act)
    routes.add("GET", "/lora-adapters", lora.list)
    routes.add("POST", "/lora-adapters", lora.change)
    routes.add("GET", "/metrics", MetricsPage(models, supervisor, config).show)
    routes.add("GET", "/models", models.list)
    routes.add("GET", "/v1/models", lambda request, exchange: who_lists(request, exchange).list(request, exchange))
    routes.add("POST", "/models", downloads.post)
    routes.add("DELETE", "/models", downloads.delete)
    routes.add("DELETE", "/models/parked", admin.drop_parked)
    routes.add("GET", "/models/sse", models.feed)
    routes.add("GET", "/models/logs", WorkerLogs(models, supervisor).show)
    routes.add("GET", "/models/*", models.show)
    routes.add("GET", "/v1/models/*", lambda request, exchange: who_lists(request, exchange).show(request, exchange))
    routes.add("POST", "/models/load", admin.load)
    routes.add("POST", "/models/unload", admin.unload)
    routes.add("POST", "/models/plan", admin.plan)
    routes.add("POST", "/models/pin", admin.pin)
    routes.add("POST", "/models/warm", admin.warm)
    _add_tools(routes, tools, config)
    ollama = Ollama(models, supervisor, downloads, generator)
    _add_ollama(routes, ollama, OllamaEmbeddings(models, supervisor, media), OllamaModels(models, config), Uploads(config))
    routes.add("GET", "/openapi.json", OpenApi([*routes.served(), ("GET", "/openapi.json")], config.api_prefix).show)


def _naming_ignored(path: str, handler: Handler) -> Handler:
    """A header of the answer says which fields of the body are unknown."""
    about = ABOUT.get(("POST", path))
    if about is None or about.fields is None:
        return handler
    fields = about.fields

    def handle(request: Request, exchange: Exchange) -> Result:
        exchange.notes = ignored_header(parse_object(request), fields)
        return handler(request, exchange)

    return handle


def _add_tools(routes: Routes, tools: Any, config: Config) -> None:
    """What no flag has turned on is not imported."""
    listing = call = _refuse("the server has no tools: start it with --tools or --mcp-servers-config")
    proxy = _refuse("the server passes nothing on: start it with --ui-mcp-proxy")
    if tools is not None:
        from fastrouter.api.control.tools import ToolRoutes

        of_tools = ToolRoutes(tools)
        listing, call = of_tools.list, of_tools.call
    if config.ui_mcp_proxy:
        from fastrouter.api.tools.proxy import Proxy

        proxy = Proxy(config.mcp_servers).pass_on
    routes.add("GET", "/tools", listing)
    routes.add("POST", "/tools", call, max_body=MAX_BODY if tools is not None else 0)
    for method in ("GET", "POST", "DELETE"):
        routes.add(method, _PROXY, proxy, max_body=MAX_BODY if config.ui_mcp_proxy else 0)


def _refuse(why: str) -> Handler:
    def refuse(request: Request, exchange: Exchange) -> Response:
        raise FeatureDisabled(why)

    return refuse


def _add_ollama(routes: Routes, ollama: Ollama, embeddings: OllamaEmbeddings, made: OllamaModels, uploads: Uploads) -> None:
    def add(method: str, path: str, handler: Handler, max_body: int = SMALL_BODY) -> None:
        routes.add(method, path, handler, max_body=max_body, errors=OLLAMA_ERRORS)

    add("GET", "/api/version", ollama.version)
    add("GET", "/api/tags", ollama.tags)
    add("GET", "/api/ps", ollama.ps)
    add("POST", "/api/show", ollama.show)
    add("POST", "/api/chat", ollama.chat, MAX_BODY)
    add("POST", "/api/generate", ollama.generate, MAX_BODY)
    add("POST", "/api/embed", ollama.named(embeddings.embed), MAX_BODY)
    add("POST", "/api/embeddings", ollama.named(embeddings.embeddings), MAX_BODY)
    add("POST", "/api/pull", ollama.pull)
    add("DELETE", "/api/delete", ollama.delete)
    add("POST", "/api/create", made.create, MAX_BODY)
    add("POST", "/api/copy", made.copy)
    add("GET", "/api/blobs/*", made.blob, 0)
    routes.add("POST", "/api/blobs/*", uploads.finish, max_body=0, errors=OLLAMA_ERRORS, sink=uploads.begin)
    add("POST", "/api/push", ollama.refuse_push)


def _with_probe(files: Files, *, is_theirs: bool) -> Files:
    """Ollama's clients request / to see whether the server runs. `is_theirs`: the files belong to the user, so / is one of them."""

    async def get(request: Request, path: str) -> Response | None:
        if path == "/" and not is_theirs and is_probe(request):
            return text_response(RUNNING)
        return await files(request, path)

    return get
