"""Models as clients see them: which model a request means, the listing, the stream of events. Never imports: api.serving, api.flavours.

Invariant: for a key, a model outside its scope does not exist.
"""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

from fastrouter._core import Request
from fastrouter.api.models.feed import ModelFeed
from fastrouter.api.models.listing import Listing, describe_download
from fastrouter.api.models.recheck import Recheck
from fastrouter.api.models.reload import Reloads
from fastrouter.api.models.usage import UsageReporter
from fastrouter.api.requests.bodies import MAX_MODEL_CHARACTERS, parse_json
from fastrouter.api.requests.checks import invalid
from fastrouter.catalog.catalog import Catalog
from fastrouter.catalog.difference import Difference
from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.errors import FastrouterError, Forbidden, InvalidRequest, ModelNotFound, ModelUnusable, NotFound, Unavailable
from fastrouter.http.api_keys import Caller
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response, encode_json
from fastrouter.hub.downloads import Download, Downloads
from fastrouter.supervisor.supervisor import Event, Supervisor
from fastrouter.system.near_names import did_you_mean

DOWNLOAD_RETRY_S = 5
NO_MODELS = "there are no models: put .gguf files into the folder of --models-dir, or run `fastrouter pull user/repo`"


def is_read_only(request: Request) -> bool:
    """Its key may change nothing."""
    return request.caller is not None and request.caller.is_read_only


def client_of(request: Request) -> str:
    """Its key's id; empty without a key, and for a key that may do everything."""
    return request.caller.id if request.caller is not None else ""


