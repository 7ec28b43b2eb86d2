"""Models as clients see them: which one a request means, the listing, the feed of their events. Knows no generation.

Invariant: the bytes of the listing are made again only after the catalog or a model's state has changed.
"""

from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson

from fastrouter._core import Request
from fastrouter.api.fields import invalid
from fastrouter.api.live import LiveStream
from fastrouter.catalog import Catalog, ModelSpec
from fastrouter.config import Config
from fastrouter.errors import InvalidRequest, ModelNotFound, NotFound
from fastrouter.http.protocol import Exchange
from fastrouter.http.response import encode_json, json_response
from fastrouter.supervisor.supervisor import Event, Supervisor

META_FIELDS = ("vocab_type", "n_vocab", "n_ctx", "n_ctx_train", "n_embd", "n_params", "size", "ftype")


class Models:
    def __init__(self, catalog: Catalog, supervisor: Supervisor, config: Config) -> None:
        self._catalog = catalog
        self._supervisor = supervisor
        self._config = config
        self._listing: bytes | None = None
        self._listed_version = -1
        supervisor.subscribe(self._on_event)

    # ------------------------------------------------------------ which model

    def query(self, request: Request) -> dict[str, str]:
        if not request.query:
            return {}
        return dict(parse_qsl(request.query, keep_blank_values=True))

    def choose(self, request: Request, body: dict[str, Any]) -> tuple[ModelSpec, bool]:
        """(spec, may it be loaded for this request). The body's `model` wins over the query's; without both, the default model."""
        query = self.query(request)
        if body and body.get("model") is not None and request.model is None:
            raise invalid("model", "must be a string")
        name = request.model or query.get("model")
        autoload = query.get("autoload")
        is_autoload = self._config.models_autoload if autoload is None else autoload in ("true", "1")
        return self.find(name) if name else self._default(), is_autoload

    def find(self, name: str) -> ModelSpec:
        spec = self._catalog.get(name)
        if spec is None:
            raise ModelNotFound(name)
        return spec

    def named(self, request: Request) -> ModelSpec | None:
        """The model that the query names, else the default one, else None."""
        name = request.model or self.query(request).get("model")
        return self.find(name) if name else self._catalog.default

    def _default(self) -> ModelSpec:
        spec = self._catalog.default
        if spec is None:
            raise InvalidRequest("model name is missing from the request")
        return spec

    # ------------------------------------------------------------ the listing

    def list(self, request: Request, exchange: Exchange) -> bytes:
        if request.query and self.query(request).get("reload"):
            self.reload()
        if self._listing is None or self._listed_version != self._catalog.version:
            self._listed_version = self._catalog.version
            models = [self.describe(spec) for spec in self._catalog.models()]
            self._listing = json_response(orjson.dumps({"object": "list", "data": models}))
        return self._listing

    def show(self, request: Request, exchange: Exchange) -> bytes:
        """GET /v1/models/{id}; an id may hold slashes."""
        name = request.path.partition("/models/")[2]
        spec = self._catalog.get(name) or self._catalog.get(unquote(name))
        if spec is None:
            raise NotFound(f"model '{name}' not found")
        return encode_json({**self.describe(spec), "usage": self._usage(spec)})

    def _usage(self, spec: ModelSpec) -> dict[str, Any]:
        """What changes with every request, so it is not in the listing."""
        state = self._supervisor.status(spec.runner.id)
        return {
            "memory_bytes": state.need.host_bytes,
            "device_memory_bytes": state.need.device_bytes,
            "running": state.num_running,
            "waiting": state.num_waiting,
            "idle_s": state.idle_s,
            "expires_in_s": state.expires_in_s,
            "pinned": state.is_pinned,
        }

    def reload(self) -> None:
        """Scan again; running models whose source changed or vanished are unloaded."""
        self._supervisor.reload(self._catalog.reload())
        self._listing = None

    def describe(self, spec: ModelSpec) -> dict[str, Any]:
        state = self._supervisor.status(spec.runner.id)
        status: dict[str, Any] = {"value": state.value, "args": list(spec.args)}
        if spec.preset:
            status["preset"] = spec.preset
        if state.failed:
            status.update(failed=True, exit_code=state.exit_code)
        error = state.error or spec.error
        if error:
            status["error"] = error
        if state.log:
            status["log"] = list(state.log)
        if state.value == "loading" and state.progress is not None:
            status["progress"] = state.progress
        if spec.base is not None:
            status["base"] = spec.base.id
        modalities = ["text", "image"] if spec.mmproj is not None else ["text"]
        return {
            "id": spec.id,
            "aliases": list(spec.aliases),
            "tags": list(spec.tags),
            "object": "model",
            "owned_by": "llamacpp",
            "created": spec.created,
            "status": status,
            "architecture": {"input_modalities": modalities, "output_modalities": ["text"]},
            "source": spec.source,
            "can_remove": spec.can_remove,
            "meta": _meta_of(spec, state.meta),
        }

    def _on_event(self, event: Event) -> None:
        self._listing = None

    # ------------------------------------------------------------ the feed

    def feed(self, request: Request, exchange: Exchange) -> None:
        """GET /models/sse."""
        feed = ModelFeed(exchange)
        for spec in self._catalog.models():
            feed.tell(Event(spec.id, "model_status", {"status": self._supervisor.status(spec.runner.id).value}))
        feed.start(self._supervisor.subscribe(feed.tell))


def _meta_of(spec: ModelSpec, loaded: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a loaded model says of itself; else what its file's header says."""
    if loaded:
        return {name: loaded[name] for name in META_FIELDS if name in loaded}
    header = spec.header
    if header is None:
        return None
    found = {
        "n_vocab": header.vocab_size,
        "n_ctx_train": header.context_length,
        "n_embd": header.embedding_length,
        "n_params": header.num_params,
        "size": header.size_bytes,
    }
    return {name: value for name, value in found.items() if value}


class ModelFeed(LiveStream):
    """One client's stream of model events: a snapshot, then changes."""

    def tell(self, event: Event) -> None:
        self.send({"model": event.model, "event": event.event, "data": event.data})