class Models:
    def __init__(
        self,
        catalog: Catalog,
        supervisor: Supervisor,
        downloads: Downloads,
        config: Config,
        *,
        before_reload: Callable[[], None] = lambda: None,
    ) -> None:
        """`before_reload` is called when a client asks for a reload, and may refuse it."""
        self._catalog = catalog
        self._supervisor = supervisor
        self._downloads = downloads
        self._config = config
        self._before_reload = before_reload
        self._reloads = Reloads(catalog, supervisor)
        self._recheck = Recheck(catalog, supervisor, self._reloads)
        self._listing = Listing(catalog, supervisor, downloads)
        self._variants: dict[str, list[str]] = {}  # ids of variants, by the id of their base
        self._variants_version = -1
        self._usage_of_all = UsageReporter(supervisor, self._variants_of)
        supervisor.subscribe(self._on_event)

    # ------------------------------------------------------------ which model

    def before(self, request: Request) -> Awaitable[None] | None:
        """The scan that a request must wait for because a model's file is new or has changed; None: nothing. Raises InvalidRequest."""
        if request.method == "POST" and request.body:
            parse_json(request)  # only once: the handler gets the parsed body
        name = request.model or (self.query(request).get("model") if request.query else None)
        return self._recheck.before(name) if name or request.method == "POST" else None

    def query(self, request: Request) -> dict[str, str]:
        if not request.query:
            return {}
        return dict(parse_qsl(request.query, keep_blank_values=True))

    def choose(self, request: Request, body: dict[str, Any]) -> tuple[ModelSpec, bool]:
        """(spec, may it be loaded for this request). The body's `model` wins over the query's; without both, the default model."""
        name = self.name_in(request, body)
        autoload = self.query(request).get("autoload")
        is_autoload = self._config.models_autoload if autoload is None else autoload in ("true", "1")
        spec = self._meant(name, request.caller) if name else self._default(request.caller)
        if spec.wanted is not None:
            raise self._not_here(spec)
        return spec, is_autoload

    def for_use(self, request: Request, body: dict[str, Any]) -> tuple[ModelSpec, bool]:
        """`choose` for a request that then waits for the model. Raises Forbidden: a read-only key cannot load models."""
        spec, is_autoload = self.choose(request, body)
        self.check_may_load(request.caller, spec)
        return spec, is_autoload

    def expect(self, name: str, caller: Caller | None) -> None:
        """The client says which model it will ask for next. Raises ModelNotFound. Nothing happens for a read-only key, and for a model that
        must be downloaded first."""
        spec = self._meant(check_name(name), caller)
        if spec.wanted is None and not (caller is not None and caller.is_read_only):
            self._supervisor.expect(spec)

    def check_may_load(self, caller: Caller | None, spec: ModelSpec) -> None:
        """A read-only key may not load, because a load may evict other models. Raises Forbidden."""
        if caller is not None and caller.is_read_only and self._supervisor.status(spec.runner.id).value == "unloaded":
            raise Forbidden(f"model '{spec.id}' is not loaded, and this key is read-only: loading a model needs a key without `read-only`")

    def name_in(self, request: Request, body: dict[str, Any]) -> str:
        """The name in the body, otherwise in the query; empty without one."""
        name = body.get("model")
        if name is not None and not isinstance(name, str):
            raise invalid("model", "must be a string")
        return check_name(name or self.query(request).get("model") or "")

    def _meant(self, name: str, caller: Caller | None) -> ModelSpec:
        """A model that the caller may use by this name."""
        only = self._catalog.only
        return only if only is not None and may_see(caller, only) else self.find(name, caller)

    def find(self, name: str, caller: Caller | None) -> ModelSpec:
        """A model that the caller may see. Raises ModelNotFound."""
        spec = self._catalog.get(name)
        if spec is None and self.may_see_id(caller, name):
            download = self._downloads.find(name)
            raise _is_coming(name, download) if download is not None else self.unknown(name, caller)
        if spec is None or not may_see(caller, spec):
            raise self.unknown(name, caller)
        return spec

    def unknown(self, name: str, caller: Caller | None) -> ModelNotFound:
        """The error, with similar names of models. They are only hints: a model is used only by its exact name."""
        seen = self.listed(caller)
        if not seen and caller is None:
            return ModelNotFound(name, f"; {NO_MODELS}")
        return ModelNotFound(name, did_you_mean(name, (other for spec in seen for other in (spec.id, *spec.aliases))))

    def _not_here(self, spec: ModelSpec) -> FastrouterError:
        """The error of a request for a model that must be downloaded first."""
        download = self._downloads.find(spec.runner.id)
        if download is not None:
            return _is_coming(spec.id, download)
        failure = self._downloads.failure_of(spec.runner.id)
        return ModelUnusable(spec.id, f"{failure.message if failure else spec.error}; POST /models tries to download it again")

    def named(self, request: Request) -> ModelSpec | None:
        """The model in the query, otherwise the default model, otherwise None."""
        name = self.name_in(request, {})
        if name:
            return self._meant(name, request.caller)
        default = self._catalog.default
        return default if default is not None and may_see(request.caller, default) else None

    def _default(self, caller: Caller | None) -> ModelSpec:
        spec = self._catalog.default
        if spec is None or not may_see(caller, spec):
            raise InvalidRequest("model name is missing from the request")
        return spec

    def may_see_id(self, caller: Caller | None, model_id: str) -> bool:
        """Whether the caller may see an id from the supervisor. A removed model has no aliases any more; "*" means all models."""
        if caller is None or model_id == "*":
            return True
        spec = self._catalog.get(model_id)
        return caller.can_see((model_id,) if spec is None else names_for(caller, spec))

    # ------------------------------------------------------------ the listing

    def list(self, request: Request, exchange: Exchange) -> Response | Coroutine[Any, Any, Response]:
        if request.query and self.query(request).get("reload") in ("1", "true"):
            if request.caller is not None and request.caller.is_read_only:
                raise Forbidden("this key is read-only: a reload needs a key without `read-only`")
            return self._list_anew(request)
        only = self._catalog.only
        if only is not None and request.query and "client_version" in self.query(request) and may_see(request.caller, only):
            return encode_json({"models": [], "object": "list", "data": [self._listing.describe(only)]})  # Codex reads only this field
        return self._list_for(request.caller)

    async def _list_anew(self, request: Request) -> Response:
        self._before_reload()
        await self.reload()
        listing = self._list_for(request.caller)
        return listing if isinstance(listing, Response) else await listing

    def _list_for(self, caller: Caller | None) -> Response | Coroutine[Any, Any, Response]:
        patterns = None if caller is None else caller.models
        return self._listing.get(patterns, lambda model_id: self.may_see_id(caller, model_id))

    def listed(self, caller: Caller | None) -> Sequence[ModelSpec]:
        """All models in a listing, without downloads."""
        return [spec for spec in self._catalog.models() if spec.is_listed and may_see(caller, spec)]

    def knows(self, name: str) -> bool:
        return self._catalog.get(name) is not None

    def lookup(self, name: str) -> ModelSpec | None:
        """A model of any name, whoever asks."""
        return self._catalog.get(name)

    def is_here(self, name: str, caller: Caller | None) -> bool:
        """Whether it can be used without a download."""
        spec = self._catalog.get(name)
        return spec is not None and spec.error is None and may_see(caller, spec)

    def describe(self, spec: ModelSpec) -> dict[str, Any]:
        return self._listing.describe(spec)

    def find_in_path(self, request: Request) -> ModelSpec | None:
        """The id in /v1/models/{id}; it may contain slashes."""
        name = request.path.partition("/models/")[2]
        spec = self._catalog.get(name) or self._catalog.get(unquote(name))
        return spec if spec is not None and may_see(request.caller, spec) else None

    def show(self, request: Request, exchange: Exchange) -> Response:
        """GET /v1/models/{id}."""
        spec = self.find_in_path(request)
        if spec is not None:
            return encode_json({**self.describe(spec), "usage": self._usage(spec)})
        name = request.path.partition("/models/")[2]
        download = self._downloads.find(name) or self._downloads.find(unquote(name))
        if download is None or not self.may_see_id(request.caller, download.name):
            raise NotFound(self.unknown(name, request.caller).message)
        return encode_json(describe_download(download))

    def _usage(self, spec: ModelSpec) -> dict[str, Any]:
        """A value that changes with every request, so it is not in the listing."""
        state = self._supervisor.status(spec.runner.id)
        return {
            "memory_bytes": state.need.host_bytes,
            "device_memory_bytes": state.need.device_bytes,
            "devices": dict(state.need.by_device),
            "running": state.num_running,
            "waiting": state.num_waiting,
            "idle_s": state.idle_s,
            "expires_in_s": state.expires_in_s,
            "pinned": state.is_pinned,
        }

    async def reload(self) -> Difference:
        """Scan again; running models whose source changed or vanished are unloaded. Raises ConfigError; then nothing has changed."""
        return await self._reloads.reload()

    def _value_of(self, spec: ModelSpec) -> str:
        return "downloading" if self._downloads.find(spec.runner.id) else self._supervisor.status(spec.runner.id).value

    def _on_event(self, event: Event) -> None:
        self._listing.forget()

    # ------------------------------------------------------------ the feed

    def feed(self, request: Request, exchange: Exchange) -> None:
        """GET /models/sse; with `?usage=1` first the latest changes, then once a second what all models are doing."""
        feed = ModelFeed(exchange, self._variants_of, lambda model_id: self.may_see_id(request.caller, model_id))
        values = {spec.id: self._value_of(spec) for spec in self._catalog.models() if spec.base is None}
        values |= {download.name: "downloading" for download in self._downloads.all()}
        for model_id, value in values.items():
            feed.tell(Event(model_id, "model_status", {"status": value}))
        leave = self._supervisor.subscribe(feed.tell)
        if self.query(request).get("usage") in ("1", "true"):
            feed.tell_past(self._usage_of_all.past)
            leave = _both(leave, self._usage_of_all.listen(feed.tell_usage))
        feed.start(leave)

    def _variants_of(self, model_id: str) -> Sequence[str]:
        """Models that share its process, so its events are also their events."""
        if self._variants_version != self._catalog.version:
            self._variants_version = self._catalog.version
            self._variants = {}
            for spec in self._catalog.models():
                if spec.base is not None:
                    self._variants.setdefault(spec.base.id, []).append(spec.id)
        return self._variants.get(model_id, [])


def _both(one: Callable[[], None], other: Callable[[], None]) -> Callable[[], None]:
    def leave() -> None:
        one()
        other()

    return leave


def check_name(name: str) -> str:
    """Check the name before it is looked up or repeated in an error."""
    if len(name) > MAX_MODEL_CHARACTERS:
        raise invalid("model", f"is longer than {MAX_MODEL_CHARACTERS} characters")
    return name


def may_see(caller: Caller | None, spec: ModelSpec) -> bool:
    """For a key, a model outside its scope does not exist."""
    return caller is None or caller.can_see(names_for(caller, spec))


def names_for(caller: Caller, spec: ModelSpec) -> tuple[str, ...]:
    """The names that are compared with a key's scope: id, aliases, and other spellings of its file that the scope has letter by letter."""
    return (spec.id, *spec.aliases, *(name for name in spec.spellings if name in (caller.models or ())))


def _is_coming(name: str, download: Download) -> Unavailable:
    error = Unavailable(f"model '{name}' is downloading ({download.percent}%)")
    error.retry_after_s = DOWNLOAD_RETRY_S
    return error
